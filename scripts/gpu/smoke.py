"""Runs every stage on the emulated device, with planted faults and stand-ins for ncu and compute-sanitizer; checks that the table names the
faults, has the results of what was tried again, and loses nothing else, and that no program calls a compiler of Rust."""
import json
import os
import pathlib
import sys

import caches
import fake_ncu
import fake_sanitizer
import pack
import stages
import table
from runner import FAILURES, Runner

# Seconds of a stage: the compiler of the emulated device is slow.
SECONDS = 3600
# Cache of the smoke runs. The emulated device stores its kernels there too.
CACHE = pathlib.Path("target/gpu-suite-smoke")
PLANTED_CRASH = ["sh", "-c", "kill -SEGV $$"]
PLANTED_HANG = ["sh", "-c", """while :; do echo '{"heartbeat": 1, "launches": 7}'; sleep 0.5; done"""]
# Hangs in its second row until it has created a file.
PLANTED_HANG_ONCE = """if [ "$3" != first ]; then
echo '{"start": "first"}'
echo '{"row": "planted/first", "variant": "fornax-fused", "seconds": 1.0}'
fi
echo '{"start": "second"}'
[ -e "$1" ] || { touch "$1"; sleep 600; }
echo '{"row": "planted/second", "variant": "fornax-fused", "seconds": 1.0}'"""
# A test program whose second test crashes, and whose third fails.
PLANTED_TESTS = """echo 'test one ... ok'
case "$*" in
*--skip\\ two*) ;;
*) printf 'test two ... '; kill -SEGV $$ ;;
esac
printf 'test three ... '; echo FAILED
echo '---- three stdout ----'; echo 'planted message'
exit 101"""
PLANTED_LOSSES = [
    {"row": "step/planted/f16", "variant": "fornax-eager", "seconds": 1.0, "items": 1, "losses": [2.25, 2.0]},
    {"row": "step/planted/f16", "variant": "fornax-graph", "seconds": 1.0, "items": 1, "losses": [2.25, 2.0000002]},
]
# Items that must fail, with their statuses.
EXPECTED = {
    ("planted crash", "crashed"),
    ("planted hang", "hung"),
    ("planted program", "missing"),
    ("planted rows", "missing"),
    ("planted tests two", "crashed"),
    ("planted tests three", "failed"),
    ("step/planted/f16: losses of the graph equal eager ones", "wrong"),
}


def run(out, settings):
    if not (stages.PROGRAMS / "gpu_rows").exists():
        pack.build()
    out = pathlib.Path(out)
    (out / "results.jsonl").unlink(missing_ok=True)
    plant(out)
    settings.device, settings.smoke, settings.cache, settings.seconds = "emulated", True, CACHE, SECONDS
    settings.ncu, settings.sanitizer = (
        program(out / stand_in.__name__, f'exec "{sys.executable}" "{pathlib.Path(stand_in.__file__).resolve()}" "$@"')
        for stand_in in [fake_ncu, fake_sanitizer])
    calls = out / "compiler-calls"
    calls.unlink(missing_ok=True)
    for name in ["cargo", "rustc"]:
        program(out / "bin" / name, f'echo "{name} $*" >> "{calls.resolve()}"; exit 1')
    settings.environment = {"PATH": f"{(out / 'bin').resolve()}:{os.environ['PATH']}", "CARGO": str((out / "bin/cargo").resolve())}
    for stage in stages.STAGES:
        stages.run(stage, out, settings)
    pack.count_launches(settings.step(), out, "--smoke")
    text = table.render([out])
    (out / "table.md").write_text(text)
    print(text)
    return verdict(out, text, calls)


def program(path, text):
    """Writes a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path.resolve()


def plant(out):
    """Adds the faults to the first stage."""
    runner = Runner("start", out)
    runner.run("planted crash", PLANTED_CRASH, 10)
    runner.run("planted hang", PLANTED_HANG, 60, quiet_timeout=2)
    runner.run("planted program", [out / "no-such-program"], 10)
    runner.run_rows("planted rows", [out / "no-such-program"], 10)
    once = out / "hung-once"
    once.unlink(missing_ok=True)
    runner.run_rows("planted retry", ["sh", "-c", PLANTED_HANG_ONCE, "sh", once], 2)
    once.unlink(missing_ok=True)
    runner.run_tests("planted tests", ["sh", "-c", PLANTED_TESTS, "sh"])
    for line in PLANTED_LOSSES:
        runner.run("planted wrong value", [sys.executable, "-c", f"print({json.dumps(json.dumps(line))})"], 10)
    # A file of caches with an entry that no stage writes.
    returned = out / "returned" / "fornax" / "convolutions" / "planted"
    returned.parent.mkdir(parents=True, exist_ok=True)
    returned.write_text("planted")
    caches.store(out, out / "returned")


def verdict(out, text, calls):
    """Exit status: 0 if exactly the planted items failed, and every stage and program has results."""
    lines = [json.loads(line) for line in open(out / "results.jsonl")]
    bad = [(line["item"], line["status"]) for line in lines if line["status"] in FAILURES]
    problems = [f"unplanned: {item} {status}" for item, status in bad if (item, status) not in EXPECTED]
    problems += [f"not found: {item} {status}" for item, status in EXPECTED if (item, status) not in bad]
    problems += [f"not in the table: {item}" for item, _ in EXPECTED if item not in text]
    planted = [line["row"] for line in lines if line.get("row", "").startswith("planted/")]
    problems += [] if planted == ["planted/first", "planted/second"] else [f"a row that hangs once is not retried once: {planted}"]
    problems += [] if "0 launches are not in the counted step" in text else ["launches without counted bytes"]
    problems += [] if fake_ncu.TABLE_ROW in text else [f"not in the table: {fake_ncu.TABLE_ROW}"]
    problems += [f"stage without results: {stage}" for stage in stages.STAGES if not any(line["stage"] == stage for line in lines)]
    passed = [line["item"] for line in lines if line["status"] == "ok"]
    for name in ["digits", "launches", "ncu", "fornax train", "repeats", *(f"{program} " for program in stages.TEST_PROGRAMS), "memcheck "]:
        problems += [] if any(item.startswith(name) for item in passed) else [f"no result of {name}"]
    problems += [f"a program calls {line}" for line in (calls.read_text().splitlines() if calls.exists() else [])]
    kept = (CACHE / "fornax" / "convolutions" / "planted").exists()
    problems += [] if kept else ["a cache entry that was sent back is not restored"]
    summary = f"smoke: {len(lines)} results; the {len(EXPECTED)} planted failures are named, and nothing else failed"
    print("\n".join(problems) if problems else summary)
    return 1 if problems else 0
