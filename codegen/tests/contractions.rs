//! Contractions through micro-kernels: every instruction set, every edge of a tile, any number of threads.

mod common;

use common::{Case, Random, instruction_sets, op_kernels, options};
use gradc_codegen::{Engine, Pool};
use gradc_ir::kernel::{KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Scalar, UnaryFn};
use gradc_ir::ops::{Convolution, ConvolutionInputGrad, ConvolutionWeightGrad, DotGeneral, Op};
use gradc_ir::target::VectorIsa;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType};

/// Error allowed, relative to the sum of the products' magnitudes.
const SUM: f64 = 1e-6;

/// Error of an operation on f32, relative to its result.
const HALF_ULP: f64 = f32::EPSILON as f64 / 2.0;

fn matmul(lhs_contract: usize, rhs_contract: usize) -> Op {
    DotGeneral {
        lhs_batch: vec![],
        rhs_batch: vec![],
        lhs_contract: vec![lhs_contract],
        rhs_contract: vec![rhs_contract],
    }
    .into()
}

fn random_inputs(shapes: &[&[usize]], seed: u64) -> Vec<Tensor> {
    let mut random = Random(seed);
    shapes.iter().map(|s| random.tensor(&TensorType::f32(s.to_vec()), -1.0..1.0)).collect()
}

/// The result and, element by element, how far native sums may be from it.
fn reference(op: &Op, inputs: &[Tensor]) -> (Tensor, Vec<f64>) {
    let magnitudes: Vec<Tensor> =
        inputs.iter().map(|t| Tensor::float(t.ty.clone(), t.floats().iter().map(|v| v.abs()).collect())).collect();
    let eval = |t: &[Tensor]| op.eval(&t.iter().collect::<Vec<_>>()).expect("the operands fit").remove(0);
    (eval(inputs), eval(&magnitudes).floats().iter().map(|v| v * SUM + 1e-30).collect())
}

fn assert_near(what: &str, found: &HostTensor, (expected, limits): &(Tensor, Vec<f64>)) {
    let found = found.to_tensor();
    for (k, ((f, e), limit)) in found.floats().iter().zip(expected.floats()).zip(limits).enumerate() {
        assert!((f - e).abs() <= *limit, "{what}: element {k} is {f} instead of {e}");
    }
}

/// Checks an op on every instruction set and that 1, 2 and 4 threads give the same bits.
fn check(op: &Op, shapes: &[&[usize]]) {
    let inputs = random_inputs(shapes, 7);
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
    let expected = reference(op, &inputs);
    let case = Case::of_op(op, &types).expect("a contraction is not expanded");
    for isa in instruction_sets() {
        let executable = case.compile(&options(isa));
        let one = case.run(&executable, &inputs, &Pool::default());
        assert_near(&format!("{op} on {shapes:?} with {isa:?}"), &one[0], &expected);
        for threads in [2, 4] {
            let pool = Pool::new(threads).expect("threads start");
            assert_eq!(one, case.run(&executable, &inputs, &pool), "{threads} threads change bits");
        }
    }
}

#[test]
fn products_of_every_size() {
    for (m, n, k) in [
        (1, 1, 1),
        (3, 4, 5),
        (16, 17, 64),
        (17, 16, 100),
        (5, 100, 3),
        (100, 1, 17),
        (64, 64, 64),
        (6, 16, 300),
        (8, 8, 8),
        (4, 24, 12),
        (6, 16, 20),
        (6, 13, 9),
        (8, 4, 16),
        (70, 5, 300),
        (9, 7, 40),
        (13, 33, 513),
    ] {
        check(&matmul(1, 0), &[&[m, k], &[k, n]]);
        check(&matmul(1, 1), &[&[m, k], &[n, k]]);
        check(&matmul(0, 0), &[&[k, m], &[k, n]]);
        check(&matmul(0, 1), &[&[k, m], &[n, k]]);
    }
}

/// A vector times a matrix, either way round, in parts of tiles and in several tiles, blocks and chunks.
#[test]
fn products_of_one_row() {
    let batched = |left: usize, right: usize| -> Op {
        let [lhs_contract, rhs_contract] = [vec![left], vec![right]];
        DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract, rhs_contract }.into()
    };
    for (n, k) in [(8, 64), (9, 70), (31, 17), (512, 256), (530, 300), (1100, 257), (2500, 9), (70, 1030), (9, 9000)] {
        check(&matmul(1, 0), &[&[1, k], &[k, n]]);
        check(&matmul(1, 1), &[&[1, k], &[n, k]]);
        check(&matmul(0, 1), &[&[k, 1], &[n, k]]);
        check(&matmul(1, 0), &[&[n, k], &[k, 1]]);
        check(&matmul(0, 0), &[&[k, n], &[k, 1]]);
        check(&batched(2, 1), &[&[3, 1, k], &[3, k, n]]);
        check(&batched(2, 2), &[&[3, 1, k], &[3, n, k]]);
    }
    check(&matmul(1, 0), &[&[1, 1], &[1, 600]]);
}

/// Vectors along the depth, the other factor as it is stored or transposed first, and rows that become columns.
#[test]
fn products_of_few_rows_or_columns() {
    let batched: Op =
        DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![2] }.into();
    let depths = [(2, 2, 128), (3, 5, 100), (4, 4, 33), (5, 300, 64), (9, 70, 530), (11, 7, 4200), (70, 2, 40)];
    for (few, many, k) in depths {
        for (m, n) in [(few, many), (many, few)] {
            check(&matmul(1, 0), &[&[m, k], &[k, n]]);
            check(&matmul(1, 1), &[&[m, k], &[n, k]]);
            check(&matmul(0, 0), &[&[k, m], &[k, n]]);
            check(&matmul(0, 1), &[&[k, m], &[n, k]]);
        }
        check(&batched, &[&[3, few, k], &[3, many, k]]);
    }
    // In several blocks and chunks.
    check(&matmul(1, 1), &[&[6, 520], &[2300, 520]]);
    check(&matmul(1, 0), &[&[2100, 400], &[400, 3]]);
    check(&matmul(0, 0), &[&[70, 2100], &[70, 6]]);
}

/// Read along the depth, elements are the sums that they are in a product of one row, with vectors of any width.
#[test]
fn a_row_along_the_depth_has_the_same_bits_in_any_product() {
    for (n, k) in [(40, 64), (33, 300), (31, 4500), (130, 77)] {
        let [rows, w] = &random_inputs(&[&[7, k], &[n, k]], 5)[..] else { panic!("two inputs") };
        let bits = |count: usize, isa: VectorIsa| {
            let some = Tensor::float(TensorType::f32([count, k]), rows.floats()[..count * k].to_vec());
            let case = Case::of_op(&matmul(1, 1), &[some.ty.clone(), w.ty.clone()]).expect("a contraction");
            let found = case.run(&case.compile(&options(isa)), &[some, w.clone()], &Pool::default()).remove(0);
            found.to_tensor().floats()[..n].iter().map(|v| v.to_bits()).collect::<Vec<u64>>()
        };
        let vectors = instruction_sets().into_iter().filter(|&isa| isa != VectorIsa::Portable);
        for (isa, count) in vectors.flat_map(|isa| [(isa, 2), (isa, 3), (isa, 7)]) {
            assert_eq!(bits(count, isa), bits(1, VectorIsa::Avx2), "{count} rows, {n} columns, depth {k}, {isa:?}");
        }
    }
}

/// Where its columns are next to each other in the weight, its elements are the sums that they are among several rows.
#[test]
fn a_row_has_the_same_bits_in_any_product() {
    for (n, k) in [(40, 30), (530, 300), (33, 1030)] {
        let [rows, w] = &random_inputs(&[&[7, k], &[k, n]], 5)[..] else { panic!("two inputs") };
        let one = Tensor::float(TensorType::f32([1, k]), rows.floats()[..k].to_vec());
        for isa in instruction_sets().into_iter().filter(|&isa| isa != VectorIsa::Portable) {
            let bits = |inputs: [&Tensor; 2]| {
                let inputs = inputs.map(Tensor::clone);
                let case = Case::of_op(&matmul(1, 0), &inputs.each_ref().map(|t| t.ty.clone()));
                let case = case.expect("a contraction is not expanded");
                let found = case.run(&case.compile(&options(isa)), &inputs, &Pool::default()).remove(0);
                found.to_tensor().floats()[..n].iter().map(|v| v.to_bits()).collect::<Vec<u64>>()
            };
            assert_eq!(bits([&one, w]), bits([rows, w]), "{n} columns, depth {k}, {isa:?}");
        }
    }
}

/// Rows and columns that fill tiles, halves of them and less, depths of one block and several; results whose rows begin with
/// lines of the cache, and not, and are pages apart.
const OF_PARTS: [[usize; 3]; 11] = [
    [784, 128, 32],
    [784, 512, 48],
    [128, 160, 128],
    [137, 145, 257],
    [150, 144, 130],
    [200, 200, 140],
    [250, 130, 160],
    [128, 545, 130],
    [130, 1024, 140],
    [530, 129, 130],
    [300, 260, 70],
];

/// Whole tiles and parts of them, one depth and several, factors as they come and transposed, rows that are not evenly
/// apart, and what is added to other depths.
#[test]
fn products_of_parts_of_floats() {
    for [m, n, k] in OF_PARTS {
        check(&matmul(1, 0), &[&[m, k], &[k, n]]);
        check(&matmul(1, 1), &[&[m, k], &[n, k]]);
        check(&matmul(0, 0), &[&[k, m], &[k, n]]);
        check(&matmul(0, 1), &[&[k, m], &[n, k]]);
    }
    let batched = |lhs_contract: usize, rhs_contract: usize| -> Op {
        let [lhs_contract, rhs_contract] = [vec![lhs_contract], vec![rhs_contract]];
        DotGeneral { lhs_batch: vec![1], rhs_batch: vec![1], lhs_contract, rhs_contract }.into()
    };
    check(&batched(2, 2), &[&[130, 3, 136], &[150, 3, 136]]);
    check(&batched(0, 0), &[&[200, 3, 130], &[200, 3, 150]]);
}

/// Depths that are not evenly apart, in runs of whole squares and of less, and windows without borders.
#[test]
fn products_of_parts_of_floats_in_runs() {
    let headwise =
        DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0, 2], rhs_contract: vec![0, 1] };
    let cases: [(Op, [&[usize]; 2]); 3] = [
        (headwise.clone().into(), [&[6, 150, 64], &[6, 64, 160]]),
        (headwise.into(), [&[9, 150, 40], &[9, 40, 160]]),
        (convolution(1, [0, 0], 1, 1).into(), [&[1, 20, 14, 14], &[140, 20, 3, 3]]),
    ];
    for (op, shapes) in cases {
        check(&op, &shapes);
        for isa in instruction_sets().into_iter().filter(|&isa| isa == VectorIsa::Amx) {
            assert_eq!(engine_of(&op, shapes, isa), Some(Engine::Parts), "{op} on {shapes:?}");
        }
    }
}

/// The engine of a product of matrices.
fn engine([m, n, k]: [usize; 3], isa: VectorIsa) -> Option<Engine> {
    engine_of(&matmul(1, 0), [&[m, k], &[k, n]], isa)
}

fn engine_of(op: &Op, shapes: [&[usize]; 2], isa: VectorIsa) -> Option<Engine> {
    let types = shapes.map(TensorType::f32);
    let case = Case::of_op(op, &types).expect("a contraction is not expanded");
    case.compile(&options(isa)).engines(0)[0]
}

#[test]
fn parts_of_floats_are_multiplied_where_that_takes_less_time() {
    for isa in instruction_sets() {
        let large = if isa == VectorIsa::Amx { Engine::Parts } else { Engine::Tiles };
        for product in OF_PARTS {
            assert_eq!(engine(product, isa), Some(large), "{product:?} with {isa:?}");
        }
        // Each float is split for few products, or each sum stored after few.
        for product in [[32, 32, 32], [512, 10, 256], [64, 512, 784], [512, 64, 256], [128, 192, 32], [784, 512, 24]] {
            assert_eq!(engine(product, isa), Some(Engine::Tiles), "{product:?} with {isa:?}");
        }
    }
}

/// What is infinite or no number stays so, in its row or column alone; large and small numbers are multiplied as all others.
#[test]
fn what_is_not_finite_is_multiplied_as_such() {
    let [m, n, k] = [150, 144, 140];
    let mut inputs = random_inputs(&[&[m, k], &[k, n]], 3);
    let mut set = |input: usize, at: [usize; 2], value: f64| {
        let columns = [k, n][input];
        let mut floats = inputs[input].floats().to_vec();
        floats[at[0] * columns + at[1]] = value;
        inputs[input] = Tensor::float(inputs[input].ty.clone(), floats);
    };
    set(0, [5, 7], f64::INFINITY);
    set(0, [70, 130], f64::NAN);
    set(0, [40, 3], f64::from(f32::MAX));
    set(0, [41, 3], 1e-37);
    set(1, [139, 50], f64::NEG_INFINITY);
    let op = matmul(1, 0);
    let (expected, limits) = reference(&op, &inputs);
    let case = Case::of_op(&op, &inputs.iter().map(|t| t.ty.clone()).collect::<Vec<_>>())
        .expect("a contraction is not expanded");
    for isa in instruction_sets() {
        let found = case.run(&case.compile(&options(isa)), &inputs, &Pool::default()).remove(0).to_tensor();
        for (k, ((f, e), limit)) in found.floats().iter().zip(expected.floats()).zip(&limits).enumerate() {
            let same = if e.is_finite() {
                (f - e).abs() <= *limit
            } else {
                f.to_bits() == e.to_bits() || f.is_nan() && e.is_nan()
            };
            assert!(same, "element {k} is {f} instead of {e} with {isa:?}");
        }
    }
}

#[test]
fn large_products_are_cut_into_blocks() {
    check(&matmul(1, 0), &[&[150, 300], &[300, 270]]);
    check(&matmul(1, 1), &[&[260, 270], &[300, 270]]);
    check(&matmul(0, 0), &[&[300, 170], &[300, 275]]);
    check(&matmul(0, 1), &[&[270, 130], &[290, 270]]);
    // A right factor so large that only columns are cut, and one whose rows are pages apart.
    check(&matmul(1, 0), &[&[131, 700], &[700, 400]]);
    check(&matmul(1, 0), &[&[115, 90], &[90, 2064]]);
}

#[test]
fn factors_are_packed_where_that_pays() {
    // Rows that are far apart and meet many columns; columns packed for each block.
    check(&matmul(1, 0), &[&[30, 550], &[550, 520]]);
    check(&matmul(0, 0), &[&[40, 260], &[40, 300]]);
    let batched = DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![1] };
    check(&batched.into(), &[&[2, 100, 40], &[2, 40, 300]]);
}

#[test]
fn columns_become_rows_where_less_is_transposed() {
    check(&matmul(1, 1), &[&[45, 270], &[301, 270]]);
    check(&matmul(1, 1), &[&[64, 530], &[640, 530]]);
    // Columns beyond the last whole square.
    check(&matmul(1, 1), &[&[51, 270], &[517, 270]]);
    let batched = DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![2] };
    check(&batched.into(), &[&[3, 33, 200], &[3, 205, 200]]);
}

#[test]
fn small_results_of_long_products_are_sums_of_parts() {
    check(&matmul(0, 0), &[&[8192, 48], &[8192, 8]]);
    check(&matmul(0, 0), &[&[2600, 37], &[2600, 29]]);
    check(&matmul(0, 0), &[&[1100, 96], &[1100, 130]]);
    check(&matmul(1, 0), &[&[37, 2600], &[2600, 29]]);
    check(&matmul(1, 1), &[&[37, 2600], &[29, 2600]]);
    check_fused(&matmul(0, 0), [&[2600, 37], &[2600, 29]], [37, 29]);
}

#[test]
fn batched_products() {
    let batched =
        DotGeneral { lhs_batch: vec![0, 2], rhs_batch: vec![0, 1], lhs_contract: vec![3], rhs_contract: vec![3] };
    check(&batched.into(), &[&[2, 20, 3, 8], &[2, 3, 30, 8]]);
    let several_axes =
        DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0, 2], rhs_contract: vec![2, 0] };
    check(&several_axes.into(), &[&[6, 20, 5], &[5, 4, 6, 7]]);
}

#[test]
fn factors_of_uneven_rows_and_depths() {
    let product = |lhs_contract: Vec<usize>, rhs_contract: Vec<usize>| -> Op {
        DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract, rhs_contract }.into()
    };
    // Heads between the rows, depths in runs of 9 that blocks of depth cut: transposed run by run.
    check(&product(vec![1, 3], vec![0, 1]), &[&[2, 31, 20, 9], &[31, 9, 40]]);
    // Rows or columns in runs of 10, which tiles cut: copied run by run.
    check(&product(vec![0, 2], vec![1, 0]), &[&[4, 30, 5, 10], &[5, 4, 70]]);
    check(&product(vec![1, 0], vec![0, 2]), &[&[5, 4, 70], &[4, 30, 5, 10]]);
    // Runs shorter than a vector.
    check(&product(vec![0, 2], vec![0, 2]), &[&[4, 30, 5, 3], &[4, 40, 5, 3]]);
}

fn convolution(stride: usize, pad: [usize; 2], dilation: usize, groups: usize) -> Convolution {
    let both = |v| vec![v; 2];
    Convolution {
        stride: both(stride),
        pad_low: both(pad[0]),
        pad_high: both(pad[1]),
        dilation: both(dilation),
        groups,
    }
}

#[test]
fn convolutions_and_their_adjoints() {
    let cases = [
        (convolution(1, [1, 1], 1, 1), [2, 5, 9, 10], [18, 5, 3, 3]),
        (convolution(2, [1, 0], 1, 1), [2, 4, 11, 12], [17, 4, 3, 3]),
        (convolution(1, [2, 2], 2, 2), [1, 6, 10, 9], [14, 3, 3, 3]),
        (convolution(3, [0, 0], 1, 1), [1, 3, 10, 13], [12, 3, 2, 2]),
        (convolution(1, [0, 0], 1, 1), [2, 16, 7, 7], [20, 16, 1, 1]),
        (convolution(1, [1, 1], 1, 8), [2, 8, 9, 9], [8, 1, 3, 3]),
        (convolution(2, [1, 1], 1, 8), [2, 8, 9, 9], [16, 1, 3, 3]),
    ];
    for (op, x, w) in cases {
        let types = [TensorType::f32(x), TensorType::f32(w)];
        let y = Op::from(op.clone()).infer(&[&types[0], &types[1]]).expect("the shapes fit").remove(0);
        let Convolution { stride, pad_low, pad_high, dilation, groups } = op.clone();
        check(&op.into(), &[&x, &w]);
        let (s, l, h, d) = (stride.clone(), pad_low.clone(), pad_high.clone(), dilation.clone());
        let input =
            ConvolutionInputGrad { stride: s, pad_low: l, pad_high: h, dilation: d, groups, input: x[2..].to_vec() };
        check(&input.into(), &[&y.shape, &w]);
        let weight = ConvolutionWeightGrad { stride, pad_low, pad_high, dilation, groups, kernel: w[2..].to_vec() };
        check(&weight.into(), &[&x, &y.shape]);
    }
}

/// `max(product + bias, 0) + residual` as one kernel.
fn fused(product: &Op, factors: [&[usize]; 2], [m, n]: [usize; 2]) -> KernelKind {
    let types = factors.map(TensorType::f32);
    let output = [TensorType::f32([m, n])];
    let kernels = op_kernels(product, &[&types[0], &types[1]], &output).expect("a contraction");
    let Some(KernelKind::Loops(kernel)) = kernels.into_iter().next() else { panic!("a contraction is a loop kernel") };
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let bias = body.load(DType::F32, Access::new(2, &[n], vec![Affine::dim(2, 1)]));
    let residual = body.load(DType::F32, Access::identity(3, &[m, n], 2));
    let (shifted, zero) = (body.binary(BinaryFn::Add, sum, bias), body.constant(DType::F32, 0.0));
    let positive = body.binary(BinaryFn::Max, shifted, zero);
    let out = body.binary(BinaryFn::Add, positive, residual);
    let negated = body.unary(UnaryFn::Neg, out);
    KernelKind::Loops(LoopKernel { body, stores: vec![out, negated], ..kernel })
}

/// Checks [`fused`] on every instruction set and that 1, 2 and 4 threads give the same bits.
fn check_fused(product: &Op, factors: [&[usize]; 2], [m, n]: [usize; 2]) {
    let inputs = random_inputs(&[factors[0], factors[1], &[n], &[m, n]], 3);
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
    let case = Case::new(vec![fused(product, factors, [m, n])], &types, &[types[3].clone(), types[3].clone()]);
    let (sums, limits) = reference(product, &inputs[..2]);
    let (bias, residual) = (inputs[2].floats(), inputs[3].floats());
    let expected: Vec<f64> =
        sums.floats().iter().enumerate().map(|(p, s)| (s + bias[p % n]).max(0.0) + residual[p]).collect();
    // Beside the sum, its two additions are rounded.
    let rounded = |p: usize| HALF_ULP * ((sums.floats()[p] + bias[p % n]).abs() + expected[p].abs());
    let limits: Vec<f64> = limits.iter().enumerate().map(|(p, limit)| limit + rounded(p)).collect();
    for isa in instruction_sets() {
        let executable = case.compile(&options(isa));
        let found = case.run(&executable, &inputs, &Pool::default());
        let expected = Tensor::float(types[3].clone(), expected.clone());
        let negated = Tensor::float(types[3].clone(), expected.floats().iter().map(|v| -v).collect());
        assert_near("sums", &found[0], &(expected, limits.clone()));
        assert_near("negated", &found[1], &(negated, limits.clone()));
        for threads in [2, 4] {
            let pool = Pool::new(threads).expect("threads start");
            assert_eq!(found, case.run(&executable, &inputs, &pool), "{threads} threads change bits");
        }
    }
}

#[test]
fn what_follows_a_product_is_applied_to_its_sums() {
    check_fused(&matmul(1, 0), [&[37, 20], &[20, 50]], [37, 50]);
    // Products whose rows are the columns of the result, in one block and in several.
    check_fused(&matmul(1, 1), [&[37, 300], &[331, 300]], [37, 331]);
    check_fused(&matmul(1, 1), [&[130, 700], &[520, 700]], [130, 520]);
    // Blocks of parts of floats.
    check_fused(&matmul(0, 0), [&[140, 300], &[140, 560]], [300, 560]);
    // Products of one row, and of one depth.
    check_fused(&matmul(1, 0), [&[1, 300], &[300, 1100]], [1, 1100]);
    check_fused(&matmul(1, 1), [&[1, 300], &[531, 300]], [1, 531]);
    // Along the depth, and few columns that become rows.
    check_fused(&matmul(1, 1), [&[7, 300], &[531, 300]], [7, 531]);
    check_fused(&matmul(1, 0), [&[531, 200], &[200, 3]], [531, 3]);
    check_fused(&matmul(0, 0), [&[60, 531], &[60, 5]], [531, 5]);
    check_fused(&matmul(0, 0), [&[1, 70], &[1, 130]], [70, 130]);
}

#[test]
fn two_compilations_give_the_same_bytes() {
    let types = [TensorType::f32([40, 30]), TensorType::f32([30, 50])];
    let case = Case::of_op(&matmul(1, 0), &types).expect("a contraction");
    let fused = Case::new(
        vec![fused(&matmul(1, 0), [&[9, 8], &[8, 16]], [9, 16])],
        &[[9, 8], [8, 16], [16, 1], [9, 16]].map(TensorType::f32),
        &[TensorType::f32([9, 16]), TensorType::f32([9, 16])],
    );
    for isa in instruction_sets() {
        for case in [&case, &fused] {
            let (first, second) = (case.compile(&options(isa)), case.compile(&options(isa)));
            assert_eq!(first.code(), second.code());
            assert!(first.code_bytes() > 0);
        }
    }
}

/// Products with several axes for rows, columns and repetitions, and a body whose other operand is read transposed, so
/// that none of these axes can be taken for one.
fn fused_transposed(op: &Op, inputs: &[TensorType], space: &[usize]) -> KernelKind {
    let types: Vec<&TensorType> = inputs.iter().collect();
    let outputs = op.infer(&types).expect("the operands fit");
    let kernels = op_kernels(op, &types, &outputs).expect("a contraction");
    let Some(KernelKind::Loops(kernel)) = kernels.into_iter().next() else { panic!("a contraction is a loop kernel") };
    let rank = space.len();
    let (view, indices) = (0..rank).rev().map(|d| (space[d], Affine::dim(rank, d))).unzip::<_, _, Vec<_>, Vec<_>>();
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let other = body.load(DType::F32, Access::new(2, &view, indices));
    let out = body.binary(BinaryFn::Sub, sum, other);
    KernelKind::Loops(LoopKernel { body, stores: vec![out], ..kernel })
}

#[test]
fn bodies_that_read_transposed_operands() {
    let dot = |lhs_batch: &[usize], rhs_batch: &[usize], lhs_contract: &[usize], rhs_contract: &[usize]| DotGeneral {
        lhs_batch: lhs_batch.to_vec(),
        rhs_batch: rhs_batch.to_vec(),
        lhs_contract: lhs_contract.to_vec(),
        rhs_contract: rhs_contract.to_vec(),
    };
    let cases: [(Op, [&[usize]; 3]); 3] = [
        (dot(&[], &[], &[0], &[0]).into(), [&[70, 6, 11], &[70, 5, 13], &[6, 11, 5, 13]]),
        (dot(&[0, 2], &[0, 1], &[3], &[3]).into(), [&[2, 20, 3, 8], &[2, 3, 30, 8], &[2, 3, 20, 30]]),
        (dot(&[], &[], &[0], &[0]).into(), [&[300, 340], &[300, 300], &[340, 300]]),
    ];
    for (op, [lhs, rhs, space]) in cases {
        let other: Vec<usize> = space.iter().rev().copied().collect();
        let inputs = random_inputs(&[lhs, rhs, &other], 11);
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
        let (sums, limits) = reference(&op, &inputs[..2]);
        let transposed = |at: usize| {
            let (mut at, mut to) = (at, 0);
            let mut stride = space.iter().product::<usize>();
            for &extent in space.iter().rev() {
                stride /= extent;
                to += at % extent * stride;
                at /= extent;
            }
            to
        };
        let values = sums.floats().iter().enumerate().map(|(p, s)| s - inputs[2].floats()[transposed(p)]).collect();
        let expected = Tensor::float(TensorType::f32(space.to_vec()), values);
        let limits: Vec<f64> = limits.iter().zip(expected.floats()).map(|(l, e)| l + e.abs() * 4e-7).collect();
        let case =
            Case::new(vec![fused_transposed(&op, &types[..2], space)], &types, std::slice::from_ref(&expected.ty));
        for isa in instruction_sets() {
            let executable = case.compile(&options(isa));
            let one = case.run(&executable, &inputs, &Pool::default());
            assert_near(&format!("{op} and a transposed operand"), &one[0], &(expected.clone(), limits.clone()));
            let pool = Pool::new(2).expect("threads start");
            assert_eq!(one, case.run(&executable, &inputs, &pool), "2 threads change bits");
        }
    }
}

/// A product plus an operand whose axes are read in this order.
fn with_added(op: &Op, inputs: &[TensorType], space: &[usize], order: &[usize]) -> KernelKind {
    let types: Vec<&TensorType> = inputs.iter().collect();
    let outputs = op.infer(&types).expect("the operands fit");
    let kernels = op_kernels(op, &types, &outputs).expect("a contraction");
    let Some(KernelKind::Loops(kernel)) = kernels.into_iter().next() else { panic!("a contraction is a loop kernel") };
    let view: Vec<usize> = order.iter().map(|&d| space[d]).collect();
    let indices = order.iter().map(|&d| Affine::dim(space.len(), d)).collect();
    let mut body = Body::default();
    let other = body.load(DType::F32, Access::new(2, &view, indices));
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let out = body.binary(BinaryFn::Add, other, sum);
    KernelKind::Loops(LoopKernel { body, stores: vec![out], ..kernel })
}

/// Holds a product plus an operand to the bits of the product, to which it is added.
fn check_added(op: &Op, [lhs, rhs, space]: [&[usize]; 3], order: &[usize]) {
    let other: Vec<usize> = order.iter().map(|&d| space[d]).collect();
    let inputs = random_inputs(&[lhs, rhs, &other], 5);
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
    let result = TensorType::f32(space.to_vec());
    let alone = Case::of_op(op, &types[..2]).expect("a contraction is not expanded");
    let added = Case::new(vec![with_added(op, &types[..2], space, order)], &types, std::slice::from_ref(&result));
    let strides = gradc_ir::types::row_major_strides(space);
    let other_strides = gradc_ir::types::row_major_strides(&other);
    let place = |at: usize| -> usize {
        (0..order.len()).map(|axis| at / strides[order[axis]] % other[axis] * other_strides[axis]).sum()
    };
    for isa in instruction_sets() {
        let sums = alone.run(&alone.compile(&options(isa)), &inputs[..2], &Pool::default())[0].to_tensor();
        let plus = |(at, sum): (usize, &f64)| f64::from(*sum as f32 + inputs[2].floats()[place(at)] as f32);
        let expected = sums.floats().iter().enumerate().map(plus).collect::<Vec<f64>>();
        let executable = added.compile(&options(isa));
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).expect("threads start");
            let found = added.run(&executable, &inputs, &pool)[0].to_tensor();
            assert_eq!(found.floats(), &expected[..], "{op} on {lhs:?} {rhs:?} with {isa:?}, {threads} threads");
        }
    }
}

#[test]
fn what_is_added_to_sums_is_added_to_whole_sums() {
    for (m, n, k) in [(48, 32, 16), (16, 48, 32), (7, 5, 30), (33, 23, 1), (8, 8, 8), (2, 8, 40), (135, 150, 257)] {
        check_added(&matmul(1, 0), [&[m, k], &[k, n], &[m, n]], &[0, 1]);
        check_added(&matmul(0, 0), [&[k, m], &[k, n], &[m, n]], &[0, 1]);
        check_added(&matmul(1, 1), [&[m, k], &[n, k], &[m, n]], &[0, 1]);
    }
    // Sums of several blocks of depth, products along the depth, such that are turned, one row or one column.
    check_added(&matmul(1, 1), [&[6, 200], &[70, 200], &[6, 70]], &[0, 1]);
    check_added(&matmul(1, 1), [&[6, 9000], &[5, 9000], &[6, 5]], &[0, 1]);
    check_added(&matmul(0, 0), [&[64, 300], &[64, 4], &[300, 4]], &[0, 1]);
    check_added(&matmul(1, 0), [&[50, 600], &[600, 40], &[50, 40]], &[0, 1]);
    check_added(&matmul(1, 1), [&[37, 200], &[331, 200], &[37, 331]], &[0, 1]);
    check_added(&matmul(1, 0), [&[1, 100], &[100, 70], &[1, 70]], &[0, 1]);
    check_added(&matmul(1, 1), [&[1, 100], &[70, 100], &[1, 70]], &[0, 1]);
    // Products of a batch, and an operand that is read in another order.
    let batched = DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![1] };
    check_added(&batched.into(), [&[3, 20, 30], &[3, 30, 41], &[3, 20, 41]], &[0, 1, 2]);
    check_added(&matmul(1, 0), [&[40, 30], &[30, 40], &[40, 40]], &[1, 0]);
}
