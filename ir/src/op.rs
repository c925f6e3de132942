//! What every op must say about itself. No method has a default: leaving one out does not compile.

use crate::attr::{AttrReader, Attrs};
use crate::builder::Builder;
use crate::graph::{Graph, Value};
use crate::lower::Lowering;
use crate::ops::{IterateUntil, Op, Scan};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError};
use std::ops::Range;

/// Name and attributes; implemented by [`op_struct!`], never by hand.
pub trait OpAttrs: Sized {
    /// Name in the text format, unique among the ops.
    const NAME: &'static str;
    /// Reads the attributes.
    fn parse(reader: AttrReader) -> Result<Self, TypeError>;
    /// The attributes in declaration order.
    fn attrs(&self) -> Attrs;
}

/// The rules of one op. The op's own file documents shapes, dtypes, formula and source.
pub trait OpDef: OpAttrs {
    /// Result types from operand types, or why the operands are refused.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError>;

    /// Vector-Jacobian product: one answer per operand, given at most one cotangent per result.
    ///
    /// Called only when at least one cotangent is there. What is built for an operand that
    /// `cx` does not [want](VjpContext::wants) is dropped, so it need not be built.
    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError>;

    /// Reference semantics: slow, obvious, floats in f64. One tensor per result.
    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError>;

    /// What code generation gets to see of the op.
    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering;

    /// How far a native result may be from the reference.
    fn numerics(&self) -> Numerics;

    /// Attributes, operand shapes and value ranges on which the op laws are checked.
    fn samples() -> Vec<Sample>;
}

/// How far a native result may be from the reference, which also says which rewrites are legal by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// Same bits as the reference rounded to the dtype.
    Exact,
    /// One correctly rounded or polynomial operation per element: a few units in the last place.
    Rounding,
    /// A sum of products, in an order of its own: error grows with the number of terms.
    Sum,
}

/// What flows back to one operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cotangent {
    /// A gradient of the operand's type.
    Flows(Value),
    /// Symbolically zero; never a tensor of zeros.
    Zero,
    /// The op has no gradient here, and why.
    NotDifferentiable(String),
}

/// What a VJP rule may see and use.
pub struct VjpContext<'a> {
    /// Where the backward nodes are appended.
    pub builder: &'a mut Builder,
    /// The operands.
    pub inputs: &'a [Value],
    /// The results.
    pub outputs: &'a [Value],
    /// One cotangent per result; `None` is symbolically zero.
    pub cotangents: &'a [Option<Value>],
    /// Which operands lead to something that trains.
    pub wanted: &'a [bool],
    /// Differentiates the body of a region.
    pub bodies: &'a dyn DifferentiateBody,
    /// What was contributed to cotangents before.
    pub so_far: &'a mut dyn SoFar,
}

impl VjpContext<'_> {
    /// Whether a gradient of this operand is used.
    pub fn wants(&self, operand: usize) -> bool {
        self.wanted[operand]
    }

    /// The cotangent of the only result.
    ///
    /// Single-result ops may rely on it: a VJP is asked for only when some cotangent is there.
    pub fn grad(&self) -> Value {
        self.cotangents[0].expect("a single-result op is differentiated only with its cotangent")
    }

    /// Takes what other readers of an operand contributed to its cotangent so far: the answer for it has to be that plus
    /// the op's own contribution. For ops that go on summing where the others stopped.
    pub fn take_sum_so_far(&mut self, operand: usize) -> Result<Option<Value>, TypeError> {
        self.so_far.take(self.builder, self.inputs[operand])
    }

    /// `Flows(build(..))` when the operand is wanted, else `Zero`.
    pub fn flow(
        &mut self,
        operand: usize,
        build: impl FnOnce(&mut Builder) -> Result<Value, TypeError>,
    ) -> Result<Cotangent, TypeError> {
        if self.wanted[operand] { build(self.builder).map(Cotangent::Flows) } else { Ok(Cotangent::Zero) }
    }
}

/// The cotangents that are being summed up around an op that is differentiated.
pub trait SoFar {
    /// Takes away the sum of what was contributed to the cotangent of `value`, if anything was.
    fn take(&mut self, builder: &mut Builder, value: Value) -> Result<Option<Value>, TypeError>;
}

/// Differentiation of regions, handed to their ops by whoever differentiates the graph around them.
pub trait DifferentiateBody {
    /// From `f: (x…) → (y…)` makes `(x…, dy…) → (dx…)` with one `dx` per index in `wanted`, zeros written out.
    ///
    /// `dy` has one entry per float result of `f`, in order. The forward part is recomputed inside.
    fn vjp_body(&self, body: &Graph, wanted: &[usize]) -> Result<Graph, TypeError>;

    /// Answers of the loop that `cx` stands at, which is `scan` or does the same.
    ///
    /// How a loop is differentiated (what is kept of its steps, what is computed again) is a choice that is made with
    /// the graph around it in view.
    fn vjp_loop(&self, scan: &Scan, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError>;

    /// As [`vjp_loop`](DifferentiateBody::vjp_loop), of a loop whose number of steps depends on data.
    fn vjp_until(&self, until: &IterateUntil, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError>;
}

/// Why the reference semantics could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

impl From<TypeError> for EvalError {
    fn from(error: TypeError) -> Self {
        EvalError(error.to_string())
    }
}

/// One case for the op laws.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The op with its attributes.
    pub op: Op,
    /// Operand types and value ranges.
    pub operands: Vec<SampleOperand>,
}

/// An operand of a [`Sample`].
#[derive(Clone, Debug)]
pub struct SampleOperand {
    /// Its type.
    pub ty: TensorType,
    /// Values are drawn uniformly from here (integers: floor).
    pub range: Range<f64>,
    /// Whether the VJP is held against finite differences in this operand.
    pub differentiable: bool,
    /// Values are made pairwise distinct by at least 1e-2 (for max, sort: no ties near a kink).
    pub distinct: bool,
}

impl Sample {
    /// A sample without operands yet.
    pub fn new(op: impl Into<Op>) -> Self {
        Sample { op: op.into(), operands: vec![] }
    }

    fn push(mut self, ty: TensorType, range: Range<f64>, differentiable: bool, distinct: bool) -> Self {
        self.operands.push(SampleOperand { ty, range, differentiable, distinct });
        self
    }

    /// An f32 operand whose gradient is checked.
    pub fn float(self, shape: &[usize], range: Range<f64>) -> Self {
        self.push(TensorType::f32(shape), range, true, false)
    }

    /// An f32 operand with pairwise distinct values, whose gradient is checked.
    pub fn distinct(self, shape: &[usize], range: Range<f64>) -> Self {
        self.push(TensorType::f32(shape), range, true, true)
    }

    /// An f32 operand whose gradient is not checked (piecewise constant, or declared not differentiable).
    pub fn fixed(self, shape: &[usize], range: Range<f64>) -> Self {
        self.push(TensorType::f32(shape), range, false, false)
    }

    /// An operand of any dtype, gradient not checked.
    pub fn other(self, dtype: DType, shape: &[usize], range: Range<f64>) -> Self {
        self.push(TensorType::new(dtype, shape), range, false, false)
    }
}

/// The operand types as an array, or an arity error.
pub fn arity<'a, const N: usize>(inputs: &[&'a TensorType]) -> Result<[&'a TensorType; N], TypeError> {
    inputs.try_into().map_err(|_| {
        TypeError::new("wrong number of operands")
            .expected(format!("{N} operands"))
            .found(format!("{} operands", inputs.len()))
    })
}

/// Fails unless `ok`, with expected and found.
pub fn require(
    ok: bool,
    message: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Result<(), TypeError> {
    if ok { Ok(()) } else { Err(TypeError::new(message).expected(expected).found(found)) }
}

/// Declares an op: its attribute struct, name, text form and place in [`Op`].
macro_rules! op_struct {
    ($(#[$meta:meta])* pub struct $name:ident = $text:literal { $($(#[$fmeta:meta])* $field:ident : $fty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name { $($(#[$fmeta])* pub $field: $fty),* }

        impl From<$name> for $crate::ops::Op {
            fn from(op: $name) -> Self {
                $crate::ops::Op::$name(op)
            }
        }

        impl $crate::op::OpAttrs for $name {
            const NAME: &'static str = $text;

            #[allow(unused_mut, reason = "an op without attributes takes none")]
            fn parse(mut reader: $crate::attr::AttrReader) -> Result<Self, $crate::types::TypeError> {
                let op = $name { $($field: reader.take(stringify!($field))?),* };
                reader.finish()?;
                Ok(op)
            }

            fn attrs(&self) -> $crate::attr::Attrs {
                vec![$((stringify!($field), $crate::attr::AttrValue::to_attr(&self.$field))),*]
            }
        }
    };
}
pub(crate) use op_struct;
