"""Stands in for ncu in the smoke run: checks the options, runs the program, and writes a CSV file of three launches in ncu's format."""
import pathlib
import subprocess
import sys

import ncu

CSV = '''==PROF== Connected to process 7 (/tmp/gpu_rows)
==PROF== Disconnected from process 7
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"
"","","","","","","","","","","","Mbyte","Kbyte","us"
"0","7","gpu_rows","127.0.0.1","planted_convolution","1","13","(128, 1, 1)","(98, 1, 1)","0","9.0","1,250.00","500.00","2,500.00"
"1","7","gpu_rows","127.0.0.1","planted_norm","1","13","(256, 1, 1)","(64, 1, 1)","0","9.0","64.00","64,000.00","40.00"
"2","7","gpu_rows","127.0.0.1","planted_convolution","1","13","(128, 1, 1)","(98, 1, 1)","0","9.0","749.00","500.00","1,500.00"
'''
# Row of the table for the two launches of 4 ms, which moved 2 GB.
TABLE_ROW = "| planted_convolution | 2 | 4 | 2.00 | 500 |"


def main():
    words = sys.argv[1:]
    given, log, path, program = words[:len(ncu.FLAGS)], words[len(ncu.FLAGS)], words[len(ncu.FLAGS) + 1], words[len(ncu.FLAGS) + 2:]
    if given != ncu.FLAGS or log != "--log-file":
        sys.exit(f"fake ncu: unexpected options {words}")
    subprocess.run(program, check=True)
    pathlib.Path(path).write_text(CSV)


if __name__ == "__main__":
    main()
