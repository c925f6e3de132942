//! Which form of code each kernel takes.

use crate::chunks::Chunks;
use crate::contraction::ContractionPlan;
use crate::host::HostKernel;
use crate::loops::{LoopPlan, Piece, ScatterPlan, pieces};
use crate::program::{PlacedContraction, Program};
use crate::verify::Signature;
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Scalar, ScalarId};
use gradc_ir::plan::ALIGNMENT_BYTES;
use gradc_ir::target::VectorIsa;
use gradc_ir::types::DType;
use std::ops::Range;

/// What a kernel is compiled from.
///
/// A function is given the addresses of the operands, then of the results; lists of dtypes are in that order.
#[derive(Debug)]
pub(crate) enum KernelCode {
    /// A loop nest.
    Loops(Box<LoopPlan>, Vec<DType>),
    /// Loop nests for parts of the points; they are the codes with these positions.
    Pieces(Range<usize>),
    /// A scatter.
    Scatter(Box<ScatterPlan>, Vec<DType>),
    /// A contraction by micro-kernels, its address of sums standing between operands and results.
    Contraction(ContractionCode),
    /// An op called by its position in the program; it has no native function.
    Host(usize),
}

/// A contraction by micro-kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContractionCode {
    /// Its position in the program.
    pub contraction: usize,
    /// Its chunks.
    pub chunks: usize,
    /// The kernel that makes the results of the sums; without one, the sums are the result.
    pub epilogue: Option<usize>,
}

impl KernelCode {
    /// How many chunks the kernel is cut into, by its shape.
    pub fn chunks(&self) -> usize {
        match self {
            KernelCode::Loops(plan, _) => plan.chunks().count,
            KernelCode::Contraction(code) => code.chunks,
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
    pub fn new(kernels: &[(&KernelKind, Signature)], isa: VectorIsa) -> Planned {
        let mut planned = Planned { codes: vec![], program: Program::default() };
        let mut further = vec![];
        for (kind, signature) in kernels {
            let next = kernels.len() + further.len();
            let (code, parts) = planned.choose(kind, signature, isa, next);
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
        isa: VectorIsa,
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let dtypes = |types: &[gradc_ir::types::TensorType]| types.iter().map(|t| t.dtype).collect::<Vec<DType>>();
        let (operands, results) = (dtypes(&signature.operands), dtypes(&signature.results));
        let all = [&operands[..], &results].concat();
        match kind {
            KernelKind::Loops(kernel) => match contraction_plan(kernel, &operands, isa) {
                Some(plan) => self.contraction(plan, kernel, &operands, &results, next),
                None => loop_codes(kernel, &operands, &all, next),
            },
            KernelKind::Scatter(scatter) => {
                let plan = ScatterPlan::new(scatter, &operands, results[0]);
                (KernelCode::Scatter(Box::new(plan), all), vec![])
            }
            KernelKind::Host(op) => {
                let Signature { operands, results } = signature.clone();
                self.program.hosts.push(HostKernel { op: op.clone(), operands, results });
                (KernelCode::Host(self.program.hosts.len() - 1), vec![])
            }
        }
    }

    fn contraction(
        &mut self,
        plan: ContractionPlan,
        kernel: &LoopKernel,
        operands: &[DType],
        results: &[DType],
        next: usize,
    ) -> (KernelCode, Vec<KernelCode>) {
        let (chunks, contraction) = (plan.chunks(), self.program.contractions.len());
        let (left, right) = plan.scratch();
        let bytes = (4 * (left + right)).next_multiple_of(ALIGNMENT_BYTES);
        self.program.thread_bytes = self.program.thread_bytes.max(bytes);
        self.program.contractions.push(PlacedContraction { plan, result: operands.len() });
        let epilogue = epilogue_kernel(kernel, operands.len()).map(|epilogue| {
            let sums = (4 * kernel.space.iter().product::<usize>()).next_multiple_of(ALIGNMENT_BYTES);
            self.program.sums_bytes = self.program.sums_bytes.max(sums);
            let operands = [operands, &[DType::F32]].concat();
            let plan = LoopPlan::new(&epilogue, &operands);
            KernelCode::Loops(Box::new(plan), [&operands[..], results].concat())
        });
        let code = ContractionCode { contraction, chunks, epilogue: epilogue.as_ref().map(|_| next) };
        (KernelCode::Contraction(code), epilogue.into_iter().collect())
    }
}

fn loop_codes(kernel: &LoopKernel, operands: &[DType], all: &[DType], next: usize) -> (KernelCode, Vec<KernelCode>) {
    let code = |piece: &Piece| KernelCode::Loops(Box::new(LoopPlan::of_piece(piece, operands)), all.to_vec());
    match &pieces(kernel)[..] {
        [whole] => (code(whole), vec![]),
        parts => (KernelCode::Pieces(next..next + parts.len()), parts.iter().map(code).collect()),
    }
}

fn contraction_plan(kernel: &LoopKernel, operands: &[DType], isa: VectorIsa) -> Option<ContractionPlan> {
    match &kernel.accumulate {
        Some(Accumulate::Contract(c)) if operands[c.lhs.operand] == DType::F32 => ContractionPlan::new(c, isa),
        _ => None,
    }
}

/// The body of a contraction as a kernel that reads the sums as operand `sums`; `None` when it only stores them.
fn epilogue_kernel(kernel: &LoopKernel, sums: usize) -> Option<LoopKernel> {
    let is_sum = |id: &ScalarId| kernel.body.scalars[id.0 as usize].0 == Scalar::Accumulated;
    if let [only] = &kernel.stores[..]
        && is_sum(only)
    {
        return None;
    }
    let mut body = kernel.body.clone();
    for (scalar, _) in &mut body.scalars {
        if *scalar == Scalar::Accumulated {
            *scalar = Scalar::Load(Access::identity(sums, &kernel.space, kernel.space.len()));
        }
    }
    Some(LoopKernel { accumulate: None, body, ..kernel.clone() })
}
