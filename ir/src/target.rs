//! The machine code is made for. A value passed to every stage that needs it, never queried elsewhere.

/// Multiply-adds from which on a product is computed by tiles, not by a plain loop nest.
pub const LEAST_TILED_PRODUCT: usize = 512;

/// Vector instruction sets micro-kernels are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VectorIsa {
    /// Plain Rust that any target runs.
    Portable,
    /// 256-bit AVX2 with FMA.
    Avx2,
    /// 512-bit AVX-512F.
    Avx512,
    /// AVX-512 and, for products of matrices, tiles of bf16 (AMX): floats as sums of three of these.
    Amx,
}

/// What stages know about the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Vector instructions micro-kernels may use.
    pub vector_isa: VectorIsa,
    /// First-level data cache per core, bytes.
    pub l1_bytes: usize,
    /// Second-level cache per core, bytes.
    pub l2_bytes: usize,
    /// Peak f32 multiply-adds of one core, GFLOP/s.
    pub peak_gflops: f64,
    /// Memory bandwidth, GB/s.
    pub bandwidth_gbps: f64,
}

impl Target {
    /// The machine this process runs on; cost constants are those checked in for its class.
    pub fn host() -> Target {
        Target::of(host_vector_isa())
    }

    /// A class of machines, by its vector instructions.
    pub fn of(vector_isa: VectorIsa) -> Target {
        let peak_gflops = match vector_isa {
            VectorIsa::Portable => 14.0,
            VectorIsa::Avx2 | VectorIsa::Avx512 | VectorIsa::Amx => 110.0,
        };
        Target { vector_isa, l1_bytes: 32 << 10, l2_bytes: 512 << 10, peak_gflops, bandwidth_gbps: 20.0 }
    }
}

#[cfg(target_arch = "x86_64")]
fn host_vector_isa() -> VectorIsa {
    if is_x86_feature_detected!("avx512f") {
        VectorIsa::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        VectorIsa::Avx2
    } else {
        VectorIsa::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_vector_isa() -> VectorIsa {
    VectorIsa::Portable
}
