//! One node as its builder sees it: operands, and attributes that are known to be read or are reported.

use super::fault::Fault;
use super::proto::{AttributeProto, NodeProto, TensorProto};
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a name of the file stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// A value of the graph being built.
    Value(Value),
    /// A sequence of tensors, which exists during import only.
    Sequence(Vec<Value>),
    /// The result of a node that could not be imported; its users are passed over without a second report.
    Failed,
}

impl From<Value> for Slot {
    fn from(value: Value) -> Self {
        Slot::Value(value)
    }
}

/// A node with its operands resolved.
pub struct Node<'a> {
    proto: &'a NodeProto,
    inputs: Vec<Option<Slot>>,
    opset: i64,
    read: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Node<'a> {
    /// A node of a file whose standard operator set has version `opset`; operands left out are `None`.
    pub fn new(proto: &'a NodeProto, inputs: Vec<Option<Slot>>, opset: i64) -> Self {
        Node { proto, inputs, opset, read: RefCell::default() }
    }

    /// Version of the standard operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Name of result `at`, empty when it is not wanted.
    pub fn output(&self, at: usize) -> &'a str {
        self.proto.output.get(at).map_or("", String::as_str)
    }

    /// Number of results the node names.
    pub fn output_count(&self) -> usize {
        self.proto.output.len()
    }

    /// Number of operands, counting those left out before the last.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Operand `at`, or `None` when it is left out.
    pub fn optional(&self, at: usize) -> Result<Option<Value>, Fault> {
        match self.inputs.get(at) {
            None | Some(None) => Ok(None),
            Some(Some(Slot::Value(value))) => Ok(Some(*value)),
            Some(Some(_)) => Err(wrong_operand(format!("operand {at} must be a tensor"))),
        }
    }

    /// Operand `at`, which must be there.
    pub fn input(&self, at: usize) -> Result<Value, Fault> {
        self.optional(at)?.ok_or_else(|| wrong_operand(format!("operand {at} is missing")))
    }

    /// Every operand of a variadic operator.
    pub fn inputs(&self) -> Result<Vec<Value>, Fault> {
        (0..self.inputs.len()).map(|at| self.input(at)).collect()
    }

    /// Operand `at`, which must be a sequence.
    pub fn sequence(&self, at: usize) -> Result<&[Value], Fault> {
        match self.inputs.get(at) {
            Some(Some(Slot::Sequence(values))) => Ok(values),
            _ => Err(wrong_operand(format!("operand {at} must be a sequence"))),
        }
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        let found = self.proto.attribute.iter().find(|a| a.name == name)?;
        self.read.borrow_mut().insert(&found.name);
        Some(found)
    }

    /// Name of operand `at`, empty when it is left out.
    pub fn input_name(&self, at: usize) -> &'a str {
        self.proto.input.get(at).map_or("", String::as_str)
    }

    /// Whether the attribute is there, without reading it.
    pub fn has(&self, name: &str) -> bool {
        self.proto.attribute.iter().any(|a| a.name == name)
    }

    /// An integer attribute, or `None` when it is left out.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>, Fault> {
        self.attribute(name).map(|a| typed(a, INT, a.i.unwrap_or_default())).transpose()
    }

    /// An integer attribute with a default.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, Fault> {
        Ok(self.optional_int(name)?.unwrap_or(default))
    }

    /// A flag: an integer attribute that is 0 or 1.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.int(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid(name).expected("0 or 1").found(other)),
        }
    }

    /// A float attribute, or `None` when it is left out; see [`decimal`].
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>, Fault> {
        self.attribute(name).map(|a| typed(a, FLOAT, decimal(a.f.unwrap_or_default()))).transpose()
    }

    /// A float attribute with a default; see [`decimal`].
    pub fn float(&self, name: &str, default: f64) -> Result<f64, Fault> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    /// A list of floats, or `None` when it is left out.
    pub fn optional_floats(&self, name: &str) -> Result<Option<&'a [f32]>, Fault> {
        self.attribute(name).map(|a| typed(a, FLOATS, a.floats.as_slice())).transpose()
    }

    /// A list of integers, or `None` when it is left out.
    pub fn optional_ints(&self, name: &str) -> Result<Option<&'a [i64]>, Fault> {
        self.attribute(name).map(|a| typed(a, INTS, a.ints.as_slice())).transpose()
    }

    /// A string attribute with a default.
    pub fn string(&self, name: &str, default: &'a str) -> Result<&'a str, Fault> {
        let Some(attribute) = self.attribute(name) else { return Ok(default) };
        let bytes = typed(attribute, STRING, attribute.s.as_deref().unwrap_or_default())?;
        std::str::from_utf8(bytes).map_err(|_| invalid(name).expected("UTF-8 text"))
    }

    /// A list of strings, or `None` when it is left out.
    pub fn optional_strings(&self, name: &str) -> Result<Option<Vec<&'a str>>, Fault> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        let strings = typed(attribute, STRINGS, &attribute.strings)?;
        let text = |s: &'a Vec<u8>| std::str::from_utf8(s).map_err(|_| invalid(name).expected("UTF-8 text"));
        strings.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A tensor attribute, or `None` when it is left out.
    pub fn optional_tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Fault> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        let missing = || invalid(name).expected("a tensor");
        typed(attribute, TENSOR, ())?;
        attribute.t.as_ref().map(Some).ok_or_else(missing)
    }

    /// Fails unless a string attribute has the only value gradc supports.
    pub fn only(&self, name: &str, supported: &'static str) -> Result<(), Fault> {
        let found = self.string(name, supported)?;
        let fault = || Fault::unsupported(format!("attribute `{name}` has an unsupported value"));
        if found == supported { Ok(()) } else { Err(fault().expected(supported).found(found)) }
    }

    /// Fails unless an integer attribute has the only value gradc supports.
    pub fn only_int(&self, name: &str, supported: i64) -> Result<(), Fault> {
        let found = self.int(name, supported)?;
        let fault = || Fault::unsupported(format!("attribute `{name}` has an unsupported value"));
        if found == supported { Ok(()) } else { Err(fault().expected(supported).found(found)) }
    }

    /// One fault per attribute that nobody has read: the operator does not have it, or gradc does not support it.
    pub fn unread_attributes(&self) -> Vec<Fault> {
        let read = self.read.borrow();
        let unread = self.proto.attribute.iter().filter(|a| !read.contains(a.name.as_str()));
        let unknown = |a: &AttributeProto| {
            let message = format!("attribute `{}` is not supported for `{}`", a.name, self.proto.op_type);
            Fault::new("unsupported-attribute", TypeError::new(message))
        };
        unread.map(unknown).collect()
    }
}

const FLOAT: i32 = 1;
const INT: i32 = 2;
const STRING: i32 = 3;
const TENSOR: i32 = 4;
const FLOATS: i32 = 6;
const INTS: i32 = 7;
const STRINGS: i32 = 8;

/// `value` when the attribute says it is of this kind or (in old files) does not say.
fn typed<T>(attribute: &AttributeProto, kind: i32, value: T) -> Result<T, Fault> {
    match attribute.kind {
        0 => Ok(value),
        found if found == kind => Ok(value),
        found => Err(invalid(&attribute.name)
            .expected(format!("attribute type {kind}"))
            .found(format!("attribute type {found}"))),
    }
}

fn invalid(name: &str) -> Fault {
    Fault::new("invalid-attribute", TypeError::new(format!("attribute `{name}` is malformed")))
}

fn wrong_operand(message: String) -> Fault {
    Fault::new("invalid-operands", TypeError::new(message))
}

/// The number with the fewest decimals that rounds to `value` in single precision.
///
/// ONNX stores float attributes in single precision although their writers hold doubles such as 1e-5 or 0.9;
/// this gives back the writer's number.
pub fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn decimals_survive_single_precision() {
        for value in [1e-5, 0.9, 0.01, 1.0, -0.1, 0.0, 16777216.0] {
            assert_eq!(decimal(value as f32), value);
        }
        assert_eq!(decimal(f32::INFINITY), f64::INFINITY);
        assert!(decimal(f32::NAN).is_nan());
    }
}
