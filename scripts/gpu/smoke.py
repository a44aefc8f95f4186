"""Runs every stage on the emulated device with three planted failures, a planted row that hangs once, and a stand-in for ncu; checks that the
table names the failures, has the results of the other two, and loses nothing else."""
import json
import pathlib
import sys

import fake_ncu
import pack
import stages
import table
from runner import Runner

PLANTED_CRASH = ["sh", "-c", "kill -SEGV $$"]
PLANTED_HANG = ["sh", "-c", "sleep 600"]
# Hangs in its second row until it has created a file.
PLANTED_HANG_ONCE = """if [ "$3" != first ]; then echo '{"start": "first"}'; echo '{"row": "planted/first", "variant": "fornax-fused", "seconds": 1.0}'; fi
echo '{"start": "second"}'
[ -e "$1" ] || { touch "$1"; sleep 600; }
echo '{"row": "planted/second", "variant": "fornax-fused", "seconds": 1.0}'"""
PLANTED_LOSSES = [
    {"row": "step/planted/f16", "variant": "fornax-eager", "seconds": 1.0, "items": 1, "losses": [2.25, 2.0]},
    {"row": "step/planted/f16", "variant": "fornax-graph", "seconds": 1.0, "items": 1, "losses": [2.25, 2.0000002]},
]


def run(out, python):
    if not (stages.PROGRAMS / "gpu_rows").exists():
        pack.build()
    out = pathlib.Path(out)
    (out / "results.jsonl").unlink(missing_ok=True)
    plant(out)
    planted_ncu = out.resolve() / "fake-ncu"
    planted_ncu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{pathlib.Path(fake_ncu.__file__).resolve()}" "$@"\n')
    planted_ncu.chmod(0o755)
    settings = stages.Settings(device="emulated", python=python, smoke=True, ncu=planted_ncu)
    for stage in stages.STAGES:
        stages.run(stage, out, settings)
    text = table.render([out])
    (out / "table.md").write_text(text)
    print(text)
    return verdict(out, text)


def plant(out):
    """Adds a crash, a hang, a row that hangs once and a wrong value to the train stage."""
    runner = Runner("train", out)
    runner.run("planted crash", PLANTED_CRASH, 10)
    runner.run("planted hang", PLANTED_HANG, 2)
    once = out / "hung-once"
    once.unlink(missing_ok=True)
    runner.run_rows("planted retry", ["sh", "-c", PLANTED_HANG_ONCE, "sh", once], 2)
    once.unlink(missing_ok=True)
    for line in PLANTED_LOSSES:
        runner.run("planted wrong value", [sys.executable, "-c", f"print({json.dumps(json.dumps(line))})"], 10)


def verdict(out, text):
    """Exit status: 0 if exactly the planted items failed, every stage has results, and the table names the three."""
    lines = [json.loads(line) for line in open(out / "results.jsonl")]
    bad = [(line["item"], line["status"]) for line in lines if line["status"] in ("failed", "crashed", "hung", "wrong")]
    expected = {("planted crash", "crashed"), ("planted hang", "hung"), ("step/planted/f16: losses of the graph equal eager ones", "wrong")}
    problems = [f"unplanned: {item} {status}" for item, status in bad if (item, status) not in expected]
    problems += [f"not found: {item} {status}" for item, status in expected if (item, status) not in bad]
    problems += [f"not in the table: {item}" for item, _ in expected if item not in text]
    planted = [line["row"] for line in lines if line.get("row", "").startswith("planted/")]
    problems += [] if planted == ["planted/first", "planted/second"] else [f"a row that hangs once is not retried once: {planted}"]
    problems += [] if fake_ncu.TABLE_ROW in text else [f"not in the table: {fake_ncu.TABLE_ROW}"]
    problems += [f"stage without results: {stage}" for stage in stages.STAGES if not any(line["stage"] == stage for line in lines)]
    print("\n".join(problems) if problems else f"smoke: {len(lines)} results; the three planted failures are named, and nothing else failed")
    return 1 if problems else 0
