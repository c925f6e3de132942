//! Cutting a graph into windows: bounded pieces, each a layer's forward, backward and update together.

use super::frame::Frame;
use super::order::Time;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, OutputKind, Value};
use gradc_ir::types::TypeError;
use std::collections::HashMap;

/// A piece of a graph as a closed program.
pub struct Window {
    /// Its nodes: those without operands, which every window that reads them has for itself, then the others ascending.
    pub nodes: Vec<NodeId>,
    /// Values it uses from outside; inputs of `program`, in order.
    pub leaves: Vec<Value>,
    /// Values of it that are used outside; outputs of `program`, in order.
    pub outputs: Vec<Value>,
    /// The piece. Equal pieces of a graph have equal programs.
    pub program: Graph,
    /// When each node of `program` exists in the whole graph.
    pub times: Vec<Time>,
    /// Where it stands.
    pub frame: Frame,
}

impl Window {
    /// The first node that is only here.
    pub fn first(&self) -> NodeId {
        let only_here = self.times.iter().skip(self.leaves.len()).position(|&time| time > 0);
        self.nodes[only_here.expect("a window has nodes of its own")]
    }

    /// The window with another program, given the node of this one that each of its nodes comes from.
    pub fn with_program(&self, program: &Graph, places: &[u32]) -> Window {
        Window {
            nodes: self.nodes.clone(),
            leaves: self.leaves.clone(),
            outputs: self.outputs.clone(),
            program: program.clone(),
            times: places.iter().map(|&at| self.times[at as usize]).collect(),
            frame: self.frame.clone(),
        }
    }

    /// The node of the whole graph behind a node of `program`.
    pub fn origin(&self, place: u32) -> NodeId {
        let place = place as usize;
        if place < self.leaves.len() { self.leaves[place].node } else { self.nodes[place - self.leaves.len()] }
    }
}

/// Cuts the ops of a graph that stands in `frame` into windows of about `limit` nodes along layer paths.
///
/// Nodes of one layer stay together, forward and backward alike. A layer that is too large is cut into its own
/// layers, small neighbours share a window, and what has no inner layers is cut along the topological order.
pub fn cut(graph: &Graph, frame: &Frame, limit: usize) -> Result<Vec<Window>, TypeError> {
    let is_source = sources(graph);
    let is_cut = |id: &NodeId| graph.op(*id).is_some() && !is_source[id.index()];
    let ops: Vec<NodeId> = graph.node_ids().filter(is_cut).collect();
    let mut pieces = Vec::new();
    if !ops.is_empty() {
        cut_layer(graph, ops.clone(), 0, limit, &mut pieces);
    }
    let window_of = assign(graph, &pieces);
    let mut cuts = vec![Vec::new(); pieces.len()];
    ops.into_iter().for_each(|id| cuts[window_of[id.index()]].push(id));
    let used_outside = outside_uses(graph, &window_of, &is_source);
    let cuts = cuts.into_iter().filter(|cut| !cut.is_empty());
    let invariant = frame.invariant_nodes(graph);
    let in_frame = |window: Window| {
        let invariant = window.leaves.iter().map(|leaf| invariant[leaf.node.index()]).collect();
        Window { frame: Frame { invariant, ..frame.clone() }, ..window }
    };
    cuts.map(|cut| close(graph, cut, &window_of, &used_outside, &is_source).map(in_frame)).collect()
}

/// Nodes that belong together.
struct Piece {
    nodes: Vec<NodeId>,
    /// Whether they are cut out of a layer that has no inner layers.
    is_part: bool,
}

impl Piece {
    fn layers(nodes: Vec<NodeId>) -> Piece {
        Piece { nodes, is_part: false }
    }
}

/// The window of every node.
///
/// What a part of a layer makes for one other piece alone is made there: of the products of an unrolled loop's steps,
/// the sum of all is then in one window with all of them.
fn assign(graph: &Graph, pieces: &[Piece]) -> Vec<usize> {
    let mut piece_of = vec![usize::MAX; graph.nodes().len()];
    for (k, piece) in pieces.iter().enumerate() {
        piece.nodes.iter().for_each(|id| piece_of[id.index()] = k);
    }
    let readers = sole_readers(graph, &piece_of);
    let mut window_of = piece_of;
    for id in pieces.iter().filter(|piece| piece.is_part).flat_map(|piece| &piece.nodes) {
        window_of[id.index()] = readers[id.index()].unwrap_or(window_of[id.index()]);
    }
    window_of
}

/// For every node the piece that alone reads it, if no output does.
fn sole_readers(graph: &Graph, piece_of: &[usize]) -> Vec<Option<usize>> {
    let sole = |users: &Vec<NodeId>| {
        let first = piece_of[users.first()?.index()];
        users.iter().all(|user| piece_of[user.index()] == first).then_some(first)
    };
    let mut readers: Vec<Option<usize>> = graph.users().iter().map(sole).collect();
    graph.outputs().iter().for_each(|o| readers[o.value.node.index()] = None);
    readers
}

/// Ops without operands that are no outputs. Constants made once for many layers would hide their value from all
/// windows but one.
fn sources(graph: &Graph) -> Vec<bool> {
    let is_free = |id: NodeId| graph.op(id).is_some() && graph.node(id).operands.is_empty();
    let mut sources: Vec<bool> = graph.node_ids().map(is_free).collect();
    graph.outputs().iter().for_each(|o| sources[o.value.node.index()] = false);
    sources
}

fn cut_layer(graph: &Graph, nodes: Vec<NodeId>, depth: usize, limit: usize, pieces: &mut Vec<Piece>) {
    if nodes.len() <= limit {
        pieces.push(Piece::layers(nodes));
        return;
    }
    let mut open: Vec<NodeId> = Vec::new();
    for (is_layer, group) in by_component(graph, nodes, depth) {
        if open.len() + group.len() <= limit {
            open.extend(group);
        } else if group.len() <= limit {
            pieces.push(Piece::layers(std::mem::replace(&mut open, group)));
        } else if is_layer {
            cut_layer(graph, group, depth + 1, limit, pieces);
        } else {
            pieces.extend(group.chunks(limit).map(|part| Piece { nodes: part.to_vec(), is_part: true }));
        }
    }
    if !open.is_empty() {
        pieces.push(Piece::layers(open));
    }
}

/// Nodes by the component of their layer path at `depth`, in order of first appearance; false for those without.
fn by_component(graph: &Graph, nodes: Vec<NodeId>, depth: usize) -> Vec<(bool, Vec<NodeId>)> {
    let mut groups: Vec<(bool, Vec<NodeId>)> = Vec::new();
    let mut group_of: HashMap<Option<&str>, usize> = HashMap::new();
    for id in nodes {
        let component = graph.loc(id).layer.split('.').filter(|c| !c.is_empty()).nth(depth);
        let at = *group_of.entry(component).or_insert_with(|| {
            groups.push((component.is_some(), vec![]));
            groups.len() - 1
        });
        groups[at].1.push(id);
    }
    groups
}

/// Makes a closed program of a piece.
fn close(
    graph: &Graph,
    cut: Vec<NodeId>,
    window_of: &[usize],
    used_outside: &[bool],
    is_source: &[bool],
) -> Result<Window, TypeError> {
    let own = window_of[cut[0].index()];
    let mut builder = Builder::new("window");
    let mut values: HashMap<Value, Value> = HashMap::new();
    let (mut leaves, mut nodes) = (Vec::new(), Vec::new());
    for value in cut.iter().flat_map(|&id| &graph.node(id).operands) {
        if is_source[value.node.index()] {
            if !nodes.contains(&value.node) {
                nodes.push(value.node);
            }
        } else if window_of[value.node.index()] != own && !values.contains_key(value) {
            values.insert(*value, builder.input(&leaves.len().to_string(), graph.ty(*value).clone())?);
            leaves.push(*value);
        }
    }
    let own_sources = nodes.len();
    nodes.extend(&cut);
    let mut outputs = Vec::new();
    for &id in &nodes {
        let Def::Op(op) = &graph.node(id).def else { continue };
        let operands: Vec<Value> = graph.node(id).operands.iter().map(|v| values[v]).collect();
        for (old, new) in graph.results(id).zip(builder.apply(op.clone(), &operands)?) {
            values.insert(old, new);
            if used_outside[id.index()] {
                builder.output(&outputs.len().to_string(), new, OutputKind::Result);
                outputs.push(old);
            }
        }
    }
    let of_leaf = |leaf: &Value| 2 * cut.partition_point(|&id| id < leaf.node) as Time;
    let of_cut = (0..cut.len() as Time).map(|k| 2 * k + 1);
    let times = leaves.iter().map(of_leaf).chain(vec![0; own_sources]).chain(of_cut).collect();
    Ok(Window { nodes, leaves, outputs, program: builder.finish(), times, frame: Frame::default() })
}

/// Nodes with a use outside their own window; those that every window has for itself have none.
fn outside_uses(graph: &Graph, window_of: &[usize], is_source: &[bool]) -> Vec<bool> {
    let users = graph.users();
    let leaves_window = |k: usize| !is_source[k] && users[k].iter().any(|user| window_of[user.index()] != window_of[k]);
    let mut used: Vec<bool> = (0..users.len()).map(leaves_window).collect();
    graph.outputs().iter().for_each(|o| used[o.value.node.index()] = true);
    used
}
