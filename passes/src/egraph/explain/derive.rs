//! From the original window to the extracted one, one rewrite of a whole program at a time.
//!
//! An e-graph knows that two programs are equal, not how one becomes the other. Here that is worked out: every value
//! of the window, operands first, is turned from the form it has into the form that was chosen. Where a rule on the
//! way matches its operands in another form than they have, they are brought into it first (an enabling rewrite).
//! Applications work in both directions, since both sides are equal.

use super::Change;
use super::forest::{Forest, Tree};
use super::ways::{Edge, Ways};
use super::witness::{Pattern, Witness, witness};
use crate::egraph::extract::Extraction;
use crate::egraph::language::Node;
use crate::egraph::rules::RuleIndex;
use crate::egraph::saturate::Saturated;
use egg::{Id, Language};
use gradc_ir::graph::Graph;
use gradc_ir::types::TypeError;
use std::collections::HashMap;
use std::rc::Rc;

/// Most rewrites of one value.
const FUEL: usize = 400;

/// Most enabling rewrites within each other.
const MAX_DEPTH: usize = 12;

/// Every rewrite on the way from a window to the one extracted, in order.
pub fn derive(
    window: &Graph,
    saturated: &Saturated,
    extraction: &Extraction,
    rules: &RuleIndex,
) -> Result<Vec<Change>, TypeError> {
    let mut derivation = Derivation::new(saturated, extraction, rules);
    let moves = derivation.run().ok_or_else(|| TypeError::new("no rewrites lead to the extracted program"))?;
    let change = |m: Move| {
        let program = derivation.forest.graph(window, m.tree)?;
        let rule = m.edge.map(|edge| saturated.applications[edge.application].rule);
        let nodes = |side: fn(&Witness) -> &Pattern| m.witness.as_deref().map(|w| side(w).nodes(&saturated.egraph));
        Ok(Change {
            rule,
            reversed: m.edge.is_some_and(|edge| edge.reversed),
            enabling: m.enabling,
            matched: nodes(|w| &w.matched).unwrap_or_default(),
            made: nodes(|w| &w.made).unwrap_or_default(),
            place: m.place,
            program,
        })
    };
    moves.into_iter().map(change).collect()
}

/// A change while it is worked out; `tree` is the value it happens in, later the whole program.
#[derive(Clone)]
struct Move {
    edge: Option<Edge>,
    enabling: bool,
    witness: Option<Rc<Witness>>,
    place: u32,
    tree: Tree,
}

/// No way was found within the limits.
struct Stuck;

struct Derivation<'a> {
    saturated: &'a Saturated,
    extraction: &'a Extraction,
    rules: &'a RuleIndex,
    forest: Forest<'a>,
    ways: Ways,
    /// The chosen form of every class that is used.
    goals: HashMap<Id, Tree>,
    witnesses: HashMap<usize, Rc<Witness>>,
}

/// A value on its way.
#[derive(Clone)]
struct Walk {
    tree: Tree,
    moves: Vec<Move>,
}

impl<'a> Derivation<'a> {
    fn new(saturated: &'a Saturated, extraction: &'a Extraction, rules: &'a RuleIndex) -> Self {
        let forest = Forest::new(saturated);
        let (ways, goals, witnesses) = (Ways::new(saturated), HashMap::new(), HashMap::new());
        Derivation { saturated, extraction, rules, forest, ways, goals, witnesses }
    }

    /// The moves with whole programs; `None` if they do not end with the chosen one.
    fn run(&mut self) -> Option<Vec<Move>> {
        let root_class = self.saturated.egraph.find(self.saturated.root);
        self.forest.chosen(&self.extraction.chosen, root_class, &mut self.goals)?;
        let root = usize::from(self.saturated.root);
        let mut values: Vec<Tree> = Vec::with_capacity(root + 1);
        let mut moves = Vec::new();
        let mut program = self.rest(&values)?;
        for id in 0..=root {
            let own = self.value(&values, id)?;
            let goal = self.goals.get(&self.forest.class(own)).copied().unwrap_or(own);
            values.push(goal);
            if goal == own || self.rest(&values)? == program {
                continue;
            }
            for step in self.walk(own, goal) {
                values[id] = step.tree;
                let tree = self.rest(&values)?;
                if tree != program {
                    moves.push(Move { tree, ..step });
                    program = tree;
                }
            }
            values[id] = goal;
        }
        (program == self.goals[&root_class]).then_some(moves)
    }

    /// The node of the window with its operands as they are now.
    fn value(&mut self, values: &[Tree], id: usize) -> Option<Tree> {
        let node = self.saturated.egraph.id_to_node(Id::from(id));
        self.forest.add(node, node.children().iter().map(|&child| values[usize::from(child)]).collect())
    }

    /// The whole program when the first values are as given.
    fn rest(&mut self, values: &[Tree]) -> Option<Tree> {
        let mut values = values.to_vec();
        for id in values.len()..=usize::from(self.saturated.root) {
            values.push(self.value(&values, id)?);
        }
        values.last().copied()
    }

    /// The way of one value to its chosen form; one move for all if none is found.
    fn walk(&mut self, own: Tree, goal: Tree) -> Vec<Move> {
        let mut walk = Walk { tree: own, moves: vec![] };
        match self.turn_into(&mut walk, &[], goal, MAX_DEPTH) {
            Ok(()) => walk.moves,
            Err(Stuck) => {
                let place = self.saturated.egraph[self.forest.class(own)].data.place;
                vec![Move { edge: None, enabling: false, witness: None, place, tree: goal }]
            }
        }
    }

    /// Gives the part below a path exactly this form.
    fn turn_into(&mut self, walk: &mut Walk, path: &[usize], goal: Tree, depth: usize) -> Result<(), Stuck> {
        if self.forest.part(walk.tree, path) == goal {
            return Ok(());
        }
        self.bring_to(walk, path, &self.forest.e_node(goal), depth)?;
        let children = self.forest.node(goal).children().to_vec();
        for (k, child) in children.into_iter().enumerate() {
            self.turn_into(walk, &[path, &[k]].concat(), child, depth)?;
        }
        Ok(())
    }

    /// Gives the part below a path this top; its operands may have any form.
    fn bring_to(&mut self, walk: &mut Walk, path: &[usize], goal: &Node, depth: usize) -> Result<(), Stuck> {
        let depth = depth.checked_sub(1).ok_or(Stuck)?;
        let mut closed = Vec::new();
        loop {
            let here = self.forest.e_node(self.forest.part(walk.tree, path));
            if here == *goal {
                return Ok(());
            }
            let edge = self.ways.first_edge(&here, goal, &closed).ok_or(Stuck)?;
            let before = walk.clone();
            let crossed = self.cross(walk, path, edge, depth);
            if crossed.is_err() || walk.moves.len() > FUEL {
                *walk = before;
                closed.push(edge);
            }
        }
    }

    /// Carries out one application at the part below a path.
    fn cross(&mut self, walk: &mut Walk, path: &[usize], edge: Edge, depth: usize) -> Result<(), Stuck> {
        let witness = self.witness(edge.application).ok_or(Stuck)?;
        let (from, to) = match edge.reversed {
            false => (&witness.matched, &witness.made),
            true => (&witness.made, &witness.matched),
        };
        self.fit(walk, path, from, depth)?;
        let mut bound = HashMap::new();
        self.bind(walk, path, from, &mut bound, depth)?;
        let part = self.instance(to, &bound).ok_or(Stuck)?;
        walk.tree = self.forest.with_part(walk.tree, path, part).ok_or(Stuck)?;
        let (enabling, place) = (depth + 1 < MAX_DEPTH, self.saturated.applications[edge.application].place);
        walk.moves.push(Move { edge: Some(edge), enabling, witness: Some(witness.clone()), place, tree: walk.tree });
        Ok(())
    }

    fn witness(&mut self, application: usize) -> Option<Rc<Witness>> {
        if let Some(known) = self.witnesses.get(&application) {
            return Some(known.clone());
        }
        let done = &self.saturated.applications[application];
        let (egraph, chosen) = (&self.saturated.egraph, &self.extraction.chosen);
        let forest = &mut self.forest;
        let mut first = |class: Id| forest.first_form(class).map(|tree| forest.e_node(tree));
        let preference = |class: Id, node: &Node| match node {
            _ if chosen.get(&class) == Some(node) => 0,
            _ if first(class).as_ref() == Some(node) => 1,
            _ => 2,
        };
        let found = witness(egraph, done, self.rules.rule(done.rule), preference)?;
        self.witnesses.insert(application, Rc::new(found));
        self.witnesses.get(&application).cloned()
    }

    /// Makes the part below a path an instance of a pattern.
    fn fit(&mut self, walk: &mut Walk, path: &[usize], pattern: &Pattern, depth: usize) -> Result<(), Stuck> {
        let Pattern::Node(node, below) = pattern else { return Ok(()) };
        self.bring_to(walk, path, node, depth)?;
        for (k, part) in below.iter().enumerate() {
            self.fit(walk, &[path, &[k]].concat(), part, depth)?;
        }
        Ok(())
    }

    /// Finds what stands for the classes of a pattern. Where two forms stand for one class, the second is made the first.
    fn bind(
        &mut self,
        walk: &mut Walk,
        path: &[usize],
        pattern: &Pattern,
        bound: &mut HashMap<Id, Tree>,
        depth: usize,
    ) -> Result<(), Stuck> {
        match pattern {
            Pattern::Any(class) => {
                let tree = self.forest.part(walk.tree, path);
                match bound.get(class).copied() {
                    Some(first) => self.turn_into(walk, path, first, depth)?,
                    None => drop(bound.insert(*class, tree)),
                }
            }
            Pattern::Node(_, below) => {
                for (k, part) in below.iter().enumerate() {
                    self.bind(walk, &[path, &[k]].concat(), part, bound, depth)?;
                }
                // a replacement may use what was matched
                let tree = self.forest.part(walk.tree, path);
                bound.entry(self.forest.class(tree)).or_insert(tree);
            }
        }
        Ok(())
    }

    /// A pattern with what stands for its classes; what only this side has gets the chosen form or the first.
    fn instance(&mut self, pattern: &Pattern, bound: &HashMap<Id, Tree>) -> Option<Tree> {
        match pattern {
            Pattern::Any(class) => {
                let known = bound.get(class).or_else(|| self.goals.get(class)).copied();
                known.or_else(|| self.forest.first_form(*class))
            }
            Pattern::Node(node, below) => {
                let parts: Option<Vec<Tree>> = below.iter().map(|part| self.instance(part, bound)).collect();
                self.forest.add(node, parts?)
            }
        }
    }
}
