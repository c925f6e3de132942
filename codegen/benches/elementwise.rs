//! Loops outside contractions on one thread: strips against vectors of 128 bits, and for two of them against the same
//! loop in Rust with AVX2, compiled by rustc.
//!
//! `cargo bench -p gradc-codegen --bench elementwise`; a part of a benchmark's name as argument selects it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gradc_codegen::{
    AlignedBuffer, CodegenOptions, EntryCode, Executable, Memory, Operand, PlacedAction, Pool, compile,
};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Scalar, ScalarId, UnaryFn};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::Target;
use gradc_ir::types::{DType, TensorType};

/// Elements of a case: in the first cache, in the last, in memory.
const SIZES: [usize; 3] = [1_000, 100_000, 10_000_000];

/// A kernel with all it reads and writes in one arena.
struct Bench {
    executable: Executable,
    arena: AlignedBuffer,
}

impl Bench {
    /// Kernels that run one after the other; `tensors` are all buffers, the lists name what each kernel reads and makes.
    fn new(tensors: &[TensorType], kernels: &[(LoopKernel, Vec<usize>, Vec<usize>)], wide: bool) -> Bench {
        let mut arena_bytes = 0;
        let operands: Vec<Operand> = tensors
            .iter()
            .map(|ty| {
                let place = Place { segment: Segment::Arena, offset_bytes: arena_bytes };
                // Not a multiple of a page from one buffer to the next: their cache lines would share sets.
                arena_bytes += ty.size_bytes().next_multiple_of(64) + 192;
                Operand::fixed(place, ty.clone())
            })
            .collect();
        let values = |n: usize| (0..n as u32).map(|k| Value { node: NodeId(k), result: 0 }).collect();
        let actions = kernels.iter().map(|(kernel, reads, makes)| PlacedAction::Run {
            kernel: Box::new(Kernel {
                kind: KernelKind::Loops(kernel.clone()),
                operands: values(reads.len()),
                results: values(makes.len()),
            }),
            operands: reads.iter().map(|&k| operands[k].clone()).collect(),
            results: makes.iter().map(|&k| operands[k].clone()).collect(),
        });
        let entry = EntryCode { name: "bench".into(), actions: actions.collect(), commits: vec![] };
        let options = CodegenOptions { wide, ..CodegenOptions::new(Target::host()) };
        let executable = compile(&[entry], &options).expect("the kernels compile");
        let mut arena = AlignedBuffer::zeroed(arena_bytes);
        for (k, bytes) in arena.bytes_mut().chunks_exact_mut(4).enumerate() {
            bytes.copy_from_slice(&((k % 97) as f32 / 97.0 + 0.01).to_le_bytes());
        }
        Bench { executable, arena }
    }

    fn run(&mut self) {
        let (mut persistent, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
        let mut scratch = AlignedBuffer::zeroed(0);
        let mut memory = Memory {
            arena: &mut self.arena,
            persistent: &mut persistent,
            constants: &constants,
            scratch: &mut scratch,
        };
        self.executable.run(0, &mut memory, &[], &Pool::default()).expect("the kernels run");
    }
}

/// The benchmarks of a case at a size: with strips and without.
fn both(
    c: &mut Criterion,
    name: &str,
    n: usize,
    tensors: &[TensorType],
    kernels: &[(LoopKernel, Vec<usize>, Vec<usize>)],
) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(n as u64));
    for (path, wide) in [("strips", true), ("f32x4", false)] {
        let mut bench = Bench::new(tensors, kernels, wide);
        group.bench_function(BenchmarkId::new(path, n), |b| b.iter(|| bench.run()));
    }
    group.finish();
}

/// Scalar code with a shorter notation.
#[derive(Default)]
struct Code(Body);

impl Code {
    fn load(&mut self, operand: usize, view: &[usize], rank: usize) -> ScalarId {
        self.0.load(DType::F32, Access::identity(operand, view, rank))
    }

    fn number(&mut self, x: f64) -> ScalarId {
        self.0.constant(DType::F32, x)
    }

    fn add(&mut self, a: ScalarId, b: ScalarId) -> ScalarId {
        self.0.binary(BinaryFn::Add, a, b)
    }

    fn sub(&mut self, a: ScalarId, b: ScalarId) -> ScalarId {
        self.0.binary(BinaryFn::Sub, a, b)
    }

    fn mul(&mut self, a: ScalarId, b: ScalarId) -> ScalarId {
        self.0.binary(BinaryFn::Mul, a, b)
    }

    fn scaled(&mut self, x: ScalarId, by: f64) -> ScalarId {
        let by = self.number(by);
        self.mul(x, by)
    }
}

fn map(space: &[usize], code: Code, stores: Vec<ScalarId>) -> LoopKernel {
    LoopKernel { space: space.to_vec(), accumulate: None, body: code.0, stores }
}

/// A reduction over loops of extents `over`, its result stored after `after`.
fn reduce(
    space: &[usize],
    over: &[usize],
    combine: Combine,
    build: impl FnOnce(&mut Code) -> ScalarId,
    after: impl FnOnce(&mut Code, ScalarId) -> ScalarId,
) -> LoopKernel {
    let (mut inner, mut outer) = (Code::default(), Code::default());
    let value = build(&mut inner);
    let accumulated = outer.0.push(Scalar::Accumulated(0), DType::F32);
    let store = after(&mut outer, accumulated);
    let accumulate = Some(Accumulate::Reduce { extents: over.to_vec(), combine, body: inner.0, values: vec![value] });
    LoopKernel { space: space.to_vec(), accumulate, body: outer.0, stores: vec![store] }
}

/// `gelu_tanh(x · a + b) · mask`
fn gelu_kernel(n: usize) -> LoopKernel {
    let mut c = Code::default();
    let [x, a, b, mask] = [0, 1, 2, 3].map(|k| c.load(k, &[n], 1));
    let product = c.mul(x, a);
    let z = c.add(product, b);
    let square = c.mul(z, z);
    let cube = c.mul(square, z);
    let cube = c.scaled(cube, 0.044_715);
    let inner = c.add(z, cube);
    let inner = c.scaled(inner, 0.797_884_56);
    let tanh = c.0.unary(UnaryFn::Tanh, inner);
    let one = c.number(1.0);
    let above = c.add(tanh, one);
    let half = c.scaled(z, 0.5);
    let gelu = c.mul(half, above);
    let y = c.mul(gelu, mask);
    map(&[n], c, vec![y])
}

/// Parameters, both moments and gradient to the next parameters and moments, in place.
fn adam_kernel(n: usize) -> LoopKernel {
    let mut c = Code::default();
    let [p, m, v, g] = [0, 1, 2, 3].map(|k| c.load(k, &[n], 1));
    let (kept, new) = (c.scaled(m, 0.9), c.scaled(g, 0.1));
    let m = c.add(kept, new);
    let square = c.mul(g, g);
    let (kept, new) = (c.scaled(v, 0.999), c.scaled(square, 0.001));
    let v = c.add(kept, new);
    let rate = c.0.load(DType::F32, Access::new(4, &[], vec![]));
    let root = c.0.unary(UnaryFn::Sqrt, v);
    let epsilon = c.number(1e-8);
    let denominator = c.add(root, epsilon);
    let step = c.0.binary(BinaryFn::Div, m, denominator);
    let step = c.mul(rate, step);
    let p = c.sub(p, step);
    map(&[n], c, vec![p, m, v])
}

fn gelu(c: &mut Criterion) {
    for n in SIZES {
        let tensors = vec![TensorType::f32([n]); 5];
        both(c, "gelu", n, &tensors, &[(gelu_kernel(n), vec![0, 1, 2, 3], vec![4])]);
    }
}

fn adam(c: &mut Criterion) {
    for n in SIZES {
        let mut tensors = vec![TensorType::f32([n]); 4];
        tensors.push(TensorType::f32([]));
        both(c, "adam", n, &tensors, &[(adam_kernel(n), vec![0, 1, 2, 3, 4], vec![0, 1, 2])]);
    }
}

/// Columns of the rows in a case of `n` elements.
fn columns(n: usize) -> usize {
    if n <= 1_000 { 100 } else { 500 }
}

fn row_element(code: &mut Code, operand: usize, shape: [usize; 2]) -> ScalarId {
    code.load(operand, &shape, 2)
}

fn softmax(c: &mut Criterion) {
    for n in SIZES {
        let shape = [n / columns(n), columns(n)];
        let rows = [shape[0]];
        let greatest =
            reduce(&rows, &shape[1..], Combine::Max, |c| row_element(c, 0, shape), |_, accumulated| accumulated);
        let exponential = |c: &mut Code| {
            let x = row_element(c, 0, shape);
            let greatest = c.0.load(DType::F32, Access::new(1, &rows, vec![Affine::dim(2, 0)]));
            let below = c.sub(x, greatest);
            c.0.unary(UnaryFn::Exp, below)
        };
        let sum = reduce(&rows, &shape[1..], Combine::Sum, exponential, |_, accumulated| accumulated);
        let mut code = Code::default();
        let e = exponential(&mut code);
        let total = code.0.load(DType::F32, Access::new(2, &rows, vec![Affine::dim(2, 0)]));
        let y = code.0.binary(BinaryFn::Div, e, total);
        let divided = map(&shape, code, vec![y]);
        let tensors = [TensorType::f32(shape), TensorType::f32(rows), TensorType::f32(rows), TensorType::f32(shape)];
        let kernels = [(greatest, vec![0], vec![1]), (sum, vec![0, 1], vec![2]), (divided, vec![0, 1, 2], vec![3])];
        both(c, "softmax rows", n, &tensors, &kernels);
    }
}

fn layer_norm(c: &mut Criterion) {
    for n in SIZES {
        let shape = [n / columns(n), columns(n)];
        let rows = [shape[0]];
        let per_row =
            |c: &mut Code, operand: usize| c.0.load(DType::F32, Access::new(operand, &rows, vec![Affine::dim(2, 0)]));
        let of_mean = 1.0 / columns(n) as f64;
        let mean = reduce(&rows, &shape[1..], Combine::Sum, |c| row_element(c, 0, shape), |c, s| c.scaled(s, of_mean));
        let squares = |c: &mut Code| {
            let (x, mean) = (row_element(c, 0, shape), per_row(c, 1));
            let centred = c.sub(x, mean);
            c.mul(centred, centred)
        };
        let scale = |c: &mut Code, sum: ScalarId| {
            let (variance, epsilon) = (c.scaled(sum, of_mean), c.number(1e-5));
            let variance = c.add(variance, epsilon);
            c.0.unary(UnaryFn::Rsqrt, variance)
        };
        let variance = reduce(&rows, &shape[1..], Combine::Sum, squares, scale);
        let mut code = Code::default();
        let (x, mean_of_row, scale_of_row) =
            (row_element(&mut code, 0, shape), per_row(&mut code, 1), per_row(&mut code, 2));
        let centred = code.sub(x, mean_of_row);
        let normal = code.mul(centred, scale_of_row);
        let [weight, bias] =
            [3, 4].map(|k| code.0.load(DType::F32, Access::new(k, &shape[1..], vec![Affine::dim(2, 1)])));
        let scaled = code.mul(normal, weight);
        let y = code.add(scaled, bias);
        let normalised = map(&shape, code, vec![y]);
        let by_column = TensorType::f32([shape[1]]);
        let tensors = [
            TensorType::f32(shape),
            TensorType::f32(rows),
            TensorType::f32(rows),
            by_column.clone(),
            by_column,
            TensorType::f32(shape),
        ];
        let kernels =
            [(mean, vec![0], vec![1]), (variance, vec![0, 1], vec![2]), (normalised, vec![0, 1, 2, 3, 4], vec![5])];
        both(c, "layer norm rows", n, &tensors, &kernels);
    }
}

/// Mean and variance of every channel of a batch whose channels are innermost.
fn column_statistics(c: &mut Criterion) {
    for (n, channels) in [(1_000, 20), (100_000, 64), (10_000_000, 64)] {
        let shape = [n / channels, channels];
        let of_mean = 1.0 / shape[0] as f64;
        let element =
            |c: &mut Code| c.0.load(DType::F32, Access::new(0, &shape, vec![Affine::dim(2, 1), Affine::dim(2, 0)]));
        let mean = reduce(&shape[1..], &shape[..1], Combine::Sum, element, |c, s| c.scaled(s, of_mean));
        let squares = |c: &mut Code| {
            let x = element(c);
            let mean = c.load(1, &shape[1..], 2);
            let centred = c.sub(x, mean);
            c.mul(centred, centred)
        };
        let variance = reduce(&shape[1..], &shape[..1], Combine::Sum, squares, |c, s| c.scaled(s, of_mean));
        let by_column = TensorType::f32([channels]);
        let tensors = [TensorType::f32(shape), by_column.clone(), by_column];
        let kernels = [(mean, vec![0], vec![1]), (variance, vec![0, 1], vec![2])];
        both(c, "column statistics", n, &tensors, &kernels);
    }
}

#[cfg(target_arch = "x86_64")]
mod rust {
    //! The loops as a Rust programmer writes them, with the same polynomials.

    use super::{BenchmarkId, Criterion, SIZES, Throughput};
    use std::hint::black_box;

    /// eˣ as two factors, the second a power of two.
    #[inline(always)]
    fn exp_factors(x: f32) -> (f32, f32) {
        let magic = 12_582_912.0 + 127.0;
        let shifted = x.mul_add(std::f32::consts::LOG2_E, magic);
        let r = (shifted - magic).mul_add(-std::f32::consts::LN_2, x);
        let p = [8.368_745e-3, 4.166_839e-2, 1.666_652e-1, 4.999_999_3e-1, 1.0, 1.0]
            .into_iter()
            .fold(1.381_454e-3f32, |p, c| p.mul_add(r, c));
        (p, f32::from_bits(shifted.to_bits() << 23))
    }

    #[inline(always)]
    fn tanh(x: f32) -> f32 {
        let a = x.abs();
        let (p, power) = exp_factors((a + a).min(18.5));
        let large = 1.0 - 2.0 / p.mul_add(power, 1.0);
        let square = x * x;
        let p = [2.006_671_3e-2, -5.354_954_3e-2, 1.332_897_7e-1, -3.333_318_4e-1]
            .into_iter()
            .fold(-5.115_338e-3f32, |p, c| p.mul_add(square, c));
        let small = (p * square).mul_add(x, x);
        (if square > 0.484_375 { large } else { small }).copysign(x)
    }

    #[target_feature(enable = "avx2,fma")]
    fn gelu_loop([x, a, b, mask]: [&[f32]; 4], y: &mut [f32]) {
        for ((((&x, &a), &b), &mask), y) in x.iter().zip(a).zip(b).zip(mask).zip(y) {
            let z = x * a + b;
            let inner = 0.797_884_6 * (z + 0.044_715 * (z * z * z));
            *y = 0.5 * z * (1.0 + tanh(inner)) * mask;
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn adam_loop([p, m, v]: [&mut [f32]; 3], g: &[f32], rate: f32) {
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * (g * g);
            *p -= rate * (*m / (v.sqrt() + 1e-8));
        }
    }

    fn available() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|k| (k % 97) as f32 / 97.0 + 0.01).collect()
    }

    pub fn gelu(c: &mut Criterion) {
        for n in SIZES.into_iter().filter(|_| available()) {
            let [x, a, b, mask, mut y] = [0; 5].map(|_| numbers(n));
            let mut group = c.benchmark_group("gelu");
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::new("rustc", n), |bench| {
                // SAFETY: the processor has both extensions.
                bench.iter(|| unsafe { gelu_loop(black_box([&x, &a, &b, &mask]), &mut y) });
            });
            group.finish();
        }
    }

    pub fn adam(c: &mut Criterion) {
        for n in SIZES.into_iter().filter(|_| available()) {
            let [mut p, mut m, mut v, g] = [0; 4].map(|_| numbers(n));
            let mut group = c.benchmark_group("adam");
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::new("rustc", n), |bench| {
                // SAFETY: the processor has both extensions.
                bench.iter(|| unsafe { adam_loop([&mut p, &mut m, &mut v], black_box(&g), black_box(1e-3)) });
            });
            group.finish();
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn in_rust(c: &mut Criterion) {
    rust::gelu(c);
    rust::adam(c);
}

#[cfg(not(target_arch = "x86_64"))]
fn in_rust(_: &mut Criterion) {}

criterion_group!(benches, gelu, adam, in_rust, softmax, layer_norm, column_statistics);
criterion_main!(benches);
