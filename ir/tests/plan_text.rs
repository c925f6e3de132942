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
    let group = Group { nodes: vec![NodeId(2), NodeId(3)], stored: vec![value(3)] };
    assert_eq!(plan.schedule.actions, [Action::Run(group), Action::CheckFinite(value(3))]);
    let place = |segment, offset_bytes| Place { segment, offset_bytes };
    assert_eq!(plan.places[&value(0)], place(Segment::Host(3), 0));
    assert_eq!(plan.places[&value(2)], place(Segment::Constants, 64));
    assert_eq!(plan.commits, [(place(Segment::Arena, 64), place(Segment::Persistent, 0), 16)]);
    assert_eq!(plan.arena_bytes, 128);
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
