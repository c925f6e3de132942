//! `pad`: a value around and between the elements.

use crate::attr::Float;
use crate::lower::{Access, Affine, Index, Lowering, Nest};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::scalar::Number;
use crate::tensor::Tensor;
use crate::types::{MAX_ELEMENTS, TensorType, TypeError, row_major_strides};

op_struct! {
    /// `y[low + i · (interior + 1)] = x[i]`, `value` everywhere else; one entry per axis.
    ///
    /// The result has `low + n + (n − 1) · interior + high` elements along an axis of `n > 0`, else `low + high`.
    /// The adjoint of `slice`. Source: XLA `Pad`, without its negative amounts.
    pub struct Pad = "pad" {
        /// Elements before the first.
        low: Vec<usize>,
        /// Elements after the last.
        high: Vec<usize>,
        /// Elements between neighbours.
        interior: Vec<usize>,
        /// The value put there, which gets no gradient.
        value: Float,
    }
}

/// Extent of `n` elements with `interior` others between neighbours; `None` when it overflows.
fn spread(n: usize, interior: usize) -> Option<usize> {
    n.checked_sub(1).map_or(Some(0), |gaps| gaps.checked_mul(interior)?.checked_add(n))
}

impl Pad {
    fn extent(&self, axis: usize, n: usize) -> Option<usize> {
        spread(n, self.interior[axis])?.checked_add(self.low[axis])?.checked_add(self.high[axis])
    }
}

impl OpDef for Pad {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [x] = arity(inputs)?;
        let lengths = [self.low.len(), self.high.len(), self.interior.len()];
        require(lengths == [x.rank(); 3], "attributes need one entry per axis", x.rank(), format!("{lengths:?}"))?;
        let value = self.value.get();
        require(x.dtype.is_float() || value.fract() == 0.0, "padding of integers must be integral", x.dtype, value)?;
        let gap = self.interior.iter().max().copied().unwrap_or_default();
        require(gap <= MAX_ELEMENTS, "`interior` is too large", format!("at most {MAX_ELEMENTS}"), gap)?;
        let extents: Option<Vec<usize>> = x.shape.iter().enumerate().map(|(d, &n)| self.extent(d, n)).collect();
        let extents = extents.ok_or_else(|| TypeError::new("the padded shape is too large").found(format!("{self:?}")))?;
        Ok(vec![TensorType::checked(x.dtype, extents)?])
    }

    /// Cuts the padding off again.
    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, shape) = (cx.grad(), cx.builder.shape(cx.inputs[0]).to_vec());
        let extent = |d: usize| spread(shape[d], self.interior[d]).expect("inference found the padded shape to fit");
        let limit: Vec<usize> = (0..shape.len()).map(|d| self.low[d] + extent(d)).collect();
        let stride: Vec<usize> = self.interior.iter().map(|n| n + 1).collect();
        Ok(vec![cx.flow(0, |b| b.slice(g, &self.low, &limit, &stride))?])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let x = inputs[0];
        let ty = self.infer(&[&x.ty])?.remove(0);
        let (from, to) = (row_major_strides(&x.ty.shape), row_major_strides(&ty.shape));
        let along = |k: usize, d: usize| self.low[d] + k / from[d] % x.ty.shape[d] * (self.interior[d] + 1);
        let mut out = vec![Number::constant(ty.dtype, self.value.get()); ty.elements()];
        for k in 0..x.ty.elements() {
            out[(0..to.len()).map(|d| along(k, d) * to[d]).sum::<usize>()] = x.number(k);
        }
        Ok(vec![Tensor::from_numbers(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
        let (x, rank) = (inputs[0], self.low.len());
        let along = |d: usize| Index {
            affine: Affine::dim(rank, d).offset(-(self.low[d] as i64)),
            divisor: self.interior[d] as i64 + 1,
            loaded: None,
        };
        let indices = (0..rank).map(along).collect();
        let access = Access { operand: 0, view: x.shape.clone(), indices, fill: Some(self.value) };
        Lowering::Nests(vec![Nest::map(&outputs[0].shape, |body| body.load(x.dtype, access))])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let by = |low: &[usize], high: &[usize], interior: &[usize], value: f64| {
            let op = Pad { low: low.to_vec(), high: high.to_vec(), interior: interior.to_vec(), value: value.into() };
            Sample::new(op)
        };
        vec![
            by(&[1, 0], &[0, 2], &[0, 0], 0.0).float(&[3, 4], -1.0..1.0),
            by(&[0, 2], &[1, 0], &[2, 1], f64::NEG_INFINITY).fixed(&[3, 4], -1.0..1.0),
            by(&[2], &[1], &[1], 0.5).float(&[5], -1.0..1.0),
            by(&[2], &[1], &[3], 0.5).float(&[0], -1.0..1.0),
        ]
    }
}
