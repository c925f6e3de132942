//! Running memory plans natively, without a session around them.

use gradc_codegen::{
    AlignedBuffer, CodegenOptions, EntryCode, Memory, Operand, PlacedAction, Pool, compile, host_target,
};
use gradc_ir::graph::{Graph, Value};
use gradc_ir::kernel::Kernel;
use gradc_ir::plan::{Action, MemoryPlan, Segment};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::text::{parse_plan, print_plan};
use gradc_passes::memory::{SharedLayout, check_plan, plan_memory};
use gradc_passes::schedule::{Ordering, kernels, schedule};

/// A graph scheduled and placed; the plan is checked, and parses back from its text.
pub fn planned(graph: Graph) -> MemoryPlan {
    let shared = SharedLayout::of([&graph]);
    let (schedule, _) = schedule(graph.into(), Ordering::default()).unwrap_or_else(|e| panic!("{e}"));
    let plan = plan_memory(schedule, &shared);
    check_plan(&plan, &shared).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(parse_plan(&print_plan(&plan)).unwrap_or_else(|e| panic!("{e}")), plan, "plans parse back");
    plan
}

/// The kernels of a plan, in order.
pub fn all_kernels(plan: &MemoryPlan) -> Vec<Kernel> {
    kernels(&plan.schedule).into_iter().flatten().collect()
}

/// The kernels of a plan without regions and checks, with their places.
fn entry(plan: &MemoryPlan) -> EntryCode {
    let graph: &Graph = &plan.schedule.graph;
    let operand = |v: &Value| Operand::fixed(plan.memory.places[v], graph.ty(*v).clone());
    assert!(plan.schedule.actions.iter().all(|a| matches!(a, Action::Run(_))), "nothing is checked here");
    let actions = all_kernels(plan).into_iter().map(|kernel| PlacedAction::Run {
        operands: kernel.operands.iter().map(operand).collect(),
        results: kernel.results.iter().map(operand).collect(),
        kernel: Box::new(kernel),
    });
    EntryCode { name: "plan".into(), actions: actions.collect(), commits: vec![] }
}

/// The outputs of a plan run on its inputs.
pub fn run(plan: &MemoryPlan, inputs: &[Tensor], threads: usize) -> Vec<Tensor> {
    let options = CodegenOptions { verify: true, ..CodegenOptions::new(host_target()) };
    let executable = compile(&[entry(plan)], &options).unwrap_or_else(|e| panic!("{e}"));
    let host: Vec<HostTensor> = inputs.iter().map(Tensor::to_host).collect();
    let bytes: Vec<&[u8]> = host.iter().map(HostTensor::bytes).collect();
    let pool = Pool::new(threads).unwrap_or_else(|e| panic!("{e}"));
    let [mut arena, mut persistent, constants] = [plan.memory.arena_bytes, 0, 0].map(AlignedBuffer::zeroed);
    let mut scratch = AlignedBuffer::zeroed(executable.scratch_bytes(pool.threads()));
    let mut memory =
        Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
    executable.run(0, &mut memory, &bytes, &pool).unwrap_or_else(|e| panic!("{e:?}"));
    let graph = &plan.schedule.graph;
    let read = |value: Value| {
        let ty = graph.ty(value).clone();
        let place = plan.memory.places[&value];
        let segment = if let Segment::Host(k) = place.segment { bytes[k as usize] } else { arena.bytes() };
        let bytes = segment[place.offset_bytes..][..ty.size_bytes()].to_vec();
        HostTensor::new(ty, bytes).expect("the sizes agree").to_tensor()
    };
    graph.outputs().iter().map(|o| read(o.value)).collect()
}
