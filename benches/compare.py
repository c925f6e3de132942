#!/usr/bin/env python3
"""Time one training step of the reference models in gradc, PyTorch, JAX and the Rust frameworks, in turn on one machine.

    cargo build --release --locked
    python3 benches/compare.py [--rounds N] [--seconds S] [--threads 1 2]
        [--modes eager tuned compile] [--peers] [--cache DIR] [--json FILE] [MODEL ...]

The folder GRADC_SHARED (default ../shared) has the models, their recipes and the other frameworks' programs. What
those need is installed into the cache folder the first time (several GB). Every round runs all of them one after the
other, so that they meet the same weather; a program's figure is its best round's median. Prints a Markdown table of
microseconds per step and of ratios (other / gradc), with the machine it was taken on; `--json FILE` keeps all figures.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("GRADC_SHARED", ROOT.parent / "shared"))
REFERENCE = SHARED / "reference"
MODELS = ["mlp_digits", "mlp_mnist", "lenet", "resnet8", "mobilenetv2_tiny", "mobilenetv2_sparse", "gpt_tiny",
          "lora_mlp", "char_lstm", "ista_denoiser"]
JAX_MODELS = {"mlp_digits", "mlp_mnist", "gpt_tiny", "ista_denoiser"}
PEERS = {"rlx": ["--release"], "dfdx": ["--release"], "burn": ["--release", "--features", "flex"],
         "candle": ["--release"], "topos": ["--release"]}
PEER_MODELS = {"mlp_digits", "mlp_mnist", "lenet", "gpt_tiny"}


def setup_python(folder, packages):
    """A virtual environment with packages, made once."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def setup_peer(name, cache):
    """A Rust framework's program, built once; None where it does not build."""
    target = cache / "peers" / name
    program = target / "release" / name
    if not any(target.glob("release/*")):
        source = REFERENCE / "rust_peers" / name
        command = ["cargo", "build", *PEERS[name], "--manifest-path", source / "Cargo.toml", "--target-dir", target]
        if subprocess.run(command).returncode != 0:
            return None
    programs = [p for p in (target / "release").iterdir() if p.is_file() and os.access(p, os.X_OK) and not p.suffix]
    return program if program.exists() else next(iter(programs), None)


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
    if model in PEER_MODELS:
        for name, program in tools["peers"].items():
            yield name, lambda program=program: pinned(threads, [program, model, seconds])


def measure(model, threads, args, tools):
    """Best median and peak memory of every program."""
    best = {}
    for _ in range(args.rounds):
        for name, run in programs(model, threads, args, tools):
            for result in run():
                known = best.get(name)
                if known is None or result["median_us"] < known["median_us"]:
                    best[name] = {"median_us": result["median_us"], "peak_rss_mib": result.get("peak_rss_mib")}
    return best


def row(model, best):
    """A line of the table."""
    own = best["gradc"]["median_us"]
    torch = {name: r for name, r in best.items() if name.startswith("torch")}
    name, fastest = min(torch.items(), key=lambda item: item[1]["median_us"])
    cells = [model, f"{own:,.0f}" if own >= 100 else f"{own:.1f}",
             f"{fastest['median_us']:,.0f} ({name.split()[1]})", f"**{fastest['median_us'] / own:.2f}**"]
    for other in ["jax", *PEERS]:
        cells.append(f"{best[other]['median_us'] / own:.2f}" if other in best else "")
    return cells + [f"{best['gradc']['peak_rss_mib']:.0f} / {fastest['peak_rss_mib']:.0f}"]


def table(results):
    header = ["model", "gradc µs", "PyTorch µs (best mode)", "PyTorch ÷ gradc", *(f"{n} ÷ gradc" for n in ["JAX", *PEERS]),
              "resident MiB, gradc / PyTorch"]
    rows = [row(model, best) for model, best in results.items() if "gradc" in best]
    keep = [k for k, _ in enumerate(header) if any(r[k] for r in rows)]
    line = lambda cells: "| " + " | ".join(cells[k] for k in keep) + " |"
    return "\n".join([line(header), "|" + "---|" * len(keep), *map(line, rows)])


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.processor())
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    return f"{name}, {os.cpu_count()} cores, {'AVX-512' if ' avx512f ' in flags else 'AVX2' if ' avx2 ' in flags else 'no AVX2'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", default=["eager", "tuned", "compile"], help="PyTorch's ways to run")
    parser.add_argument("--gradc", type=pathlib.Path, default=ROOT / "target" / "release" / "gradc")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target" / "compare")
    parser.add_argument("--peers", action="store_true", help="the Rust frameworks too, which takes minutes to build")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    args = parser.parse_args()
    if not REFERENCE.exists():
        sys.exit(f"no reference models in {REFERENCE}: set GRADC_SHARED")
    args.cache.mkdir(parents=True, exist_ok=True)
    tools = {"torch": setup_python(args.cache / "venv", ["torch", "torchvision", "safetensors", "numpy"]),
             "jax": setup_python(args.cache / "venv-jax", ["jax[cpu]", "optax"]), "peers": {}}
    if args.peers:
        tools["peers"] = {name: program for name in PEERS if (program := setup_peer(name, args.cache))}
    print(f"{machine()}; best of {args.rounds} rounds of {args.seconds:g} s")
    figures = {}
    for threads in args.threads:
        figures[threads] = {model: measure(model, threads, args, tools) for model in args.models}
        print(f"\n{threads} thread{'s' if threads > 1 else ''}:\n\n{table(figures[threads])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
