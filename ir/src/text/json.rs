//! A machine-readable dump of a graph, for tools; the text format is the one that parses back.

use crate::attr::Attr;
use crate::diagnostic::Loc;
use crate::graph::{Def, Graph, NodeId, OutputKind, Value as IrValue};
use serde_json::{Map, Value, json as object};

/// The graph as JSON: `name`, `inputs`, `nodes`, `outputs`; values as `"%3"`, types as `"f32[2,3]"`.
///
/// Region bodies stand as graphs where they are attributes; floats that JSON lacks are strings.
pub fn json(graph: &Graph) -> Value {
    let inputs = graph.inputs().iter().map(|input| {
        object!({
            "name": input.name,
            "role": input.role.word(),
            "default": input.default.map(|d| float(d.get())),
            "type": graph.ty(input.value).to_string(),
            "value": input.value.to_string(),
        })
    });
    let outputs = graph.outputs().iter().map(|output| {
        let kind = match output.kind {
            OutputKind::Result => "result",
            OutputKind::Checked => "checked",
            OutputKind::Update(_) => "update",
        };
        object!({ "name": output.name, "kind": kind, "value": output.value.to_string() })
    });
    object!({
        "name": graph.name,
        "inputs": inputs.collect::<Vec<_>>(),
        "nodes": graph.node_ids().map(|id| node(graph, id)).collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
    })
}

fn node(graph: &Graph, id: NodeId) -> Value {
    let node = graph.node(id);
    let (op, attrs) = match &node.def {
        Def::Input(_) => ("input", Map::new()),
        Def::Op(op) => (op.name(), op.attrs().iter().map(|(name, a)| (name.to_string(), attr(a))).collect()),
    };
    object!({
        "id": id.0,
        "op": op,
        "attributes": attrs,
        "operands": node.operands.iter().map(IrValue::to_string).collect::<Vec<_>>(),
        "types": node.types.iter().map(|t| t.to_string()).collect::<Vec<_>>(),
        "origin": loc(graph.loc(id)),
    })
}

fn attr(attr: &Attr) -> Value {
    match attr {
        Attr::Int(v) => object!(v),
        Attr::Ints(v) => object!(v),
        Attr::Float(v) => float(v.get()),
        Attr::Bool(v) => object!(v),
        Attr::Word(v) => object!(v),
        Attr::DType(v) => object!(v.name()),
        Attr::Function(v) => json(v),
    }
}

fn float(value: f64) -> Value {
    if value.is_finite() { object!(value) } else { object!(format!("{value:?}").to_lowercase()) }
}

fn loc(loc: &Loc) -> Value {
    if loc.is_unknown() {
        return Value::Null;
    }
    object!({
        "file": loc.file,
        "line": loc.line,
        "layer": loc.layer,
        "source_op": loc.source_op,
        "backward": loc.backward,
    })
}
