//! One node's operands and attributes, as its layer takes them.

use gradc_ir::attr::{Attr, Float};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{InputId, Role, Value};
use gradc_ir::types::{DType, TypeError};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// One use of a layer. What is not taken from it is an error.
pub(super) struct Call<'a> {
    /// Where the layer's nodes go.
    pub b: &'a mut Builder,
    /// Whether the graph is the one that trains.
    pub training: bool,
    /// The operands.
    pub operands: Vec<Value>,
    /// The attributes not taken yet.
    pub attrs: serde_json::Map<String, Json>,
}

impl Call<'_> {
    /// `N` operands.
    pub fn take<const N: usize>(&self) -> Result<[Value; N], TypeError> {
        self.take_with::<N, 0>().map(|(all, [])| all)
    }

    /// `N` operands, and up to `M` more.
    pub fn take_with<const N: usize, const M: usize>(&self) -> Result<([Value; N], [Option<Value>; M]), TypeError> {
        let found = self.operands.len();
        let error = || {
            let expected = if M == 0 { format!("{N} operands") } else { format!("{N} to {} operands", N + M) };
            TypeError::new("wrong number of operands").expected(expected).found(found)
        };
        let needed = self.operands.first_chunk::<N>().filter(|_| found <= N + M).ok_or_else(error)?;
        Ok((*needed, std::array::from_fn(|k| self.operands.get(N + k).copied())))
    }

    /// A mandatory attribute.
    pub fn attr<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, TypeError> {
        self.optional(name)?.ok_or_else(|| TypeError::new(format!("attribute `{name}` is missing")))
    }

    /// An attribute that may be left out.
    pub fn attr_or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T, TypeError> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// An attribute, `None` where it is left out.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, TypeError> {
        let Some(value) = self.attrs.remove(name) else { return Ok(None) };
        let wrong = |e: serde_json::Error| TypeError::new(format!("attribute `{name}` is of the wrong kind: {e}"));
        serde_json::from_value(value.clone()).map(Some).map_err(|e| wrong(e).found(value))
    }

    /// An axis of a tensor with `rank` axes; negative ones count from the end.
    pub fn axis(&mut self, name: &str, default: i64, rank: usize) -> Result<usize, TypeError> {
        let axis = self.attr_or(name, default)?;
        axis_of(axis, rank)
    }

    /// Axes of a tensor with `rank` axes; all of them where left out.
    pub fn axes(&mut self, name: &str, rank: usize) -> Result<Vec<usize>, TypeError> {
        match self.optional::<Vec<i64>>(name)? {
            Some(axes) => axes.into_iter().map(|axis| axis_of(axis, rank)).collect(),
            None => Ok((0..rank).collect()),
        }
    }

    /// One entry per spatial axis, from a list or one number for all.
    pub fn spatial(&mut self, name: &str, default: Option<usize>, axes: usize) -> Result<Vec<usize>, TypeError> {
        let missing = || TypeError::new(format!("attribute `{name}` is missing"));
        let value = self.attrs.remove(name).or(default.map(Json::from)).ok_or_else(missing)?;
        let entry = |v: &Json| v.as_u64().and_then(|v| usize::try_from(v).ok());
        let list = match &value {
            Json::Array(list) => list.iter().map(entry).collect(),
            one => entry(one).map(|one| vec![one; axes]),
        };
        list.filter(|list: &Vec<usize>| list.len() == axes).ok_or_else(|| {
            TypeError::new(format!("attribute `{name}` is of the wrong kind"))
                .expected(format!("a number, or a list of {axes}"))
                .found(value)
        })
    }

    /// Extents of `x` after batch and channels.
    pub fn spatial_axes(&self, x: Value) -> usize {
        self.b.shape(x).len().saturating_sub(2)
    }

    /// Makes `value` the next value of the buffer `of`.
    pub fn update(&mut self, of: Value, value: Value) -> Result<(), TypeError> {
        let buffer = self.b.graph().input_of(of).filter(|input| input.role == Role::Buffer).map(|i| i.name.clone());
        let id: Option<InputId> = buffer.and_then(|name| self.b.graph().input_named(&name)).map(|(id, _)| id);
        let id =
            id.ok_or_else(|| TypeError::new("running statistics must be buffers").expected("an entry of `buffers`"))?;
        self.b.update(id, value)
    }

    /// The attributes as those of an op of the IR.
    pub fn ir_attrs(&mut self) -> Result<Vec<(String, Attr)>, TypeError> {
        let attrs = std::mem::take(&mut self.attrs);
        attrs.into_iter().map(|(name, value)| Ok((name.clone(), ir_attr(&name, &value)?))).collect()
    }

    /// Fails when an attribute was not taken.
    pub fn finish(&self) -> Result<(), TypeError> {
        let left: Vec<String> = self.attrs.keys().map(|name| format!("`{name}`")).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(TypeError::new(format!("the op has no attribute {}", left.join(", "))))
    }
}

fn axis_of(axis: i64, rank: usize) -> Result<usize, TypeError> {
    let positive = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    positive
        .and_then(|axis| usize::try_from(axis).ok())
        .filter(|axis| *axis < rank)
        .ok_or_else(|| TypeError::new("axis out of range").expected(format!("an axis of {rank}")).found(axis))
}

/// Integers, floats (`1.0`, not `1`), booleans, lists of integers; a string is a dtype or a word.
fn ir_attr(name: &str, value: &Json) -> Result<Attr, TypeError> {
    let integers = |list: &Vec<Json>| list.iter().map(Json::as_i64).collect::<Option<Vec<i64>>>();
    let attr = match value {
        Json::Bool(v) => Some(Attr::Bool(*v)),
        Json::Number(v) => v.as_i64().map(Attr::Int).or(v.as_f64().map(|v| Attr::Float(Float::new(v)))),
        Json::String(word) => Some(word.parse::<DType>().map_or_else(|_| Attr::Word(word.clone()), Attr::DType)),
        Json::Array(list) => integers(list).map(Attr::Ints),
        Json::Object(_) | Json::Null => None,
    };
    attr.ok_or_else(|| TypeError::new(format!("attribute `{name}` is of the wrong kind")).found(value))
}
