//! Graphs seen from outside: petgraph's algorithms on the IR, DOT, JSON.

use gradc_ir::graph::{Graph, NodeId};
use gradc_ir::text::{dot, json, parse};
use petgraph::algo::{dominators, is_isomorphic, is_isomorphic_matching, tarjan_scc, toposort};
use petgraph::visit::{EdgeCount, IntoEdgesDirected, IntoNeighborsDirected, Reversed};
use petgraph::{Direction, algo};

/// A diamond, an operand read twice, a value with two results, a node nobody reads.
const TEXT: &str = r#"
graph "views" {
  %0 = input "x <&> \"q\"" : f32[3,4]
  %1 = parameter "w" : f32[3,4]
  %2 = add %0, %1 : f32[3,4] #1
  %3 = mul %2, %2 : f32[3,4]
  %4 = exp %2 : f32[3,4]
  %5 = add %3, %4 : f32[3,4]
  %6 = sort{axis=1, descending=true, count=4} %5 : f32[3,4], i64[3,4]
  %7 = gather{batch=0} %0, %6.1 : f32[3,4,4]
  %8 = constant{value=-inf, dtype=f32, shape=[]} : f32[]
  checked "y" %5
  update "w" %6
  result "z" %7
}
#1 = "net.py":3 "fc" "aten.add"
"#;

fn graph() -> Graph {
    parse(TEXT).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_topological_sort_puts_operands_first() {
    let graph = graph();
    let order = toposort(&graph.flow(), None).expect("graphs have no cycles");
    assert_eq!(order.len(), graph.nodes().len());
    let position = |id: NodeId| order.iter().position(|&o| o == id);
    for id in graph.node_ids() {
        assert!(graph.node(id).operands.iter().all(|o| position(o.node) < position(id)));
    }
}

#[test]
fn every_component_is_one_node() {
    let components = tarjan_scc(&graph().flow());
    assert_eq!(components.len(), 9);
    assert!(components.iter().all(|c| c.len() == 1));
}

#[test]
fn the_diamond_is_dominated_by_its_head_and_its_tail() {
    let graph = graph();
    let flow = graph.flow();
    let forward = dominators::simple_fast(&flow, NodeId(1));
    assert_eq!(forward.immediate_dominator(NodeId(5)), Some(NodeId(2)));
    let backward = dominators::simple_fast(Reversed(&flow), NodeId(6));
    assert_eq!(backward.immediate_dominator(NodeId(2)), Some(NodeId(5)));
    assert!(algo::has_path_connecting(&flow, NodeId(0), NodeId(7), None));
    assert!(!algo::has_path_connecting(&flow, NodeId(7), NodeId(0), None));
}

#[test]
fn edges_count_every_operand_from_both_ends() {
    let graph = graph();
    let flow = graph.flow();
    assert_eq!(graph.edge_count(), 10);
    let count = |d| graph.node_ids().map(|id| flow.edges_directed(id, d).count()).sum::<usize>();
    assert_eq!((count(Direction::Outgoing), count(Direction::Incoming)), (10, 10));
    let users: Vec<NodeId> = flow.neighbors_directed(NodeId(2), Direction::Outgoing).collect();
    assert_eq!(users, [NodeId(3), NodeId(3), NodeId(4)]);
}

#[test]
fn isomorphism_ignores_order_and_matching_sees_ops() {
    let text = |ops: [&str; 2]| {
        let [a, b] = ops;
        format!(
            "graph \"g\" {{ %0 = input \"x\" : f32[2] %1 = {a} %0 : f32[2] %2 = {b} %0 : f32[2] %3 = exp %2 : f32[2] }}"
        )
    };
    let parsed = |ops| parse(&text(ops)).unwrap_or_else(|e| panic!("{e}"));
    let (a, b) = (parsed(["neg", "exp"]), parsed(["exp", "neg"]));
    let chain = parse(
        "graph \"c\" { %0 = input \"x\" : f32[2] %1 = neg %0 : f32[2] %2 = neg %1 : f32[2] %3 = exp %2 : f32[2] }",
    );
    let chain = chain.unwrap_or_else(|e| panic!("{e}"));
    let same = |x: &Graph, y: &Graph| {
        is_isomorphic_matching(&x.flow(), &y.flow(), |n, m| n.def == m.def, |v, w| v.result == w.result)
    };
    assert!(is_isomorphic(&a.flow(), &b.flow()));
    assert!(!is_isomorphic(&a.flow(), &chain.flow()));
    assert!(same(&a, &a));
    assert!(!same(&a, &b));
}

#[test]
fn dot_shows_ops_types_and_borders() {
    insta::assert_snapshot!(dot(&graph()));
}

#[test]
fn json_has_all_parts() {
    let json = json(&graph());
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(9));
    assert_eq!(json["nodes"][6]["types"][1], "i64[3,4]");
    assert_eq!(json["nodes"][7]["operands"][1], "%6.1");
    assert_eq!(json["nodes"][8]["attributes"]["value"], "-inf");
    assert_eq!(json["nodes"][6]["attributes"]["descending"], true);
    assert_eq!(json["nodes"][2]["origin"]["layer"], "fc");
    assert_eq!(json["inputs"][1]["role"], "parameter");
    assert_eq!(json["outputs"][1]["kind"], "update");
}
