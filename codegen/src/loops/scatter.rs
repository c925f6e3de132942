//! Scatters: a copy unless the result lies where the base does, then updates of computed places in row-major order.

use super::emitter::{Bound, Emitter, Which};
use super::plan::LoopPlan;
use super::values::{MEMORY, scalar_type};
use super::{Buffer, KernelArguments, SimdOptions};
use crate::runtime::Function;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32X4, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, BinaryFn, Combine, Meeting, Scalar, ScalarId, Scatter};
use gradc_ir::types::DType;

/// A scatter made ready for emission.
#[derive(Clone, Debug)]
pub(crate) struct ScatterPlan {
    /// Loops over the updates; its only store is the sum of `old` and the update.
    loops: LoopPlan,
    /// The load of the element that is updated.
    old: ScalarId,
    /// Whether updates are added.
    meeting: Meeting,
    /// Size of the result.
    result_bytes: usize,
}

impl ScatterPlan {
    /// Plans a scatter into a result of `dtype` behind operands of the given dtypes.
    pub fn new(scatter: &Scatter, operands: &[DType], dtype: DType) -> ScatterPlan {
        let mut body = scatter.body.clone();
        let target = Access {
            operand: operands.len(),
            view: scatter.target.clone(),
            indices: scatter.indices.clone(),
            fill: Some(0.0.into()),
        };
        let old = body.load(dtype, target);
        let sum = body.binary(BinaryFn::Add, old, scatter.update);
        let kernel = LoopKernel { space: scatter.space.clone(), accumulate: None, body, stores: vec![sum] };
        let mut loops = LoopPlan::new(&kernel, operands);
        if !loops.vector.is_some_and(|v| dtype == DType::F32 && advances_by_one(&loops, old, v)) {
            loops.run_by_points();
        }
        let result_bytes = scatter.target.iter().product::<usize>() * dtype.size_bytes();
        ScatterPlan { loops, old, meeting: scatter.meeting, result_bytes }
    }
}

/// Whether neighbouring updates along a loop meet neighbouring elements, never the same.
fn advances_by_one(loops: &LoopPlan, old: ScalarId, dim: usize) -> bool {
    let load = loops.body.loads[old.0 as usize].as_ref().expect("the updated element is loaded");
    load.flat.coeffs[dim] == 1 && !load.axes_move_with(&loops.body, dim)
}

/// Emits a scatter; `buffers` are its operands, then its result. Operand 0 may live where the result does.
pub(crate) fn emit_scatter(
    b: &mut FunctionBuilder,
    plan: &ScatterPlan,
    buffers: &[Buffer],
    arguments: KernelArguments,
    simd: SimdOptions,
) {
    let result = buffers[buffers.len() - 1];
    copy_base(b, result.base, buffers[0].base, plan.result_bytes, arguments);
    if plan.loops.points() == 0 || plan.result_bytes == 0 {
        return;
    }
    let mut emitter = Emitter::new(b, &plan.loops, buffers, arguments.context, simd);
    emitter.scatter_loops(0, (plan.old, plan.meeting));
}

/// Copies the base to the result unless that is where it lies.
fn copy_base(b: &mut FunctionBuilder, result: Value, base: Value, bytes: usize, arguments: KernelArguments) {
    let (apart, after) = (b.create_block(), b.create_block());
    let moved = b.ins().icmp(IntCC::NotEqual, result, base);
    b.ins().brif(moved, apart, &[], after, &[]);
    b.switch_to_block(apart);
    let bytes = b.ins().iconst(I64, bytes as i64);
    Function::Copy.emit_call(b, arguments.context, &[result, base, bytes]);
    b.ins().jump(after, &[]);
    b.switch_to_block(after);
}

impl Emitter<'_, '_> {
    fn scatter_loops(&mut self, dim: usize, old: (ScalarId, Meeting)) {
        if dim == self.plan.space {
            self.scatter_block(old);
            return;
        }
        let bounds = (Bound::Static(0), Bound::Static(self.plan.extents[dim] as i64));
        if self.plan.vector == Some(dim) {
            self.vector_loop(dim, bounds, vec![], &mut |e, _| {
                e.scatter_block(old);
                vec![]
            });
            return;
        }
        self.range(bounds, 1, vec![], &mut |e, index, _| {
            e.at(dim, index, |e| e.scatter_loops(dim + 1, old));
            vec![]
        });
    }

    /// Makes the updates of a block where they are in bounds.
    fn scatter_block(&mut self, (old, meeting): (ScalarId, Meeting)) {
        let body = self.body(Which::Point);
        let load = body.loads[old.0 as usize].as_ref().expect("the updated element is loaded");
        let Scalar::Binary(_, _, update) = body.scalars[self.plan.stores[0].0 as usize].0 else {
            unreachable!("a scatter stores a sum");
        };
        self.rep(Which::Point, update);
        let (offset, in_bounds) = self.target_offset(old);
        let Some(in_bounds) = in_bounds else {
            self.make_update(update, meeting, &load.flat, offset);
            return;
        };
        let (inside, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(in_bounds, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        self.scoped(|e| e.make_update(update, meeting, &load.flat, offset));
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }

    /// Offset in bytes of the axes that are computed, and whether all of them are in bounds.
    fn target_offset(&mut self, old: ScalarId) -> (Option<Value>, Option<Value>) {
        let load = self.body(Which::Point).loads[old.0 as usize].as_ref().expect("the updated element is loaded");
        let size = self.buffers[load.operand].dtype.size_bytes() as i64;
        let (mut offset, mut all) = (None, None);
        for axis in &load.axes {
            let (index, divides) = self.divided_index(Which::Point, axis, 0);
            let extent = self.b.ins().iconst(I64, axis.extent as i64);
            let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, index, extent);
            for ok in [Some(inside), divides].into_iter().flatten() {
                all = Some(all.map_or(ok, |all| self.b.ins().band(all, ok)));
            }
            let scaled = self.b.ins().imul_imm_s(index, axis.stride * size);
            offset = Some(offset.map_or(scaled, |sum| self.b.ins().iadd(sum, scaled)));
        }
        (offset, all)
    }

    /// The elements a block updates.
    fn elements_at(&mut self, dtype: DType, pointer: Value, base: i64) -> Vec<Value> {
        if self.width.lanes == 1 {
            let one = self.b.ins().load(scalar_type(dtype), MEMORY, pointer, base as i32);
            return vec![if dtype == DType::F32 { self.b.ins().splat(F32X4, one) } else { one }];
        }
        let load = |g: usize| self.b.ins().load(F32X4, MEMORY, pointer, (base + 16 * g as i64) as i32);
        (0..self.width.groups).map(load).collect()
    }

    fn make_update(&mut self, update: ScalarId, meeting: Meeting, flat: &Affine, offset: Option<Value>) {
        let buffer = self.buffers.len() - 1;
        let dtype = self.buffers[buffer].dtype;
        let (mut pointer, base) = self.address(buffer, flat);
        if let Some(offset) = offset {
            pointer = self.b.ins().iadd(pointer, offset);
        }
        let updates = self.accumulator(Which::Point, update, dtype);
        let update_of = |k: usize| updates[k % updates.len()];
        let made: Vec<Value> = match meeting {
            Meeting::Replace => (0..self.width.groups).map(update_of).collect(),
            Meeting::Add => {
                let before = self.elements_at(dtype, pointer, base).into_iter().enumerate();
                before.map(|(k, x)| self.combine(Combine::Sum, dtype, update_of(k), x)).collect()
            }
        };
        for (g, &value) in made.iter().enumerate() {
            let narrow = dtype == DType::F32 && self.width.lanes == 1;
            let value = if narrow { self.b.ins().extractlane(value, 0u8) } else { value };
            self.b.ins().store(MEMORY, value, pointer, (base + 16 * g as i64) as i32);
        }
    }
}
