//! Text of the later stages: a graph followed by its schedule, and by its memory plan.

use super::lexer::{Cursor, Token};
use super::parse::parse_graph;
use super::print::print;
use crate::band::{Band, BandRun, LoopBand};
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, NodeId, Value};
use crate::layout::{Layout, Layouts};
use crate::plan::{Action, Group, MemoryLayout, MemoryPlan, Place, RegionMemory, RegionSchedule, Schedule, Segment};
use crate::region::RegionForm;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// A schedule as text: its graph, then the axes of each value that is not stored in row-major order, outermost
/// first, then the bands between loops of contractions, then what is done, in order. The bodies of a region follow it,
/// without their graphs, which its op says.
///
/// A band is listed by runs of rows: how many, then start and end of the first one's columns, each with what it moves by
/// from row to row.
///
/// ```text
/// schedule {
///   layout %3 [0 2 1]
///   band %3 rows 0 columns 1 of 64 [64: 0+0 1+1]
///   run [%2 %3] -> [%3]
///   check %3
///   region %4 {
///     run [%3] -> [%3]
///   }
///   run [%5 %6] -> [%6] rows {
///     run [%5] -> [%5]
///     run [%6] -> [%6]
///   }
/// }
/// ```
pub fn print_schedule(schedule: &Schedule) -> String {
    let mut out = print(&schedule.graph);
    out.push_str("schedule {\n");
    write_actions(&mut out, schedule, 1);
    out.push_str("}\n");
    out
}

fn write_actions(out: &mut String, schedule: &Schedule, depth: usize) {
    let margin = margin(depth);
    for (value, layout) in &schedule.layouts {
        let _ = writeln!(out, "{margin}layout {value} [{}]", spaced(layout.order()));
    }
    for (&node, bands) in &schedule.bands {
        bands.iter().for_each(|band| write_band(out, node, band, &margin));
    }
    for action in &schedule.actions {
        let _ = match action {
            Action::Run(group) => {
                write_group(out, group, depth);
                Ok(())
            }
            Action::CheckFinite(value) => writeln!(out, "{margin}check {value}"),
            Action::Region(region) => {
                let _ = write!(out, "{margin}region {}", first_result(region.node));
                for body in &region.bodies {
                    out.push_str(" {\n");
                    write_actions(out, body, depth + 1);
                    let _ = write!(out, "{margin}}}");
                }
                writeln!(out)
            }
        };
    }
}

fn write_band(out: &mut String, node: NodeId, LoopBand { row, column, band }: &LoopBand, margin: &str) {
    let run = |BandRun { first, steps, rows }: BandRun| {
        format!("{rows}: {}+{} {}+{}", first.start, steps[0], first.end, steps[1])
    };
    let (of, runs) = (band.columns(), spaced(band.runs().into_iter().map(run)));
    let _ = writeln!(out, "{margin}band {} rows {row} columns {column} of {of} [{runs}]", first_result(node));
}

fn write_group(out: &mut String, Group { nodes, stored, steps }: &Group, depth: usize) {
    let margin = margin(depth);
    let nodes = nodes.iter().map(|&node| first_result(node));
    let _ = write!(out, "{margin}run [{}] -> [{}]", spaced(nodes), spaced(stored));
    if !steps.is_empty() {
        out.push_str(" rows {\n");
        steps.iter().for_each(|step| write_group(out, step, depth + 1));
        let _ = write!(out, "{margin}}}");
    }
    out.push('\n');
}

fn first_result(node: NodeId) -> Value {
    Value { node, result: 0 }
}

fn margin(depth: usize) -> String {
    "  ".repeat(depth)
}

/// A memory plan as text: its schedule, then the size of the arena, all places, the memory of the regions' bodies from an
/// offset in the arena on, and all commits, in bytes.
///
/// ```text
/// memory {
///   arena_bytes 128
///   %0 = host[0]+0
///   %1 = persistent+0
///   %3 = arena+64
///   region %4 arena+0 {
///     arena_bytes 64
///     %0 = argument[0]+0
///     %3 = arena+0
///     commit arena+0 -> argument[0]+0 bytes 16
///   }
///   commit arena+64 -> persistent+0 bytes 16
/// }
/// ```
pub fn print_plan(plan: &MemoryPlan) -> String {
    let mut out = print_schedule(&plan.schedule);
    out.push_str("memory {\n");
    write_memory(&mut out, &plan.memory, 1);
    out.push_str("}\n");
    out
}

fn write_memory(out: &mut String, memory: &MemoryLayout, depth: usize) {
    let margin = margin(depth);
    let _ = writeln!(out, "{margin}arena_bytes {}", memory.arena_bytes);
    for (value, place) in &memory.places {
        let _ = writeln!(out, "{margin}{value} = {place}");
    }
    for (&node, region) in &memory.regions {
        let work = Place { segment: Segment::Arena, offset_bytes: region.work_offset_bytes };
        let _ = write!(out, "{margin}region {} {work}", first_result(node));
        for body in &region.bodies {
            out.push_str(" {\n");
            write_memory(out, body, depth + 1);
            let _ = write!(out, "{margin}}}");
        }
        out.push('\n');
    }
    for (from, to, bytes) in &memory.commits {
        let _ = writeln!(out, "{margin}commit {from} -> {to} bytes {bytes}");
    }
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
            Segment::Argument(k) => write!(f, "argument[{k}]")?,
            Segment::Result(k) => write!(f, "result[{k}]")?,
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
    let memory = memory(&mut cursor, &schedule)?;
    cursor.end()?;
    Ok(MemoryPlan { schedule, memory })
}

/// Everything up to the closing brace.
fn memory(cursor: &mut Cursor, schedule: &Schedule) -> Result<MemoryLayout, Diagnostic> {
    cursor.expect("arena_bytes")?;
    let arena_bytes = bytes(cursor)?;
    let mut places = BTreeMap::new();
    while let Some(Token::Value(_)) = cursor.peek() {
        let offset = cursor.offset();
        let value = value_of(cursor, &schedule.graph)?;
        cursor.expect("=")?;
        if places.insert(value, place(cursor)?).is_some() {
            let error = Diagnostic::new("duplicate-place", format!("{value} has two places"));
            return Err(cursor.place(offset, error));
        }
    }
    let mut regions = BTreeMap::new();
    while cursor.eat("region") {
        let offset = cursor.offset();
        let (node, memory) = region_memory(cursor, schedule)?;
        if regions.insert(node, memory).is_some() {
            let error = Diagnostic::new("duplicate-place", format!("{} has two places", first_result(node)));
            return Err(cursor.place(offset, error));
        }
    }
    let mut commits = Vec::new();
    while !cursor.eat("}") {
        commits.push(commit(cursor)?);
    }
    Ok(MemoryLayout { places, commits, arena_bytes, regions })
}

fn region_memory(cursor: &mut Cursor, schedule: &Schedule) -> Result<(NodeId, RegionMemory), Diagnostic> {
    let offset = cursor.offset();
    let node = value_of(cursor, &schedule.graph)?.node;
    let scheduled = schedule.actions.iter().find_map(|a| match a {
        Action::Region(region) if region.node == node => Some(region),
        _ => None,
    });
    let scheduled = scheduled.ok_or_else(|| cursor.place(offset, no_region(node)))?;
    let offset = cursor.offset();
    let work = place(cursor)?;
    if work.segment != Segment::Arena {
        return Err(cursor.place(offset, Diagnostic::new("syntax", "bodies work in the arena").found(work)));
    }
    let mut bodies = Vec::new();
    for body in &scheduled.bodies {
        cursor.expect("{")?;
        bodies.push(memory(cursor, body)?);
    }
    Ok((node, RegionMemory { work_offset_bytes: work.offset_bytes, bodies }))
}

fn no_region(node: NodeId) -> Diagnostic {
    Diagnostic::new("unknown-region", format!("{} is no region that is scheduled", first_result(node)))
}

fn schedule(cursor: &mut Cursor) -> Result<Schedule, Diagnostic> {
    let graph = parse_graph(cursor)?;
    cursor.expect("schedule")?;
    cursor.expect("{")?;
    actions(cursor, graph)
}

/// Layouts and actions up to the closing brace.
fn actions(cursor: &mut Cursor, graph: Graph) -> Result<Schedule, Diagnostic> {
    let (mut layouts, mut actions) = (Layouts::new(), Vec::new());
    while cursor.eat("layout") {
        let offset = cursor.offset();
        let value = value_of(cursor, &graph)?;
        if layouts.insert(value, layout(cursor, &graph.ty(value).shape)?).is_some() {
            let error = Diagnostic::new("duplicate-layout", format!("{value} has two layouts"));
            return Err(cursor.place(offset, error));
        }
    }
    let mut bands: BTreeMap<NodeId, Vec<LoopBand>> = BTreeMap::new();
    while cursor.eat("band") {
        let node = value_of(cursor, &graph)?.node;
        bands.entry(node).or_default().push(band(cursor, &graph, node)?);
    }
    while !cursor.eat("}") {
        actions.push(if cursor.eat("check") {
            Action::CheckFinite(value_of(cursor, &graph)?)
        } else if cursor.eat("region") {
            Action::Region(region(cursor, &graph)?)
        } else {
            Action::Run(group(cursor, &graph)?)
        });
    }
    Ok(Schedule { graph, layouts, bands, actions })
}

fn region(cursor: &mut Cursor, graph: &Graph) -> Result<RegionSchedule, Diagnostic> {
    let offset = cursor.offset();
    let node = value_of(cursor, graph)?.node;
    let form = RegionForm::of_node(graph, node).ok_or_else(|| cursor.place(offset, no_region(node)))?;
    let mut bodies = Vec::new();
    for frame in form.frames() {
        cursor.expect("{")?;
        bodies.push(actions(cursor, frame)?);
    }
    Ok(RegionSchedule { node, bodies })
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

/// A band between two loops of a node, whose rows and columns are no more than its operands and results have elements.
fn band(cursor: &mut Cursor, graph: &Graph, node: NodeId) -> Result<LoopBand, Diagnostic> {
    let offset = cursor.offset();
    let values = graph.node(node).operands.iter().copied().chain(graph.results(node));
    let most = values.map(|value| graph.ty(value).elements()).max().unwrap_or(0);
    cursor.expect("rows")?;
    let row = cursor.int("a loop")?;
    cursor.expect("columns")?;
    let column = cursor.int("a loop")?;
    cursor.expect("of")?;
    let (columns, mut rows, mut runs) = (cursor.int::<usize>("a number of columns")?, 0usize, vec![]);
    cursor.expect("[")?;
    while !cursor.eat("]") {
        let run = band_run(cursor)?;
        rows = rows.saturating_add(run.rows);
        runs.push(run);
    }
    let band = Some(columns).filter(|&columns| columns.max(rows) <= most).and_then(|n| Band::of_runs(&runs, n));
    let wrong = || {
        let message = "a band has a part of the columns in each row, and every column in some row";
        cursor.place(offset, Diagnostic::new("band-columns", message))
    };
    Ok(LoopBand { row, column, band: band.ok_or_else(wrong)? })
}

fn band_run(cursor: &mut Cursor) -> Result<BandRun, Diagnostic> {
    let rows = cursor.int("a number of rows")?;
    cursor.expect(":")?;
    let mut column = || {
        let first: usize = cursor.int("a column")?;
        cursor.expect("+")?;
        Ok((first, cursor.int::<i64>("a number of columns")?))
    };
    let ((start, start_step), (end, end_step)) = (column()?, column()?);
    Ok(BandRun { first: start..end, steps: [start_step, end_step], rows })
}

fn group(cursor: &mut Cursor, graph: &Graph) -> Result<Group, Diagnostic> {
    let offset = cursor.offset();
    let mut group = group_without_steps(cursor, graph)?;
    if cursor.eat("rows") {
        cursor.expect("{")?;
        while !cursor.eat("}") {
            group.steps.push(group_without_steps(cursor, graph)?);
        }
        let nodes: BTreeSet<NodeId> = group.steps.iter().flat_map(|step| &step.nodes).copied().collect();
        if !nodes.iter().eq(&group.nodes) {
            let error = Diagnostic::new("group-order", "the nodes of a group are those of its steps");
            return Err(cursor.place(offset, error));
        }
    }
    Ok(group)
}

fn group_without_steps(cursor: &mut Cursor, graph: &Graph) -> Result<Group, Diagnostic> {
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
    Ok(Group { nodes: nodes.into_iter().map(|v| v.node).collect(), stored, steps: vec![] })
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
    let expected = "`arena`, `persistent`, `constants`, `host`, `argument` or `result`";
    let word = cursor.take(expected, |t| match t {
        Token::Word(word @ ("arena" | "persistent" | "constants" | "host" | "argument" | "result")) => Some(word),
        _ => None,
    })?;
    let segment = match word {
        "arena" => Segment::Arena,
        "persistent" => Segment::Persistent,
        "constants" => Segment::Constants,
        "host" => Segment::Host(position(cursor)?),
        "argument" => Segment::Argument(position(cursor)?),
        _ => Segment::Result(position(cursor)?),
    };
    cursor.expect("+")?;
    Ok(Place { segment, offset_bytes: bytes(cursor)? })
}

fn position(cursor: &mut Cursor) -> Result<u32, Diagnostic> {
    cursor.expect("[")?;
    let position = cursor.int("a position")?;
    cursor.expect("]")?;
    Ok(position)
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
