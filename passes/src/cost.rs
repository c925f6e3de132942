//! What an op costs to run, estimated from its lowered form alone: names no op.

use gradc_ir::band::share_inside;
use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::lower::{Access, Body, Contraction, Lowering, Meeting, Nest, Scalar, ScalarId, Scatter};
use gradc_ir::ops::Op;
use gradc_ir::plan::{Action, RegionSchedule, Schedule};
use gradc_ir::region::RegionForm;
use gradc_ir::target::{LEAST_TILED_PRODUCT, Target};
use gradc_ir::types::TensorType;
use std::ops::{AddAssign, Mul};

/// Share of a streaming nest's traffic that is left after fusion with its neighbours.
///
/// An elementwise chain keeps its intermediates in registers; only its ends touch memory.
const FUSED_TRAFFIC: f64 = 0.25;

/// Time that every kernel takes whatever it does, nanoseconds: hand-over, loop set-up, reading cold tables.
///
/// `gradc bench --profile` on small kernels: a sum of 500 elements takes 0.1 to 0.2 µs.
const KERNEL_NS: f64 = 100.0;

/// The same for a product by tiles, whose blocks are packed and whose edges are not full tiles.
///
/// A product of 16×48 by 48×32 takes 0.9 µs, its operations at the rate of large products 0.6 µs.
const PRODUCT_NS: f64 = 300.0;

/// Estimated work of one op: arithmetic, memory traffic, time.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Scalar operations; a contraction counts 2·M·N·K.
    pub flops: f64,
    /// Bytes read and written, after the expected fusion.
    pub bytes: f64,
    /// `max(flops / peak, bytes / bandwidth)` on one core, and what a kernel of its own takes, nanoseconds.
    pub time_ns: f64,
}

impl Cost {
    /// The cost of this much work on a target.
    pub fn new(flops: f64, bytes: f64, target: &Target) -> Self {
        // GFLOP/s and GB/s are operations and bytes per nanosecond
        Cost { flops, bytes, time_ns: (flops / target.peak_gflops).max(bytes / target.bandwidth_gbps) }
    }

    /// The same with what a kernel of its own takes on top.
    fn in_kernel(self, kernel_ns: f64) -> Self {
        Cost { time_ns: self.time_ns + kernel_ns, ..self }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.time_ns += other.time_ns;
    }
}

impl Mul<f64> for Cost {
    type Output = Cost;

    fn mul(self, times: f64) -> Cost {
        Cost { flops: self.flops * times, bytes: self.bytes * times, time_ns: self.time_ns * times }
    }
}

/// Cost of one application of `op`.
///
/// A nest that only renames its operand is free. A region costs what its bodies do at most; calls and work along lines
/// are priced by what goes in and out, which is enough as long as no rewrite trades them for anything else.
pub fn op_cost(op: &Op, inputs: &[&TensorType], outputs: &[TensorType], target: &Target) -> Cost {
    let mut total = Cost::default();
    match op.lower(inputs, outputs) {
        Lowering::Nests(nests) => {
            nests.iter().zip(outputs).for_each(|(nest, output)| total += nest_cost(nest, output, target))
        }
        Lowering::Contraction(contraction) => {
            total += contraction_cost(&contraction, outputs[0].dtype.size_bytes(), target)
        }
        Lowering::Scatter(scatter) => total += scatter_cost(&scatter, &outputs[0], target),
        Lowering::Region(region) => total += region_cost(&region.form, target),
        Lowering::Expand(_) | Lowering::Lines(_) => total += boundary_cost(inputs, outputs, target),
    }
    total
}

/// Cost of all ops of a graph.
pub fn graph_cost(graph: &Graph, target: &Target) -> Cost {
    graph_cost_shared(graph, target, |_| 1.0)
}

/// Cost of a graph that has a share in what each of its ops costs.
pub fn graph_cost_shared(graph: &Graph, target: &Target, share: impl Fn(NodeId) -> f64) -> Cost {
    let mut cost = Cost::default();
    for id in graph.node_ids() {
        if let Some(op) = graph.op(id) {
            let node = graph.node(id);
            let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
            cost += op_cost(op, &inputs, &node.types, target) * share(id);
        }
    }
    cost
}

/// Scalar operations of a node of a schedule: of a sum of products, those of the products inside of its bands.
pub fn node_flops(schedule: &Schedule, id: NodeId) -> f64 {
    match regions(schedule).find(|region| region.node == id) {
        Some(region) => of_region(schedule, region, schedule_flops),
        None => op_flops(&schedule.graph, id) * share_computed(schedule, id),
    }
}

/// Scalar operations of all nodes of a schedule; of branches those of the one that takes most.
pub fn schedule_flops(schedule: &Schedule) -> f64 {
    schedule.graph.node_ids().map(|id| node_flops(schedule, id)).sum()
}

/// Scalar operations that a schedule leaves out because they are outside of bands.
pub fn flops_outside_bands(schedule: &Schedule) -> f64 {
    let outside = |&id: &NodeId| op_flops(&schedule.graph, id) * (1.0 - share_computed(schedule, id));
    let here: f64 = schedule.bands.keys().map(outside).sum();
    here + regions(schedule).map(|region| of_region(schedule, region, flops_outside_bands)).sum::<f64>()
}

fn op_flops(graph: &Graph, id: NodeId) -> f64 {
    let inputs: Vec<&TensorType> = graph.node(id).operands.iter().map(|&v| graph.ty(v)).collect();
    graph.op(id).map_or(0.0, |op| op_cost(op, &inputs, &graph.node(id).types, &Target::host()).flops)
}

fn share_computed(schedule: &Schedule, id: NodeId) -> f64 {
    schedule.bands.get(&id).map_or(1.0, |bands| share_inside(bands))
}

fn regions(schedule: &Schedule) -> impl Iterator<Item = &RegionSchedule> {
    schedule.actions.iter().filter_map(|action| if let Action::Region(region) = action { Some(region) } else { None })
}

/// What all steps of a region take at most, by what a body does.
fn of_region(schedule: &Schedule, region: &RegionSchedule, of_body: impl Fn(&Schedule) -> f64) -> f64 {
    let steps = RegionForm::of_node(&schedule.graph, region.node).map_or(1, |form| form.steps());
    region.bodies.iter().map(of_body).fold(0.0, f64::max) * steps as f64
}

fn region_cost(form: &RegionForm, target: &Target) -> Cost {
    let bodies = form.bodies().iter().map(|body| graph_cost(body, target));
    let dearest = bodies.max_by(|a, b| a.time_ns.total_cmp(&b.time_ns)).unwrap_or_default();
    dearest * form.steps() as f64
}

fn product(extents: &[usize]) -> f64 {
    extents.iter().map(|&d| d as f64).product()
}

fn boundary_cost(inputs: &[&TensorType], outputs: &[TensorType], target: &Target) -> Cost {
    let bytes: usize = inputs.iter().map(|t| t.size_bytes()).chain(outputs.iter().map(TensorType::size_bytes)).sum();
    Cost::new(outputs.iter().map(|t| t.elements() as f64).sum(), bytes as f64, target).in_kernel(KERNEL_NS)
}

fn nest_cost(nest: &Nest, output: &TensorType, target: &Target) -> Cost {
    if nest.alias_of().is_some() || is_constant(nest) {
        return Cost::default();
    }
    let loops = [nest.space.as_slice(), &nest.reduce].concat();
    let steps = product(&loops);
    let combine = if nest.combine.is_some() { 1.0 } else { 0.0 };
    let read: f64 = loads(&nest.body).map(|(access, size_bytes)| touched(access, &loops) * size_bytes).sum();
    // what is read in part has to be there as a whole: it was not made by the same kernel
    let is_whole = loads(&nest.body).all(|(access, _)| touched(access, &loops) == product(&access.view));
    let (traffic, kernel_ns) = match streams(nest) && !joins_parts(&nest.body) {
        true => (if is_whole { FUSED_TRAFFIC } else { 1.0 }, 0.0),
        false => (1.0, KERNEL_NS),
    };
    let bytes = traffic * (read + output.size_bytes() as f64);
    Cost::new(steps * (operations(&nest.body) + combine), bytes, target).in_kernel(kernel_ns)
}

fn contraction_cost(contraction: &Contraction, element_bytes: usize, target: &Target) -> Cost {
    let loops = [contraction.space.as_slice(), &contraction.reduce].concat();
    let is_tiled = product(&loops) >= LEAST_TILED_PRODUCT as f64;
    let kernel_ns = if is_tiled { PRODUCT_NS } else { KERNEL_NS };
    let touched = touched(&contraction.lhs, &loops) + touched(&contraction.rhs, &loops) + product(&contraction.space);
    Cost::new(2.0 * product(&loops), touched * element_bytes as f64, target).in_kernel(kernel_ns)
}

fn scatter_cost(scatter: &Scatter, output: &TensorType, target: &Target) -> Cost {
    let read: f64 = loads(&scatter.body).map(|(access, size)| touched(access, &scatter.space) * size).sum();
    let updates = product(&scatter.space);
    let written = 2.0 * output.size_bytes() as f64 + 2.0 * updates * output.dtype.size_bytes() as f64;
    let meeting = if scatter.meeting == Meeting::Add { 1.0 } else { 0.0 };
    Cost::new(updates * (operations(&scatter.body) + meeting), read + written, target).in_kernel(KERNEL_NS)
}

/// Whether a nest makes one repeated value; such values live in the kernels that read them.
fn is_constant(nest: &Nest) -> bool {
    matches!(nest.body.scalars[nest.result.0 as usize].0, Scalar::Const(_))
}

/// Whether a nest puts operands next to each other. What reads the whole, a product above all, wants it stored, and its
/// makers cannot store into it: it is a kernel that copies.
fn joins_parts(body: &Body) -> bool {
    let scalar = |id: ScalarId| &body.scalars[id.0 as usize].0;
    let is_bound = |s: &Scalar| match s {
        Scalar::Compare(_, a, b) => matches!((scalar(*a), scalar(*b)), (Scalar::LoopIndex(_), Scalar::Const(_))),
        _ => false,
    };
    body.scalars.iter().any(|(s, _)| matches!(s, Scalar::Select(condition, ..) if is_bound(scalar(*condition))))
}

/// Scalar operations per step of a body; reads and constants are no operations, and loops are cut where only an index
/// chooses.
fn operations(body: &Body) -> f64 {
    let scalar = |id: ScalarId| &body.scalars[id.0 as usize].0;
    let is_index = |id: ScalarId| matches!(scalar(id), Scalar::LoopIndex(_) | Scalar::Const(_));
    let is_place = |s: &Scalar| matches!(s, Scalar::Compare(_, a, b) if is_index(*a) && is_index(*b));
    let is_work = |s: &Scalar| match s {
        Scalar::Const(_) | Scalar::LoopIndex(_) | Scalar::Load(_) => false,
        Scalar::Select(condition, ..) => !is_place(scalar(*condition)),
        other => !is_place(other),
    };
    body.scalars.iter().filter(|(s, _)| is_work(s)).count() as f64
}

/// Reads of a body with the size of an element in bytes.
fn loads(body: &Body) -> impl Iterator<Item = (&Access, f64)> {
    body.scalars.iter().filter_map(|(scalar, dtype)| match scalar {
        Scalar::Load(access) => Some((access, dtype.size_bytes() as f64)),
        _ => None,
    })
}

/// How many different elements an access reads over the loops, at most.
fn touched(access: &Access, loops: &[usize]) -> f64 {
    let moves = |d: usize| access.indices.iter().any(|i| i.loaded.is_some() || i.affine.coeffs[d] != 0);
    let steps: f64 = (0..loops.len()).filter(|&d| moves(d)).map(|d| loops[d] as f64).product();
    steps.min(product(&access.view))
}

/// Whether every read follows the result's own order, so that the nest fuses into its neighbours without a copy.
fn streams(nest: &Nest) -> bool {
    let in_order = |access: &Access| match access.flat() {
        // strides fall from the outermost loop inwards, repeated axes aside
        Some(flat) => {
            let moving = nest.space.iter().zip(&flat.coeffs).filter(|&(&extent, &c)| extent > 1 && c != 0);
            moving.map(|(_, &c)| c).is_sorted_by(|a, b| a >= b)
        }
        None => false,
    };
    nest.reduce.is_empty() && loads(&nest.body).all(|(access, _)| in_order(access))
}
