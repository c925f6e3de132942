//! Gradients of solvers that were computed without their steps, against closed forms and against the exact gradients.

mod algebra;
mod solver;

use algebra::{Matrix, flat, gram, matrix, noise, solve};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, NodeId, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::{Op, Scan};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::loops::{Backward, FALLBACKS, LoopPolicies, Tolerance};
use gradc_passes::train::{TrainSpec, derive_step_of_loops};
use solver::{Solver, TIGHT, assert_close};

/// A function of `x[1, n]` and further arguments of the given shapes.
fn step(shapes: &[&[usize]], build: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, TypeError>) -> Function {
    let types: Vec<TensorType> = shapes.iter().map(|&shape| TensorType::f32(shape)).collect();
    Builder::function("step", &types, |b, x| build(b, x).map(|y| vec![y])).expect("well typed")
}

/// `x·a`, or `x·aᵀ`.
fn product(b: &mut Builder, x: Value, a: Value, transposed: bool) -> Result<Value, TypeError> {
    b.dot_general(x, a, [&[], &[]], [&[1], &[usize::from(transposed)]])
}

/// `x − rate (x·q − c)`
fn descend(b: &mut Builder, x: Value, c: Value, q: Value, rate: f64) -> Result<Value, TypeError> {
    let slope = product(b, x, q, false)?;
    let slope = b.sub(slope, c)?;
    let step = b.scale(slope, rate)?;
    b.sub(x, step)
}

/// The matrix as a constant of a body that is not differentiated.
fn held(b: &mut Builder, q: Value) -> Result<Value, TypeError> {
    b.stop_gradient(q)
}

/// Gradient descent on `½ xqx − cx`, which `q` shapes and of which `c` is differentiated.
fn quadratic(q: &Matrix, rate: f64, count: usize) -> Solver {
    let n = q.len();
    let step = step(&[&[1, n], &[1, n], &[n, n]], |b, x| {
        let q = held(b, x[2])?;
        let touched = b.scale(x[2], 0.0)?;
        let touched = b.reduce_sum(touched, &[0])?;
        let touched = b.reshape(touched, &[1, n])?;
        let c = b.add(x[1], touched)?;
        descend(b, x[0], c, q, rate)
    });
    Solver { step, count, start: vec![0.0; n], consts: vec![noise(n, 3), flat(q)], g: noise(n, 5) }
}

#[test]
fn quadratic_and_ridge() {
    let q = gram(&matrix(9, 6, 1), 0.2);
    let solver = quadratic(&q, 0.5, 800);
    assert_close(&solver.implicit(), &solve(q, solver.g.clone()), 1e-12);

    // ½‖ax − y‖²/9 + λ½‖x‖²: the gradient of y is a (aᵀa/9 + λ)⁻¹ g / 9.
    let a = matrix(9, 6, 2);
    let ridge = step(&[&[1, 6], &[1, 9], &[9, 6]], |b, x| {
        let a = x[2];
        let reconstruction = product(b, x[0], a, true)?;
        let residual = b.sub(reconstruction, x[1])?;
        let slope = product(b, residual, a, false)?;
        let (slope, pull) = (b.scale(slope, 1.0 / 9.0)?, b.scale(x[0], 0.2)?);
        let slope = b.add(slope, pull)?;
        let step = b.scale(slope, 0.5)?;
        b.sub(x[0], step)
    });
    let consts = vec![noise(9, 3), flat(&a)];
    let solver = Solver { step: ridge, count: 800, start: vec![0.0; 6], consts, g: noise(6, 5) };
    let inner = solve(gram(&a, 0.2), solver.g.clone());
    let expected: Vec<f64> =
        a.iter().map(|row| row.iter().zip(&inner).map(|(r, v)| r * v).sum::<f64>() / 9.0).collect();
    assert_close(&solver.implicit(), &expected, 1e-12);
}

#[test]
fn equality_constrained_quadratic_program() {
    // min ½xqx − cx with Σx = 1: projected gradient; p removes the mean.
    let (n, q) = (6, gram(&matrix(9, 6, 1), 0.2));
    let solver_step = step(&[&[1, n], &[1, n], &[n, n]], |b, x| {
        let moved = descend(b, x[0], x[1], x[2], 0.5)?;
        let sum = b.reduce_sum(moved, &[1])?;
        let (mean, share) = (b.scale(sum, 1.0 / n as f64)?, b.full_like(x[0], 1.0 / n as f64)?);
        let mean = b.broadcast(mean, &[1, n], &[0])?;
        let centred = b.sub(moved, mean)?;
        b.add(centred, share)
    });
    let consts = vec![noise(n, 3), flat(&q)];
    let solver = Solver { step: solver_step, count: 800, start: vec![1.0 / n as f64; n], consts, g: noise(n, 5) };
    let mut kkt: Matrix = q.iter().map(|row| [&row[..], &[1.0]].concat()).collect();
    kkt.push([vec![1.0; n], vec![0.0]].concat());
    let expected = solve(kkt, [&solver.g[..], &[0.0]].concat());
    assert_close(&solver.implicit(), &expected[..n], 1e-12);
}

/// The projection on the simplex (Duchi et al., 2008): `max(x − τ, 0)` with τ from the sorted entries.
fn onto_simplex(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let n = b.shape(x)[1];
    let [sorted, _] = b.sort(x, 1, true)?;
    let (row, entry) = (b.iota(DType::I64, &[n, n], 0)?, b.iota(DType::I64, &[n, n], 1)?);
    let upto = b.compare(CompareFn::Le, row, entry)?;
    let upto = b.cast(upto, DType::F32)?;
    let sums = product(b, sorted, upto, false)?;
    let count = b.iota(DType::F32, &[1, n], 1)?;
    let one = b.full_like(count, 1.0)?;
    let count = b.add(count, one)?;
    let (reached, excess) = (b.mul(sorted, count)?, b.sub(sums, one)?);
    let inside = b.compare(CompareFn::Gt, reached, excess)?;
    let zero = b.full_like(sorted, 0.0)?;
    let (kept, ones) = (b.select(inside, sorted, zero)?, b.select(inside, one, zero)?);
    let (kept, ones) = (b.reduce_sum(kept, &[1])?, b.reduce_sum(ones, &[1])?);
    let one = b.full_like(kept, 1.0)?;
    let over = b.sub(kept, one)?;
    let threshold = b.div(over, ones)?;
    let threshold = b.broadcast(threshold, &[1, n], &[0])?;
    let shifted = b.sub(x, threshold)?;
    let above = b.compare(CompareFn::Gt, shifted, zero)?;
    b.select(above, shifted, zero)
}

/// Projected gradient for `½xsx − cx` on the simplex.
fn portfolio(s: &Matrix, rate: f64, count: usize) -> Solver {
    let n = s.len();
    let step = step(&[&[1, n], &[1, n], &[n, n]], |b, x| {
        let moved = descend(b, x[0], x[1], x[2], rate)?;
        onto_simplex(b, moved)
    });
    let consts = vec![noise(n, 4).iter().map(|c| 0.4 * c).collect(), flat(s)];
    Solver { step, count, start: vec![1.0 / n as f64; n], consts, g: noise(n, 5) }
}

/// The projection of a point on the simplex, by bisection.
fn simplex(c: &[f64]) -> Vec<f64> {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        let sum: f64 = c.iter().map(|c| (c - middle).max(0.0)).sum();
        if sum > 1.0 { low = middle } else { high = middle }
    }
    c.iter().map(|c| (c - low).max(0.0)).collect()
}

#[test]
fn projection_on_the_simplex_is_sparsemax() {
    let unit: Matrix = (0..6).map(|i| (0..6).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let solver = portfolio(&unit, 1.0, 30);
    let support: Vec<f64> = simplex(&solver.consts[0]).iter().map(|&p| f64::from(u8::from(p > 0.0))).collect();
    let inside: f64 = support.iter().sum();
    assert!(inside > 1.0 && inside < 6.0, "some entries are zero, some are not");
    let mean = support.iter().zip(&solver.g).map(|(s, g)| s * g).sum::<f64>() / inside;
    let expected: Vec<f64> = support.iter().zip(&solver.g).map(|(s, g)| s * (g - mean)).collect();
    assert_close(&solver.implicit(), &expected, 1e-14);
}

/// Where the loop ends, by the steps themselves.
fn result(solver: &Solver) -> Vec<f64> {
    let graph = solver.graph(Backward::Exact);
    let tensor =
        |(input, data): (&gradc_ir::graph::Input, Vec<f64>)| Tensor::float(graph.ty(input.value).clone(), data);
    let inputs: Vec<Tensor> = graph.inputs().iter().zip(solver.data()).map(tensor).collect();
    interpret::outputs(&graph, &inputs).expect("it runs")[0].floats().to_vec()
}

#[test]
fn portfolio_on_its_active_set() {
    let s = gram(&matrix(9, 6, 1), 0.2);
    let solver = portfolio(&s, 0.5, 800);
    let active: Vec<usize> = result(&solver).iter().enumerate().filter(|(_, x)| **x > 0.0).map(|(k, _)| k).collect();
    assert!(active.len() > 1 && active.len() < 6, "some entries are zero, some are not: {active:?}");
    let mut kkt: Matrix = active.iter().map(|&i| active.iter().map(|&j| s[i][j]).chain([1.0]).collect()).collect();
    kkt.push([vec![1.0; active.len()], vec![0.0]].concat());
    let inner = solve(kkt, active.iter().map(|&k| solver.g[k]).chain([0.0]).collect());
    let mut expected = vec![0.0; 6];
    active.iter().zip(inner).for_each(|(&k, v)| expected[k] = v);
    assert_close(&solver.implicit(), &expected, 1e-12);
}

/// ISTA for `½‖xa − y‖² + λ|x|`.
fn lasso(a: &Matrix, rate: f64, lambda: f64, count: usize) -> Solver {
    let (n, m) = (a.len(), a[0].len());
    let step = step(&[&[1, n], &[1, m], &[n, m]], |b, x| {
        let reconstruction = product(b, x[0], x[2], false)?;
        let residual = b.sub(reconstruction, x[1])?;
        let slope = product(b, residual, x[2], true)?;
        let step = b.scale(slope, rate)?;
        let moved = b.sub(x[0], step)?;
        let (by, zero) = (b.full_like(moved, rate * lambda)?, b.full_like(moved, 0.0)?);
        let least = b.neg(by)?;
        let (above, below) = (b.compare(CompareFn::Gt, moved, by)?, b.compare(CompareFn::Lt, moved, least)?);
        let (lowered, raised) = (b.sub(moved, by)?, b.add(moved, by)?);
        let negative = b.select(below, raised, zero)?;
        b.select(above, lowered, negative)
    });
    Solver { step, count, start: vec![0.0; n], consts: vec![noise(m, 3), flat(a)], g: noise(n, 5) }
}

#[test]
fn lasso_on_its_support() {
    let a = matrix(6, 10, 7);
    let solver = lasso(&a, 0.03, 0.3, 3000);
    let support: Vec<usize> = result(&solver).iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(k, _)| k).collect();
    assert!(support.len() > 1 && support.len() < 6, "some entries are zero, some are not: {support:?}");
    let dot = |i: usize, j: usize| a[i].iter().zip(&a[j]).map(|(x, y)| x * y).sum::<f64>();
    let normal = support.iter().map(|&i| support.iter().map(|&j| dot(i, j)).collect()).collect();
    let inner = solve(normal, support.iter().map(|&k| solver.g[k]).collect());
    let column = |m: usize| support.iter().zip(&inner).map(|(&k, v)| a[k][m] * v).sum();
    let expected: Vec<f64> = (0..10).map(column).collect();
    assert_close(&solver.implicit(), &expected, 1e-10);
}

/// A deep-equilibrium layer: `x ← tanh(x·w + u)`.
fn equilibrium(rows: usize, n: usize, size: f64, count: usize) -> Solver {
    let step = step(&[&[rows, n], &[rows, n], &[n, n]], |b, x| {
        let turned = product(b, x[0], x[2], false)?;
        let sum = b.add(turned, x[1])?;
        b.tanh(sum)
    });
    let w = noise(n * n, 8).iter().map(|w| size * w).collect();
    Solver { step, count, start: vec![0.0; rows * n], consts: vec![noise(rows * n, 3), w], g: noise(rows * n, 5) }
}

#[test]
fn deep_equilibrium_against_central_differences() {
    let solver = equilibrium(3, 4, 0.3, 400);
    let outcome = solver.run(Backward::Implicit(TIGHT));
    assert_eq!(outcome.fallbacks, 0, "the guard holds");
    let loss = |consts: Vec<Vec<f64>>| -> f64 {
        let moved =
            Solver { step: solver.step.clone(), consts, start: solver.start.clone(), g: solver.g.clone(), ..solver };
        result(&moved).iter().zip(&solver.g).map(|(x, g)| x * g).sum()
    };
    for (which, gradient) in outcome.gradients.iter().enumerate() {
        for (k, found) in gradient.iter().enumerate() {
            let at = |by: f64| {
                let mut consts = solver.consts.clone();
                consts[which][k] += by;
                loss(consts)
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((found - expected).abs() < 1e-8, "constant {which}[{k}]: {found} against {expected}");
        }
    }
}

/// Gradients of parameters, and no updates.
fn gradients_of(trainable: Vec<String>) -> TrainSpec {
    let trainable = trainable.into_iter().map(Into::into).collect();
    TrainSpec { gradient_outputs: true, ..TrainSpec::new(trainable, None) }
}

/// The gradients of `Σ g·x`, where `x` is where the equilibrium rests, and how often the guard did not hold.
fn at_rest(solver: &Solver, limit: f64, max: usize, policy: Backward) -> (Vec<Vec<f64>>, i64) {
    let types: Vec<TensorType> = solver.step.inputs().iter().map(|i| solver.step.ty(i.value).clone()).collect();
    let step = Builder::function("until", &types, |b, x| {
        let next = b.inline(&solver.step, x)?[0];
        let change = b.sub(next, x[0])?;
        let size = b.abs(change)?;
        let largest = b.reduce_max(size, &[0, 1])?;
        let limit = b.full_like(largest, limit)?;
        Ok(vec![next, b.compare(CompareFn::Lt, largest, limit)?])
    });
    let mut b = Builder::new("at rest");
    let inputs: Vec<Value> = types
        .iter()
        .enumerate()
        .map(|(k, ty)| b.parameter(&format!("in{k}"), ty.clone()).expect("a fresh name"))
        .collect();
    let g = b.input("g", types[0].clone()).expect("a fresh name");
    let (x, _) = b.iterate_until(&step.expect("well typed"), max, &inputs[..1], &inputs[1..]).expect("well typed");
    let pairing = b.mul(x[0], g).expect("well typed");
    let loss = b.reduce_sum(pairing, &[0, 1]).expect("well typed");
    b.output("loss", loss, OutputKind::Result);
    let spec = gradients_of((1..inputs.len()).map(|k| format!("in{k}")).collect());
    let graph =
        derive_step_of_loops(&b.finish(), &spec, &LoopPolicies::from([(x[0].node, policy)])).expect("it derives");
    let mut data = solver.data().into_iter();
    let tensor = |input: &gradc_ir::graph::Input| match input.role {
        Role::State => Tensor::splat(graph.ty(input.value).clone(), 0.0),
        _ => Tensor::float(graph.ty(input.value).clone(), data.next().expect("one per input")),
    };
    let tensors: Vec<Tensor> = graph.inputs().iter().map(tensor).collect();
    let (mut gradients, mut fallbacks) = (vec![], 0);
    for (output, result) in graph.outputs().iter().zip(interpret::outputs(&graph, &tensors).expect("it runs")) {
        match output.name.as_str() {
            name if name.starts_with("grad.") => gradients.push(result.floats().to_vec()),
            name if name.starts_with(FALLBACKS) => fallbacks += result.ints()[0],
            _ => {}
        }
    }
    (gradients, fallbacks)
}

#[test]
fn a_loop_that_ends_when_it_has_arrived_has_the_gradient_of_its_fixed_point() {
    let solver = equilibrium(3, 4, 0.3, 400);
    let (implicit, fallbacks) = at_rest(&solver, 1e-12, 400, Backward::Implicit(TIGHT));
    assert_eq!(fallbacks, 0, "the guard holds");
    let expected = solver.run(Backward::Implicit(TIGHT)).gradients;
    implicit.iter().zip(&expected).for_each(|(found, expected)| assert_close(found, expected, 1e-10));
    // It stops early, so the guard refuses: the gradient is that of the steps that were made.
    let (guarded, fallbacks) = at_rest(&solver, 1e-3, 400, Backward::Implicit(TIGHT));
    assert_eq!(fallbacks, 1);
    let (exact, _) = at_rest(&solver, 1e-3, 400, Backward::Exact);
    guarded.iter().zip(&exact).for_each(|(found, exact)| assert_close(found, exact, 1e-13));
    assert!(exact[0].iter().zip(&expected[0]).any(|(a, b)| (a - b).abs() > 1e-6), "which is another one");
}

#[test]
fn frozen_is_exact_for_affine_steps() {
    let q = gram(&matrix(9, 6, 1), 0.2);
    for count in [1, 2, 3, 7, 20, 50] {
        let solver = quadratic(&q, 0.5, count);
        let (exact, frozen) = (solver.run(Backward::Exact), solver.run(Backward::Frozen(TIGHT)));
        assert_eq!(frozen.fallbacks, 0, "nothing to guard");
        assert_close(&frozen.gradients[0], &exact.gradients[0], 1e-14);
    }
}

#[test]
fn frozen_is_near_where_the_loop_has_nearly_arrived() {
    for count in [10, 20, 40] {
        let solver = equilibrium(3, 4, 0.3, count);
        let ended = result(&solver);
        let next = result(&Solver { start: ended.clone(), count: 1, ..equilibrium(3, 4, 0.3, 1) });
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let moved: Vec<f64> = next.iter().zip(&ended).map(|(a, b)| a - b).collect();
        let residual = norm(&moved) / norm(&ended);
        let loose = Tolerance { forward: 1.0, ..TIGHT };
        let (exact, frozen) = (solver.run(Backward::Exact), solver.run(Backward::Frozen(loose)));
        assert_eq!(frozen.fallbacks, 0);
        assert_close(&frozen.gradients[0], &exact.gradients[0], (200.0 * residual).max(1e-14));
        // A weight meets the iterate in every step: with ρ the contraction, Σₜ (xₜ − x_K) wₜ has K terms of ρᵗ ρᴷ⁻ᵗ.
        let weighted = 200.0 * count as f64 * residual;
        assert_close(&frozen.gradients[1], &exact.gradients[1], weighted.max(1e-14));
    }
}

#[test]
fn what_has_not_arrived_falls_back() {
    let both = [Backward::Frozen(TIGHT), Backward::Implicit(TIGHT)];
    equilibrium(3, 4, 0.3, 5).falls_back(&both);
    lasso(&matrix(6, 10, 7), 0.03, 0.3, 5).falls_back(&both);
}

#[test]
fn a_fixed_point_that_repels_falls_back() {
    // It starts where it would end and so stays there, but the slightest push drives it away: ρ(Φ) = 1.2.
    let q: Matrix = vec![vec![1.0, 0.0, 0.0], vec![0.0, 0.5, 0.0], vec![0.0, 0.0, 0.1]];
    let mut solver = quadratic(&q, 2.2, 30);
    solver.consts[0] = vec![0.0; 3];
    // GMRES solves the system all the same; without the limit on the gap only the contraction tells.
    let wide = Tolerance { gap: 1e9, ..TIGHT };
    solver.falls_back(&[Backward::Implicit(TIGHT), Backward::Implicit(wide)]);
}

#[test]
fn a_rank_deficient_system_falls_back() {
    // One direction is not determined: Φ has an eigenvalue of 1.
    let q: Matrix = vec![vec![1.0, 0.0, 0.0], vec![0.0, 0.5, 0.0], vec![0.0, 0.0, 0.0]];
    let mut solver = quadratic(&q, 0.5, 200);
    solver.consts[0] = vec![1.0, 1.0, 0.0];
    solver.falls_back(&[Backward::Implicit(TIGHT)]);
}

#[test]
fn rows_of_zeros_and_of_tiny_numbers_are_solved_as_others() {
    let mut solver = equilibrium(3, 4, 0.3, 400);
    solver.g[..4].fill(0.0);
    solver.g[4..8].iter_mut().for_each(|g| *g *= 1e-30);
    let outcome = solver.run(Backward::Implicit(TIGHT));
    assert_eq!(outcome.fallbacks, 0);
    let exact = solver.run(Backward::Exact).gradients;
    for row in [0..4, 4..8, 8..12] {
        assert_close(&outcome.gradients[0][row.clone()], &exact[0][row], 1e-11);
    }
    solver.g.fill(0.0);
    let outcome = solver.run(Backward::Implicit(TIGHT));
    assert_eq!((outcome.fallbacks, outcome.gradients), (0, vec![vec![0.0; 12], vec![0.0; 16]]));
}

#[test]
fn a_row_that_is_not_a_number_falls_back() {
    let mut solver = equilibrium(3, 4, 0.3, 400);
    solver.consts[0][1] = f64::NAN;
    solver.falls_back(&[Backward::Frozen(TIGHT), Backward::Implicit(TIGHT)]);
}

#[test]
fn what_few_steps_have_not_solved_is_solved_by_gmres() {
    // The loop starts where it ends, so that it has arrived, but 40 steps backward leave an error of 0.9⁴⁰ ≈ 1 %.
    let q = gram(&matrix(9, 6, 1), 0.2);
    let mut solver = quadratic(&q, 0.1, 40);
    solver.start = solve(q.clone(), solver.consts[0].clone());
    let wide = Tolerance { gap: 1.0, ..TIGHT };
    let outcome = solver.run(Backward::Implicit(wide));
    assert_eq!(outcome.fallbacks, 0, "the guard holds");
    assert_close(&outcome.gradients[0], &solve(q, solver.g.clone()), 1e-12);
    solver.falls_back(&[Backward::Implicit(TIGHT)]);
}

/// The diagnostic of a training step whose loop gets a policy that it cannot have.
fn refusal(build: impl FnOnce(&mut Builder, Value) -> Result<Value, TypeError>, policy: Backward) -> String {
    let mut b = Builder::new("refused");
    let w = b.parameter("w", TensorType::f32([3])).expect("a fresh name");
    let result = build(&mut b, w).expect("well typed");
    let square = b.mul(result, result).expect("well typed");
    let axes: Vec<usize> = (0..b.shape(square).len()).collect();
    let loss = b.reduce_sum(square, &axes).expect("well typed");
    b.output("loss", loss, OutputKind::Result);
    let graph = b.finish();
    let is_loop = |id: &NodeId| matches!(graph.op(*id), Some(Op::Scan(_) | Op::Iterate(_)));
    let policies = graph.node_ids().filter(is_loop).map(|id| (id, policy)).collect();
    let spec = gradients_of(vec!["w".into()]);
    let refused = derive_step_of_loops(&graph, &spec, &policies).expect_err("the policy is impossible").0.remove(0);
    assert_eq!(refused.code, "solver-backward");
    refused.found.expect("it says why")
}

#[test]
fn loops_that_are_not_one_map_are_refused() {
    let vector = TensorType::f32([3]);
    let halve = Builder::function("halve", &[vector.clone(), vector.clone()], |b, x| {
        let half = b.scale(x[0], 0.5)?;
        Ok(vec![b.add(half, x[1])?])
    });
    let halve = halve.expect("well typed");
    let constants: fn(&mut Builder, Value) -> Result<Value, TypeError> = |b, w| {
        let vector = TensorType::f32([3]);
        let body = Builder::function("steps", &[vector.clone(), vector], |b, x| Ok(vec![b.mul(x[0], x[1])?]))?;
        let rates = b.iota(DType::F32, &[4, 3], 0)?;
        Ok(b.scan(&body, &[w], &[rates], &[], false)?.0[0])
    };
    let leaked: fn(&mut Builder, Value) -> Result<Value, TypeError> = |b, w| {
        let body = Builder::function("leak", &[TensorType::f32([3])], |b, x| {
            let half = b.scale(x[0], 0.5)?;
            Ok(vec![half, half])
        })?;
        let op = Scan { body, carries: 1, scanned: 0, length: 4, reverse: false, in_order: false };
        Ok(b.apply(op, &[w])?[1])
    };
    let frozen = Backward::Frozen(TIGHT);
    assert!(refusal(constants, frozen).contains("constants of their own"));
    assert!(refusal(leaked, frozen).contains("used outside"));
    let start = refusal(|b, w| Ok(b.iterate(&halve, 9, &[w], &[w])?[0]), Backward::Implicit(TIGHT));
    assert!(start.contains("where the loop starts"), "{start}");
}
