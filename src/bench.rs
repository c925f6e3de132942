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

/// Runs that the measured time is cut into. A run is as many steps as fit into its time, at least one: what the system takes
/// away in short pieces is in every run of short steps as it is in the time that training takes, while most single steps meet
/// none of it.
const RUNS: u32 = 100;

/// What was measured; times are of whole steps.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Name of the model.
    pub model: String,
    /// Threads that may be used.
    pub threads: usize,
    /// Whether the last steps were shared among them; see [`Session::call`].
    pub shared: bool,
    /// Time of a step, the median of a hundred runs of steps, µs.
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
    let (mut steps, mut end) = (StepTimes::new(time / RUNS), Instant::now());
    while steps.total < time || steps.count < 3 {
        session.step(inputs)?;
        let start = std::mem::replace(&mut end, Instant::now());
        steps.push(end - start);
    }
    let step = session.compiled();
    let entry = step.entry(EntryKind::Step).expect("a step has just run");
    Ok(Measurement {
        model: step.name().to_string(),
        threads,
        shared: session.is_shared(EntryKind::Step)?,
        median_us: steps.median_us(),
        mean_us: steps.mean_us(),
        min_us: microseconds(steps.shortest),
        interrupted_share: interrupted_share(CLOCK_READ),
        steps: steps.count,
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

/// How long steps took. What is kept does not grow with their number: it would be in the memory that is measured.
#[derive(Debug)]
struct StepTimes {
    count: usize,
    total: Duration,
    shortest: Duration,
    /// What a run lasts at least.
    run: Duration,
    /// Steps of the present run and their time.
    in_run: (u32, Duration),
    /// Time of a step in each of the runs before, µs.
    runs_us: Vec<f64>,
}

impl StepTimes {
    fn new(run: Duration) -> StepTimes {
        let in_run = (0, Duration::ZERO);
        StepTimes { count: 0, total: Duration::ZERO, shortest: Duration::MAX, run, in_run, runs_us: vec![] }
    }

    fn push(&mut self, step: Duration) {
        self.count += 1;
        self.total += step;
        self.shortest = self.shortest.min(step);
        let (steps, time) = (self.in_run.0 + 1, self.in_run.1 + step);
        self.in_run = (steps, time);
        if time >= self.run {
            self.runs_us.push(microseconds(time) / f64::from(steps));
            self.in_run = (0, Duration::ZERO);
        }
    }

    fn mean_us(&self) -> f64 {
        microseconds(self.total) / self.count as f64
    }

    /// Of the runs; the mean, where none has come to its end.
    fn median_us(&self) -> f64 {
        let mut runs_us = self.runs_us.clone();
        runs_us.sort_unstable_by(f64::total_cmp);
        runs_us.get(runs_us.len() / 2).copied().unwrap_or_else(|| self.mean_us())
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// Share of so much time in which the processor did something else than read the clock: other programs, interrupts, the
/// hypervisor. What of it is rare and long is in the mean of the steps and not in the median.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Median, mean and shortest of steps that take so many µs each, in runs of 100 µs.
    fn times(steps_us: &[u64]) -> [f64; 3] {
        let mut steps = StepTimes::new(Duration::from_micros(100));
        steps_us.iter().for_each(|&us| steps.push(Duration::from_micros(us)));
        [steps.median_us(), steps.mean_us(), microseconds(steps.shortest)]
    }

    #[test]
    fn the_median_has_its_share_of_short_interruptions() {
        assert_eq!(times(&[[10, 10, 10, 10, 60]; 20].concat()), [20.0, 20.0, 10.0]);
    }

    #[test]
    fn a_long_interruption_is_in_the_mean_alone() {
        let mut steps = vec![10; 100];
        steps[31] = 1010;
        assert_eq!(times(&steps), [10.0, 20.0, 10.0]);
    }

    #[test]
    fn long_steps_are_runs_of_their_own() {
        assert_eq!(times(&[200, 100, 600]), [200.0, 300.0, 100.0]);
    }

    #[test]
    fn steps_shorter_than_a_run_have_their_mean() {
        assert_eq!(times(&[10, 20, 30]), [20.0, 20.0, 10.0]);
    }
}
