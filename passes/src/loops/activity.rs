//! Which gradients a loop carries from step to step.

use super::split::Joint;
use crate::differentiate::dependents;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Graph, Value};
use gradc_ir::op::VjpContext;
use gradc_ir::ops::Scan;
use std::collections::BTreeSet;

/// Which results and arguments of a body have cotangents that are not symbolically zero.
pub(super) struct Activity {
    /// Results that have a cotangent in some step, ascending; next carries come before stacked results.
    pub seeds: Vec<usize>,
    /// Arguments that a gradient reaches among those that lead to something wanted, ascending.
    pub reached: Vec<usize>,
}

impl Activity {
    /// Follows cotangents from step to step until no further carry has one.
    ///
    /// Fails where an op without a derivative stands in their way.
    pub fn new(scan: &Scan, cx: &VjpContext) -> Result<Self, Diagnostic> {
        let wanted = wanted_arguments(scan, cx);
        let is_seed = |k: &usize| cx.cotangents[*k].is_some() && (*k >= scan.carries || wanted.contains(k));
        let mut seeds: BTreeSet<usize> = (0..cx.cotangents.len()).filter(is_seed).collect();
        loop {
            let in_order: Vec<usize> = seeds.iter().copied().collect();
            let reached = reached(&scan.body, &in_order, &wanted)?;
            let before = seeds.len();
            seeds.extend(reached.iter().filter(|&&k| k < scan.carries));
            if seeds.len() == before {
                return Ok(Activity { seeds: in_order, reached });
            }
        }
    }

    /// Seeds among the carries.
    pub fn carries(&self, scan: &Scan) -> Vec<usize> {
        self.seeds.iter().copied().filter(|&k| k < scan.carries).collect()
    }

    /// Seeds among the stacked results.
    pub fn stacked(&self, scan: &Scan) -> Vec<usize> {
        self.seeds.iter().copied().filter(|&k| k >= scan.carries).collect()
    }

    /// Scanned operands that a gradient reaches.
    pub fn scanned(&self, scan: &Scan) -> Vec<usize> {
        let range = scan.carries..scan.carries + scan.scanned;
        self.reached.iter().copied().filter(|k| range.contains(k)).collect()
    }

    /// Constants that a gradient reaches.
    pub fn consts(&self, scan: &Scan) -> Vec<usize> {
        self.reached.iter().copied().filter(|&k| k >= scan.carries + scan.scanned).collect()
    }
}

/// Float arguments of the body that depend on a wanted operand in some step.
fn wanted_arguments(scan: &Scan, cx: &VjpContext) -> Vec<usize> {
    let body = &scan.body;
    let is_float = |k: usize| body.ty(body.inputs()[k].value).dtype.is_float();
    let mut wanted: Vec<bool> = (0..cx.inputs.len()).map(|k| cx.wants(k) && is_float(k)).collect();
    loop {
        let before = wanted.clone();
        let depends = dependents(body, &arguments(body, &wanted));
        for k in 0..scan.carries {
            wanted[k] |= is_float(k) && depends[body.outputs()[k].value.node.index()];
        }
        if wanted == before {
            return (0..wanted.len()).filter(|&k| wanted[k]).collect();
        }
    }
}

fn arguments(body: &Graph, which: &[bool]) -> Vec<Value> {
    body.inputs().iter().zip(which).filter(|&(_, &which)| which).map(|(input, _)| input.value).collect()
}

/// Which of the wanted arguments one step's gradient reaches.
fn reached(body: &Graph, seeds: &[usize], wanted: &[usize]) -> Result<Vec<usize>, Diagnostic> {
    let joint = Joint::new(body, seeds, wanted, &[])?;
    Ok(wanted.iter().zip(&joint.gradients).filter(|(_, gradient)| gradient.is_some()).map(|(&k, _)| k).collect())
}
