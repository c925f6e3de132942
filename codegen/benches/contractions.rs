//! Products of matrices: squares, shapes of training steps and their two adjoints, next to the `gemm` crate.
//!
//! Every line is followed by the fastest run, and by the median of its shares of what this core multiplies and adds in
//! registers at that moment: a processor's clock changes, with what it computes too.
//! `cargo bench -p gradc-codegen --bench contractions -- squares` runs one group.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::Case;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use gradc_codegen::{AlignedBuffer, CodegenOptions, Executable, Limits, Memory, Pool, host_target};
use gradc_ir::ops::{DotGeneral, Op};
use gradc_ir::types::TensorType;
use std::time::{Duration, Instant};

/// Work of an entry that is run at a time, so that the call of the entry does not count.
const ENTRY_FLOPS: usize = 10_000_000;

/// Pairs of a run and multiply-adds in registers: at least so many, and for at least so long.
const PAIRS: usize = 9;
const PAIRED: Duration = Duration::from_millis(200);

/// Rows, columns and depth of a product, and which of its factors are stored transposed.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    transposed: [bool; 2],
}

impl Product {
    fn flops(self) -> usize {
        2 * self.m * self.n * self.k
    }

    /// How often an entry computes it.
    fn copies(self) -> usize {
        (ENTRY_FLOPS / self.flops()).clamp(1, 1000)
    }

    fn shapes(self) -> [[usize; 2]; 2] {
        let Product { m, n, k, transposed } = self;
        [if transposed[0] { [k, m] } else { [m, k] }, if transposed[1] { [n, k] } else { [k, n] }]
    }

    /// Distance between the rows and between the columns of a factor.
    fn strides(self, factor: usize) -> (isize, isize) {
        let row = self.shapes()[factor][1] as isize;
        if self.transposed[factor] { (1, row) } else { (row, 1) }
    }
}

fn numbers(count: usize) -> AlignedBuffer {
    let floats: Vec<u8> = (0..count).flat_map(|k| ((k % 97) as f32 / 97.0).to_le_bytes()).collect();
    AlignedBuffer::from_bytes(&floats)
}

/// A product compiled by gradc, on one thread.
struct Compiled {
    executable: Executable,
    arena: AlignedBuffer,
    scratch: AlignedBuffer,
    factors: [AlignedBuffer; 2],
}

impl Compiled {
    fn new(product: Product) -> Compiled {
        let op: Op = DotGeneral {
            lhs_batch: vec![],
            rhs_batch: vec![],
            lhs_contract: vec![usize::from(!product.transposed[0])],
            rhs_contract: vec![usize::from(product.transposed[1])],
        }
        .into();
        let types = product.shapes().map(TensorType::f32);
        let mut case = Case::of_op(&op, &types).expect("a product is a contraction");
        case.entry.actions = vec![case.entry.actions.remove(0); product.copies()];
        let executable = case.compile(&CodegenOptions::new(host_target()));
        Compiled {
            arena: AlignedBuffer::zeroed(case.arena_bytes),
            scratch: AlignedBuffer::zeroed(executable.scratch_bytes(1)),
            factors: types.map(|t| numbers(t.elements())),
            executable,
        }
    }

    fn run(&mut self) {
        let (mut persistent, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
        let (arena, scratch) = (&mut self.arena, &mut self.scratch);
        let mut memory = Memory { arena, persistent: &mut persistent, constants: &constants, scratch };
        let host = [self.factors[0].bytes(), self.factors[1].bytes()];
        self.executable.run(0, &mut memory, &host, &Pool::default()).expect("the entry runs");
    }
}

/// The same by the `gemm` crate.
fn run_gemm(product: Product, [a, b]: [*const f32; 2], c: *mut f32) {
    let Product { m, n, k, .. } = product;
    let ((a_row, a_column), (b_row, b_column)) = (product.strides(0), product.strides(1));
    let one = gemm::Parallelism::None;
    for _ in 0..product.copies() {
        // SAFETY: the factors have `m · k` and `k · n` floats, the result `m · n`.
        unsafe {
            gemm::gemm(
                m, n, k, c, 1, n as isize, false, a, a_column, a_row, b, b_column, b_row, 0.0, 1.0, false, false,
                false, one,
            );
        }
    }
}

fn time(run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Share of the multiply-adds in registers, measured in turn with them.
fn median_share(gflop: f64, run: &mut impl FnMut()) -> f64 {
    let (start, mut shares) = (Instant::now(), vec![]);
    while shares.len() < PAIRS || start.elapsed() < PAIRED {
        let peak = Limits::gflops_now(host_target().vector_isa);
        shares.push(gflop / time(run).as_secs_f64() / peak);
    }
    shares.sort_by(f64::total_cmp);
    shares[shares.len() / 2]
}

/// Measures one way to compute a product and prints its fastest run and its share.
fn measure(group: &mut BenchmarkGroup<WallTime>, name: String, product: Product, mut run: impl FnMut()) {
    let mut fastest = Duration::MAX;
    group.throughput(Throughput::Elements((product.flops() * product.copies()) as u64));
    group.bench_function(&name, |bencher| {
        bencher.iter_custom(|runs| {
            (0..runs).fold(Duration::ZERO, |total, _| {
                let time = time(&mut run);
                fastest = fastest.min(time);
                total + time
            })
        });
    });
    if fastest == Duration::MAX {
        return; // The filter of the command line excludes it.
    }
    let seconds = fastest.as_secs_f64() / product.copies() as f64;
    let gflop = product.flops() as f64 / 1e9;
    let share = 100.0 * median_share(gflop * product.copies() as f64, &mut run);
    println!("    {name}: {:.3} µs, {:.1} GFLOP/s, {share:.0} % of the peak", seconds * 1e6, gflop / seconds);
}

fn compare(c: &mut Criterion, name: &str, products: &[(&str, Product)]) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    for &(kind, product) in products {
        let Product { m, n, k, .. } = product;
        let mut compiled = Compiled::new(product);
        let factors = product.shapes().map(|s| numbers(s[0] * s[1]));
        let mut result = numbers(m * n);
        let pointers = [&factors[0], &factors[1]].map(|f| f.bytes().as_ptr().cast::<f32>());
        measure(&mut group, format!("{m}x{n}x{k} {kind} gradc"), product, || compiled.run());
        measure(&mut group, format!("{m}x{n}x{k} {kind} gemm"), product, || {
            run_gemm(product, pointers, result.bytes_mut().as_mut_ptr().cast());
        });
    }
}

fn squares(c: &mut Criterion) {
    let square = |n: usize| ("A·B", Product { m: n, n, k: n, transposed: [false, false] });
    compare(c, "squares", &[8, 16, 32, 64, 128, 256, 512, 1024].map(square));
}

/// A layer `Y = X·W` of batch `m`, and its adjoints.
fn layer([m, n, k]: [usize; 3]) -> [(&'static str, Product); 4] {
    [
        ("X·W", Product { m, n, k, transposed: [false, false] }),
        ("X·Wᵀ", Product { m, n, k, transposed: [false, true] }),
        ("dY·Wᵀ", Product { m, n: k, k: n, transposed: [false, true] }),
        ("Xᵀ·dY", Product { m: k, n, k: m, transposed: [true, false] }),
    ]
}

fn layers(c: &mut Criterion) {
    let shapes = [
        [32, 128, 784],
        [64, 10, 128],
        [32, 10, 128],
        [64, 512, 784],
        [512, 2048, 512],
        [2048, 128, 128],
        [2048, 512, 128],
        [2048, 128, 512],
    ];
    compare(c, "layers", &shapes.map(layer).concat());
}

/// Layers of GPT-2 small for 256 tokens: weights of 2 to 9 MB.
fn transformer(c: &mut Criterion) {
    let shapes = [[256, 768, 768], [256, 2304, 768], [256, 3072, 768], [256, 768, 3072]];
    compare(c, "transformer", &shapes.map(layer).concat());
}

/// A few rows, or fewer columns than a vector has lanes.
fn narrow(c: &mut Criterion) {
    let shapes = [
        [1, 256, 256],
        [1, 512, 784],
        [1, 784, 512],
        [1, 2048, 2048],
        [4, 512, 784],
        [8, 512, 784],
        [64, 2, 512],
        [64, 4, 512],
        [512, 1, 512],
    ];
    compare(c, "narrow", &shapes.map(layer).concat());
}

/// Logits of a GPT-2: 154 MB of weights.
fn vocabulary(c: &mut Criterion) {
    compare(c, "vocabulary", &layer([512, 50257, 768]));
}

criterion_group!(benches, squares, layers, narrow, transformer, vocabulary);
criterion_main!(benches);
