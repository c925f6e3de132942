//! Text of the later stages: a graph followed by its schedule, and by its memory plan.

use super::lexer::{Cursor, Token};
use super::parse::parse_graph;
use super::print::print;
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, Value};
use crate::layout::{Layout, Layouts};
use crate::plan::{Action, Group, MemoryPlan, Place, Schedule, Segment};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// A schedule as text: its graph, then the axes of each value that is not stored in row-major order, outermost
/// first, then what is done, in order.
///
/// ```text
/// schedule {
///   layout %3 [0 2 1]
///   run [%2 %3] -> [%3]
///   check %3
/// }
/// ```
pub fn print_schedule(schedule: &Schedule) -> String {
    let mut out = print(&schedule.graph);
    out.push_str("schedule {\n");
    for (value, layout) in &schedule.layouts {
        let _ = writeln!(out, "  layout {value} [{}]", spaced(layout.order()));
    }
    for action in &schedule.actions {
        let _ = match action {
            Action::Run(Group { nodes, stored }) => {
                let nodes = nodes.iter().map(|&node| Value { node, result: 0 });
                writeln!(out, "  run [{}] -> [{}]", spaced(nodes), spaced(stored))
            }
            Action::CheckFinite(value) => writeln!(out, "  check {value}"),
        };
    }
    out.push_str("}\n");
    out
}

/// A memory plan as text: its schedule, then the size of the arena, all places and all commits, in bytes.
///
/// ```text
/// memory {
///   arena_bytes 128
///   %0 = host[0]+0
///   %1 = persistent+0
///   %3 = arena+64
///   commit arena+64 -> persistent+0 bytes 16
/// }
/// ```
pub fn print_plan(plan: &MemoryPlan) -> String {
    let mut out = print_schedule(&plan.schedule);
    let _ = writeln!(out, "memory {{\n  arena_bytes {}", plan.arena_bytes);
    for (value, place) in &plan.places {
        let _ = writeln!(out, "  {value} = {place}");
    }
    for (from, to, bytes) in &plan.commits {
        let _ = writeln!(out, "  commit {from} -> {to} bytes {bytes}");
    }
    out.push_str("}\n");
    out
}

fn spaced(items: impl IntoIterator<Item: fmt::Display>) -> String {
    items.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.segment {
            Segment::Arena => f.write_str("arena")?,
            Segment::Persistent => f.write_str("persistent")?,
            Segment::Constants => f.write_str("constants")?,
            Segment::Host(k) => write!(f, "host[{k}]")?,
        }
        write!(f, "+{}", self.offset_bytes)
    }
}

/// Reads what [`print_schedule`] prints. Values are those of the graph and ascend within a group.
pub fn parse_schedule(text: &str) -> Result<Schedule, Diagnostic> {
    let mut cursor = Cursor::new(text);
    let schedule = schedule(&mut cursor)?;
    cursor.end()?;
    Ok(schedule)
}

/// Reads what [`print_plan`] prints; whether the plan is right is for the memory verifier to say.
pub fn parse_plan(text: &str) -> Result<MemoryPlan, Diagnostic> {
    let mut cursor = Cursor::new(text);
    let schedule = schedule(&mut cursor)?;
    cursor.expect("memory")?;
    cursor.expect("{")?;
    cursor.expect("arena_bytes")?;
    let arena_bytes = bytes(&mut cursor)?;
    let mut places = BTreeMap::new();
    while let Some(Token::Value(_)) = cursor.peek() {
        let offset = cursor.offset();
        let value = value_of(&mut cursor, &schedule.graph)?;
        cursor.expect("=")?;
        if places.insert(value, place(&mut cursor)?).is_some() {
            let error = Diagnostic::new("duplicate-place", format!("{value} has two places"));
            return Err(cursor.place(offset, error));
        }
    }
    let mut commits = Vec::new();
    while !cursor.eat("}") {
        commits.push(commit(&mut cursor)?);
    }
    cursor.end()?;
    Ok(MemoryPlan { schedule, places, commits, arena_bytes })
}

fn schedule(cursor: &mut Cursor) -> Result<Schedule, Diagnostic> {
    let graph = parse_graph(cursor)?;
    let (mut layouts, mut actions) = (Layouts::new(), Vec::new());
    cursor.expect("schedule")?;
    cursor.expect("{")?;
    while cursor.eat("layout") {
        let offset = cursor.offset();
        let value = value_of(cursor, &graph)?;
        if layouts.insert(value, layout(cursor, &graph.ty(value).shape)?).is_some() {
            let error = Diagnostic::new("duplicate-layout", format!("{value} has two layouts"));
            return Err(cursor.place(offset, error));
        }
    }
    while !cursor.eat("}") {
        actions.push(if cursor.eat("check") {
            Action::CheckFinite(value_of(cursor, &graph)?)
        } else {
            Action::Run(group(cursor, &graph)?)
        });
    }
    Ok(Schedule { graph, layouts, actions })
}

/// The storage order of a tensor of `shape`, other than row-major.
fn layout(cursor: &mut Cursor, shape: &[usize]) -> Result<Layout, Diagnostic> {
    let offset = cursor.offset();
    cursor.expect("[")?;
    let mut order = Vec::new();
    while !cursor.eat("]") {
        order.push(cursor.int("an axis")?);
    }
    Layout::new(&order, shape).filter(|layout| layout.order() == order).ok_or_else(|| {
        let message = "a layout lists the axes in another order than row-major, those of extent 1 last";
        cursor.place(offset, Diagnostic::new("layout-order", message))
    })
}

fn group(cursor: &mut Cursor, graph: &Graph) -> Result<Group, Diagnostic> {
    cursor.expect("run")?;
    let offset = cursor.offset();
    let nodes = values(cursor, graph)?;
    cursor.expect("->")?;
    let stored = values(cursor, graph)?;
    let ascending = |values: &[Value]| values.is_sorted_by(|a, b| a < b);
    if !ascending(&nodes) || !ascending(&stored) || nodes.iter().any(|v| v.result != 0) {
        let error = Diagnostic::new("group-order", "a group lists its nodes and stored values in ascending order");
        return Err(cursor.place(offset, error));
    }
    Ok(Group { nodes: nodes.into_iter().map(|v| v.node).collect(), stored })
}

fn values(cursor: &mut Cursor, graph: &Graph) -> Result<Vec<Value>, Diagnostic> {
    cursor.expect("[")?;
    let mut values = Vec::new();
    while !cursor.eat("]") {
        values.push(value_of(cursor, graph)?);
    }
    Ok(values)
}

/// A value that the graph has.
fn value_of(cursor: &mut Cursor, graph: &Graph) -> Result<Value, Diagnostic> {
    let offset = cursor.offset();
    let value = cursor.value()?;
    let results = graph.nodes().get(value.node.index()).map_or(0, |n| n.types.len());
    if (value.result as usize) < results {
        return Ok(value);
    }
    Err(cursor.place(offset, Diagnostic::new("unknown-value", format!("the graph has no value {value}"))))
}

fn place(cursor: &mut Cursor) -> Result<Place, Diagnostic> {
    let segment = cursor.take("`arena`, `persistent`, `constants` or `host`", |t| match t {
        Token::Word("arena") => Some(Segment::Arena),
        Token::Word("persistent") => Some(Segment::Persistent),
        Token::Word("constants") => Some(Segment::Constants),
        Token::Word("host") => Some(Segment::Host(0)),
        _ => None,
    })?;
    let segment = if segment == Segment::Host(0) { host(cursor)? } else { segment };
    cursor.expect("+")?;
    Ok(Place { segment, offset_bytes: bytes(cursor)? })
}

fn host(cursor: &mut Cursor) -> Result<Segment, Diagnostic> {
    cursor.expect("[")?;
    let position = cursor.int("a position among the inputs of the host")?;
    cursor.expect("]")?;
    Ok(Segment::Host(position))
}

fn commit(cursor: &mut Cursor) -> Result<(Place, Place, usize), Diagnostic> {
    cursor.expect("commit")?;
    let from = place(cursor)?;
    cursor.expect("->")?;
    let to = place(cursor)?;
    cursor.expect("bytes")?;
    Ok((from, to, bytes(cursor)?))
}

fn bytes(cursor: &mut Cursor) -> Result<usize, Diagnostic> {
    cursor.int("a number of bytes")
}
