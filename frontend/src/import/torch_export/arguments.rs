//! Arguments of a node: references resolved, defaults filled in, nothing unknown left.

use super::call::{Arg, Operand};
use super::fault::{Fault, Stop};
use super::memory::{Entry, Memory};
use super::ops::{AtenOp, PLACEMENT};
use super::program::Program;
use super::schema::{Argument, Node, OptionalTensor, SymIntArgument};
use super::sizes::exported_shape;
use gradc_ir::graph::Graph;
use std::collections::BTreeMap;

/// What arguments refer to.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The program.
    pub program: &'a Program,
    /// Its names so far.
    pub memory: &'a Memory<'a>,
    /// The graph so far.
    pub graph: &'a Graph,
}

impl Scope<'_> {
    /// Arguments by name, with the defaults of those left out.
    pub fn arguments(&self, node: &Node, op: &AtenOp) -> Result<BTreeMap<String, Arg>, Stop> {
        let mut args = BTreeMap::new();
        for input in &node.inputs {
            let name = op.parameter_of(&input.name);
            if !op.parameters.iter().any(|(p, _)| *p == name) {
                if PLACEMENT.contains(&name) {
                    continue;
                }
                let known: Vec<&str> = op.parameters.iter().map(|(p, _)| *p).collect();
                let fault = Fault::new("unsupported-attribute", format!("argument `{name}` is not supported"));
                return Err(fault.expected(known.join(", ")).into());
            }
            if args.insert(name.to_string(), self.resolve(&input.arg)?).is_some() {
                return Err(Fault::new("duplicate-name", format!("argument `{name}` is given twice")).into());
            }
        }
        for (name, default) in &op.parameters {
            if let Some(default) = default {
                args.entry(name.to_string()).or_insert_with(|| default.clone());
            }
        }
        Ok(args)
    }

    /// One argument with its references resolved.
    pub fn resolve(&self, arg: &Argument) -> Result<Arg, Stop> {
        Ok(match arg {
            Argument::AsNone(_) | Argument::AsOptionalTensor(OptionalTensor::AsNone(_)) => Arg::None,
            Argument::AsTensor(t) | Argument::AsOptionalTensor(OptionalTensor::AsTensor(t)) => {
                Arg::Tensor(self.operand(&t.name)?)
            }
            Argument::AsTensors(list) => {
                Arg::Tensors(list.iter().map(|t| self.operand(&t.name).map(Some)).collect::<Result<_, _>>()?)
            }
            Argument::AsOptionalTensors(list) => {
                let each = |t: &OptionalTensor| t.name().map(|name| self.operand(name)).transpose();
                Arg::Tensors(list.iter().map(each).collect::<Result<_, _>>()?)
            }
            Argument::AsInt(value) => Arg::Int(*value),
            Argument::AsInts(values) => Arg::Ints { values: values.clone(), current: false },
            Argument::AsFloat(value) => Arg::Float(*value),
            Argument::AsFloats(values) => Arg::Floats(values.clone()),
            Argument::AsBool(value) => Arg::Bool(*value),
            Argument::AsString(text) => Arg::Text(text.clone()),
            Argument::AsScalarType(_) | Argument::AsDevice(_) | Argument::AsLayout(_) | Argument::AsMemoryFormat(_) => {
                Arg::Storage
            }
            Argument::AsSymInt(value) => Arg::Int(self.int(value)?),
            Argument::AsSymInts(values) => {
                Arg::Ints { values: values.iter().map(|v| self.int(v)).collect::<Result<_, _>>()?, current: true }
            }
            Argument::AsGraph(body) => {
                return Err(Fault::new("unsupported-argument", "an argument is of an unsupported kind")
                    .found(format!("the graph `{}`", body.name))
                    .into());
            }
            Argument::Unknown(kind) => {
                let kind = kind.keys().next().cloned().unwrap_or_default();
                return Err(Fault::new("unsupported-argument", "an argument is of an unsupported kind")
                    .found(kind)
                    .into());
            }
        })
    }

    fn int(&self, value: &SymIntArgument) -> Result<i64, Stop> {
        match value {
            SymIntArgument::AsInt(value) => Ok(*value),
            SymIntArgument::AsName(name) => match self.memory.entry(name)? {
                Entry::Int(value) => Ok(value),
                _ => Err(Fault::new("invalid-argument", format!("`{name}` is no integer")).into()),
            },
        }
    }

    fn operand(&self, name: &str) -> Result<Operand, Stop> {
        let value = self.memory.value(self.memory.slot(name)?);
        let new = &self.graph.ty(value).shape;
        let old = self.program.meta(name).and_then(exported_shape).filter(|old| old.len() == new.len());
        Ok(Operand { value, old: old.unwrap_or_else(|| new.clone()) })
    }
}
