//! Graphs as pictures: one row per depth, operands above their users.

use crate::graph::{Def, Graph, NodeId};
use std::fmt::Write;

const BOX_WIDTH: usize = 190;
const BOX_HEIGHT: usize = 34;
const COLUMN_GAP: usize = 16;
const ROW_GAP: usize = 36;
const MARGIN: usize = 12;

/// A graph as an SVG document: boxes show definition and result type, coloured by role; lines go from producer to user.
///
/// Rows are longest distances from an input, so that lines only go down; within a row nodes keep the graph's order.
/// Linear in nodes and operands.
pub fn svg(graph: &Graph) -> String {
    let places = places(graph);
    let width = places.iter().map(|p| p.0 + BOX_WIDTH).max().unwrap_or(0) + MARGIN;
    let height = places.iter().map(|p| p.1 + BOX_HEIGHT).max().unwrap_or(0) + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n"
    );
    for id in graph.node_ids() {
        for operand in &graph.node(id).operands {
            line(&mut out, places[operand.node.index()], places[id.index()]);
        }
    }
    graph.node_ids().for_each(|id| node_box(&mut out, graph, id, places[id.index()]));
    out.push_str("</svg>\n");
    out
}

/// Upper left corner of every node's box.
fn places(graph: &Graph) -> Vec<(usize, usize)> {
    let mut depths: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    let mut filled: Vec<usize> = Vec::new();
    let mut places = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let depth = node.operands.iter().map(|v| depths[v.node.index()] + 1).max().unwrap_or(0);
        filled.resize(filled.len().max(depth + 1), 0);
        places.push((MARGIN + filled[depth] * (BOX_WIDTH + COLUMN_GAP), MARGIN + depth * (BOX_HEIGHT + ROW_GAP)));
        filled[depth] += 1;
        depths.push(depth);
    }
    places
}

fn line(out: &mut String, (x, y): (usize, usize), (to_x, to_y): (usize, usize)) {
    let (x, to_x, y) = (x + BOX_WIDTH / 2, to_x + BOX_WIDTH / 2, y + BOX_HEIGHT);
    let _ = writeln!(out, "<line x1=\"{x}\" y1=\"{y}\" x2=\"{to_x}\" y2=\"{to_y}\" stroke=\"#9aa\"/>");
}

fn node_box(out: &mut String, graph: &Graph, id: NodeId, (x, y): (usize, usize)) {
    let node = graph.node(id);
    let (title, fill) = match &node.def {
        Def::Input(input) => {
            let input = &graph.inputs()[input.index()];
            (format!("{} {}", input.role.word(), input.name), "#dceaf7")
        }
        Def::Op(op) if graph.loc(id).backward => (op.name().to_string(), "#f7e6dc"),
        Def::Op(op) => (op.name().to_string(), "#eef3e6"),
    };
    let ty = node.types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (text_x, first, second) = (x + 6, y + 14, y + 28);
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"4\" fill=\"{fill}\" stroke=\"#566\"/>\
         <text x=\"{text_x}\" y=\"{first}\">%{} {}</text><text x=\"{text_x}\" y=\"{second}\" fill=\"#566\">{}</text>",
        id.0,
        escaped(&title),
        escaped(&ty)
    );
}

/// Text shortened to a box and safe in XML.
fn escaped(text: &str) -> String {
    const SHOWN: usize = 30;
    let short: String = text.chars().take(SHOWN).collect();
    let ellipsis = if text.chars().count() > SHOWN { "…" } else { "" };
    short.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;") + ellipsis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::types::TensorType;

    #[test]
    fn every_node_has_a_box_and_every_operand_a_line() {
        let mut b = Builder::new("picture");
        let x = b.input("a<b", TensorType::f32([2])).expect("declared");
        let y = b.add(x, x).expect("well typed");
        b.exp(y).expect("well typed");
        let picture = svg(&b.finish());
        assert_eq!((picture.matches("<rect").count(), picture.matches("<line").count()), (3, 3));
        assert!(picture.contains("a&lt;b") && !picture.contains("a<b"));
    }
}
