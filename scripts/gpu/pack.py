"""Builds the programs of the suite and packs them with compiled kernels, convolution plans, golden data and scripts."""
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

import caches
import stages
import table

ARCHIVE = pathlib.Path("target/gpu-suite.tar.xz")
# What is sent to a lent machine has a limit.
MAX_BYTES = 60 << 20
# Sources of generated kernels, recorded from programs on the emulated device: program, words, and whether it runs whole sweeps.
RECORDED = [("cases", ["fuse"], True), ("fused", [], False), ("optimizers", ["on_the_gpu"], False)]
SOURCES = pathlib.Path("target/gpu-suite-sources")
# Caches that an earlier machine sent back.
RETURNED = pathlib.Path("target/caches.tar.xz")
COUNTED_STEP = "step/resnet50/f16"
CAPABILITIES = "8.0,9.0,10.0"
DEVICES = ["scripts/cudnn/h200.json", "scripts/cudnn/a100.json", "scripts/cudnn/b200.json"]
# Seconds in which cuDNN builds plans; those of f16 come first.
PLAN_SECONDS = 900
BUILDS = [
    ["-p", "fornax-tests", *(word for name in ["cases", "golden", "optimizers", "fused", "updates", "loss_scale", "prepare", "nccl"]
                             for word in ("--test", name))],
    ["-p", "fornax-benches", "--bin", "gpu_rows", "--bin", "plan_candidates"],
    ["-p", "fornax", "--bin", "fornax"],
]


def build(programs=stages.PROGRAMS):
    """Builds the programs, stripped, into a folder."""
    programs.mkdir(parents=True, exist_ok=True)
    for arguments in BUILDS:
        command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics", *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            artifact = json.loads(line)
            if artifact.get("executable"):
                program = programs / artifact["target"]["name"]
                shutil.copy(artifact["executable"], program)
                subprocess.run(["strip", program], check=True)


def record_sources():
    """Stores the sources of the generated kernels that the test programs use."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    for program, words, sweeps in RECORDED:
        environment = {**os.environ, "FORNAX_KERNEL_SOURCES": str(SOURCES.resolve()), "FORNAX_TEST_DEVICES": "emulated"}
        environment |= {"FORNAX_TEST_SWEEP": "full"} if sweeps else {}
        subprocess.run([stages.PROGRAMS / program, *words], check=True, env=environment)


def fill_cache():
    """Compiles the kernels and plans the convolutions of the step with NVIDIA's libraries, without a GPU."""
    cache = stages.PROGRAMS / "cache"
    if RETURNED.exists():
        with tarfile.open(RETURNED) as archive:
            archive.extractall(cache, filter="data")
    libraries = subprocess.run(["scripts/cudnn/libraries", ".venv/cudnn"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    libraries = os.pathsep.join(str(pathlib.Path(folder).resolve()) for folder in libraries.split(":"))
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.resolve()), "LD_LIBRARY_PATH": libraries}
    command = [stages.PROGRAMS / "fornax", "kernels", "build", "--arch", CAPABILITIES, "--sources", SOURCES]
    subprocess.run(command, check=True, env=environment)
    subprocess.run([stages.PROGRAMS / "plan_candidates", str(PLAN_SECONDS), *DEVICES], check=True, env=environment)
    caches.list_packed(cache)


def count_launches(step, folder, *words):
    """Stores the bytes that each launch of a step moves, counted by the emulated device, for the table."""
    command = [stages.PROGRAMS / "gpu_rows", "emulated", *words, "--counted-launches", step]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    launches = [[line["kernel"], line["bytes"]] for line in lines if "launch" in line]
    (folder / table.LAUNCHES).write_text(json.dumps({step: launches}))


def pack():
    build()
    record_sources()
    fill_cache()
    count_launches(COUNTED_STEP, stages.PROGRAMS)
    with tarfile.open(ARCHIVE, "w:xz", preset=6) as archive:
        for path in [stages.PROGRAMS, "tests/golden", "scripts/gpu-suite", "scripts/gpu"]:
            archive.add(path, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    describe()
    size = ARCHIVE.stat().st_size
    print(f"{ARCHIVE}: {size / (1 << 20):.1f} MiB; unpack it on the machine with the GPU and run scripts/gpu-suite STAGE OUT")
    if size > MAX_BYTES:
        print(f"the archive is larger than {MAX_BYTES >> 20} MiB: pack fewer programs")
        return 1
    return 0


def describe():
    """Prints what the archive contains, before compression."""
    cache = stages.PROGRAMS / "cache" / "fornax"
    parts = {"programs": [path for path in stages.PROGRAMS.iterdir() if path.is_file()]}
    parts |= {f"cache, {folder.name}": list(folder.iterdir()) for folder in sorted(cache.iterdir())}
    parts["golden data"] = list(pathlib.Path("tests/golden").iterdir())
    for part, files in parts.items():
        print(f"{part}: {len(files)} files, {sum(path.stat().st_size for path in files) / (1 << 20):.1f} MiB")
