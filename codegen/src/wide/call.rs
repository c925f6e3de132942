//! Strips in the loops of a kernel: what a call is given, and where calls stand.

use super::body::{StreamSource, Strip, UniformSource};
use super::code::Shape;
use super::frame::{arguments_bytes, assemble, result_offset, uniforms_offset};
use super::machine::Isa;
use super::strips::{self, COLUMNS, rows_at_a_time};
use crate::loops::{Bound, Emitter, LoopPlan, MEMORY, Rep, Stage, Which, Width};
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I32, I64};
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, FuncRef, InstBuilder, Signature, StackSlotData, StackSlotKind,
    UserExternalName, Value,
};
use cranelift_codegen::isa::CallConv;
use gradc_ir::lower::{Affine, ScalarId};
use gradc_ir::types::DType;

/// Points that the widest vectors of strips have, two of them together: results of so many may be written at once.
const WIDEST: i64 = 32;

/// A strip that can be called: its code, and where the caller's block is.
struct Callee {
    strip: Strip,
    function: FuncRef,
    arguments: Value,
}

/// Where the partial results of a block are: those of the first value, and how many bytes on those of each next.
#[derive(Clone, Copy)]
struct Sums {
    first: Value,
    value_bytes: i64,
}

/// Points of a strip: index of the first, how many, and where their partial results are if they have any.
#[derive(Clone, Copy)]
struct Part {
    first: Value,
    count: Value,
    sums: Option<Sums>,
}

/// The vectors for rows of so many points: what fits a narrow one takes longer in half of a wide one, which reaches into the
/// next cache line and is masked.
fn for_rows_of(points: usize, isa: Isa) -> Isa {
    if points <= Isa::Avx2.lanes() { Isa::Avx2 } else { isa }
}

impl<'e, 'f> Emitter<'e, 'f> {
    /// The vector loop of the space as strips, where it qualifies.
    pub fn strips_of_space(&mut self, dim: usize, bounds: (Bound, Bound)) -> bool {
        let Some(isa) = self.simd.strips else { return false };
        match (&self.plan.reduction, &self.plan.interior) {
            (None, None) => self.map_strip(isa, dim, bounds),
            (None, Some(interior)) => self.interior_strip(isa, dim, bounds, interior),
            (Some(_), None) => self.column_strips(isa, dim, bounds),
            (Some(_), Some(_)) => false,
        }
    }

    /// The loop around the vector loop of the space as one strip with it, where that qualifies.
    pub fn strip_of_rows(&mut self, row: usize, bounds: (Bound, Bound)) -> bool {
        let Some(isa) = self.simd.strips else { return false };
        if self.plan.vector != Some(row + 1) || self.plan.reduction.is_some() || self.plan.interior.is_some() {
            return false;
        }
        let Some(strip) = strips::rows(self.plan) else { return false };
        let callee = self.callee(strip, for_rows_of(self.plan.extents[row + 1], isa));
        let rows = self.part(bounds);
        let points = self.part((Bound::Static(0), Bound::Static(self.plan.extents[row + 1] as i64)));
        self.b.ins().store(MEMORY, rows.count, callee.arguments, result_offset(&callee.strip.code) as i32);
        self.at(row, rows.first, |e| e.call_strip(&callee, row + 1, points));
        true
    }

    /// The loop over rows of few points that are combined, where it qualifies: the results of the rows in memory of this
    /// function, then what is computed of them.
    pub fn strips_of_short_rows(&mut self, row: usize, bounds: (Bound, Bound)) -> bool {
        let plan = self.plan;
        let (Some(isa), true) = (self.simd.strips, row + 1 == plan.space) else { return false };
        if plan.stage != Stage::Whole || plan.interior.is_some() || plan.reduction.as_ref().is_none_or(|r| r.empty) {
            return false;
        }
        let Some((accumulation, points)) = strips::short_rows(plan) else { return false };
        let for_rows = for_rows_of(plan.extents[row + 1], isa);
        let callees = [self.callee(accumulation, for_rows), self.callee(points, isa)];
        self.blocks_of_sums(row, bounds, |e, block| {
            let block = Part { sums: Some(e.stack_of_sums(row)), ..block };
            e.combine_short_rows(&callees[0], row, block);
            e.call_strip(&callees[1], row, block);
        });
        true
    }

    fn combine_short_rows(&mut self, accumulation: &Callee, row: usize, block: Part) {
        let points = self.part((Bound::Static(0), Bound::Static(self.plan.extents[row + 1] as i64)));
        let result = result_offset(&accumulation.strip.code) as i32;
        self.b.ins().store(MEMORY, block.count, accumulation.arguments, result);
        let points = Part { sums: block.sums, ..points };
        self.at(row, block.first, |e| e.call_strip(accumulation, row + 1, points));
    }

    fn map_strip(&mut self, isa: Isa, dim: usize, bounds: (Bound, Bound)) -> bool {
        let Some(strip) = strips::map(self.plan, self.ahead) else { return false };
        let callee = self.callee(strip, isa);
        let part = self.part(bounds);
        self.call_strip(&callee, dim, part);
        true
    }

    /// Single points where guards must be tested, a strip where they hold.
    fn interior_strip(
        &mut self,
        isa: Isa,
        dim: usize,
        bounds: (Bound, Bound),
        (interior, (from, to)): &'e (LoopPlan, (i64, i64)),
    ) -> bool {
        let ((Bound::Static(low), Bound::Static(high)), Some(strip)) = (bounds, strips::map(interior, self.ahead))
        else {
            return false;
        };
        let points = |e: &mut Self, low: i64, high: i64| {
            e.segment(dim, (Bound::Static(low), Bound::Static(high)), Width::POINT, vec![], &mut |e, _| {
                e.point();
                vec![]
            });
        };
        points(self, low, *from);
        let callee = self.callee(strip, isa);
        self.with_plan(interior, |e| {
            let part = e.part((Bound::Static(*from), Bound::Static(*to)));
            e.call_strip(&callee, dim, part);
        });
        points(self, *to, high);
        true
    }

    /// Columns in blocks: their partial results in memory of this function, then their points.
    fn column_strips(&mut self, isa: Isa, dim: usize, bounds: (Bound, Bound)) -> bool {
        let Some((accumulation, points)) = strips::columns(self.plan) else { return false };
        let callees = [self.callee(accumulation, isa), self.callee(points, isa)];
        self.blocks_of_sums(dim, bounds, |e, block| e.column_block(&callees, dim, block));
        true
    }

    /// The points of a loop in blocks of as many as sums are kept of at a time.
    fn blocks_of_sums(&mut self, dim: usize, bounds: (Bound, Bound), mut body: impl FnMut(&mut Self, Part)) {
        let part = self.part(bounds);
        if self.plan.extents[dim] <= COLUMNS {
            return body(self, part);
        }
        let width = self.b.ins().iconst(I64, COLUMNS as i64);
        let blocks = self.b.ins().iadd_imm_s(part.count, COLUMNS as i64 - 1);
        let blocks = self.b.ins().ushr_imm_u(blocks, i64::from(COLUMNS.trailing_zeros()));
        let bounds = (Bound::Static(0), Bound::Dynamic(blocks));
        self.range(bounds, 1, vec![], &mut |e, block, _| {
            let done = e.b.ins().imul(block, width);
            let left = e.b.ins().isub(part.count, done);
            let block = Part { first: e.b.ins().iadd(part.first, done), count: e.b.ins().smin(left, width), ..part };
            body(e, block);
            vec![]
        });
    }

    fn column_block(&mut self, [accumulation, points]: &[Callee; 2], dim: usize, block: Part) {
        let by_parts = self.plan.parts().count > 1;
        match self.plan.stage {
            Stage::Parts => {
                let (part, _) = self.part.expect("parts are summed one by one");
                let sums = Some(self.shared_sums_of(part, block));
                return self.sum_rows(accumulation, dim, Part { sums, ..block });
            }
            Stage::Whole if !by_parts => {
                let block = Part { sums: Some(self.stack_of_sums(dim)), ..block };
                self.sum_rows(accumulation, dim, block);
                return self.call_strip(points, dim, block);
            }
            Stage::Whole | Stage::Rest => {}
        }
        let total = Part { sums: Some(self.stack_of_sums(dim)), ..block };
        let of_part = (self.plan.stage == Stage::Whole).then(|| self.stack_of_sums(dim));
        self.start_sums(total);
        self.range(self.all_parts(), 1, vec![], &mut |e, part, _| {
            let sums = match of_part {
                Some(sums) => {
                    e.in_part(part, |e| e.sum_rows(accumulation, dim, Part { sums: Some(sums), ..block }));
                    sums
                }
                None => e.shared_sums_of(part, block),
            };
            e.add_sums(total, sums);
            vec![]
        });
        self.call_strip(points, dim, total);
    }

    /// Accumulates the rows that are open into a block's partial results.
    fn sum_rows(&mut self, accumulation: &Callee, dim: usize, block: Part) {
        if matches!(accumulation.strip.code.shape, Shape::Columns { continued: true, .. }) {
            self.start_sums(block);
        }
        self.accumulate_rows(accumulation, dim, block, self.plan.space);
    }

    /// Fills the partial results of a block with what a combination starts from.
    fn start_sums(&mut self, block: Part) {
        let sums = block.sums.expect("columns have partial results");
        let reduction = self.plan.reduction.as_ref().expect("columns are combined");
        let size = if self.plan.is_long_sum() { 8 } else { 4 };
        // Sums start from 0, whose bits are those of a wide 0 too.
        let start = self.start(reduction.combine, DType::F32);
        let vectors = self.vectors(block.count, 16 / size);
        for value in 0..self.values() {
            let sums = self.sums_of(sums, value);
            self.range((Bound::Static(0), vectors), 1, vec![], &mut |e, at, _| {
                let place = e.add_scaled(sums, at, 16);
                e.b.ins().store(MEMORY, start, place, 0);
                vec![]
            });
        }
    }

    /// Where the partial results of a value are.
    fn sums_of(&mut self, sums: Sums, value: usize) -> Value {
        self.b.ins().iadd_imm_s(sums.first, value as i64 * sums.value_bytes)
    }

    /// Where stages hand over a block's sums in a part.
    fn shared_sums_of(&mut self, part: Value, block: Part) -> Sums {
        Sums { first: self.shared_sum(part, block.first), value_bytes: self.plan.value_bytes() as i64 }
    }

    /// Adds f64 sums to the partial results of a block.
    fn add_sums(&mut self, block: Part, sums: Sums) {
        let to = block.sums.expect("columns have partial results");
        let vectors = self.vectors(block.count, 2);
        for value in 0..self.values() {
            let [to, from] = [to, sums].map(|sums| self.sums_of(sums, value));
            self.range((Bound::Static(0), vectors), 1, vec![], &mut |e, at, _| {
                let [to, from] = [to, from].map(|sums| e.add_scaled(sums, at, 16));
                let [total, sum] = [to, from].map(|place| e.b.ins().load(F64X2, MEMORY, place, 0));
                let total = e.b.ins().fadd(total, sum);
                e.b.ins().store(MEMORY, total, to, 0);
                vec![]
            });
        }
    }

    /// How many values are accumulated.
    fn values(&self) -> usize {
        self.plan.reduction.as_ref().map_or(0, |reduction| reduction.values.len())
    }

    /// Vectors of so many lanes that hold as many points, up to where strips access them.
    fn vectors(&mut self, points: Value, lanes: i64) -> Bound {
        let rounded = self.b.ins().iadd_imm_s(points, WIDEST - 1);
        let whole = self.b.ins().band_imm_s(rounded, -WIDEST);
        Bound::Dynamic(self.b.ins().ushr_imm_u(whole, i64::from(lanes.trailing_zeros())))
    }

    /// Memory of this function for the partial results of a block.
    fn stack_of_sums(&mut self, dim: usize) -> Sums {
        let columns = COLUMNS.min(self.plan.extents[dim].next_multiple_of(64)) as i64;
        let value_bytes = columns * if self.plan.is_long_sum() { 8 } else { 4 };
        Sums { first: self.stack(value_bytes * self.values() as i64), value_bytes }
    }

    /// Opens the reduced loops from `at` on but the last, which is the strip's own.
    fn accumulate_rows(&mut self, callee: &Callee, dim: usize, block: Part, at: usize) {
        if at + 1 == self.plan.extents.len() {
            return self.tiles_of_rows(callee, dim, block, at);
        }
        self.range(self.reduced_bounds(at), 1, vec![], &mut |e, index, _| {
            e.at(at, index, |e| {
                e.hoist(Which::Reduced);
                e.accumulate_rows(callee, dim, block, at + 1);
            });
            vec![]
        });
    }

    /// The strip's own rows, as many at a time as fit the cache.
    fn tiles_of_rows(&mut self, callee: &Callee, dim: usize, block: Part, row: usize) {
        // Strips that sweep over the columns take all rows.
        let sweeps = !callee.strip.code.together.is_empty();
        let tile = if sweeps { self.plan.extents[row] } else { rows_at_a_time(self.plan) } as i64;
        let (low, high) = self.reduced_bounds(row);
        let [low, high] = [low, high].map(|bound| self.bound(bound));
        let rows = self.b.ins().isub(high, low);
        let rounded = self.b.ins().iadd_imm_s(rows, tile - 1);
        let tiles = self.b.ins().udiv_imm_u(rounded, tile);
        self.range((Bound::Static(0), Bound::Dynamic(tiles)), 1, vec![], &mut |e, index, _| {
            let first = e.add_scaled(low, index, tile);
            let left = e.b.ins().isub(high, first);
            let most = e.b.ins().iconst(I64, tile);
            let count = e.b.ins().smin(left, most);
            e.b.ins().store(MEMORY, count, callee.arguments, result_offset(&callee.strip.code) as i32);
            e.at(row, first, |e| e.call_strip(callee, dim, block));
            vec![]
        });
    }

    /// An accumulation along its innermost loop as strips, where it qualifies: the result in every lane.
    pub fn accumulate_strips(&mut self) -> Option<Value> {
        let isa = self.simd.strips?;
        let across = self.plan.vector.is_some_and(|v| v >= self.plan.space);
        let reduction = self.plan.reduction.as_ref().filter(|r| across && !r.empty)?;
        if self.plan.interior.is_some() {
            return None;
        }
        let callee = self.callee(strips::row(self.plan, self.combined)?, isa);
        if self.plan.is_long_sum() {
            let zero = self.b.ins().f64const(0.0);
            let sum = self.combine_strips(&callee, self.plan.space, zero);
            let sum = self.b.ins().fdemote(F32, sum);
            return Some(self.b.ins().splat(F32X4, sum));
        }
        let start = self.start(reduction.combine, reduction.dtype());
        Some(self.combine_strips(&callee, self.plan.space, start))
    }

    /// Opens the reduced loops from `dim` on; strips are combined into `total` in their order.
    fn combine_strips(&mut self, callee: &Callee, dim: usize, total: Value) -> Value {
        let extent = self.plan.extents[dim] as i64;
        let bounds = (Bound::Static(0), Bound::Static(extent));
        if self.plan.vector == Some(dim) {
            let part = self.part(bounds);
            self.call_strip(callee, dim, part);
            return self.combine_result(callee, total);
        }
        let next = self.range(bounds, 1, vec![total], &mut |e, index, carried| {
            e.at(dim, index, |e| {
                e.hoist(Which::Reduced);
                vec![e.combine_strips(callee, dim + 1, carried[0])]
            })
        });
        next[0]
    }

    fn combine_result(&mut self, callee: &Callee, total: Value) -> Value {
        let offset = result_offset(&callee.strip.code) as i32;
        let reduction = self.plan.reduction.as_ref().expect("strips are combined");
        if self.plan.is_long_sum() {
            let sum = self.b.ins().load(F64, MEMORY, callee.arguments, offset);
            return self.b.ins().fadd(total, sum);
        }
        let value = self.b.ins().load(F32, MEMORY, callee.arguments, offset);
        let value = self.b.ins().splat(F32X4, value);
        self.combine(reduction.combine, reduction.dtype(), value, total)
    }

    fn part(&mut self, (low, high): (Bound, Bound)) -> Part {
        let (first, end) = (self.bound(low), self.bound(high));
        Part { first, count: self.b.ins().isub(end, first), sums: None }
    }

    /// Memory of this function, aligned to cache lines.
    fn stack(&mut self, bytes: i64) -> Value {
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 6);
        let slot = self.b.create_sized_stack_slot(slot);
        self.b.ins().stack_addr(I64, slot, 0)
    }

    /// Makes a strip's code and all that its calls share.
    fn callee(&mut self, strip: Strip, isa: Isa) -> Callee {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(I64); 2];
        let signature = self.b.import_signature(signature);
        let name = UserExternalName { namespace: 0, index: self.strips.len() as u32 };
        let name = ExternalName::user(self.b.func.declare_imported_user_function(name));
        let function = self.b.import_function(ExtFuncData { name, signature, colocated: true, patchable: false });
        self.strips.push(assemble(&strip.code, isa));
        let arguments = self.stack(arguments_bytes(&strip.code) as i64);
        Callee { strip, function, arguments }
    }

    fn call_strip(&mut self, callee: &Callee, dim: usize, part: Part) {
        self.scoped(|e| {
            e.hand_over_uniforms(callee, part);
            e.at(dim, part.first, |e| e.hand_over_addresses(callee, part.sums));
            e.b.ins().call(callee.function, &[callee.arguments, part.count]);
        });
    }

    fn hand_over_uniforms(&mut self, callee: &Callee, part: Part) {
        let which = callee.strip.which;
        for (k, source) in callee.strip.uniforms.iter().enumerate() {
            let value = match *source {
                UniformSource::Scalar(id) => match self.rep(which, id) {
                    Rep::Vector(v) => self.b.ins().extractlane(v[0], 0u8),
                    _ => {
                        let lane = self.lanes(which, id)[0];
                        let is_word = self.body(which).dtype(id) == DType::I32;
                        if is_word { lane } else { self.word_of_bool(lane) }
                    }
                },
                UniformSource::Limited(id) => self.limited(which, id),
                UniformSource::FirstIndex => self.b.ins().ireduce(I32, part.first),
                UniformSource::InBounds(id) => {
                    let load = self.body(which).loads[id.0 as usize].as_ref().expect("every load has a plan");
                    let inside = self.uniform_axes(which, id, load).in_bounds;
                    self.word_of_bool(inside.expect("a guarded load may be out of bounds"))
                }
            };
            let offset = uniforms_offset(&callee.strip.code) + 4 * k;
            self.b.ins().store(MEMORY, value, callee.arguments, offset as i32);
        }
    }

    /// An integer as i32, the nearest where it is out of range.
    fn limited(&mut self, which: Which, id: ScalarId) -> Value {
        let lane = self.lanes(which, id)[0];
        let wide = self.widened(lane, self.body(which).dtype(id));
        let [least, most] = [i32::MIN, i32::MAX].map(|limit| self.b.ins().iconst(I64, i64::from(limit)));
        let above = self.b.ins().smax(wide, least);
        let limited = self.b.ins().smin(above, most);
        self.b.ins().ireduce(I32, limited)
    }

    /// All bits of a word for true, none for false.
    fn word_of_bool(&mut self, lane: Value) -> Value {
        let word = self.b.ins().uextend(I32, lane);
        self.b.ins().ineg(word)
    }

    fn hand_over_addresses(&mut self, callee: &Callee, sums: Option<Sums>) {
        let which = callee.strip.which;
        for (k, source) in callee.strip.streams.iter().enumerate() {
            let address = match *source {
                StreamSource::Sums(value) => self.sums_of(sums.expect("columns have partial results"), value),
                StreamSource::Store(result) => {
                    let buffer = self.buffers.len() - self.plan.stores.len() + result;
                    self.flat_address(buffer, &self.plan.result)
                }
                StreamSource::Load(id) => {
                    let load = self.body(which).loads[id.0 as usize].as_ref().expect("every load has a plan");
                    let address = self.flat_address(load.operand, &load.flat);
                    let axes =
                        if load.axes.is_empty() { None } else { self.uniform_axes(which, id, load).offset_bytes };
                    axes.map_or(address, |axes| self.b.ins().iadd(address, axes))
                }
            };
            self.b.ins().store(MEMORY, address, callee.arguments, 8 * k as i32);
        }
    }

    fn flat_address(&mut self, buffer: usize, flat: &Affine) -> Value {
        let (pointer, offset) = self.address(buffer, flat);
        self.b.ins().iadd_imm_s(pointer, offset)
    }
}
