//! The graph with unrolled loops replaced by region ops.

use super::leaves::{Sequence, stacked_literals};
use super::step::Source;
use super::unrolled::{Port, Register, Unrolled};
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Def, Function, Graph, NodeId, Value};
use gradc_ir::ops::{Iterate, Op, Scan};
use gradc_ir::types::{TensorType, TypeError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Bodies made so far, by what they compute: equal loops share one, wherever they come from.
#[derive(Default)]
pub(super) struct Bodies(HashMap<Graph, Function>);

impl Unrolled {
    /// Types of what goes from step to step.
    fn carry_ports(&self) -> Vec<Port> {
        self.registers.keys().map(|r| r.port).chain(self.last.iter().copied()).collect()
    }

    fn port_type<'a>(&self, graph: &'a Graph, port: Port) -> &'a TensorType {
        graph.ty(Value { node: self.step.nodes[port.node], result: port.result })
    }

    /// Sequences that the body takes one element of in every step.
    fn scanned(&self) -> impl Iterator<Item = (usize, &Sequence)> {
        self.sequences.iter().enumerate().filter(|(_, s)| !matches!(s, Sequence::Fixed(_)))
    }

    /// Number of sequences that the body takes an element of in every step.
    pub(super) fn scanned_count(&self) -> usize {
        self.scanned().count()
    }

    /// Invariants that are operands of the loop; what needs no operands is made in the body.
    fn constants(&self, graph: &Graph) -> Vec<Value> {
        let has_operands = |v: &Value| graph.op(v.node).is_none() || !graph.node(v.node).operands.is_empty();
        self.invariants().iter().copied().filter(has_operands).collect()
    }

    /// Whether steps run through what they scan from the end.
    fn reverse(&self) -> bool {
        let first = self.sequences.iter().find_map(|s| if let Sequence::Slices(s) = s { Some(s) } else { None });
        first.is_some_and(|s| s.descending)
    }

    /// Whether the loop is no more than its carries.
    pub(super) fn is_iterate(&self) -> bool {
        self.scanned().next().is_none() && self.stacked.is_empty()
    }

    /// Types of the arguments of the body: carries, elements, constants.
    fn argument_types(&self, graph: &Graph) -> Vec<TensorType> {
        let carries = self.carry_ports().into_iter().map(|port| self.port_type(graph, port).clone());
        let elements = self.scanned().map(|(leaf, sequence)| {
            let ty = &graph.node(self.step.leaves[leaf].sample()).types[0];
            if matches!(sequence, Sequence::Literals(_)) { ty.with_shape([]) } else { ty.clone() }
        });
        let constants = self.constants(graph).into_iter().map(|v| graph.ty(v).clone());
        carries.chain(elements).chain(constants).collect()
    }

    /// One step as a closed function; its nodes have the places of the first copy's where `placed`.
    fn body(&self, graph: &Graph, placed: bool) -> Result<Function, TypeError> {
        Builder::function("step", &self.argument_types(graph), |b, arguments| {
            let mut scope = Scope::new(self, graph, b, arguments)?;
            for (k, sources) in self.step.sources.iter().enumerate() {
                let id = self.copies[0].nodes[k];
                let operands: Vec<Value> = sources.iter().map(|&source| scope.value(self, source)).collect();
                if placed {
                    b.set_loc(graph.loc(id).clone());
                }
                scope.made.push(b.apply(op(graph, self.step.nodes[k]), &operands)?);
            }
            Ok(scope.results(self))
        })
    }
}

/// The op of a node that is one.
fn op(graph: &Graph, id: NodeId) -> Op {
    graph.op(id).expect("nodes of a step are ops").clone()
}

/// Values inside a body.
struct Scope {
    registers: HashMap<(Port, usize), Value>,
    leaves: Vec<Value>,
    invariants: HashMap<Value, Value>,
    made: Vec<Vec<Value>>,
}

impl Scope {
    fn new(of: &Unrolled, graph: &Graph, b: &mut Builder, arguments: &[Value]) -> Result<Scope, TypeError> {
        let (carries, rest) = arguments.split_at(of.carry_ports().len());
        let (mut elements, constants) = (rest[..of.scanned_count()].iter(), &rest[of.scanned_count()..]);
        let registers = of.registers.keys().zip(carries).map(|(r, &value)| ((r.port, r.age), value)).collect();
        let mut leaves = Vec::new();
        for (sequence, leaf) in of.sequences.iter().zip(&of.step.leaves) {
            let shape = &graph.node(leaf.sample()).types[0].shape;
            let mut element = || *elements.next().expect("the body takes an element of each scanned sequence");
            leaves.push(match sequence {
                Sequence::Fixed(constant) => b.op(constant.clone(), &[])?,
                Sequence::Literals(_) => b.broadcast(element(), shape, &[])?,
                Sequence::Slices(_) => element(),
            });
        }
        let mut invariants: HashMap<Value, Value> =
            of.constants(graph).into_iter().zip(constants.iter().copied()).collect();
        for &value in of.invariants() {
            if let Entry::Vacant(unmade) = invariants.entry(value) {
                unmade.insert(b.apply(op(graph, value.node), &[])?[value.result as usize]);
            }
        }
        Ok(Scope { registers, leaves, invariants, made: vec![] })
    }

    fn value(&self, of: &Unrolled, source: Source) -> Value {
        match source {
            Source::Inner(node, result) => self.made[node][result as usize],
            Source::Invariant(k) => self.invariants[&of.invariants()[k]],
            Source::Leaf(leaf) => self.leaves[leaf],
            Source::Slot(slot) => {
                let Register { port, age } = of.register(slot);
                self.registers[&(port, age)]
            }
        }
    }

    /// Next carries, then what is stacked.
    fn results(&self, of: &Unrolled) -> Vec<Value> {
        let made = |port: &Port| self.made[port.node][port.result as usize];
        let next = |r: &Register| if r.age == 0 { made(&r.port) } else { self.registers[&(r.port, r.age - 1)] };
        of.registers.keys().map(next).chain(of.last.iter().map(made)).chain(of.stacked.iter().map(made)).collect()
    }
}

/// The graph with loops rolled; `None` where they depend on each other in a circle.
///
/// Inputs keep their order, outputs their order, name and kind. A node keeps its place; a loop has that of the root of
/// its first step.
pub(super) fn rebuild(graph: &Graph, loops: &[Unrolled], bodies: &mut Bodies) -> Result<Option<Graph>, TypeError> {
    let mut rebuild = Rebuild::new(graph, loops)?;
    let outside = graph.node_ids().filter(|id| !rebuild.maker.contains_key(id)).map(Item::Node);
    let results = graph.outputs().iter().map(|o| rebuild.item(o.value));
    let items: Vec<Item> = outside.chain(results).collect();
    for item in items {
        if !rebuild.emit(item, bodies)? {
            return Ok(None);
        }
    }
    for output in graph.outputs() {
        let value = rebuild.value(output.value)?;
        rebuild.builder.output(&output.name, value, output.kind);
    }
    Ok(Some(rebuild.builder.finish().without_dead_nodes()))
}

/// What is made at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Item {
    Node(NodeId),
    Loop(usize),
}

struct Rebuild<'a> {
    graph: &'a Graph,
    loops: &'a [Unrolled],
    builder: Builder,
    /// The loop, step and position of every node that belongs to a loop.
    maker: HashMap<NodeId, (usize, usize, usize)>,
    made: HashMap<Item, Vec<Value>>,
}

impl<'a> Rebuild<'a> {
    fn new(graph: &'a Graph, loops: &'a [Unrolled]) -> Result<Self, TypeError> {
        let mut maker = HashMap::new();
        for (l, unrolled) in loops.iter().enumerate() {
            maker.extend(unrolled.makers().into_iter().map(|(id, (at, k))| (id, (l, at, k))));
        }
        let mut builder = Builder::new(&graph.name);
        let mut made = HashMap::new();
        for input in graph.inputs() {
            builder.set_loc(graph.loc(input.value.node).clone());
            let default = input.default.map(|d| d.get());
            let value = builder.declare(&input.name, input.role, graph.ty(input.value).clone(), default)?;
            made.insert(Item::Node(input.value.node), vec![value]);
        }
        Ok(Rebuild { graph, loops, builder, maker, made })
    }

    fn item(&self, value: Value) -> Item {
        self.maker.get(&value.node).map_or(Item::Node(value.node), |&(l, ..)| Item::Loop(l))
    }

    fn needs(&self, item: Item) -> Vec<Item> {
        let values = match item {
            Item::Node(id) => self.graph.node(id).operands.clone(),
            Item::Loop(l) => self.loops[l].entries(),
        };
        values.into_iter().map(|v| self.item(v)).collect()
    }

    /// Makes an item after all that it needs; false where it needs itself.
    fn emit(&mut self, item: Item, bodies: &mut Bodies) -> Result<bool, TypeError> {
        let mut open = vec![item];
        while let Some(&item) = open.last() {
            let missing = self.needs(item).into_iter().find(|need| !self.made.contains_key(need));
            match missing {
                _ if self.made.contains_key(&item) => drop(open.pop()),
                Some(need) if open.contains(&need) => return Ok(false),
                Some(need) => open.push(need),
                None => {
                    let values = self.make(item, bodies)?;
                    self.made.insert(item, values);
                    open.pop();
                }
            }
        }
        Ok(true)
    }

    fn make(&mut self, item: Item, bodies: &mut Bodies) -> Result<Vec<Value>, TypeError> {
        match item {
            Item::Loop(l) => self.make_loop(&self.loops[l], bodies),
            Item::Node(id) => {
                let node = self.graph.node(id);
                let Def::Op(op) = &node.def else { unreachable!("inputs are made first") };
                let operands = node.operands.iter().map(|&v| self.value(v)).collect::<Result<Vec<_>, _>>()?;
                self.builder.set_loc(self.graph.loc(id).clone());
                self.builder.apply(op.clone(), &operands)
            }
        }
    }

    /// Place of a loop: that of its first step's root.
    fn loop_loc(&self, unrolled: &Unrolled) -> Loc {
        self.graph.loc(unrolled.copies[0].nodes[unrolled.step.root()]).clone()
    }

    fn make_loop(&mut self, unrolled: &Unrolled, bodies: &mut Bodies) -> Result<Vec<Value>, TypeError> {
        let graph = self.graph;
        self.builder.set_loc(self.loop_loc(unrolled));
        let body = match bodies.0.entry(Graph::clone(&*unrolled.body(graph, false)?)) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(unrolled.body(graph, true)?).clone(),
        };
        let mut operands = unrolled.registers.values().map(|&v| self.value(v)).collect::<Result<Vec<_>, _>>()?;
        for &port in &unrolled.last {
            operands.push(self.builder.splat(unrolled.port_type(graph, port), 0.0)?);
        }
        let carries = operands.len();
        for (_, sequence) in unrolled.scanned() {
            let stacked = self.stacked(sequence, unrolled.reverse())?;
            operands.push(stacked);
        }
        let scanned = operands.len() - carries;
        for value in unrolled.constants(graph) {
            operands.push(self.value(value)?);
        }
        let (count, reverse) = (unrolled.count(), unrolled.reverse());
        let op: Op = if unrolled.is_iterate() {
            Iterate { body, count, carries, in_order: true }.into()
        } else {
            Scan { body, carries, scanned, length: count, reverse, in_order: true }.into()
        };
        self.builder.apply(op, &operands)
    }

    /// A sequence as a scanned operand of a loop that runs forwards, or from the end.
    fn stacked(&mut self, sequence: &Sequence, reverse: bool) -> Result<Value, TypeError> {
        let (stacked, descending) = match sequence {
            Sequence::Slices(slices) => {
                let source = self.value(slices.source())?;
                (slices.stacked(&mut self.builder, source)?, slices.descending)
            }
            Sequence::Literals(steps) => (stacked_literals(&mut self.builder, steps)?, false),
            Sequence::Fixed(_) => unreachable!("what is the same in all steps is not scanned"),
        };
        if descending == reverse { Ok(stacked) } else { self.builder.reverse(stacked, &[0]) }
    }

    /// A value of the graph in the new one; what it needs has been made.
    fn value(&mut self, old: Value) -> Result<Value, TypeError> {
        let Some(&(l, at, node)) = self.maker.get(&old.node) else {
            return Ok(self.made[&Item::Node(old.node)][old.result as usize]);
        };
        let (unrolled, port) = (&self.loops[l], Port { node, result: old.result });
        let results = &self.made[&Item::Loop(l)];
        if let Some(register) = unrolled.final_register(port, at) {
            let carry = unrolled.registers.keys().position(|&r| r == register);
            return Ok(results[carry.expect("a register of the loop")]);
        }
        if let Some(last) = unrolled.last.iter().position(|&p| p == port) {
            return Ok(results[unrolled.registers.len() + last]);
        }
        let stacked = unrolled.stacked.iter().position(|&p| p == port).expect("what is used outside leaves the loop");
        let all = results[unrolled.registers.len() + unrolled.last.len() + stacked];
        let step = if unrolled.reverse() { unrolled.count() - 1 - at } else { at };
        self.builder.set_loc(self.loop_loc(unrolled));
        let slice = self.builder.slice_axis(all, 0, step, step + 1)?;
        self.builder.reshape(slice, &unrolled.port_type(self.graph, port).shape)
    }
}
