"""Unrolled solvers, rolled and flat: compile time, planned bytes and step time of one training step.

    cargo build && python3 benches/rolling.py --gradc target/debug/gradc [--steps 40 200 1000] [--seconds 1]

The model is the sparse coder of the reference models (ISTA, 16 examples of 32 numbers, 48 atoms), written flat with as
many steps as asked for. Prints one line of JSON per length and way: `rolled`, or `flat` with `--no-roll`. Compile time
is that of the whole step, best of three; `roll_ms` is what looking for the loop takes of it.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile

EXAMPLES, LENGTH, ATOMS = 16, 32, 48
RECIPE = {"loss": {"kind": "mse", "prediction": "y"}, "optimizer": {"kind": "sgd", "lr": 0.05}}


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


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def measure(gradc, folder, steps, way, seconds):
    model, recipe = folder / f"ista{steps}.json", folder / "recipe.json"
    model.write_text(json.dumps(ista(steps)))
    recipe.write_text(json.dumps(RECIPE))
    common = [str(model), "--recipe", str(recipe)] + (["--no-roll"] if way == "flat" else [])
    reports = [run([gradc, "compile", *common, "--report"]) for _ in range(3)]
    compile_ms = min(float(re.search(r"kernels in (\d+) ms", report)[1]) for report in reports)
    roll_ms = [float(found[1]) for report in reports if (found := re.search(r"^  roll +([\d.]+) ms", report, re.M))]
    loops = re.findall(r"rolled: (\d+) × (\d+) nodes .* into (\w+)", reports[0])
    bench = json.loads(run([gradc, "bench", *common, "--seconds", str(seconds), "--threads", "1", "--json"]))
    return {
        "steps": steps,
        "way": way,
        "loops": [f"{count} x {nodes} {into}" for count, nodes, into in loops],
        "compile_ms": compile_ms,
        "roll_ms": min(roll_ms, default=0.0),
        "kernels": bench["kernels"],
        "planned_peak_bytes": bench["planned_peak_bytes"],
        "min_us": bench["min_us"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradc", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[40, 200, 1000])
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for steps in arguments.steps:
            for way in ["rolled", "flat"]:
                row = measure(arguments.gradc, pathlib.Path(folder), steps, way, arguments.seconds)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
