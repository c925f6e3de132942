//! Strips of wide vectors against the same kernels in vectors of 128 bits: maps bit for bit, accumulations against f64.

mod common;

use common::{Case, Random, nest_kernel, options};
use gradc_codegen::{AlignedBuffer, CodegenOptions, EntryCode, Memory, Operand, PlacedAction, Pool, compile};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, CompareFn, Nest, Scalar, ScalarId, UnaryFn};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType, row_major_strides};

/// Lengths around every boundary of blocks, vectors and tails.
const LENGTHS: [usize; 16] = [16, 17, 23, 24, 25, 31, 32, 33, 39, 47, 48, 63, 64, 65, 100, 131];

const SPECIAL: [f32; 18] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    1e-42,
    -1e-42,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    0.5,
    -0.5,
    1.5,
    2.5,
    -1e9,
    88.9,
    -103.9,
];

/// The instruction set strips can be run with here, if any.
fn strip_isa() -> Option<VectorIsa> {
    let isa = Target::host().vector_isa;
    (isa != VectorIsa::Portable).then_some(isa)
}

fn float(ty: &TensorType, values: impl Iterator<Item = f32>) -> Tensor {
    Tensor::float(ty.clone(), values.map(f64::from).collect())
}

/// Special values and ordinary ones of many magnitudes.
fn floats(ty: &TensorType, random: &mut Random) -> Tensor {
    let mut value = || match random.below(3) {
        0 => SPECIAL[random.below(SPECIAL.len())],
        1 => random.uniform(-4.0..4.0) as f32,
        _ => f32::from_bits(random.next() as u32),
    };
    float(ty, (0..ty.elements()).map(|_| value()))
}

/// Bits of a result, all NaN as one.
fn words(tensor: &HostTensor) -> Vec<u32> {
    if tensor.ty().dtype == DType::Bool {
        return tensor.bytes().iter().map(|&b| b.into()).collect();
    }
    let values = tensor.to_f32().expect("results are f32 or bool");
    values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

/// Runs a kernel with strips of every instruction set at hand and without; the code must differ, the bits must not.
fn assert_same_bits(what: &str, case: &Case, inputs: &[Tensor]) {
    for isa in common::instruction_sets().into_iter().filter(|isa| *isa != VectorIsa::Portable) {
        let strips = case.compile(&options(isa));
        let narrow = case.compile(&CodegenOptions { wide: false, ..options(isa) });
        assert!(strips.code() != narrow.code(), "{what}: {isa:?} has no strips");
        let found = case.run(&strips, inputs, &Pool::default());
        let expected = case.run(&narrow, inputs, &Pool::default());
        for (found, expected) in found.iter().zip(&expected) {
            let (found, expected) = (words(found), words(expected));
            let differing = (0..found.len()).find(|&k| found[k] != expected[k]);
            if let Some(k) = differing {
                panic!("{what}, {isa:?}: element {k} is {:#x} instead of {:#x}", found[k], expected[k]);
            }
        }
    }
}

/// A map over one axis whose operands are read point by point.
fn map(
    n: usize,
    operands: &[DType],
    results: &[DType],
    build: impl Fn(&mut Body, &[ScalarId]) -> Vec<ScalarId>,
) -> Case {
    let mut body = Body::default();
    let loads: Vec<ScalarId> =
        operands.iter().enumerate().map(|(k, &d)| body.load(d, Access::identity(k, &[n], 1))).collect();
    let stores = build(&mut body, &loads);
    let kernel = LoopKernel { space: vec![n], accumulate: None, body, stores };
    let types = |dtypes: &[DType]| dtypes.iter().map(|&d| TensorType::new(d, [n])).collect::<Vec<_>>();
    Case::new(vec![KernelKind::Loops(kernel)], &types(operands), &types(results))
}

const UNARY: [UnaryFn; 15] = [
    UnaryFn::Neg,
    UnaryFn::Abs,
    UnaryFn::Exp,
    UnaryFn::Log,
    UnaryFn::Tanh,
    UnaryFn::Erf,
    UnaryFn::Sqrt,
    UnaryFn::Rsqrt,
    UnaryFn::Recip,
    UnaryFn::Sin,
    UnaryFn::Cos,
    UnaryFn::Floor,
    UnaryFn::Ceil,
    UnaryFn::Round,
    UnaryFn::Sign,
];

const BINARY: [BinaryFn; 6] =
    [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Div, BinaryFn::Max, BinaryFn::Min];

const COMPARE: [CompareFn; 6] =
    [CompareFn::Eq, CompareFn::Ne, CompareFn::Lt, CompareFn::Le, CompareFn::Gt, CompareFn::Ge];

#[test]
fn unary_functions_have_the_same_bits() {
    let mut random = Random(11);
    for f in UNARY {
        for n in LENGTHS {
            let case = map(n, &[DType::F32], &[DType::F32], |b, x| vec![b.unary(f, x[0])]);
            let input = floats(&TensorType::f32([n]), &mut random);
            assert_same_bits(&format!("{} of {n}", f.word()), &case, &[input]);
        }
    }
}

#[test]
fn binary_functions_and_comparisons_have_the_same_bits() {
    let mut random = Random(12);
    for n in LENGTHS {
        let ty = TensorType::f32([n]);
        for f in BINARY {
            let case = map(n, &[DType::F32; 2], &[DType::F32], |b, x| vec![b.binary(f, x[0], x[1])]);
            let inputs = [floats(&ty, &mut random), floats(&ty, &mut random)];
            assert_same_bits(&format!("{} of {n}", f.word()), &case, &inputs);
        }
        for f in COMPARE {
            let case = map(n, &[DType::F32; 2], &[DType::Bool], |b, x| vec![b.compare(f, x[0], x[1])]);
            let inputs = [floats(&ty, &mut random), floats(&ty, &mut random)];
            assert_same_bits(&format!("{} of {n}", f.word()), &case, &inputs);
        }
    }
}

#[test]
fn booleans_have_the_same_bits() {
    let mut random = Random(13);
    for n in LENGTHS {
        let case = map(n, &[DType::F32, DType::Bool, DType::Bool], &[DType::F32, DType::Bool, DType::Bool], |b, x| {
            let both = b.binary(BinaryFn::And, x[1], x[2]);
            let either = b.binary(BinaryFn::Or, x[1], x[2]);
            let one = b.binary(BinaryFn::Xor, both, either);
            let not = b.unary(UnaryFn::Not, one);
            let number = b.cast(DType::F32, x[1]);
            let sum = b.binary(BinaryFn::Add, x[0], number);
            let nonzero = b.cast(DType::Bool, x[0]);
            let chosen = b.select(x[2], sum, x[0]);
            let which = b.select(nonzero, not, x[1]);
            vec![chosen, which, not]
        });
        let mask = |random: &mut Random| random.tensor(&TensorType::new(DType::Bool, [n]), 0.0..2.0);
        let inputs = [floats(&TensorType::f32([n]), &mut random), mask(&mut random), mask(&mut random)];
        assert_same_bits(&format!("booleans of {n}"), &case, &inputs);
    }
}

/// A chain with more values alive than there are registers: all loads are used again at the end.
#[test]
fn long_chains_spill_without_harm() {
    let mut random = Random(14);
    for (n, operands) in [(100, 12), (67, 22)] {
        let case = map(n, &vec![DType::F32; operands], &[DType::F32; 2], |b, x| {
            let parts: Vec<ScalarId> = x.iter().map(|&x| b.unary(UnaryFn::Tanh, x)).collect();
            let sum = parts[1..].iter().fold(parts[0], |s, &p| b.binary(BinaryFn::Add, s, p));
            let back = parts.iter().rev().fold(sum, |s, &p| b.binary(BinaryFn::Mul, s, p));
            vec![sum, back]
        });
        let ty = TensorType::f32([n]);
        let inputs: Vec<Tensor> = (0..operands).map(|_| random.tensor(&ty, -3.0..3.0)).collect();
        assert_same_bits(&format!("{operands} operands"), &case, &inputs);
    }
}

/// Rows scaled and shifted per row and per column, with a scalar for all.
#[test]
fn broadcasts_have_the_same_bits() {
    let mut random = Random(15);
    for (rows, columns) in [(3, 17), (5, 64), (2, 131)] {
        let shape = [rows, columns];
        let nest = Nest::map(&shape, |b| {
            let x = b.load(DType::F32, Access::identity(0, &shape, 2));
            let by_row = b.load(DType::F32, Access::new(1, &[rows], vec![Affine::dim(2, 0)]));
            let by_column = b.load(DType::F32, Access::new(2, &[columns], vec![Affine::dim(2, 1)]));
            let for_all = b.load(DType::F32, Access::new(3, &[], vec![]));
            let keep = b.load(DType::Bool, Access::new(4, &[rows], vec![Affine::dim(2, 0)]));
            let e = b.unary(UnaryFn::Exp, by_row);
            let shifted = b.binary(BinaryFn::Sub, x, e);
            let scaled = b.binary(BinaryFn::Mul, shifted, by_column);
            let sum = b.binary(BinaryFn::Add, scaled, for_all);
            b.select(keep, sum, by_column)
        });
        let types = [
            TensorType::f32(shape),
            TensorType::f32([rows]),
            TensorType::f32([columns]),
            TensorType::f32([]),
            TensorType::new(DType::Bool, [rows]),
        ];
        let case = Case::new(vec![nest_kernel(&nest)], &types, &[TensorType::f32(shape)]);
        let inputs: Vec<Tensor> = types.iter().map(|ty| random.tensor(ty, 0.0..2.0)).collect();
        assert_same_bits(&format!("{rows} rows of {columns}"), &case, &inputs);
    }
}

/// The index along the rows compared with the row's own and with numbers of any size read per row.
#[test]
fn comparisons_of_indices_have_the_same_bits() {
    let mut random = Random(19);
    let (rows, columns) = (7, 37);
    let shape = [rows, columns];
    for f in COMPARE {
        for dtype in [DType::I32, DType::I64] {
            let nest = Nest::map(&shape, |b| {
                let x = b.load(DType::F32, Access::identity(0, &shape, 2));
                let label = b.load(dtype, Access::new(1, &[rows], vec![Affine::dim(2, 0)]));
                let [row, column] = [0, 1].map(|d| b.push(Scalar::LoopIndex(d), DType::I64));
                let class = b.cast(dtype, column);
                let hit = b.compare(f, class, label);
                let causal = b.compare(f, row, column);
                let zero = b.constant(DType::F32, 0.0);
                let chosen = b.select(hit, x, zero);
                let one = b.constant(DType::F32, 1.0);
                b.select(causal, chosen, one)
            });
            let types = [TensorType::f32(shape), TensorType::new(dtype, [rows])];
            let case = Case::new(vec![nest_kernel(&nest)], &types, &[TensorType::f32(shape)]);
            let large = if dtype == DType::I64 { 1 << 40 } else { i64::from(i32::MAX) };
            let labels = vec![0, 5, 36, 37, -1, large, -large];
            let inputs = [random.tensor(&types[0], -2.0..2.0), Tensor::int(types[1].clone(), labels)];
            assert_same_bits(&format!("{} of {dtype:?}", f.word()), &case, &inputs);
        }
    }
}

/// Guards that hold along a whole row, and guards that cut the row's ends off.
#[test]
fn padding_has_the_same_bits() {
    let mut random = Random(16);
    let (rows, columns) = (6, 40);
    let view = [rows, columns];
    for shift in [0, 3] {
        let space = [rows + 2, columns + 2 * shift];
        let nest = Nest::map(&space, |b| {
            let indices = vec![Affine::dim(2, 0).offset(-1), Affine::dim(2, 1).offset(-(shift as i64))];
            let x = b.load(DType::F32, Access::new(0, &view, indices).filled(-7.0));
            b.unary(UnaryFn::Tanh, x)
        });
        let case = Case::new(vec![nest_kernel(&nest)], &[TensorType::f32(view)], &[TensorType::f32(space)]);
        let input = random.tensor(&TensorType::f32(view), -2.0..2.0);
        assert_same_bits(&format!("padding by {shift}"), &case, &[input]);
    }
}

fn combined(combine: Combine, values: impl Iterator<Item = f64>) -> f64 {
    match combine {
        Combine::Sum => values.sum(),
        Combine::Prod => values.product(),
        Combine::Max => values.fold(f64::NEG_INFINITY, gradc_ir::scalar::maximum),
        Combine::Min => values.fold(f64::INFINITY, gradc_ir::scalar::minimum),
    }
}

/// `tanh(combine over some axes of x²) + 1` of a tensor, the other axes kept in order.
fn reduction(shape: &[usize], kept: &[usize], combine: Combine) -> Case {
    let reduced: Vec<usize> = (0..shape.len()).filter(|d| !kept.contains(d)).collect();
    let order = [kept, &reduced].concat();
    let rank = shape.len();
    let at = |axis: usize| order.iter().position(|&d| d == axis).expect("every axis has a loop");
    let mut body = Body::default();
    let indices = (0..rank).map(|axis| Affine::dim(rank, at(axis))).collect();
    let x = body.load(DType::F32, Access::new(0, shape, indices));
    let value = body.binary(BinaryFn::Mul, x, x);
    let extents = reduced.iter().map(|&d| shape[d]).collect();
    let accumulate = Some(Accumulate::Reduce { extents, combine, body, values: vec![value] });
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let tanh = body.unary(UnaryFn::Tanh, sum);
    let one = body.constant(DType::F32, 1.0);
    let shifted = body.binary(BinaryFn::Add, tanh, one);
    let space: Vec<usize> = kept.iter().map(|&d| shape[d]).collect();
    let kernel = LoopKernel { space: space.clone(), accumulate, body, stores: vec![sum, shifted] };
    let results = [TensorType::f32(space.clone()), TensorType::f32(space)];
    Case::new(vec![KernelKind::Loops(kernel)], &[TensorType::f32(shape)], &results)
}

/// The combination of the squares per kept point, by definition.
fn expected(shape: &[usize], kept: &[usize], combine: Combine, x: &[f64]) -> Vec<f64> {
    let strides = row_major_strides(shape);
    let points: usize = kept.iter().map(|&d| shape[d]).product();
    let mut terms = vec![vec![]; points];
    for (flat, x) in x.iter().enumerate() {
        let point = kept.iter().fold(0, |at, &d| at * shape[d] + flat / strides[d] % shape[d]);
        terms[point].push(x * x);
    }
    terms.into_iter().map(|terms| combined(combine, terms.into_iter())).collect()
}

#[test]
fn accumulations_agree_with_f64() {
    let Some(isa) = strip_isa() else { return };
    let mut random = Random(17);
    let cases: [(&[usize], &[usize]); 20] = [
        (&[7, 5], &[0]),
        (&[7, 10], &[0]),
        (&[2, 1500, 12], &[0, 1]),
        (&[10, 3, 40], &[1, 0]),
        (&[6, 3, 10], &[0]),
        (&[3, 16], &[0]),
        (&[3, 63], &[0]),
        (&[2, 131], &[0]),
        (&[1000], &[]),
        (&[5, 7, 33], &[1]),
        (&[3, 17], &[1]),
        (&[40, 65], &[1]),
        (&[100, 16], &[1]),
        (&[9, 2100], &[1]),
        (&[6, 3, 5, 40], &[1, 3]),
        (&[8, 4, 20], &[0, 2]),
        (&[70, 2, 24], &[1, 2]),
        (&[1000, 20], &[1]),
        (&[300, 64], &[1]),
        (&[2, 270, 3, 64], &[2, 3]),
    ];
    for (shape, kept) in cases {
        for combine in [Combine::Sum, Combine::Prod, Combine::Max, Combine::Min] {
            let case = reduction(shape, kept, combine);
            let executable = case.compile(&options(isa));
            let narrow = case.compile(&CodegenOptions { wide: false, ..options(isa) });
            assert!(executable.code() != narrow.code(), "{shape:?} to {kept:?} has no strips");
            let x = random.tensor(&TensorType::f32(shape), 0.7..1.3);
            let found = case.run(&executable, std::slice::from_ref(&x), &Pool::default());
            let (sums, shifted) = (found[0].to_f32().expect("f32"), found[1].to_f32().expect("f32"));
            for (k, want) in expected(shape, kept, combine, x.floats()).into_iter().enumerate() {
                // Half a unit per rounding: of short sums and products at most one per term, of long sums one.
                let limit = 0.5 * f64::from(f32::EPSILON) * want * x.floats().len().min(2000) as f64;
                let error = (f64::from(sums[k]) - want).abs();
                assert!(
                    error <= limit || f64::from(sums[k]) == want,
                    "{combine:?} of {shape:?} to {kept:?}, {k}: {} instead of {want}",
                    sums[k]
                );
                let want = f64::from(sums[k]).tanh() + 1.0;
                assert!((f64::from(shifted[k]) - want).abs() <= 4e-7, "what follows {combine:?} of {shape:?}, {k}");
            }
        }
    }
}

/// A NaN anywhere makes a maximum or minimum NaN, and no other result.
#[test]
fn extremes_are_nan_where_any_element_is() {
    let Some(isa) = strip_isa() else { return };
    for (kept, n) in [(0, 5), (0, 10), (0, 33), (0, 64), (0, 131), (1, 33), (1, 131)] {
        let shape = if kept == 0 { [4, n] } else { [n, 20] };
        for combine in [Combine::Max, Combine::Min] {
            let case = reduction(&shape, &[kept], combine);
            let executable = case.compile(&options(isa));
            for at in 0..n {
                let ty = TensorType::f32(shape);
                let row = if kept == 0 { 2 } else { at };
                let column = if kept == 0 { at } else { 2 };
                let nan = row * shape[1] + column;
                let x = float(&ty, (0..ty.elements()).map(|k| if k == nan { f32::NAN } else { k as f32 }));
                let found = case.run(&executable, &[x], &Pool::default());
                let found = found[0].to_f32().expect("f32");
                let expected: Vec<bool> = (0..found.len()).map(|k| k == 2).collect();
                assert_eq!(
                    found.iter().map(|v| v.is_nan()).collect::<Vec<_>>(),
                    expected,
                    "{combine:?}, NaN at {at} of {n}"
                );
            }
        }
    }
}

/// Sums over rows of few points of what a label of each row picks, as in the loss of a classifier: one term each.
#[test]
fn labels_of_rows_pick_elements() {
    let Some(isa) = strip_isa() else { return };
    let mut random = Random(23);
    for (columns, dtype) in [(10, DType::I64), (10, DType::I32), (37, DType::I64)] {
        let shape = [9, columns];
        let mut body = Body::default();
        let x = body.load(DType::F32, Access::identity(0, &shape, 2));
        let label = body.load(dtype, Access::new(1, &shape[..1], vec![Affine::dim(2, 0)]));
        let label = body.cast(DType::I32, label);
        let column = body.push(Scalar::LoopIndex(1), DType::I64);
        let column = body.cast(DType::I32, column);
        let hit = body.compare(CompareFn::Eq, column, label);
        let zero = body.constant(DType::F32, 0.0);
        let value = body.select(hit, x, zero);
        let accumulate =
            Some(Accumulate::Reduce { extents: vec![columns], combine: Combine::Sum, body, values: vec![value] });
        let mut body = Body::default();
        let sum = body.push(Scalar::Accumulated(0), DType::F32);
        let kernel = LoopKernel { space: vec![9], accumulate, body, stores: vec![sum] };
        let types = [TensorType::f32(shape), TensorType::new(dtype, [9])];
        let case = Case::new(vec![KernelKind::Loops(kernel)], &types, &[TensorType::f32([9])]);
        let executable = case.compile(&options(isa));
        let narrow = case.compile(&CodegenOptions { wide: false, ..options(isa) });
        assert!(executable.code() != narrow.code(), "{columns} columns, {dtype:?}: no strips");
        let x = random.tensor(&types[0], -2.0..2.0);
        let labels: Vec<i64> = (0..9).map(|row| if row == 4 { -100 } else { row * 7 % columns as i64 }).collect();
        let inputs = [x.clone(), Tensor::int(types[1].clone(), labels.clone())];
        let found = case.run(&executable, &inputs, &Pool::default())[0].to_f32().expect("f32");
        let picked = labels
            .iter()
            .enumerate()
            .map(|(row, &label)| usize::try_from(label).map_or(0.0, |label| x.floats()[row * columns + label] as f32));
        assert_eq!(found, picked.collect::<Vec<f32>>(), "{columns} columns, {dtype:?}");
    }
}

/// Parameter and moments after a step, written where they were read, as bytes.
fn updated_in_place(n: usize, wide: bool) -> Vec<u8> {
    let mut body = Body::default();
    let [p, m, v, g] = [0, 1, 2, 3].map(|k| body.load(DType::F32, Access::identity(k, &[n], 1)));
    let sum = body.binary(BinaryFn::Add, m, g);
    let square = body.binary(BinaryFn::Mul, g, g);
    let square = body.binary(BinaryFn::Add, v, square);
    let root = body.unary(UnaryFn::Sqrt, square);
    let step = body.binary(BinaryFn::Div, sum, root);
    let next = body.binary(BinaryFn::Sub, p, step);
    let kernel = LoopKernel { space: vec![n], accumulate: None, body, stores: vec![next, sum, square] };
    let bytes = (4 * n).next_multiple_of(64);
    let operand = |k: usize| {
        Operand::fixed(Place { segment: Segment::Persistent, offset_bytes: k * bytes }, TensorType::f32([n]))
    };
    let kernel = Kernel { kind: KernelKind::Loops(kernel), operands: vec![], results: vec![] };
    let operands: Vec<Operand> = (0..4).map(operand).collect();
    let results = operands[..3].to_vec();
    let actions = vec![PlacedAction::Run { kernel: Box::new(kernel), operands, results }];
    let entry = EntryCode { name: "update".into(), actions, commits: vec![] };
    let options = CodegenOptions { wide, ..options(Target::host().vector_isa) };
    let executable = compile(&[entry], &options).expect("the update compiles");
    let (mut arena, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
    let (mut persistent, mut scratch) = (AlignedBuffer::zeroed(4 * bytes), AlignedBuffer::zeroed(0));
    let mut random = Random(18);
    for word in persistent.bytes_mut().chunks_exact_mut(4) {
        word.copy_from_slice(&(random.uniform(0.1..2.0) as f32).to_le_bytes());
    }
    let mut memory =
        Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
    executable.run(0, &mut memory, &[], &Pool::default()).expect("the update runs");
    persistent.bytes().to_vec()
}

#[test]
fn updates_in_place_read_before_they_write() {
    for n in LENGTHS {
        assert!(updated_in_place(n, true) == updated_in_place(n, false), "{n} parameters");
    }
}

#[test]
fn the_portable_target_has_no_strips() {
    let case = map(100, &[DType::F32], &[DType::F32], |b, x| vec![b.unary(UnaryFn::Exp, x[0])]);
    let strips = case.compile(&options(VectorIsa::Portable));
    let narrow = case.compile(&CodegenOptions { wide: false, ..options(VectorIsa::Portable) });
    assert_eq!(strips.code(), narrow.code());
}
