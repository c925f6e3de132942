//! Products whose rows are apart in the result: the bits of those whose rows follow each other.

mod common;

use common::{Case, Random, instruction_sets, options, permuted};
use gradc_codegen::Pool;
use gradc_ir::band::{Band, LoopBand};
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Contraction, Scalar};
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, row_major_strides};

/// Loops of `out[b, h, s, t, d] = Σ_k left[b, s, t, h, k] · right[b, h, k, d]`, two that repeat the product, two of rows.
const B: usize = 0;
const H: usize = 1;
const S: usize = 2;
const T: usize = 3;
const D: usize = 4;
const K: usize = 5;

/// What is done with the sums.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    /// An operand of the result's order is added.
    Addition,
    /// One value of each column is added, and the number of the row.
    Columns,
}

struct Product {
    extents: [usize; 6],
    right: [usize; 4],
    then: Then,
    is_causal: bool,
}

const LEFT: [usize; 5] = [B, S, T, H, K];

impl Product {
    /// The product with its points in this order.
    fn kernel(&self, order: &[usize; 5]) -> KernelKind {
        let loops = |d: usize| order.iter().position(|&o| o == d).unwrap_or(K);
        let access = |operand: usize, axes: &[usize], rank: usize| {
            let indices = axes.iter().map(|&d| Affine::dim(rank, loops(d))).collect();
            Access::new(operand, &permuted(&self.extents, axes), indices)
        };
        let space = permuted(&self.extents, order);
        let bands = self.band().into_iter().map(|band| LoopBand { row: loops(T), column: K, band }).collect();
        let contraction = Contraction {
            space: space.clone(),
            reduce: vec![self.extents[K]],
            lhs: access(0, &LEFT, 6),
            rhs: access(1, &self.right, 6),
            bands,
        };
        let mut body = Body::default();
        let sum = body.push(Scalar::Accumulated(0), DType::F32);
        let out = match self.then {
            Then::Nothing => sum,
            Then::Addition => {
                let other = body.load(DType::F32, access(2, order, 5));
                body.binary(BinaryFn::Add, sum, other)
            }
            Then::Columns => {
                let bias = body.load(DType::F32, access(2, &[D], 5));
                let row = body.push(Scalar::LoopIndex(loops(T)), DType::I64);
                let row = body.push(Scalar::Cast(row), DType::F32);
                let shifted = body.binary(BinaryFn::Add, sum, bias);
                body.binary(BinaryFn::Sub, shifted, row)
            }
        };
        let accumulate = Some(Accumulate::Contract(contraction));
        KernelKind::Loops(LoopKernel { space, accumulate, body, stores: vec![out] })
    }

    fn band(&self) -> Option<Band> {
        let [rows, depth] = [T, K].map(|d| self.extents[d]);
        let end = |row: usize| ((row + 1) * depth).div_ceil(rows);
        self.is_causal.then(|| Band::new((0..rows).map(|row| 0..end(row)).collect(), depth))?
    }

    /// The left factor, zero outside of the band, the right one, and what is done with the sums in the order of points.
    fn operands(&self, order: &[usize; 5]) -> Vec<Tensor> {
        let mut random = Random(9);
        let mut tensor = |axes: &[usize]| {
            let ty = TensorType::f32(permuted(&self.extents, axes));
            random.tensor(&ty, -1.0..1.0)
        };
        let (left, right) = (tensor(&LEFT), tensor(&self.right));
        let then = match self.then {
            Then::Nothing => vec![],
            Then::Addition => vec![reordered(&tensor(&[B, H, S, T, D]), order)],
            Then::Columns => vec![tensor(&[D])],
        };
        [vec![self.inside(left), right], then].concat()
    }

    fn inside(&self, left: Tensor) -> Tensor {
        let Some(band) = self.band() else { return left };
        let shape = left.ty.shape.clone();
        let kept = left.floats().iter().enumerate().map(|(at, &value)| {
            let index = gradc_ir::types::unravel(at, &shape);
            if band.ranges()[index[2]].contains(&index[4]) { value } else { 0.0 }
        });
        Tensor::float(left.ty.clone(), kept.collect())
    }

    /// The result on one, two and four threads, with its points in the order of the loops again.
    fn results(&self, order: &[usize; 5], isa: gradc_ir::target::VectorIsa) -> Vec<Tensor> {
        let inputs = self.operands(order);
        let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
        let case = Case::new(vec![self.kernel(order)], &types, &[TensorType::f32(permuted(&self.extents, order))]);
        let executable = case.compile(&options(isa));
        let back: [usize; 5] = std::array::from_fn(|d| order.iter().position(|&o| o == d).expect("a permutation"));
        let run = |threads: usize| {
            let pool = Pool::new(threads).expect("threads start");
            reordered(&case.run(&executable, &inputs, &pool)[0].to_tensor(), &back)
        };
        [1, 2, 4].map(run).into()
    }
}

/// A tensor with its axes in another order.
fn reordered(tensor: &Tensor, order: &[usize; 5]) -> Tensor {
    let (strides, shape) = (row_major_strides(&tensor.ty.shape), permuted(&tensor.ty.shape, order));
    let place = |at: usize| -> usize {
        let index = gradc_ir::types::unravel(at, &shape);
        order.iter().zip(index).map(|(&axis, i)| i * strides[axis]).sum()
    };
    let values = (0..tensor.floats().len()).map(|at| tensor.floats()[place(at)]).collect();
    Tensor::float(TensorType::f32(shape), values)
}

const IN_ORDER: [usize; 5] = [B, H, S, T, D];

/// Calls a function with products of every size, order of the right factor, and use of the sums.
fn for_each_product(mut check: impl FnMut(&Product, &str)) {
    let sizes = [
        [2, 3, 1, 64, 32, 64],
        [2, 2, 8, 8, 32, 64],
        [3, 2, 4, 7, 19, 40],
        [1, 4, 5, 1, 40, 300],
        [2, 2, 3, 70, 9, 33],
    ];
    for (extents, right) in sizes.into_iter().flat_map(|size| [(size, [B, H, K, D]), (size, [B, D, H, K])]) {
        for then in [Then::Nothing, Then::Addition, Then::Columns] {
            for is_causal in [false, true] {
                let what = format!("{extents:?} {right:?} {then:?} {is_causal}");
                check(&Product { extents, right, then, is_causal }, &what);
            }
        }
    }
}

/// Holds results in other orders to those of the loops in their order, each up to an error.
fn check_orders(orders: &[[usize; 5]], error: f64) {
    for_each_product(|product, what| {
        for isa in instruction_sets() {
            let expected = &product.results(&IN_ORDER, isa)[0];
            for (order, found) in orders.iter().flat_map(|o| product.results(o, isa).into_iter().map(move |f| (o, f))) {
                let mut pairs = found.floats().iter().zip(expected.floats());
                let wrong = pairs.position(|(f, e)| (f - e).abs() > error);
                assert_eq!(wrong, None, "an element differs: {what} {isa:?} {order:?}");
            }
        }
    });
}

#[test]
fn rows_may_be_apart_in_the_result() {
    check_orders(&[[B, S, T, H, D], [S, T, B, H, D], [S, T, H, B, D], [H, S, T, B, D]], 0.0);
}

/// Such rows are no matrix, or several; their sums may be made in another order.
#[test]
fn rows_that_are_not_evenly_apart_are_right() {
    check_orders(&[[S, B, T, H, D], [B, S, H, T, D]], 1e-4);
}
