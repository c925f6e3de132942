//! Choosing one node per class so that the whole window, shared values counted once, is cheapest.
//!
//! Tree-greedy choices double-count what is shared, and greedy set costs go stale. What is done instead: start from
//! the tree-greedy choice and from the original program, change single choices while the true cost falls, and keep
//! the better end. The result is therefore never dearer than the window was.

use super::analysis::EGraph;
use super::language::Node;
use super::order::{Deadlines, Time};
use super::saturate::{Application, Saturated, canonical};
use crate::cost::{Cost, op_cost};
use egg::{Id, Language};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::ops::Add;
use gradc_ir::target::Target;
use gradc_ir::types::{TensorType, TypeError};
use std::collections::HashMap;

/// What every op costs on top of its work, so that of equally fast windows the smaller one is chosen.
pub const NODE_NS: f64 = 1.0;

/// Rounds of hill-climbing; few are ever used.
const MAX_ROUNDS: usize = 8;

/// The best window found.
pub struct Extraction {
    /// The window again: same inputs, same outputs.
    pub graph: Graph,
    /// Node of the original window that each node comes from.
    pub places: Vec<u32>,
    /// The node chosen for each class that is used.
    pub chosen: HashMap<Id, Node>,
}

/// Extracts the cheapest window from a saturated e-graph; `times` are those of its nodes.
pub fn extract(
    window: &Graph,
    times: &[Time],
    saturated: &Saturated,
    target: &Target,
) -> Result<Extraction, TypeError> {
    let table = Table::new(saturated, times, target);
    let greedy = table.tree_greedy(|_| false);
    let original = table.original(saturated);
    let root = table.index[&saturated.egraph.find(saturated.root)];
    let ends = [original, greedy].map(|chosen| Climb::new(&table, chosen, root).run());
    let [from_original, from_greedy] = ends;
    let best = if from_greedy.total < from_original.total { from_greedy } else { from_original };
    emit(window, &table, &best.chosen, root)
}

/// The window after one application, everything else as it was; `None` where that breaks the order of the graph.
pub fn applied(
    window: &Graph,
    times: &[Time],
    saturated: &Saturated,
    done: &Application,
    target: &Target,
) -> Result<Option<Extraction>, TypeError> {
    let egraph = &saturated.egraph;
    let table = Table::new(saturated, times, target);
    let mut chosen: Vec<usize> = table.own(saturated).into_iter().map(Option::unwrap_or_default).collect();
    if !done.made.iter().chain([&done.to]).all(|&id| table.choose(&mut chosen, id)) {
        return Ok(None);
    }
    emit(window, &table, &chosen, table.index[&egraph.find(saturated.root)]).map(Some)
}

/// Estimated cost of an e-node of a class, for one step where the window is in a loop.
pub fn node_cost(egraph: &EGraph, class: Id, node: &Node, target: &Target) -> Cost {
    let types = &egraph[class].data.types;
    let cost = match node {
        Node::Op(op, args) => {
            let inputs: Vec<&TensorType> = args.iter().map(|&a| &egraph[a].data.types[0]).collect();
            op_cost(op, &inputs, types, target)
        }
        Node::Sum(terms) => sum_cost(terms.len(), &types[0], target),
        _ => Cost::default(),
    };
    cost * egraph.analysis.frame.share(egraph, node)
}

/// What a node costs on top of its work; a sum is as many ops as additions.
pub fn overhead_ns(node: &Node) -> f64 {
    match node {
        Node::Sum(terms) => sum_overhead_ns(terms.len()),
        node if node.is_leaf() => 0.0,
        _ => NODE_NS,
    }
}

/// What a sum of that many terms costs on top of its work.
pub fn sum_overhead_ns(terms: usize) -> f64 {
    NODE_NS * (terms.saturating_sub(1) as f64)
}

/// Estimated cost of a sum of that many terms.
pub fn sum_cost(terms: usize, ty: &TensorType, target: &Target) -> Cost {
    let one = op_cost(&Add {}.into(), &[ty, ty], std::slice::from_ref(ty), target);
    one * (terms.saturating_sub(1) as f64)
}

/// The e-graph with classes numbered, nodes priced and children resolved.
struct Table<'a> {
    egraph: &'a EGraph,
    classes: Vec<Class<'a>>,
    index: HashMap<Id, usize>,
}

struct Class<'a> {
    id: Id,
    nodes: Vec<Alternative<'a>>,
}

struct Alternative<'a> {
    node: &'a Node,
    cost_ns: f64,
    children: Vec<usize>,
}

impl<'a> Table<'a> {
    fn new(saturated: &'a Saturated, times: &[Time], target: &Target) -> Table<'a> {
        let egraph = &saturated.egraph;
        let deadlines = Deadlines::new(saturated, times);
        let mut ids: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        let index: HashMap<Id, usize> = ids.iter().enumerate().map(|(k, &id)| (id, k)).collect();
        let alternative = |id: Id, node: &'a Node| Alternative {
            node,
            cost_ns: node_cost(egraph, id, node, target).time_ns + overhead_ns(node),
            children: node.children().iter().map(|&c| index[&egraph.find(c)]).collect(),
        };
        let class = |&id: &Id| {
            let allowed = egraph[id].nodes.iter().filter(|node| deadlines.allow(egraph, id, node));
            Class { id, nodes: allowed.map(|node| alternative(id, node)).collect() }
        };
        Table { egraph, classes: ids.iter().map(class).collect(), index }
    }

    /// For every class the node whose tree is cheapest, classes that are `free` costing nothing; the first of equals.
    /// Never cyclic: a class's cost is lowered only strictly, so it is never below that of a class it uses.
    fn tree_greedy(&self, free: impl Fn(usize) -> bool) -> Vec<usize> {
        let start = |k: usize| (if free(k) { 0.0 } else { f64::INFINITY }, 0);
        let mut best: Vec<(f64, usize)> = (0..self.classes.len()).map(start).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for (k, class) in self.classes.iter().enumerate() {
                for (n, alternative) in class.nodes.iter().enumerate() {
                    let cost = alternative.cost_ns + alternative.children.iter().map(|&c| best[c].0).sum::<f64>();
                    if cost < best[k].0 {
                        best[k] = (cost, n);
                        changed = true;
                    }
                }
            }
        }
        best.into_iter().map(|(_, n)| n).collect()
    }

    /// The nodes of the window itself; for classes that rules made, what is cheapest where the window's own values are
    /// at hand.
    fn original(&self, saturated: &Saturated) -> Vec<usize> {
        let own = self.own(saturated);
        let otherwise = self.tree_greedy(|class| own[class].is_some());
        own.iter().zip(otherwise).map(|(own, made)| own.unwrap_or(made)).collect()
    }

    /// For every class the earliest of the window's own nodes in it that is allowed, if any.
    fn own(&self, saturated: &Saturated) -> Vec<Option<usize>> {
        let mut own = vec![None; self.classes.len()];
        for &id in &saturated.originals {
            let (class, at) = self.position(id);
            own[class] = own[class].or(at);
        }
        own
    }

    /// The class of a node, and its place among the nodes allowed there.
    fn position(&self, id: Id) -> (usize, Option<usize>) {
        let class = self.index[&self.egraph.find(id)];
        let node = canonical(self.egraph, self.egraph.id_to_node(id));
        (class, self.classes[class].nodes.iter().position(|a| *a.node == node))
    }

    /// Chooses one node for its class, if it is allowed there.
    fn choose(&self, chosen: &mut [usize], id: Id) -> bool {
        let (class, at) = self.position(id);
        at.inspect(|&at| chosen[class] = at).is_some()
    }
}

/// Hill-climbing on the true cost, which is kept up to date by counting uses.
struct Climb<'t, 'e> {
    table: &'t Table<'e>,
    chosen: Vec<usize>,
    uses: Vec<usize>,
    total: f64,
}

impl<'t, 'e> Climb<'t, 'e> {
    fn new(table: &'t Table<'e>, chosen: Vec<usize>, root: usize) -> Self {
        let mut climb = Climb { table, uses: vec![0; chosen.len()], chosen, total: 0.0 };
        climb.acquire(root);
        climb
    }

    fn run(mut self) -> Self {
        for _ in 0..MAX_ROUNDS {
            let mut improved = false;
            for class in 0..self.chosen.len() {
                for node in 0..self.table.classes[class].nodes.len() {
                    improved |= self.uses[class] > 0 && node != self.chosen[class] && self.try_switch(class, node);
                }
            }
            for class in 0..self.chosen.len() {
                improved |= self.uses[class] > 1 && self.try_evict(class);
            }
            if !improved {
                break;
            }
        }
        self
    }

    /// Switches to another node if the total falls and no cycle arises.
    fn try_switch(&mut self, class: usize, node: usize) -> bool {
        let (before, old) = (self.total, self.chosen[class]);
        self.switch(class, node);
        let falls = self.total < before - 1e-9 * before.abs();
        if falls && !self.reaches(class) {
            return true;
        }
        self.switch(class, old);
        self.total = before;
        false
    }

    /// Switches all users of a class away from it, if the total falls.
    ///
    /// A shared value is worth its cost as long as it has a second user, so that no single switch gives it up.
    fn try_evict(&mut self, class: usize) -> bool {
        let uses_it = |k: &usize| self.uses[*k] > 0 && self.children(*k).contains(&class);
        let users: Vec<usize> = (0..self.chosen.len()).filter(uses_it).collect();
        let (chosen, uses, total) = (self.chosen.clone(), self.uses.clone(), self.total);
        let gone = users.into_iter().all(|user| self.uses[user] == 0 || self.avoid(user, class));
        if gone && self.total < total - 1e-9 * total.abs() {
            return true;
        }
        (self.chosen, self.uses, self.total) = (chosen, uses, total);
        false
    }

    /// Switches to the cheapest node that does not use a class directly; whether there is one.
    fn avoid(&mut self, user: usize, class: usize) -> bool {
        let (old, before) = (self.chosen[user], self.total);
        let mut best: Option<(f64, usize)> = None;
        for node in 0..self.table.classes[user].nodes.len() {
            if !self.table.classes[user].nodes[node].children.contains(&class) {
                self.switch(user, node);
                if best.is_none_or(|(least, _)| self.total < least) && !self.reaches(user) {
                    best = Some((self.total, node));
                }
                self.switch(user, old);
                self.total = before;
            }
        }
        best.inspect(|&(_, node)| self.switch(user, node)).is_some()
    }

    /// Classes that a class's chosen node uses.
    fn children(&self, class: usize) -> &'t [usize] {
        &self.table.classes[class].nodes[self.chosen[class]].children
    }

    fn switch(&mut self, class: usize, node: usize) {
        let alternatives = &self.table.classes[class].nodes;
        let old = std::mem::replace(&mut self.chosen[class], node);
        alternatives[node].children.iter().for_each(|&c| self.acquire(c));
        alternatives[old].children.iter().for_each(|&c| self.release(c));
        self.total += alternatives[node].cost_ns - alternatives[old].cost_ns;
    }

    fn acquire(&mut self, class: usize) {
        self.uses[class] += 1;
        if self.uses[class] == 1 {
            let alternative = &self.table.classes[class].nodes[self.chosen[class]];
            self.total += alternative.cost_ns;
            alternative.children.iter().for_each(|&c| self.acquire(c));
        }
    }

    fn release(&mut self, class: usize) {
        self.uses[class] -= 1;
        if self.uses[class] == 0 {
            let alternative = &self.table.classes[class].nodes[self.chosen[class]];
            self.total -= alternative.cost_ns;
            alternative.children.iter().for_each(|&c| self.release(c));
        }
    }

    /// Whether a class's chosen node uses the class itself.
    fn reaches(&self, class: usize) -> bool {
        let mut seen = vec![false; self.chosen.len()];
        let mut stack = vec![class];
        while let Some(k) = stack.pop() {
            for &child in self.children(k) {
                if child == class {
                    return true;
                }
                if !std::mem::replace(&mut seen[child], true) {
                    stack.push(child);
                }
            }
        }
        false
    }
}

/// Builds the chosen window.
fn emit(window: &Graph, table: &Table, chosen: &[usize], root: usize) -> Result<Extraction, TypeError> {
    let mut builder = Builder::new(window.name.clone());
    let mut places: Vec<u32> = window.inputs().iter().map(|i| i.value.node.0).collect();
    let inputs: Vec<Value> = window
        .inputs()
        .iter()
        .map(|i| builder.input(&i.name, window.ty(i.value).clone()))
        .collect::<Result<_, TypeError>>()?;
    let mut results: HashMap<usize, Vec<Value>> = HashMap::new();
    let mut picked = HashMap::new();
    for class in post_order(table, chosen, root) {
        let alternative = &table.classes[class].nodes[chosen[class]];
        picked.insert(table.classes[class].id, alternative.node.clone());
        let args: Vec<Value> = alternative.children.iter().map(|c| results[c][0]).collect();
        let values = match alternative.node {
            Node::Input(id) => vec![inputs[id.index()]],
            Node::Op(op, _) => builder.apply(op.clone(), &args)?,
            Node::Sum(_) => vec![sum_in_order(&mut builder, &args)?],
            Node::Project(result, _) => vec![results[&alternative.children[0]][*result as usize]],
            Node::Roots(_) => args,
        };
        places.resize(builder.graph().nodes().len(), table.egraph[table.classes[class].id].data.place);
        results.insert(class, values);
    }
    for (output, &value) in window.outputs().iter().zip(&results[&root]) {
        builder.output(&output.name, value, OutputKind::Result);
    }
    Ok(Extraction { graph: builder.finish(), places, chosen: picked })
}

/// The sum of values, those made first being added first.
pub fn sum_in_order(builder: &mut Builder, terms: &[Value]) -> Result<Value, TypeError> {
    let mut terms = terms.to_vec();
    terms.sort_unstable();
    let (first, rest) = terms.split_first().expect("a sum has terms");
    rest.iter().try_fold(*first, |sum, &term| builder.add(sum, term))
}

/// Classes that the root uses, operands before users.
fn post_order(table: &Table, chosen: &[usize], root: usize) -> Vec<usize> {
    let mut order = Vec::new();
    let mut seen = vec![false; chosen.len()];
    let mut stack = vec![(root, 0)];
    seen[root] = true;
    while let Some((class, next)) = stack.pop() {
        match table.classes[class].nodes[chosen[class]].children.get(next) {
            Some(&child) => {
                stack.push((class, next + 1));
                if !std::mem::replace(&mut seen[child], true) {
                    stack.push((child, 0));
                }
            }
            None => order.push(class),
        }
    }
    order
}
