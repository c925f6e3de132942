//! Where the time of a training step goes: per kernel, against the limits of the machine.

use crate::entries::EntryKind;
use crate::error::SessionError;
use crate::place::entry_code;
use crate::step::{CompiledStep, EntryInfo};
use crate::view::TensorView;
use gradc_codegen::{Engine, Limits, PlacedAction};
use gradc_ir::graph::{Graph, Value};
use gradc_ir::kernel::Kernel;
use gradc_ir::plan::{Action, Group, Schedule};
use gradc_passes::cost::node_flops;
use gradc_passes::schedule::kernels;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// One native kernel of a step and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    /// Ops computed in it.
    pub ops: String,
    /// Layer path of its last op.
    pub layer: String,
    /// What computes it, see [`Engine`]; empty for checks and copies.
    pub engine: &'static str,
    /// Median time of a step's runs together, µs: one run, or as many as the loops around it make.
    pub median_us: f64,
    /// Scalar operations of these runs, two per product of a sum of products inside of its bands.
    pub flops: f64,
    /// Size of what each of them reads and writes, each buffer once.
    pub bytes: f64,
}

impl KernelTime {
    /// Billions of scalar operations per second.
    pub fn gflops(&self) -> f64 {
        self.flops / self.median_us / 1e3
    }

    /// Billions of bytes per second.
    pub fn gbps(&self) -> f64 {
        self.bytes / self.median_us / 1e3
    }

    /// Share of what `threads` cores could do: their arithmetic, or the memory's bandwidth, whichever binds.
    ///
    /// Above 1 where buffers are in the caches, which are faster than the memory.
    pub fn share_of_limit(&self, limits: &Limits, threads: usize) -> f64 {
        let by_parts = limits.parts_gflops.filter(|_| self.engine == Engine::Parts.name());
        let gflops = by_parts.unwrap_or(limits.gflops) * threads as f64;
        (self.gflops() / gflops).max(self.gbps() / limits.bandwidth_gbps)
    }
}

/// Runs a step compiled with [`Options::profile`](crate::Options) until `time` has passed, at least three times; kernels in
/// the order they run.
pub fn profile(
    step: &CompiledStep,
    inputs: &[(&str, TensorView)],
    time: Duration,
) -> Result<Vec<KernelTime>, SessionError> {
    let mut session = step.session().map_err(SessionError::from)?;
    session.step(inputs)?;
    let (start, mut runs) = (Instant::now(), Vec::new());
    while start.elapsed() < time || runs.len() < 3 {
        runs.push(session.profile(EntryKind::Step, inputs)?);
    }
    let entry = step.entry(EntryKind::Step).expect("a step has just run");
    let mut described = describe(entry);
    let engines = step.engines(EntryKind::Step);
    for (at, kernel) in described.iter_mut().enumerate() {
        kernel.engine = engines[at].map_or("", Engine::name);
        let mut times_ns: Vec<u64> = runs.iter().map(|run| run[at]).collect();
        times_ns.sort_unstable();
        kernel.median_us = times_ns[times_ns.len() / 2] as f64 / 1e3;
    }
    Ok(described)
}

/// What each leaf of an entry's actions is, with no times yet.
fn describe(entry: &EntryInfo) -> Vec<KernelTime> {
    let plan = entry.plan();
    let code = entry_code(entry.kind.name(), &plan);
    let mut kernels = describe_actions(&plan.schedule).into_iter();
    let describe = |(leaf, runs): (&PlacedAction, f64)| {
        let once = match leaf {
            PlacedAction::Copy { from, .. } => copy(from.ty.size_bytes() as f64),
            _ => kernels.next().expect("every other leaf is a kernel or a check of the schedule"),
        };
        KernelTime { flops: runs * once.flops, bytes: runs * once.bytes, ..once }
    };
    leaves(&code.actions, 1.0).into_iter().map(describe).collect()
}

/// The leaves of actions that run `runs` times, and how often each runs at most.
fn leaves(actions: &[PlacedAction], runs: f64) -> Vec<(&PlacedAction, f64)> {
    let mut all = Vec::new();
    for action in actions {
        match action {
            PlacedAction::Loop { steps, body, .. } => all.extend(leaves(body, runs * *steps as f64)),
            PlacedAction::Blocks { count, body, .. } => all.extend(leaves(body, runs * *count as f64)),
            PlacedAction::Branch { bodies, .. } => bodies.iter().for_each(|body| all.extend(leaves(body, runs))),
            leaf => all.push((leaf, runs)),
        }
    }
    all
}

/// The kernels and checks of a schedule, and of the bodies of its regions.
fn describe_actions(schedule: &Schedule) -> Vec<KernelTime> {
    let describe = |(action, kernels): (&Action, Vec<Kernel>)| match action {
        Action::Run(group) => {
            let describe = |kernel| describe_kernel(schedule, group, kernel, kernels.len());
            kernels.iter().map(describe).collect()
        }
        Action::CheckFinite(value) => vec![check(&schedule.graph, *value)],
        Action::Region(region) => region.bodies.iter().flat_map(describe_actions).collect(),
    };
    schedule.actions.iter().zip(kernels(schedule)).flat_map(describe).collect()
}

fn check(graph: &Graph, value: Value) -> KernelTime {
    let layer = graph.loc(value.node).layer.clone();
    let bytes = graph.ty(value).size_bytes() as f64;
    KernelTime { ops: "check_finite".into(), layer, engine: "", median_us: 0.0, flops: 0.0, bytes }
}

/// A carry's move between the steps of a loop, or a value's out of a body.
fn copy(bytes: f64) -> KernelTime {
    KernelTime { ops: "copy".into(), layer: String::new(), engine: "", median_us: 0.0, flops: 0.0, bytes: 2.0 * bytes }
}

fn describe_kernel(schedule: &Schedule, group: &Group, kernel: &Kernel, kernels_of_group: usize) -> KernelTime {
    let graph = &schedule.graph;
    let buffers: BTreeSet<_> = kernel.operands.iter().chain(&kernel.results).collect();
    let flops: f64 = group.nodes.iter().map(|&id| node_flops(schedule, id)).sum();
    let last = *group.nodes.last().expect("a group has a node");
    KernelTime {
        ops: op_names(graph, group),
        layer: graph.loc(last).layer.clone(),
        engine: "",
        median_us: 0.0,
        flops: flops / kernels_of_group as f64,
        bytes: buffers.iter().map(|&&v| graph.ty(v).size_bytes() as f64).sum(),
    }
}

/// The names of a group's ops, each once, in the order of the graph.
fn op_names(graph: &Graph, group: &Group) -> String {
    let mut names: Vec<&str> = vec![];
    for name in group.nodes.iter().filter_map(|&id| Some(graph.op(id)?.name())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

/// The kernels of one step as a trace that Perfetto and `chrome://tracing` show.
pub fn chrome_trace(kernels: &[KernelTime]) -> serde_json::Value {
    let mut start_us = 0.0;
    let events = kernels.iter().map(|kernel| {
        let event = serde_json::json!({
            "name": kernel.ops, "cat": kernel.layer, "ph": "X", "pid": 0, "tid": 0, "ts": start_us, "dur": kernel.median_us,
            "args": {"layer": kernel.layer, "flops": kernel.flops, "bytes": kernel.bytes},
        });
        start_us += kernel.median_us;
        event
    });
    serde_json::json!({"displayTimeUnit": "ns", "traceEvents": events.collect::<Vec<_>>()})
}
