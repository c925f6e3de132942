#!/usr/bin/env python3
"""Steps of many operators and small networks beside eager PyTorch: what is slow here that need not be?

    cargo build --release --locked
    python3 benches/sweep.py [--cache DIR] [--gradc PROGRAM] [--threads 1] [--seconds 0.2] [NAME ...]

Each case of benches/sweep_models.py is exported by torch.export, stepped by PyTorch (forward, backward, SGD), then by `gradc
bench`, in turn. Prints the ratios PyTorch ÷ gradc of medians as a Markdown table, the least first, how many are below 1, and
their geometric mean. PyTorch is in the folder that benches/compare.py installs it into.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

from compare import ROOT, setup_python

RECIPE = {"loss": {"kind": "output", "prediction": "y"}, "optimizer": {"kind": "sgd", "lr": 1e-4}, "trainable": ["*"]}


def gradc_us(a, model, recipe):
    """The median step of a model; None, and why on stderr, where it does not run."""
    command = [a.gradc, "bench", model, "--recipe", recipe, "--threads", str(a.threads), "--seconds", str(a.seconds), "--json"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        print(f"{model.stem}: {made.stderr.strip()}", file=sys.stderr)
        return None
    return json.loads(made.stdout)["median_us"]


def measured(a, folder):
    """(name, PyTorch's microseconds, gradc's) of every case."""
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    python = setup_python(a.cache / "venv", ["torch"])
    command = [python, ROOT / "benches" / "sweep_models.py", folder, str(a.threads), str(a.seconds), *a.names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            name, torch_us = line.rstrip().split("\t")
            own_us = gradc_us(a, folder / f"{name}.pt2", recipe)
            if own_us:
                yield name, float(torch_us), own_us
            child.stdin.write("\n")
            child.stdin.flush()
    if child.returncode:
        sys.exit(f"PyTorch's side ended with {child.returncode}: {' '.join(map(str, command))}")


def geometric_mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target" / "compare")
    parser.add_argument("--gradc", type=pathlib.Path, default=ROOT / "target" / "release" / "gradc")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = sorted(measured(a, pathlib.Path(folder)), key=lambda row: row[1] / row[2])
    missing = set(a.names) - {name for name, _, _ in rows}
    if missing or not rows:
        sys.exit(f"without a result: {', '.join(sorted(missing)) or 'all'} (benches/sweep_models.py has the names of cases)")
    print("| case | PyTorch µs | gradc µs | PyTorch ÷ gradc |\n|---|---|---|---|")
    for name, torch_us, own_us in rows:
        print(f"| {name} | {torch_us:,.1f} | {own_us:,.1f} | {torch_us / own_us:.2f} |")
    ratios = [torch_us / own_us for _, torch_us, own_us in rows]
    print(f"\n{len(rows)} cases, {sum(ratio < 1 for ratio in ratios)} below 1, geometric mean {geometric_mean(ratios):.1f}")


if __name__ == "__main__":
    main()
