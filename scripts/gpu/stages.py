"""The stages of the suite, by value: which programs run, and which results must agree."""
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

import caches
import ncu
import synthetic
from runner import STAGE_SECONDS, Runner

PROGRAMS = pathlib.Path("target/gpu-suite")
TORCH_ROWS = pathlib.Path("scripts/gpu/torch_rows.py")
# Factor of all time limits in a smoke run: the compiler of the emulated device takes minutes on a busy machine.
SMOKE_PATIENCE = 5
# torch.compile compiles ResNet-50 for minutes, and reports no progress.
COMPILE_SECONDS = 400
# Golden topics without tensors on a device.
HOST_TOPICS = ["checkpoint_files", "every_file_is_a_known_topic", "images", "schedulers"]
# Tests without tensors on a device, by program.
HOST_TESTS = {
    "optimizers": ["every_optimizer_matches_timm", "cpu_loops_match_the_update_formulas", "unknown_optimizers_and_options_are_rejected"],
    "fused": ["generated_source_is_readable"],
}
# Test programs of which all tests but those use the device, and all test programs.
DEVICE_TESTS = ["optimizers", "fused", "updates", "loss_scale", "prepare"]
TEST_PROGRAMS = ["cases", "golden", *DEVICE_TESTS, "nccl"]
# Operations of the table of cases whose matmuls have epilogues.
EPILOGUES = ["linear", "mlp"]
# Program and test of the memory checks: the kernels that a training step uses most.
MEMORY_CHECKS = [("cases", "batch_norm"), ("cases", "batch_norm_fused"), ("cases", "max_pool2d"), ("cases", "cross_entropy"),
                 ("updates", "device_updates_match_the_cpu")]
MIN_TOP1 = 98.5


@dataclasses.dataclass
class Settings:
    """Device, Python with PyTorch, time and selection of items, and whether this is a smoke run with small problems."""

    device: str
    python: str
    seconds: int = STAGE_SECONDS
    rows: str = ""
    smoke: bool = False
    programs: pathlib.Path = PROGRAMS
    cache: pathlib.Path = PROGRAMS / "cache"
    environment: dict = dataclasses.field(default_factory=dict)
    # Nsight Compute and compute-sanitizer, if they are installed.
    ncu: str | pathlib.Path | None = dataclasses.field(default_factory=lambda: shutil.which("ncu"))
    sanitizer: str | pathlib.Path | None = dataclasses.field(
        default_factory=lambda: shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin"))

    def step(self):
        """Row of the training step."""
        return "step/resnet18/f16" if self.smoke else "step/resnet50/f16"

    def rows_command(self, *words):
        return [self.programs / "gpu_rows", self.device, *(["--smoke"] if self.smoke else []), *words]

    def torch_command(self, variant, *words):
        return [self.python, TORCH_ROWS, "--variant", variant, *(["--smoke"] if self.smoke else []), *words]

    def fornax_train(self, *words):
        return [self.programs / "fornax", "train", "--device", self.device, *words]


def run(stage, out, settings):
    """Runs a stage; the exit status is 1 if an item failed. Caches of earlier stages in the folder are restored, and stored at the end."""
    caches.restore(out, settings.cache)
    runner = Runner(stage, out, environment(settings), settings.seconds, settings.rows, patience=SMOKE_PATIENCE if settings.smoke else 1)
    try:
        STAGES[stage](runner, settings)
    finally:
        size = caches.store(out, settings.cache)
        print(f"{out}/{caches.NAME}: {size / (1 << 20):.2f} MiB of caches for the next machine", flush=True)
    return 1 if runner.failures else 0


def environment(settings):
    """Where the programs find NVIDIA's libraries (PyTorch installs them in its site-packages), caches, golden data, binary and device."""
    folders = [str(path) for path in pathlib.Path(site_packages(settings.python)).glob("nvidia/*/lib")]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(folders + [os.environ.get("LD_LIBRARY_PATH", "")]),
        "XDG_CACHE_HOME": str(settings.cache.resolve()),
        "FORNAX_TEST_DEVICES": settings.device,
        "FORNAX_TEST_HEARTBEAT": "1",
        "FORNAX_GOLDEN": str(pathlib.Path("tests/golden").resolve()),
        "FORNAX_BINARY": str((settings.programs / "fornax").resolve()),
        **settings.environment,
    }


def site_packages(python):
    command = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or sysconfig.get_paths()["purelib"]


def start(runner, settings):
    """Whether it runs, whether it is right, and how far from PyTorch it is."""
    runner.run("doctor", [settings.programs / "fornax", "doctor"], 60)
    if not settings.smoke:
        query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current"
        runner.run("nvidia-smi", ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], 60)
    runner.run("torch", [settings.python, "scripts/gpu/probe.py"], 120)
    step = settings.step()
    runner.run_rows("fornax", settings.rows_command("copy/", f"{step} eager", f"{step} graph"))
    losses_agree(runner)
    runner.run_rows("torch", settings.torch_command("eager", step))
    digits(runner, settings)


def headline(runner, settings):
    """Images per second with benchmarked plans next to PyTorch, and every launch of the step."""
    step = settings.step()
    lines = runner.run_rows("fornax", settings.rows_command("copy/", f"{step} benchmark"))
    candidates = settings.cache / "fornax" / "convolution-candidates"
    if runner.selects("fornax") and candidates.exists() and not any(line.get("variant") == "fornax-benchmark" for line in lines):
        # Plans built without a device may end the process on this one.
        candidates.rename(candidates.with_name("convolution-candidates-rejected"))
        runner.run_rows("fornax without restored plans", settings.rows_command(f"{step} benchmark"))
    runner.run_rows("torch", settings.torch_command("eager", "copy/", step))
    runner.run("launches", settings.rows_command("--launches", step), 240)


def correctness(runner, settings):
    """The whole table of cases, golden numbers, optimizers, generated kernels, loss scaling and image preparation on the device."""
    cases = [settings.programs / "cases"]
    for operation in EPILOGUES:
        runner.run_tests("cases", cases, only=[operation])
    if settings.smoke:
        runner.run_tests("cases", cases, only=["cross_entropy"])
    else:
        runner.run_tests("cases", cases, skip=EPILOGUES)
    golden = [settings.programs / "golden"]
    for topic in ["ops_pool", "ops_loss", "training_trajectory_by_command_line"] if settings.smoke else [None]:
        runner.run_tests("golden", golden, only=[topic] if topic else [], skip=HOST_TOPICS)
    for program in DEVICE_TESTS:
        runner.run_tests(program, [settings.programs / program], skip=HOST_TESTS.get(program, []))


def detail(runner, settings):
    """The step under ncu, convolutions next to PyTorch, bf16, unfused, repeats of fused sums, `fornax train`, NCCL, memory checks."""
    step = settings.step()
    profile(runner, settings, step)
    train(runner, settings)
    runner.run("repeats", settings.rows_command("--repeats"), 120)
    repeats_agree(runner)
    bf16 = step.replace("f16", "bf16")
    runner.run_rows("fornax steps", settings.rows_command(f"{step} unfused", f"{bf16} benchmark"))
    runner.run_rows("torch steps", settings.torch_command("eager", bf16))
    # The convolutions of ResNet-50, and operations.
    runner.run_rows("fornax f16", settings.rows_command("/f16/forward"))
    runner.run_rows("torch f16", settings.torch_command("eager", "/f16/forward"))
    nccl = [settings.programs / "nccl"]
    runner.run_tests("nccl", nccl, skip=[name for name in listed(runner, nccl) if not name.startswith("one_rank_")])
    for program, test in MEMORY_CHECKS:
        memory_check(runner, settings, program, test)


def rest(runner, settings):
    """Everything else in Fornax and PyTorch: bf16 operations and convolutions, f32."""
    runner.run_rows("fornax", settings.rows_command())
    losses_agree(runner)
    runner.run_rows("torch", settings.torch_command("eager"))


def compiled(runner, settings):
    """torch.compile on the training step, then on the operations."""
    runner.run_rows("torch.compile", settings.torch_command("compile", settings.step()), COMPILE_SECONDS)
    runner.run_rows("torch.compile", settings.torch_command("compile", "/f16/"), COMPILE_SECONDS)


STAGES = {"start": start, "headline": headline, "correctness": correctness, "detail": detail, "rest": rest, "compile": compiled}


def losses_agree(runner):
    """Losses of eager and captured steps are equal; the first one in half precision is near f32."""
    losses = {(line["row"], line["variant"]): line["losses"] for line in runner.results() if "losses" in line}
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


def repeats_agree(runner):
    """Every repeat of a convolution with sums has the bits of the first."""
    for line in runner.results():
        if "differing" in line:
            runner.check(f"{line['row']}: repeats have the same bits", line["differing"] == 0, f"{line['differing']} of 19 repeats differ")


def digits(runner, settings):
    """The built-in data set reaches its top-1 accuracy on the device."""
    epochs = ["--epochs", "1", "--warmup-epochs", "0"] if settings.smoke else []
    status, lines = runner.run("digits", settings.fornax_train("--output", runner.out / "digits", "--json", *epochs), 150)
    shutil.rmtree(runner.out / "digits", ignore_errors=True)
    if status == "ok" and not settings.smoke:
        top1 = lines[-1]["top1"]
        runner.check(f"digits: top-1 is at least {MIN_TOP1}", top1 >= MIN_TOP1, f"top-1 {top1}")


def profile(runner, settings, step):
    if not settings.ncu:
        runner.record("ncu", "missing", why="ncu is not installed")
        return
    csv = runner.out / "ncu.csv"
    command = [settings.ncu, *ncu.FLAGS, "--log-file", csv, *settings.rows_command("--profiled-step", step)]
    status, _ = runner.run("ncu", command, 200, 150)
    if status == "ok":
        kernels = ncu.kernels(csv)
        runner.check("ncu: kernels were profiled", bool(kernels), f"none are in {csv}")
        for kernel in kernels:
            runner.record("ncu", "value", row=step, **kernel)


def train(runner, settings):
    """`fornax train` on generated images in memory: images per second and the time that updates wait for data; a trace of an update."""
    if not runner.selects("fornax train"):
        return
    sizes = synthetic.SMOKE if settings.smoke else synthetic.FULL
    data, output = runner.out / "synthetic", runner.out / "train"
    synthetic.write(data, sizes)
    words = ["--dataset", "idx", "--data-dir", data, "--model", "resnet18" if settings.smoke else "resnet50", "--img-size", str(sizes.side),
             "--no-aug", "--amp", "--model-ema", "--batch-size", str(sizes.batch), "--epochs", "1", "--warmup-epochs", "0",
             "--log-interval", str(max(1, sizes.updates // 20)), "--output", output]
    # Beyond the data, an epoch passes over them again.
    command = settings.fornax_train(*words, "--train-batches-per-epoch", str(sizes.updates))
    status, _ = runner.run("fornax train", command, 180)
    if status == "ok":
        updates = [line for path in output.glob("*/metrics.jsonl") for line in map(json.loads, open(path)) if line.get("event") == "update"]
        # The first half compiles, plans and captures.
        for line in updates[len(updates) // 2:]:
            row = {"row": "train/fornax", "images_per_second": line["images_per_second"], "data_wait": line["data_wait"]}
            runner.record("fornax train", "value", **row)
        runner.check("fornax train: updates were logged", len(updates) > 1, f"{len(updates)} lines in {output}")
    shutil.rmtree(output, ignore_errors=True)
    trace = runner.out / "trace.json"
    words += ["--trace", trace, "--train-batches-per-epoch", "4"]
    status, _ = runner.run("fornax train --trace", settings.fornax_train(*words), 120)
    if status == "ok":
        count = len(json.loads(trace.read_text())["traceEvents"])
        runner.check("fornax train --trace: the trace has kernels", count > 50, f"{count} events in {trace}")
    for folder in [output, data]:
        shutil.rmtree(folder, ignore_errors=True)


def memory_check(runner, settings, program, test):
    item = f"memcheck {program} {test}"
    if not settings.sanitizer:
        runner.record(item, "missing", why="compute-sanitizer is not installed")
        return
    # Launches look up a kernel's parameters by a call that fails after the last one.
    flags = ["--report-api-errors", "no", "--error-exitcode", "9"]
    runner.run(item, [settings.sanitizer, *flags, settings.programs / program, "--exact", test], 60)


def listed(runner, command):
    """Names of the tests of a program; an empty list if it does not start, which its run records."""
    try:
        done = subprocess.run([*command, "--list"], capture_output=True, text=True, env=runner.environment, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.removesuffix(": test") for line in done.stdout.splitlines() if line.endswith(": test")]
