//! Row kernels: several loop nests over blocks of rows that fit the first cache, one block after the other.
//!
//! Each step keeps the plan that it would have as a kernel of its own, and thereby its bits; its outermost loop runs over
//! the rows of a block. What exists only inside stands in the work space of the thread, one block of it.

use super::plan::LoopPlan;
use super::{Bound, Buffer, CHUNK_STEP, Emitter, KernelArguments, SimdOptions, chunk_bounds, pieces};
use crate::chunks::Chunks;
use crate::runtime::Function;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::kernel::{RowKernel, RowStep, row_axes};
use gradc_ir::plan::ALIGNMENT_BYTES;
use gradc_ir::types::{DType, TensorType};

/// Bytes of all buffers that one block of rows covers: a quarter of a first-level cache.
const BLOCK_BYTES: usize = 8 << 10;

/// A step with less than this part of the operations may have single points: rows are not cut for its vectors.
const NEGLIGIBLE: usize = 100;

/// A row kernel made ready for emission.
#[derive(Clone, Debug)]
pub(crate) struct RowsPlan {
    /// Trips of the loop that all steps share; one of them is one or more of the kernel's rows.
    rows: usize,
    /// Trips of it that are worked on at a time.
    block: usize,
    /// Multiples in which it is cut, so that what runs in vectors along it has few single points.
    step: usize,
    steps: Vec<StepPlan>,
    temporaries: Vec<Temporary>,
}

#[derive(Clone, Debug)]
struct StepPlan {
    plan: LoopPlan,
    /// Trips of its outermost loop in one of the shared loop.
    trips: usize,
    /// The buffers its stores go to.
    stores: Vec<usize>,
}

/// A buffer that exists only inside.
#[derive(Clone, Copy, Debug)]
struct Temporary {
    dtype: DType,
    /// Size of what one trip of the shared loop makes of it.
    row_bytes: usize,
}

impl RowsPlan {
    /// Plans a kernel of these operands and results.
    pub fn new(kernel: &RowKernel, operands: &[TensorType], results: &[TensorType]) -> RowsPlan {
        let types = [operands, results, &kernel.temporaries].concat();
        let dtypes: Vec<DType> = types.iter().map(|ty| ty.dtype).collect();
        let plans = |step| step_plans(step, kernel.rows, &dtypes).into_iter().map(move |plan| (step, plan));
        let plans: Vec<(&RowStep, LoopPlan)> = kernel.steps.iter().flat_map(plans).collect();
        let rows = plans.iter().fold(kernel.rows, |rows, (_, plan)| common_divisor(rows, plan.outermost()));
        let steps = plans.into_iter().map(|(RowStep { makes, .. }, plan)| StepPlan {
            trips: plan.outermost() / rows,
            plan,
            stores: makes.iter().map(|made| operands.len() + made).collect(),
        });
        let steps: Vec<StepPlan> = steps.collect();
        let row_bytes = |ty: &TensorType| ty.size_bytes() / rows;
        let cost = total_cost(&steps);
        let matters = |step: &&StepPlan| step.plan.cost().saturating_mul(NEGLIGIBLE) >= cost;
        let step = steps.iter().filter(matters).map(StepPlan::rows_together).max().unwrap_or(1);
        let block = (BLOCK_BYTES / types.iter().map(row_bytes).sum::<usize>().max(1)).clamp(1, rows);
        RowsPlan {
            rows,
            block: if block < step { block } else { block - block % step },
            step,
            steps,
            temporaries: kernel
                .temporaries
                .iter()
                .map(|ty| Temporary { dtype: ty.dtype, row_bytes: row_bytes(ty) })
                .collect(),
        }
    }

    /// How the loop over rows is cut, by shape and cost alone.
    pub fn chunks(&self) -> Chunks {
        Chunks::new(self.rows, total_cost(&self.steps), self.step)
    }

    /// Work space of one thread, bytes.
    pub fn scratch_bytes(&self) -> usize {
        self.temporaries.iter().map(|t| self.block_bytes(t)).sum()
    }

    fn block_bytes(&self, temporary: &Temporary) -> usize {
        (self.block * temporary.row_bytes).next_multiple_of(ALIGNMENT_BYTES)
    }
}

/// The loops of a step: in pieces where these are cut within rows.
fn step_plans(RowStep { loops, .. }: &RowStep, rows: usize, dtypes: &[DType]) -> Vec<LoopPlan> {
    let pieces = pieces(loops);
    let axes = row_axes(&loops.space, rows).expect("the space of every step begins with the rows");
    let whole_rows = pieces.iter().all(|piece| piece.kernel.space[..axes] == loops.space[..axes]);
    match whole_rows {
        true => pieces.iter().map(|piece| LoopPlan::of_piece(piece, dtypes)).collect(),
        false => vec![LoopPlan::new(loops, dtypes)],
    }
}

impl StepPlan {
    /// Rows that make whole blocks of vectors along the shared loop.
    fn rows_together(&self) -> usize {
        let along = self.plan.vector == Some(0);
        if along { CHUNK_STEP / common_divisor(CHUNK_STEP, self.trips) } else { 1 }
    }
}

fn total_cost(steps: &[StepPlan]) -> usize {
    steps.iter().fold(0, |sum, step| sum.saturating_add(step.plan.cost()))
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Emits the chunk of a row kernel; `buffers` are its operands, then its results. Gives the code of the strips called, in
/// the order of their numbers.
pub(crate) fn emit_rows(
    b: &mut FunctionBuilder,
    plan: &RowsPlan,
    buffers: &[Buffer],
    arguments: KernelArguments,
    simd: SimdOptions,
) -> Vec<Vec<u8>> {
    let chunks = plan.chunks();
    let bounds = chunk_bounds(b, chunks, arguments.chunk);
    let work_space = (!plan.temporaries.is_empty()).then(|| {
        let address = Function::WorkSpace.emit_call(b, arguments.context, &[arguments.context]);
        address.expect("there is an address")
    });
    let mut emitter = RowEmitter { plan, buffers, work_space, context: arguments.context, simd, strips: vec![] };
    match bounds {
        (Bound::Dynamic(low), Bound::Dynamic(high)) => emitter.blocks(b, (low, high)),
        _ if plan.block < plan.rows => {
            let [low, high] = [0, plan.rows].map(|at| b.ins().iconst(I64, at as i64));
            emitter.blocks(b, (low, high));
        }
        whole => emitter.block(b, whole),
    }
    emitter.strips
}

struct RowEmitter<'p> {
    plan: &'p RowsPlan,
    buffers: &'p [Buffer],
    /// Where temporaries stand.
    work_space: Option<Value>,
    context: Value,
    simd: SimdOptions,
    strips: Vec<Vec<u8>>,
}

impl RowEmitter<'_> {
    /// A loop over blocks of the rows from `low` to `high`, at least one.
    fn blocks(&mut self, b: &mut FunctionBuilder, (low, high): (Value, Value)) {
        let (head, exit) = (b.create_block(), b.create_block());
        b.append_block_param(head, I64);
        b.ins().jump(head, &[BlockArg::from(low)]);
        b.switch_to_block(head);
        let first = b.block_params(head)[0];
        let next = b.ins().iadd_imm_s(first, self.plan.block as i64);
        let end = b.ins().smin(next, high);
        self.block(b, (Bound::Dynamic(first), Bound::Dynamic(end)));
        let again = b.ins().icmp(IntCC::SignedLessThan, next, high);
        b.ins().brif(again, head, &[BlockArg::from(next)], exit, &[]);
        b.switch_to_block(exit);
    }

    /// Every step at the rows from `low` to `high`.
    fn block(&mut self, b: &mut FunctionBuilder, (low, high): (Bound, Bound)) {
        let all = [self.buffers, &self.temporaries(b, low)].concat();
        for step in &self.plan.steps {
            let stores = step.stores.iter().map(|&made| all[made]);
            let buffers: Vec<Buffer> = all.iter().copied().chain(stores).collect();
            let bounds = [low, high].map(|bound| scaled(b, bound, step.trips));
            let mut emitter = Emitter::new(b, &step.plan, &buffers, self.context, self.simd);
            emitter.strips = std::mem::take(&mut self.strips);
            emitter.hoist_both();
            emitter.space(0, bounds.into());
            self.strips = emitter.strips;
        }
    }

    /// The temporaries, as if all their rows were there: the first one that is, `low`, stands in the work space.
    fn temporaries(&self, b: &mut FunctionBuilder, low: Bound) -> Vec<Buffer> {
        let mut offset = 0;
        let mut place = |temporary: &Temporary| {
            let start = self.work_space.expect("temporaries have a work space");
            let mut base = b.ins().iadd_imm_s(start, offset as i64);
            offset += self.plan.block_bytes(temporary);
            if let Bound::Dynamic(low) = low {
                let before = b.ins().imul_imm_s(low, temporary.row_bytes as i64);
                base = b.ins().isub(base, before);
            }
            Buffer { base, dtype: temporary.dtype }
        };
        self.plan.temporaries.iter().map(&mut place).collect()
    }
}

fn scaled(b: &mut FunctionBuilder, bound: Bound, by: usize) -> Bound {
    match bound {
        Bound::Static(at) => Bound::Static(at * by as i64),
        Bound::Dynamic(at) => Bound::Dynamic(b.ins().imul_imm_s(at, by as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::kernel::{Accumulate, LoopKernel};
    use gradc_ir::lower::{Access, Body, Combine, Scalar, UnaryFn};

    /// exp(Σ x) of rows of `x`, the exponential as a step of its own.
    fn sums_and_map(rows: usize, width: usize) -> RowsPlan {
        let (x, sums) = (TensorType::f32([rows, width]), TensorType::f32([rows]));
        let mut terms = Body::default();
        let value = terms.load(DType::F32, Access::identity(0, &x.shape, 2));
        let mut body = Body::default();
        let stores = vec![body.push(Scalar::Accumulated(0), terms.dtype(value))];
        let accumulate =
            Accumulate::Reduce { extents: vec![width], combine: Combine::Sum, body: terms, values: vec![value] };
        let sum = LoopKernel { space: vec![rows], accumulate: Some(accumulate), body, stores };
        let mut body = Body::default();
        let sum_of_row = body.load(DType::F32, Access::identity(2, &sums.shape, 1));
        let stores = vec![body.unary(UnaryFn::Exp, sum_of_row)];
        let map = LoopKernel { space: vec![rows], accumulate: None, body, stores };
        let steps = vec![RowStep { loops: sum, makes: vec![1] }, RowStep { loops: map, makes: vec![0] }];
        let kernel = RowKernel { rows, temporaries: vec![sums.clone()], steps };
        RowsPlan::new(&kernel, &[x], &[sums])
    }

    #[test]
    fn rows_are_cut_for_vectors_of_what_matters() {
        assert_eq!(sums_and_map(64, 100_000).chunks().count, 32, "one number of a row matters little");
        assert_eq!(sums_and_map(100_000, 2).chunks().size, 196 * CHUNK_STEP, "here it is half of all");
    }
}
