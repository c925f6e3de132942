//! One call of an ATen op: its arguments by name, and what it may do besides returning values.

use super::fault::Fault;
use super::memory::View;
use super::resize::Resize;
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, Role, Value};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType};
use std::collections::BTreeMap;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Dropout drops and batch norm uses batch statistics, where the file says so.
    pub training: bool,
    /// Batch norm uses batch statistics in training whatever the file says.
    pub force_batch_norm: bool,
    /// Seed of random numbers.
    pub seed: u64,
}

/// A tensor argument.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The value.
    pub value: Value,
    /// Its shape when the program was exported.
    pub old: Vec<usize>,
}

/// An argument with its references resolved.
#[derive(Clone, Debug)]
pub enum Arg {
    None,
    Tensor(Operand),
    Tensors(Vec<Option<Operand>>),
    Int(i64),
    /// Integers; `current` when one of them was computed from sizes of this import, so that none is to be adjusted.
    Ints {
        values: Vec<i64>,
        current: bool,
    },
    Float(f64),
    Floats(Vec<f64>),
    Bool(bool),
    Text(String),
    /// How the result is stored: its dtype, which is recorded with the result too, device or layout.
    Storage,
}

impl Arg {
    fn kind(&self) -> &'static str {
        match self {
            Arg::None => "None",
            Arg::Tensor(_) => "a tensor",
            Arg::Tensors(_) => "a list of tensors",
            Arg::Int(_) => "an integer",
            Arg::Ints { .. } => "a list of integers",
            Arg::Float(_) => "a float",
            Arg::Floats(_) => "a list of floats",
            Arg::Bool(_) => "a boolean",
            Arg::Text(_) => "a string",
            Arg::Storage => "a dtype, device or layout",
        }
    }
}

/// A call being built.
pub struct Call<'a> {
    /// Where nodes are appended.
    pub b: &'a mut Builder,
    /// Finds a changed batch inside literals.
    pub resize: &'a mut Resize,
    /// What the graph is built for.
    pub mode: Mode,
    /// Arguments by their name in ATen's schema, defaults filled in.
    pub args: BTreeMap<String, Arg>,
    /// Types of the outputs as recorded when exporting.
    pub recorded: Vec<TensorType>,
    /// Which of the outputs anything reads.
    pub read: Vec<bool>,
    /// New values of arguments that the call overwrites.
    pub overwritten: Vec<(&'static str, Value)>,
    /// What the result is of the first operand's memory, where writing to it can be written through.
    pub view: Option<View>,
    /// What the user should know.
    pub notes: &'a mut Vec<String>,
    /// Draws of random numbers so far.
    pub random_streams: &'a mut usize,
}

impl Call<'_> {
    fn arg(&self, name: &str) -> Result<&Arg, Fault> {
        self.args.get(name).ok_or_else(|| Fault::new("missing-argument", format!("argument `{name}` is missing")))
    }

    fn wrong<T>(&self, name: &str, expected: &str) -> Result<T, Fault> {
        let found = self.args.get(name).map_or("nothing", Arg::kind);
        Err(Fault::new("invalid-argument", format!("argument `{name}` has another kind"))
            .expected(expected)
            .found(found))
    }

    /// A tensor.
    pub fn operand(&self, name: &str) -> Result<&Operand, Fault> {
        match self.arg(name)? {
            Arg::Tensor(operand) => Ok(operand),
            _ => self.wrong(name, "a tensor"),
        }
    }

    /// The value of a tensor.
    pub fn tensor(&self, name: &str) -> Result<Value, Fault> {
        Ok(self.operand(name)?.value)
    }

    /// The value of a tensor that may be absent.
    pub fn optional_tensor(&self, name: &str) -> Result<Option<Value>, Fault> {
        if self.is_none(name) { Ok(None) } else { self.tensor(name).map(Some) }
    }

    /// A list of tensors.
    pub fn tensors(&self, name: &str) -> Result<Vec<Value>, Fault> {
        let Arg::Tensors(list) = self.arg(name)? else { return self.wrong(name, "a list of tensors") };
        let values: Option<Vec<Value>> = list.iter().map(|t| t.as_ref().map(|t| t.value)).collect();
        values.map_or_else(|| self.wrong(name, "a list without None"), Ok)
    }

    /// A list of tensors that may be absent.
    pub fn optional_tensors(&self, name: &str) -> Result<Vec<Option<Value>>, Fault> {
        let Arg::Tensors(list) = self.arg(name)? else { return self.wrong(name, "a list of tensors") };
        Ok(list.iter().map(|t| t.as_ref().map(|t| t.value)).collect())
    }

    /// Whether an argument is absent or None.
    pub fn is_none(&self, name: &str) -> bool {
        matches!(self.args.get(name), None | Some(Arg::None))
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Result<i64, Fault> {
        match self.arg(name)? {
            Arg::Int(value) => Ok(*value),
            _ => self.wrong(name, "an integer"),
        }
    }

    /// An integer that counts something.
    pub fn count(&self, name: &str) -> Result<usize, Fault> {
        let value = self.int(name)?;
        usize::try_from(value).map_err(|_| invalid(name, "a non-negative integer", value))
    }

    /// Integers; a single one is a list of one.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>, Fault> {
        match self.arg(name)? {
            Arg::Int(value) => Ok(vec![*value]),
            Arg::Ints { values, .. } => Ok(values.clone()),
            _ => self.wrong(name, "a list of integers"),
        }
    }

    /// Counts, one per spatial axis; a single one stands for all.
    pub fn per_axis(&self, name: &str, axes: usize) -> Result<Vec<usize>, Fault> {
        let values = self.ints(name)?;
        let values = if values.len() == 1 { vec![values[0]; axes] } else { values };
        let counts: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        counts
            .filter(|counts| counts.len() == axes)
            .ok_or_else(|| invalid(name, &format!("{axes} non-negative integers"), format!("{values:?}")))
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<f64, Fault> {
        match self.arg(name)? {
            Arg::Float(value) => Ok(*value),
            Arg::Int(value) => Ok(*value as f64),
            Arg::Bool(value) => Ok(*value as i64 as f64),
            _ => self.wrong(name, "a number"),
        }
    }

    /// Whether an argument is a number that is written as a float.
    pub fn is_float(&self, name: &str) -> bool {
        matches!(self.args.get(name), Some(Arg::Float(_)))
    }

    /// A number that may be absent.
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>, Fault> {
        if self.is_none(name) { Ok(None) } else { self.float(name).map(Some) }
    }

    /// Numbers that may be absent.
    pub fn optional_floats(&self, name: &str) -> Result<Option<Vec<f64>>, Fault> {
        match self.args.get(name) {
            None | Some(Arg::None) => Ok(None),
            Some(Arg::Floats(values)) => Ok(Some(values.clone())),
            Some(_) => self.wrong(name, "a list of floats"),
        }
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> Result<bool, Fault> {
        match self.arg(name)? {
            Arg::Bool(value) => Ok(*value),
            _ => self.wrong(name, "a boolean"),
        }
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<&str, Fault> {
        match self.arg(name)? {
            Arg::Text(text) => Ok(text),
            _ => self.wrong(name, "a string"),
        }
    }

    /// Fails unless an argument is None, because gradc does not have what it asks for.
    pub fn require_none(&self, name: &str) -> Result<(), Fault> {
        if self.is_none(name) { Ok(()) } else { Err(unsupported(name, "None")) }
    }

    /// Fails unless a boolean is `expected`.
    pub fn require_bool(&self, name: &str, expected: bool) -> Result<(), Fault> {
        if self.bool(name)? == expected { Ok(()) } else { Err(unsupported(name, expected)) }
    }

    /// An axis of a tensor of `rank` axes; negative ones count from the end.
    pub fn axis(&self, name: &str, rank: usize) -> Result<usize, Fault> {
        normal_axis(name, self.int(name)?, rank)
    }

    /// Axes in ascending order; None or an empty list stands for all.
    pub fn axes(&self, name: &str, rank: usize) -> Result<Vec<usize>, Fault> {
        let given = if self.is_none(name) { vec![] } else { self.ints(name)? };
        if given.is_empty() || rank == 0 {
            return Ok((0..rank).collect());
        }
        let mut axes = given.iter().map(|&a| normal_axis(name, a, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        let distinct = axes.windows(2).all(|w| w[0] < w[1]);
        if distinct { Ok(axes) } else { Err(invalid(name, "distinct axes", format!("{given:?}"))) }
    }

    /// A literal shape made from nothing, at the batch of this import.
    pub fn new_shape(&self, name: &str) -> Result<Vec<usize>, Fault> {
        let values = self.ints(name)?;
        let shape: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        let shape = shape.ok_or_else(|| invalid(name, "non-negative sizes", format!("{values:?}")))?;
        if self.is_current(name) { Ok(shape) } else { self.resize.literal(&shape) }
    }

    /// Whether sizes were computed from sizes of this import.
    pub fn is_current(&self, name: &str) -> bool {
        matches!(self.args.get(name), Some(Arg::Ints { current: true, .. }))
    }

    /// Recorded dtype of the first output.
    pub fn dtype(&self) -> Result<DType, Fault> {
        let first = self.recorded.first().ok_or_else(|| Fault::new("missing-output", "the node has no output"))?;
        Ok(first.dtype)
    }

    /// A tensor as `dtype`, or a number as a tensor of `dtype` shaped like `like`.
    pub fn number_or_tensor(&mut self, name: &str, dtype: DType, like: Value) -> Result<Value, Fault> {
        match self.arg(name)? {
            Arg::Tensor(operand) => {
                let value = operand.value;
                Ok(self.b.cast(value, dtype)?)
            }
            _ => {
                let number = self.float(name)?;
                if matches!(self.args.get(name), Some(Arg::Int(_))) && self.resize.equals_batch(number) {
                    self.notes.push(format!(
                        "a constant {number} equals the exported batch size; it stays as it is at the new one"
                    ));
                }
                let ty = TensorType::new(dtype, self.b.shape(like));
                Ok(self.b.splat(&ty, number)?)
            }
        }
    }

    /// The integers of a small tensor that depends on nothing.
    pub fn known_ints(&self, value: Value) -> Option<Vec<i64>> {
        match known(self.b.graph(), value, 0)?.data {
            Data::Int(values) => Some(values),
            Data::Float(_) => None,
        }
    }

    /// State of the random numbers: the seed of the import, and a counter that advances every step of training and is 0
    /// in evaluation.
    pub fn random_state(&mut self) -> Result<Value, Fault> {
        let counter = if self.mode.training {
            self.random_counter()?
        } else {
            self.b.splat(&TensorType::new(DType::I64, [1]), 0.0)?
        };
        // An f64 holds this many bits of the seed exactly.
        let seed = (self.mode.seed & ((1 << 53) - 1)) as f64;
        let seed = self.b.splat(&TensorType::new(DType::I64, [1]), seed)?;
        Ok(self.b.concat(&[seed, counter], 0)?)
    }

    fn random_counter(&mut self) -> Result<Value, Fault> {
        const COUNTER: &str = "random.counter";
        // A tensor of the model that is called so is not taken for it: two of one name are an error.
        let declared = self.b.graph().input_named(COUNTER).filter(|(_, input)| input.role == Role::State);
        if let Some((_, input)) = declared {
            return Ok(input.value);
        }
        let counter = self.b.declare(COUNTER, Role::State, TensorType::new(DType::I64, [1]), Some(0.0))?;
        let one = self.b.full_like(counter, 1.0)?;
        let next = self.b.add(counter, one)?;
        let (id, _) = self.b.graph().input_named(COUNTER).expect("the counter has just been declared");
        self.b.update(id, next)?;
        Ok(counter)
    }

    /// A number of a random draw that no other draw of the step has.
    pub fn next_stream(&mut self) -> usize {
        *self.random_streams += 1;
        *self.random_streams - 1
    }
}

/// A small tensor that depends on nothing, by the reference semantics of the few nodes that make it.
fn known(graph: &Graph, value: Value, depth: usize) -> Option<Tensor> {
    const MAX_ELEMENTS: usize = 1 << 16;
    const MAX_DEPTH: usize = 8;
    let node = graph.node(value.node);
    let Def::Op(op) = &node.def else { return None };
    let small = node.types.iter().all(|ty| ty.elements() <= MAX_ELEMENTS);
    if !small || depth > MAX_DEPTH {
        return None;
    }
    let operands = node.operands.iter().map(|v| known(graph, *v, depth + 1)).collect::<Option<Vec<_>>>()?;
    let results = op.eval(&operands.iter().collect::<Vec<_>>()).ok()?;
    results.into_iter().nth(value.result as usize)
}

/// A negative axis counts from the end; a scalar has the axes 0 and −1.
pub fn normal_axis(name: &str, axis: i64, rank: usize) -> Result<usize, Fault> {
    let bound = rank.max(1) as i64;
    if axis < -bound || axis >= bound {
        return Err(invalid(name, &format!("an axis from {} to {}", -bound, bound - 1), axis));
    }
    Ok(axis.rem_euclid(bound) as usize)
}

/// An argument with a value that means nothing.
pub fn invalid(name: &str, expected: &str, found: impl std::fmt::Display) -> Fault {
    Fault::new("invalid-argument", format!("argument `{name}` is out of range")).expected(expected).found(found)
}

/// An argument with a meaning that gradc does not have.
pub fn unsupported(name: &str, expected: impl std::fmt::Display) -> Fault {
    Fault::new("unsupported-attribute", format!("argument `{name}` is not supported with this value"))
        .expected(expected)
}
