"""Runs programs under timeouts, collects their JSON lines, and goes on after a crash or a hang."""
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

# A stage ends before the 10 minutes that a command may take on a lent machine.
STAGE_SECONDS = 480


class Runner:
    """Runs the items of one stage and appends their results to `OUT/results.jsonl` as they come; output goes to `OUT/log.txt`."""

    def __init__(self, stage, out, environment=None, seconds=STAGE_SECONDS):
        self.stage = stage
        self.out = pathlib.Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **(environment or {})}
        self.deadline = time.monotonic() + seconds
        self.failures = 0

    def remaining(self):
        """Seconds until the stage must end."""
        return self.deadline - time.monotonic()

    def record(self, item, status, **values):
        """Appends one result. Statuses: ok, failed, crashed, hung, wrong, skipped, retried, and value for a measurement."""
        line = {"stage": self.stage, "item": item, "status": status, **values}
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if status not in ("ok", "value", "skipped", "retried"):
            self.failures += 1
        if status != "value":
            print(f"{status:8} {self.stage}/{item}" + (f"  {values['why']}" if values.get("why") else ""), flush=True)

    def check(self, item, passed, why):
        """Records whether a comparison of results holds."""
        self.record(item, "ok" if passed else "wrong", why="" if passed else why)

    def run(self, item, command, timeout, quiet_timeout=None, require=None):
        """Runs a command and records its result; returns (status, JSON lines). `require` names a program or file that must exist."""
        timeout = min(timeout, self.remaining())
        if timeout <= 0:
            self.record(item, "skipped", why="the stage's time is over")
            return "skipped", []
        if require and not require.exists():
            self.record(item, "skipped", why=f"{require} does not exist")
            return "skipped", []
        started = time.monotonic()
        status, lines, tail = self._execute(item, [str(word) for word in command], timeout, quiet_timeout or timeout)
        why = "" if status == "ok" else " | ".join(tail[-3:])
        self.record(item, status, seconds=round(time.monotonic() - started, 2), why=why)
        return status, lines

    def run_rows(self, name, command, row_timeout):
        """Runs a program that prints {"start": KEY} before each row; after a crash or a hang the row is recorded and the program goes on after it.
        A row that hangs is tried once more: what it has compiled and planned is stored."""
        after, lines, retried = None, [], set()
        while True:
            timeout = self.remaining()
            if timeout <= 0:
                self.record(name, "skipped", why=f"the stage's time is over{f' after {after}' if after else ''}")
                return lines
            arguments = [str(word) for word in command] + (["--after", after] if after else [])
            status, found, tail = self._execute(name, arguments, timeout, row_timeout)
            lines += found
            starts = [line["start"] for line in found if "start" in line]
            if status == "ok":
                self.record(name, "ok")
                return lines
            why = " | ".join(tail[-3:])
            if not starts:
                self.record(name, status, why=why)
                return lines
            row = starts[-1]
            if status == "hung" and row not in retried and self.remaining() > row_timeout:
                self.record(row, "retried", why=why)
                retried.add(row)
                after = starts[-2] if len(starts) > 1 else after
                continue
            self.record(row, status, why=why)
            after = row

    def _execute(self, item, command, timeout, quiet_timeout):
        """Status, JSON lines and last output lines of a command, which is killed with its children after `timeout` seconds, or `quiet_timeout`
        seconds without output."""
        tail, lines = [], []
        latest = [time.monotonic()]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                       env=self.environment, start_new_session=True)
        except OSError as error:
            return "failed", [], [str(error)]

        def read():
            with open(self.out / "log.txt", "a") as log:
                log.write(f"$ {' '.join(command)}\n")
                for line in process.stdout:
                    latest[0] = time.monotonic()
                    log.write(line)
                    log.flush()
                    line = line.strip()
                    if line.startswith("{") and (value := parse(line)) is not None:
                        lines.append(value)
                        if "row" in value:
                            status = "failed" if "error" in value else "value"
                            self.record(item, status, **value, **({"why": value["error"]} if status == "failed" else {}))
                    elif line:
                        tail.append(line)
                        del tail[:-20]

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        started, status = time.monotonic(), None
        while process.poll() is None:
            now = time.monotonic()
            if now - started > timeout or now - latest[0] > quiet_timeout:
                status = "hung"
                kill_group(process)
                tail.append(f"no end after {now - started:.0f} s")
            time.sleep(0.05)
        kill_group(process)
        reader.join(5)
        if status is None:
            code = process.returncode
            if code < 0:
                status = "crashed"
                tail.append(f"ended by {signal.Signals(-code).name}")
            else:
                status = "ok" if code == 0 else "failed"
        return status, lines, tail


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
