//! The e-graph optimizer: rewrites by equality saturation in bounded windows.
//!
//! `optimize` runs after differentiation (it removes gradient borders such as stop-gradients). It never changes what
//! is computed: every rule is bitwise on the interpreter, or re-associates within a bound where that is allowed.
//! Nothing here depends on time, addresses or hash order.
//!
//! 1. Dead nodes and repeated nodes go, on the whole graph.
//! 2. The graph is cut into [windows](window).
//! 3. Each window is [explored](saturate) with the [rules](rules); equal windows are solved once.
//! 4. The cheapest equivalent of each window is [extracted](extract), and [explained](explain).
//! 5. The windows are put together again.

mod analysis;
pub mod explain;
mod extract;
mod fold;
mod frame;
mod greedy;
mod language;
mod order;
mod replay;
pub mod rules;
pub mod saturate;
mod window;

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod laws;

pub use fold::fold_loops;
pub use replay::replay;

use explain::{OptimizeReport, Step, Totals, WindowReport};
use frame::Frame;
use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::{Graph, NodeId, Output, Value};
use gradc_ir::target::Target;
use gradc_ir::types::TypeError;
use order::Time;
use rules::{Family, NumericClass, RuleIndex};
use saturate::{Limits, StopReason, saturate};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use window::Window;

/// How a window is searched for a cheaper equivalent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Everything the rules make is kept, the cheapest is chosen at the end.
    #[default]
    Saturate,
    /// A rule is applied only where it makes the window cheaper at once.
    Greedy,
}

/// How to optimize.
#[derive(Clone, Debug)]
pub struct OptimizeOptions {
    /// Which rules are used.
    pub families: BTreeSet<Family>,
    /// How windows are searched.
    pub strategy: Strategy,
    /// The most that a rewrite may change.
    pub fp: NumericClass,
    /// The machine that costs are estimated for.
    pub target: Target,
    /// How far each window is explored.
    pub limits: Limits,
    /// Most ops in a window.
    pub window_nodes: usize,
    /// Whether the report has every rewrite, priced and replayed.
    pub explain: bool,
}

impl OptimizeOptions {
    /// Every family, nothing that changes a bit, and the default limits, for a target.
    pub fn new(target: Target) -> Self {
        OptimizeOptions {
            families: Family::ALL.into(),
            strategy: Strategy::default(),
            fp: NumericClass::Bitwise,
            target,
            limits: Limits::default(),
            window_nodes: 500,
            explain: false,
        }
    }
}

/// A cheaper graph with the same inputs and outputs, equal as far as `options.fp` says, and what was done to get there.
///
/// Inputs keep their order, unused ones too; outputs keep order, name and kind. Every node carries the place of the
/// node it comes from. An error is a bug in gradc, never the user's.
pub fn optimize(graph: &Graph, options: &OptimizeOptions) -> Result<(Graph, OptimizeReport), Diagnostic> {
    optimize_in(graph, &Frame::default(), options)
        .map_err(|e| Diagnostic::from_type_error("optimizer-bug", e, Loc::default()))
}

/// [`optimize`] of a graph that stands in `frame`.
fn optimize_in(graph: &Graph, frame: &Frame, options: &OptimizeOptions) -> Result<(Graph, OptimizeReport), TypeError> {
    let rules = RuleIndex::of(&options.families, options.fp);
    let bitwise =
        (rules.most() > NumericClass::Bitwise).then(|| RuleIndex::of(&options.families, NumericClass::Bitwise));
    optimize_with(graph, frame, options, &Rules { first: bitwise.as_ref(), all: &rules })
}

/// The rules that a window is searched with.
struct Rules<'a> {
    /// Some of them, if these are also to be tried by themselves first.
    first: Option<&'a RuleIndex>,
    all: &'a RuleIndex,
}

/// The same with other rules.
fn optimize_with(
    graph: &Graph,
    frame: &Frame,
    options: &OptimizeOptions,
    rules: &Rules,
) -> Result<(Graph, OptimizeReport), TypeError> {
    let graph = &deduplicate(&graph.without_dead_nodes())?;
    let windows = window::cut(graph, frame, options.window_nodes)?;
    let mut solved: HashMap<(&Graph, &[Time], &Frame), Rc<Solution>> = HashMap::new();
    let mut solutions = Vec::with_capacity(windows.len());
    let mut reports = Vec::with_capacity(windows.len());
    for window in &windows {
        let key = (&window.program, &window.times[..], &window.frame);
        let known = solved.get(&key).cloned();
        let solution = match &known {
            Some(solution) => solution.clone(),
            None => Rc::new(solve(window, options, rules)?),
        };
        solved.insert(key, solution.clone());
        debug_assert!(respects_order(window, &solution.program), "extraction keeps to the order of the graph");
        reports.push(report(graph, window, &solution, options.explain, known.is_some()));
        solutions.push(solution);
    }
    // what every window has for itself is made once again
    let after = deduplicate(&assemble(graph, &windows, &solutions)?)?.without_dead_nodes();
    let report = OptimizeReport {
        before: totals(graph, frame, &options.target),
        after: totals(&after, frame, &options.target),
        windows: reports,
    };
    Ok((after, report))
}

/// What became of a window.
struct Solution {
    program: Graph,
    /// Node of the window's own program that each node of `program` comes from.
    places: Vec<u32>,
    steps: Vec<Step>,
    e_nodes: usize,
    iterations: usize,
    stop: StopReason,
}

impl Solution {
    /// What became of a window, `self` being what became of the end of `first`.
    fn after(self, first: Solution) -> Solution {
        let places = self.places.iter().map(|&at| first.places[at as usize]).collect();
        let steps = self.steps.into_iter().map(|step| Step { place: first.places[step.place as usize], ..step });
        Solution {
            places,
            steps: first.steps.into_iter().chain(steps).collect(),
            e_nodes: self.e_nodes.max(first.e_nodes),
            iterations: self.iterations + first.iterations,
            ..self
        }
    }
}

fn unchanged(program: &Graph) -> Solution {
    let places = program.node_ids().map(|id| id.0).collect();
    let stop = StopReason::Saturated;
    Solution { program: program.clone(), places, steps: vec![], e_nodes: program.nodes().len(), iterations: 0, stop }
}

/// The cheapest end of a window that is found with all rules, from where it is or from where those tried first end.
///
/// What re-association may do takes fuel from what keeps every bit; it never comes out dearer than without.
fn solve(window: &Window, options: &OptimizeOptions, rules: &Rules) -> Result<Solution, TypeError> {
    let straight = search(window, options, rules.all)?;
    let Some(first) = rules.first else { return Ok(straight) };
    let kept = search(window, options, first)?;
    let further = search(&window.with_program(&kept.program, &kept.places), options, rules.all)?.after(kept);
    let time_ns = |solution: &Solution| window.frame.cost(&solution.program, &options.target).time_ns;
    Ok(if time_ns(&further) < time_ns(&straight) { further } else { straight })
}

fn search(window: &Window, options: &OptimizeOptions, rules: &RuleIndex) -> Result<Solution, TypeError> {
    match options.strategy {
        Strategy::Saturate => solve_by_saturation(window, options, rules),
        Strategy::Greedy => {
            let end = greedy::improve(window, rules, &options.limits, &options.target)?;
            let e_nodes = end.program.nodes().len();
            let iterations = end.sweeps;
            let steps = match options.explain {
                true => explain::steps(&window.program, &window.frame, &end.changes, rules, &options.target),
                false => vec![],
            };
            let (program, places, stop) = (end.program, end.places, end.stop);
            Ok(Solution { program, places, steps, e_nodes, iterations, stop })
        }
    }
}

fn solve_by_saturation(window: &Window, options: &OptimizeOptions, rules: &RuleIndex) -> Result<Solution, TypeError> {
    let program = &window.program;
    let saturated = saturate(program, &window.frame, rules, &options.limits);
    let counts = |solution: Solution| Solution {
        e_nodes: saturated.egraph.nodes().len(),
        iterations: saturated.iterations,
        stop: saturated.stop.clone(),
        ..solution
    };
    if saturated.applications.is_empty() || matches!(saturated.stop, StopReason::Poisoned(_)) {
        return Ok(counts(unchanged(program)));
    }
    let best = extract::extract(program, &window.times, &saturated, &options.target)?;
    let steps = match options.explain {
        true => explain::explain(program, &saturated, &best, rules, &options.target)?,
        false => vec![],
    };
    Ok(counts(Solution { program: best.graph, places: best.places, steps, ..unchanged(program) }))
}

/// Whether every output is made only from values that exist before it does in the whole graph, as [`order`] promises.
fn respects_order(window: &Window, program: &Graph) -> bool {
    let mut ready: Vec<Option<NodeId>> = Vec::with_capacity(program.nodes().len());
    for (k, node) in program.nodes().iter().enumerate() {
        let of_operands = node.operands.iter().filter_map(|v| ready[v.node.index()]).max();
        ready.push(window.leaves.get(k).map(|leaf| leaf.node).or(of_operands));
    }
    let in_order = |(output, old): (&Output, &Value)| ready[output.value.node.index()] < Some(old.node);
    program.outputs().iter().zip(&window.outputs).all(in_order)
}

fn report(graph: &Graph, window: &Window, solution: &Solution, explain: bool, stamped: bool) -> WindowReport {
    let place = |at: u32| graph.loc(window.origin(at)).to_string();
    WindowReport {
        place: graph.loc(window.first()).to_string(),
        nodes_before: window.nodes.len(),
        nodes_after: solution.program.nodes().len() - window.leaves.len(),
        e_nodes: solution.e_nodes,
        iterations: solution.iterations,
        stop: solution.stop.clone(),
        stamped,
        rewrites: solution.steps.iter().map(|s| s.at(place(s.place))).collect(),
        programs: explain.then(|| [window.program.clone(), solution.program.clone()]),
    }
}

/// The graph with equal nodes made once.
fn deduplicate(graph: &Graph) -> Result<Graph, TypeError> {
    let mut copy = Rebuild::of_inputs(graph)?;
    for id in graph.node_ids() {
        if let Some(op) = graph.op(id) {
            let operands: Vec<Value> = graph.node(id).operands.iter().map(|v| copy.values[v]).collect();
            copy.set_loc(graph.loc(id));
            let results = copy.builder.apply(op.clone(), &operands)?;
            copy.values.extend(graph.results(id).zip(results));
        }
    }
    Ok(copy.finish(graph))
}

/// The graph with every window replaced by its solution.
fn assemble(graph: &Graph, windows: &[Window], solutions: &[Rc<Solution>]) -> Result<Graph, TypeError> {
    let mut copy = Rebuild::of_inputs(graph)?;
    let mut made: Vec<HashMap<NodeId, Vec<Value>>> = vec![HashMap::new(); windows.len()];
    let mut wanted: Vec<(Value, usize, Value)> = Vec::new();
    for (k, (window, solution)) in windows.iter().zip(solutions).enumerate() {
        let outputs = window.outputs.iter().zip(solution.program.outputs());
        wanted.extend(outputs.map(|(&old, output)| (old, k, output.value)));
    }
    // every output of a window needs only outputs before it, so the graph's own order works
    wanted.sort_unstable();
    for (old, k, value) in wanted {
        copy.emit(graph, &windows[k], &solutions[k], &mut made[k], value.node)?;
        copy.values.insert(old, made[k][&value.node][value.result as usize]);
    }
    Ok(copy.finish(graph))
}

/// A graph being rebuilt from another one.
struct Rebuild {
    builder: Builder,
    loc: Loc,
    /// New values by old ones.
    values: HashMap<Value, Value>,
}

impl Rebuild {
    /// Starts with the inputs.
    fn of_inputs(graph: &Graph) -> Result<Rebuild, TypeError> {
        let mut copy =
            Rebuild { builder: Builder::new(graph.name.clone()), loc: Loc::default(), values: HashMap::new() };
        for input in graph.inputs() {
            copy.set_loc(graph.loc(input.value.node));
            let default = input.default.map(|v| v.get());
            let value = copy.builder.declare(&input.name, input.role, graph.ty(input.value).clone(), default)?;
            copy.values.insert(input.value, value);
        }
        Ok(copy)
    }

    fn set_loc(&mut self, loc: &Loc) {
        if self.loc != *loc {
            self.loc = loc.clone();
            self.builder.set_loc(loc.clone());
        }
    }

    /// Makes a node of a window's solution, and before it what it needs.
    fn emit(
        &mut self,
        graph: &Graph,
        window: &Window,
        solution: &Solution,
        made: &mut HashMap<NodeId, Vec<Value>>,
        target: NodeId,
    ) -> Result<(), TypeError> {
        let program = &solution.program;
        let mut stack = vec![target];
        while let Some(&id) = stack.last() {
            let missing = program.node(id).operands.iter().map(|v| v.node).find(|n| !made.contains_key(n));
            if let Some(operand) = missing.filter(|_| !made.contains_key(&id)) {
                stack.push(operand);
                continue;
            }
            stack.pop();
            if made.contains_key(&id) {
                continue;
            }
            let results = match program.op(id) {
                None => vec![self.values[&window.leaves[id.index()]]],
                Some(op) => {
                    let operand = |v: &Value| made[&v.node][v.result as usize];
                    let operands: Vec<Value> = program.node(id).operands.iter().map(operand).collect();
                    self.set_loc(graph.loc(window.origin(solution.places[id.index()])));
                    self.builder.apply(op.clone(), &operands)?
                }
            };
            made.insert(id, results);
        }
        Ok(())
    }

    /// Ends with the outputs.
    fn finish(mut self, graph: &Graph) -> Graph {
        for output in graph.outputs() {
            self.builder.output(&output.name, self.values[&output.value], output.kind);
        }
        self.builder.finish()
    }
}

/// Size and estimated cost of a graph, of one step where it is in a loop.
fn totals(graph: &Graph, frame: &Frame, target: &Target) -> Totals {
    Totals { nodes: graph.nodes().len(), cost: frame.cost(graph, target) }
}
