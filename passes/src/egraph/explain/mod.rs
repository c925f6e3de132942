//! What the optimizer did and why: counts per window, and every rewrite from the original to the result.

mod derive;
mod forest;
mod replayed;
mod text;
mod totals;
mod ways;
mod witness;

use super::analysis::EGraph;
use super::extract::Extraction;
use super::frame::Frame;
use super::rules::{Family, NumericClass, Rule, RuleIndex};
use super::saturate::{Application, Saturated, StopReason};
use crate::cost::Cost;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Graph;
use gradc_ir::target::Target;
use gradc_ir::types::TypeError;
use replayed::Replayer;
use serde::Serialize;
use witness::{Pattern, Witness, witness};

pub use totals::RuleTotals;

/// Name of what no rule is named for.
const UNTOLD: &str = "several rewrites at once";

/// What [`optimize`](super::optimize) did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptimizeReport {
    /// The graph as it came in.
    pub before: Totals,
    /// The graph as it went out.
    pub after: Totals,
    /// The windows, in order.
    pub windows: Vec<WindowReport>,
}

/// Size and estimated cost of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Nodes, inputs included.
    pub nodes: usize,
    /// Estimated cost.
    pub cost: Cost,
}

/// What happened in one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    /// Where its first node comes from.
    pub place: String,
    /// Ops before.
    pub nodes_before: usize,
    /// Ops after.
    pub nodes_after: usize,
    /// E-nodes when exploring stopped.
    pub e_nodes: usize,
    /// Rounds of matching that found something.
    pub iterations: usize,
    /// Why exploring stopped.
    pub stop: StopReason,
    /// Whether an equal window was solved before and its solution used again.
    pub stamped: bool,
    /// The rewrites from the original to the result, where they were asked for.
    pub rewrites: Vec<Rewrite>,
    /// The window before and after, where they were asked for.
    #[serde(skip)]
    pub programs: Option<[Graph; 2]>,
}

/// One rewrite of a window. Each starts from the program that the one before ended with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rewrite {
    /// Name of the rule; `None` for several rewrites at once that could not be told apart.
    pub rule: Option<&'static str>,
    /// Its family.
    pub family: Option<Family>,
    /// What it may change.
    pub class: NumericClass,
    /// What the rule says it replaces, by what, and when.
    pub statement: String,
    /// Whether the rule was used from its right side to its left.
    pub reversed: bool,
    /// Whether it only made the match of a later rewrite possible.
    pub enabling: bool,
    /// The nodes the rule matched. On these alone it was run again, so that its guard is known to hold for them.
    pub matched: Vec<String>,
    /// The nodes that they were found equal to.
    pub made: Vec<String>,
    /// Where it happened.
    pub place: String,
    /// Change in scalar operations of the window, or of one step of it where it is in a loop that is folded.
    pub delta_flops: f64,
    /// Change in bytes moved by it.
    pub delta_bytes: f64,
    /// What running the programs before and after showed.
    pub replay: Replay,
    /// The programs before and after, where they do not agree.
    #[serde(skip)]
    pub disagreeing: Option<Box<[Graph; 2]>>,
}

impl Rewrite {
    /// The diagnostic of a rewrite that is wrong: the class of its rule promises more than its replay shows.
    pub fn bug(&self) -> Diagnostic {
        let rule = self.rule.unwrap_or(UNTOLD);
        Diagnostic::new("internal-replay", format!("rewrite `{rule}` at {} changes what is computed", self.place))
            .expected(self.class)
            .found(&self.replay)
    }
}

/// What running two programs side by side in the interpreter showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// All outputs have the same bits.
    Equal {
        /// Random inputs they were run on.
        inputs: usize,
    },
    /// All outputs are equal up to rounding in another order.
    Close {
        /// Random inputs they were run on.
        inputs: usize,
        /// Largest difference over the largest magnitude of an output.
        error: f64,
    },
    /// The outputs differ by more than the rule's class allows, which is a bug in gradc.
    Differs {
        /// Largest difference: absolute ([`replay`](super::replay())) where bits are to be equal, else relative.
        difference: f64,
    },
    /// They were not run.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// A rewrite of a window, its place still a node of the window.
#[derive(Clone, Debug)]
pub struct Step {
    /// The rewrite without its place.
    pub rewrite: Rewrite,
    /// Node of the window.
    pub place: u32,
}

impl Step {
    /// The step as the report shows it.
    pub fn at(&self, place: String) -> Rewrite {
        Rewrite { place, ..self.rewrite.clone() }
    }
}

/// One rewrite of a whole window.
pub struct Change {
    /// Position in the rule list; `None` for several at once that could not be told apart.
    pub rule: Option<usize>,
    /// Whether the replacement was turned into what the rule matches.
    pub reversed: bool,
    /// Whether it only made the match of a later one possible.
    pub enabling: bool,
    /// The nodes the rule matched.
    pub matched: Vec<String>,
    /// The nodes that they were found equal to.
    pub made: Vec<String>,
    /// Node of the window that it happened at.
    pub place: u32,
    /// The window afterwards.
    pub program: Graph,
}

impl Change {
    /// An application carried out as it was found.
    pub fn direct(egraph: &EGraph, done: &Application, rules: &RuleIndex, place: u32, program: Graph) -> Change {
        let witness = witness(egraph, done, rules.rule(done.rule), |_, _| 0);
        let nodes = |side: fn(&Witness) -> &Pattern| witness.as_ref().map(|w| side(w).nodes(egraph));
        Change {
            rule: Some(done.rule),
            reversed: false,
            enabling: false,
            matched: nodes(|w| &w.matched).unwrap_or_default(),
            made: nodes(|w| &w.made).unwrap_or_default(),
            place,
            program,
        }
    }
}

/// Every rewrite from a window to the one extracted, priced and replayed.
pub fn explain(
    window: &Graph,
    saturated: &Saturated,
    extraction: &Extraction,
    rules: &RuleIndex,
    target: &Target,
) -> Result<Vec<Step>, TypeError> {
    let changes = derive::derive(window, saturated, extraction, rules)?;
    Ok(steps(window, &saturated.egraph.analysis.frame, &changes, rules, target))
}

/// The changes of a window, each priced and replayed against the one before.
pub fn steps(window: &Graph, frame: &Frame, changes: &[Change], rules: &RuleIndex, target: &Target) -> Vec<Step> {
    let mut replayer = Replayer::new(window, target);
    let (mut before, mut cost) = (window, frame.cost(window, target));
    let mut steps = Vec::with_capacity(changes.len());
    for change in changes {
        let after = frame.cost(&change.program, target);
        let mut rewrite = described(rules, change);
        (rewrite.delta_flops, rewrite.delta_bytes) = (after.flops - cost.flops, after.bytes - cost.bytes);
        rewrite.replay = replayer.compare(before, &change.program, rewrite.class);
        if matches!(rewrite.replay, Replay::Differs { .. }) {
            rewrite.disagreeing = Some(Box::new([before.clone(), change.program.clone()]));
        }
        steps.push(Step { rewrite, place: change.place });
        (before, cost) = (&change.program, after);
    }
    steps
}

/// A rewrite in words, not yet priced or replayed.
fn described(rules: &RuleIndex, change: &Change) -> Rewrite {
    let rule = change.rule.map(|k| rules.rule(k));
    Rewrite {
        rule: rule.map(|r| r.name),
        family: rule.map(|r| r.family),
        class: rule.map_or(rules.most(), |r| r.class),
        statement: rule.map_or_else(String::new, statement),
        reversed: change.reversed,
        enabling: change.enabling,
        matched: change.matched.clone(),
        made: change.made.clone(),
        place: String::new(),
        delta_flops: 0.0,
        delta_bytes: 0.0,
        replay: Replay::Skipped { reason: String::new() },
        disagreeing: None,
    }
}

fn statement(rule: &Rule) -> String {
    let guard = if rule.guard.is_empty() { String::new() } else { format!(" if {}", rule.guard) };
    format!("{} => {}{guard}", rule.pattern, rule.replacement)
}
