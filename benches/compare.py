#!/usr/bin/env python3
"""Time one training step of the reference models in gradc, PyTorch, JAX and the Rust frameworks, in turn on one machine.

    cargo build --release --locked
    python3 benches/compare.py [--rounds N] [--seconds S] [--threads 1 2]
        [--modes eager tuned compile] [--peers [NAME ...]] [--cache DIR] [--json FILE] [--readme] [MODEL ...]

The folder GRADC_SHARED (default ../shared) has the models, their recipes and the other frameworks' programs. What
those need is installed into the cache folder the first time (several GB). Every round runs all of them one after the
other, so that they meet the same weather; a program's figure is its best round's median. Prints a Markdown table of
microseconds per step and of ratios (other / gradc), with the machine it was taken on; `--json FILE` keeps all figures,
`--readme` puts the table in README.md. A program that fails is told and left out. RLX multiplies by OpenBLAS, whose
library has to be there (Debian's libopenblas-dev); without it mlp_mnist takes RLX 27 times as long. Where gradc's median and the
mean over the whole run differ by more than 3 %, that is told too: something else ran, or the median hides what steps
cost.
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
PEERS = {"rlx": ["--release", "--features", "openblas"], "dfdx": ["--release"], "burn": ["--release", "--features", "flex"],
         "candle": ["--release"], "topos": ["--release"]}
BEGIN, END = "<!-- made by benches/compare.py --readme -->", "<!-- end -->"
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
    if not any(target.glob("release/*")):
        if not source.exists():
            shutil.copytree(REFERENCE / "rust_peers", source, copy_function=shutil.copyfile)
        manifest = source / name / "Cargo.toml"
        command = ["cargo", "build", *PEERS[name], "--manifest-path", manifest, "--target-dir", target]
        # For this processor, as gradc compiles for it.
        flags = {**os.environ, "RUSTFLAGS": "-C target-cpu=native"}
        if subprocess.run(command, env=flags).returncode != 0:
            print(f"{name} does not build and is left out", file=sys.stderr)
            return None
    programs = [p for p in (target / "release").iterdir() if p.is_file() and os.access(p, os.X_OK) and not p.suffix]
    return min(programs, key=lambda p: p.name != name, default=None)


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
                    best[name] = {key: result.get(key) for key in ("median_us", "mean_us", "peak_rss_mib")}
    own = best.get("gradc")
    if own and abs(own["mean_us"] / own["median_us"] - 1) > 0.03:
        print(f"{model}, {threads} threads: median {own['median_us']:.1f} µs, mean {own['mean_us']:.1f} µs", file=sys.stderr)
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


def resident(best):
    return f"{best['gradc']['peak_rss_mib']:.0f}" if best.get("gradc", {}).get("peak_rss_mib") else ""


def table(figures):
    others = {"torch": "PyTorch", "jax": "JAX", **{name: name for name in PEERS}}
    columns = [("model", lambda model: model), ("gradc µs", lambda model: per_threads(figures, model, microseconds))]
    for name, title in others.items():
        columns.append((f"{title} ÷ gradc", lambda model, name=name: per_threads(figures, model, ratio(name))))
    columns.append(("gradc resident MiB", lambda model: per_threads(figures, model, resident)))
    models = list(next(iter(figures.values())))
    rows = [[cell(model) for _, cell in columns] for model in models]
    keep = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    line = lambda cells: "| " + " | ".join(cells[k] for k in keep) + " |"
    return "\n".join([line([title for title, _ in columns]), "|" + "---|" * len(keep), *map(line, rows)])


def into_readme(text):
    """Replaces what stands between the markers."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


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
    parser.add_argument("--readme", action="store_true", help="put the table in README.md")
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
            f" PyTorch {version(tools['torch'], 'torch')}, JAX {version(tools['jax'], 'jax')}:\n\n{table(figures)}")
    print(text)
    if args.readme:
        into_readme(text)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
