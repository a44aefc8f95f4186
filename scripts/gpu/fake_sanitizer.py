"""Stands in for compute-sanitizer in the smoke run: checks the options and runs the program."""
import subprocess
import sys

FLAGS = ["--report-api-errors", "no", "--error-exitcode", "9"]


def main():
    words = sys.argv[1:]
    if words[:len(FLAGS)] != FLAGS:
        sys.exit(f"fake compute-sanitizer: unexpected options {words}")
    sys.exit(subprocess.run(words[len(FLAGS):]).returncode)


if __name__ == "__main__":
    main()
