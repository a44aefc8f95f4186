"""Builds the programs of the suite and packs them with golden data and scripts."""
import json
import pathlib
import shutil
import subprocess
import tarfile

import stages

ARCHIVE = pathlib.Path("target/gpu-suite.tar.xz")
# What is sent to a lent machine with the working tree has a limit.
MAX_BYTES = 35 << 20
BUILDS = [
    ["-p", "fornax-tests", *(word for name in ["cases", "golden", "optimizers", "fused", "updates", "loss_scale", "prepare",
                                               "nccl"]
                             for word in ("--test", name))],
    ["-p", "fornax-benches", "--bin", "gpu_rows"],
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


def pack():
    build()
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in [stages.PROGRAMS, "tests/golden", "scripts/gpu-suite", "scripts/gpu"]:
            archive.add(path, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    size = ARCHIVE.stat().st_size
    print(f"{ARCHIVE}: {size / (1 << 20):.1f} MiB; unpack it on the machine with the GPU and run scripts/gpu-suite STAGE OUT")
    if size > MAX_BYTES:
        print(f"the archive is larger than {MAX_BYTES >> 20} MiB: pack fewer programs")
        return 1
    return 0
