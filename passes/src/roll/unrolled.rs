//! An unrolled loop: copies of one step that feed each other, proven to be steps of one loop.

use super::leaves::Sequence;
use super::report::Mismatch;
use super::step::{Copy, Step};
use gradc_ir::graph::{Graph, NodeId, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// Fewest steps of a loop.
pub(super) const MIN_STEPS: usize = 4;

/// A result of a node of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Port {
    /// Position among the nodes of the step.
    pub(super) node: usize,
    /// Which result.
    pub(super) result: u16,
}

impl Port {
    fn of(self, copy: &Copy) -> Value {
        Value { node: copy.nodes[self.node], result: self.result }
    }
}

/// What a slot holds: the port as it was some steps ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    port: Port,
    /// At least 1.
    delay: usize,
}

/// A value handed from step to step: a port as it was `age` + 1 steps ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Register {
    pub(super) port: Port,
    pub(super) age: usize,
}

/// Copies of a step, each reading what those before it computed.
#[derive(Clone, Debug)]
pub(super) struct Unrolled {
    pub(super) step: Rc<Step>,
    pub(super) copies: Vec<Copy>,
    links: Rc<Vec<Link>>,
    /// What the registers hold before the first step.
    pub(super) registers: BTreeMap<Register, Value>,
    /// What the leaves are, step by step.
    pub(super) sequences: Vec<Sequence>,
    /// Ports whose last value alone is used outside, and that no register holds.
    pub(super) last: Vec<Port>,
    /// Ports that are used outside from several steps.
    pub(super) stacked: Vec<Port>,
}

/// The loops that a chain of roots is: several where the chain runs through several loops.
pub(super) fn loops(
    graph: &Graph,
    users: &[Vec<NodeId>],
    step: Step,
    chain: &[NodeId],
    sample: usize,
) -> Result<Vec<Unrolled>, Mismatch> {
    let matched: Vec<Option<Copy>> = chain.iter().map(|&root| step.matched(graph, root).ok()).collect();
    let links = Rc::new(links(&step, &matched, sample)?);
    let step = Rc::new(step);
    let mut why = Mismatch::Structure(chain[chain.len() - 1]);
    let mut found = Vec::new();
    for run in runs(matched, &links) {
        let run = extend(graph, &step, &links, run);
        match Unrolled::of(graph, users, &step, &links, run) {
            Ok(unrolled) => found.push(unrolled),
            Err(mismatch) => why = mismatch,
        }
    }
    if found.is_empty() { Err(why) } else { Ok(found) }
}

/// Where each slot's value comes from, told from the copy at `sample`.
fn links(step: &Step, matched: &[Option<Copy>], sample: usize) -> Result<Vec<Link>, Mismatch> {
    let mut made: HashMap<NodeId, (usize, usize)> = HashMap::new();
    for (at, copy) in matched[..sample].iter().enumerate() {
        for (k, &id) in copy.iter().flat_map(|c| c.nodes.iter().enumerate()) {
            made.entry(id).or_insert((at, k));
        }
    }
    let link = |value: &Value| match made.get(&value.node) {
        Some(&(at, node)) => Ok(Link { port: Port { node, result: value.result }, delay: sample - at }),
        None => Err(Mismatch::Outside(value.node)),
    };
    step.slots.iter().map(link).collect()
}

/// Longest stretches of copies that feed each other.
fn runs(matched: Vec<Option<Copy>>, links: &[Link]) -> Vec<VecDeque<Copy>> {
    let mut runs: Vec<VecDeque<Copy>> = Vec::new();
    let mut run: VecDeque<Copy> = VecDeque::new();
    let mut before = BTreeMap::new();
    for copy in matched {
        if let Some(copy) = &copy
            && holds(links, &run, copy, &mut before)
        {
            run.push_back(copy.clone());
            continue;
        }
        runs.push(std::mem::take(&mut run));
        before.clear();
        if let Some(copy) = copy {
            holds(links, &run, &copy, &mut before);
            run.push_back(copy);
        }
    }
    runs.push(run);
    runs.retain(|run| run.len() > 1);
    runs
}

/// Whether `copy` reads the run's invariants, and after it what it has to.
///
/// What it reads from before the run is noted in `before`.
fn holds(links: &[Link], run: &VecDeque<Copy>, copy: &Copy, before: &mut BTreeMap<Register, Value>) -> bool {
    let reads = |(link, &value): (&Link, &Value)| match run.len().checked_sub(link.delay) {
        Some(at) => link.port.of(&run[at]) == value,
        None => {
            let register = Register { port: link.port, age: link.delay - run.len() - 1 };
            *before.entry(register).or_insert(value) == value
        }
    };
    let same_invariants = run.front().is_none_or(|first| first.invariants == copy.invariants);
    same_invariants && links.iter().zip(&copy.slots).all(reads)
}

/// What the registers hold before the first of the copies, if these feed each other.
fn before_first(links: &[Link], run: &VecDeque<Copy>) -> Option<BTreeMap<Register, Value>> {
    let deepest = links.iter().map(|link| link.delay).max().unwrap_or(1);
    let mut before = BTreeMap::new();
    let mut seen = VecDeque::new();
    for copy in run.iter().take(deepest + 1) {
        if !holds(links, &seen, copy, &mut before) {
            return None;
        }
        seen.push_back(copy.clone());
    }
    Some(before)
}

/// Puts copies that come before the first one in front: colours that look deep do not see the first steps.
fn extend(graph: &Graph, step: &Step, links: &[Link], mut run: VecDeque<Copy>) -> VecDeque<Copy> {
    let root = Register { port: Port { node: step.root(), result: 0 }, age: 0 };
    while let Some(value) = before_first(links, &run).and_then(|before| before.get(&root).copied()) {
        let Ok(copy) = step.matched(graph, value.node) else { break };
        run.push_front(copy);
        if before_first(links, &run).is_none() {
            run.pop_front();
            break;
        }
    }
    run
}

impl Unrolled {
    /// The loop that the copies are, those left out on which what all of them read depends.
    fn of(
        graph: &Graph,
        users: &[Vec<NodeId>],
        step: &Rc<Step>,
        links: &Rc<Vec<Link>>,
        mut run: VecDeque<Copy>,
    ) -> Result<Unrolled, Mismatch> {
        while run.len() >= MIN_STEPS {
            let registers = before_first(links, &run).ok_or(Mismatch::Structure(step.nodes[step.root()]))?;
            let sequences = sequences(graph, step, &run)?;
            let entries = entries(&run[0], &registers, &sequences);
            let Some((at, id)) = leak(graph, &run, &entries) else {
                let copies = run.into();
                let (step, links) = (step.clone(), links.clone());
                let unrolled = Unrolled { step, copies, links, registers, sequences, last: vec![], stacked: vec![] };
                return Ok(unrolled.with_exits(graph, users));
            };
            if run.len() - at <= MIN_STEPS {
                return Err(Mismatch::Leak(id));
            }
            run.drain(..=at);
        }
        Err(Mismatch::Structure(step.nodes[step.root()]))
    }

    /// Steps of the loop.
    pub(super) fn count(&self) -> usize {
        self.copies.len()
    }

    /// Nodes of the graph that the loop replaces, copy by copy.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.copies.iter().flat_map(|copy| copy.nodes.iter().copied())
    }

    /// The register that a slot reads.
    pub(super) fn register(&self, slot: usize) -> Register {
        let Link { port, delay } = self.links[slot];
        Register { port, age: delay - 1 }
    }

    /// Which step and port of the loop makes a value; for all nodes of the loop.
    pub(super) fn makers(&self) -> HashMap<NodeId, (usize, usize)> {
        let mut makers = HashMap::new();
        for (at, copy) in self.copies.iter().enumerate() {
            copy.nodes.iter().enumerate().for_each(|(k, &id)| {
                makers.entry(id).or_insert((at, k));
            });
        }
        makers
    }

    /// Values from outside that all steps read.
    pub(super) fn invariants(&self) -> &[Value] {
        &self.copies[0].invariants
    }

    /// Everything that the loop reads from outside.
    pub(super) fn entries(&self) -> Vec<Value> {
        entries(&self.copies[0], &self.registers, &self.sequences)
    }

    /// Finds out which values leave the loop, and how.
    fn with_exits(mut self, graph: &Graph, users: &[Vec<NodeId>]) -> Unrolled {
        let makers = self.makers();
        let mut leaving: BTreeMap<Port, BTreeSet<usize>> = BTreeMap::new();
        let mut note = |value: &Value| {
            if let Some(&(at, node)) = makers.get(&value.node) {
                leaving.entry(Port { node, result: value.result }).or_default().insert(at);
            }
        };
        let outside: BTreeSet<NodeId> =
            self.nodes().flat_map(|id| &users[id.index()]).filter(|id| !makers.contains_key(id)).copied().collect();
        outside.iter().flat_map(|&id| &graph.node(id).operands).for_each(&mut note);
        graph.outputs().iter().for_each(|output| note(&output.value));
        for (port, steps) in leaving {
            let held = |at: &usize| self.final_register(Port { ..port }, *at).is_some();
            if steps.iter().all(held) {
                continue;
            }
            let last_only = steps.iter().all(|&at| at + 1 == self.count());
            if last_only { self.last.push(port) } else { self.stacked.push(port) }
        }
        self
    }

    /// The register that holds a port of step `at` when the loop ends.
    pub(super) fn final_register(&self, port: Port, at: usize) -> Option<Register> {
        let register = Register { port, age: self.count() - 1 - at };
        self.registers.contains_key(&register).then_some(register)
    }

    /// Bytes handed from step to step.
    pub(super) fn carried_bytes(&self, graph: &Graph) -> usize {
        let ports = self.registers.keys().map(|r| r.port).chain(self.last.iter().copied());
        ports.map(|port| self.port_bytes(graph, port)).sum()
    }

    /// Bytes of what is kept of every step.
    pub(super) fn stacked_bytes(&self, graph: &Graph) -> usize {
        self.count() * self.stacked.iter().map(|&port| self.port_bytes(graph, port)).sum::<usize>()
    }

    fn port_bytes(&self, graph: &Graph, port: Port) -> usize {
        graph.node(self.step.nodes[port.node]).types[port.result as usize].size_bytes()
    }
}

fn sequences(graph: &Graph, step: &Step, run: &VecDeque<Copy>) -> Result<Vec<Sequence>, Mismatch> {
    let sequence = |(k, &leaf)| {
        let steps: Vec<NodeId> = run.iter().map(|copy| copy.leaves[k]).collect();
        Sequence::of(graph, leaf, &steps).ok_or(Mismatch::Slices(leaf.sample()))
    };
    step.leaves.iter().enumerate().map(sequence).collect()
}

fn entries(first: &Copy, registers: &BTreeMap<Register, Value>, sequences: &[Sequence]) -> Vec<Value> {
    let sliced = sequences.iter().filter_map(|s| if let Sequence::Slices(s) = s { Some(s.source()) } else { None });
    first.invariants.iter().copied().chain(registers.values().copied()).chain(sliced).collect()
}

/// The latest copy that an entry depends on, and a node of the entry.
fn leak(graph: &Graph, run: &VecDeque<Copy>, entries: &[Value]) -> Option<(usize, NodeId)> {
    let first = run.iter().flat_map(|copy| &copy.nodes).min()?.index();
    let last = entries.iter().map(|v| v.node.index()).max().filter(|&last| last >= first)?;
    let mut latest: Vec<Option<usize>> = vec![None; last - first + 1];
    for (at, copy) in run.iter().enumerate() {
        copy.nodes.iter().filter(|id| id.index() <= last).for_each(|id| latest[id.index() - first] = Some(at));
    }
    for at in first..=last {
        let operands = graph.nodes()[at].operands.iter().filter_map(|v| v.node.index().checked_sub(first));
        let before = operands.filter_map(|k| latest[k]).max();
        latest[at - first] = latest[at - first].max(before);
    }
    let reached = entries.iter().filter(|v| v.node.index() >= first);
    reached.filter_map(|v| Some((latest[v.node.index() - first]?, v.node))).max()
}
