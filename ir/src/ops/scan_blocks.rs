//! `scan_blocks`: a scan whose rows do not meet, made for one block of rows independently of the others.

use super::region::{body_results, check_unrolled, list, owned};
use super::scan::{require_same_carries, unroll};
use super::{Op, Scan};
use crate::builder::Builder;
use crate::graph::{Function, Value};
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, require};
use crate::region::{Loop, Region, RegionForm};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};

op_struct! {
    /// A [`Scan`] for each of `blocks` blocks of rows, its results put together.
    ///
    /// Rows are the leading axis of carries, of the slices of what is scanned and stacked, and of the first `blocked`
    /// constants; all of them have a multiple of `blocks` of them. The body takes and returns a block of the rows; the
    /// other constants it takes as they are. Blocks are independent, so that threads may each make some of them.
    pub struct ScanBlocks = "scan_blocks" {
        /// One step of a block.
        body: Function,
        /// Number of carries.
        carries: usize,
        /// Number of scanned operands.
        scanned: usize,
        /// Number of constants that consist of rows.
        blocked: usize,
        /// Number of steps.
        length: usize,
        /// From the last slice to the first.
        reverse: bool,
        /// Number of blocks.
        blocks: usize,
    }
}

impl ScanBlocks {
    fn as_loop(&self) -> Loop {
        Loop { blocks: self.blocks, blocked: self.blocked, ..self.scan().as_loop() }
    }

    /// The scan of a block.
    fn scan(&self) -> Scan {
        let ScanBlocks { carries, scanned, length, reverse, .. } = *self;
        Scan { body: self.body.clone(), carries, scanned, length, reverse, in_order: true }
    }

    /// The type of a block of an operand or result whose rows are at `axis`.
    fn block_type(&self, ty: &TensorType, axis: usize) -> Result<TensorType, TypeError> {
        let rows = ty.shape.get(axis).copied().unwrap_or(0);
        let whole = self.blocks > 0 && rows.is_multiple_of(self.blocks);
        require(whole && rows > 0, "rows must be a multiple of the blocks", self.blocks, ty)?;
        let mut shape = ty.shape.clone();
        shape[axis] /= self.blocks;
        Ok(ty.with_shape(shape))
    }

    fn whole_type(&self, block: &TensorType, axis: usize) -> Result<TensorType, TypeError> {
        let mut shape = block.shape.clone();
        let rows = shape.get_mut(axis).ok_or_else(|| TypeError::new("a result has no rows").found(block))?;
        *rows = rows.checked_mul(self.blocks).ok_or_else(|| TypeError::new("too many rows").found(block))?;
        TensorType::checked(block.dtype, shape)
    }

    /// Types of the operands of the scan of a block.
    fn operands_of_block(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let enough = self.carries.checked_add(self.scanned).and_then(|n| n.checked_add(self.blocked));
        require(enough.is_some_and(|n| n <= operands.len()), "fewer operands than are cut", list(operands), "fewer")?;
        let looped = self.as_loop();
        let block = |(k, ty): (usize, &TensorType)| match looped.axis_of_rows(k) {
            Some(axis) => self.block_type(ty, axis),
            None => Ok(ty.clone()),
        };
        operands.iter().enumerate().map(block).collect()
    }
}

fn expand(op: &Op, b: &mut Builder, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
    let Op::ScanBlocks(scan) = op else { unreachable!("an expansion is applied to the op it belongs to") };
    check_unrolled(scan.length.saturating_mul(scan.blocks), &scan.body)?;
    let looped = scan.as_loop();
    let mut made = Vec::with_capacity(scan.blocks);
    for block in 0..scan.blocks {
        let of_block = |(k, &value): (usize, &Value)| {
            let Some(axis) = looped.axis_of_rows(k) else { return Ok(value) };
            let rows = b.shape(value)[axis] / scan.blocks;
            b.slice_axis(value, axis, block * rows, (block + 1) * rows)
        };
        let operands = operands.iter().enumerate().map(of_block).collect::<Result<Vec<_>, _>>()?;
        made.push(unroll(&scan.scan(), b, &operands)?);
    }
    let axis = |k: usize| usize::from(k >= scan.carries);
    let all = (0..made[0].len()).map(|k| b.concat(&made.iter().map(|of| of[k]).collect::<Vec<_>>(), axis(k)));
    all.collect()
}

impl OpDef for ScanBlocks {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        require(self.length > 0, "a scan has at least one step", "a positive length", self.length)?;
        let operands = self.operands_of_block(&owned(inputs))?;
        let arguments = self.scan().argument_types(&operands)?;
        let results = body_results(&self.body, &arguments)?;
        require_same_carries(&arguments[..self.carries], &results)?;
        let whole = |(k, ty): (usize, &TensorType)| {
            let rows = self.whole_type(ty, 0)?;
            match k < self.carries {
                true => Ok(rows),
                false => TensorType::checked(rows.dtype, [&[self.length], &rows.shape[..]].concat()),
            }
        };
        results.iter().enumerate().map(whole).collect()
    }

    fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        let reason = "loops are cut into blocks of rows when gradients have been taken";
        Ok(vec![Cotangent::NotDifferentiable(reason.into()); cx.inputs.len()])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let (looped, scan) = (self.as_loop(), self.scan());
        let of_block = |block: usize| {
            let cut = |(k, x): (usize, &&Tensor)| match looped.axis_of_rows(k) {
                Some(axis) => x.block(axis, self.blocks, block),
                None => (*x).clone(),
            };
            let operands: Vec<Tensor> = inputs.iter().enumerate().map(cut).collect();
            scan.eval(&operands.iter().collect::<Vec<_>>())
        };
        let made = (0..self.blocks).map(of_block).collect::<Result<Vec<_>, _>>()?;
        let types = self.infer(&inputs.iter().map(|x| &x.ty).collect::<Vec<_>>())?;
        let join = |(k, ty): (usize, TensorType)| {
            let blocks: Vec<&Tensor> = made.iter().map(|of| &of[k]).collect();
            Tensor::joined(ty, usize::from(k >= self.carries), &blocks)
        };
        Ok(types.into_iter().enumerate().map(join).collect())
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Region(Region { form: RegionForm::Loop(self.as_loop()), expand })
    }

    fn numerics(&self) -> Numerics {
        Numerics::Sum
    }

    fn samples() -> Vec<Sample> {
        let cell = |reverse| {
            let types = [[2, 3], [2, 3], [2, 3], [3, 3]].map(TensorType::f32);
            let body = Builder::function("cell", &types, |b, x| {
                let hidden = b.dot_general(x[0], x[3], [&[], &[]], [&[1], &[0]])?;
                let sum = b.add(hidden, x[1])?;
                let next = b.tanh(sum)?;
                Ok(vec![next, b.mul(next, x[2])?])
            });
            let body = body.expect("the sample is well typed");
            ScanBlocks { body, carries: 1, scanned: 1, blocked: 1, length: 4, reverse, blocks: 3 }
        };
        let recurrent = |reverse| {
            let shapes: [&[usize]; 4] = [&[6, 3], &[4, 6, 3], &[6, 3], &[3, 3]];
            shapes.into_iter().fold(Sample::new(cell(reverse)), |sample, shape| sample.fixed(shape, -1.0..1.0))
        };
        vec![recurrent(false), recurrent(true)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubling(blocks: usize, blocked: usize) -> ScanBlocks {
        let types = [TensorType::f32([2]), TensorType::f32([2])];
        let body = Builder::function("sum", &types, |b, x| Ok(vec![b.add(x[0], x[1])?])).unwrap();
        ScanBlocks { body, carries: 1, scanned: 0, blocked, length: 3, reverse: false, blocks }
    }

    #[test]
    fn takes_blocks_of_rows_and_the_rest_as_it_is() {
        let (rows, block) = (TensorType::f32([4]), TensorType::f32([2]));
        assert_eq!(doubling(2, 1).infer(&[&rows, &rows]).unwrap(), std::slice::from_ref(&rows));
        assert_eq!(doubling(2, 0).infer(&[&rows, &block]).unwrap(), [rows]);
    }

    #[test]
    fn refuses_what_is_not_cut_evenly() {
        let (rows, block) = (TensorType::f32([4]), TensorType::f32([2]));
        assert!(doubling(2, 1).infer(&[&rows, &block]).is_err(), "a constant without enough rows");
        assert!(doubling(3, 0).infer(&[&rows, &block]).is_err(), "a third of four rows");
        assert!(doubling(0, 0).infer(&[&rows, &block]).is_err(), "no blocks");
        assert!(doubling(2, 2).infer(&[&rows, &rows]).is_err(), "more constants than there are");
        assert!(doubling(2, usize::MAX).infer(&[&rows, &rows]).is_err());
        assert!(doubling(2, 0).infer(&[&TensorType::f32([]), &block]).is_err(), "a scalar has no rows");
    }
}
