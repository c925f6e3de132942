#!/usr/bin/env python3
"""Products of training steps beside the `gemm` crate and PyTorch's library (MKL on x86-64), on one thread.

    python3 benches/products.py [--cache DIR] [--rounds 3] [--profile dev] [squares | layers | narrow | transformer]

Runs `cargo bench -p gradc-codegen --bench contractions` and the same products in PyTorch, from the cache folder that
benches/compare.py installs into, in turn for a few rounds: a processor's clock may change between them. Every figure is
the shortest run of all. Prints a Markdown table of microseconds and of the faster other ÷ gradc. With `--profile dev` the
crates gradc depends on, `gemm` too, are compiled for less speed.
"""
import argparse
import json
import pathlib
import re
import subprocess

from compare import ROOT, setup_python

LINE = re.compile(r"^\s+(\d+)x(\d+)x(\d+) (\S+) (gradc|gemm): ([\d.]+) µs")
TRANSPOSED = {"A·B": (False, False), "X·W": (False, False), "X·Wᵀ": (False, True), "dY·Wᵀ": (False, True),
              "Xᵀ·dY": (True, False)}
SECONDS = 0.3

# Runs in the environment that has PyTorch: products as [m, n, k, transposed, transposed] to shortest seconds.
MEASURE = """
import json, sys, time, torch
torch.set_num_threads(1)
found = []
for m, n, k, left, right in json.loads(sys.argv[1]):
    a = torch.rand(k, m).T if left else torch.rand(m, k)
    b = torch.rand(n, k).T if right else torch.rand(k, n)
    c = torch.empty(m, n)
    shortest, end = float("inf"), time.perf_counter() + float(sys.argv[2])
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=c)
        shortest = min(shortest, time.perf_counter() - start)
    found.append(shortest)
print(json.dumps(found))
"""


def measure_rust(group, profile):
    """Microseconds by (m, n, k, kind) and by gradc or gemm."""
    command = ["cargo", "bench", "--locked", "-p", "gradc-codegen", "--bench", "contractions"]
    command += ["--profile", profile] if profile else []
    output = subprocess.run([*command, "--", group], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    times = {}
    for m, n, k, kind, by, microseconds in filter(None, (found_in(line) for line in output.splitlines())):
        times.setdefault((int(m), int(n), int(k), kind), {})[by] = float(microseconds)
    return times


def found_in(line):
    found = LINE.match(line)
    return found and found.groups()


def measure_torch(python, products):
    """Microseconds in the order of the products."""
    shapes = [[m, n, k, *TRANSPOSED[kind]] for m, n, k, kind in products]
    output = subprocess.check_output([python, "-c", MEASURE, json.dumps(shapes), str(SECONDS)], text=True)
    return [seconds * 1e6 for seconds in json.loads(output)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="?", default="layers", choices=["squares", "layers", "narrow", "transformer"])
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target" / "compare")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile")
    arguments = parser.parse_args()
    python = setup_python(arguments.cache / "venv", ["torch"])
    shortest = {}
    for _ in range(arguments.rounds):
        times = measure_rust(arguments.group, arguments.profile)
        for (product, by), torch in zip(times.items(), measure_torch(python, list(times))):
            found = {**by, "torch": torch}
            shortest[product] = {name: min(time, shortest.get(product, found)[name]) for name, time in found.items()}
    print("| m × n × k | product | gradc µs | GFLOP/s | gemm µs | PyTorch µs | faster other ÷ gradc |")
    print("|---|---|---|---|---|---|---|")
    for (m, n, k, kind), by in shortest.items():
        gflops, ratio = 2e-3 * m * n * k / by["gradc"], min(by["gemm"], by["torch"]) / by["gradc"]
        print(f"| {m} × {n} × {k} | {kind} | {by['gradc']:,.2f} | {gflops:.0f} | {by['gemm']:,.2f} | {by['torch']:,.2f} "
              f"| {ratio:.2f} |")


if __name__ == "__main__":
    main()
