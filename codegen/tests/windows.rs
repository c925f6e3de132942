//! Convolutions and their adjoints with channels innermost, against the interpreter: every instruction set, any
//! number of threads.

mod common;

use common::{
    CHANNELS_LAST, Case, Random, TAPS_FIRST, TAPS_FIRST_INPUTS_LAST, instruction_sets, options, permuted, reordered,
};
use gradc_codegen::Pool;
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::{BinaryFn, Body, Contraction, Lowering, Scalar};
use gradc_ir::ops::{Convolution, Op};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, row_major_strides, unravel};

/// Error allowed, relative to the sum of the products' magnitudes.
const SUM: f64 = 1e-6;

/// The weight's input channels innermost, outputs outermost.
const INPUTS_LAST: [usize; 5] = [0, 1, 3, 4, 2];

/// The tensor, seen as `view`, with its axes in another order.
fn stored(tensor: &Tensor, view: &[usize], order: &[usize]) -> Tensor {
    let (shape, strides) = (permuted(view, order), permuted(&row_major_strides(view), order));
    let at = |k: usize| unravel(k, &shape).iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>();
    let values = tensor.floats();
    Tensor::float(TensorType::f32(shape.clone()), (0..values.len()).map(|k| values[at(k)]).collect())
}

/// An op with its operands and the orders of the axes of its result and of the operands.
struct Ordered {
    op: Op,
    inputs: [Tensor; 2],
    orders: [[usize; 5]; 3],
}

impl Ordered {
    fn contraction(&self) -> Contraction {
        let types: Vec<&TensorType> = self.inputs.iter().map(|t| &t.ty).collect();
        let outputs = self.op.infer(&types).expect("the operands fit");
        let Lowering::Contraction(c) = self.op.lower(&types, &outputs) else { panic!("a contraction") };
        c
    }

    /// The kernel that stores its sums `times` times themselves plus `add`.
    fn kernel(&self, epilogue: Option<(f64, f64)>) -> KernelKind {
        let contraction = reordered(&self.contraction(), self.orders.each_ref().map(|o| &o[..]));
        let mut body = Body::default();
        let mut out = body.push(Scalar::Accumulated(0), DType::F32);
        if let Some((times, add)) = epilogue {
            let [times, add] = [times, add].map(|v| body.constant(DType::F32, v));
            let product = body.binary(BinaryFn::Mul, out, times);
            out = body.binary(BinaryFn::Add, product, add);
        }
        let space = contraction.space.clone();
        KernelKind::Loops(LoopKernel {
            space,
            accumulate: Some(Accumulate::Contract(contraction)),
            body,
            stores: vec![out],
        })
    }

    /// The op's result in its order, of these inputs.
    fn result(&self, inputs: &[Tensor; 2]) -> Tensor {
        let result = self.op.eval(&inputs.iter().collect::<Vec<_>>()).expect("the operands fit").remove(0);
        stored(&result, &self.contraction().space, &self.orders[0])
    }

    fn check(&self, epilogue: Option<(f64, f64)>) {
        let c = self.contraction();
        let views = [&c.lhs.view, &c.rhs.view];
        let stored: Vec<Tensor> = (0..2).map(|k| stored(&self.inputs[k], views[k], &self.orders[k + 1])).collect();
        let magnitudes =
            self.inputs.each_ref().map(|t| Tensor::float(t.ty.clone(), t.floats().iter().map(|v| v.abs()).collect()));
        let (expected, limits) = (self.result(&self.inputs), self.result(&magnitudes));
        let types: Vec<TensorType> = stored.iter().map(|t| t.ty.clone()).collect();
        let case = Case::new(vec![self.kernel(epilogue)], &types, std::slice::from_ref(&expected.ty));
        for isa in instruction_sets() {
            let executable = case.compile(&options(isa));
            let one = case.run(&executable, &stored, &Pool::default());
            let (times, add) = epilogue.unwrap_or((1.0, 0.0));
            for (k, (f, e)) in one[0].to_tensor().floats().iter().zip(expected.floats()).enumerate() {
                let (e, limit) = (e * times + add, limits.floats()[k] * SUM * times.abs() + add.abs() * 1e-7 + 1e-30);
                assert!((f - e).abs() <= limit, "{} {isa:?}: element {k} is {f} instead of {e}", self.op);
            }
            for threads in [2, 4] {
                let pool = Pool::new(threads).expect("threads start");
                assert_eq!(one, case.run(&executable, &stored, &pool), "{threads} threads change bits");
            }
        }
    }
}

/// A convolution and both its adjoints in the orders kernels are given them.
fn all_three(op: &Convolution, x: &[usize], w: &[usize], seed: u64) -> Vec<Ordered> {
    let mut random = Random(seed);
    let mut tensor = |shape: &[usize]| random.tensor(&TensorType::f32(shape), -1.0..1.0);
    let (x_tensor, w_tensor) = (tensor(x), tensor(w));
    let y = Op::from(op.clone()).infer(&[&x_tensor.ty, &w_tensor.ty]).expect("the shapes fit").remove(0);
    let y_tensor = tensor(&y.shape);
    let weight = |order| Ordered {
        op: op.weight_grad(&w[2..]).into(),
        inputs: [x_tensor.clone(), y_tensor.clone()],
        orders: [order, CHANNELS_LAST, CHANNELS_LAST],
    };
    let mut all: Vec<Ordered> = [TAPS_FIRST, TAPS_FIRST_INPUTS_LAST, INPUTS_LAST].map(weight).into();
    all.push(Ordered {
        op: op.clone().into(),
        inputs: [x_tensor.clone(), w_tensor.clone()],
        orders: [CHANNELS_LAST, CHANNELS_LAST, TAPS_FIRST],
    });
    all.push(Ordered {
        op: op.input_grad(&x[2..]).into(),
        inputs: [y_tensor.clone(), w_tensor.clone()],
        orders: [CHANNELS_LAST, CHANNELS_LAST, TAPS_FIRST_INPUTS_LAST],
    });
    all
}

fn convolution(
    stride: [usize; 2],
    low: [usize; 2],
    high: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> Convolution {
    let [stride, pad_low, pad_high, dilation] = [stride, low, high, dilation].map(|v| v.to_vec());
    Convolution { stride, pad_low, pad_high, dilation, groups }
}

fn check(op: &Convolution, x: [usize; 4], w: [usize; 4]) {
    for ordered in all_three(op, &x, &w, 5) {
        ordered.check(None);
    }
}

#[test]
fn dense_windows() {
    let same = convolution([1; 2], [1; 2], [1; 2], [1; 2], 1);
    check(&same, [2, 16, 9, 10], [18, 16, 3, 3]);
    check(&same, [3, 3, 8, 8], [16, 3, 3, 3]);
    check(&same, [9, 8, 2, 2], [24, 8, 3, 3]);
    check(&convolution([1; 2], [2; 2], [2; 2], [1; 2], 1), [2, 1, 28, 28], [6, 1, 5, 5]);
    check(&convolution([1; 2], [0; 2], [0; 2], [1; 2], 1), [2, 6, 14, 14], [16, 6, 5, 5]);
}

/// Channels that fill tiles of three and four vectors, with all numbers of rows in the last tile, and depths between 1
/// and 7.
#[test]
fn channels_that_fill_wide_tiles() {
    let same = convolution([1; 2], [1; 2], [1; 2], [1; 2], 1);
    for channels in [48, 64, 96] {
        for width in 5..=9 {
            check(&same, [1, width - 2, 5, width], [channels, width - 2, 3, 3]);
        }
    }
    check(&same, [2, 64, 5, 6], [128, 64, 3, 3]);
    check(&convolution([2; 2], [1; 2], [1; 2], [1; 2], 1), [2, 48, 7, 6], [64, 48, 3, 3]);
    check(&convolution([1; 2], [0; 2], [0; 2], [1; 2], 1), [1, 1, 5, 7], [64, 1, 1, 1]);
}

/// Few columns, of which vectors have two or four depths: all numbers of columns and of rows in the last tile, groups,
/// strides, and sums longer than one chain.
#[test]
fn several_depths_beside_each_other() {
    let same = convolution([1; 2], [1; 2], [1; 2], [1; 2], 1);
    for outputs in 2..=16 {
        check(&same, [2, 12, 13, 5 + outputs % 8], [outputs, 12, 3, 3]);
        check(&same, [1, 6, 24, 20], [outputs, 6, 3, 3]);
    }
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 3), [4, 24, 13, 11], [36, 8, 3, 3]);
    check(&convolution([2, 1], [2, 0], [1, 2], [1, 2], 1), [2, 8, 17, 19], [9, 8, 3, 4]);
    check(&same, [2, 140, 11, 12], [11, 140, 3, 3]);
    // Runs that are cut at the edges of images, that are apart in the left factor, and over guards of the right one.
    check(&convolution([1; 2], [1, 2], [2, 1], [1; 2], 1), [2, 1, 20, 22], [12, 1, 3, 4]);
    check(&convolution([1; 2], [0; 2], [0; 2], [1; 2], 1), [3, 8, 14, 14], [8, 8, 3, 3]);
    check(&same, [2, 16, 20, 20], [1, 16, 3, 3]);
    check(&same, [2, 300, 9, 9], [16, 300, 3, 3]);
    for ordered in all_three(&same, &[4, 16, 15, 18], &[16, 16, 3, 3], 23) {
        ordered.check(Some((0.5, -1.0)));
    }
}

#[test]
fn few_channels() {
    let same = convolution([1; 2], [2; 2], [2; 2], [1; 2], 1);
    for outputs in 1..=9 {
        check(&same, [3, 1, 19, 21], [outputs, 1, 5, 5]);
    }
    // One column, also where windows have holes and where images are side by side.
    check(&convolution([2, 1], [1, 2], [1, 0], [1, 2], 1), [9, 1, 12, 11], [5, 1, 3, 3]);
    for ordered in all_three(&same, &[16, 12, 10, 9], &[1, 12, 5, 5], 19) {
        ordered.check(Some((0.5, -1.0)));
    }
    check(&convolution([1; 2], [1, 2], [2, 0], [1, 2], 1), [2, 2, 20, 9], [7, 2, 3, 4]);
    check(&convolution([1, 2], [2; 2], [2; 2], [1; 2], 1), [2, 1, 16, 17], [6, 1, 5, 5]);
    let deep = convolution([1; 2], [1; 2], [1; 2], [1; 2], 1);
    for ordered in all_three(&deep, &[4, 40, 18, 18], &[6, 40, 3, 3], 7) {
        ordered.check(Some((0.5, -1.0)));
    }
}

/// Batches that come in vectors of images, each image meeting the same runs; and those that do not.
#[test]
fn images_side_by_side() {
    let same = convolution([1; 2], [2; 2], [2; 2], [1; 2], 1);
    for batch in [7, 8, 12, 16, 24, 32] {
        check(&same, [batch, 1, 9, 10], [6, 1, 5, 5]);
        check(&convolution([1; 2], [0; 2], [0; 2], [1; 2], 1), [batch, 3, 8, 7], [10, 3, 3, 4]);
    }
    check(&convolution([2, 1], [1, 3], [2, 0], [1, 2], 1), [16, 2, 11, 9], [5, 2, 3, 2]);
    // Groups of images are products of their own, which what follows is applied to one by one.
    let valid = convolution([1; 2], [0; 2], [0; 2], [1; 2], 1);
    for ordered in all_three(&valid, &[32, 3, 14, 13], &[6, 3, 3, 3], 17) {
        ordered.check(Some((0.5, -1.0)));
    }
    for (batch, outputs) in [(8, 3), (32, 6), (48, 7)] {
        for ordered in all_three(&same, &[batch, 2, 12, 10], &[outputs, 2, 5, 5], 13) {
            ordered.check(Some((0.5, -1.0)));
        }
    }
}

#[test]
fn strided_and_dilated_windows() {
    check(&convolution([2; 2], [1; 2], [1; 2], [1; 2], 1), [2, 16, 16, 16], [32, 16, 3, 3]);
    check(&convolution([2; 2], [0; 2], [0; 2], [1; 2], 1), [2, 16, 16, 16], [32, 16, 1, 1]);
    check(&convolution([3, 2], [0, 1], [2, 1], [1, 2], 1), [2, 5, 13, 12], [17, 5, 2, 3]);
    check(&convolution([1, 1], [3, 4], [3, 4], [3, 2], 1), [1, 7, 10, 9], [9, 7, 3, 5]);
    // Windows so far apart that a row meets few of their many taps.
    check(&convolution([8; 2], [4; 2], [4; 2], [1; 2], 1), [1, 2, 40, 32], [3, 2, 16, 16]);
    check(&convolution([5, 7], [0, 3], [2, 0], [2, 1], 1), [2, 3, 33, 29], [5, 3, 6, 9]);
}

/// Lines of large images are products of their own, and those that meet the same share their tables.
#[test]
fn large_images() {
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 1), [2, 2, 131, 129], [3, 2, 3, 3]);
    check(&convolution([2, 1], [3, 1], [1, 2], [1, 2], 1), [1, 2, 150, 121], [3, 2, 5, 3]);
    check(&convolution([3, 2], [0, 1], [2, 0], [2, 1], 1), [1, 8, 160, 110], [4, 8, 4, 3]);
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 4), [1, 4, 140, 126], [4, 1, 3, 3]);
    // The run goes across lines, forwards and backwards.
    check(&convolution([1; 2], [1, 1], [2, 1], [1; 2], 1), [1, 1, 140, 130], [12, 1, 4, 1]);
    check(&convolution([1; 2], [1, 1], [2, 1], [1; 2], 1), [1, 12, 140, 130], [1, 12, 4, 1]);
}

#[test]
fn grouped_and_depthwise_windows() {
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 2), [2, 16, 7, 6], [24, 8, 3, 3]);
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 24), [2, 24, 9, 8], [24, 1, 3, 3]);
    check(&convolution([2; 2], [1; 2], [1; 2], [1; 2], 48), [3, 48, 8, 8], [48, 1, 3, 3]);
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 9), [8, 9, 2, 2], [18, 1, 3, 3]);
    check(&convolution([2, 3], [2, 1], [1, 2], [2, 1], 20), [2, 20, 11, 9], [20, 1, 3, 4]);
}

#[test]
fn neighbours_in_depthwise_windows_of_three() {
    for (stride, width) in (1..=2).flat_map(|stride| (5..22).map(move |width| (stride, width))) {
        for (pad, dilation) in [(0, 1), (1, 1), (2, 1), (2, 2)] {
            let channels = 2 + 3 * (width % 7);
            let op = convolution([1, stride], [pad; 2], [1, pad], [1, dilation], channels);
            check(&op, [2, channels, 4, width], [channels, 1, 3, 3]);
        }
    }
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 40), [3, 40, 12, 16], [40, 1, 3, 3]);
    check(&convolution([2; 2], [1; 2], [1; 2], [1; 2], 33), [5, 33, 16, 24], [33, 1, 5, 3]);
}

#[test]
fn long_sums_are_cut_into_pieces() {
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 1), [4, 300, 6, 6], [40, 300, 3, 3]);
    check(&convolution([1; 2], [1; 2], [1; 2], [1; 2], 1), [8, 16, 24, 24], [16, 16, 3, 3]);
}

#[test]
fn random_windows() {
    let mut random = Random(11);
    for seed in 0..40 {
        let mut pick = |low: usize, high: usize| low + random.below(high - low + 1);
        let groups = [1, 1, 2, 8][pick(0, 3)];
        let (kernel, dilation) = ([pick(1, 4), pick(1, 4)], [pick(1, 2), pick(1, 2)]);
        let op =
            convolution([pick(1, 3), pick(1, 3)], [pick(0, 3), pick(0, 3)], [pick(0, 3), pick(0, 3)], dilation, groups);
        let (inputs, outputs) = if groups == 8 { (pick(1, 2), 1) } else { (pick(1, 9), pick(1, 17)) };
        let x = [pick(1, 3), inputs * groups, pick(7, 12), pick(7, 12)];
        for ordered in all_three(&op, &x, &[outputs * groups, inputs, kernel[0], kernel[1]], seed) {
            ordered.check(None);
        }
    }
}

#[test]
fn what_follows_is_applied_to_the_sums() {
    let op = convolution([1; 2], [1; 2], [1; 2], [1; 2], 1);
    for ordered in all_three(&op, &[8, 16, 24, 24], &[16, 16, 3, 3], 3) {
        ordered.check(Some((-0.5, 2.0)));
    }
}
