#!/usr/bin/env python3
"""Loops that train as loops and unrolled: step time, compile time, bytes and code of one training step, over their length.

    cargo build && python3 benches/loops.py --gradc target/debug/gradc [--steps 8 16 32 64] [--seconds 0.5]

Models: a sparse coder written flat (ISTA, 16 examples of 32 numbers, 48 atoms), which is rolled first; an LSTM and a GRU
of 16 hidden units (batch 16, 32 inputs). Prints a Markdown table; one thread, times are the shortest of the run, compile
time the best of three.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile

EXAMPLES, LENGTH, ATOMS, HIDDEN = 16, 32, 48, 16
WAYS = ["unrolled", "exact"]


def node(name, op, *inputs, **attrs):
    return {"name": name, "op": op, "inputs": list(inputs), "attrs": attrs}


def ista(steps):
    """x <- soft(x - s (x Dt - y) D, s lambda), from zero; the reconstruction x Dt."""
    nodes = [
        node("zero", "constant", value=0.0, dtype="f32", shape=[EXAMPLES, ATOMS]),
        node("lam", "exp", "log_lam"),
        node("threshold", "scale", "lam", factor=0.2),
        node("Dt", "transpose", "D", perm=[1, 0]),
    ]
    x = "zero"
    for k in range(steps):
        n = lambda name: f"step{k}.{name}"
        nodes += [
            node(n("code"), "matmul", x, "Dt"),
            node(n("residual"), "sub", n("code"), "y"),
            node(n("gradient"), "matmul", n("residual"), "D"),
            node(n("move"), "scale", n("gradient"), factor=0.2),
            node(n("z"), "sub", x, n("move")),
            node(n("sign"), "sign", n("z")),
            node(n("abs"), "abs", n("z")),
            node(n("above"), "sub", n("abs"), "threshold"),
            node(n("relu"), "relu", n("above")),
            node(n("x"), "mul", n("sign"), n("relu")),
        ]
        x = n("x")
    nodes.append(node("decoded", "matmul", x, "Dt"))
    return {
        "gradc": 1,
        "inputs": [{"name": "y", "shape": [EXAMPLES, LENGTH]}],
        "parameters": [
            {"name": "D", "shape": [LENGTH, ATOMS], "init": {"kind": "normal", "std": LENGTH ** -0.5}},
            {"name": "log_lam", "shape": [], "init": {"kind": "constant", "value": -2.0}},
        ],
        "nodes": nodes,
        "outputs": [{"name": "y", "value": "decoded"}],
    }


def recurrent(op, gates, states):
    """One recurrent layer from zero states; all its outputs."""
    def model(steps):
        zeros = [node(name, "constant", value=0.0, dtype="f32", shape=[EXAMPLES, HIDDEN]) for name in states]
        weight = lambda name, width: {
            "name": name, "shape": [gates * HIDDEN, width], "init": {"kind": "uniform", "low": -0.1, "high": 0.1}}
        return {
            "gradc": 1,
            "inputs": [{"name": "x", "shape": [steps, EXAMPLES, LENGTH]}],
            "parameters": [weight("w", LENGTH), weight("u", HIDDEN)],
            "nodes": zeros + [node("layer", op, "x", *states, "w", "u")],
            "outputs": [{"name": "y", "value": "layer"}],
        }
    return model


MODELS = {"ista": ista, "lstm": recurrent("lstm", 4, ["h0", "c0"]), "gru": recurrent("gru", 3, ["h0"])}


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def measure(gradc, folder, name, steps, way, seconds):
    model, recipe = folder / "model.json", folder / "recipe.json"
    model.write_text(json.dumps(MODELS[name](steps)))
    recipe.write_text(json.dumps({
        "loss": {"kind": "mse", "prediction": "y"},
        "optimizer": {"kind": "sgd", "lr": 0.05},
        "solvers": [{"at": "*", "backward": way}],
    }))
    common = [model, "--recipe", recipe]
    reports = [run([gradc, "compile", *common, "--report"]) for _ in range(3)]
    bench = json.loads(run([gradc, "bench", *common, "--seconds", seconds, "--threads", 1, "--json"]))
    return {
        "compile_ms": min(float(re.search(r"kernels in (\d+) ms", report)[1]) for report in reports),
        "code": re.search(r"code ([\d.]+ \w+)", reports[0])[1],
        **bench,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradc", required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    print("| loop | steps | way | kernels | compile ms | shortest step µs | planned bytes | native code |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            for steps in arguments.steps:
                for way in WAYS:
                    row = measure(arguments.gradc, pathlib.Path(folder), name, steps, way, arguments.seconds)
                    print(f"| {name} | {steps} | {way} | {row['kernels']} | {row['compile_ms']:,.0f} | {row['min_us']:,.1f} "
                          f"| {row['planned_peak_bytes']:,} | {row['code']} |", flush=True)


if __name__ == "__main__":
    main()
