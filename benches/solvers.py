#!/usr/bin/env python3
"""One training step through a solver: how gradients pass through its loop, over its number of steps, beside JAX.

    cargo build && python3 benches/solvers.py --gradc target/debug/gradc [--problems ista qp] [--steps 40 200 1000]
        [--fp strict reassoc] [--seconds 1] [--cache DIR]

The models are examples/models/ista.json (16 examples of 32 numbers, 48 atoms) and qp.json (16 projected-gradient
solutions of 24 numbers) on the first batch of their data, one thread, with SGD. JAX computes the same step: `unrolled` in Python, `scan`, and `implicit`,
whose backward pass iterates v <- Φ'v + g to 1e-5; it is installed into the cache folder the first time (--no-jax leaves
it out). Prints a Markdown table; times are the shortest of the run.
"""
import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Model, data and name of the loop.
PROBLEMS = {
    "ista": (ROOT / "examples/models/ista.json", ROOT / "examples/data/denoise.safetensors", "code"),
    "qp": (ROOT / "examples/models/qp.json", ROOT / "examples/data/qp.safetensors", "solve"),
}
WAYS = ["unrolled", "exact", "checkpoint", "frozen", "implicit"]
JAX_WAYS = ["unrolled", "scan", "implicit"]
EXAMPLES, LENGTH, ATOMS, UNKNOWNS = 16, 32, 48, 24
# Longer programs than this are not unrolled: XLA takes minutes for them.
MOST_UNROLLED_IN_JAX = 100


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def first_batch(path):
    """The first examples of a safetensors file of f32 matrices, as rows by name."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    rows = {}
    for name, entry in header.items():
        width, start = entry["shape"][1], entry["data_offsets"][0]
        values = struct.unpack_from(f"<{EXAMPLES * width}f", body, start)
        rows[name] = [values[k * width:(k + 1) * width] for k in range(EXAMPLES)]
    return rows


def write_batch(path, rows):
    header, body = {}, b""
    for name, matrix in rows.items():
        values = b"".join(struct.pack(f"<{len(row)}f", *row) for row in matrix)
        header[name] = {"dtype": "F32", "shape": [len(matrix), len(matrix[0])], "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def gradc_row(gradc, folder, problem, steps, way, fp, seconds):
    model, data, loop = PROBLEMS[problem]
    recipe, inputs = folder / "recipe.json", folder / "batch.safetensors"
    recipe.write_text(json.dumps({
        "loss": {"kind": "mse", "prediction": "y"},
        "optimizer": {"kind": "sgd", "lr": 0.05},
        "solvers": [{"at": loop, "backward": way}],
    }))
    write_batch(inputs, first_batch(data))
    common = [model, "--recipe", recipe, "--dim", f"steps={steps}", "--threads", 1, "--fp", fp]
    report = run([gradc, "compile", *common, "--report"])
    bench = json.loads(run([gradc, "bench", *common, "--inputs", inputs, "--seconds", seconds, "--json"]))
    return {
        "way": f"gradc {way}" if fp == "strict" else f"gradc {way}, {fp}",
        "compile_ms": bench["compile_s"] * 1e3,
        "min_us": bench["min_us"],
        "planned_bytes": bench["guarded_peak_bytes"],
        "worst_bytes": bench["worst_case_peak_bytes"],
        "code": re.search(r"code ([\d.]+ \w+)", report)[1],
        "fell_back": sum(bench["solver_fallbacks"].values()) / (bench["steps"] + 1),
    }


def jax_ista(jax, jnp):
    """Parameters, what follows from them once, a step, its start, and what is compared with the target."""
    def step(x, y, p):
        z = x - 0.2 * (x @ p["D"].T - y) @ p["D"]
        return jnp.sign(z) * jax.nn.relu(jnp.abs(z) - 0.2 * jnp.exp(p["lam"]))

    p = {"D": jax.random.normal(jax.random.PRNGKey(0), (LENGTH, ATOMS)) * 0.17, "lam": jnp.float32(-0.5)}
    return p, lambda p: p, step, jnp.zeros((EXAMPLES, ATOMS)), lambda x, p: x @ p["D"].T


def jax_qp(jax, jnp):
    """As jax_ista."""
    def step(z, c, p):
        return jnp.clip(z - 0.25 * (z @ p["q"] - c), 0, 1)

    p = {"root": jax.random.normal(jax.random.PRNGKey(0), (UNKNOWNS, UNKNOWNS)) * 0.2}
    once = lambda p: {"q": p["root"].T @ p["root"] + 0.5 * jnp.eye(UNKNOWNS)}
    return p, once, step, jnp.zeros((EXAMPLES, UNKNOWNS)), lambda z, p: z


def jax_row(problem, steps, way, seconds):
    """Runs in the process of the cache folder's Python."""
    import jax
    import jax.numpy as jnp
    p, once, step, zero, decoded = {"ista": jax_ista, "qp": jax_qp}[problem](jax, jnp)

    def scanned(y, p):
        return jax.lax.scan(lambda x, _: (step(x, y, p), None), zero, None, length=steps)[0]

    def unrolled(y, p):
        x = zero
        for _ in range(steps):
            x = step(x, y, p)
        return x

    @jax.custom_vjp
    def implicit(y, p):
        return scanned(y, p)

    def forward(y, p):
        x = scanned(y, p)
        return x, (x, y, p)

    def backward(kept, g):
        x, y, p = kept
        _, pull = jax.vjp(lambda x, p: step(x, y, p), x, p)
        unfinished = lambda c: (c[2] < steps) & (jnp.linalg.norm(c[0] - c[1]) > 1e-5 * jnp.linalg.norm(g))
        v, _, _ = jax.lax.while_loop(unfinished, lambda c: (pull(c[0])[0] + g, c[0], c[2] + 1), (g, jnp.zeros_like(g), 0))
        return jnp.zeros_like(y), pull(v)[1]

    implicit.defvjp(forward, backward)
    solve = {"unrolled": unrolled, "scan": scanned, "implicit": implicit}[way]

    def train(p, y, target):
        loss, g = jax.value_and_grad(lambda p: jnp.mean((decoded(solve(y, once(p)), p) - target) ** 2))(p)
        return jax.tree.map(lambda p, g: p - 0.05 * g, p, g), loss

    train = jax.jit(train, donate_argnums=0)
    rows = first_batch(PROBLEMS[problem][1])
    target = jnp.array(rows.pop("target"))
    (y,) = [jnp.array(matrix) for matrix in rows.values()]
    start = time.perf_counter()
    train = train.lower(p, y, target).compile()
    compile_s, memory, times = time.perf_counter() - start, train.memory_analysis(), []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        p, loss = train(p, y, target)
        loss.block_until_ready()
        times.append(time.perf_counter() - start)
    return {"way": f"JAX {way}", "compile_ms": compile_s * 1e3, "min_us": min(times) * 1e6, "planned_bytes": memory.temp_size_in_bytes}


def jax_python(cache):
    python = cache / "venv-jax" / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", cache / "venv-jax"])
        run([python, "-m", "pip", "install", "--quiet", "jax[cpu]"])
    return python


def line(problem, steps, row):
    worst = f"{row['worst_bytes']:,}" if "worst_bytes" in row else ""
    fell_back = f"{100 * row['fell_back']:.0f} %" if "fell_back" in row else ""
    cells = [problem, steps, row["way"], f"{row['compile_ms']:,.0f}", f"{row['min_us']:,.0f}", f"{row['planned_bytes']:,}", worst, row.get("code", ""), fell_back]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradc", type=pathlib.Path)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--steps", type=int, nargs="+", default=[40, 200, 1000])
    parser.add_argument("--fp", nargs="+", default=["strict"], choices=["strict", "reassoc"])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "gradc-bench")
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--jax-row", nargs=3, metavar=("PROBLEM", "STEPS", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.jax_row:
        problem, steps, way = arguments.jax_row
        return print(json.dumps(jax_row(problem, int(steps), way, arguments.seconds)))
    python = None if arguments.no_jax else jax_python(arguments.cache)
    print("| problem | steps | way | compile ms | shortest step µs | bytes | bytes, guard fails | native code | fell back |")
    print("|---|---|---|---|---|---|---|---|---|")
    for problem in arguments.problems:
        for steps in arguments.steps:
            compare(arguments, python, problem, steps)


def compare(arguments, python, problem, steps):
    """Prints the lines of one problem and length."""
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            for fp in arguments.fp:
                row = gradc_row(arguments.gradc, pathlib.Path(folder), problem, steps, way, fp, arguments.seconds)
                print(line(problem, steps, row), flush=True)
    for way in JAX_WAYS if python else []:
        if way != "unrolled" or steps <= MOST_UNROLLED_IN_JAX:
            command = ["taskset", "-c", "0", python, __file__, "--jax-row", problem, steps, way, "--seconds", arguments.seconds]
            print(line(problem, steps, json.loads(run(command))), flush=True)


if __name__ == "__main__":
    main()
