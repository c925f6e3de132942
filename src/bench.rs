//! Measuring a training step.

use crate::entries::EntryKind;
use crate::error::SessionError;
use crate::session::Session;
use crate::step::{EntryInfo, HostInput};
use crate::view::TensorView;
use gradc_codegen::process::release_unused_memory;
use gradc_ir::tensor::{HostTensor, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For how long the clock is read to see how much of the time the system takes away.
const CLOCK_READ: Duration = Duration::from_millis(20);

/// How many times as long as the shortest time between two readings of the clock another has to be for the system to have
/// had the processor in between, and how long at least: some clocks do not tell shorter times apart.
const INTERRUPTION: (u32, Duration) = (32, Duration::from_micros(1));

/// What was measured; times are of whole steps.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Name of the model.
    pub model: String,
    /// Threads that may be used.
    pub threads: usize,
    /// Whether the last steps were shared among them; see [`Session::call`].
    pub shared: bool,
    /// Median time of a step, µs.
    pub median_us: f64,
    /// Time from the first timed step's start to the last one's end, over their number, µs.
    pub mean_us: f64,
    /// Shortest time of a step, µs.
    pub min_us: f64,
    /// Share of the time that the system took away from a loop that only reads the clock, after the steps.
    pub interrupted_share: f64,
    /// Steps measured.
    pub steps: usize,
    /// Time from graph to native code, s.
    pub compile_s: f64,
    /// Arena and persistent tensors, bytes.
    pub planned_peak_bytes: usize,
    /// The same, which a step needs where the guard of an approximate gradient does not hold and the exact one is
    /// computed.
    pub worst_case_peak_bytes: usize,
    /// What a step needs as long as every guard holds, bytes; as much where there are none.
    pub guarded_peak_bytes: usize,
    /// Equal parts that the batch is taken in to fit into memory; 1 where it is taken at once.
    pub micro_batches: usize,
    /// Largest resident set of this process so far, MiB; 0 where the system does not say.
    pub peak_rss_mib: f64,
    /// Floating-point operations of one step.
    pub flops_per_step: u64,
    /// Native kernels of the step.
    pub kernels: usize,
    /// Times that an approximate gradient of a loop was replaced by the exact one, by solver, warm step included.
    pub solver_fallbacks: BTreeMap<String, u64>,
}

/// Inputs for an entry: floats uniform in [0, 1), indices within the range their use allows.
pub fn random_inputs(entry: &EntryInfo, seed: u64) -> BTreeMap<String, HostTensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let needed = entry.inputs.iter().filter(|i| i.default.is_none());
    needed.map(|input| (input.name.clone(), random_input(input, &mut rng))).collect()
}

fn random_input(input: &HostInput, rng: &mut ChaCha8Rng) -> HostTensor {
    let count = input.ty.elements();
    let tensor = if input.ty.dtype.is_float() {
        Tensor::float(input.ty.clone(), (0..count).map(|_| rng.random_range(0.0..1.0)).collect())
    } else {
        let (min, max) = input.range.as_ref().map_or((0, 1), |r| (r.min, r.max));
        Tensor::int(input.ty.clone(), (0..count).map(|_| rng.random_range(min..=max)).collect())
    };
    tensor.to_host()
}

/// One warm step, then timed ones until `time` has passed, at least three.
pub fn measure(
    mut session: Session,
    inputs: &[(&str, TensorView)],
    time: Duration,
    threads: usize,
) -> Result<Measurement, SessionError> {
    session.step(inputs)?;
    let (start, mut times_us) = (Instant::now(), Vec::new());
    while start.elapsed() < time || times_us.len() < 3 {
        let before = Instant::now();
        session.step(inputs)?;
        times_us.push(before.elapsed().as_nanos() as f64 / 1e3);
    }
    let mean_us = start.elapsed().as_nanos() as f64 / 1e3 / times_us.len() as f64;
    times_us.sort_unstable_by(f64::total_cmp);
    let step = session.compiled();
    let entry = step.entry(EntryKind::Step).expect("a step has just run");
    Ok(Measurement {
        model: step.name().to_string(),
        threads,
        shared: session.is_shared(EntryKind::Step)?,
        median_us: times_us[times_us.len() / 2],
        mean_us,
        min_us: times_us[0],
        interrupted_share: interrupted_share(CLOCK_READ),
        steps: times_us.len(),
        compile_s: step.report().total().as_secs_f64(),
        planned_peak_bytes: step.report().arena_bytes() + step.persistent_bytes(),
        worst_case_peak_bytes: step.report().arena_bytes() + step.persistent_bytes(),
        guarded_peak_bytes: step.report().guarded_arena_bytes() + step.persistent_bytes(),
        micro_batches: step.report().micro_batches(),
        peak_rss_mib: peak_rss_mib(),
        flops_per_step: entry.flops(),
        kernels: entry.kernels(),
        solver_fallbacks: session.solver_fallbacks(),
    })
}

/// Share of so much time in which the processor did something else than read the clock: other programs, interrupts, the
/// hypervisor. It is in the mean of the steps, and for the most part not in the median.
fn interrupted_share(time: Duration) -> f64 {
    let gap = |_| Instant::now().elapsed();
    let (times, least) = INTERRUPTION;
    let least = least.max(times * (0..1000).map(gap).min().unwrap_or_default());
    let start = Instant::now();
    let (mut last, mut interrupted) = (start, Duration::ZERO);
    while last - start < time {
        let now = Instant::now();
        if now - last >= least {
            interrupted += now - last;
        }
        last = now;
    }
    interrupted.div_duration_f64(last - start)
}

/// High-water mark of the resident set, as Linux reports it.
fn peak_rss_mib() -> f64 {
    // What asking takes is not the step's.
    release_unused_memory();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).map_or(0.0, |kib| kib / 1024.0)
}
