//! Bands that masks leave of an attention's products: which are found, and that nothing outside of them matters.

use gradc_ir::band::{LoopBand, share_inside};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Role, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::lower::{Access, CompareFn, Contraction, Lowering};
use gradc_ir::plan::Schedule;
use gradc_ir::tensor::{Data, HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType, TypeError, unravel};
use gradc_passes::bands::{KnownConstants, find_bands};
use gradc_passes::optimizers::{Optimizer, Sgd};
use gradc_passes::schedule::{Ordering, schedule};
use gradc_passes::train::{LOSS, TrainSpec, derive_step};
use std::collections::BTreeMap;

type Built = Result<Value, TypeError>;

const BATCH: usize = 2;
const HEADS: usize = 2;
const WIDTH: usize = 3;
const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0, dampening: 0.0 };
const INFINITY: f64 = f64::INFINITY;

/// Numbers, the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
    }

    fn tensor(&mut self, ty: &TensorType) -> Tensor {
        Tensor::float(ty.clone(), (0..ty.elements()).map(|_| self.uniform()).collect())
    }
}

/// The training step of an attention over so many tokens, and the constants it declares.
struct Attention {
    graph: Graph,
    constants: BTreeMap<String, HostTensor>,
}

/// What a mask needs to be built.
struct Building {
    b: Builder,
    tokens: usize,
    constants: BTreeMap<String, HostTensor>,
}

impl Building {
    fn constant(&mut self, tensor: Tensor) -> Built {
        let name = format!("constant{}", self.constants.len());
        self.constants.insert(name.clone(), tensor.to_host());
        self.b.declare(&name, Role::Constant, tensor.ty, None)
    }

    /// A constant of one matrix, `at(row, column)`.
    fn matrix(&mut self, dtype: DType, at: impl Fn(usize, usize) -> f64) -> Built {
        let n = self.tokens;
        let values = (0..n * n).map(|k| at(k / n, k % n));
        let ty = TensorType::new(dtype, [n, n]);
        let tensor = match dtype.is_float() {
            true => Tensor::float(ty, values.collect()),
            false => Tensor::int(ty, values.map(|v| v as i64).collect()),
        };
        self.constant(tensor)
    }

    /// Adds −∞ where something is hidden.
    fn hide(&mut self, scores: Value, is_hidden: impl Fn(usize, usize) -> bool) -> Built {
        let mask = self.matrix(DType::F32, |i, j| if is_hidden(i, j) { -INFINITY } else { 0.0 })?;
        self.b.add(scores, mask)
    }

    /// −∞ where a condition does not hold.
    fn keep(&mut self, scores: Value, condition: Value) -> Built {
        let shape = self.b.shape(scores).to_vec();
        let condition = self.b.broadcast_to(condition, &shape)?;
        let hidden = self.b.full_like(scores, -INFINITY)?;
        self.b.select(condition, scores, hidden)
    }

    /// `row ⋈ column` of the indices of a matrix.
    fn indices(&mut self, kind: CompareFn) -> Built {
        let shape = [self.tokens, self.tokens];
        let [rows, columns] = [self.b.iota(DType::I64, &shape, 0)?, self.b.iota(DType::I64, &shape, 1)?];
        self.b.compare(kind, rows, columns)
    }

    fn softmax(&mut self, x: Value) -> Built {
        let (shape, last) = (self.b.shape(x).to_vec(), self.b.shape(x).len() - 1);
        let outer: Vec<usize> = (0..last).collect();
        let most = self.b.reduce_max(x, &[last])?;
        let most = self.b.stop_gradient(most)?;
        let most = self.b.broadcast(most, &shape, &outer)?;
        let centred = self.b.sub(x, most)?;
        let exp = self.b.exp(centred)?;
        let sum = self.b.reduce_sum(exp, &[last])?;
        let sum = self.b.broadcast(sum, &shape, &outer)?;
        self.b.div(exp, sum)
    }
}

/// An attention whose scores and whose shares of the values go through two functions.
fn attention_with(
    tokens: usize,
    mask: impl FnOnce(&mut Building, Value) -> Built,
    shares: impl FnOnce(&mut Building, Value, Value) -> Built,
) -> Attention {
    let mut building = Building { b: Builder::new("attention"), tokens, constants: BTreeMap::new() };
    let build = || -> Result<(), TypeError> {
        let ty = TensorType::f32([BATCH, HEADS, tokens, WIDTH]);
        let [q, k, v] = ["q", "k", "v"].map(|name| building.b.parameter(name, ty.clone()));
        let (q, k, v) = (q?, k?, v?);
        let scores = building.b.dot_general(q, k, [&[0, 1], &[0, 1]], [&[3], &[3]])?;
        let scores = building.b.scale(scores, 0.5)?;
        let masked = mask(&mut building, scores)?;
        let softmax = building.softmax(masked)?;
        let share = shares(&mut building, softmax, scores)?;
        let out = building.b.dot_general(share, v, [&[0, 1], &[0, 1]], [&[3], &[2]])?;
        let square = building.b.mul(out, out)?;
        let loss = building.b.reduce_sum(square, &[0, 1, 2, 3])?;
        building.b.output(LOSS, loss, OutputKind::Checked);
        Ok(())
    };
    build().expect("the graph is well typed");
    let names = ["q", "k", "v"].map(|name| name.to_string().into()).to_vec();
    let spec = TrainSpec::new(names, Some(Optimizer::Sgd(SGD)));
    let graph = derive_step(&building.b.finish(), &spec).unwrap_or_else(|e| panic!("{e}"));
    Attention { graph, constants: building.constants }
}

fn attention(tokens: usize, mask: impl FnOnce(&mut Building, Value) -> Built) -> Attention {
    attention_with(tokens, mask, |_, softmax, _| Ok(softmax))
}

impl Attention {
    fn scheduled(&self) -> Schedule {
        let (schedule, _) = schedule(self.graph.clone().into(), Ordering::default()).unwrap_or_else(|e| panic!("{e}"));
        find_bands(schedule, &KnownConstants::of(self.constants.iter().map(|(name, tensor)| (&name[..], tensor))))
    }

    /// Share of its products' terms inside of bands, in the order of the graph: scores, values, and their gradients.
    fn shares(&self) -> Vec<f64> {
        let schedule = self.scheduled();
        let is_product = |id: &NodeId| contraction(&schedule.graph, *id).is_some();
        let products = schedule.graph.node_ids().filter(is_product);
        products.map(|id| schedule.bands.get(&id).map_or(1.0, |bands| share_inside(bands))).collect()
    }

    /// Checks that what is outside of bands is zero in factors, and that nothing depends on it in results.
    fn check(&self, what: &str) {
        let bands = self.scheduled().bands;
        let mut random = Random(3);
        let inputs: Vec<Tensor> = (self.graph.inputs().iter())
            .map(|input| match (self.constants.get(&input.name), self.graph.ty(input.value)) {
                (Some(tensor), _) => tensor.to_tensor(),
                (None, ty) if !ty.dtype.is_float() => Tensor::splat(ty.clone(), 0.0),
                (None, ty) => random.tensor(ty),
            })
            .collect();
        let expected = evaluate(&self.graph, &inputs, Precision::Double).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut found: Vec<Vec<Tensor>> = vec![];
        for id in self.graph.node_ids() {
            let node = self.graph.node(id);
            let op = match &node.def {
                Def::Op(op) => op,
                Def::Input(input) => {
                    found.push(vec![inputs[input.index()].clone()]);
                    continue;
                }
            };
            let operands: Vec<&Tensor> =
                node.operands.iter().map(|v| &found[v.node.index()][usize::from(v.result)]).collect();
            let mut results = op.eval(&operands).unwrap_or_else(|e| panic!("{what}: {e}"));
            for band in bands.get(&id).into_iter().flatten() {
                let contraction = contraction(&self.graph, id).expect("only products have bands");
                spoil(what, &contraction, band, &operands, &mut results[0], &mut random);
            }
            found.push(results);
        }
        for output in self.graph.outputs().iter().filter(|output| self.graph.ty(output.value).dtype.is_float()) {
            let (expected, found) = (expected.get(output.value), &found[output.value.node.index()][0]);
            let same = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan();
            let equal = expected.floats().iter().zip(found.floats()).all(same);
            assert!(equal, "{what}: {} depends on what is outside of bands", output.name);
        }
    }
}

fn contraction(graph: &Graph, id: NodeId) -> Option<Contraction> {
    let node = graph.node(id);
    let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    match graph.op(id)?.lower(&inputs, &node.types) {
        Lowering::Contraction(contraction) => Some(contraction),
        _ => None,
    }
}

/// Puts anything where sums are outside of a band, and fails where factors are not zero there.
fn spoil(
    what: &str,
    contraction: &Contraction,
    band: &LoopBand,
    operands: &[&Tensor],
    result: &mut Tensor,
    random: &mut Random,
) {
    let extents = [&contraction.space[..], &contraction.reduce].concat();
    let outside = |point: &[usize]| !band.band.ranges()[point[band.row]].contains(&point[band.column]);
    if band.row.max(band.column) < contraction.space.len() {
        let Data::Float(sums) = &mut result.data else { panic!("floats") };
        let sums = sums.iter_mut().enumerate().filter(|(at, _)| outside(&unravel(*at, &contraction.space)));
        return sums.for_each(|(_, sum)| *sum = random.uniform());
    }
    let uses = |access: &&Access| {
        [band.row, band.column].iter().all(|&d| access.indices.iter().any(|i| i.affine.coeffs[d] != 0))
    };
    let factor = [&contraction.lhs, &contraction.rhs].into_iter().find(uses).expect("a factor goes along both loops");
    let flat = factor.flat().expect("products read plainly");
    for point in (0..extents.iter().product()).map(|at| unravel(at, &extents)).filter(|point| outside(point)) {
        let value = operands[factor.operand].floats()[flat.at(&point) as usize];
        assert!(value == 0.0 || value.is_nan(), "{what}: a factor is {value} outside of its band");
    }
}

#[test]
fn all_six_products_of_a_causal_attention_have_the_triangle() {
    for tokens in [2, 7, 12] {
        let step = attention(tokens, |a, scores| a.hide(scores, |i, j| j > i));
        let share = (tokens + 1) as f64 / (2 * tokens) as f64;
        let found = step.shares();
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|s| (s - share).abs() < 1e-12), "{tokens} tokens: {found:?}");
        step.check("causal");
    }
}

/// The same mask, written in all the ways that exporters write it.
#[test]
fn masks_are_known_however_they_are_written() {
    let n = 6;
    let hidden = |i: usize, j: usize| j > i;
    let expected = attention(n, |a, s| a.hide(s, hidden)).shares();
    assert!(expected.iter().all(|share| *share < 0.6), "{expected:?}");
    let as_number = |holds: bool| f64::from(u8::from(holds));
    let ways: Vec<(&str, Attention)> = vec![
        (
            "kept by a constant",
            attention(n, |a, s| {
                let kept = a.matrix(DType::Bool, |i, j| as_number(!hidden(i, j)))?;
                a.keep(s, kept)
            }),
        ),
        (
            "kept by not a constant",
            attention(n, |a, s| {
                let mask = a.matrix(DType::Bool, |i, j| as_number(hidden(i, j)))?;
                let kept = a.b.not(mask)?;
                a.keep(s, kept)
            }),
        ),
        (
            "kept where a float is not zero",
            attention(n, |a, s| {
                let ones = a.matrix(DType::F32, |i, j| as_number(!hidden(i, j)))?;
                let kept = a.b.cast(ones, DType::Bool)?;
                a.keep(s, kept)
            }),
        ),
        (
            "kept by indices",
            attention(n, |a, s| {
                let kept = a.indices(CompareFn::Ge)?;
                a.keep(s, kept)
            }),
        ),
        (
            "hidden by indices, added",
            attention(n, |a, s| {
                let hidden = a.indices(CompareFn::Lt)?;
                let zero = a.b.splat(&TensorType::f32([a.tokens, a.tokens]), 0.0)?;
                let infinity = a.b.full_like(zero, -INFINITY)?;
                let mask = a.b.select(hidden, infinity, zero)?;
                a.b.add(s, mask)
            }),
        ),
        (
            "both sides of a window that is wide enough",
            attention(n, |a, s| {
                let kept = a.indices(CompareFn::Ge)?;
                let far = a.matrix(DType::Bool, |i, j| as_number(i < j + 100))?;
                let both = a.b.op(gradc_ir::ops::And {}, &[kept, far])?;
                a.keep(s, both)
            }),
        ),
        (
            "part of the mask of a longer context",
            attention(n, |a, s| {
                let values = (0..4 * n * n).map(|k| if k % (2 * n) > k / (2 * n) { -INFINITY } else { 0.0 });
                let longer = Tensor::float(TensorType::f32([1, 1, 2 * n, 2 * n]), values.collect());
                let longer = a.constant(longer)?;
                let part = a.b.slice(longer, &[0, 0, 0, 0], &[1, 1, n, n], &[1, 1, 1, 1])?;
                a.b.add(s, part)
            }),
        ),
        (
            "one for each head",
            attention(n, |a, s| {
                let values =
                    (0..HEADS * n * n).map(|k| if k % n > k / n % n { -INFINITY } else { 0.25 * (k / n / n) as f64 });
                let mask = a.constant(Tensor::float(TensorType::f32([HEADS, n, n]), values.collect()))?;
                a.b.add(s, mask)
            }),
        ),
        (
            "with a learned bias",
            attention(n, |a, s| {
                let bias = a.b.parameter("bias", TensorType::f32([HEADS, n, n]))?;
                let s = a.b.add(s, bias)?;
                a.hide(s, hidden)
            }),
        ),
        (
            "with dropout",
            attention_with(
                n,
                |a, s| a.hide(s, hidden),
                |a, share, _| {
                    let half = a.b.splat(&TensorType::f32([n, n]), 0.5)?;
                    let drawn = a.b.parameter("drawn", TensorType::f32([n, n]))?;
                    let kept = a.b.compare(CompareFn::Lt, half, drawn)?;
                    let kept = a.b.cast(kept, DType::F32)?;
                    let kept = a.b.scale(kept, 2.0)?;
                    a.b.mul(share, kept)
                },
            ),
        ),
    ];
    for (way, step) in &ways {
        assert_eq!(step.shares(), expected, "{way}");
        step.check(way);
    }
}

#[test]
fn bands_are_the_smallest_that_contain_what_is_seen() {
    let n = 8;
    let share_of = |is_hidden: fn(usize, usize) -> bool| {
        let step = attention(n, |a, s| a.hide(s, is_hidden));
        step.check("a mask");
        step.shares().iter().map(|share| (share * (n * n) as f64).round() as usize).collect::<Vec<_>>()
    };
    assert_eq!(share_of(|i, j| j > i || i > j + 1), [15; 6], "a window");
    assert_eq!(share_of(|i, j| i / 4 != j / 4), [32; 6], "blocks");
    assert_eq!(share_of(|i, j| j < i), [36; 6], "the other triangle");
    let exception = share_of(|i, j| j > i && (i, j) != (1, 6));
    assert!(exception.iter().all(|&terms| (41..=51).contains(&terms)), "a triangle with one exception: {exception:?}");
    assert_eq!(share_of(|_, j| j >= 5), [64; 6], "columns that nobody sees could hide what is not finite in them");
    assert_eq!(share_of(|i, j| j > i || i == 3), [40; 6], "a row that sees nothing is computed whole");
    assert_eq!(
        share_of(|i, j| (i + j) % 2 == 1),
        [56; 6],
        "a chess board, from the first to the last field of a colour"
    );
    assert_eq!(share_of(|_, _| false), [64; 6], "no mask");
}

/// Random ranges, columns hidden among them at random.
#[test]
fn nothing_outside_of_the_bands_of_random_masks_matters() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let n = 2 + (seed % 7) as usize;
        let mut below = |n: usize| ((random.uniform() + 2.0) / 4.0 * n as f64) as usize;
        let ranges: Vec<(usize, usize, usize)> = (0..n).map(|_| (below(n), below(n + 1), below(n))).collect();
        let is_hidden = |i: usize, j: usize| {
            let (start, end, gap) = ranges[i];
            j < start || j >= end || j == gap
        };
        attention(n, |a, s| a.hide(s, is_hidden)).check(&format!("seed {seed}: {ranges:?}"));
    }
}

#[test]
fn what_may_change_or_be_infinite_makes_no_bands() {
    let n = 6;
    let hidden = |i: usize, j: usize| j > i;
    let of_role = |role: Role| {
        attention(n, |a, s| {
            let mask = a.b.declare("mask", role, TensorType::f32([n, n]), None)?;
            a.b.add(s, mask)
        })
    };
    let cases: Vec<(&str, Attention)> = vec![
        ("a mask that the host hands in", of_role(Role::Input)),
        ("a mask that a checkpoint may bring", of_role(Role::Buffer)),
        ("a mask that trains", of_role(Role::Parameter)),
        (
            "a large number, which large scores outweigh",
            attention(n, |a, s| {
                let mask = a.matrix(DType::F32, |i, j| if hidden(i, j) { -1e9 } else { 0.0 })?;
                a.b.add(s, mask)
            }),
        ),
        ("a mask whose values are unknown", {
            let step = attention(n, |a, s| a.hide(s, hidden));
            Attention { constants: BTreeMap::new(), ..step }
        }),
    ];
    for (what, step) in &cases {
        assert_eq!(step.shares(), [1.0; 6], "{what}");
    }
    let both_signs = attention(n, |a, s| {
        let s = a.hide(s, hidden)?;
        let other = a.matrix(DType::F32, |i, j| if hidden(i, j) { INFINITY } else { 0.0 })?;
        a.b.add(s, other)
    });
    assert_eq!(both_signs.shares()[1], 1.0, "their sum is no number");
    // The entropy of a distribution with zeros: zero times −∞ is no zero.
    let entropy = attention_with(
        n,
        |a, s| a.hide(s, hidden),
        |a, share, _| {
            let log = a.b.log(share)?;
            a.b.mul(share, log)
        },
    );
    assert_eq!(entropy.shares()[1], 1.0, "the product with the values");
    let of_scores = attention_with(
        n,
        |a, s| a.hide(s, hidden),
        |a, share, scores| {
            let inverse = a.b.recip(scores)?;
            a.b.mul(share, inverse)
        },
    );
    assert_eq!(of_scores.shares()[1], 1.0, "what a score of zero makes infinite");
}

/// Bands go where a constant goes: into the bodies of regions that are handed it whole.
#[test]
fn bodies_of_regions_have_bands_of_their_own() {
    let n = 6;
    let mut building = Building { b: Builder::new("loop"), tokens: n, constants: BTreeMap::new() };
    let mut build = || -> Result<(), TypeError> {
        let ty = TensorType::f32([n, n]);
        let mask = building.matrix(DType::F32, |i, j| if j > i { 0.0 } else { 1.0 })?;
        let x = building.b.parameter("x", ty.clone())?;
        let body = Builder::function("body", &[ty.clone(), ty], |b, arguments| {
            let zero = b.full_like(arguments[0], 0.0)?;
            let kept = b.compare(CompareFn::Ne, arguments[1], zero)?;
            let lower = b.select(kept, arguments[0], zero)?;
            Ok(vec![b.dot_general(lower, arguments[0], [&[], &[]], [&[1], &[0]])?])
        })?;
        let end = building.b.iterate(&body, 9, &[x], &[mask])?;
        building.b.output("end", end[0], OutputKind::Result);
        Ok(())
    };
    build().expect("the graph is well typed");
    let step = Attention { graph: building.b.finish(), constants: building.constants };
    let schedule = step.scheduled();
    let bodies = schedule.actions.iter().filter_map(|action| match action {
        gradc_ir::plan::Action::Region(region) => Some(&region.bodies[0]),
        _ => None,
    });
    let bands: Vec<f64> = bodies.flat_map(|body| body.bands.values()).map(|bands| share_inside(bands)).collect();
    assert_eq!(bands, [21.0 / 36.0]);
}
