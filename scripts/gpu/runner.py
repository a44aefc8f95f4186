"""Runs programs under timeouts, collects their results, and goes on after a crash or a hang."""
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

# A stage ends before the 10 minutes that a command may take on a lent machine.
STAGE_SECONDS = 480
# Seconds without progress after which an item counts as hung.
QUIET_SECONDS = 90
# Interval of the lines that show what runs.
HEARTBEAT_SECONDS = 10
FAILURES = ("failed", "crashed", "hung", "unfinished", "wrong", "missing")
TEST = re.compile(r"^test (\S+)\s+\.\.\.\s*(.*)$")
OUTCOMES = {"ok": "ok", "FAILED": "failed", "failed": "failed", "ignored": "skipped"}


class Runner:
    """Runs the items of one stage and appends their results to `OUT/results.jsonl` as they come; output goes to `OUT/log.txt`. `rows`
    selects the items whose names contain it; `patience` is a factor of the time limits of items."""

    def __init__(self, stage, out, environment=None, seconds=STAGE_SECONDS, rows="", patience=1):
        self.stage = stage
        self.rows = rows
        self.patience = patience
        self.out = pathlib.Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **(environment or {})}
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.failures = 0

    def remaining(self):
        """Seconds until the stage must end."""
        return self.deadline - time.monotonic()

    def results(self):
        """Results of this stage so far, of earlier calls too."""
        path = self.out / "results.jsonl"
        lines = [json.loads(line) for line in open(path)] if path.exists() else []
        return [line for line in lines if line["stage"] == self.stage]

    def record(self, item, status, **values):
        """Appends one result. Statuses: ok, failed, crashed, hung (no progress), unfinished (progress, but no time), wrong, missing, skipped,
        retried, and value for a measurement."""
        line = {"stage": self.stage, "item": item, "status": status, **values}
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        self.failures += status in FAILURES
        if status != "value":
            print(f"{status:8} {self.stage}/{item}" + (f"  {values['why']}" if values.get("why") else ""), flush=True)

    def check(self, item, passed, why):
        """Records whether a comparison of results holds."""
        self.record(item, "ok" if passed else "wrong", why="" if passed else why)

    def selects(self, item):
        """Whether `--rows` selects an item."""
        return self.rows in item

    def run(self, item, command, timeout, quiet_timeout=QUIET_SECONDS):
        """Runs a command and records its result; returns (status, JSON lines)."""
        if not self.selects(item):
            return "skipped", []
        timeout = min(timeout * self.patience, self.remaining())
        if timeout <= 0:
            self.record(item, "skipped", why="the stage's time is over")
            return "skipped", []
        started = time.monotonic()
        run = Execution(self, item, command, timeout, quiet_timeout)
        why = "" if run.status == "ok" else run.why()
        self.record(item, run.status, seconds=round(time.monotonic() - started, 2), why=why)
        return run.status, run.lines

    def run_rows(self, name, command, quiet_timeout=QUIET_SECONDS):
        """Runs a program that prints {"start": KEY} before each row; after a crash or a hang the row is recorded and the program goes on
        after it. A row that hangs is tried once more: what it has compiled and planned is stored."""
        after, lines, retried = None, [], set()
        while self.selects(name):
            timeout = self.remaining()
            if timeout <= 0:
                self.record(name, "skipped", why=f"the stage's time is over{f' after {after}' if after else ''}")
                return lines
            arguments = [str(word) for word in command] + (["--after", after] if after else [])
            run = Execution(self, name, arguments, timeout, quiet_timeout)
            lines += run.lines
            starts = [line["start"] for line in run.lines if "start" in line]
            if run.status == "ok" or not starts:
                self.record(name, run.status, why="" if run.status == "ok" else run.why())
                return lines
            row = starts[-1]
            if run.status == "hung" and row not in retried and self.remaining() > quiet_timeout:
                self.record(row, "retried", why=run.why())
                retried.add(row)
                after = starts[-2] if len(starts) > 1 else after
                continue
            self.record(row, run.status, why=run.why())
            after = row
        return lines

    def run_tests(self, name, command, only=(), skip=()):
        """Runs a test program, one test after the other in one process, and records each test. After a crash or a hang that test is
        recorded, and another process runs the others. `only` and `skip` are names of tests. Tests that passed in an earlier call are
        not repeated."""
        passed = [line["item"].removeprefix(f"{name} ") for line in self.results() if line["status"] == "ok"]
        done = [*skip, *passed]
        while self.selects(name):
            timeout = self.remaining()
            if timeout <= 0:
                self.record(name, "skipped", why="the stage's time is over")
                return
            words = [*command, "--test-threads", "1", "--exact", *only]
            run = Execution(self, name, words + [word for test in done for word in ("--skip", test)], timeout, QUIET_SECONDS)
            for test, outcome in run.tests:
                self.record(f"{name} {test}", outcome, why=run.message_of(test) if outcome == "failed" else "")
            if run.status not in ("crashed", "hung", "unfinished"):
                if run.status != "failed" or not any(outcome == "failed" for _, outcome in run.tests):
                    self.record(name, run.status, why="" if run.status == "ok" else run.why())
                return
            test = run.test or "between two tests"
            self.record(f"{name} {test}", run.status, why=run.why())
            if not run.test:
                return
            done += [test for test, _ in run.tests] + [test]


class Execution:
    """A command that ran to its end, or was killed with its children after `timeout` seconds, or `quiet_timeout` seconds without progress:
    a line of output, or a {"heartbeat": …} line that differs from the one before in another field."""

    def __init__(self, runner, item, command, timeout, quiet_timeout):
        self.runner = runner
        self.item = item
        self.lines = []
        self.tests = []
        # The test that runs.
        self.test = None
        self.tail = []
        self.output = []
        self.heartbeat = None
        self.latest = time.monotonic()
        self.status = self.execute([str(word) for word in command], timeout, quiet_timeout * runner.patience)

    def why(self):
        return " | ".join(self.tail[-3:])

    def message_of(self, test):
        """First lines of the message of a failed test."""
        for i, line in enumerate(self.output):
            if line.startswith(f"---- {test} "):
                return " | ".join(self.output[i + 1:i + 4])
        return ""

    def execute(self, command, timeout, quiet_timeout):
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                       env=self.runner.environment, start_new_session=True)
        except OSError as error:
            self.tail.append(str(error))
            return "missing"
        reader = threading.Thread(target=self.read, args=(process.stdout, command), daemon=True)
        reader.start()
        started, shown, status = time.monotonic(), time.monotonic(), None
        while process.poll() is None:
            now = time.monotonic()
            if now - started > timeout or now - self.latest > quiet_timeout:
                status = "hung" if now - self.latest > quiet_timeout else "unfinished"
                kill_group(process)
                self.tail.append(f"no end after {now - started:.0f} s, no progress for {now - self.latest:.0f} s")
            if now - shown > HEARTBEAT_SECONDS:
                shown = now
                latest = self.heartbeat or (self.tail[-1][:100] if self.tail else "starts")
                print(f"{now - self.runner.started:6.0f} s  {self.runner.stage}/{self.item}: {latest}", flush=True)
            time.sleep(0.05)
        kill_group(process)
        reader.join(5)
        if status is None and process.returncode < 0:
            status = "crashed"
            self.tail.append(f"ended by {signal.Signals(-process.returncode).name}")
        return status or ("ok" if process.returncode == 0 else "failed")

    def read(self, stream, command):
        with open(self.runner.out / "log.txt", "a") as log:
            log.write(f"$ {' '.join(command)}\n")
            for line in stream:
                log.write(line)
                log.flush()
                self.take(line.strip())

    def take(self, line):
        value = parse(line) if line.startswith("{") else None
        if value is not None and "heartbeat" in value:
            counts = {name: count for name, count in value.items() if name != "heartbeat"}
            if counts != self.heartbeat:
                self.latest = time.monotonic()
            self.heartbeat = counts
            return
        if not line:
            return
        self.latest = time.monotonic()
        if value is not None:
            self.lines.append(value)
            if "row" in value or "caches" in value:
                status = "failed" if "error" in value else "value"
                self.runner.record(self.item, status, **value, **({"why": value["error"]} if status == "failed" else {}))
            return
        self.tail.append(line)
        del self.tail[:-20]
        self.output.append(line)
        if found := TEST.match(line):
            self.test, line = found.groups()
        outcome = OUTCOMES.get(line.split(",")[0].strip())
        if self.test and outcome:
            self.tests.append((self.test, outcome))
            self.test = None


def parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
