//! Loop kernels and scatters as native functions.

mod access;
mod emitter;
mod epilogue;
mod lanes;
mod lines;
mod parts;
mod pieces;
mod plan;
mod reduce;
mod remainder;
mod rows;
mod scalar;
mod scatter;
mod values;

pub(crate) use emitter::{Bound, Buffer, Emitter, Which, Width};
pub(crate) use epilogue::{Blocking, EpiloguePlan, Groups, Rectangle, added_to_sums, emit_epilogue, stores_only_sums};
pub(crate) use parts::Stage;
pub(crate) use pieces::{Piece, pieces};
pub(crate) use plan::{AFTER_ACCUMULATION, AxisPlan, BodyPlan, LoadPlan, LoopPlan, LoopSet, Reduction, range};
pub(crate) use rows::{RowsPlan, emit_rows};
pub(crate) use scatter::{ScatterPlan, emit_scatter};
pub(crate) use values::{MEMORY, Rep};

use crate::chunks::Chunks;
use crate::wide::Isa;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use parts::shared_sums;
use values::LANES;

/// Vectors interleaved in a block, so that the latencies of one overlap with the others.
const GROUPS: usize = 4;

/// Points along a vector loop that chunks are multiples of, whatever the vectors: two of the widest.
const CHUNK_STEP: usize = 32;

/// Computations in a body from which on only two vectors are interleaved, for want of registers.
const LARGE_BODY: usize = 40;

/// What every kernel function is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelArguments {
    /// The context of the call.
    pub context: Value,
    /// Which part of the work to do.
    pub chunk: Value,
}

/// Vector instructions kernels may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimdOptions {
    /// Fused multiply-add.
    pub fma: bool,
    /// Strips in wider vectors than Cranelift's.
    pub strips: Option<Isa>,
}

impl LoopPlan {
    /// How the outermost loop is cut, by shape and cost alone.
    pub fn chunks(&self) -> Chunks {
        match self.stage {
            Stage::Parts => return Chunks::new(self.parts().count, self.cost(), 1),
            Stage::Rest => return Chunks::whole(self.outermost()),
            Stage::Whole => {}
        }
        let outermost = self.outermost();
        let in_vector_loop = self.vector == Some(0);
        if in_vector_loop && self.interior.is_some() {
            return Chunks::whole(outermost);
        }
        Chunks::new(outermost, self.cost(), if in_vector_loop { CHUNK_STEP } else { 1 })
    }

    /// Trips of the outermost loop of the space.
    pub fn outermost(&self) -> usize {
        if self.space == 0 { 1 } else { self.extents[0] }
    }

    fn groups(&self) -> usize {
        let size = self.body.scalars.len() + self.reduction.as_ref().map_or(0, |r| r.body.scalars.len());
        if size > LARGE_BODY { GROUPS / 2 } else { GROUPS }
    }
}

/// Emits the chunk of a loop kernel; `buffers` are its operands, then its results. Gives the code of the strips called,
/// in the order of their numbers.
pub(crate) fn emit_loops(
    b: &mut FunctionBuilder,
    plan: &LoopPlan,
    buffers: &[Buffer],
    arguments: KernelArguments,
    simd: SimdOptions,
) -> Vec<Vec<u8>> {
    if plan.points() == 0 {
        return vec![];
    }
    let bounds = chunk_bounds(b, plan.chunks(), arguments.chunk);
    let shared_sums = shared_sums(b, plan, arguments.context);
    let mut emitter = Emitter::new(b, plan, buffers, arguments.context, simd);
    emitter.shared_sums = shared_sums;
    emitter.hoist_both();
    if plan.stage == Stage::Parts {
        emitter.make_parts(bounds)
    } else {
        emitter.space(0, bounds)
    }
    emitter.strips
}

/// First and last index of a chunk of the outermost loop.
fn chunk_bounds(b: &mut FunctionBuilder, chunks: Chunks, chunk: Value) -> (Bound, Bound) {
    if chunks.count == 1 {
        return (Bound::Static(0), Bound::Static(chunks.extent as i64));
    }
    let low = b.ins().imul_imm_s(chunk, chunks.size as i64);
    let end = b.ins().iadd_imm_s(low, chunks.size as i64);
    let extent = b.ins().iconst(I64, chunks.extent as i64);
    let high = b.ins().smin(end, extent);
    (Bound::Dynamic(low), Bound::Dynamic(high))
}

type VectorBody<'a, 'e, 'f> = dyn FnMut(&mut Emitter<'e, 'f>, Vec<Value>) -> Vec<Value> + 'a;

impl<'e, 'f> Emitter<'e, 'f> {
    fn hoist_both(&mut self) {
        if self.plan.reduction.as_ref().is_some_and(|r| !r.empty) {
            self.hoist(Which::Reduced);
        }
        self.hoist(Which::Point);
    }

    /// Opens the space's loops from `dim` on.
    fn space(&mut self, dim: usize, bounds: (Bound, Bound)) {
        if dim == self.plan.space {
            self.point();
            return;
        }
        if self.plan.vector == Some(dim) {
            if self.strips_of_space(dim, bounds) {
                return;
            }
            self.vector_loop(dim, bounds, vec![], &mut |e, _| {
                e.point();
                vec![]
            });
            return;
        }
        if self.strip_of_rows(dim, bounds) || self.strips_of_short_rows(dim, bounds) {
            return;
        }
        self.range(bounds, 1, vec![], &mut |e, index, _| {
            e.at(dim, index, |e| {
                e.hoist_both();
                let next = e.plan.extents.get(dim + 1).map_or(0, |&n| n as i64);
                e.space(dim + 1, (Bound::Static(0), Bound::Static(next)));
            });
            vec![]
        });
    }

    /// Everything that happens at the points of a block: accumulate, compute, store.
    pub(crate) fn point(&mut self) {
        self.accumulate();
        let plan = self.plan;
        if plan.stage == Stage::Parts {
            return;
        }
        // All loads come before the first store: a result may live where an operand does.
        for &id in &plan.stores {
            self.rep(Which::Point, id);
        }
        let first = self.buffers.len() - plan.stores.len();
        for (k, &id) in plan.stores.iter().enumerate() {
            self.store(first + k, &plan.result, Which::Point, id);
        }
    }

    /// The vector loop as blocks of several vectors, of one, and single points; guards are tested only at the ends.
    fn vector_loop(
        &mut self,
        dim: usize,
        (low, high): (Bound, Bound),
        mut carried: Vec<Value>,
        body: &mut VectorBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let (Bound::Static(low), Bound::Static(high)) = (low, high) else {
            return self.dynamic_segments(dim, (low, high), carried, body);
        };
        let Some((interior, (from, to))) = self.plan.interior.as_deref() else {
            return self.static_segments(dim, (low, high), carried, body);
        };
        let (from, to) = (*from, *to);
        carried = self.segment(dim, (Bound::Static(low), Bound::Static(from)), Width::POINT, carried, body);
        carried = self.with_plan(interior, |e| e.static_segments(dim, (from, to), carried, body));
        self.segment(dim, (Bound::Static(to), Bound::Static(high)), Width::POINT, carried, body)
    }

    /// Emits with another plan of the same loops.
    pub(crate) fn with_plan<R>(&mut self, plan: &'e LoopPlan, body: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.plan;
        self.plan = plan;
        let result = self.scoped(body);
        self.plan = outer;
        result
    }

    fn static_segments(
        &mut self,
        dim: usize,
        (low, high): (i64, i64),
        carried: Vec<Value>,
        body: &mut VectorBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let trips = (high - low) as usize;
        let groups = self.plan.groups().min(trips / LANES).max(1);
        let wide = low + (trips - trips % (LANES * groups)) as i64;
        let single = low + (trips - trips % LANES) as i64;
        let segments = [
            (low, wide, Width { lanes: LANES, groups }),
            (wide, single, Width { lanes: LANES, groups: 1 }),
            (single, high, Width::POINT),
        ];
        segments.into_iter().fold(carried, |carried, (low, high, width)| {
            self.segment(dim, (Bound::Static(low), Bound::Static(high)), width, carried, body)
        })
    }

    fn dynamic_segments(
        &mut self,
        dim: usize,
        (low, high): (Bound, Bound),
        carried: Vec<Value>,
        body: &mut VectorBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let (Bound::Dynamic(low), Bound::Dynamic(high)) = (low, high) else {
            unreachable!("a chunk has two ends known at run time");
        };
        let groups = self.plan.groups();
        let trips = self.b.ins().isub(high, low);
        let mut end_of = |points: usize| {
            let whole = self.b.ins().band_imm_s(trips, -(points as i64));
            self.b.ins().iadd(low, whole)
        };
        let (wide, single) = (end_of(LANES * groups), end_of(LANES));
        let segments = [
            (low, wide, Width { lanes: LANES, groups }),
            (wide, single, Width { lanes: LANES, groups: 1 }),
            (single, high, Width::POINT),
        ];
        segments.into_iter().fold(carried, |carried, (low, high, width)| {
            self.segment(dim, (Bound::Dynamic(low), Bound::Dynamic(high)), width, carried, body)
        })
    }

    pub(crate) fn segment(
        &mut self,
        dim: usize,
        bounds: (Bound, Bound),
        width: Width,
        carried: Vec<Value>,
        body: &mut VectorBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let outer = std::mem::replace(&mut self.width, width);
        let carried = self
            .range(bounds, width.points(), carried, &mut |e, index, carried| e.at(dim, index, |e| body(e, carried)));
        self.width = outer;
        carried
    }
}
