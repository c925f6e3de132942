//! The constants of the cost model, measured on this machine.

use gradc_codegen::Limits;
use gradc_ir::target::Target;
use std::path::Path;

/// What [`Target::host`] would say if its constants came from this machine: one core's rates as [`Limits`] measures them,
/// caches as Linux reports them. Where it does not, those checked in stay. Takes about 0.2 s.
pub fn measured_target() -> Target {
    let checked_in = Target::host();
    let limits = Limits::measure(checked_in.vector_isa);
    Target {
        l1_bytes: data_cache_bytes(1).unwrap_or(checked_in.l1_bytes),
        l2_bytes: data_cache_bytes(2).unwrap_or(checked_in.l2_bytes),
        peak_gflops: limits.gflops,
        bandwidth_gbps: limits.bandwidth_gbps,
        ..checked_in
    }
}

/// Size of the first core's cache of a level that holds data.
fn data_cache_bytes(level: u32) -> Option<usize> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let of_level = |folder: &Path| {
        let says = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let wanted = says("level")?.trim() == level.to_string() && says("type")?.trim() != "Instruction";
        let kib = says("size")?.trim().strip_suffix('K')?.parse::<usize>().ok()?;
        wanted.then_some(kib << 10)
    };
    caches.flatten().find_map(|entry| of_level(&entry.path()))
}
