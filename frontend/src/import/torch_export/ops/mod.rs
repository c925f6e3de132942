//! ATen ops: a table from schema to builder, and the builders of each family.

use super::call::{Arg, Call};
use super::fault::Fault;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TypeError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

mod activation;
mod algebra;
mod create;
mod elementwise;
mod index;
mod interpolate;
mod loss;
mod normalise;
mod order;
mod pad;
mod product;
mod random;
mod rearrange;
mod recurrent;
mod reduce;
mod sample;
mod shape;
mod table;
mod triangle;
mod window;

/// How an op is built.
#[derive(Clone, Copy)]
pub enum Build {
    /// One operand of the result's dtype, called `self`.
    Unary(fn(&mut Builder, Value) -> Result<Value, TypeError>),
    /// `self` and `other` broadcast, both as the result's dtype.
    Binary(fn(&mut Builder, Value, Value) -> Result<Value, TypeError>),
    /// `self` ⋈ `other`.
    Compare(CompareFn),
    /// One result.
    One(fn(&mut Call) -> Result<Value, Fault>),
    /// Several results, in ATen's order.
    Many(fn(&mut Call) -> Result<Vec<Value>, Fault>),
}

impl Build {
    /// Appends the nodes of a call.
    pub fn apply(self, call: &mut Call) -> Result<Vec<Value>, Fault> {
        match self {
            Build::Unary(build) => Ok(vec![elementwise::unary(call, build)?]),
            Build::Binary(build) => Ok(vec![elementwise::binary(call, build)?]),
            Build::Compare(kind) => Ok(vec![elementwise::compare(call, kind)?]),
            Build::One(build) => Ok(vec![build(call)?]),
            Build::Many(build) => build(call),
        }
    }
}

/// An op of the table.
pub struct AtenOp {
    /// Argument names with their defaults, in order.
    pub parameters: Vec<(&'static str, Option<Arg>)>,
    /// How it is built.
    pub build: Build,
    /// Whether results may share memory with the first operand.
    pub is_view: bool,
}

impl AtenOp {
    /// The parameter that an argument is for: in-place variants call the first one `self` whatever it is called.
    pub fn parameter_of<'a>(&self, argument: &'a str) -> &'a str {
        let first = self.parameters[0].0;
        if argument == "self" && self.parameters.iter().all(|(name, _)| *name != "self") { first } else { argument }
    }
}

/// Arguments that say where and how a result is stored, not what it is.
pub const PLACEMENT: [&str; 10] = [
    "copy",
    "cudnn_enable",
    "cudnn_enabled",
    "device",
    "layout",
    "memory_format",
    "non_blocking",
    "out",
    "pin_memory",
    "requires_grad",
];

/// The op called `relu.default` or `add.Tensor`, without namespace.
pub fn lookup(name: &str) -> Option<&'static AtenOp> {
    static INDEX: LazyLock<BTreeMap<String, AtenOp>> = LazyLock::new(|| table::OPS.iter().flat_map(read_row).collect());
    INDEX.get(name)
}

/// Whether the result of a target may share memory with its first operand.
pub fn is_view(target: &str) -> bool {
    target.strip_prefix("torch.ops.aten.").and_then(lookup).is_some_and(|op| op.is_view)
}

/// Names of all ops that are read, overloads counted once.
pub fn names() -> BTreeSet<&'static str> {
    table::OPS.iter().filter_map(|(schema, _)| schema.split('.').next()).collect()
}

/// One entry per overload of a row such as `sum.default|dim_IntList(self, dim=None, keepdim=False)`.
fn read_row(row: &'static (&'static str, Build)) -> Vec<(String, AtenOp)> {
    let (schema, build) = *row;
    let (name, parameters) = schema.split_once('(').expect("every row of the table has parentheses");
    let (op, overloads) = name.split_once('.').expect("every row of the table has an overload");
    let parameters: Vec<_> =
        parameters.trim_end_matches(')').split(", ").filter(|p| !p.is_empty()).map(read_parameter).collect();
    let entry = |overload: &str| {
        let is_view = table::VIEWS.contains(&op);
        (format!("{op}.{overload}"), AtenOp { parameters: parameters.clone(), build, is_view })
    };
    overloads.split('|').map(entry).collect()
}

fn read_parameter(text: &'static str) -> (&'static str, Option<Arg>) {
    match text.split_once('=') {
        Some((name, default)) => (name, Some(read_default(default))),
        None => (text, None),
    }
}

fn read_default(text: &str) -> Arg {
    match text {
        "None" => Arg::None,
        "True" | "False" => Arg::Bool(text == "True"),
        "[]" => Arg::Ints { values: vec![], current: false },
        "[0,1]" => Arg::Ints { values: vec![0, 1], current: false },
        _ if text.starts_with('\'') => Arg::Text(text.trim_matches('\'').to_string()),
        _ => match text.parse() {
            Ok(int) => Arg::Int(int),
            Err(_) => Arg::Float(text.parse().expect("defaults in the table are None, booleans, strings or numbers")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_readable_and_unique() {
        let names: Vec<String> = table::OPS.iter().flat_map(read_row).map(|(name, _)| name).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(lookup("linear.default").is_some_and(|op| op.parameters.len() == 3));
        assert!(table::VIEWS.iter().all(|view| names.iter().any(|n| n.split('.').next() == Some(view))));
    }
}
