"""Data of the examples with solvers in them: python3 make_solvers.py

denoise.safetensors  signals that few atoms of a dictionary make: `x` with noise, `target` without
qp.safetensors       linear terms `c`, and `target`, the minimum of z'Qz/2 - c'z over 0 <= z <= 1 for one matrix Q
"""
import json
import pathlib
import random
import struct

FOLDER = pathlib.Path(__file__).resolve().parent


def write(name, tensors):
    """A safetensors file of f32 matrices."""
    header, body = {}, b""
    for key, rows in tensors.items():
        values = struct.pack(f"<{len(rows) * len(rows[0])}f", *(v for row in rows for v in row))
        header[key] = {"dtype": "F32", "shape": [len(rows), len(rows[0])], "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (FOLDER / name).write_bytes(struct.pack("<Q", len(text)) + text + body)


def product(row, matrix):
    return [sum(a * b for a, b in zip(row, column)) for column in zip(*matrix)]


def denoise(examples=256, length=32, atoms=48, used=3, noise=0.05):
    draw = random.Random(1)
    dictionary = [[draw.gauss(0, length ** -0.5) for _ in range(length)] for _ in range(atoms)]
    clean = []
    for _ in range(examples):
        code = [0.0] * atoms
        for k in draw.sample(range(atoms), used):
            code[k] = draw.choice([-1, 1]) * draw.uniform(0.5, 1.5)
        clean.append(product(code, dictionary))
    noisy = [[v + draw.gauss(0, noise) for v in row] for row in clean]
    write("denoise.safetensors", {"x": noisy, "target": clean})


def qp(examples=128, n=24, steps=300):
    draw = random.Random(2)
    root = [[draw.gauss(0, 0.2) for _ in range(n)] for _ in range(n)]
    square = [product(column, root) for column in zip(*root)]
    q = [[v + (0.5 if i == k else 0.0) for k, v in enumerate(row)] for i, row in enumerate(square)]
    terms, minima = [], []
    for _ in range(examples):
        c, z = [draw.gauss(0.3, 0.5) for _ in range(n)], [0.0] * n
        for _ in range(steps):
            z = [min(1.0, max(0.0, a - 0.25 * (s - b))) for a, s, b in zip(z, product(z, q), c)]
        terms.append(c)
        minima.append(z)
    write("qp.safetensors", {"c": terms, "target": minima})


if __name__ == "__main__":
    denoise()
    qp()
