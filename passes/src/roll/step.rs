//! One step of a loop as a pattern, and the places where a graph repeats it.

use super::leaves::Leaf;
use super::report::Mismatch;
use gradc_ir::graph::{Graph, NodeId, Value};
use std::collections::{BTreeMap, HashMap};

/// Where a node of a step finds an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A result of an earlier node of the same step.
    Inner(usize, u16),
    /// A value that is the same for all steps of a loop.
    Invariant(usize),
    /// A value from an earlier step, or from before the loop.
    Slot(usize),
    /// A leaf, of which every step has its own.
    Leaf(usize),
}

/// The pattern of a step.
///
/// A [`Copy`] that matches it computes what the pattern computes, from the copy's invariants, slots and leaves.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Nodes of one copy, ascending; the last is the root, on which no other depends.
    pub(super) nodes: Vec<NodeId>,
    /// Where each node's operands come from.
    pub(super) sources: Vec<Vec<Source>>,
    /// What that copy reads as all others of its loop do.
    pub(super) invariants: Vec<Value>,
    /// What that copy reads from before it.
    pub(super) slots: Vec<Value>,
    /// What that copy has of its own.
    pub(super) leaves: Vec<Leaf>,
}

/// A place where a graph repeats a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Its node for each node of the step.
    pub(super) nodes: Vec<NodeId>,
    /// Its value for each invariant.
    pub(super) invariants: Vec<Value>,
    /// Its value for each slot.
    pub(super) slots: Vec<Value>,
    /// Its node for each leaf.
    pub(super) leaves: Vec<NodeId>,
}

/// How operands of two nodes relate that stand at the same place of neighbouring copies.
enum Relation {
    Same,
    Inner,
    Earlier,
    Leaf(Leaf),
}

/// Since which of several nodes, each depending on the one before, a node is needed; they themselves included.
struct Ages(Vec<u8>);

/// Not needed by any of the nodes.
const NEVER: u8 = u8::MAX;

impl Ages {
    fn of(graph: &Graph, chain: &[NodeId]) -> Ages {
        let mut ages = vec![NEVER; graph.nodes().len()];
        for (age, &root) in chain.iter().enumerate() {
            let mut open = vec![root];
            while let Some(id) = open.pop() {
                if ages[id.index()] == NEVER {
                    ages[id.index()] = age as u8;
                    open.extend(graph.node(id).operands.iter().map(|v| v.node));
                }
            }
        }
        Ages(ages)
    }

    fn get(&self, id: NodeId) -> u8 {
        self.0[id.index()]
    }
}

/// Age of what belongs to the copy before the last of a chain of three, and to the last.
const OLD: u8 = 1;
const NEW: u8 = 2;

impl Step {
    /// The step between neighbouring members of a chain: what the last needs and the one before does not.
    ///
    /// The last two members are compared in lock-step; `chain[0]` tells where the copy before the last begins.
    pub(super) fn between(graph: &Graph, chain: [NodeId; 3]) -> Result<Step, Mismatch> {
        let ages = Ages::of(graph, &chain);
        let [_, old, new] = chain;
        equal_ops(graph, old, new)?;
        let mut partners: BTreeMap<NodeId, NodeId> = BTreeMap::from([(new, old)]);
        let mut open = vec![new];
        while let Some(q) = open.pop() {
            for (x, y) in operand_pairs(graph, partners[&q], q) {
                if !matches!(relate(graph, &ages, x, y)?, Relation::Inner) {
                    continue;
                }
                match partners.insert(y.node, x.node) {
                    None => open.push(y.node),
                    Some(known) if known == x.node => {}
                    Some(_) => return Err(Mismatch::Structure(y.node)),
                }
            }
        }
        Step::assemble(graph, &ages, &partners)
    }

    fn assemble(graph: &Graph, ages: &Ages, partners: &BTreeMap<NodeId, NodeId>) -> Result<Step, Mismatch> {
        let nodes: Vec<NodeId> = partners.keys().copied().collect();
        let position: HashMap<NodeId, usize> = nodes.iter().enumerate().map(|(k, &id)| (id, k)).collect();
        let mut step = Step { nodes, sources: vec![], invariants: vec![], slots: vec![], leaves: vec![] };
        for (&q, &p) in partners {
            let mut sources = Vec::new();
            for (x, y) in operand_pairs(graph, p, q) {
                sources.push(match relate(graph, ages, x, y)? {
                    Relation::Same => Source::Invariant(index_of(&mut step.invariants, y)),
                    Relation::Inner => Source::Inner(position[&y.node], y.result),
                    Relation::Earlier => Source::Slot(index_of(&mut step.slots, y)),
                    Relation::Leaf(leaf) => Source::Leaf(index_of(&mut step.leaves, leaf)),
                });
            }
            step.sources.push(sources);
        }
        Ok(step)
    }

    /// Position of the root among the nodes.
    pub(super) fn root(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The copy with the given root, if there is one: the proof that it computes what the step computes.
    pub(super) fn matched(&self, graph: &Graph, root: NodeId) -> Result<Copy, Mismatch> {
        let mut found = Found {
            nodes: vec![None; self.nodes.len()],
            invariants: vec![None; self.invariants.len()],
            slots: vec![None; self.slots.len()],
            leaves: vec![None; self.leaves.len()],
        };
        let mut open = vec![(self.root(), root)];
        while let Some((k, id)) = open.pop() {
            if set(&mut found.nodes, k, id, id)? {
                continue;
            }
            equal_ops(graph, self.nodes[k], id)?;
            for (source, &value) in self.sources[k].iter().zip(&graph.node(id).operands) {
                open.extend(self.operand(graph, *source, value, id, &mut found)?);
            }
        }
        found.complete(root)
    }

    /// Checks the operand `value` of `user`; answers with the inner node that it has to be.
    fn operand(
        &self,
        graph: &Graph,
        source: Source,
        value: Value,
        user: NodeId,
        found: &mut Found,
    ) -> Result<Option<(usize, NodeId)>, Mismatch> {
        let fits = match source {
            Source::Inner(k, result) if result == value.result => return Ok(Some((k, value.node))),
            Source::Inner(..) => false,
            Source::Invariant(k) => {
                set(&mut found.invariants, k, value, user)?;
                graph.ty(self.invariants[k]) == graph.ty(value)
            }
            Source::Slot(slot) => {
                set(&mut found.slots, slot, value, user)?;
                graph.ty(self.slots[slot]) == graph.ty(value)
            }
            Source::Leaf(leaf) => {
                set(&mut found.leaves, leaf, value.node, user)?;
                self.leaves[leaf].admits(graph, value.node)
            }
        };
        if fits { Ok(None) } else { Err(Mismatch::Structure(user)) }
    }
}

/// A copy being matched.
struct Found {
    nodes: Vec<Option<NodeId>>,
    invariants: Vec<Option<Value>>,
    slots: Vec<Option<Value>>,
    leaves: Vec<Option<NodeId>>,
}

impl Found {
    fn complete(self, root: NodeId) -> Result<Copy, Mismatch> {
        let copy = || {
            Some(Copy {
                nodes: all(self.nodes)?,
                invariants: all(self.invariants)?,
                slots: all(self.slots)?,
                leaves: all(self.leaves)?,
            })
        };
        copy().ok_or(Mismatch::Structure(root))
    }
}

fn all<T>(places: Vec<Option<T>>) -> Option<Vec<T>> {
    places.into_iter().collect()
}

/// Notes that place `at` holds `value`; whether it was known. Fails when the place holds something else.
fn set<T: PartialEq>(places: &mut [Option<T>], at: usize, value: T, user: NodeId) -> Result<bool, Mismatch> {
    match &places[at] {
        Some(known) if *known == value => Ok(true),
        Some(_) => Err(Mismatch::Structure(user)),
        None => {
            places[at] = Some(value);
            Ok(false)
        }
    }
}

fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

fn operand_pairs(graph: &Graph, p: NodeId, q: NodeId) -> impl Iterator<Item = (Value, Value)> + '_ {
    graph.node(p).operands.iter().copied().zip(graph.node(q).operands.iter().copied())
}

/// Fails unless both nodes apply one op, to as many operands, with results of the same types.
fn equal_ops(graph: &Graph, p: NodeId, q: NodeId) -> Result<(), Mismatch> {
    let (old, new) = (graph.node(p), graph.node(q));
    match (graph.op(p), graph.op(q)) {
        (Some(a), Some(b)) if a.name() != b.name() => Err(Mismatch::Structure(q)),
        (Some(_), Some(_)) if old.types != new.types => Err(Mismatch::Types(p, q)),
        (Some(a), Some(b)) if a != b => Err(Mismatch::Attributes(p, q)),
        (Some(_), Some(_)) if old.operands.len() == new.operands.len() => Ok(()),
        _ => Err(Mismatch::Structure(q)),
    }
}

/// How the operand `x` of a node in the copy before relates to the operand `y` of its partner in the last one.
fn relate(graph: &Graph, ages: &Ages, x: Value, y: Value) -> Result<Relation, Mismatch> {
    if let Some(leaf) = Leaf::of(graph, x.node, y.node) {
        return Ok(Relation::Leaf(leaf));
    }
    if x == y {
        return Ok(Relation::Same);
    }
    if graph.ty(x) != graph.ty(y) || x.result != y.result {
        return Err(Mismatch::Types(x.node, y.node));
    }
    if graph.op(x.node).is_none() && graph.op(y.node).is_none() {
        return Err(Mismatch::Tensors(x.node, y.node));
    }
    match (ages.get(x.node), ages.get(y.node)) {
        (OLD, NEW) => equal_ops(graph, x.node, y.node).map(|()| Relation::Inner),
        (x, y) if x <= OLD && y <= OLD => Ok(Relation::Earlier),
        _ => Err(Mismatch::Structure(y.node)),
    }
}
