//! Which form of code each kernel takes.

use crate::backend::Library;
use crate::chunks::Chunks;
use crate::contraction::{ContractionPlan, Layout, WorkSpace, multiplied_at_each_point, products_first};
use crate::indirect::{FactorCopy, IndirectPlan, finishing_kernel};
use crate::lines::LinesPlan;
use crate::loops::{EpiloguePlan, LoopPlan, Piece, RowsPlan, ScatterPlan, added_to_sums, pieces, stores_only_sums};
use crate::program::{PlacedContraction, PlacedIndirect, Program, Sums};
use crate::runtime::Function;
use crate::transposition::{Target, TranspositionPlan};
use crate::verify::Signature;
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::Contraction;
use gradc_ir::plan::ALIGNMENT_BYTES;
use gradc_ir::target::VectorIsa;
use gradc_ir::types::DType;
use std::ops::Range;

/// Floats behind a copy of a factor that vectors may read as well.
const READ_PAST_COPIES: usize = 16;

/// Bytes of panels that all loops together may keep.
const MOST_KEPT_BYTES: usize = 4 << 20;

/// What a kernel is compiled from.
///
/// A function is given the addresses of the operands, then of the results; lists of dtypes are in that order.
#[derive(Debug)]
pub(crate) enum KernelCode {
    /// A loop nest.
    Loops(Box<LoopPlan>, Vec<DType>),
    /// Loop nests over the same rows.
    Rows(Box<RowsPlan>, Vec<DType>),
    /// Several one after the other: loop nests for parts of the points, steps of a contraction; the codes with these
    /// positions.
    Sequence(Range<usize>),
    /// A contraction whose right factor, this operand, is packed before the loops around that do not change it: the
    /// code with this position packs it, the next one computes.
    Kept { packing: usize, operand: usize },
    /// A scatter.
    Scatter(Box<ScatterPlan>, Vec<DType>),
    /// A function that works from tables: which, position of its tables in the program, chunks.
    Call { function: Function, tables: usize, chunks: usize },
    /// What is computed with the sums of a contraction, a block at a time; called by the contraction.
    Epilogue(Box<EpiloguePlan>, Vec<DType>),
    /// A loop nest behind a contraction; it reads the sums, which stand in the shared work space, as its last operand.
    Finish(Box<LoopPlan>, Vec<DType>),
    /// A loop nest before a contraction; its result goes to the shared work space, so many floats from its beginning.
    /// The dtypes are those of the operands.
    Copy(Box<LoopPlan>, Vec<DType>, usize),
}

impl KernelCode {
    /// How many chunks the kernel is cut into, by its shape.
    pub fn chunks(&self) -> usize {
        match self {
            KernelCode::Loops(plan, _) | KernelCode::Finish(plan, _) | KernelCode::Copy(plan, ..) => {
                plan.chunks().count
            }
            KernelCode::Rows(plan, _) => plan.chunks().count,
            KernelCode::Call { chunks, .. } => *chunks,
            _ => Chunks::whole(1).count,
        }
    }
}

/// Kernels in the forms they are compiled from.
#[derive(Debug)]
pub(crate) struct Planned {
    /// One per kernel, then those that kernels consist of.
    pub codes: Vec<KernelCode>,
    /// The tables they refer to.
    pub program: Program,
}

impl Planned {
    /// Chooses the form of every kernel.
    pub fn new(kernels: &[(&KernelKind, Signature)], isa: VectorIsa, library: Library) -> Planned {
        let mut planned = Planned { codes: vec![], program: Program::default() };
        let mut further = vec![];
        for (kind, signature) in kernels {
            let next = kernels.len() + further.len();
            let (code, parts) = planned.choose(kind, signature, (isa, library), next);
            planned.codes.push(code);
            further.extend(parts);
        }
        planned.codes.extend(further);
        planned
    }

    /// The code of a kernel, and codes it consists of, the first of which will have position `next`.
    fn choose(
        &mut self,
        kind: &KernelKind,
        signature: &Signature,
        (isa, library): (VectorIsa, Library),
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let dtypes = |types: &[gradc_ir::types::TensorType]| types.iter().map(|t| t.dtype).collect::<Vec<DType>>();
        let (operands, results) = (dtypes(&signature.operands), dtypes(&signature.results));
        let all = [&operands[..], &results].concat();
        let library = if signature.for_library { library } else { Library::Never };
        match kind {
            KernelKind::Loops(kernel) => {
                let product = product(kernel, &operands, isa, library);
                let of_parts = product.as_ref().is_some_and(|(plan, _)| plan.multiplies_parts());
                let windows = |c: &Contraction| if of_parts { None } else { IndirectPlan::new(c, isa, operands.len()) };
                if let Some(plan) = contraction_plan(kernel, &operands, windows) {
                    self.indirect((plan, isa), kernel, &operands, &results, next)
                } else if let Some(kernel) = multiplied_at_each_point(kernel, &operands) {
                    self.loops(&kernel, &operands, &all, next)
                } else if let Some((plan, piece)) = product {
                    let is_fixed = signature.fixed.get(plan.right.operand).is_some_and(Option::is_some);
                    self.contraction((plan, is_fixed), (kernel, piece), &operands, &results, next)
                } else if let Some(code) = self.transposition(kernel, &operands, Target::Result(operands.len()), isa) {
                    (code, vec![])
                } else {
                    self.loops(kernel, &operands, &all, next)
                }
            }
            KernelKind::Rows(kernel) => {
                let plan = RowsPlan::new(kernel, &signature.operands, &signature.results);
                self.program.reserve(0, plan.scratch_bytes());
                (KernelCode::Rows(Box::new(plan), all), vec![])
            }
            KernelKind::Scatter(scatter) => {
                let plan = ScatterPlan::new(scatter, &operands, results[0]);
                (KernelCode::Scatter(Box::new(plan), all), vec![])
            }
            KernelKind::Lines(lines) => (self.lines(LinesPlan::new(lines, operands[0])), vec![]),
        }
    }

    fn loops(
        &mut self,
        kernel: &LoopKernel,
        operands: &[DType],
        all: &[DType],
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let code = |plan: LoopPlan| KernelCode::Loops(Box::new(plan), all.to_vec());
        let plans: Vec<LoopPlan> = pieces(kernel).iter().map(|piece| LoopPlan::of_piece(piece, operands)).collect();
        let stages = if let [whole] = &plans[..] { whole.in_stages() } else { None };
        if let Some([parts, _]) = &stages {
            self.program.reserve(parts.stage_bytes(), 0);
        }
        sequence(stages.map_or(plans, Vec::from).into_iter().map(code).collect(), next)
    }

    fn lines(&mut self, plan: LinesPlan) -> KernelCode {
        self.program.reserve(0, plan.scratch_bytes().next_multiple_of(ALIGNMENT_BYTES));
        let (tables, chunks) = (self.program.lines.len(), plan.chunks());
        self.program.lines.push(plan);
        KernelCode::Call { function: Function::Lines, tables, chunks }
    }

    /// A kernel that only transposes.
    fn transposition(
        &mut self,
        kernel: &LoopKernel,
        operands: &[DType],
        to: Target,
        isa: VectorIsa,
    ) -> Option<KernelCode> {
        let plan = TranspositionPlan::new(kernel, operands, to, isa)?;
        let (tables, chunks) = (self.program.transpositions.len(), plan.chunks());
        self.program.transpositions.push(plan);
        Some(KernelCode::Call { function: Function::Transpose, tables, chunks })
    }

    fn contraction(
        &mut self,
        (mut plan, is_fixed): (ContractionPlan, bool),
        (kernel, piece): (&LoopKernel, Piece),
        operands: &[DType],
        results: &[DType],
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let added = added_to_sums(kernel).filter(|_| plan.adds_as_it_stores());
        let has_epilogue = added.is_none() && (!stores_only_sums(kernel) || plan.sums_apart());
        let epilogue =
            |plan: &ContractionPlan| EpiloguePlan::new(&piece, plan.groups, operands, plan.result_blocking());
        let whole = has_epilogue.then(|| epilogue(&plan));
        let room = if is_fixed { MOST_KEPT_BYTES.saturating_sub(self.program.kept_bytes) / 4 } else { 0 };
        plan.cut(whole.as_ref(), room);
        let WorkSpace { left, right, sums, turned, shared, kept } = plan.floats;
        let sums_of_parts = if plan.depth_parts > 1 { plan.depth_parts * plan.elements() } else { 0 };
        let shared_bytes = bytes_of(shared.max(sums_of_parts));
        self.program.reserve(shared_bytes, bytes_of(left + right + sums + turned));
        let contraction = self.program.contractions.len();
        let step = |function, chunks| KernelCode::Call { function, tables: contraction, chunks };
        let product = step(Function::Contract, plan.chunks());
        if plan.depth_parts > 1 {
            let finish = finishing_kernel(kernel, operands.len(), plan.depth_parts).expect("parts have to be added up");
            let finish = finishing(&finish, operands, results);
            self.program.contractions.push(PlacedContraction {
                plan,
                epilogue: None,
                result: operands.len(),
                added: None,
                kept_at: 0,
                shared_bytes,
            });
            return sequence(vec![product, finish], next);
        }
        let packing = || step(Function::PackShared, plan.packing_chunks());
        let (code, mut further) = match plan.layouts[1] {
            Layout::Shared => (KernelCode::Sequence(next..next + 2), vec![packing(), product]),
            Layout::Kept => (KernelCode::Kept { packing: next, operand: plan.right.operand }, vec![packing(), product]),
            Layout::InPlace | Layout::Packed => (product, vec![]),
        };
        let kept_at = self.program.kept_bytes;
        self.program.kept_bytes += bytes_of(kept);
        let epilogue_at = has_epilogue.then_some(next + further.len());
        if has_epilogue {
            further.push(KernelCode::Epilogue(Box::new(epilogue(&plan)), [operands, results].concat()));
        }
        self.program.contractions.push(PlacedContraction {
            plan,
            epilogue: epilogue_at,
            result: operands.len(),
            added,
            kept_at,
            shared_bytes,
        });
        (code, further)
    }

    fn indirect(
        &mut self,
        (mut plan, isa): (IndirectPlan, VectorIsa),
        kernel: &LoopKernel,
        operands: &[DType],
        results: &[DType],
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let (partials, contraction) = (plan.partials(), self.program.indirect.len());
        let finish = finishing_kernel(kernel, operands.len(), partials);
        let by_product = finish.as_ref().and_then(|_| plan.cut_by_product());
        let sums_are_shared = finish.is_some() && by_product.is_none();
        let shared_sums = if sums_are_shared { partials * kernel.space.iter().product::<usize>() } else { 0 };
        let copy = plan.copy.take().map(|copy| self.shared_copy(&copy, shared_sums, operands, isa));
        let copy_at = copy.as_ref().map(|(_, at)| (operands.len(), at.start));
        let shared_bytes = bytes_of(copy.as_ref().map_or(shared_sums, |(_, at)| at.end));
        let mut thread_bytes = 0;
        let product = KernelCode::Call { function: Function::ContractRows, tables: contraction, chunks: plan.chunks() };
        let mut steps: Vec<KernelCode> = copy.into_iter().map(|(code, _)| code).chain([product]).collect();
        let mut epilogue = None;
        let sums = match (finish, by_product) {
            (None, _) => Sums::Result(operands.len()),
            (Some(_), Some((groups, blocking))) => {
                thread_bytes = bytes_of(blocking.m * blocking.n);
                let plan = EpiloguePlan::new(&Piece::whole(kernel), groups, operands, blocking);
                epilogue = Some(KernelCode::Epilogue(Box::new(plan), [operands, results].concat()));
                Sums::Epilogue(next + further_codes(&steps))
            }
            (Some(finish), None) => {
                steps.push(finishing(&finish, operands, results));
                Sums::Shared
            }
        };
        self.program.reserve(shared_bytes, thread_bytes);
        self.program.indirect.push(PlacedIndirect { plan, copy: copy_at, sums, shared_bytes });
        let (code, mut further) = sequence(steps, next);
        further.extend(epilogue);
        (code, further)
    }

    /// The copy of a factor behind so many floats of the shared work space, and which floats it takes.
    fn shared_copy(
        &mut self,
        copy: &FactorCopy,
        before: usize,
        operands: &[DType],
        isa: VectorIsa,
    ) -> (KernelCode, Range<usize>) {
        let at = before.next_multiple_of(ALIGNMENT_BYTES / 4);
        let end = at + copy.floats() + READ_PAST_COPIES;
        let as_loops = || KernelCode::Copy(Box::new(LoopPlan::new(&copy.kernel, operands)), operands.to_vec(), at);
        (self.transposition(&copy.kernel, operands, Target::Shared(at), isa).unwrap_or_else(as_loops), at..end)
    }
}

/// The code of a kernel behind a contraction.
fn finishing(kernel: &LoopKernel, operands: &[DType], results: &[DType]) -> KernelCode {
    let read = [operands, &[DType::F32]].concat();
    KernelCode::Finish(Box::new(LoopPlan::new(kernel, &read)), [operands, results].concat())
}

/// Bytes of so many floats, to where something else may begin.
fn bytes_of(floats: usize) -> usize {
    (4 * floats).next_multiple_of(ALIGNMENT_BYTES)
}

/// Steps one after the other; a single one is the code itself. The first further code will have position `next`.
fn sequence(mut steps: Vec<KernelCode>, next: usize) -> (KernelCode, Vec<KernelCode>) {
    match further_codes(&steps) {
        0 => (steps.remove(0), vec![]),
        count => (KernelCode::Sequence(next..next + count), steps),
    }
}

/// How many codes a sequence of these steps needs beside its own.
fn further_codes(steps: &[KernelCode]) -> usize {
    if steps.len() > 1 { steps.len() } else { 0 }
}

/// What `plan` makes of a kernel that is an f32 contraction.
/// A product of matrices, and the kernel with its loops in their order.
fn product(
    kernel: &LoopKernel,
    operands: &[DType],
    isa: VectorIsa,
    library: Library,
) -> Option<(ContractionPlan, Piece)> {
    let piece = products_first(kernel);
    let plan = |c: &Contraction| ContractionPlan::new(c, &piece.result, isa, library);
    Some((contraction_plan(&piece.kernel, operands, plan)?, piece))
}

fn contraction_plan<P>(
    kernel: &LoopKernel,
    operands: &[DType],
    plan: impl FnOnce(&Contraction) -> Option<P>,
) -> Option<P> {
    match &kernel.accumulate {
        Some(Accumulate::Contract(c)) if operands[c.lhs.operand] == DType::F32 => plan(c),
        _ => None,
    }
}
