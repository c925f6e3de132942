//! Where gradients stop in a program that has been decomposed.
//!
//! `run_decompositions` makes an `alias` of `detach`, and forgets where `torch.no_grad()` began and ended. What function
//! of PyTorch a node comes from is in its notes, and tells most of it.

use super::schema::{Graph, Node};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::types::DType;

/// The dialect of programs that have not been decomposed.
const TRAINING: &str = "TRAINING";

pub const ALIAS: &str = "torch.ops.aten.alias.default";
pub const DETACH: &str = "torch.ops.aten.detach.default";

/// What a node comes from.
enum Origin {
    Detach,
    /// Another name of all of a tensor.
    Identity,
    /// Somewhere within `no_grad` or `enable_grad`.
    Switched,
    Unknown,
}

impl Origin {
    /// By a note such as `detach_1;method_descriptor.detach`.
    fn of(node: &Node) -> Self {
        let function = node.metadata.get("torch_fn").map_or("", |note| note.rsplit(['.', ';']).next().unwrap_or(note));
        match function {
            "detach" => Origin::Detach,
            "__getitem__" | "alias" => Origin::Identity,
            "wrap_with_set_grad_enabled" => Origin::Switched,
            _ => Origin::Unknown,
        }
    }
}

/// Makes a decomposed program stop gradients where it did before; returns what the user should know.
///
/// # Errors
/// A node that may or may not stop them.
pub fn restore_stops(graph: &mut Graph, dialects: &[String]) -> Result<Option<String>, Diagnostic> {
    if dialects.is_empty() || dialects.iter().any(|dialect| dialect == TRAINING) {
        return Ok(None);
    }
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        match (Origin::of(node), node.target == ALIAS) {
            _ if !makes_floats(node, graph) => {}
            (Origin::Detach, true) => graph.nodes[at].target = DETACH.into(),
            (Origin::Switched, _) | (Origin::Unknown, true) => return Err(lost(node)),
            _ => {}
        }
    }
    Ok(Some("the program has been decomposed: where the model calls `detach_`, gradients stop no longer".into()))
}

fn makes_floats(node: &Node, graph: &Graph) -> bool {
    let names = node.outputs.iter().flat_map(super::memory::tensor_names);
    let mut dtypes = names.filter_map(|name| super::program::dtype(graph.tensor_values.get(name)?.dtype));
    dtypes.any(DType::is_float)
}

fn lost(node: &Node) -> Diagnostic {
    let name = node.name.as_deref().unwrap_or("unnamed");
    let message = format!("node `{name}`: the program has been decomposed, and whether gradients stop here is lost");
    Diagnostic { loc: super::provenance::loc(node), ..Diagnostic::new("lost-gradient-stop", message) }
        .help("save the program as `torch.export.export` made it, without `run_decompositions`")
}
