"""The stages of the suite: which programs run, and which results must agree."""
import dataclasses
import json
import os
import pathlib
import shutil
import sysconfig
import subprocess

import ncu
from runner import Runner

PROGRAMS = pathlib.Path("target/gpu-suite")
TORCH_ROWS = pathlib.Path("scripts/gpu/torch_rows.py")
# Seconds without output after which a row counts as hung: compiling kernels and planning convolutions take the longest.
ROW_SECONDS = 120
SMOKE_ROW_SECONDS = 60


@dataclasses.dataclass
class Settings:
    """Device, Python with PyTorch, and whether this is a smoke run with small problems."""

    device: str
    python: str
    smoke: bool = False
    programs: pathlib.Path = PROGRAMS
    # Nsight Compute, if it is installed.
    ncu: str | pathlib.Path | None = dataclasses.field(default_factory=lambda: shutil.which("ncu"))

    def row_seconds(self):
        return SMOKE_ROW_SECONDS if self.smoke else ROW_SECONDS

    def smoke_flag(self):
        return ["--smoke"] if self.smoke else []


def run(stage, out, settings):
    """Runs a stage; the exit status is 1 if an item failed."""
    runner = Runner(stage, out, environment(settings))
    STAGES[stage](runner, settings)
    return 1 if runner.failures else 0


def environment(settings):
    """Where the programs find NVIDIA's libraries (PyTorch installs them in its site-packages), the golden data, and the device."""
    folders = [str(path) for path in pathlib.Path(site_packages(settings.python)).glob("nvidia/*/lib")]
    path = os.pathsep.join(folders + [os.environ.get("LD_LIBRARY_PATH", "")])
    golden = os.environ.get("FORNAX_GOLDEN", str(pathlib.Path("tests/golden").resolve()))
    return {"LD_LIBRARY_PATH": path, "FORNAX_TEST_DEVICES": settings.device, "FORNAX_GOLDEN": golden}


def site_packages(python):
    command = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or sysconfig.get_paths()["purelib"]


def probe(runner, settings):
    runner.run("doctor", [settings.programs / "fornax", "doctor"], 60)
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current"
    if not settings.smoke:
        runner.run("nvidia-smi", ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], 60)
    runner.run("torch", [settings.python, "scripts/gpu/probe.py"], 120)


def train(runner, settings):
    rows(runner, settings, "fornax", "step/")
    torch_rows(runner, settings, "torch", "step/", "eager")
    losses_agree(runner)


def losses_agree(runner):
    """Losses of eager and captured steps are equal; the first one in half precision is near f32. Later ones differ, as loss scaling skips updates
    at first."""
    losses = {(line["row"], line["variant"]): line["losses"] for line in results(runner) if "losses" in line}
    for (row, variant), values in losses.items():
        if not variant.startswith("fornax"):
            continue
        eager = losses.get((row, "fornax-eager"))
        # A benchmarked plan may add in another order.
        if variant == "fornax-graph":
            equal = eager == values
            runner.check(f"{row}: losses of the graph equal eager ones", equal, f"{values} in the graph, {eager} eager")
        network, dtype = row.rsplit("/", 1)
        reference = losses.get((f"{network}/f32", "fornax-eager"))
        if dtype != "f32" and reference:
            off = abs(values[0] - reference[0]) / reference[0]
            runner.check(f"{row} {variant}: first loss is near f32", off < 0.05, f"off by {100 * off:.1f}%: {values}, f32 {reference}")


def parity(runner, settings):
    cases = settings.programs / "cases"
    names = listed(runner, cases)
    for name in names[:4] if settings.smoke else names:
        runner.run(f"cases {name}", [cases, "--exact", name], settings.row_seconds())
    golden = settings.programs / "golden"
    names = listed(runner, golden)
    for name in [n for n in names if n in ("ops_pool", "ops_loss")] if settings.smoke else names:
        runner.run(f"golden {name}", [golden, "--exact", name], settings.row_seconds())
    if not settings.smoke:
        for program in ["optimizers", "fused", "updates", "loss_scale", "prepare"]:
            runner.run(program, [settings.programs / program], settings.row_seconds())
    digits(runner, settings)


def digits(runner, settings):
    """The built-in data set reaches its top-1 accuracy on the device."""
    epochs = ["--epochs", "1", "--warmup-epochs", "0"] if settings.smoke else []
    command = [settings.programs / "fornax", "train", "--device", settings.device, "--output", runner.out / "digits", "--json"] + epochs
    status, lines = runner.run("digits", command, 180)
    shutil.rmtree(runner.out / "digits", ignore_errors=True)
    if status == "ok" and not settings.smoke:
        top1 = lines[-1]["top1"]
        runner.check("digits: top-1 is at least 98.5", top1 >= 98.5, f"top-1 {top1}")


def nccl(runner, settings):
    """The tests of the process group that need one GPU; those with several ranks run on the emulated device only."""
    program = settings.programs / "nccl"
    for name in [name for name in listed(runner, program) if name.startswith("one_rank_")]:
        runner.run(f"nccl {name}", [program, "--exact", name], settings.row_seconds())


def operations(runner, settings):
    rows(runner, settings, "fornax", "", "--operations")
    torch_rows(runner, settings, "torch", "", "eager", "--operations")


def profile(runner, settings):
    row = "step/resnet18-cifar/f16" if settings.smoke else "step/resnet50/f16"
    program = [settings.programs / "gpu_rows", settings.device, *settings.smoke_flag()]
    # It stores the plans that it times, so that the step under ncu has them at once.
    runner.run("events", [*program, "--kernel-times", row], 220)
    if not settings.ncu:
        return
    csv = runner.out / "ncu.csv"
    status, _ = runner.run("ncu", [settings.ncu, *ncu.FLAGS, "--log-file", csv, *program, "--profiled-step", row], 240)
    if status == "ok":
        kernels = ncu.kernels(csv)
        runner.check("ncu: kernels were profiled", bool(kernels), f"none are in {csv}")
        for kernel in kernels:
            runner.record("ncu", "value", row=row, **kernel)


def compiled(runner, settings):
    torch_rows(runner, settings, "torch.compile", "step/", "compile")
    torch_rows(runner, settings, "torch.compile", "", "compile", "--operations")


def sanitize(runner, settings):
    sanitizer = pathlib.Path(shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer")
    cases = settings.programs / "cases"
    end = runner.remaining() - 90
    for name in listed(runner, cases):
        if runner.remaining() < end or settings.smoke and name != listed(runner, cases)[0]:
            break
        # Launches look up a kernel's parameters by a call that fails after the last one.
        command = [sanitizer, "--report-api-errors", "no", "--error-exitcode", "9", cases, "--exact", name]
        runner.run(f"memcheck {name}", command, 90, require=sanitizer)


STAGES = {"probe": probe, "train": train, "parity": parity, "nccl": nccl, "operations": operations, "profile": profile, "compile": compiled,
          "sanitize": sanitize}


def rows(runner, settings, name, pattern, *flags):
    command = [settings.programs / "gpu_rows", settings.device, *settings.smoke_flag(), *flags]
    runner.run_rows(name, command + ([pattern] if pattern else []), settings.row_seconds())


def torch_rows(runner, settings, name, pattern, variant, *flags):
    command = [settings.python, TORCH_ROWS, "--variant", variant, *settings.smoke_flag(), *flags]
    runner.run_rows(name, command + ([pattern] if pattern else []), settings.row_seconds())


def listed(runner, program):
    """Names of the tests in a program, without ignored ones; an empty list and a failure if it does not start."""
    def names(*flags):
        done = subprocess.run([program, "--list", *flags], capture_output=True, text=True, env=runner.environment)
        return [line.removesuffix(": test") for line in done.stdout.splitlines() if line.endswith(": test")], done.stderr

    every, errors = names()
    if not every:
        runner.record(str(program), "failed", why=f"lists no tests: {errors.strip()[-200:]}")
    ignored, _ = names("--ignored")
    return [name for name in every if name not in ignored]


def results(runner):
    """Results of this stage so far."""
    lines = [json.loads(line) for line in open(runner.out / "results.jsonl")]
    return [line for line in lines if line["stage"] == runner.stage]
