//! Graphs as pictures: DOT, for Graphviz to lay out.

use crate::graph::{Def, Graph, NodeId, OutputKind, Value};
use petgraph::dot::{Config, Dot};
use petgraph::visit::EdgeRef;
use std::collections::BTreeMap;

/// Longest list of attributes a label shows, in characters.
const MAX_ATTRS: usize = 40;

/// The graph in Graphviz's DOT: inputs in boxes, what leaves the graph in bold, types on the nodes.
pub fn dot(graph: &Graph) -> String {
    let outputs = output_labels(graph);
    let node = |_: &Graph, (id, _): (NodeId, _)| node_attributes(graph, id, outputs.get(&id).map(Vec::as_slice));
    let edge = |_: &Graph, e: crate::visit::Edge| match e.weight().result {
        0 => String::new(),
        result => format!("label = \"{result}\""),
    };
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    format!("{:?}", Dot::with_attr_getters(graph, &config, &edge, &node))
}

/// What leaves the graph from which node.
fn output_labels(graph: &Graph) -> BTreeMap<NodeId, Vec<String>> {
    let mut labels: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for output in graph.outputs() {
        let word = if matches!(output.kind, OutputKind::Update(_)) { "next " } else { "" };
        labels.entry(output.value.node).or_default().push(format!("→ {word}{}", output.name));
    }
    labels
}

fn node_attributes(graph: &Graph, id: NodeId, outputs: Option<&[String]>) -> String {
    let node = graph.node(id);
    let mut lines = match &node.def {
        Def::Input(input) => {
            let input = &graph.inputs()[input.index()];
            vec![format!("{} {}", input.role.word(), input.name)]
        }
        Def::Op(op) => vec![format!("{} {}", Value { node: id, result: 0 }, op.name()), shortened(op.attrs())],
    };
    lines.extend(node.types.iter().map(|t| t.to_string()));
    lines.extend(outputs.unwrap_or_default().iter().cloned());
    lines.retain(|l| !l.is_empty());
    let label: Vec<String> = lines.iter().map(|l| l.escape_debug().to_string()).collect();
    let shape = if matches!(node.def, Def::Input(_)) { "box" } else { "ellipse" };
    let style = if outputs.is_some() { ", style = \"bold\", color = \"blue\"" } else { "" };
    format!("label = \"{}\", shape = {shape}{style}", label.join("\\n"))
}

fn shortened(attrs: crate::attr::Attrs) -> String {
    let all: Vec<String> = attrs.iter().map(|(name, attr)| format!("{name}={attr}")).collect();
    let all = all.join(" ");
    if all.chars().count() <= MAX_ATTRS { all } else { all.chars().take(MAX_ATTRS - 1).chain(['…']).collect() }
}
