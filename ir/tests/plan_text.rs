//! Text of schedules and memory plans.

use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::plan::{Action, Group, MemoryPlan, Place, Segment};
use gradc_ir::text::{parse_plan, parse_schedule, print_plan, print_schedule};

const GRAPH: &str = r#"graph "step" {
  %0 = input "x" : f32[4]
  %1 = parameter "w" : f32[4]
  %2 = mul %0, %1 : f32[4]
  %3 = exp %2 : f32[4]
  checked "y" %3
  update "w" %3
}
"#;

const SCHEDULE: &str = "schedule {
  run [%2 %3] -> [%3]
  check %3
}
";

const MEMORY: &str = "memory {
  arena_bytes 128
  %0 = host[3]+0
  %1 = persistent+0
  %2 = constants+64
  %3 = arena+64
  commit arena+64 -> persistent+0 bytes 16
}
";

fn plan() -> MemoryPlan {
    parse_plan(&[GRAPH, SCHEDULE, MEMORY].concat()).unwrap_or_else(|e| panic!("{e}"))
}

fn value(node: u32) -> Value {
    Value { node: NodeId(node), result: 0 }
}

#[test]
fn the_text_means_what_it_says() {
    let plan = plan();
    let group = Group { nodes: vec![NodeId(2), NodeId(3)], stored: vec![value(3)], steps: vec![] };
    assert_eq!(plan.schedule.actions, [Action::Run(group), Action::CheckFinite(value(3))]);
    let place = |segment, offset_bytes| Place { segment, offset_bytes };
    assert_eq!(plan.memory.places[&value(0)], place(Segment::Host(3), 0));
    assert_eq!(plan.memory.places[&value(2)], place(Segment::Constants, 64));
    assert_eq!(plan.memory.commits, [(place(Segment::Arena, 64), place(Segment::Persistent, 0), 16)]);
    assert_eq!(plan.memory.arena_bytes, 128);
}

#[test]
fn plans_and_schedules_print_as_they_are_written() {
    assert_eq!(print_plan(&plan()), [GRAPH, SCHEDULE, MEMORY].concat());
    let schedule = parse_schedule(&[GRAPH, SCHEDULE].concat()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print_schedule(&schedule), [GRAPH, SCHEDULE].concat());
    assert_eq!(schedule, plan().schedule);
}

#[test]
fn wrong_plans_are_told() {
    let code = |from: &str, to: &str| {
        let text = [GRAPH, SCHEDULE, MEMORY].concat().replacen(from, to, 1);
        parse_plan(&text).map_err(|e: Diagnostic| (e.code, e.loc.line)).expect_err("the text is wrong")
    };
    assert_eq!(code("[%2 %3]", "[%3 %2]"), ("group-order", 10));
    assert_eq!(code("[%2 %3]", "[%2 %2]"), ("group-order", 10));
    assert_eq!(code("check %3", "check %4"), ("unknown-value", 11));
    assert_eq!(code("check %3", "check %3.1"), ("unknown-value", 11));
    assert_eq!(code("%1 = pers", "%0 = pers"), ("duplicate-place", 16));
    assert_eq!(code("host[3]", "host[-1]"), ("syntax", 15));
    assert_eq!(code("arena_bytes 128", "arena_bytes -128"), ("syntax", 14));
    assert_eq!(code("arena+64\n", "heap+64\n"), ("syntax", 18));
    assert_eq!(code("bytes 16", "16"), ("syntax", 19));
    assert_eq!(code("}\nmemory", "}\n"), ("syntax", 13));
}

const ROWS: &str = "schedule {
  run [%2 %3] -> [%3] rows {
    run [%2] -> [%2]
    run [%3] -> [%3]
  }
  check %3
}
";

#[test]
fn steps_of_a_group_print_as_they_are_written() {
    let parse = |schedule: &str| parse_schedule(&[GRAPH, schedule].concat());
    let schedule = parse(ROWS).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print_schedule(&schedule), [GRAPH, ROWS].concat());
    let Action::Run(group) = &schedule.actions[0] else { panic!("a group is run") };
    let step = |node| Group { nodes: vec![NodeId(node)], stored: vec![value(node)], steps: vec![] };
    assert_eq!(group.steps, [step(2), step(3)]);
    let code = |from: &str, to: &str| parse(&ROWS.replacen(from, to, 1)).map_err(|e| (e.code, e.loc.line));
    assert_eq!(code("run [%2] -> [%2]", "run [%3] -> [%2]"), Err(("group-order", 10)));
    assert_eq!(code("run [%2] -> [%2]", "run [%2] -> [%2] rows { }"), Err(("syntax", 11)));
}

const LOOP: &str = r#"function @0 "step" {
  %0 = input "x0" : f32[4]
  %1 = input "x1" : f32[4]
  %2 = mul %0, %1 : f32[4]
  result "y0" %2
}
graph "looped" {
  %0 = input "x" : f32[4]
  %1 = exp %0 : f32[4]
  %2 = iterate{body=@0, count=9, carries=1, in_order=false} %1, %0 : f32[4]
  result "y" %2
}
schedule {
  run [%1] -> [%1]
  region %2 {
    run [%2] -> [%2]
  }
}
memory {
  arena_bytes 64
  %0 = host[0]+0
  %1 = arena+0
  %2 = arena+0
  region %2 arena+64 {
    arena_bytes 0
    %0 = argument[0]+0
    %1 = argument[1]+0
    %2 = argument[0]+0
  }
}
"#;

#[test]
fn loops_print_as_they_are_written() {
    let plan = parse_plan(LOOP).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print_plan(&plan), LOOP);
    let Action::Region(region) = &plan.schedule.actions[1] else { panic!("a region") };
    assert_eq!((region.node, region.bodies.len()), (NodeId(2), 1));
    let memory = &plan.memory.regions[&NodeId(2)];
    assert_eq!((memory.work_offset_bytes, memory.bodies[0].places.len()), (64, 3));
}

#[test]
fn wrong_plans_of_loops_are_told() {
    let code = |from: &str, to: &str| {
        let text = LOOP.replacen(from, to, 1);
        assert_ne!(text, LOOP);
        parse_plan(&text).map_err(|e: Diagnostic| e.code).expect_err("the text is wrong")
    };
    assert_eq!(code("region %2 {", "region %1 {"), "unknown-region");
    assert_eq!(code("region %2 arena", "region %1 arena"), "unknown-region");
    assert_eq!(code("    run [%2] -> [%2]", "    run [%3] -> [%3]"), "unknown-value");
    assert_eq!(code("arena+64 {", "persistent+64 {"), "syntax");
    assert_eq!(code("argument[1]", "argument[-1]"), "syntax");
    assert_eq!(code("    %1 = argument[1]+0\n", "    %0 = argument[0]+0\n"), "duplicate-place");
}

#[test]
fn bands_of_products_are_listed_by_runs() {
    let graph = r#"graph "product" {
  %0 = input "x" : f32[6,4]
  %1 = input "y" : f32[4,3]
  %2 = dot_general{lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[0]} %0, %1 : f32[6,3]
  result "z" %2
}
"#;
    let schedule = |band: &str| format!("{graph}schedule {{\n  band %2 {band}\n  run [%2] -> [%2]\n}}\n");
    let good = schedule("rows 0 columns 2 of 4 [4: 0+0 1+1 2: 2+-1 4+0]");
    let parsed = parse_schedule(&good).unwrap_or_else(|e| panic!("{e}"));
    let ranges = [0..1, 0..2, 0..3, 0..4, 2..4, 1..4];
    assert_eq!(parsed.bands[&NodeId(2)][0].band.ranges(), ranges);
    assert_eq!(print_schedule(&parsed), good);
    for (band, code) in [
        ("rows 0 columns 2 of 4 [6: 0+0 5+0]", "band-columns"),
        ("rows 0 columns 2 of 4 [6: 0+0 3+0]", "band-columns"),
        ("rows 0 columns 2 of 4 [9000000000: 0+0 3+0]", "band-columns"),
        ("rows 0 columns 2 of 9000000000 [1: 0+0 9000000000+0]", "band-columns"),
        ("rows 0 columns 2 of 4 [4: 0+0 1]", "syntax"),
        ("rows 0 columns 2 of 4 [-4: 0+0 1+1]", "syntax"),
    ] {
        assert_eq!(parse_schedule(&schedule(band)).expect_err(band).code, code, "{band}");
    }
}
