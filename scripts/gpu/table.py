"""Markdown tables from the JSON lines of gpu_rows and torch_rows.py: milliseconds, ratios, and fractions of the copy bandwidth."""
import json
import sys


def main(paths):
    rows = {}
    for path in paths:
        for line in open(path):
            if not line.startswith("{"):
                continue
            entry = json.loads(line)
            row = rows.setdefault(entry["row"], {"bytes": 0, "items": 0, "variants": {}})
            row["variants"][entry["variant"]] = entry["seconds"]
            for key in ["bytes", "items"]:
                row[key] = max(row[key], entry.get(key) or 0)
    copy = rows.get("copy/1GiB")
    copy_bandwidth = copy["bytes"] / copy["variants"]["fornax-fused"] if copy else None
    operations = {name: row for name, row in rows.items() if not name.startswith("step/")}
    print("## Operations\n")
    print("Milliseconds; above a ratio of 1, fused Fornax is faster. The last column is the effective bandwidth, for the minimum number of")
    print("bytes that the operation moves, as a fraction of the bandwidth of a copy within device memory.\n")
    print("| row | fused | unfused | torch eager | torch.compile | eager ratio | compile ratio | fraction of copy bandwidth |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in operations.items():
        seconds = row["variants"]
        fused = seconds.get("fornax-fused")
        cells = [milliseconds(seconds.get(v)) for v in ["fornax-fused", "fornax-unfused", "torch-eager", "torch-compile"]]
        cells += [ratio(seconds.get("torch-eager"), fused), ratio(seconds.get("torch-compile"), fused)]
        fraction = f"{100 * row['bytes'] / fused / copy_bandwidth:.0f}%" if fused and copy_bandwidth and row["bytes"] else ""
        print(f"| {name} | " + " | ".join(cells + [fraction]) + " |")
    if copy:
        print(f"\nCopy: {copy_bandwidth / 1e9:,.0f} GB/s.")
    print("\n## Training steps\n")
    print("Images per second; above a ratio of 1, Fornax with a CUDA graph is faster.\n")
    print("| row | eager | CUDA graph | torch eager | torch.compile | eager ratio | compile ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        if not name.startswith("step/"):
            continue
        seconds = row["variants"]
        order = ["fornax-eager", "fornax-graph", "torch-eager", "torch-compile"]
        cells = [f"{row['items'] / seconds[v]:,.0f}" if v in seconds else "" for v in order]
        graph = seconds.get("fornax-graph")
        cells += [ratio(seconds.get("torch-eager"), graph), ratio(seconds.get("torch-compile"), graph)]
        print(f"| {name} | " + " | ".join(cells) + " |")


def milliseconds(seconds):
    return f"{1e3 * seconds:.4g}" if seconds else ""


def ratio(theirs, ours):
    return f"**{theirs / ours:.2f}**" if theirs and ours else ""


main(sys.argv[1:])
