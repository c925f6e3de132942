//! Ordering groups so that the bytes alive at any time are few.

use super::forms::{Form, Forms};
use super::rows::overwritable_rows;
use super::{identity_reads, kernels, tokens};
use crate::memory::{Outside, Storage, region_live_bytes};
use gradc_ir::graph::{NodeId, OutputKind, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind};
use gradc_ir::lower::Scalar;
use gradc_ir::plan::{Action, Group, RegionSchedule};
use std::collections::{BTreeMap, BTreeSet};

/// How far greedy orders look ahead, in steps; the best order is taken.
///
/// What is made again for one reader only grows what is alive until that reader has run.
const LOOKAHEADS: [usize; 2] = [0, 3];

/// How groups are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// As the graph was built: forward, backward, updates.
    Program,
    /// Greedily, always the ready group that leaves the fewest bytes alive; never worse than [`Ordering::Program`].
    #[default]
    Memory,
}

/// Most bytes alive at once, for both orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peaks {
    /// In program order, bytes.
    pub program_bytes: usize,
    /// In the order chosen, bytes.
    pub chosen_bytes: usize,
}

/// A group or the check of a value, with what it reads and makes.
pub(crate) struct Step {
    pub action: Action,
    /// Stored values read, inputs included.
    pub reads: BTreeSet<Value>,
    /// Values made.
    pub writes: Vec<Value>,
    /// Steps that must come before.
    pub after: BTreeSet<usize>,
}

/// Orders groups, with checks before every update.
pub(super) fn order(
    forms: &Forms,
    groups: Vec<Group>,
    regions: BTreeMap<NodeId, RegionSchedule>,
    ordering: Ordering,
) -> (Vec<Action>, Peaks) {
    let work_bytes = regions.iter().map(|(&node, region)| (node, region_live_bytes(forms, region))).collect();
    let outside = Outside { placed: BTreeSet::new(), work_bytes };
    let steps = steps(forms, groups, regions);
    let live_bytes = |actions: &[Action]| Storage::new(forms, actions, &outside).live_bytes();
    let actions = |order: Vec<usize>| order.into_iter().map(|k| steps[k].action.clone()).collect::<Vec<_>>();
    let mut chosen = actions(program_order(&steps));
    let program_bytes = live_bytes(&chosen);
    let mut chosen_bytes = program_bytes;
    for lookahead in LOOKAHEADS.into_iter().filter(|_| ordering == Ordering::Memory) {
        let greedy = actions(greedy_order(forms, &steps, lookahead));
        let bytes = live_bytes(&greedy);
        if bytes < chosen_bytes {
            (chosen, chosen_bytes) = (greedy, bytes);
        }
    }
    (chosen, Peaks { program_bytes, chosen_bytes })
}

fn steps(forms: &Forms, groups: Vec<Group>, mut regions: BTreeMap<NodeId, RegionSchedule>) -> Vec<Step> {
    let graph = forms.graph;
    let mut steps: Vec<Step> = Vec::with_capacity(groups.len());
    for group in groups {
        steps.push(match regions.remove(&group.nodes[0]) {
            Some(region) => region_step(forms, group, region),
            None => group_step(forms, group),
        });
    }
    let checked = graph.outputs().iter().filter(|o| o.kind == OutputKind::Checked).map(|o| forms.root(o.value));
    for value in checked.collect::<BTreeSet<_>>() {
        steps.push(Step {
            action: Action::CheckFinite(value),
            reads: BTreeSet::from([value]),
            writes: vec![],
            after: BTreeSet::new(),
        });
    }
    add_data_edges(&mut steps);
    add_token_edges(forms, &mut steps);
    for (input, update) in in_place_candidates(forms) {
        try_in_place(&mut steps, input, update);
    }
    steps
}

fn group_step(forms: &Forms, group: Group) -> Step {
    let made: BTreeSet<Value> = group.stored.iter().copied().collect();
    let operands = kernels::kernels(forms, &group).into_iter().flat_map(|k| k.operands);
    let reads = operands.filter(|v| !made.contains(v)).collect();
    Step { writes: group.stored.clone(), action: Action::Run(group), reads, after: BTreeSet::new() }
}

fn region_step(forms: &Forms, group: Group, region: RegionSchedule) -> Step {
    Step {
        reads: kernels::roots(forms, region.node).into_iter().collect(),
        writes: group.stored,
        action: Action::Region(region),
        after: BTreeSet::new(),
    }
}

fn add_data_edges(steps: &mut [Step]) {
    let maker: BTreeMap<Value, usize> =
        steps.iter().enumerate().flat_map(|(k, s)| s.writes.iter().map(move |&v| (v, k))).collect();
    for step in steps {
        step.after = step.reads.iter().filter_map(|v| maker.get(v).copied()).collect();
    }
}

/// Lets steps wait for the tokens of the barriers they read through.
fn add_token_edges(forms: &Forms, steps: &mut [Step]) {
    let nodes = |step: &Step| match &step.action {
        Action::Run(group) => group.nodes.clone(),
        Action::Region(region) => vec![region.node],
        Action::CheckFinite(_) => vec![],
    };
    let maker: BTreeMap<NodeId, usize> =
        steps.iter().enumerate().flat_map(|(k, s)| nodes(s).into_iter().map(move |node| (node, k))).collect();
    for (at, step) in steps.iter_mut().enumerate() {
        let waits = tokens(forms, &nodes(step)).into_iter().filter_map(|node| maker.get(&node).copied());
        step.after.extend(waits.filter(|&k| k != at));
    }
}

/// Updates that could be written over the tensor they replace: (the input's value, the stored next value).
pub(crate) fn in_place_candidates(forms: &Forms) -> Vec<(Value, Value)> {
    let graph = forms.graph;
    let mut used = BTreeSet::new();
    let mut candidates = Vec::new();
    for output in graph.outputs() {
        let OutputKind::Update(id) = output.kind else { continue };
        let next = forms.root(output.value);
        if graph.input_of(next).is_none() && used.insert(next) {
            candidates.push((graph.inputs()[id.index()].value, next));
        }
    }
    candidates
}

/// Lets the update run after every other reader of the old value and after all checks, unless that would be a cycle.
fn try_in_place(steps: &mut [Step], old: Value, next: Value) -> bool {
    let Some(writer) = steps.iter().position(|s| s.writes.contains(&next)) else { return false };
    let must_precede = |s: &Step| s.reads.contains(&old) || matches!(s.action, Action::CheckFinite(_));
    let before: BTreeSet<usize> = (0..steps.len()).filter(|&k| k != writer && must_precede(&steps[k])).collect();
    if before.iter().any(|&k| reaches(steps, writer, k)) {
        return false;
    }
    steps[writer].after.extend(before);
    true
}

/// Whether `to` must come after `from`.
fn reaches(steps: &[Step], from: usize, to: usize) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![to]);
    while let Some(step) = open.pop() {
        if step == from {
            return true;
        }
        open.extend(steps[step].after.iter().copied().filter(|&s| seen.insert(s)));
    }
    false
}

fn program_order(steps: &[Step]) -> Vec<usize> {
    pick_order(steps, |ready, _| ready.iter().copied().next())
}

/// An order in the making.
struct Partial<'a> {
    steps: &'a [Step],
    /// The steps taken so far.
    order: Vec<usize>,
    /// For each step, how many it waits for.
    missing: Vec<usize>,
    /// For each step, those that wait for it.
    followers: Vec<Vec<usize>>,
}

/// Repeats: take a ready step as `pick` says, until all are taken.
fn pick_order(steps: &[Step], mut pick: impl FnMut(&BTreeSet<usize>, &Partial) -> Option<usize>) -> Vec<usize> {
    let missing: Vec<usize> = steps.iter().map(|s| s.after.len()).collect();
    let mut followers = vec![Vec::new(); steps.len()];
    steps.iter().enumerate().for_each(|(k, s)| s.after.iter().for_each(|&b| followers[b].push(k)));
    let mut ready: BTreeSet<usize> = (0..steps.len()).filter(|&k| missing[k] == 0).collect();
    let mut state = Partial { steps, order: Vec::with_capacity(steps.len()), missing, followers };
    while let Some(next) = pick(&ready, &state) {
        ready.remove(&next);
        state.order.push(next);
        for &follower in &state.followers[next] {
            state.missing[follower] -= 1;
            if state.missing[follower] == 0 {
                ready.insert(follower);
            }
        }
    }
    state.order
}

/// Takes the ready step that leaves the fewest bytes alive, alone or with the steps that follow from it.
fn greedy_order(forms: &Forms, steps: &[Step], lookahead: usize) -> Vec<usize> {
    let mut live = Liveness::new(forms, steps);
    pick_order(steps, |ready, state| {
        if let Some(&last) = state.order.last() {
            live.run(&steps[last]);
        }
        ready.iter().copied().min_by_key(|&k| (live.net_growth_bytes(state, k, lookahead), k))
    })
}

/// Which intermediate values are alive as steps run.
struct Liveness<'a> {
    forms: &'a Forms<'a>,
    readers_left: BTreeMap<Value, usize>,
}

impl<'a> Liveness<'a> {
    fn new(forms: &'a Forms<'a>, steps: &[Step]) -> Self {
        let mut readers_left: BTreeMap<Value, usize> = BTreeMap::new();
        steps.iter().flat_map(|s| &s.reads).for_each(|&v| *readers_left.entry(v).or_default() += 1);
        for output in forms.graph.outputs().iter().filter(|o| !matches!(o.kind, OutputKind::Update(_))) {
            *readers_left.entry(forms.root(output.value)).or_default() += 1;
        }
        Liveness { forms, readers_left }
    }

    fn freed_bytes(&self, step: &Step) -> usize {
        let last_read = |v: &&Value| self.readers_left.get(v) == Some(&1) && self.forms.graph.input_of(**v).is_none();
        step.reads.iter().filter(last_read).map(|v| self.forms.graph.ty(*v).size_bytes()).sum()
    }

    fn made_bytes(&self, step: &Step) -> usize {
        let is_read = |v: &&Value| self.readers_left.contains_key(v);
        step.writes.iter().filter(is_read).map(|v| self.forms.graph.ty(*v).size_bytes()).sum()
    }

    fn growth_bytes(&self, step: &Step) -> isize {
        self.made_bytes(step) as isize - self.freed_bytes(step) as isize
    }

    /// Bytes by which a step and, where that is better, up to `lookahead` steps that it makes ready one after the other
    /// grow what is alive.
    fn net_growth_bytes(&mut self, state: &Partial, step: usize, lookahead: usize) -> isize {
        let own = self.growth_bytes(&state.steps[step]);
        let next = state.followers[step].iter().filter(|&&f| state.missing[f] == 1);
        let next: Vec<usize> = if lookahead > 0 { next.copied().collect() } else { vec![] };
        if next.is_empty() {
            return own;
        }
        self.run(&state.steps[step]);
        let best = next.iter().map(|&f| self.net_growth_bytes(state, f, lookahead - 1)).min();
        self.undo(&state.steps[step]);
        own + best.unwrap_or(0).min(0)
    }

    /// Runs a step.
    fn run(&mut self, step: &Step) {
        step.reads.iter().for_each(|v| {
            self.readers_left.entry(*v).and_modify(|n| *n -= 1);
        });
    }

    /// Takes the last run of a step back.
    fn undo(&mut self, step: &Step) {
        step.reads.iter().for_each(|v| {
            self.readers_left.entry(*v).and_modify(|n| *n += 1);
        });
    }
}

/// Pairs of a result and a value of the same size that it may be written over, if that is not needed any more.
pub(crate) fn overwritable(forms: &Forms, action: &Action) -> Vec<(Value, Value)> {
    match action {
        Action::CheckFinite(_) => vec![],
        Action::Region(region) => carried(forms, region.node),
        Action::Run(group) if !group.steps.is_empty() => {
            let Kernel { kind, operands, results } = kernels::kernels(forms, group).remove(0);
            let KernelKind::Rows(rows) = &kind else { unreachable!("steps run by rows") };
            overwritable_rows(rows, &operands, &results)
        }
        Action::Run(group) => {
            let free = read_pointwise(forms, group);
            group.stored.iter().flat_map(|&result| free.iter().map(move |&value| (result, value))).collect()
        }
    }
}

/// The final carries of a region and the operands they start from, where it reads these for nothing else: carries that
/// start from the same are moved to their places before the first step, so one of them may take it over.
fn carried(forms: &Forms, id: NodeId) -> Vec<(Value, Value)> {
    let Form::Region(form) = forms.get(id) else { return vec![] };
    let operands = kernels::roots(forms, id);
    let carries = form.carries();
    let read_otherwise = |v: &Value| (0..operands.len()).any(|k| operands[k] == *v && !carries.contains(&k));
    let taken_over = carries.clone().filter(|&k| !read_otherwise(&operands[k]));
    taken_over.map(|k| (Value { node: id, result: k as u16 }, operands[k])).collect()
}

/// Values a group's kernel may overwrite with a result of the same size: read only at the point itself, and not while
/// accumulating; the base of a scatter, which is updated where it lies.
fn read_pointwise(forms: &Forms, group: &Group) -> Vec<Value> {
    let mut all = kernels::kernels(forms, group);
    let (1, Some(kernel)) = (all.len(), all.pop()) else { return vec![] };
    let loops = match &kernel.kind {
        KernelKind::Loops(loops) => loops,
        KernelKind::Scatter(_) => return base_of_scatter(&kernel).into_iter().collect(),
        KernelKind::Rows(_) | KernelKind::Lines(_) => return vec![],
    };
    let accumulated = accumulated_operands(loops.accumulate.as_ref());
    let pointwise = identity_reads(&kernel, &loops.space);
    pointwise.into_iter().filter(|v| !accumulated.iter().any(|&k| kernel.operands[k] == *v)).collect()
}

/// The base of a scatter, unless updates are computed from it.
fn base_of_scatter(kernel: &Kernel) -> Option<Value> {
    let (&base, others) = kernel.operands.split_first()?;
    (!others.contains(&base)).then_some(base)
}

fn accumulated_operands(accumulate: Option<&Accumulate>) -> Vec<usize> {
    match accumulate {
        None => vec![],
        Some(Accumulate::Contract(c)) => vec![c.lhs.operand, c.rhs.operand],
        Some(Accumulate::Reduce { body, .. }) => body
            .scalars
            .iter()
            .filter_map(|(s, _)| match s {
                Scalar::Load(access) => Some(access.operand),
                _ => None,
            })
            .collect(),
    }
}
