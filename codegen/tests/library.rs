//! Products by the library: every orientation, narrow shapes, what follows the sums, any number of threads.

mod common;

use common::{Case, Random, op_kernels, options};
use gradc_codegen::{CodegenOptions, Engine, Library, PlacedAction, Pool};
use gradc_ir::kernel::{KernelKind, LoopKernel};
use gradc_ir::lower::{Body, Scalar, UnaryFn};
use gradc_ir::ops::{DotGeneral, Op};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::Target;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType};

/// Error allowed, relative to the sum of the products' magnitudes: float rounding of at most 600 additions, which err in
/// both directions.
const SUM: f64 = 1e-6;

fn product(lhs_contract: usize, rhs_contract: usize) -> Op {
    let (lhs_contract, rhs_contract) = (vec![lhs_contract], vec![rhs_contract]);
    DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract, rhs_contract }.into()
}

fn batched() -> Op {
    DotGeneral { lhs_batch: vec![0, 2], rhs_batch: vec![0, 1], lhs_contract: vec![3], rhs_contract: vec![3] }.into()
}

fn library(library: Library) -> CodegenOptions {
    CodegenOptions { library, ..options(Target::host().vector_isa) }
}

/// The case with its operands copied to the arena first, where they are aligned.
fn in_arena(mut case: Case) -> Case {
    let mut copies = vec![];
    for action in &mut case.entry.actions {
        let PlacedAction::Run { operands, .. } = action else { continue };
        for operand in operands {
            let from = operand.clone();
            operand.place = Place { segment: Segment::Arena, offset_bytes: case.arena_bytes };
            case.arena_bytes += operand.ty.size_bytes().next_multiple_of(64);
            copies.push(PlacedAction::Copy { from, to: operand.clone() });
        }
    }
    case.entry.actions.splice(0..0, copies);
    case
}

fn engine(case: &Case, wanted: Library) -> Engine {
    let executable = case.compile(&library(wanted));
    executable.engines(0).iter().flatten().copied().next().expect("the case runs a kernel")
}

fn inputs(types: &[TensorType]) -> Vec<Tensor> {
    let mut random = Random(11);
    types.iter().map(|ty| random.tensor(ty, -1.0..1.0)).collect()
}

/// Holds the library's results to those of the interpreter, put through `after`, and to be the same for any number of
/// threads.
fn check(op: &Op, case: Case, types: &[TensorType], after: fn(f64) -> f64) {
    let (case, inputs) = (in_arena(case), inputs(types));
    let magnitudes: Vec<Tensor> =
        inputs.iter().map(|t| Tensor::float(t.ty.clone(), t.floats().iter().map(|v| v.abs()).collect())).collect();
    let eval = |t: &[Tensor]| op.eval(&t.iter().collect::<Vec<_>>()).expect("the operands fit").remove(0);
    let (expected, magnitudes) = (eval(&inputs), eval(&magnitudes));
    assert_eq!(engine(&case, Library::WherePossible), Engine::Gemm, "{op} on {types:?}");
    let executable = case.compile(&library(Library::WherePossible));
    let one = case.run(&executable, &inputs, &Pool::default());
    for (k, (&found, &sum)) in one[0].to_tensor().floats().iter().zip(expected.floats()).enumerate() {
        let limit = SUM * (1.0 + magnitudes.floats()[k]);
        assert!((found - after(sum)).abs() <= limit, "{op} on {types:?}: element {k} is {found}, not {}", after(sum));
    }
    for threads in [2, 4] {
        let pool = Pool::new(threads).expect("threads start");
        assert_eq!(one, case.run(&executable, &inputs, &pool), "{threads} threads change bits");
    }
}

fn check_plain(op: &Op, shapes: [&[usize]; 2]) {
    let types = shapes.map(|shape| TensorType::f32(shape.to_vec()));
    check(op, Case::of_op(op, &types).expect("a contraction is not expanded"), &types, |sum| sum);
}

#[test]
fn products_of_every_orientation() {
    for (m, n, k) in [(1, 40, 30), (33, 1, 20), (5, 3, 600), (64, 64, 64), (150, 200, 300)] {
        check_plain(&product(1, 0), [&[m, k], &[k, n]]);
        check_plain(&product(1, 1), [&[m, k], &[n, k]]);
        check_plain(&product(0, 0), [&[k, m], &[k, n]]);
        check_plain(&product(0, 1), [&[k, m], &[n, k]]);
    }
    check_plain(&batched(), [&[2, 20, 3, 8], &[2, 3, 30, 8]]);
}

#[test]
fn what_follows_a_product_is_applied_to_its_sums() {
    let (op, types) = (product(1, 0), [[100, 300], [300, 70]].map(TensorType::f32));
    let outputs = op.infer(&types.iter().collect::<Vec<_>>()).expect("the operands fit");
    let kernels = op_kernels(&op, &types.iter().collect::<Vec<_>>(), &outputs).expect("a contraction");
    let [KernelKind::Loops(LoopKernel { space, accumulate, .. })] = &kernels[..] else { panic!("one loop nest") };
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let value = body.push(Scalar::Unary(UnaryFn::Neg, sum), DType::F32);
    let (space, accumulate) = (space.clone(), accumulate.clone());
    let kernel = KernelKind::Loops(LoopKernel { space, accumulate, body, stores: vec![value] });
    check(&op, Case::new(vec![kernel], &types, &outputs), &types, |sum| -sum);
}

#[test]
fn operands_of_any_alignment_stay_with_own_kernels() {
    let types = [[64, 64], [64, 64]].map(TensorType::f32);
    let case = || Case::of_op(&product(1, 0), &types).expect("a contraction is not expanded");
    assert_eq!(engine(&case(), Library::WherePossible), Engine::Tiles);
    assert_eq!(engine(&in_arena(case()), Library::Never), Engine::Tiles);
}

/// Micro-kernels are never given up for it: of products that they serve, the library has none that it is faster at.
#[test]
fn the_library_is_chosen_where_it_is_estimated_to_be_faster() {
    let chosen = |right: usize, shapes: [[usize; 2]; 2]| {
        let case = Case::of_op(&product(1, right), &shapes.map(TensorType::f32)).expect("it is not expanded");
        engine(&in_arena(case), Library::WhereFaster)
    };
    assert_eq!(chosen(0, [[3, 4096], [4096, 4]]), Engine::Gemm, "instead of a loop nest that strides");
    assert_eq!(chosen(1, [[3, 40], [4, 40]]), Engine::Loops, "both factors are read as they are stored");
    assert_eq!(chosen(0, [[1, 784], [784, 512]]), Engine::Tiles, "a kernel for vectors");
    assert_eq!(chosen(0, [[1, 8], [8, 4]]), Engine::Loops, "a call takes longer");
    assert_eq!(chosen(0, [[3, 60], [60, 4]]), Engine::Loops, "a call takes longer");
    for right in [0, 1] {
        for (m, n, k) in [(64, 64, 64), (64, 512, 784), (64, 4, 512), (12, 3, 24), (512, 2048, 512), (2048, 128, 128)] {
            let weight = if right == 0 { [k, n] } else { [n, k] };
            assert_eq!(chosen(right, [[m, k], weight]), Engine::Tiles, "{m}x{n}x{k}");
        }
    }
}
