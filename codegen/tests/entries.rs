//! Entries: checks, commits, refusals, and work shared between threads.

mod common;

use common::{Case, Random, nest_kernel, options};
use gradc_codegen::{AlignedBuffer, EntryCode, Memory, Operand, PlacedAction, Pool, StepFailure, compile};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, LineWork, Lines, Nest, Scalar, UnaryFn};
use gradc_ir::ops::{CumulativeSum, Op, Sort};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::Target;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType};

fn place(segment: Segment, offset_bytes: usize) -> Place {
    Place { segment, offset_bytes }
}

/// y = x · x
fn square(n: usize) -> KernelKind {
    nest_kernel(&Nest::map(&[n], |body| {
        let x = body.load(DType::F32, Access::identity(0, &[n], 1));
        body.binary(BinaryFn::Mul, x, x)
    }))
}

/// Squares the input twice into the arena, checks the result and commits it to persistent memory.
fn entry() -> EntryCode {
    let at = |segment, offset| Operand::fixed(place(segment, offset), TensorType::f32([4]));
    let run = |from: Operand, to: Operand| PlacedAction::Run {
        kernel: Box::new(Kernel { kind: square(4), operands: vec![], results: vec![] }),
        operands: vec![from],
        results: vec![to],
    };
    let (once, twice) = (at(Segment::Arena, 0), at(Segment::Arena, 64));
    let check = PlacedAction::CheckFinite { operand: twice.clone() };
    let commits = vec![(twice.place, place(Segment::Persistent, 64), 16)];
    let actions = vec![run(at(Segment::Host(0), 0), once.clone()), run(once, twice), check];
    EntryCode { name: "step".into(), actions, commits }
}

fn step(x: [f32; 4], arena_bytes: usize) -> (Result<(), StepFailure>, Vec<f32>) {
    let executable = compile(&[entry()], &options(Target::host().vector_isa)).expect("the entry compiles");
    assert_eq!(executable.kernels(), 1, "equal kernels are compiled once");
    let (mut arena, mut persistent) = (AlignedBuffer::zeroed(arena_bytes), AlignedBuffer::zeroed(128));
    let (constants, mut scratch) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
    let mut memory =
        Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let result = executable.run(0, &mut memory, &[&bytes], &Pool::default());
    let word = |w: &[u8]| f32::from_le_bytes(w.try_into().expect("four bytes"));
    (result, persistent.bytes()[64..80].chunks(4).map(word).collect())
}

#[test]
fn results_are_committed_when_all_is_done() {
    assert_eq!(step([1.0, 2.0, -3.0, 0.5], 128), (Ok(()), vec![1.0, 16.0, 81.0, 0.0625]));
}

#[test]
fn a_value_that_is_not_finite_leaves_persistent_memory_alone() {
    assert_eq!(step([1.0, 1e30, 0.0, 0.0], 128), (Err(StepFailure::Action(2)), vec![0.0; 4]));
}

#[test]
fn memory_that_is_too_small_is_refused() {
    let (result, _) = step([1.0; 4], 64);
    let Err(StepFailure::Arguments(diagnostic)) = result else { panic!("refused") };
    assert_eq!(diagnostic.code, "wrong-size");
}

#[test]
fn blocks_that_threads_cannot_share_are_refused() {
    let copy = |strides_bytes: &[i64]| {
        let [from, to] = [0, 1024].map(|at| {
            let place = place(Segment::Arena, at);
            Operand { place, strides_bytes: strides_bytes.to_vec(), ty: TensorType::f32([16]) }
        });
        PlacedAction::Copy { from, to }
    };
    let blocks = |count, at_once, done| PlacedAction::Blocks { count, at_once, body: vec![done] };
    let compiled = |action| {
        let entry = EntryCode { name: "blocks".into(), actions: vec![action], commits: vec![] };
        compile(&[entry], &options(Target::host().vector_isa)).map(|_| ()).map_err(|refused| refused.code)
    };
    assert_eq!(compiled(blocks(3, 2, copy(&[64, 256]))), Ok(()));
    let checked =
        PlacedAction::CheckFinite { operand: Operand::fixed(place(Segment::Arena, 0), TensorType::f32([16])) };
    for refused in
        [blocks(0, 2, copy(&[])), blocks(3, 0, copy(&[])), blocks(3, 2, blocks(2, 2, copy(&[]))), blocks(3, 2, checked)]
    {
        assert_eq!(compiled(refused.clone()), Err("invalid-kernel"), "{refused:?}");
    }
    assert_eq!(compiled(blocks(3, 2, copy(&[64, 256, 64]))), Err("invalid-place"), "there are two loops around it");
}

#[test]
fn an_access_outside_its_operand_is_refused() {
    let shifted = Nest::map(&[4], |body| {
        let indices = vec![Affine::dim(1, 0).offset(1)];
        body.load(DType::F32, Access::new(0, &[4], indices))
    });
    let ty = TensorType::f32([4]);
    let case = Case::new(vec![nest_kernel(&shifted)], std::slice::from_ref(&ty), std::slice::from_ref(&ty));
    let refused = compile(&[case.entry], &options(Target::host().vector_isa)).expect_err("refused");
    assert_eq!(refused.code, "invalid-kernel");
}

#[test]
fn lines_that_do_not_fit_are_refused() {
    let compiled = |work, axis, results: &[TensorType]| {
        let lines = Lines { shape: vec![2, 6], axis, work };
        let case = Case::new(vec![KernelKind::Lines(lines)], &[TensorType::f32([12])], results);
        compile(&[case.entry], &options(Target::host().vector_isa)).map(|_| ()).map_err(|error| error.code)
    };
    let [values, places] = [DType::F32, DType::I64].map(|dtype| move |n| TensorType::new(dtype, [2, n]));
    let sort = |count| LineWork::Sort { descending: false, count };
    let sums = LineWork::CumulativeSum { reverse: false };
    assert_eq!(compiled(sort(3), 1, &[values(3), places(3)]), Ok(()));
    assert_eq!(compiled(sums, 0, &[values(6)]), Ok(()));
    for (work, axis, results) in [
        (sort(3), 1, vec![values(2), places(3)]),
        (sort(3), 1, vec![values(3), places(2)]),
        (sort(3), 1, vec![values(3), values(3)]),
        (sort(7), 1, vec![values(7), places(7)]),
        (sums, 2, vec![values(6)]),
        (sums, 1, vec![values(5)]),
        (sums, 1, vec![values(6), places(6)]),
    ] {
        assert_eq!(compiled(work, axis, &results), Err("invalid-kernel"), "{work:?} along {axis} into {results:?}");
    }
}

#[test]
fn what_is_accumulated_together_must_exist_and_be_of_one_dtype() {
    let ty = TensorType::f32([4]);
    let compiled = |values: usize, other: DType, read: usize| {
        let mut terms = Body::default();
        let x = terms.load(DType::F32, Access::new(0, &ty.shape, vec![Affine::dim(1, 0)]));
        let twice = terms.binary(BinaryFn::Add, x, x);
        let y = if other == DType::F32 { twice } else { terms.push(Scalar::Cast(x), other) };
        let values = [x, y][..values].to_vec();
        let mut body = Body::default();
        let stores = vec![body.push(Scalar::Accumulated(read), DType::F32)];
        let accumulate = Some(Accumulate::Reduce { extents: vec![4], combine: Combine::Sum, body: terms, values });
        let kernel = LoopKernel { space: vec![], accumulate, body, stores };
        let case = Case::new(vec![KernelKind::Loops(kernel)], std::slice::from_ref(&ty), &[TensorType::f32([])]);
        compile(&[case.entry], &options(Target::host().vector_isa)).map(|_| ()).map_err(|refused| refused.code)
    };
    assert_eq!(compiled(2, DType::F32, 1), Ok(()));
    for (values, other, read) in [(2, DType::F64, 0), (2, DType::F32, 2), (1, DType::F32, 1), (0, DType::F32, 0)] {
        assert_eq!(compiled(values, other, read), Err("invalid-kernel"), "{values} values, {other}, {read} read");
    }
}

#[test]
fn threads_share_lines() {
    let input = Random(6).tensor(&TensorType::f32([2000, 257]), -2.0..2.0);
    let (axis, descending, reverse) = (1, true, true);
    let ops: [Op; 4] = [
        Sort { axis, descending, count: 257 }.into(),
        Sort { axis, descending, count: 9 }.into(),
        CumulativeSum { axis, reverse }.into(),
        CumulativeSum { axis: 0, reverse }.into(),
    ];
    for op in ops {
        let expected: Vec<_> = op.eval(&[&input]).expect("a matrix").iter().map(Tensor::rounded).collect();
        let case = Case::of_op(&op, std::slice::from_ref(&input.ty)).expect("a kernel");
        let executable = case.compile(&options(Target::host().vector_isa));
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads).expect("threads start");
            let found = case.run(&executable, std::slice::from_ref(&input), &pool);
            let found: Vec<_> = found.iter().map(HostTensor::to_tensor).collect();
            assert!(found == expected, "{op} on {threads} threads");
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (rows, columns) = (3000, 401);
    let ty = TensorType::f32([rows, columns]);
    let row_sums = Nest::reduction(&[rows], &[columns], Combine::Sum, |body| {
        let x = body.load(DType::F32, Access::identity(0, &[rows, columns], 2));
        body.unary(UnaryFn::Exp, x)
    });
    let flat = Nest::map(&[rows, columns], |body| {
        let x = body.load(DType::F32, Access::identity(0, &[rows, columns], 2));
        body.unary(UnaryFn::Tanh, x)
    });
    let inputs = [Random(5).tensor(&ty, -2.0..2.0)];
    for (nest, result) in [(row_sums, TensorType::f32([rows])), (flat, ty.clone())] {
        let case = Case::new(vec![nest_kernel(&nest)], std::slice::from_ref(&ty), std::slice::from_ref(&result));
        let executable = case.compile(&options(Target::host().vector_isa));
        let one = case.run(&executable, &inputs, &Pool::default());
        for threads in [2, 4] {
            let pool = Pool::new(threads).expect("threads start");
            assert_eq!(one, case.run(&executable, &inputs, &pool));
        }
    }
}
