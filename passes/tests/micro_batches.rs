//! Steps that take the batch in parts, against the step of the whole batch, in the interpreter.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Graph, InputId, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::ops::{Convolution, MaxPool};
use gradc_ir::part::Part;
use gradc_ir::region::RegionForm;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::loops::LoopPolicies;
use gradc_passes::micro_batch::{batch_sizes, derive_step_in_parts, evaluate_in_parts};
use gradc_passes::optimizers::{Adam, Optimizer};
use gradc_passes::train::{TrainSpec, Trainable, derive_step};
use std::collections::HashMap;

/// Largest difference relative to the largest magnitude of a tensor: sums of at most a few hundred f64 terms in another
/// order, then Adam's quotients of first and second moments, which a vanishing gradient makes as ill-conditioned as 1e3.
const TOLERANCE: f64 = 1e-11;

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::f32(shape)
}

/// The mean over the rows of `[n, c]` that have a label other than −1 of their squared distance from that column's unit
/// vector.
fn labelled_loss(b: &mut Builder, y: Value) -> Result<Value, TypeError> {
    let shape = b.shape(y).to_vec();
    let labels = b.input("labels", TensorType::new(DType::I64, [shape[0]]))?;
    let class = b.iota(DType::I64, &shape, 1)?;
    let spread = b.broadcast(labels, &shape, &[0])?;
    let hit = b.compare(CompareFn::Eq, class, spread)?;
    let hit = b.cast(hit, DType::F32)?;
    let difference = b.sub(y, hit)?;
    let square = b.mul(difference, difference)?;
    let terms = b.reduce_sum(square, &[1])?;
    let none = b.full_like(labels, -1.0)?;
    let counts = b.compare(CompareFn::Ne, labels, none)?;
    let weights = b.cast(counts, DType::F32)?;
    let terms = b.mul(terms, weights)?;
    let (total, count) = (b.reduce_sum(terms, &[0])?, b.reduce_sum(weights, &[0])?);
    b.div(total, count)
}

/// The mean of all squares.
fn square_loss(b: &mut Builder, y: Value) -> Result<Value, TypeError> {
    let axes: Vec<usize> = (0..b.shape(y).len()).collect();
    let elements: usize = b.shape(y).iter().product();
    let square = b.mul(y, y)?;
    let sum = b.reduce_sum(square, &axes)?;
    b.scale(sum, 1.0 / elements as f64)
}

fn linear(b: &mut Builder, name: &str, x: Value, out: usize) -> Result<Value, TypeError> {
    let inner = *b.shape(x).last().expect("rows have a width");
    let weight = b.parameter(&format!("{name}.weight"), f32s(&[out, inner]))?;
    let bias = b.parameter(&format!("{name}.bias"), f32s(&[out]))?;
    let rank = b.shape(x).len();
    let y = b.dot_general(x, weight, [&[], &[]], [&[rank - 1], &[1]])?;
    b.add(y, bias)
}

fn model(build: impl FnOnce(&mut Builder) -> Result<Value, TypeError>) -> Graph {
    let mut b = Builder::new("model");
    let loss = build(&mut b).unwrap_or_else(|e| panic!("the model is ill-typed: {e}"));
    b.output("loss", loss, OutputKind::Result);
    b.finish()
}

fn mlp(batch: usize) -> Graph {
    model(|b| {
        let x = b.input("x", f32s(&[batch, 3]))?;
        let h = linear(b, "one", x, 5)?;
        let h = b.tanh(h)?;
        let y = linear(b, "two", h, 4)?;
        labelled_loss(b, y)
    })
}

fn convnet(batch: usize) -> Graph {
    let square = |k: usize| vec![k; 2];
    model(|b| {
        let x = b.input("x", f32s(&[batch, 2, 6, 6]))?;
        let w = b.parameter("conv.weight", f32s(&[4, 2, 3, 3]))?;
        let (stride, dilation, pad) = (square(1), square(1), square(1));
        let op = Convolution { stride, pad_low: pad.clone(), pad_high: pad, dilation, groups: 1 };
        let h = b.convolution(x, w, op)?;
        let pool = MaxPool {
            window: square(2),
            stride: square(2),
            pad_low: square(0),
            pad_high: square(0),
            dilation: square(1),
        };
        let [h, _] = b.max_pool(h, pool)?;
        let h = b.reshape(h, &[batch, 36])?;
        let y = linear(b, "head", h, 4)?;
        labelled_loss(b, y)
    })
}

/// Two heads of causal attention over embedded tokens, every row flattened before the last product.
fn attention(batch: usize) -> Graph {
    let (tokens, width) = (5, 8);
    model(|b| {
        let ids = b.input("ids", TensorType::new(DType::I64, [batch, tokens]))?;
        let table = b.parameter("table", f32s(&[7, width]))?;
        let position = b.parameter("position", f32s(&[tokens, width]))?;
        let x = b.gather(table, ids, 0)?;
        let x = b.add(x, position)?;
        let mut heads = vec![];
        for name in ["q", "k", "v"] {
            let y = linear(b, name, x, width)?;
            let y = b.reshape(y, &[batch, tokens, 2, width / 2])?;
            heads.push(b.transpose(y, &[0, 2, 1, 3])?);
        }
        let scores = b.dot_general(heads[0], heads[1], [&[0, 1], &[0, 1]], [&[3], &[3]])?;
        let [row, column] = [0, 1].map(|axis| b.iota(DType::I32, &[tokens, tokens], axis));
        let seen = b.compare(CompareFn::Ge, row?, column?)?;
        let seen = b.broadcast(seen, &[batch, 2, tokens, tokens], &[2, 3])?;
        let (weights, zero) = (b.exp(scores)?, b.full_like(scores, 0.0)?);
        let weights = b.select(seen, weights, zero)?;
        let sum = b.reduce_sum(weights, &[3])?;
        let sum = b.broadcast(sum, &[batch, 2, tokens, tokens], &[0, 1, 2])?;
        let weights = b.div(weights, sum)?;
        let y = b.dot_general(weights, heads[2], [&[0, 1], &[0, 1]], [&[3], &[2]])?;
        let y = b.transpose(y, &[0, 2, 1, 3])?;
        let y = b.reshape(y, &[batch * tokens, width])?;
        let y = linear(b, "head", y, 3)?;
        square_loss(b, y)
    })
}

/// A recurrence over the first axis, examples along the second, from a state of zeros; half of its inputs are dropped.
fn recurrence(batch: usize) -> Graph {
    let (steps, width) = (4, 3);
    model(|b| {
        let x = b.input("x", f32s(&[steps, batch, width]))?;
        let seed = b.declare("seed", Role::State, TensorType::new(DType::I64, [2]), Some(5.0))?;
        let draw = b.random_uniform(seed, &[steps, batch, width], 0)?;
        let half = b.full_like(draw, 0.5)?;
        let kept = b.compare(CompareFn::Lt, draw, half)?;
        let zero = b.full_like(x, 0.0)?;
        let x = b.select(kept, x, zero)?;
        let mut h = b.splat(&f32s(&[batch, width]), 0.0)?;
        let w = b.parameter("w", f32s(&[width, width]))?;
        for t in 0..steps {
            let step = b.slice_axis(x, 0, t, t + 1)?;
            let step = b.reshape(step, &[batch, width])?;
            let turned = b.dot_general(h, w, [&[], &[]], [&[1], &[0]])?;
            let sum = b.add(turned, step)?;
            h = b.tanh(sum)?;
        }
        let one = b.splat(&TensorType::new(DType::I64, [2]), 1.0)?;
        let next = b.add(seed, one)?;
        b.update(InputId(1), next)?;
        square_loss(b, h)
    })
}

/// The same as a loop, from a state of zeros, and behind it a solver's steps `h ← tanh(h·w + x)` from their result.
fn loops(batch: usize) -> Graph {
    let (steps, width) = (6, 3);
    let (rows, matrix) = (f32s(&[batch, width]), f32s(&[width, width]));
    let cell = |b: &mut Builder, h: Value, x: Value, w: Value| {
        let turned = b.dot_general(h, w, [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(turned, x)?;
        b.tanh(sum)
    };
    let types = [rows.clone(), rows.clone(), matrix.clone()];
    let recurrence = Builder::function("cell", &types, |b, x| {
        let h = cell(b, x[0], x[1], x[2])?;
        Ok(vec![h, h])
    });
    let solver = Builder::function("solver", &types, |b, x| Ok(vec![cell(b, x[0], x[1], x[2])?]));
    model(|b| {
        let x = b.input("x", f32s(&[steps, batch, width]))?;
        let w = b.parameter("w", matrix.clone())?;
        let start = b.splat(&rows, 0.0)?;
        let (last, all) = b.scan(&recurrence?, &[start], &[x], &[w], true)?;
        let solved = b.iterate(&solver?, 5, &[start], &[last[0], w])?;
        let all = b.reduce_sum(all[0], &[0])?;
        let y = b.add(all, solved[0])?;
        square_loss(b, y)
    })
}

fn spec(forward: &Graph, part: Option<(&str, Part)>) -> TrainSpec {
    let parameters = forward.inputs().iter().filter(|i| i.role == Role::Parameter);
    let part_of = |name: &str| part.as_ref().filter(|(of, _)| *of == name).map(|(_, part)| part.clone());
    let trainable = parameters.map(|i| Trainable { parameter: i.name.clone(), part: part_of(&i.name) });
    let adam = Adam { lr: 0.1, betas: [0.9, 0.999], eps: 1e-3, weight_decay: 0.1, decoupled: true };
    TrainSpec {
        clip_norm: Some(0.5),
        accumulate: 2,
        gradient_outputs: true,
        ..TrainSpec::new(trainable.collect(), Some(Optimizer::Adam(adam)))
    }
}

/// Values for all inputs without a default: floats in −0.5..0.5, integers 0, 1 and 2, the first label −1.
fn tensors(graph: &Graph) -> HashMap<String, Tensor> {
    let noise = |k: usize| ((k as f64 * 12.9898).sin() * 43758.5453).fract();
    let draw = |(at, input): (usize, &gradc_ir::graph::Input)| {
        let ty = graph.ty(input.value).clone();
        let values = (0..ty.elements()).map(|k| noise(1 + 1000 * at + k));
        let tensor = match (ty.dtype.is_float(), &input.name[..]) {
            (true, _) => Tensor::float(ty, values.map(|v| v / 2.0).collect()),
            (_, "labels") => Tensor::int(
                ty,
                (0..).zip(values).map(|(k, v)| if k == 0 { -1 } else { (3.0 * v.abs()) as i64 }).collect(),
            ),
            _ => Tensor::int(ty, values.map(|v| (3.0 * v.abs()) as i64).collect()),
        };
        (input.name.clone(), tensor)
    };
    graph.inputs().iter().enumerate().filter(|(_, i)| i.default.is_none()).map(draw).collect()
}

fn assert_near(what: &str, found: &Tensor, expected: &Tensor) {
    if !expected.ty.dtype.is_float() {
        return assert_eq!(found, expected, "{what}");
    }
    let scale = expected.floats().iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let pairs = found.floats().iter().zip(expected.floats());
    let apart = pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
    assert!(found.ty == expected.ty && apart <= TOLERANCE * scale, "{what}: {apart:e} apart at a scale of {scale:e}");
}

/// Three steps in parts and as a whole give the same losses, gradients, parameters and state.
fn assert_same_steps(forward: &Graph, spec: &TrainSpec, size: usize, parts: usize) {
    let whole = derive_step(forward, spec).unwrap_or_else(|e| panic!("{e}"));
    let split = derive_step_in_parts(forward, spec, &LoopPolicies::new(), size, parts)
        .unwrap_or_else(|e| panic!("{parts} parts: {e}"));
    gradc_ir::verify::verify(&split).unwrap_or_else(|e| panic!("{e}"));
    let in_parts = split.node_ids().filter_map(|id| RegionForm::of_node(&split, id));
    let steps: Vec<usize> = in_parts.map(|form| form.steps()).collect();
    assert_eq!(steps, [parts], "one loop, a step per part");
    let (mut a, mut b) = (tensors(&whole), tensors(&whole));
    for step in 0..3 {
        let (expected, found) = (interpret::step(&whole, &mut a).unwrap(), interpret::step(&split, &mut b).unwrap());
        assert_eq!(expected.len(), found.len());
        for (name, tensor) in expected.iter().chain(&a) {
            let found = found.get(name).or_else(|| b.get(name)).unwrap_or_else(|| panic!("{name} is not made"));
            assert_near(&format!("{name} of step {step} in {parts} parts"), found, tensor);
        }
    }
}

#[test]
fn parts_add_up_to_the_whole() {
    type Case = (fn(usize) -> Graph, &'static str, Part);
    let rows = |indices: &[usize]| Part { axis: 0, indices: indices.to_vec() };
    let cases: [Case; 5] = [
        (mlp, "one.weight", Part { axis: 1, indices: vec![0, 2] }),
        (convnet, "conv.weight", rows(&[1, 2])),
        (attention, "q.weight", rows(&[4, 5, 6, 7])),
        (recurrence, "w", Part { axis: 1, indices: vec![1] }),
        (loops, "w", Part { axis: 1, indices: vec![1] }),
    ];
    for (build, trained, part) in cases {
        let forward = build(8);
        for parts in [2, 4] {
            assert_same_steps(&forward, &spec(&forward, None), 8, parts);
            assert_same_steps(&forward, &spec(&forward, Some((trained, part.clone()))), 8, parts);
        }
    }
}

/// Results with one entry per example are put together along their axis; a mean of weighted terms is one sum of them,
/// divided by the number of all labels; and what mixes all examples is made of all of them.
#[test]
fn entries_without_gradients_keep_their_results() {
    let build = || -> Result<Graph, TypeError> {
        let mut b = Builder::new("eval");
        let x = b.input("x", f32s(&[3, 8, 2]))?;
        let y = linear(&mut b, "one", x, 4)?;
        let y = b.tanh(y)?;
        b.output("y", y, OutputKind::Result);
        let rows = b.reduce_sum(y, &[0])?;
        let loss = labelled_loss(&mut b, rows)?;
        b.output("loss", loss, OutputKind::Result);
        let largest = b.reduce_max(rows, &[0])?;
        let relative = b.sub(rows, largest)?;
        b.output("relative", relative, OutputKind::Result);
        b.output("largest", largest, OutputKind::Result);
        Ok(b.finish())
    };
    let graph = build().expect("well typed");
    let inputs = tensors(&graph);
    let expected = interpret::step(&graph, &mut inputs.clone()).expect("it runs");
    for parts in [2, 4, 8] {
        let split = evaluate_in_parts(&graph, 8, parts).unwrap_or_else(|e| panic!("{e}"));
        gradc_ir::verify::verify(&split).unwrap_or_else(|e| panic!("{e}"));
        assert!(split.outputs().iter().map(|o| &o.name).eq(graph.outputs().iter().map(|o| &o.name)));
        let found = interpret::step(&split, &mut inputs.clone()).expect("it runs");
        for (name, tensor) in &expected {
            assert_near(&format!("{name} in {parts} parts"), &found[name], tensor);
        }
        let loops = split.node_ids().filter_map(|id| RegionForm::of_node(&split, id));
        let in_loop: usize = loops.map(|form| form.bodies()[0].nodes().len()).sum();
        assert!(in_loop > 20, "the loss is made of parts: {in_loop} nodes");
    }
}

/// Activations of a part only: the batch's size does not occur in what the loop makes.
#[test]
fn a_part_is_as_large_as_its_examples() {
    let forward = attention(6);
    let split = derive_step_in_parts(&forward, &spec(&forward, None), &LoopPolicies::new(), 6, 3)
        .unwrap_or_else(|e| panic!("{e}"));
    let mut forms = split.node_ids().filter_map(|id| RegionForm::of_node(&split, id));
    let body = forms.next().expect("a loop").bodies()[0].clone();
    let largest = body.nodes().iter().flat_map(|n| &n.types).map(TensorType::elements).max();
    // Attention weights: two examples, two heads, 5 × 5.
    assert_eq!(largest, Some(2 * 2 * 5 * 5));
}

#[test]
fn statistics_of_the_batch_are_refused() {
    let forward = model(|b| {
        let x = b.input("x", f32s(&[8, 3]))?;
        let h = linear(b, "one", x, 5)?;
        b.set_loc(Loc { layer: "norm".into(), ..Loc::default() });
        let sum = b.reduce_sum(h, &[0])?;
        let mean = b.scale(sum, 1.0 / 8.0)?;
        let mean = b.broadcast(mean, &[8, 5], &[1])?;
        let centred = b.sub(h, mean)?;
        b.set_loc(Loc::default());
        square_loss(b, centred)
    });
    let refused = derive_step_in_parts(&forward, &spec(&forward, None), &LoopPolicies::new(), 8, 2)
        .expect_err("a mean of all examples");
    let found: Vec<(&str, &str, &str)> =
        refused.0.iter().map(|d| (d.code, d.loc.layer.as_str(), d.message.as_str())).collect();
    assert_eq!(found, [("examples-mix", "norm", "`sub` mixes what different examples make")]);
}

/// A loop whose steps add up what all examples make, and one that goes over the examples.
#[test]
fn loops_that_mix_examples_are_refused() {
    let (row, rows) = (f32s(&[3]), f32s(&[8, 3]));
    let over_examples = Builder::function("over", &[row.clone(), row.clone()], |b, x| Ok(vec![b.add(x[0], x[1])?]));
    let pooling = Builder::function("pooling", &[rows.clone(), rows.clone()], |b, x| {
        let sum = b.reduce_sum(x[0], &[0])?;
        let sum = b.broadcast(sum, &[8, 3], &[1])?;
        Ok(vec![b.sub(x[1], sum)?])
    });
    let (over_examples, pooling) = (over_examples.expect("well typed"), pooling.expect("well typed"));
    for over in [true, false] {
        let forward = model(|b| {
            let x = b.input("x", rows.clone())?;
            let y = linear(b, "one", x, 3)?;
            let start = b.splat(&row, 0.0)?;
            let made = if over {
                b.scan(&over_examples, &[start], &[y], &[], false)?.0[0]
            } else {
                b.iterate(&pooling, 3, &[y], &[y])?[0]
            };
            square_loss(b, made)
        });
        let none = LoopPolicies::new();
        let refused = derive_step_in_parts(&forward, &spec(&forward, None), &none, 8, 2).expect_err("examples meet");
        assert_eq!(refused.0[0].code, "examples-mix");
    }
}

/// What is not a sum of the examples' terms is no loss of parts.
#[test]
fn losses_that_are_no_sums_are_refused() {
    type Loss = fn(&mut Builder, Value) -> Result<Value, TypeError>;
    let losses: [Loss; 4] = [
        |b, y| b.reduce_max(y, &[0, 1]),
        |b, y| {
            let mean = square_loss(b, y)?;
            b.sqrt(mean)
        },
        |b, y| {
            let (sum, one) = (square_loss(b, y)?, b.scalar(DType::F32, 1.0)?);
            b.add(sum, one)
        },
        |b, y| {
            let (first, second) = (square_loss(b, y)?, b.reduce_sum(y, &[0, 1])?);
            b.mul(first, second)
        },
    ];
    for loss in losses {
        let forward = model(|b| {
            let x = b.input("x", f32s(&[8, 3]))?;
            let y = linear(b, "one", x, 5)?;
            loss(b, y)
        });
        let refused = derive_step_in_parts(&forward, &spec(&forward, None), &LoopPolicies::new(), 8, 2)
            .expect_err("it is no sum");
        assert_eq!(refused.0[0].code, "examples-mix");
    }
}

/// Examples that meet: shifted by one, reversed, multiplied with each other.
#[test]
fn examples_that_meet_are_refused() {
    type Mix = fn(&mut Builder, Value) -> Result<Value, TypeError>;
    let mixes: [Mix; 4] = [
        |b, h| b.reverse(h, &[0]),
        |b, h| {
            let first = b.slice_axis(h, 0, 1, 8)?;
            let last = b.slice_axis(h, 0, 0, 1)?;
            b.concat(&[first, last], 0)
        },
        |b, h| b.dot_general(h, h, [&[], &[]], [&[1], &[1]]),
        |b, h| b.reshape(h, &[5, 8]),
    ];
    for mix in mixes {
        let forward = model(|b| {
            let x = b.input("x", f32s(&[8, 3]))?;
            let h = linear(b, "one", x, 5)?;
            let h = mix(b, h)?;
            square_loss(b, h)
        });
        let refused = derive_step_in_parts(&forward, &spec(&forward, None), &LoopPolicies::new(), 8, 2)
            .expect_err("examples meet");
        assert_eq!(refused.0[0].code, "examples-mix");
    }
}

#[test]
fn sizes_of_a_batch_are_guessed_from_the_first_axes() {
    assert_eq!(batch_sizes(&mlp(8)), [8, 3]);
    assert_eq!(batch_sizes(&recurrence(8)), [4, 8, 3]);
}
