//! `dot_general`: batched tensor contraction.

use crate::lower::{Access, Affine, Contraction, Lowering};
use crate::op::{arity, require, Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError, unravel};

op_struct! {
    /// Sum of products over paired axes, kept apart over batch axes.
    ///
    /// Result axes: batch axes (in `lhs_batch` order), then the left's free axes, then the right's free axes,
    /// each ascending. Both operands and the result have one float dtype. Source: XLA `DotGeneral`.
    pub struct DotGeneral = "dot_general" {
        /// Batch axes of the left operand.
        lhs_batch: Vec<usize>,
        /// Batch axes of the right operand, paired with `lhs_batch`.
        rhs_batch: Vec<usize>,
        /// Summed axes of the left operand.
        lhs_contract: Vec<usize>,
        /// Summed axes of the right operand, paired with `lhs_contract`.
        rhs_contract: Vec<usize>,
    }
}

fn free_axes(rank: usize, batch: &[usize], contract: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !batch.contains(d) && !contract.contains(d)).collect()
}

fn pick(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&d| shape[d]).collect()
}

fn axes_valid(rank: usize, batch: &[usize], contract: &[usize]) -> bool {
    let mut all: Vec<usize> = batch.iter().chain(contract).copied().collect();
    all.sort_unstable();
    all.windows(2).all(|w| w[0] != w[1]) && all.iter().all(|&d| d < rank)
}

impl DotGeneral {
    fn lhs_free(&self, rank: usize) -> Vec<usize> {
        free_axes(rank, &self.lhs_batch, &self.lhs_contract)
    }

    fn rhs_free(&self, rank: usize) -> Vec<usize> {
        free_axes(rank, &self.rhs_batch, &self.rhs_contract)
    }
}

impl OpDef for DotGeneral {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [a, b] = arity(inputs)?;
        require(a.dtype.is_float() && a.dtype == b.dtype, "operands must have one float dtype", a.dtype, b.dtype)?;
        let valid = axes_valid(a.rank(), &self.lhs_batch, &self.lhs_contract) && axes_valid(b.rank(), &self.rhs_batch, &self.rhs_contract);
        require(valid, "batch and contracted axes must be distinct axes of the operands", format!("axes of {a} and {b}"), format!("{self:?}"))?;
        let paired = |l: &[usize], r: &[usize]| pick(&a.shape, l) == pick(&b.shape, r);
        require(paired(&self.lhs_batch, &self.rhs_batch), "batch extents must be equal", a, b)?;
        require(paired(&self.lhs_contract, &self.rhs_contract), "contracted extents must be equal", a, b)?;
        let mut shape = pick(&a.shape, &self.lhs_batch);
        shape.extend(pick(&a.shape, &self.lhs_free(a.rank())));
        shape.extend(pick(&b.shape, &self.rhs_free(b.rank())));
        Ok(vec![TensorType::checked(a.dtype, shape)?])
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let (g, [a, b]) = (cx.grad(), [cx.inputs[0], cx.inputs[1]]);
        let (a_rank, b_rank) = (cx.builder.shape(a).len(), cx.builder.shape(b).len());
        let (batch, a_free, b_free) = (self.lhs_batch.len(), self.lhs_free(a_rank), self.rhs_free(b_rank));
        let g_batch: Vec<usize> = (0..batch).collect();
        let g_a: Vec<usize> = (batch..batch + a_free.len()).collect();
        let g_b: Vec<usize> = (batch + a_free.len()..batch + a_free.len() + b_free.len()).collect();
        let da = cx.flow(0, |x| {
            // [batch, a_free, b's contracted axes ascending]
            let d = x.dot_general(g, b, [&g_batch, &self.rhs_batch], [&g_b, &b_free])?;
            x.transpose(d, &back_permutation(&self.lhs_batch, &a_free, &self.lhs_contract, &self.rhs_contract))
        })?;
        let db = cx.flow(1, |x| {
            // [batch, b_free, a's contracted axes ascending]
            let d = x.dot_general(g, a, [&g_batch, &self.lhs_batch], [&g_a, &a_free])?;
            x.transpose(d, &back_permutation(&self.rhs_batch, &b_free, &self.rhs_contract, &self.lhs_contract))
        })?;
        Ok(vec![da, db])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let types = [&inputs[0].ty, &inputs[1].ty];
        let ty = self.infer(&types)?.remove(0);
        let c = self.contraction(&types);
        let (a, b) = (inputs[0].floats(), inputs[1].floats());
        let (fa, fb) = (c.lhs.flat().ok_or_else(|| EvalError("not affine".into()))?, c.rhs.flat().ok_or_else(|| EvalError("not affine".into()))?);
        let mut out = vec![0.0; ty.elements()];
        for (k, y) in out.iter_mut().enumerate() {
            let mut index = unravel(k, &c.space);
            index.extend(vec![0; c.reduce.len()]);
            for r in 0..c.reduce.iter().product() {
                index.splice(c.space.len().., unravel(r, &c.reduce));
                *y += a[fa.at(&index) as usize] * b[fb.at(&index) as usize];
            }
        }
        Ok(vec![Tensor::float(ty, out)])
    }

    fn lower(&self, inputs: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Contraction(self.contraction(inputs))
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let dot = |lb: &[usize], rb: &[usize], lc: &[usize], rc: &[usize]| {
            Sample::new(DotGeneral { lhs_batch: lb.to_vec(), rhs_batch: rb.to_vec(), lhs_contract: lc.to_vec(), rhs_contract: rc.to_vec() })
        };
        let r = -1.0..1.0;
        vec![
            dot(&[], &[], &[1], &[0]).float(&[5, 7], r.clone()).float(&[7, 3], r.clone()),
            dot(&[], &[], &[1], &[1]).float(&[17, 33], r.clone()).float(&[19, 33], r.clone()),
            dot(&[], &[], &[0], &[0]).float(&[9, 4], r.clone()).float(&[9, 6], r.clone()),
            dot(&[0, 2], &[0, 1], &[3], &[3]).float(&[2, 5, 3, 4], r.clone()).float(&[2, 3, 6, 4], r.clone()),
            dot(&[], &[], &[0, 2], &[1, 0]).float(&[3, 2, 4], r.clone()).float(&[4, 3, 5], r.clone()),
            dot(&[], &[], &[], &[]).float(&[3], r.clone()).float(&[4], r),
        ]
    }
}

/// Permutation from `[batch, free, partner's contracted axes ascending]` to the operand's own axis order.
fn back_permutation(batch: &[usize], free: &[usize], contract: &[usize], partner: &[usize]) -> Vec<usize> {
    let mut pairs: Vec<(usize, usize)> = partner.iter().copied().zip(contract.iter().copied()).collect();
    pairs.sort_unstable();
    let axes: Vec<usize> = batch.iter().chain(free).copied().chain(pairs.into_iter().map(|(_, own)| own)).collect();
    let mut perm = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(at, &own)| perm[own] = at);
    perm
}

impl DotGeneral {
    fn contraction(&self, inputs: &[&TensorType]) -> Contraction {
        let (a, b) = (inputs[0], inputs[1]);
        let (a_free, b_free) = (self.lhs_free(a.rank()), self.rhs_free(b.rank()));
        let (nb, na, nn) = (self.lhs_batch.len(), a_free.len(), b_free.len());
        let space = [pick(&a.shape, &self.lhs_batch), pick(&a.shape, &a_free), pick(&b.shape, &b_free)].concat();
        let reduce = pick(&a.shape, &self.lhs_contract);
        let rank = space.len() + reduce.len();
        let access = |operand: usize, ty: &TensorType, batch: &[usize], free: &[usize], first_free: usize, contract: &[usize]| {
            let mut indices = vec![Affine::constant(rank, 0); ty.rank()];
            batch.iter().enumerate().for_each(|(k, &d)| indices[d] = Affine::dim(rank, k));
            free.iter().enumerate().for_each(|(k, &d)| indices[d] = Affine::dim(rank, first_free + k));
            contract.iter().enumerate().for_each(|(k, &d)| indices[d] = Affine::dim(rank, nb + na + nn + k));
            Access::new(operand, &ty.shape, indices)
        };
        Contraction {
            lhs: access(0, a, &self.lhs_batch, &a_free, nb, &self.lhs_contract),
            rhs: access(1, b, &self.rhs_batch, &b_free, nb + na, &self.rhs_contract),
            space,
            reduce,
            bands: vec![],
        }
    }
}
