//! Long sums down columns, a part of the rows at a time: each part is summed in f64 by itself, then parts are added in
//! their order.
//!
//! Where parts end follows from what is summed alone, so a sum has the same bits whether one function makes all of it, or
//! threads make parts that another function adds. Few columns leave threads nothing else to share, and rows are what they
//! share in other kernels: each finds in its cache what it has made there.

use super::emitter::{Bound, Emitter};
use super::plan::LoopPlan;
use super::reduce::HALVES;
use super::values::MEMORY;
use crate::chunks::Chunks;
use crate::runtime::load_shared;
use cranelift_codegen::ir::types::{F64, F64X2, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;

/// Terms of a part, at least: sixty times what adding it to others costs.
const PART_TERMS: usize = 128;

/// Most parts of one sum, a power of two as other kernels' numbers of chunks.
const MOST_PARTS: usize = 16;

/// Columns of a part's sums in memory come in multiples of these, for strips write whole vectors.
const COLUMNS_TOGETHER: usize = 64;

/// Which share of an accumulation a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// All of it, and what follows.
    Whole,
    /// The sums of parts; they go to the shared work space.
    Parts,
    /// The rest: it adds the parts.
    Rest,
}

impl LoopPlan {
    /// How the outermost reduced loop is cut into parts that are summed by themselves: by what is summed alone.
    pub fn parts(&self) -> Chunks {
        let extent = self.reduced().first().copied().unwrap_or(1);
        let down_columns = self.vector.is_some_and(|v| v < self.space);
        if !down_columns || !self.is_long_sum() {
            return Chunks::whole(extent);
        }
        let terms: usize = self.reduced().iter().product();
        Chunks::of_equal_size(extent, (terms / PART_TERMS).clamp(1, MOST_PARTS), 1)
    }

    /// The stages in which threads had better make it: parts, then the rest, where columns are all that could be shared
    /// otherwise and a thread has parts enough to do.
    pub fn in_stages(&self) -> Option<[LoopPlan; 2]> {
        let only_columns = self.space == 1 && self.vector == Some(0) && self.interior.is_none();
        let [parts, rest] = [Stage::Parts, Stage::Rest].map(|stage| LoopPlan { stage, ..self.clone() });
        (only_columns && parts.chunks().count > 1).then_some([parts, rest])
    }

    /// Bytes from the sums of one value to those of the next.
    pub fn value_bytes(&self) -> usize {
        8 * self.points().next_multiple_of(COLUMNS_TOGETHER)
    }

    /// Bytes from the sums of one part to those of the next.
    fn part_bytes(&self) -> usize {
        self.value_bytes() * self.reduction.as_ref().map_or(1, |reduction| reduction.values.len())
    }

    /// Shared work space that the stages hand the sums of parts over in.
    pub fn stage_bytes(&self) -> usize {
        self.parts().count * self.part_bytes()
    }
}

/// Where stages hand over the sums of parts.
pub(super) fn shared_sums(b: &mut FunctionBuilder, plan: &LoopPlan, context: Value) -> Option<Value> {
    let is_stage = plan.stage != Stage::Whole;
    is_stage.then(|| load_shared(b, context))
}

impl<'e, 'f> Emitter<'e, 'f> {
    /// Emits the stage that makes the parts from `low` to `high`.
    pub(super) fn make_parts(&mut self, bounds: (Bound, Bound)) {
        let points = self.plan.points() as i64;
        self.range(bounds, 1, vec![], &mut |e, part, _| {
            e.in_part(part, |e| e.space(0, (Bound::Static(0), Bound::Static(points))));
            vec![]
        });
    }

    /// Emits what `body` accumulates over the rows of a part alone.
    pub(crate) fn in_part<R>(&mut self, part: Value, body: impl FnOnce(&mut Self) -> R) -> R {
        let Chunks { extent, size, .. } = self.plan.parts();
        let low = self.b.ins().imul_imm_s(part, size as i64);
        let end = self.b.ins().iadd_imm_s(low, size as i64);
        let extent = self.b.ins().iconst(I64, extent as i64);
        let high = self.b.ins().smin(end, extent);
        self.part = Some((part, (Bound::Dynamic(low), Bound::Dynamic(high))));
        let result = body(self);
        self.part = None;
        result
    }

    /// The trips of a reduced loop: all, or those of the part that is summed.
    pub(crate) fn reduced_bounds(&self, dim: usize) -> (Bound, Bound) {
        match self.part {
            Some((_, rows)) if dim == self.plan.space => rows,
            _ => (Bound::Static(0), Bound::Static(self.plan.extents[dim] as i64)),
        }
    }

    /// All parts, first to last.
    pub(crate) fn all_parts(&self) -> (Bound, Bound) {
        (Bound::Static(0), Bound::Static(self.plan.parts().count as i64))
    }

    /// Where the first value's sum of a column in a part is handed over.
    pub(crate) fn shared_sum(&mut self, part: Value, column: Value) -> Value {
        let sums = self.shared_sums.expect("stages hand over the sums of parts");
        let of_part = self.add_scaled(sums, part, self.plan.part_bytes() as i64);
        self.add_scaled(of_part, column, 8)
    }

    /// Sums of the block's points over all rows, part by part.
    pub(super) fn sum_by_parts(&mut self, slots: usize) -> Vec<Value> {
        let totals = self.starts(slots);
        self.range(self.all_parts(), 1, totals, &mut |e, part, totals| {
            let starts = e.starts(slots);
            let sums = e.in_part(part, |e| e.reduce(e.plan.space, starts));
            totals.iter().zip(sums).map(|(&total, sum)| e.b.ins().fadd(total, sum)).collect()
        })
    }

    /// Sums of the block's points from those of the parts.
    pub(super) fn add_parts(&mut self, slots: usize) -> Vec<Value> {
        let totals = self.starts(slots);
        self.range(self.all_parts(), 1, totals, &mut |e, part, totals| {
            let at = e.block_sums(part);
            let halves = totals.iter().enumerate();
            halves.map(|(half, &total)| e.add_half(total, at, half)).collect()
        })
    }

    /// Hands over the sums of the block's points in the present part.
    pub(super) fn store_sums(&mut self, sums: &[Value]) {
        let (part, _) = self.part.expect("sums are handed over part by part");
        let at = self.block_sums(part);
        if self.width.lanes == 1 {
            let sum = self.b.ins().extractlane(sums[0], 0u8);
            self.b.ins().store(MEMORY, sum, at, 0);
            return;
        }
        for (half, &sum) in sums.iter().enumerate() {
            self.b.ins().store(MEMORY, sum, at, 16 * half as i32);
        }
    }

    fn add_half(&mut self, total: Value, at: Value, half: usize) -> Value {
        let sum = match self.width.lanes {
            1 => {
                let sum = self.b.ins().load(F64, MEMORY, at, 0);
                self.b.ins().splat(F64X2, sum)
            }
            _ => self.b.ins().load(F64X2, MEMORY, at, 16 * half as i32),
        };
        self.b.ins().fadd(total, sum)
    }

    /// Where the sums of the block's points in a part are handed over.
    fn block_sums(&mut self, part: Value) -> Value {
        let column = self.index[0].expect("stages have one loop of points, which is open");
        let first = self.shared_sum(part, column);
        self.b.ins().iadd_imm_s(first, (self.combined * self.plan.value_bytes()) as i64)
    }
}

const _: () = assert!(HALVES * 2 == super::values::LANES, "a vector of sums is that many f64 in memory");
