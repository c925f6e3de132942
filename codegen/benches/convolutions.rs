//! Convolutions and both their adjoints on one thread, with channels innermost: the layers of the reference models, in
//! GFLOP/s and as share of this core's peak of fused multiply-adds, measured in the same run.
//!
//! `cargo bench -p gradc-codegen --bench convolutions [FILTER]`

use gradc_codegen::{AlignedBuffer, CodegenOptions, EntryCode, Memory, Operand, PlacedAction, Pool, compile};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, Body, Contraction, Lowering, Scalar};
use gradc_ir::ops::{Convolution, Op};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::Target;
use gradc_ir::types::{DType, TensorType};
use std::time::{Duration, Instant};

/// How long each kernel is run.
const TIME: Duration = Duration::from_millis(300);

/// Orders of the axes: of images `[n, g, c, h, w]`, and of weights `[g, o, c, kh, kw]`.
const CHANNELS_LAST: [usize; 5] = [0, 3, 4, 1, 2];
const TAPS_FIRST: [usize; 5] = [3, 4, 2, 0, 1];
const TAPS_FIRST_INPUTS_LAST: [usize; 5] = [3, 4, 1, 0, 2];

/// A layer: name, input, output channels, window, stride, padding, groups.
type Layer = (&'static str, [usize; 4], usize, usize, usize, usize, usize);

const LAYERS: [Layer; 15] = [
    ("resnet8 stem", [16, 3, 32, 32], 16, 3, 1, 1, 1),
    ("resnet8 16", [16, 16, 32, 32], 16, 3, 1, 1, 1),
    ("resnet8 16-32 /2", [16, 16, 32, 32], 32, 3, 2, 1, 1),
    ("resnet8 16-32 1x1 /2", [16, 16, 32, 32], 32, 1, 2, 0, 1),
    ("resnet8 32", [16, 32, 16, 16], 32, 3, 1, 1, 1),
    ("resnet8 32-64 /2", [16, 32, 16, 16], 64, 3, 2, 1, 1),
    ("resnet8 64", [16, 64, 8, 8], 64, 3, 1, 1, 1),
    ("lenet 1", [32, 1, 28, 28], 6, 5, 1, 2, 1),
    ("lenet 2", [32, 6, 14, 14], 16, 5, 1, 0, 1),
    ("mobilenet stem", [8, 3, 64, 64], 16, 3, 2, 1, 1),
    ("mobilenet depthwise 16", [8, 16, 32, 32], 16, 3, 1, 1, 16),
    ("mobilenet depthwise 48 /2", [8, 48, 32, 32], 48, 3, 2, 1, 48),
    ("mobilenet depthwise 48", [8, 48, 16, 16], 48, 3, 1, 1, 48),
    ("mobilenet depthwise 96", [8, 96, 8, 8], 96, 3, 1, 1, 96),
    ("mobilenet depthwise 192", [8, 192, 4, 4], 192, 3, 1, 1, 192),
];

fn permuted<T: Clone>(list: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&d| list[d].clone()).collect()
}

/// A contraction whose space and whose operands have their axes in other orders.
fn reordered(c: &Contraction, [space, lhs, rhs]: [&[usize]; 3]) -> Contraction {
    let affine = |a: &Affine| Affine {
        base: a.base,
        coeffs: [permuted(&a.coeffs, space), a.coeffs[space.len()..].to_vec()].concat(),
    };
    let access = |a: &Access, order: &[usize]| {
        let mut indices = permuted(&a.indices, order);
        indices.iter_mut().for_each(|i| i.affine = affine(&i.affine));
        Access { view: permuted(&a.view, order), indices, ..a.clone() }
    };
    let (lhs, rhs) = (access(&c.lhs, lhs), access(&c.rhs, rhs));
    Contraction { space: permuted(&c.space, space), reduce: c.reduce.clone(), lhs, rhs }
}

/// Least seconds of one run of a kernel whose operands and results all live in the arena.
fn least_seconds(kernel: LoopKernel, inputs: &[TensorType], output: &TensorType) -> f64 {
    let mut arena_bytes = 0;
    let mut place = |ty: &TensorType| {
        let place = Place { segment: Segment::Arena, offset_bytes: arena_bytes };
        arena_bytes += ty.size_bytes().next_multiple_of(64) + 64;
        Operand { place, ty: ty.clone() }
    };
    let operands: Vec<Operand> = inputs.iter().map(&mut place).collect();
    let results = vec![place(output)];
    let value = |k: usize| Value { node: NodeId(k as u32), result: 0 };
    let kind = KernelKind::Loops(kernel);
    let kernel = Box::new(Kernel { kind, operands: (0..inputs.len()).map(value).collect(), results: vec![value(9)] });
    let entry = EntryCode {
        name: "convolution".into(),
        actions: vec![PlacedAction::Run { kernel, operands, results }],
        commits: vec![],
    };
    let executable = compile(&[entry], &CodegenOptions::new(Target::host())).expect("the kernel compiles");
    let mut arena = AlignedBuffer::zeroed(arena_bytes);
    for (k, bytes) in arena.bytes_mut().chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&((k % 97) as f32 / 97.0).to_le_bytes());
    }
    let (mut persistent, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
    let mut scratch = AlignedBuffer::zeroed(executable.scratch_bytes(1));
    let mut memory =
        Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
    let (begin, mut least) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < TIME {
        let start = Instant::now();
        executable.run(0, &mut memory, &[], &Pool::default()).expect("the kernel runs");
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

/// GFLOP/s of an op, the multiply-adds being `products`.
fn gflops(op: Op, inputs: &[TensorType], orders: [&[usize]; 3], products: usize) -> f64 {
    let types: Vec<&TensorType> = inputs.iter().collect();
    let output = op.infer(&types).expect("the operands fit");
    let Lowering::Contraction(c) = op.lower(&types, &output) else { panic!("{op} is no contraction") };
    let contraction = reordered(&c, orders);
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated, DType::F32);
    let space = contraction.space.clone();
    let kernel = LoopKernel { space, accumulate: Some(Accumulate::Contract(contraction)), body, stores: vec![sum] };
    2.0 * products as f64 / least_seconds(kernel, inputs, &output[0]) / 1e9
}

/// Peak of this core in GFLOP/s: a product whose factors stay in the first-level cache.
fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instructions.
        return unsafe { fused_multiply_adds() };
    }
    f64::NAN
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_multiply_adds() -> f64 {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    const CHAINS: usize = 12;
    const TURNS: usize = 100_000;
    let mut least = f64::INFINITY;
    for _ in 0..20 {
        let factor = std::hint::black_box(_mm256_set1_ps(0.5));
        let mut sums = [factor; CHAINS];
        let start = Instant::now();
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        least = least.min(start.elapsed().as_secs_f64());
        std::hint::black_box(sums);
    }
    (CHAINS * 8 * 2 * TURNS) as f64 / least / 1e9
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let peak = peak();
    println!("peak of this core {peak:.1} GFLOP/s; forward, input gradient, weight gradient:");
    for (name, x, outputs, window, stride, padding, groups) in LAYERS {
        if !name.contains(&filter) {
            continue;
        }
        let both = |v| vec![v; 2];
        let (pad_low, pad_high) = (both(padding), both(padding));
        let op = Convolution { stride: both(stride), pad_low, pad_high, dilation: both(1), groups };
        let w = TensorType::f32([outputs, x[1] / groups, window, window]);
        let x = TensorType::f32(x);
        let y = Op::from(op.clone()).infer(&[&x, &w]).expect("the layer fits").remove(0);
        let products = y.elements() * w.shape[1..].iter().product::<usize>();
        let (input, weight) = (op.input_grad(&x.shape[2..]), op.weight_grad(&w.shape[2..]));
        let image = &CHANNELS_LAST[..];
        let rates = [
            gflops(op.into(), &[x.clone(), w.clone()], [image, image, &TAPS_FIRST], products),
            gflops(input.into(), &[y.clone(), w.clone()], [image, image, &TAPS_FIRST_INPUTS_LAST], products),
            gflops(weight.into(), &[x, y], [&TAPS_FIRST, image, image], products),
        ];
        let shown = rates
            .map(|rate| format!("{rate:6.1} {:3.0} % {:8.0} µs", 100.0 * rate / peak, 2e-3 * products as f64 / rate));
        println!("{name:26} {}", shown.join("  "));
    }
}
