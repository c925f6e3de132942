//! Speed of single kernels on one thread: products in GFLOP/s, elementwise chains and reductions in ns per element.

use gradc_codegen::{AlignedBuffer, CodegenOptions, EntryCode, Memory, Operand, PlacedAction, Pool, compile};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Lowering, Scalar, UnaryFn};
use gradc_ir::ops::{Convolution, DotGeneral, Op};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::Target;
use gradc_ir::types::{DType, TensorType};
use std::time::Instant;

/// Median seconds of one run of a kernel whose operands and results all live in the arena.
fn time(kind: KernelKind, inputs: &[TensorType], outputs: &[TensorType], threads: usize) -> f64 {
    let mut arena_bytes = 0;
    let mut place = |ty: &TensorType| {
        let place = Place { segment: Segment::Arena, offset_bytes: arena_bytes };
        arena_bytes += ty.size_bytes().next_multiple_of(64) + 64;
        Operand::fixed(place, ty.clone())
    };
    let operands: Vec<Operand> = inputs.iter().map(&mut place).collect();
    let results: Vec<Operand> = outputs.iter().map(&mut place).collect();
    let values = |n: usize| (0..n as u32).map(|k| Value { node: NodeId(k), result: 0 }).collect();
    let kernel = Box::new(Kernel { kind, operands: values(inputs.len()), results: values(outputs.len()) });
    let actions = vec![PlacedAction::Run { kernel, operands, results }];
    let entry = EntryCode { name: "speed".into(), actions, commits: vec![] };
    let executable = compile(&[entry], &CodegenOptions::new(Target::host())).expect("the kernel compiles");
    let mut arena = AlignedBuffer::zeroed(arena_bytes);
    for (k, bytes) in arena.bytes_mut().chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&((k % 97) as f32 / 97.0).to_le_bytes());
    }
    let (mut persistent, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
    let mut scratch = AlignedBuffer::zeroed(executable.scratch_bytes(threads));
    let pool = Pool::new(threads).expect("threads start");
    let mut memory =
        Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
    let mut seconds = vec![];
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        executable.run(0, &mut memory, &[], &pool).expect("the kernel runs");
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn contraction(op: impl Into<Op>, inputs: &[TensorType], flops: usize) {
    let op = op.into();
    let types: Vec<&TensorType> = inputs.iter().collect();
    let output = op.infer(&types).expect("the operands fit");
    let Lowering::Contraction(c) = op.lower(&types, &output) else { panic!("{op} is no contraction") };
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), DType::F32);
    let kernel = KernelKind::Loops(LoopKernel {
        space: c.space.clone(),
        accumulate: Some(Accumulate::Contract(c)),
        body,
        stores: vec![sum],
    });
    for threads in [1, 2] {
        let seconds = time(kernel.clone(), inputs, &output, threads);
        let gflops = flops as f64 / seconds / 1e9;
        println!("{op} {}: {threads} threads {:.1} µs {gflops:.1} GFLOP/s", output[0], seconds * 1e6);
    }
}

fn per_element(name: &str, kernel: LoopKernel, inputs: &[TensorType], output: TensorType, elements: usize) {
    let seconds = time(KernelKind::Loops(kernel), inputs, &[output], 1);
    println!("{name} over {elements}: {:.3} ns/element", seconds / elements as f64 * 1e9);
}

fn elementwise(n: usize) {
    let ty = TensorType::f32([n]);
    let mut body = Body::default();
    let [x, a, b] = [0, 1, 2].map(|k| body.load(DType::F32, Access::identity(k, &[n], 1)));
    let scaled = body.binary(BinaryFn::Mul, x, a);
    let sum = body.binary(BinaryFn::Add, scaled, b);
    let add = LoopKernel { space: vec![n], accumulate: None, body: body.clone(), stores: vec![sum] };
    per_element("x·a + b", add, &[ty.clone(), ty.clone(), ty.clone()], ty.clone(), n);
    for f in [UnaryFn::Exp, UnaryFn::Tanh, UnaryFn::Erf, UnaryFn::Log, UnaryFn::Sin] {
        let mut body = body.clone();
        let y = body.unary(f, sum);
        let kernel = LoopKernel { space: vec![n], accumulate: None, body, stores: vec![y] };
        per_element(f.word(), kernel, &[ty.clone(), ty.clone(), ty.clone()], ty.clone(), n);
    }
}

fn reductions(rows: usize, columns: usize) {
    let ty = TensorType::f32([rows, columns]);
    for (name, space, reduced, dims) in [("row sums", rows, columns, [0, 1]), ("column sums", columns, rows, [1, 0])] {
        for combine in [Combine::Sum, Combine::Max] {
            let mut body = Body::default();
            let indices = dims.map(|d| Affine::dim(2, d)).to_vec();
            let value = body.load(DType::F32, Access::new(0, &ty.shape, indices));
            let mut point = Body::default();
            let sum = point.push(Scalar::Accumulated(0), DType::F32);
            let accumulate = Some(Accumulate::Reduce { extents: vec![reduced], combine, body, values: vec![value] });
            let kernel = LoopKernel { space: vec![space], accumulate, body: point, stores: vec![sum] };
            let name = format!("{name} ({})", combine.word());
            per_element(&name, kernel, std::slice::from_ref(&ty), TensorType::f32([space]), rows * columns);
        }
    }
}

fn main() {
    let matmul = |lhs: usize, rhs: usize| DotGeneral {
        lhs_batch: vec![],
        rhs_batch: vec![],
        lhs_contract: vec![lhs],
        rhs_contract: vec![rhs],
    };
    for n in [8, 16, 64, 256, 512] {
        let types = [TensorType::f32([n, n]), TensorType::f32([n, n])];
        contraction(matmul(1, 0), &types, 2 * n * n * n);
        contraction(matmul(1, 1), &types, 2 * n * n * n);
    }
    let convolution =
        Convolution { stride: vec![1, 1], pad_low: vec![1, 1], pad_high: vec![1, 1], dilation: vec![1, 1], groups: 1 };
    let types = [TensorType::f32([8, 64, 32, 32]), TensorType::f32([64, 64, 3, 3])];
    contraction(convolution, &types, 2 * 8 * 64 * 64 * 32 * 32 * 9);
    elementwise(10_000);
    elementwise(1_000_000);
    reductions(512, 256);
}
