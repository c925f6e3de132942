//! What one core of this machine can do, measured: the limits that kernels are held against.

use crate::memory::AlignedBuffer;
use crate::microkernel::{is_available, parts_peak_gflops};
use gradc_ir::target::VectorIsa;
use std::hint::black_box;
use std::time::Instant;

/// Measured limits of one core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Fused multiply-adds of f32 in registers, GFLOP/s.
    pub gflops: f64,
    /// Multiply-adds of f32 as products of their parts, GFLOP/s, where the target has them.
    pub parts_gflops: Option<f64>,
    /// Copying between buffers far larger than the caches, bytes read and written, GB/s.
    pub bandwidth_gbps: f64,
}

/// Repetitions of which the fastest counts.
const TRIES: usize = 7;

/// Size of each of the two buffers that are copied.
const COPIED_BYTES: usize = 64 << 20;

/// Multiply-adds per chain and try, about a millisecond.
const CHAIN: usize = 1 << 19;

/// The same of a single try, in turn with something else that takes as long.
const SHORT_CHAIN: usize = 1 << 15;

impl Limits {
    /// Measures this machine with the given vector instructions, which it must have; takes about 0.2 s.
    pub fn measure(isa: VectorIsa) -> Limits {
        let gflops = measure_gflops(isa, CHAIN, TRIES);
        let parts_gflops = parts_peak_gflops(isa, |work| fastest_s(TRIES, work));
        Limits { gflops, parts_gflops, bandwidth_gbps: copy_gbps() }
    }

    /// [`Limits::gflops`] at the clock of this moment, in about 0.1 ms: left to themselves, multiply-adds without loads may
    /// soon run at another clock than those with loads.
    pub fn gflops_now(isa: VectorIsa) -> f64 {
        measure_gflops(isa, SHORT_CHAIN, 1)
    }
}

fn fastest_s(tries: usize, mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..tries).map(time).fold(f64::INFINITY, f64::min)
}

fn copy_gbps() -> f64 {
    let from = AlignedBuffer::from_bytes(&vec![1; COPIED_BYTES]);
    let mut to = AlignedBuffer::from_bytes(&vec![2; COPIED_BYTES]);
    let seconds = fastest_s(TRIES, || to.bytes_mut().copy_from_slice(black_box(from.bytes())));
    2.0 * COPIED_BYTES as f64 / seconds / 1e9
}

fn measure_gflops(isa: VectorIsa, chain: usize, tries: usize) -> f64 {
    assert!(is_available(isa), "limits are measured with instructions the machine has");
    let (chains, lanes): (fn(f32, usize) -> f32, usize) = match isa {
        VectorIsa::Portable => (portable_chains, 1),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx2 => (measure_avx2, 8),
        #[cfg(target_arch = "x86_64")]
        VectorIsa::Avx512 | VectorIsa::Amx => (measure_avx512, 16),
        #[cfg(not(target_arch = "x86_64"))]
        _ => (portable_chains, 1),
    };
    let seconds = fastest_s(tries, || _ = black_box(chains(black_box(0.5), chain)));
    (2 * CHAINS * lanes * chain) as f64 / seconds / 1e9
}

/// Independent chains: more than latency times throughput of any processor so far.
const CHAINS: usize = 12;

fn portable_chains(x: f32, length: usize) -> f32 {
    let mut sums = [x; CHAINS];
    for _ in 0..length {
        sums.iter_mut().for_each(|s| *s = *s * x + x);
    }
    sums.iter().sum()
}

macro_rules! vector_chains {
    ($name:ident, $entry:ident, $feature:literal, $splat:ident, $fma:ident, $first:ident) => {
        #[cfg(target_arch = "x86_64")]
        fn $entry(x: f32, length: usize) -> f32 {
            // SAFETY: `measure_gflops` checked that the processor has the instructions.
            unsafe { $name(x, length) }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $feature)]
        fn $name(x: f32, length: usize) -> f32 {
            use std::arch::x86_64::{$first, $fma, $splat};
            let factor = $splat(x);
            let mut sums = [factor; CHAINS];
            for _ in 0..length {
                sums.iter_mut().for_each(|s| *s = $fma(*s, factor, factor));
            }
            sums.iter().map(|&s| $first(s)).sum()
        }
    };
}

vector_chains!(avx2_chains, measure_avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, _mm256_cvtss_f32);
vector_chains!(avx512_chains, measure_avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, _mm512_cvtss_f32);
