//! Printing graphs.

use crate::attr::Attr;
use crate::graph::{Def, Function, Graph, NodeId, OutputKind, Value};
use crate::ops::Op;
use std::fmt::{self, Write};

/// A graph as text: its functions first, then the graph, then its places.
///
/// ```text
/// graph "mlp" {
///   %0 = input "x" : f32[32,64]
///   %1 = parameter "fc.weight" : f32[10,64]
///   %2 = dot_general{lhs_batch=[], rhs_batch=[], lhs_contract=[1], rhs_contract=[1]} %0, %1 : f32[32,10] #1
///   result "y" %2
/// }
/// #1 = "net.py":12 "fc" "aten.linear.default"
/// ```
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    let mut functions = Vec::new();
    collect_functions(graph, &mut functions);
    for (k, function) in functions.iter().enumerate() {
        write_graph(&mut out, &format!("function @{k}"), function, &functions);
    }
    write_graph(&mut out, "graph", graph, &functions);
    out
}

/// Functions reachable from `graph`, callees before callers, each once.
fn collect_functions(graph: &Graph, functions: &mut Vec<Function>) {
    for node in graph.nodes() {
        let Def::Op(op) = &node.def else { continue };
        for (_, attr) in op.attrs() {
            if let Attr::Function(f) = attr
                && !functions.contains(&f)
            {
                collect_functions(&f, functions);
                functions.push(f);
            }
        }
    }
}

fn write_graph(out: &mut String, head: &str, graph: &Graph, functions: &[Function]) {
    let name_of = |f: &Function| format!("@{}", functions.iter().position(|g| g == f).unwrap_or(usize::MAX));
    let _ = writeln!(out, "{head} {:?} {{", graph.name);
    for id in graph.node_ids() {
        let _ = write_node(out, graph, id, &name_of);
    }
    for output in graph.outputs() {
        let kind = match output.kind {
            OutputKind::Result => "result",
            OutputKind::Checked => "checked",
            OutputKind::Update(_) => "update",
        };
        let _ = writeln!(out, "  {kind} {:?} {}", output.name, output.value);
    }
    out.push_str("}\n");
    for (k, loc) in graph.locs().iter().enumerate().skip(1) {
        let backward = if loc.backward { " backward" } else { "" };
        let _ = writeln!(out, "#{k} = {:?}:{} {:?} {:?}{backward}", loc.file, loc.line, loc.layer, loc.source_op);
    }
}

fn write_node(out: &mut String, graph: &Graph, id: NodeId, name_of: &dyn Fn(&Function) -> String) -> fmt::Result {
    let node = graph.node(id);
    write!(out, "  %{} = ", id.0)?;
    match &node.def {
        Def::Input(input) => {
            let input = &graph.inputs()[input.index()];
            write!(out, "{} {:?}", input.role.word(), input.name)?;
            if let Some(default) = input.default {
                write!(out, " = {:?}", default)?;
            }
        }
        Def::Op(op) => {
            write_op(out, op, name_of)?;
            let operands: Vec<String> = node.operands.iter().map(Value::to_string).collect();
            write!(out, "{}{}", if operands.is_empty() { "" } else { " " }, operands.join(", "))?;
        }
    }
    let types: Vec<String> = node.types.iter().map(|t| t.to_string()).collect();
    write!(out, " : {}", types.join(", "))?;
    if node.loc.0 > 0 {
        write!(out, " #{}", node.loc.0)?;
    }
    out.push('\n');
    Ok(())
}

/// Writes an op with its attributes; functions by the name `name_of` gives.
pub fn write_op(out: &mut impl Write, op: &Op, name_of: &dyn Fn(&Function) -> String) -> fmt::Result {
    out.write_str(op.name())?;
    let attrs: Vec<String> =
        op.attrs().iter().map(|(name, attr)| format!("{name}={}", attr_text(attr, name_of))).collect();
    if attrs.is_empty() { Ok(()) } else { write!(out, "{{{}}}", attrs.join(", ")) }
}

fn attr_text(attr: &Attr, name_of: &dyn Fn(&Function) -> String) -> String {
    if let Attr::Function(f) = attr { name_of(f) } else { attr.to_string() }
}

/// The attribute as the text has it; of a function, its name.
impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(v) => write!(f, "{v}"),
            Attr::Ints(v) => write!(f, "[{}]", v.iter().map(i64::to_string).collect::<Vec<_>>().join(",")),
            Attr::Float(v) => write!(f, "{v:?}"),
            Attr::Bool(v) => write!(f, "{v}"),
            Attr::Word(v) => f.write_str(v),
            Attr::DType(v) => write!(f, "{v}"),
            Attr::Function(v) => write!(f, "{:?}", v.name),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.node.0)?;
        if self.result > 0 { write!(f, ".{}", self.result) } else { Ok(()) }
    }
}
