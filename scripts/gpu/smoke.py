"""Runs every stage on the emulated device with three planted failures, and checks that the table names them and loses nothing else."""
import json
import pathlib
import sys

import pack
import stages
import table
from runner import Runner

PLANTED_CRASH = ["sh", "-c", "kill -SEGV $$"]
PLANTED_HANG = ["sh", "-c", "sleep 600"]
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
    settings = stages.Settings(device="emulated", python=python, smoke=True)
    for stage in stages.STAGES:
        stages.run(stage, out, settings)
    text = table.render([out])
    (out / "table.md").write_text(text)
    print(text)
    return verdict(out, text)


def plant(out):
    """Adds a crash, a hang and a wrong value to the train stage."""
    runner = Runner("train", out)
    runner.run("planted crash", PLANTED_CRASH, 10)
    runner.run("planted hang", PLANTED_HANG, 2)
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
    problems += [f"stage without results: {stage}" for stage in stages.STAGES if not any(line["stage"] == stage for line in lines)]
    print("\n".join(problems) if problems else f"smoke: {len(lines)} results; the three planted failures are named, and nothing else failed")
    return 1 if problems else 0
