#!/usr/bin/env python3
"""Time one training step of the reference models in gradc, PyTorch, JAX and Rust frameworks, in turn on one machine.

    cargo build --release --locked
    python3 benches/compare.py [--rounds N] [--seconds S] [--threads 1 2]
        [--modes eager tuned compile] [--peers [NAME ...]] [--cache DIR] [--json FILE] [--readme] [MODEL ...]

The folder GRADC_SHARED (default ../shared) has the models, their recipes and the other frameworks' programs. What
those need is installed into the cache folder the first time (several GB). Every round runs all of them one after the
other, so that they meet the same weather; a program's figure is its best round's median. Prints Markdown tables of
microseconds per step, of ratios (other / gradc) and of resident memory, one for PyTorch and JAX and with `--peers` one
for the Rust frameworks, with the machine they were taken on; `--json FILE` keeps all figures, `--readme` puts the tables
in README.md, in the place of those of the same machine. A framework that does not build and a program that fails are
told and left out. RLX multiplies by OpenBLAS, whose library has to be there (Debian's libopenblas-dev); without it
mlp_mnist takes RLX 27 times as long. Where gradc's median and the mean over the whole run differ by more than 3 %, that is
told too, with the share of the time that the system takes from a loop that does nothing: something else ran, or the median
hides what steps cost.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("GRADC_SHARED", ROOT.parent / "shared"))
REFERENCE = SHARED / "reference"
MODELS = ["mlp_digits", "mlp_mnist", "lenet", "resnet8", "mobilenetv2_tiny", "mobilenetv2_sparse", "gpt_tiny",
          "lora_mlp", "char_lstm", "ista_denoiser"]
JAX_MODELS = {"mlp_digits", "mlp_mnist", "gpt_tiny", "ista_denoiser"}
# The Rust frameworks, and the features their programs are built with.
PEERS = {"rlx": ["openblas"], "dfdx": [], "burn": ["flex"], "candle": [], "topos": []}
# What is kept of a program's result.
KEPT = ("fw", "median_us", "mean_us", "interrupted_share", "peak_rss_mib")
# What stands around the tables of a machine in README.md.
BEGIN, END = "<!-- made by benches/compare.py --readme on {} -->", "<!-- end -->"
# The models that every Rust framework's program has, and those of programs that have others.
PEER_MODELS = {"mlp_digits", "mlp_mnist", "lenet", "gpt_tiny"}
PEER_MODELS_OF = {"dfdx": {"mlp_digits", "mlp_mnist"}}


def setup_python(folder, packages):
    """A virtual environment with packages, made once."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def setup_peer(name, cache):
    """A Rust framework's program, built once from a copy of its source; None where it does not build."""
    source, target = cache / "peers" / "source", cache / "peers" / name
    if not source.exists():
        shutil.copytree(REFERENCE / "rust_peers", source, copy_function=shutil.copyfile)
    program = built_program(target)
    if program is None:
        features = [argument for feature in PEERS[name] for argument in ("--features", feature)]
        command = ["cargo", "build", "--release", *features, "--manifest-path", source / name / "Cargo.toml",
                   "--target-dir", target]
        # For this processor, as gradc compiles for it.
        subprocess.run(command, env={**os.environ, "RUSTFLAGS": "-C target-cpu=native"})
        program = built_program(target)
    if program is None:
        print(f"{name} does not build and is left out", file=sys.stderr)
    return program


def built_program(target):
    """The only program that Cargo has linked in a target folder, None where there is none."""
    files = target.glob("release/*")
    return next((p for p in files if p.is_file() and os.access(p, os.X_OK) and not p.suffix), None)


def pinned(threads, command, **environment):
    """Runs a program on the first cores; returns the JSON objects it prints."""
    cores = ",".join(str(k) for k in range(threads))
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), **environment}
    run = subprocess.run(["taskset", "-c", cores, *map(str, command)], env=env, capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    found = [line for line in lines if "median_us" in line]
    if not found:
        print(f"no result from {command[0]}: {run.stderr.strip()[-300:]}", file=sys.stderr)
    return found


def gradc(program, model, threads, seconds):
    folder = REFERENCE / "models" / model
    return pinned(threads, [program, "bench", folder / "model.pt2", "--recipe",
                            folder / "recipe.json", "--threads", threads, "--seconds", seconds, "--json"])


def programs(model, threads, args, tools):
    """What is timed for a model: (name, a function that runs it)."""
    seconds = args.seconds
    yield "gradc", lambda: gradc(args.gradc, model, threads, seconds)
    for mode in args.modes:
        yield f"torch {mode}", lambda mode=mode: pinned(threads, [
            tools["torch"], REFERENCE / "bench_torch.py", "--threads", threads, "--mode", mode, "--seconds", seconds, model])
    if model in JAX_MODELS:
        yield "jax", lambda: pinned(threads, [tools["jax"], REFERENCE / "bench_jax.py", "--seconds", seconds, model])
    for name, program in tools["peers"].items():
        if model in PEER_MODELS_OF.get(name, PEER_MODELS):
            yield name, lambda program=program: pinned(threads, [program, model, seconds])


def measure(model, threads, args, tools):
    """Best median and peak memory of every program."""
    best = {}
    for _ in range(args.rounds):
        for name, run in programs(model, threads, args, tools):
            for result in run():
                known = best.get(name)
                if known is None or result["median_us"] < known["median_us"]:
                    best[name] = {key: result.get(key) for key in KEPT}
    own = best.get("gradc")
    if own and abs(own["mean_us"] / own["median_us"] - 1) > 0.03:
        print(f"{model}, {threads} threads: median {own['median_us']:.1f} µs, mean {own['mean_us']:.1f} µs; "
              f"a loop that only reads the clock was interrupted for {own['interrupted_share']:.1%} of the time", file=sys.stderr)
    return best


def fastest_torch(best):
    return min((r for name, r in best.items() if name.startswith("torch")), key=lambda r: r["median_us"], default=None)


def per_threads(figures, model, figure):
    """One cell: a figure for every number of threads, empty where there is none."""
    cells = [figure(by_model[model]) for by_model in figures.values()]
    return " / ".join(cells) if all(cells) else ""


def ratio(other):
    """How many times as long as gradc another program takes."""
    def figure(best):
        them = fastest_torch(best) if other == "torch" else best.get(other)
        if not them or "gradc" not in best:
            return ""
        times = them["median_us"] / best["gradc"]["median_us"]
        return f"{times:.2f}" if times < 10 else f"{times:.1f}"
    return figure


def microseconds(best):
    return f"{best['gradc']['median_us']:,.0f}" if "gradc" in best else ""


def largest_resident(figures, model, name):
    """Peak resident memory of a program with any number of threads, MiB; empty where it was not told."""
    found = [by_model[model].get(name, {}).get("peak_rss_mib") for by_model in figures.values()]
    return f"{max(found):.0f}" if all(found) else ""


def table(figures, others, programs):
    """Times of gradc and ratios of `others` (name: title), resident memory of `programs`; only what has figures."""
    columns = [("gradc µs", lambda model: per_threads(figures, model, microseconds))]
    for name, title in others.items():
        columns.append((f"{title} ÷ gradc", lambda model, name=name: per_threads(figures, model, ratio(name))))
    for name in programs:
        columns.append((f"{name} MiB", lambda model, name=name: largest_resident(figures, model, name)))
    rows = {model: [cell(model) for _, cell in columns] for model in next(iter(figures.values()))}
    rows = {model: cells for model, cells in rows.items() if any(cells[1:1 + len(others)])}
    keep = [k for k in range(len(columns)) if any(cells[k] for cells in rows.values())]
    line = lambda first, cells: "| " + " | ".join([first, *(cells[k] for k in keep)]) + " |"
    return "\n".join([line("model", [title for title, _ in columns]), "|" + "---|" * (1 + len(keep)),
                      *(line(model, cells) for model, cells in rows.items())])


def timed_peers(figures):
    """The Rust frameworks that were timed, each with what its program calls itself."""
    results = [best for by_model in figures.values() for best in by_model.values()]
    return {name: best[name]["fw"] for name in PEERS for best in results if name in best}


def into_readme(text):
    """Replaces what README.md has of this machine; what it has not goes before all others."""
    path, begin = ROOT / "README.md", BEGIN.format(machine())
    readme = path.read_text()
    known = begin in readme
    before, _, rest = readme.partition(begin if known else BEGIN.partition("{")[0])
    after = rest.partition(END)[2] if known else "\n\n" + BEGIN.partition("{")[0] + rest
    path.write_text(f"{before}{begin}\n{text}\n{END}{after}")


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.processor())
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    return f"{name}, {os.cpu_count()} cores, {'AVX-512' if ' avx512f ' in flags else 'AVX2' if ' avx2 ' in flags else 'no AVX2'}"


def version(python, package):
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", default=["eager", "tuned", "compile"], help="PyTorch's ways to run")
    parser.add_argument("--gradc", type=pathlib.Path, default=ROOT / "target" / "release" / "gradc")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target" / "compare")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="the Rust frameworks too (all, or these): minutes to build")
    parser.add_argument("--readme", action="store_true", help="put the tables in README.md")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    args = parser.parse_args()
    if not REFERENCE.exists():
        sys.exit(f"no reference models in {REFERENCE}: set GRADC_SHARED")
    args.cache.mkdir(parents=True, exist_ok=True)
    tools = {"torch": setup_python(args.cache / "venv", ["torch", "torchvision", "safetensors", "numpy"]),
             "jax": setup_python(args.cache / "venv-jax", ["jax[cpu]", "optax"]), "peers": {}}
    if args.peers is not None:
        wanted = args.peers or PEERS
        tools["peers"] = {name: program for name in wanted if (program := setup_peer(name, args.cache))}
    figures = {}
    for threads in args.threads:
        figures[threads] = {model: measure(model, threads, args, tools) for model in args.models}
    threads = " / ".join(map(str, args.threads))
    text = (f"{datetime.date.today()}, {machine()}, {threads} threads, best of {args.rounds} rounds of {args.seconds:g} s;"
            f" PyTorch {version(tools['torch'], 'torch')}, JAX {version(tools['jax'], 'jax')}:\n\n"
            + table(figures, {"torch": "PyTorch", "jax": "JAX"}, ["gradc"]))
    if peers := timed_peers(figures):
        text += f"\n\n{', '.join(peers.values())}:\n\n{table(figures, {name: name for name in peers}, ['gradc', *peers])}"
    print(text)
    if args.readme:
        into_readme(text)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
