//! Colour refinement: nodes that are made alike, up to a depth, have one colour.
//!
//! In a graph with an unrolled loop, copies of a node have one colour as soon as they lie deeper in the loop than the
//! colouring looks. Colours are only guesses: what they suggest is proven afterwards.

use super::leaves;
use gradc_ir::graph::{Def, Graph, InputId, Node, NodeId, Role};
use gradc_ir::ops::Op;
use gradc_ir::types::TensorType;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Fewest nodes of one colour that may be a loop.
pub(super) const MIN_MEMBERS: usize = 3;

/// Rounds of refinement after which classes are looked at: shallow ones find loops in loops, deep ones long bodies.
const DEPTHS: [usize; 6] = [2, 4, 8, 16, 32, 64];

/// What tells tensors of the model apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tensors {
    /// Each is something of its own.
    Distinct,
    /// Parameters, buffers and constants of one type are alike: finds layers that repeat with weights of their own.
    Alike,
}

/// What a colour knows of a node without its operands.
#[derive(PartialEq, Eq, Hash)]
enum Own<'a> {
    Op(&'a Op),
    /// A constant, whatever its value.
    Literal,
    /// A slice, wherever it starts.
    Slice,
    Input(InputId),
    Tensor(Role),
}

fn own(graph: &Graph, id: NodeId, tensors: Tensors) -> Own<'_> {
    match &graph.node(id).def {
        Def::Op(op) if leaves::literal(op).is_some() => Own::Literal,
        Def::Op(op) if leaves::slice(op).is_some() => Own::Slice,
        Def::Op(op) => Own::Op(op),
        Def::Input(input) => match graph.inputs()[input.index()].role {
            role if tensors == Tensors::Alike && role.is_persistent() => Own::Tensor(role),
            _ => Own::Input(*input),
        },
    }
}

/// Numbers for keys, in order of first appearance.
struct Interner<K>(HashMap<K, u32>);

impl<K: Hash + Eq> Interner<K> {
    fn new() -> Self {
        Interner(HashMap::new())
    }

    fn number(&mut self, key: K) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(key).or_insert(next)
    }
}

/// Classes of at least [`MIN_MEMBERS`] nodes of one colour, members ascending; shallow colourings first, no class twice.
pub(super) fn classes(graph: &Graph, tensors: Tensors) -> Vec<Vec<NodeId>> {
    let mut owns: Interner<(Own, &[TensorType])> = Interner::new();
    let types = |id| graph.node(id).types.as_slice();
    let own: Vec<u32> = graph.node_ids().map(|id| owns.number((own(graph, id, tensors), types(id)))).collect();
    let mut colours = own.clone();
    let mut found = BTreeSet::new();
    let mut ordered = Vec::new();
    for round in 1..=DEPTHS[DEPTHS.len() - 1] {
        let finer = refine(graph, &own, &colours);
        let stable = !splits(&colours, &finer);
        colours = finer;
        if DEPTHS.contains(&round) || stable {
            for class in large(graph, &colours) {
                if found.insert(class.clone()) {
                    ordered.push(class);
                }
            }
        }
        if stable {
            break;
        }
    }
    ordered
}

/// Colours that look one operand deeper.
fn refine(graph: &Graph, own: &[u32], colours: &[u32]) -> Vec<u32> {
    let mut numbers: Interner<(u32, Vec<(u32, u16)>)> = Interner::new();
    let operands = |node: &Node| node.operands.iter().map(|v| (colours[v.node.index()], v.result)).collect();
    graph.nodes().iter().zip(own).map(|(node, &own)| numbers.number((own, operands(node)))).collect()
}

fn sizes(colours: &[u32]) -> Vec<usize> {
    let mut sizes = vec![0; colours.iter().max().map_or(0, |&c| c as usize + 1)];
    colours.iter().for_each(|&c| sizes[c as usize] += 1);
    sizes
}

/// Whether some class came apart into several that are large enough.
fn splits(coarse: &[u32], fine: &[u32]) -> bool {
    let sizes = sizes(fine);
    let mut child: HashMap<u32, u32> = HashMap::new();
    let large = coarse.iter().zip(fine).filter(|&(_, &f)| sizes[f as usize] >= MIN_MEMBERS);
    large.into_iter().any(|(&c, &f)| *child.entry(c).or_insert(f) != f)
}

/// The classes of ops with operands that are large enough, by their first member.
fn large(graph: &Graph, colours: &[u32]) -> Vec<Vec<NodeId>> {
    let mut classes: Vec<Vec<NodeId>> = vec![vec![]; sizes(colours).len()];
    for id in graph.node_ids().filter(|&id| !graph.node(id).operands.is_empty()) {
        classes[colours[id.index()] as usize].push(id);
    }
    classes.retain(|class| class.len() >= MIN_MEMBERS);
    classes.sort_unstable_by_key(|class| class[0]);
    classes
}

/// The members of a class in chains: each depends on the one before, which is the latest member it depends on.
///
/// Chains that are too short are left out.
pub(super) fn chains(graph: &Graph, class: &[NodeId]) -> Vec<Vec<NodeId>> {
    let (first, last) = (class[0].index(), class[class.len() - 1].index());
    // for each node between them, the chain position of the latest member that it depends on
    let mut latest: Vec<Option<usize>> = vec![None; last - first + 1];
    let mut chains: Vec<Vec<NodeId>> = Vec::new();
    let mut ends: HashMap<usize, usize> = HashMap::new();
    let mut members = class.iter().enumerate().peekable();
    for at in first..=last {
        let node = &graph.nodes()[at];
        let inner = node.operands.iter().filter_map(|v| v.node.index().checked_sub(first));
        let before = inner.filter_map(|k| latest[k]).max();
        latest[at - first] = before;
        if let Some((position, &member)) = members.next_if(|(_, id)| id.index() == at) {
            match before.and_then(|p| ends.remove(&p)) {
                Some(chain) => {
                    chains[chain].push(member);
                    ends.insert(position, chain);
                }
                None => {
                    ends.insert(position, chains.len());
                    chains.push(vec![member]);
                }
            }
            latest[at - first] = Some(position);
        }
    }
    chains.retain(|chain| chain.len() >= MIN_MEMBERS);
    chains
}
