#!/usr/bin/env python3
"""What folding the step of a solver costs in digits: least squares in f32, by steps x - (x D' - y) D P and x - (x G - h).

    python3 benches/digits.py

24 unknowns, 32 equations that have a solution, condition numbers of D from 3 to 300. Gradient descent has P = 1;
refinement has P near the inverse of D'D. G = D' D P and h = y D P are made in f32 too. Prints a Markdown table of the
relative distance to the solution in f64. Needs numpy.
"""
import numpy as np

UNKNOWNS, EQUATIONS, SEED = 24, 32, 0
CONDITIONS = [3, 10, 30, 100, 300]
MOST_STEPS = 400_000


def problem(condition, rng):
    """D with singular values from 1 down to 1/condition, y, and the solution for them as they are stored."""
    left, _ = np.linalg.qr(rng.normal(size=(EQUATIONS, UNKNOWNS)))
    right, _ = np.linalg.qr(rng.normal(size=(UNKNOWNS, UNKNOWNS)))
    d = ((left * np.geomspace(1, 1 / condition, UNKNOWNS)) @ right.T).astype(np.float32)
    y = (d.astype(np.float64) @ rng.normal(size=UNKNOWNS)).astype(np.float32)
    return d, y, np.linalg.lstsq(d.astype(np.float64), y.astype(np.float64), rcond=None)[0]


def errors(d, y, solution, p, steps):
    g, h = p @ (d.T @ d), p @ (d.T @ y)
    apart = folded = np.zeros(UNKNOWNS, np.float32)
    for _ in range(steps):
        apart = apart - p @ (d.T @ (d @ apart - y))
        folded = folded - (g @ folded - h)
    return [np.linalg.norm(x - solution) / np.linalg.norm(solution) for x in (apart, folded)]


def main():
    rng = np.random.default_rng(SEED)
    print("| condition of D | descent | descent, folded | refinement | refinement, folded |\n|---|---|---|---|---|")
    for condition in CONDITIONS:
        d, y, solution = problem(condition, rng)
        descent = errors(d, y, solution, np.eye(UNKNOWNS, dtype=np.float32), min(40 * condition**2, MOST_STEPS))
        square = d.T.astype(np.float64) @ d.astype(np.float64)
        refinement = errors(d, y, solution, (0.7 * np.linalg.inv(square)).astype(np.float32), 200)
        print(f"| {condition} | " + " | ".join(f"{e:.1e}" for e in descent + refinement) + " |")


if __name__ == "__main__":
    main()
