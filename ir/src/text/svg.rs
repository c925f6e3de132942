//! Graphs as pictures: one row per depth, operands above their users.

use crate::graph::{Def, Graph, NodeId};
use std::fmt::Write;

const BOX_WIDTH: usize = 190;
const BOX_HEIGHT: usize = 34;
const COLUMN_GAP: usize = 16;
const ROW_GAP: usize = 36;
const MARGIN: usize = 12;
const TITLE_HEIGHT: usize = 24;
const GRAPH_GAP: usize = 60;

/// A graph as an SVG document: boxes show definition and result type, coloured by role; lines go from producer to user.
///
/// Rows are longest distances from an input, so that lines only go down; within a row nodes keep the graph's order.
/// Linear in nodes and operands.
pub fn svg(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    document(drawing.width, drawing.height, &drawing.elements)
}

/// Graphs side by side under their titles, as one SVG document.
pub fn svg_beside(graphs: &[(&str, &Graph)]) -> String {
    let (mut width, mut height, mut elements) = (0, 0, String::new());
    for (title, graph) in graphs {
        let drawing = Drawing::of(graph);
        let _ = write!(
            elements,
            "<text x=\"{}\" y=\"{TITLE_HEIGHT}\" font-size=\"16\">{}</text>\n<g transform=\"translate({width} {TITLE_HEIGHT})\">\n{}</g>\n",
            width + MARGIN,
            escaped(title),
            drawing.elements
        );
        width += drawing.width + GRAPH_GAP;
        height = height.max(drawing.height + TITLE_HEIGHT);
    }
    document(width, height, &elements)
}

fn document(width: usize, height: usize, elements: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n{elements}</svg>\n"
    )
}

/// A graph drawn from the origin.
struct Drawing {
    width: usize,
    height: usize,
    elements: String,
}

impl Drawing {
    fn of(graph: &Graph) -> Drawing {
        let places = places(graph);
        let width = places.iter().map(|p| p.0 + BOX_WIDTH).max().unwrap_or(0) + MARGIN;
        let height = places.iter().map(|p| p.1 + BOX_HEIGHT).max().unwrap_or(0) + MARGIN;
        let mut elements = String::new();
        for id in graph.node_ids() {
            for operand in &graph.node(id).operands {
                line(&mut elements, places[operand.node.index()], places[id.index()]);
            }
        }
        graph.node_ids().for_each(|id| node_box(&mut elements, graph, id, places[id.index()]));
        Drawing { width, height, elements }
    }
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

    #[test]
    fn graphs_beside_each_other_do_not_overlap() {
        let mut b = Builder::new("picture");
        let x = b.input("x", TensorType::f32([2])).expect("declared");
        b.exp(x).expect("well typed");
        let graph = b.finish();
        let picture = svg_beside(&[("before", &graph), ("after", &graph)]);
        assert_eq!(picture.matches("<rect").count(), 4);
        let second = format!("translate({} {TITLE_HEIGHT})", Drawing::of(&graph).width + GRAPH_GAP);
        assert!(picture.contains("translate(0 24)") && picture.contains(&second), "{picture}");
    }
}
