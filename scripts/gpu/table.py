"""One Markdown table from the JSON lines of gpu_rows and torch_rows: milliseconds, ratios, and shares of the copy's bandwidth."""
import json
import sys


def main(paths):
    rows = {}
    for path in paths:
        for line in open(path):
            if not line.startswith("{"):
                continue
            entry = json.loads(line)
            row = rows.setdefault(entry["row"], {"bytes": 0, "items": 0, "ways": {}})
            row["ways"][entry["way"]] = entry["seconds"]
            for key in ["bytes", "items"]:
                row[key] = max(row[key], entry.get(key) or 0)
    copy = rows.get("copy/1GiB")
    ceiling = copy["bytes"] / copy["ways"]["fornax-fused"] if copy else None
    operations = {name: row for name, row in rows.items() if not name.startswith("step/")}
    print("## Operations\n")
    print("Milliseconds; a ratio above 1 means that Fornax, fused, is faster. The share is of the bandwidth of a copy within the device's")
    print("memory, for the fewest bytes that the operation can move.\n")
    print("| row | fused | unfused | torch eager | torch.compile | to eager | to compile | share of copy |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in operations.items():
        ways = row["ways"]
        fused = ways.get("fornax-fused")
        cells = [milliseconds(ways.get(w)) for w in ["fornax-fused", "fornax-unfused", "torch-eager", "torch-compile"]]
        cells += [ratio(ways.get("torch-eager"), fused), ratio(ways.get("torch-compile"), fused)]
        share = f"{100 * row['bytes'] / fused / ceiling:.0f}%" if fused and ceiling and row["bytes"] else ""
        print(f"| {name} | " + " | ".join(cells + [share]) + " |")
    if copy:
        print(f"\nCopy: {ceiling / 1e9:,.0f} GB/s.")
    print("\n## Training steps\n")
    print("Images per second.\n")
    print("| row | eager | graph | torch eager | torch.compile | graph to eager | graph to compile |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        if not name.startswith("step/"):
            continue
        ways = row["ways"]
        order = ["fornax-eager", "fornax-graph", "torch-eager", "torch-compile"]
        cells = [f"{row['items'] / ways[w]:,.0f}" if w in ways else "" for w in order]
        graph = ways.get("fornax-graph")
        cells += [ratio(ways.get("torch-eager"), graph), ratio(ways.get("torch-compile"), graph)]
        print(f"| {name} | " + " | ".join(cells) + " |")


def milliseconds(seconds):
    return f"{1e3 * seconds:.4g}" if seconds else ""


def ratio(theirs, ours):
    return f"**{theirs / ours:.2f}**" if theirs and ours else ""


main(sys.argv[1:])
