#!/usr/bin/env python3
"""Compile and step a transformer of GPT-2 small's size (Radford et al., 2019), with AdamW, against the core's arithmetic.

    cargo build --release --locked
    python3 benches/gpt2_small.py [--gradc PROGRAM] [--layers 12] [--width 768] [--heads 12] [--context 256]
        [--vocabulary 50257] [--batch 1] [--threads 1] [--seconds 20] [--folder DIR] [--cache DIR]
        [-- FLAGS OF gradc bench …]

The model (124 M parameters: the head reads the token embedding, queries, keys and values are one product) is written as
JSON to DIR (default: a temporary one); gradc draws its weights. Prints one line of JSON: compile time, step time, the
step's FLOP/s as a share of what `gradc bench --calibrate` measures the cores to multiply and add, planned and resident memory.

With `--cache`, the folder benches/compare.py installs PyTorch into, PyTorch's library (MKL on x86-64) then computes the
same step's products with weights and nothing else, in the same order and for as long, each layer with weights and
gradients of its own; its median FLOP/s is printed too, and the share of it that gradc's whole step reaches.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile

from compare import setup_python

# Runs in the environment that has PyTorch: the median of passes over a step's products with weights, FLOP/s.
PRODUCTS = """
import json, statistics, sys, time, torch
a = json.loads(sys.argv[1])
torch.set_num_threads(a["threads"])
width, rows = a["width"], a["batch"] * a["context"]
layer = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
shapes = layer * a["layers"] + [(a["vocabulary"], width)]
weights, gradients = ([make(shape) for shape in shapes] for make in (torch.rand, torch.empty))
given = {n: torch.rand(rows, n) for shape in shapes for n in shape}
made = {n: torch.empty(rows, n) for n in given}

def products():
    for w in weights:
        torch.mm(given[w.shape[1]], w.T, out=made[w.shape[0]])
    for w, gradient in zip(weights[::-1], gradients[::-1]):
        torch.mm(given[w.shape[0]], w, out=made[w.shape[1]])
        torch.mm(given[w.shape[0]].T, given[w.shape[1]], out=gradient)

products()
passes, end = [], time.perf_counter() + a["seconds"]
while not passes or time.perf_counter() < end:
    start = time.perf_counter()
    products()
    passes.append(time.perf_counter() - start)
print(6 * rows * sum(w.numel() for w in weights) / statistics.median(passes))
"""

RECIPE = {"loss": {"kind": "softmax_cross_entropy", "prediction": "y"},
          "optimizer": {"kind": "adamw", "lr": 3e-4, "weight_decay": 0.1}}


def node(name, op, *inputs, **attrs):
    return {"name": name, "op": op, "inputs": list(inputs), "attrs": attrs}


class Model:
    """A model in gradc's JSON as it is written down."""

    def __init__(self):
        self.parameters, self.nodes = [], []

    def parameter(self, name, shape, kind, **init):
        self.parameters.append({"name": name, "shape": shape, "init": {"kind": kind, **init}})
        return name

    def node(self, name, op, *inputs, **attrs):
        self.nodes.append(node(name, op, *inputs, **attrs))
        return name

    def linear(self, name, x, rows, columns):
        weight = self.parameter(f"{name}.weight", [rows, columns], "normal", std=0.02)
        return self.node(name, "linear", x, weight, self.parameter(f"{name}.bias", [rows], "zeros"))

    def layer_norm(self, name, x, width):
        weight = self.parameter(f"{name}.weight", [width], "ones")
        return self.node(name, "layer_norm", x, weight, self.parameter(f"{name}.bias", [width], "zeros"))

    def attention(self, name, x, a):
        """Causal self-attention of all heads, from one product for queries, keys and values."""
        joined = self.linear(f"{name}.qkv", x, 3 * a.width, a.width)
        size = a.width // a.heads
        split = self.node(f"{name}.split", "reshape", joined, shape=["batch", a.context, 3, a.heads, size])
        parts = self.node(f"{name}.parts", "transpose", split, perm=[2, 0, 3, 1, 4])
        heads = []
        for k, part in enumerate("qkv"):
            one = self.node(f"{name}.{part}.one", "slice", parts, start=[k, 0, 0, 0, 0],
                            limit=[k + 1, a.batch, a.heads, a.context, size], stride=[1, 1, 1, 1, 1])
            heads.append(self.node(f"{name}.{part}", "reshape", one, shape=["batch", a.heads, a.context, size]))
        mixed = self.node(f"{name}.mixed", "attention", *heads, is_causal=True)
        rows = self.node(f"{name}.rows", "transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(f"{name}.proj", self.node(f"{name}.joined", "reshape", rows, shape=["batch", a.context, a.width]),
                           a.width, a.width)

    def block(self, name, x, a):
        x = self.node(f"{name}.mixed", "add", x, self.attention(f"{name}.attn", self.layer_norm(f"{name}.ln1", x, a.width), a))
        hidden = self.linear(f"{name}.fc", self.layer_norm(f"{name}.ln2", x, a.width), 4 * a.width, a.width)
        hidden = self.node(f"{name}.gelu", "gelu", hidden, approximate="tanh")
        return self.node(f"{name}.out", "add", x, self.linear(f"{name}.proj", hidden, a.width, 4 * a.width))


def gpt(a):
    m = Model()
    words = m.parameter("wte.weight", [a.vocabulary, a.width], "normal", std=0.02)
    places = m.parameter("wpe.weight", [a.context, a.width], "normal", std=0.01)
    x = m.node("embedded", "add", m.node("wte", "embedding", words, "tokens"), places)
    for k in range(a.layers):
        x = m.block(f"blocks.{k}", x, a)
    head = m.node("head", "linear", m.layer_norm("ln_f", x, a.width), words)
    logits = m.node("logits", "transpose", head, perm=[0, 2, 1])
    tokens = {"name": "tokens", "dtype": "i64", "shape": ["batch", a.context]}
    return {"gradc": 1, "dims": {"batch": a.batch}, "inputs": [tokens], "parameters": m.parameters, "nodes": m.nodes,
            "outputs": [{"name": "y", "value": logits}]}


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def measured(folder, a):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(gpt(a)))
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    peak = float(re.search(r"peak_gflops: ([\d.]+)", output(a.gradc, "bench", "--calibrate")).group(1))
    result = json.loads(output(a.gradc, "bench", folder / "model.json", "--recipe", folder / "recipe.json", "--threads",
                               a.threads, "--seconds", a.seconds, "--json", *a.flags))
    gflops = result["flops_per_step"] / result["median_us"] / 1e3
    rates = {"gflops": gflops, "peak_gflops_per_core": peak, "share_of_peak": gflops / peak / a.threads}
    if a.cache:
        library = library_gflops(a)
        rates |= {"library_gflops": library, "share_of_library": gflops / library}
    return {**result, **rates}


def library_gflops(a):
    python = setup_python(a.cache / "venv", ["torch"])
    given = ("layers", "width", "context", "vocabulary", "batch", "threads", "seconds")
    return float(output(python, "-c", PRODUCTS, json.dumps({name: getattr(a, name) for name in given}))) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradc", type=pathlib.Path, default=pathlib.Path("target/release/gradc"))
    for name, size in {"layers": 12, "width": 768, "heads": 12, "context": 256, "vocabulary": 50257, "batch": 1, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder")
    parser.add_argument("--cache", type=pathlib.Path)
    parser.add_argument("flags", nargs="*")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measured(a.folder or temporary, a)))


if __name__ == "__main__":
    main()
