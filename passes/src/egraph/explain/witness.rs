//! What an application rests on: the nodes its rule matched, found by running the rule again on ever less.

use crate::egraph::analysis::EGraph;
use crate::egraph::language::Node;
use crate::egraph::rules::{Rule, Site, Term, View};
use crate::egraph::saturate::{Application, canonical, lookup};
use egg::{Id, Language};
use gradc_ir::types::TensorType;

/// Deepest pattern of a rule.
const MAX_DEPTH: usize = 4;

/// Most views that are tried.
const MAX_VIEWS: usize = 300;

/// One side of an application: nodes over values that may have any form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Any form of a class.
    Any(Id),
    /// An e-node of a class, with what its operands have to be.
    Node(Node, Vec<Pattern>),
}

/// Both sides of an application.
pub struct Witness {
    /// What was matched.
    pub matched: Pattern,
    /// What it was found equal to.
    pub made: Pattern,
}

/// The least that an application's rule has to see to make the same replacement.
///
/// Class by class in the order the rule looks: it is hidden if the rule can do without, else left with one node,
/// preferably the one that `prefer` likes best (the least number). That the rule makes the replacement in the end is
/// the proof that its guard holds on these nodes alone. `None` if no such nodes are found.
pub fn witness(
    egraph: &EGraph,
    application: &Application,
    rule: &Rule,
    mut prefer: impl FnMut(Id, &Node) -> usize,
) -> Option<Witness> {
    let from = canonical(egraph, &application.from);
    let class = egraph.find(application.to);
    let made = pattern(egraph, &application.term)?;
    let fires = |view: &View| {
        let Some(site) = Site::at(egraph, class, &from) else { return false };
        let terms = (rule.rewrite)(&site.seen_through(view));
        terms.iter().any(|term| pattern(egraph, term).as_ref() == Some(&made))
    };
    let mut options = |class: Id| {
        let mut nodes: Vec<&Node> = egraph[class].nodes.iter().collect();
        nodes.sort_by_key(|node| prefer(class, node));
        std::iter::once(None).chain(nodes.into_iter().map(Some)).collect()
    };
    let view = narrow(View::default(), &fires, &mut options, &mut { MAX_VIEWS })?;
    let matched = shown(&view, &from, MAX_DEPTH);
    Some(Witness { matched, made })
}

/// The view with all classes that the rule asks about decided, so that it fires.
fn narrow<'a>(
    view: View,
    fires: &impl Fn(&View) -> bool,
    options: &mut impl FnMut(Id) -> Vec<Option<&'a Node>>,
    left: &mut usize,
) -> Option<View> {
    *left = left.checked_sub(1)?;
    let fired = fires(&view);
    let Some(asked) = view.next_asked() else { return fired.then_some(view) };
    let views = options(asked).into_iter().map(|node| view.showing(asked, node));
    // a rule that takes the first node it finds may fire only when more is decided
    let (likely, others): (Vec<View>, Vec<View>) = views.partition(|view| fires(view));
    likely.into_iter().chain(others).find_map(|view| narrow(view, fires, options, left))
}

fn shown(view: &View, node: &Node, depth: usize) -> Pattern {
    let below = |&child: &Id| match view.only(child).filter(|_| depth > 0) {
        Some(node) => shown(view, node, depth - 1),
        None => Pattern::Any(child),
    };
    Pattern::Node(node.clone(), node.children().iter().map(below).collect())
}

fn pattern(egraph: &EGraph, term: &Term) -> Option<Pattern> {
    let part = |arg: &Term| Some((lookup(egraph, arg)?, pattern(egraph, arg)?));
    let mut parts = term.args().iter().map(part).collect::<Option<Vec<(Id, Pattern)>>>()?;
    if matches!(term, Term::Sum(_)) {
        parts.sort_by_key(|(class, _)| *class);
    }
    let (classes, below): (Vec<Id>, Vec<Pattern>) = parts.into_iter().unzip();
    Some(match term {
        Term::Value(id) => Pattern::Any(egraph.find(*id)),
        Term::Op(op, _) => Pattern::Node(Node::Op(op.clone(), classes.into()), below),
        Term::Sum(_) => Pattern::Node(Node::Sum(classes.into()), below),
    })
}

impl Pattern {
    /// Its nodes with their types, users before operands.
    pub fn nodes(&self, egraph: &EGraph) -> Vec<String> {
        let Pattern::Node(node, below) = self else { return vec![] };
        let listed = |types: Vec<&TensorType>| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let operands = listed(node.children().iter().flat_map(|&child| &egraph[child].data.types).collect());
        let results = egraph.lookup(node.clone()).map_or(vec![], |class| egraph[class].data.types.iter().collect());
        let name = match node {
            Node::Op(op, _) => op.to_string(),
            other => other.discriminant().to_string(),
        };
        let own = format!("{name} : ({operands}) -> {}", listed(results));
        std::iter::once(own).chain(below.iter().flat_map(|part| part.nodes(egraph))).collect()
    }
}
