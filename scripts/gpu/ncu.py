"""Nsight Compute: its options for one training step, and the kernels in its CSV."""
import csv

TIME = "gpu__time_duration.sum"
BYTES = ["dram__bytes_read.sum", "dram__bytes_write.sum"]
# The program starts the profiler itself. A lent machine forbids setting clocks. By default ncu flushes the L2 cache before every kernel, so
# that no kernel finds what the one before it wrote.
FLAGS = ["--csv", "--page", "raw", "--print-kernel-base", "function", "--profile-from-start", "off", "--clock-control", "none",
         "--cache-control", "none", "--metrics", ",".join([TIME, *BYTES])]
# Factors of the prefixes of units: ns, nsecond, us, Kbyte, Mbyte.
PREFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS = ["s", "second", "byte"]


def kernels(path):
    """Kernels of a file of `--csv --page raw` by name: number of launches, seconds, and bytes read from and written to device memory."""
    with open(path, newline="") as file:
        # Messages of ncu and output of the program precede the header.
        lines = [line for line in file if line.startswith('"')]
    rows = csv.reader(lines)
    header = next(rows, [])
    units = dict(zip(header, next(rows, [])))
    found = {}
    for row in rows:
        values = dict(zip(header, row))
        kernel = found.setdefault(values["Kernel Name"], {"kernel": values["Kernel Name"], "launches": 0, "seconds": 0.0, "dram_bytes": 0.0})
        kernel["launches"] += 1
        kernel["seconds"] += number(values[TIME], units[TIME])
        kernel["dram_bytes"] += sum(number(values[metric], units[metric]) for metric in BYTES)
    return list(found.values())


def number(text, unit):
    """A value with thousands separators, in seconds or bytes."""
    value = float(text.replace(",", ""))
    if unit in UNITS:
        return value
    if unit[:1] in PREFIXES and unit[1:] in UNITS:
        return value * PREFIXES[unit[0]]
    raise ValueError(f"ncu has the unknown unit {unit!r}")
