//! Maps of many instructions in stages: what a group makes one after the other as steps of a row kernel.
//!
//! A processor works on as many points at a time as it has room for instructions under way. Where one point takes most of
//! that room, it waits for each result in turn: the gates of a recurrent cell take twice the time of their functions.
//! Stages of fewer instructions leave room for several points; what one stores, the next finds in the cache.

use super::fuse::Partition;
use super::rows::{loops_of, run_by_rows, step_kernel};
use gradc_ir::graph::NodeId;
use gradc_ir::kernel::Kernel;
use gradc_ir::lower::{BinaryFn, Scalar, UnaryFn};
use std::collections::BTreeSet;

/// Instructions of a stage: of four points there are as many under way as a processor reorders.
const STAGE_INSTRUCTIONS: usize = 64;

/// Instructions of a map from which on it is cut.
const MANY_INSTRUCTIONS: usize = 2 * STAGE_INSTRUCTIONS;

/// Cuts groups that are large maps into stages of those nodes that are stored anyway.
pub(super) fn cut_into_stages(partition: &mut Partition) {
    for id in partition.forms.graph.node_ids() {
        let members = &partition.members[id.index()];
        let single = partition.steps[id.index()].is_empty() && members.len() > 1;
        if single
            && instructions(partition, members) >= Some(MANY_INSTRUCTIONS)
            && let Some(stages) = stages(partition, members)
        {
            partition.steps[id.index()] = stages;
        }
    }
}

/// The members of each stage; `None` where the steps do not fit together.
fn stages(partition: &Partition, members: &BTreeSet<NodeId>) -> Option<Vec<BTreeSet<NodeId>>> {
    let mut stages: Vec<BTreeSet<NodeId>> = vec![];
    for &member in members {
        let last = stages.last().map(|stage| stage | &BTreeSet::from([member]));
        match last.filter(|grown| instructions(partition, grown) <= Some(STAGE_INSTRUCTIONS)) {
            Some(grown) => *stages.last_mut().expect("it has grown") = grown,
            None => stages.push(BTreeSet::from([member])),
        }
    }
    let kernels = stages.iter().map(|stage| map_kernel(partition, stage)).collect::<Option<Vec<_>>>()?;
    (stages.len() > 1 && run_by_rows(partition.forms, &kernels)).then_some(stages)
}

/// The kernel of members that only map.
fn map_kernel(partition: &Partition, members: &BTreeSet<NodeId>) -> Option<Kernel> {
    let kernel = step_kernel(partition.forms, &partition.group(members))?;
    loops_of(&kernel).is_some_and(|loops| loops.accumulate.is_none()).then_some(kernel)
}

/// Instructions per vector of points of a map.
fn instructions(partition: &Partition, members: &BTreeSet<NodeId>) -> Option<usize> {
    let kernel = map_kernel(partition, members)?;
    let loops = loops_of(&kernel)?;
    Some(loops.stores.len() + loops.body.scalars.iter().map(|(s, _)| instructions_of(s)).sum::<usize>())
}

/// About how many instructions code generation makes of a scalar.
fn instructions_of(scalar: &Scalar) -> usize {
    match scalar {
        Scalar::Const(_) | Scalar::LoopIndex(_) | Scalar::Accumulated(_) => 0,
        Scalar::Unary(UnaryFn::Exp, _) => 23,
        Scalar::Unary(UnaryFn::Log, _) => 32,
        Scalar::Unary(UnaryFn::Tanh, _) => 38,
        Scalar::Unary(UnaryFn::Erf, _) => 45,
        Scalar::Unary(UnaryFn::Sin | UnaryFn::Cos, _) => 60,
        Scalar::Binary(BinaryFn::Pow | BinaryFn::Rem, ..) => 100,
        _ => 1,
    }
}
