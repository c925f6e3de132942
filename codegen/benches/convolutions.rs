//! Convolutions and both their adjoints on one thread, with channels innermost: the layers of the reference models.
//!
//! Every line is followed by the fastest run in GFLOP/s and as a share of this core's measured multiply-adds.
//! `cargo bench -p gradc-codegen --bench convolutions -- resnet8` runs some of the layers.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{CHANNELS_LAST, Case, TAPS_FIRST, TAPS_FIRST_INPUTS_LAST, op_kernels, reordered};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use gradc_codegen::{AlignedBuffer, CodegenOptions, Executable, Limits, Memory, Pool};
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::ops::{Convolution, Op};
use gradc_ir::target::Target;
use gradc_ir::types::TensorType;
use std::time::{Duration, Instant};

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

/// A kernel compiled by gradc, on one thread.
struct Compiled {
    executable: Executable,
    arena: AlignedBuffer,
    scratch: AlignedBuffer,
    factors: [AlignedBuffer; 2],
}

fn numbers(count: usize) -> AlignedBuffer {
    let floats: Vec<u8> = (0..count).flat_map(|k| ((k % 97) as f32 / 97.0).to_le_bytes()).collect();
    AlignedBuffer::from_bytes(&floats)
}

impl Compiled {
    /// An op whose result and operands have their axes in these orders.
    fn new(op: &Op, inputs: [&TensorType; 2], orders: [&[usize]; 3]) -> Compiled {
        let output = op.infer(&inputs).expect("the layer fits");
        let kernels = op_kernels(op, &inputs, &output).expect("a convolution is a contraction");
        let Some(KernelKind::Loops(LoopKernel { accumulate: Some(Accumulate::Contract(c)), body, stores, .. })) =
            kernels.into_iter().next()
        else {
            panic!("{op} is no contraction")
        };
        let contraction = reordered(&c, orders);
        let space = contraction.space.clone();
        let kernel = LoopKernel { space, accumulate: Some(Accumulate::Contract(contraction)), body, stores };
        let case = Case::new(vec![KernelKind::Loops(kernel)], &inputs.map(TensorType::clone), &output);
        let executable = case.compile(&CodegenOptions::new(Target::host()));
        Compiled {
            arena: AlignedBuffer::zeroed(case.arena_bytes),
            scratch: AlignedBuffer::zeroed(executable.scratch_bytes(1)),
            factors: inputs.map(|t| numbers(t.elements())),
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

/// Measures a kernel of so many multiply-adds and prints its fastest run.
fn measure(group: &mut BenchmarkGroup<WallTime>, name: &str, products: usize, peak: f64, mut kernel: Compiled) {
    let mut fastest = f64::INFINITY;
    group.throughput(Throughput::Elements(2 * products as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|runs| {
            (0..runs).fold(Duration::ZERO, |total, _| {
                let start = Instant::now();
                kernel.run();
                let time = start.elapsed();
                fastest = fastest.min(time.as_secs_f64());
                total + time
            })
        });
    });
    if fastest.is_finite() {
        let gflops = 2e-9 * products as f64 / fastest;
        println!(
            "    {name}: {:.1} µs, {gflops:.1} GFLOP/s, {:.0} % of the peak",
            fastest * 1e6,
            100.0 * gflops / peak
        );
    }
}

fn layers(c: &mut Criterion) {
    let peak = Limits::measure(Target::host().vector_isa).gflops;
    let mut group = c.benchmark_group("convolutions");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    for (name, x, outputs, window, stride, padding, groups) in LAYERS {
        let both = |v| vec![v; 2];
        let (pad_low, pad_high) = (both(padding), both(padding));
        let op = Convolution { stride: both(stride), pad_low, pad_high, dilation: both(1), groups };
        let [x, w] = [x, [outputs, x[1] / groups, window, window]].map(TensorType::f32);
        let y = &Op::from(op.clone()).infer(&[&x, &w]).expect("the layer fits")[0];
        let products = y.elements() * w.shape[1..].iter().product::<usize>();
        let (input, weight) = (op.input_grad(&x.shape[2..]).into(), op.weight_grad(&w.shape[2..]).into());
        let image = &CHANNELS_LAST[..];
        let forward = Compiled::new(&op.into(), [&x, &w], [image, image, &TAPS_FIRST]);
        let input = Compiled::new(&input, [y, &w], [image, image, &TAPS_FIRST_INPUTS_LAST]);
        let weight = Compiled::new(&weight, [&x, y], [&TAPS_FIRST, image, image]);
        for (kind, kernel) in [("forward", forward), ("input gradient", input), ("weight gradient", weight)] {
            measure(&mut group, &format!("{name}, {kind}"), products, peak, kernel);
        }
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
