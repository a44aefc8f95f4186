"""Markdown of the suite's results: failures first, then training steps, their launches, operations, convolutions, kernels, caches and
checks. Missing cells are empty."""
import difflib
import json
import pathlib
import statistics

from runner import FAILURES

# File with the bytes of each launch of a step, in the archive's folder or in one of results.
LAUNCHES = "launches.json"
ARCHIVED = pathlib.Path("target/gpu-suite")


def render(folders):
    """Table of the results in these folders; later ones replace earlier ones of the same row and variant."""
    lines = []
    for folder in folders:
        path = pathlib.Path(folder) / "results.jsonl"
        if path.exists():
            lines += [json.loads(line) for line in open(path) if line.strip()]
    out = ["# Fornax and PyTorch on a GPU", ""]
    out += environment(lines) + failures(lines)
    rows = collect(lines)
    out += steps(rows) + train(lines) + launches(lines, counted_launches(folders), bandwidth(rows)) + operations(rows) + convolutions(rows) + kernels(lines)
    out += used_caches(lines) + checks(lines)
    return "\n".join(out) + "\n"


def collect(lines):
    """Rows by name: bytes, items, and the measurement of each variant."""
    rows = {}
    for line in lines:
        if line["status"] != "value" or "seconds" not in line or "variant" not in line:
            continue
        row = rows.setdefault(line["row"], {"bytes": 0, "items": 0, "variants": {}})
        row["variants"][line["variant"]] = line
        for key in ["bytes", "items"]:
            row[key] = max(row[key], line.get(key) or 0)
    return rows


def environment(lines):
    out = []
    for line in lines:
        if line.get("row") == "probe":
            device = line.get("device", {}).get("name", "no CUDA device")
            out.append(f"- {device}; PyTorch {line['torch']}, cuDNN {line['cudnn']}, CUDA {line['cuda']}; {line['machine']}")
    return out + [""] if out else []


def failures(lines):
    bad = [line for line in lines if line["status"] in (*FAILURES, "skipped", "retried")]
    if not bad:
        return ["No item failed.", ""]
    out = ["## Failures, missing programs, skipped and retried items", "", "| stage | item | status | reason |", "|---|---|---|---|"]
    for line in bad:
        why = line.get("why", "").replace("|", "/")[:300]
        out.append(f"| {line['stage']} | {line['item']} | {line['status']} | {why} |")
    return out + [""]


STEP_VARIANTS = ["fornax-eager", "fornax-graph", "fornax-benchmark", "fornax-unfused", "torch-eager", "torch-compile"]


def steps(rows):
    chosen = {name: row for name, row in rows.items() if name.startswith("step/")}
    if not chosen:
        return []
    out = ["## Training steps", "", "Images per second. Ratios above 1 mean that Fornax, with a CUDA graph and benchmarked plans, is faster.", "",
           "| row | eager | CUDA graph | + benchmarked plans | without fusions | torch eager | torch.compile | to eager | to compile |",
           "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for name, row in chosen.items():
        seconds = {variant: line["seconds"] for variant, line in row["variants"].items()}
        cells = [f"{row['items'] / seconds[v]:,.0f}" if v in seconds else "" for v in STEP_VARIANTS]
        ours = seconds.get("fornax-benchmark") or seconds.get("fornax-graph")
        cells += [ratio(seconds.get("torch-eager"), ours), ratio(seconds.get("torch-compile"), ours)]
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return out + [""]


def train(lines):
    """Speed of `fornax train`, by the log lines of the second half of its updates."""
    found = [line for line in lines if line.get("row") == "train/fornax"]
    if not found:
        return []
    speed, wait = (statistics.median(line[key] for line in found) for key in ["images_per_second", "data_wait"])
    return ["## `fornax train`", "", f"With AMP and EMA on images in memory: {speed:,.0f} images per second; updates wait for data for "
            f"{100 * wait:.1f}% of the time.", ""]


def counted_launches(folders):
    """Kernel and bytes of each launch, by step."""
    counted = {}
    for folder in [ARCHIVED, *map(pathlib.Path, folders)]:
        if (folder / LAUNCHES).exists():
            counted |= json.loads((folder / LAUNCHES).read_text())
    return counted


def launches(lines, counted_steps, copy):
    """Every launch of a training step in order: milliseconds, counted bytes, and the fraction of the copy bandwidth that these need."""
    found = [line for line in lines if line["status"] == "value" and "launch" in line]
    if not found:
        return []
    found = found[-1 - found[-1]["launch"]:]
    counted = counted_steps.get(found[0]["row"], [])
    names = [line["kernel"] for line in found]
    moved = {}
    matcher = difflib.SequenceMatcher(None, names, [name for name, _ in counted], autojunk=False)
    for ours, theirs, size in matcher.get_matching_blocks():
        moved |= {ours + i: counted[theirs + i][1] for i in range(size)}
    total = sum(line["seconds"] for line in found)
    out = [f"## Launches of one training step ({found[0]['row']})", "",
           f"By events around each launch: {milliseconds(total)} ms in {len(found)} launches. Bytes as counted by the emulated device;",
           f"{len(found) - len(moved)} launches are not in the counted step.", "",
           "| launch | kernel | ms | MB | of copy |", "|--:|---|--:|--:|--:|"]
    for i, line in enumerate(found):
        size, seconds = moved.get(i), line["seconds"]
        fraction = f"{100 * size / seconds / copy:.0f}%" if size and seconds and copy else ""
        out.append(f"| {i} | {line['kernel']} | {milliseconds(seconds)} | {'' if size is None else f'{size / 1e6:.1f}'} | {fraction} |")
    return out + [""]


def used_caches(lines):
    """Kernels and convolution plans by item: compiled or from the cache."""
    found = [line for line in lines if "caches" in line]
    if not found:
        return []
    out = ["## Caches", "", "Kernel images, and convolution plans that ran as candidates.", "",
           "| stage | item | kernels compiled | kernels from the cache | plans built | plans restored | restored plans that did not run |",
           "|---|---|--:|--:|--:|--:|--:|"]
    for line in found:
        of = line["caches"]
        built = of["plans_ran"] - of["plans_restored"]
        counts = [of["kernels_compiled"], of["kernels_cached"], built, of["plans_restored"], of["plans_rejected"]]
        out.append(f"| {line['stage']} | {line['item']} | " + " | ".join(map(str, counts)) + " |")
    return out + [""]


def operations(rows):
    chosen = {name: row for name, row in rows.items() if not name.startswith(("step/", "conv/"))}
    if not chosen:
        return []
    copy = bandwidth(rows)
    out = ["## Operations", "", "Milliseconds; ratios above 1 mean that fused Fornax is faster. The last column is the effective bandwidth, for the minimum",
           "number of bytes that the operation moves, as a fraction of the bandwidth of a copy within device memory"
           + (f" ({copy / 1e9:,.0f} GB/s)." if copy else "."), "",
           "| row | fused | unfused | torch eager | torch.compile | to eager | to compile | of copy |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name, row in chosen.items():
        seconds = {variant: line["seconds"] for variant, line in row["variants"].items()}
        fused = seconds.get("fornax-fused")
        cells = [milliseconds(seconds.get(v)) for v in ["fornax-fused", "fornax-unfused", "torch-eager", "torch-compile"]]
        cells += [ratio(seconds.get("torch-eager"), fused), ratio(seconds.get("torch-compile"), fused)]
        cells.append(f"{100 * row['bytes'] / fused / copy:.0f}%" if fused and copy and row["bytes"] else "")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return out + [""]


def convolutions(rows):
    names = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in rows if name.startswith("conv/")))
    if not names:
        return []
    out = ["## Convolutions of ResNet-50", "", "Milliseconds, Fornax / PyTorch. Gradients are the difference to the forward pass alone.", "",
           "| shape | forward | input gradient | weight gradient | ratio of the sum |", "|---|--:|--:|--:|--:|"]
    for name in names:
        times = {}
        for variant in ["fornax-fused", "torch-eager"]:
            of = {p: (rows.get(f"{name}/{p}", {}).get("variants", {}).get(variant) or {}).get("seconds")
                  for p in ["forward", "forward+input", "forward+weight"]}
            less = lambda pass_name: of[pass_name] - of["forward"] if of[pass_name] and of["forward"] else None
            times[variant] = [of["forward"], less("forward+input"), less("forward+weight")]
        ours, theirs = times["fornax-fused"], times["torch-eager"]
        cells = [f"{milliseconds(a)} / {milliseconds(b)}" for a, b in zip(ours, theirs)]
        total = ratio(sum(theirs), sum(ours)) if all(ours) and all(theirs) else ""
        out.append(f"| {name} | " + " | ".join(cells) + f" | {total} |")
    return out + [""] + plans(rows)


def plans(rows):
    """The convolution plans that Fornax chose by timing, under the row in which it first used them."""
    chosen = [(name, problem, plan) for name, row in rows.items()
              for problem, plan in (row["variants"].get("fornax-fused") or {}).get("plans", {}).items()]
    if not chosen:
        return []
    out = ["### Chosen convolution plans", "", "| row | problem | plan |", "|---|---|---|"]
    return out + [f"| {name} | {problem} | `{plan[:200]}` |" for name, problem, plan in chosen] + [""]


def kernels(lines):
    """Time and memory traffic of one training step by kernel under ncu, largest first."""
    profiled = [line for line in lines if line["status"] == "value" and "dram_bytes" in line]
    if not profiled:
        return []
    time, traffic = sum(line["seconds"] for line in profiled), sum(line["dram_bytes"] for line in profiled)
    out = [f"## Memory traffic of one training step by kernel ({profiled[0]['row']})", "",
           f"By ncu, without control of clocks and caches: {milliseconds(time)} ms and {traffic / 1e9:.2f} GB in all.", "",
           "| kernel | launches | ms | GB | GB/s |", "|---|--:|--:|--:|--:|"]
    out += [f"| {line['kernel'][:100]} | {line['launches']} | {milliseconds(line['seconds'])} | {line['dram_bytes'] / 1e9:.2f} "
            f"| {line['dram_bytes'] / line['seconds'] / 1e9:,.0f} |" for line in largest(profiled)]
    return out + [""]


def largest(lines):
    """The 40 kernels with the longest times."""
    return sorted(lines, key=lambda line: -line["seconds"])[:40]


def checks(lines):
    """Numbers of passed items by stage."""
    out = ["## Passed items", "", "| stage | passed | failed | skipped |", "|---|--:|--:|--:|"]
    for stage in dict.fromkeys(line["stage"] for line in lines):
        of = [line["status"] for line in lines if line["stage"] == stage]
        failed = sum(status in FAILURES for status in of)
        out.append(f"| {stage} | {of.count('ok')} | {failed} | {of.count('skipped')} |")
    return out


def bandwidth(rows):
    copy = rows.get("copy/1GiB")
    line = copy and copy["variants"].get("fornax-fused")
    return copy["bytes"] / line["seconds"] if line else None


def milliseconds(seconds):
    return f"{1e3 * seconds:.4g}" if seconds else ""


def ratio(theirs, ours):
    return f"**{theirs / ours:.2f}**" if theirs and ours else ""
