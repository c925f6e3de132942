//! Partial evaluation of a body's derivative: what follows from forward values alone, and the rest.

use super::activity::Activity;
use super::extract::{extract, needed};
use super::min_cut::{Rules, handed_over};
use super::{LoopPolicies, merge_loops};
use crate::differentiate::{dependents, pull_back};
use crate::recompute::{MOST_OPERATIONS, is_long};
use crate::schedule::{Form, Forms, operations};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Function, Graph, NodeId, OutputKind, Value};
use gradc_ir::ops::Scan;
use gradc_ir::types::{DType, TypeError};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which forward values are made again rather than kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// What takes a few operations per element.
    Cheap,
    /// Whatever saves bytes.
    Anything,
}

/// A body and its derivative in one graph.
pub(super) struct Joint {
    /// The graph; its outputs are the gradients that are there.
    pub graph: Graph,
    /// The body's arguments.
    arguments: Vec<Value>,
    /// The body's results.
    results: Vec<Value>,
    /// Cotangents of the seeds.
    cotangents: Vec<Value>,
    /// What gradients of sums start from.
    sums: Vec<Value>,
    /// Gradients of the wanted arguments.
    pub gradients: Vec<Option<Value>>,
}

impl Joint {
    /// `seeds` are the results that have cotangents; gradients of the arguments `sums` are added to what is handed in.
    pub fn new(body: &Graph, seeds: &[usize], wanted: &[usize], sums: &[usize]) -> Result<Self, Diagnostic> {
        let mut b = Builder::new(&body.name);
        let ill_typed = |e| Diagnostic::from_type_error("internal-vjp", e, Loc::default());
        let declare = |b: &mut Builder, prefix: &str, values: &[Value]| {
            let declare = |(k, &v): (usize, &Value)| b.input(&format!("{prefix}{k}"), body.ty(v).clone());
            values.iter().enumerate().map(declare).collect::<Result<Vec<_>, _>>().map_err(ill_typed)
        };
        let inputs: Vec<Value> = body.inputs().iter().map(|i| i.value).collect();
        let outputs: Vec<Value> = body.outputs().iter().map(|o| o.value).collect();
        let pick = |of: &[Value], which: &[usize]| which.iter().map(|&k| of[k]).collect::<Vec<_>>();
        let arguments = declare(&mut b, "x", &inputs)?;
        let results = b.inline(body, &arguments).map_err(ill_typed)?;
        let cotangents = declare(&mut b, "dy", &pick(&outputs, seeds))?;
        let summed = declare(&mut b, "sum", &pick(&inputs, sums))?;
        let seeds: Vec<_> = pick(&results, seeds).into_iter().zip(cotangents.iter().copied()).collect();
        let starts: Vec<_> = pick(&arguments, sums).into_iter().zip(summed.iter().copied()).collect();
        let gradients = pull_back(&mut b, &seeds, &starts, &pick(&arguments, wanted), &LoopPolicies::new())?;
        gradients.iter().flatten().for_each(|&g| b.output("dx", g, OutputKind::Result));
        Ok(Joint { graph: b.finish(), arguments, results, cotangents, sums: summed, gradients })
    }

    /// Which nodes depend on no cotangent.
    fn forward(&self) -> Vec<bool> {
        let given: Vec<Value> = self.cotangents.iter().chain(&self.sums).copied().collect();
        dependents(&self.graph, &given).into_iter().map(|depends| !depends).collect()
    }

    /// Forward values that gradients are computed from.
    fn read(&self, forward: &[bool]) -> BTreeSet<Value> {
        let (live, is_forward) = (self.graph.live(), |v: &&Value| forward[v.node.index()]);
        let backward = self.graph.node_ids().filter(|id| live[id.index()] && !forward[id.index()]);
        let operands = backward.flat_map(|id| &self.graph.node(id).operands);
        operands.chain(self.gradients.iter().flatten()).filter(is_forward).copied().collect()
    }
}

/// Where a backward step finds a forward value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Residual {
    /// Among the results of [`Split::forward`].
    Result(usize),
    /// The carry that the step returned: what the step after it started from, which is kept for that step.
    NextCarry(usize),
}

/// A body and its derivative, apart.
#[derive(Clone)]
pub(super) struct Split {
    /// `(x…) → (y…, more…)`: the body with further results.
    pub forward: Function,
    /// What the derivative reads of the forward pass besides arguments.
    pub residuals: Vec<Residual>,
    /// The arguments that the derivative reads, ascending; no carries.
    pub arguments: Vec<usize>,
    /// `(residuals…, arguments…, dy…, sums…) → (dx…)`, one `dy` per seed, one sum per constant that a gradient reaches,
    /// one `dx` per argument that one reaches.
    pub backward: Function,
    /// `(x…) → (booleans…)`: what the derivative selects by and depends on a carry.
    pub kinks: Function,
}

impl Split {
    /// Splits the derivative of one step of a loop.
    pub fn new(scan: &Scan, activity: &Activity, again: Again) -> Result<Self, TypeError> {
        let joint = Joint::new(&scan.body, &activity.seeds, &activity.reached, &activity.consts(scan));
        let joint = joint.map_err(|d| TypeError::new(d.to_string()))?;
        let kept = kept_values(scan, &joint, again);
        let (residuals, more) = residuals(scan, &joint, &kept);
        let gradients: Vec<Value> = joint.gradients.iter().flatten().copied().collect();
        let free = (scan.carries..joint.arguments.len()).map(|k| (k, joint.arguments[k]));
        let given = kept.iter().chain(&joint.cotangents).chain(&joint.sums).copied().collect();
        let needed = needed(&joint.graph, &given, &gradients);
        let is_read = |v: Value| needed[v.node.index()] || gradients.contains(&v);
        let (arguments, read): (Vec<usize>, Vec<Value>) = free.filter(|&(_, v)| is_read(v)).unzip();
        let name = format!("{} backward", scan.body.name);
        let given = [&kept[..], &read, &joint.cotangents, &joint.sums].concat();
        let forward = extract(&scan.body.name, &joint.graph, &joint.arguments, &[&joint.results[..], &more].concat())?;
        let backward = extract(&name, &joint.graph, &given, &gradients)?;
        let kinks = extract("kinks", &joint.graph, &joint.arguments, &kinks(scan, &joint))?;
        Ok(Split { kinks, forward: Arc::new(merge_loops(&forward)?), residuals, arguments, backward })
    }
}

/// The booleans that the derivative selects by and that depend on a carry.
fn kinks(scan: &Scan, joint: &Joint) -> Vec<Value> {
    let varying = dependents(&joint.graph, &joint.arguments[..scan.carries]);
    let is_kink = |v: &Value| varying[v.node.index()] && joint.graph.ty(*v).dtype == DType::Bool;
    joint.read(&joint.forward()).into_iter().filter(is_kink).collect()
}

/// The forward values that the derivative is handed.
fn kept_values(scan: &Scan, joint: &Joint, again: Again) -> Vec<Value> {
    let (graph, forward) = (&joint.graph, joint.forward());
    let (forms, varying) = (Forms::row_major(graph), dependents(graph, &joint.arguments[..first_const(scan)]));
    let read = joint.read(&forward);
    // Stacked results are there anyway, and so is what a step returns where the next one's carry is kept.
    let handed_on = (0..scan.carries).filter(|&k| read.contains(&joint.arguments[k])).map(|k| joint.results[k]);
    let rules = Rules {
        forward: &forward,
        withheld: joint.arguments[..scan.carries].iter().copied().collect(),
        kept: handed_on.chain(joint.results[scan.carries..].iter().copied()).collect(),
        again: &|id| again == Again::Anything || !varying[id.index()] || is_cheap(&forms, id),
    };
    handed_over(graph, &rules, &read).into_iter().collect()
}

fn first_const(scan: &Scan) -> usize {
    scan.carries + scan.scanned
}

/// Whether a node takes a few operations per element.
fn is_cheap(forms: &Forms, id: NodeId) -> bool {
    match forms.get(id) {
        Form::Alias(_) => true,
        Form::Map(nest) => {
            !nest.body.scalars.iter().any(|(s, _)| is_long(s)) && operations(&nest.body) <= MOST_OPERATIONS
        }
        _ => false,
    }
}

/// Where each kept value is found, and what the body has to return for it besides its own results.
fn residuals(scan: &Scan, joint: &Joint, kept: &[Value]) -> (Vec<Residual>, Vec<Value>) {
    let mut more: Vec<Value> = vec![];
    let results = &joint.results;
    let mut find = |value: &Value| {
        let next = results[..scan.carries].iter().position(|v| v == value);
        let next = next.filter(|&k| kept.contains(&joint.arguments[k]));
        let stacked = || (scan.carries..results.len()).find(|&k| results[k] == *value);
        match (stacked(), next) {
            (Some(result), _) => Residual::Result(result),
            (None, Some(carry)) => Residual::NextCarry(carry),
            (None, None) => {
                more.push(*value);
                Residual::Result(results.len() + more.len() - 1)
            }
        }
    };
    let found = kept.iter().map(&mut find).collect();
    (found, more)
}
