//! What elementwise ops share: shape rules, reference loops and nests.

use crate::builder::Builder;
use crate::graph::Value;
use crate::lower::{Access, BinaryFn, Body, CompareFn, Lowering, Nest, ScalarId, UnaryFn};
use crate::op::{Cotangent, Numerics, Sample, VjpContext, arity, require};
use crate::ops::Op;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, TensorType, TypeError};
use std::ops::Range;

/// Builds `dx` from `(g, x, y)`: the cotangent, the operand and the result.
pub(super) type UnaryVjp = fn(&mut Builder, Value, Value, Value) -> Result<Value, TypeError>;

/// All that sets one float function of one operand apart from the others.
pub(super) struct Unary {
    /// Reference semantics.
    pub eval: fn(f64) -> f64,
    /// Native semantics.
    pub lower: UnaryFn,
    /// How far the two may be apart.
    pub numerics: Numerics,
    /// The derivative; `None` where it is zero.
    pub vjp: Option<UnaryVjp>,
    /// Operand values of the samples.
    pub sample: Range<f64>,
}

impl Unary {
    pub(super) fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        Ok(vec![float_type(inputs)?])
    }

    pub(super) fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let Some(rule) = self.vjp else { return Ok(vec![Cotangent::Zero]) };
        let (g, x, y) = (cx.grad(), cx.inputs[0], cx.outputs[0]);
        Ok(vec![cx.flow(0, |b| rule(b, g, x, y))?])
    }

    pub(super) fn eval(&self, x: &Tensor) -> Vec<Tensor> {
        vec![Tensor::float(x.ty.clone(), x.floats().iter().map(|&v| (self.eval)(v)).collect())]
    }

    pub(super) fn lower(&self, inputs: &[&TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.unary(self.lower, x[0]))
    }

    pub(super) fn samples(&self, op: impl Into<Op>) -> Vec<Sample> {
        let sample = Sample::new(op);
        let range = self.sample.clone();
        vec![if self.vjp.is_some() { sample.float(&[3, 5], range) } else { sample.fixed(&[3, 5], range) }]
    }
}

/// The type of the only operand, which has to be floating point.
pub(super) fn float_type(inputs: &[&TensorType]) -> Result<TensorType, TypeError> {
    let [x] = arity(inputs)?;
    require(x.dtype.is_float(), "operand must be floating point", "a float dtype", x)?;
    Ok(x.clone())
}

/// Declares a float function of one operand from a [`Unary`].
macro_rules! unary_op {
    ($(#[$meta:meta])* pub struct $name:ident = $text:literal; $rules:expr) => {
        $crate::op::op_struct! { $(#[$meta])* pub struct $name = $text {} }

        impl $name {
            const RULES: $crate::ops::elementwise::Unary = $rules;
        }

        $crate::ops::elementwise::rules_op!($name, |inputs| Self::RULES.eval(inputs[0]));
    };
}
pub(super) use unary_op;

/// The type that two operands have in common.
pub(super) fn binary_type(inputs: &[&TensorType]) -> Result<TensorType, TypeError> {
    let [a, b] = arity(inputs)?;
    require(a == b, "operands must have one type", a, b)?;
    Ok(a.clone())
}

/// All that sets one function of two operands of one type apart from the others.
pub(super) struct Binary {
    /// Reference semantics on floats; `None` refuses them.
    pub float: Option<fn(f64, f64) -> f64>,
    /// Reference semantics on integers of a dtype, before wrapping to it; `None` refuses them.
    pub int: Option<fn(DType, i64, i64) -> i64>,
    /// Reference semantics on booleans; `None` refuses them.
    pub bool: Option<fn(bool, bool) -> bool>,
    /// Native semantics.
    pub lower: BinaryFn,
    /// How far the two may be apart.
    pub numerics: Numerics,
    /// The derivative.
    pub vjp: fn(&mut VjpContext) -> Result<Vec<Cotangent>, TypeError>,
    /// Values of the two operands in the samples.
    pub samples: [Range<f64>; 2],
}

impl Binary {
    fn accepts(&self, dtype: DType) -> bool {
        match dtype {
            DType::Bool => self.bool.is_some(),
            _ if dtype.is_float() => self.float.is_some(),
            _ => self.int.is_some(),
        }
    }

    pub(super) fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let ty = binary_type(inputs)?;
        let accepted = || DType::ALL.iter().filter(|&&d| self.accepts(d)).map(|d| d.name()).collect::<Vec<_>>();
        require(self.accepts(ty.dtype), "operands are of a dtype the op does not take", accepted().join(", "), &ty)?;
        Ok(vec![ty])
    }

    pub(super) fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        (self.vjp)(cx)
    }

    pub(super) fn eval(&self, a: &Tensor, b: &Tensor) -> Vec<Tensor> {
        let ty = a.ty.clone();
        let dtype = ty.dtype;
        let int = |x: i64, y: i64| match (dtype, self.bool, self.int) {
            (DType::Bool, Some(f), _) => f(x != 0, y != 0) as i64,
            (_, _, Some(f)) => dtype.wrap(f(dtype, x, y)),
            _ => unreachable!("inference refused {dtype}"),
        };
        vec![match (&a.data, &b.data, self.float) {
            (Data::Float(a), Data::Float(b), Some(f)) => {
                Tensor::float(ty, a.iter().zip(b).map(|(&x, &y)| f(x, y)).collect())
            }
            _ => Tensor::int(ty, a.ints().iter().zip(b.ints()).map(|(&x, &y)| int(x, y)).collect()),
        }]
    }

    pub(super) fn lower(&self, inputs: &[&TensorType]) -> Lowering {
        map_nest(inputs, |body, x| body.binary(self.lower, x[0], x[1]))
    }

    /// One sample for each kind of dtype the op takes.
    pub(super) fn samples(&self, op: impl Into<Op>) -> Vec<Sample> {
        let op = op.into();
        let [a, b] = &self.samples;
        let of = |dtype, a: &Range<f64>, b: &Range<f64>| {
            Sample::new(op.clone()).other(dtype, &[3, 5], a.clone()).other(dtype, &[3, 5], b.clone())
        };
        let mut samples = Vec::new();
        if self.float.is_some() {
            samples.push(Sample::new(op.clone()).float(&[3, 5], a.clone()).float(&[3, 5], b.clone()));
        }
        if self.int.is_some() {
            samples.extend([of(DType::I64, &(-9.0..9.0), &(0.0..9.0)), of(DType::U8, &(0.0..256.0), &(0.0..256.0))]);
        }
        if self.bool.is_some() {
            samples.push(of(DType::Bool, &(0.0..2.0), &(0.0..2.0)));
        }
        samples
    }
}

/// Declares a function of two operands of one type from a [`Binary`].
macro_rules! binary_op {
    ($(#[$meta:meta])* pub struct $name:ident = $text:literal; $rules:expr) => {
        $crate::op::op_struct! { $(#[$meta])* pub struct $name = $text {} }

        impl $name {
            const RULES: $crate::ops::elementwise::Binary = $rules;
        }

        $crate::ops::elementwise::rules_op!($name, |inputs| Self::RULES.eval(inputs[0], inputs[1]));
    };
}
pub(super) use binary_op;

/// Implements an attribute-free op by its `RULES`.
macro_rules! rules_op {
    ($name:ident, |$inputs:ident| $eval:expr) => {
        impl $crate::op::OpDef for $name {
            fn infer(
                &self,
                inputs: &[&$crate::types::TensorType],
            ) -> Result<Vec<$crate::types::TensorType>, $crate::types::TypeError> {
                Self::RULES.infer(inputs)
            }

            fn vjp(
                &self,
                cx: &mut $crate::op::VjpContext,
            ) -> Result<Vec<$crate::op::Cotangent>, $crate::types::TypeError> {
                Self::RULES.vjp(cx)
            }

            fn eval(
                &self,
                $inputs: &[&$crate::tensor::Tensor],
            ) -> Result<Vec<$crate::tensor::Tensor>, $crate::op::EvalError> {
                Ok($eval)
            }

            fn lower(
                &self,
                inputs: &[&$crate::types::TensorType],
                _: &[$crate::types::TensorType],
            ) -> $crate::lower::Lowering {
                Self::RULES.lower(inputs)
            }

            fn numerics(&self) -> $crate::op::Numerics {
                Self::RULES.numerics
            }

            fn samples() -> Vec<$crate::op::Sample> {
                Self::RULES.samples($name {})
            }
        }
    };
}
pub(super) use rules_op;

/// The nest `out[i] = build(operand 0[i], operand 1[i], …)`; all operands have the result's shape.
pub(super) fn map_nest(inputs: &[&TensorType], build: impl FnOnce(&mut Body, &[ScalarId]) -> ScalarId) -> Lowering {
    let space = &inputs[0].shape;
    Lowering::Nests(vec![Nest::map(space, |body| {
        let loads: Vec<ScalarId> = inputs
            .iter()
            .enumerate()
            .map(|(k, ty)| body.load(ty.dtype, Access::identity(k, space, space.len())))
            .collect();
        build(body, &loads)
    })])
}

/// The VJP of maximum and minimum: an operand that `loses` to the other gets nothing, equal ones get half each.
///
/// Where one is NaN no comparison holds and both get all of it, as in PyTorch.
pub(super) fn winner_takes_gradient(cx: &mut VjpContext, loses: CompareFn) -> Result<Vec<Cotangent>, TypeError> {
    let g = cx.grad();
    let operands = [(cx.inputs[0], cx.inputs[1]), (cx.inputs[1], cx.inputs[0])];
    let gradient = |x: &mut Builder, (own, other): (Value, Value)| {
        let (half, zero) = (x.scale(g, 0.5)?, x.full_like(g, 0.0)?);
        let tied = x.compare(CompareFn::Eq, own, other)?;
        let lost = x.compare(loses, own, other)?;
        let shared = x.select(tied, half, g)?;
        x.select(lost, zero, shared)
    };
    (0..2).map(|k| cx.flow(k, |x| gradient(x, operands[k]))).collect()
}
