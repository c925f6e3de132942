//! Accumulations: partial results per vector, met in a fixed tree.
//!
//! Long sums of f32 are kept in f64, as PyTorch keeps the statistics of batch norm: their rounding would otherwise
//! move whole channels. Shorter ones stay in f32, whole rows at a time.

use super::emitter::{Emitter, Which};
use super::parts::Stage;
use super::values::{LANES, Rep, shuffle};
use cranelift_codegen::ir::types::{F32, F32X4, F64X2};
use cranelift_codegen::ir::{InstBuilder, Value};
use gradc_ir::lower::{Scalar, ScalarId};
use gradc_ir::types::DType;

/// Two vectors of two f64 for a vector of four f32: the low half, then the high half.
pub(super) const HALVES: usize = 2;

impl<'e, 'f> Emitter<'e, 'f> {
    /// Emits the accumulation, one value after the other, and makes the results known to the body.
    pub(super) fn accumulate(&mut self) {
        let values = self.plan.reduction.as_ref().map_or(0, |reduction| reduction.values.len());
        for number in 0..values {
            self.combined = number;
            self.accumulate_value();
        }
    }

    fn accumulate_value(&mut self) {
        let plan = self.plan;
        let Some(reduction) = &plan.reduction else { return };
        let dtype = reduction.dtype();
        if let Some(total) = self.accumulate_strips() {
            self.set_accumulated(&Rep::Vector(vec![total]));
            return;
        }
        let across = plan.vector.is_some_and(|v| v >= plan.space);
        let slots = if across { plan.groups() + 1 } else { self.width.groups };
        let sums = match plan.stage {
            _ if reduction.empty => self.starts(slots),
            Stage::Rest => self.add_parts(slots),
            Stage::Whole if plan.parts().count > 1 => self.sum_by_parts(slots),
            Stage::Whole | Stage::Parts => {
                let starts = self.starts(slots);
                self.reduce(plan.space, starts)
            }
        };
        if plan.stage == Stage::Parts {
            return self.store_sums(&sums);
        }
        let sums = match (self.plan.is_long_sum(), across) {
            (true, true) => vec![self.meet_long(&sums)],
            (true, false) => sums.chunks(HALVES).map(|pair| self.narrow(pair)).collect(),
            (false, true) => vec![self.meet(&sums)],
            (false, false) => sums,
        };
        let rep = if dtype == DType::F32 { Rep::Vector(sums) } else { Rep::Lanes(sums) };
        self.set_accumulated(&rep);
    }

    fn set_accumulated(&mut self, rep: &Rep) {
        for (at, (scalar, _)) in self.plan.body.scalars.iter().enumerate() {
            if *scalar == Scalar::Accumulated(self.combined) {
                self.set_rep(Which::Point, ScalarId(at as u32), rep.clone());
            }
        }
    }

    pub(super) fn starts(&mut self, slots: usize) -> Vec<Value> {
        if self.plan.is_long_sum() {
            let zero = self.b.ins().f64const(0.0);
            let zeros = self.b.ins().splat(F64X2, zero);
            return vec![zeros; HALVES * slots];
        }
        let reduction = self.plan.reduction.as_ref().expect("only accumulations combine");
        let start = self.start(reduction.combine, reduction.dtype());
        vec![start; slots]
    }

    /// Opens the reduced loops from `dim` on.
    ///
    /// Only the innermost adds to its f32 sums directly; the others combine whole rows, so that rounding errors grow
    /// with the extents' sum and not with their product.
    pub(super) fn reduce(&mut self, dim: usize, sums: Vec<Value>) -> Vec<Value> {
        if dim == self.plan.extents.len() {
            return self.combine_block(sums);
        }
        let bounds = self.reduced_bounds(dim);
        if self.plan.vector == Some(dim) {
            return self.vector_loop(dim, bounds, sums, &mut |e, sums| e.combine_block(sums));
        }
        let directly = dim + 1 == self.plan.extents.len() || self.plan.is_long_sum();
        self.range(bounds, 1, sums, &mut |e, index, sums| {
            e.at(dim, index, |e| {
                e.hoist(Which::Reduced);
                if directly { e.reduce(dim + 1, sums) } else { e.reduce_row(dim + 1, &sums) }
            })
        })
    }

    /// Combines a row from the loops from `dim` on, started anew, into `sums`.
    fn reduce_row(&mut self, dim: usize, sums: &[Value]) -> Vec<Value> {
        let reduction = self.plan.reduction.as_ref().expect("only accumulations combine");
        let (combine, dtype) = (reduction.combine, reduction.dtype());
        let start = self.start(combine, dtype);
        let row = self.reduce(dim, vec![start; sums.len()]);
        row.iter().zip(sums).map(|(&row, &sum)| self.combine(combine, dtype, row, sum)).collect()
    }

    /// Combines the block's values into the partial results: across a row into one per vector and one for single
    /// points, else one per vector.
    fn combine_block(&mut self, mut sums: Vec<Value>) -> Vec<Value> {
        let plan = self.plan;
        let reduction = plan.reduction.as_ref().expect("only accumulations combine");
        let dtype = reduction.dtype();
        let values = self.accumulator(Which::Reduced, reduction.values[self.combined], dtype);
        let across = plan.vector.is_some_and(|v| v >= plan.space);
        let single = across && self.width.lanes == 1;
        let long = self.plan.is_long_sum();
        let slots = if long { sums.len() / HALVES } else { sums.len() };
        let (first, count) = if single { (slots - 1, 1) } else { (0, self.width.groups) };
        for k in 0..count {
            let (slot, value) = (first + k, values[k % values.len()]);
            if long {
                self.add_widened(&mut sums[HALVES * slot..HALVES * (slot + 1)], value);
            } else {
                sums[slot] = self.combine(reduction.combine, dtype, value, sums[slot]);
            }
        }
        sums
    }

    /// Adds four f32 to the two halves of an f64 sum.
    fn add_widened(&mut self, halves: &mut [Value], value: Value) {
        let low = self.b.ins().fvpromote_low(value);
        let high = shuffle(self.b, value, value, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
        let high = self.b.ins().fvpromote_low(high);
        halves[0] = self.b.ins().fadd(halves[0], low);
        halves[1] = self.b.ins().fadd(halves[1], high);
    }

    /// The two halves of an f64 sum as four f32.
    fn narrow(&mut self, halves: &[Value]) -> Value {
        let low = self.b.ins().fvdemote(halves[0]);
        let high = self.b.ins().fvdemote(halves[1]);
        shuffle(self.b, low, high, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23])
    }

    /// One value from the f64 partial results of a row; single points are counted in every lane of the last.
    fn meet_long(&mut self, sums: &[Value]) -> Value {
        let (vectors, single) = sums.split_at(sums.len() - HALVES);
        let mut total = vectors[0];
        for &half in &vectors[1..] {
            total = self.b.ins().fadd(total, half);
        }
        let lanes = [0, 1].map(|k| self.b.ins().extractlane(total, k));
        let single = self.b.ins().extractlane(single[0], 0);
        let row = self.b.ins().fadd(lanes[0], lanes[1]);
        let sum = self.b.ins().fadd(row, single);
        let sum = self.b.ins().fdemote(F32, sum);
        self.b.ins().splat(F32X4, sum)
    }

    /// One value from the partial results of a row, as a fixed tree.
    fn meet(&mut self, sums: &[Value]) -> Value {
        let (single, vectors) = sums.split_last().expect("there is a partial result for single points");
        let points = self.plan.vector.map_or(0, |v| self.plan.extents[v]);
        // Short rows leave the last vectors as they started: nothing would change with them.
        let vector = self.tree(&vectors[..(points / LANES).clamp(1, vectors.len())]);
        let lanes: Vec<Value> = (0..LANES)
            .map(|k| {
                let lane = self.b.ins().extractlane(vector, k as u8);
                self.b.ins().splat(F32X4, lane)
            })
            .collect();
        let row = self.tree(&lanes);
        self.tree(&[row, *single])
    }

    fn tree(&mut self, values: &[Value]) -> Value {
        if let [one] = values {
            return *one;
        }
        let (left, right) = values.split_at(values.len().div_ceil(2));
        let (left, right) = (self.tree(left), self.tree(right));
        let combine = self.plan.reduction.as_ref().expect("only accumulations combine").combine;
        self.combine(combine, DType::F32, left, right)
    }
}
