//! From the actions of every entry to machine code.

use crate::backend::{Engine, Library};
use crate::emit::{Compiled, compile_entry, compile_kernel};
use crate::executable::{Executable, Needs, writable};
use crate::fixed::{Fixed, fixed_operands};
use crate::isa::{has_fused_multiply_add, target_isa};
use crate::kernel_code::{KernelCode, Planned};
use crate::loops::SimdOptions;
use crate::verify::{Signature, verify};
use crate::wide::Isa;
use cranelift_codegen::Context;
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::types::TensorType;
use std::collections::HashMap;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// A value and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where; inside loops, in their first steps.
    pub place: Place,
    /// Bytes by which the place moves with each step of the loops around, outermost first; 0 for loops not listed.
    pub strides_bytes: Vec<i64>,
    /// Its type.
    pub ty: TensorType,
}

impl Operand {
    /// A value at a place that does not move.
    pub fn fixed(place: Place, ty: TensorType) -> Self {
        Operand { place, strides_bytes: vec![], ty }
    }
}

/// One thing an entry does.
#[derive(Clone, Debug)]
pub enum PlacedAction {
    /// Run a kernel on places; a result may share its place with an operand the kernel reads only at the point itself.
    Run {
        /// What is computed.
        kernel: Box<Kernel>,
        /// One per operand of the kernel.
        operands: Vec<Operand>,
        /// One per result of the kernel.
        results: Vec<Operand>,
    },
    /// Leave with a failure unless every element is finite.
    CheckFinite {
        /// What is checked.
        operand: Operand,
    },
    /// Copy a value; the places are equal or do not overlap.
    Copy {
        /// From where.
        from: Operand,
        /// To where, of the same size.
        to: Operand,
    },
    /// Do the same again and again.
    Loop {
        /// How often at most, at least once.
        steps: usize,
        /// What is done in each step.
        body: Vec<PlacedAction>,
        /// When to stop earlier.
        until: Option<Until>,
    },
    /// Do the same for each of several blocks, in any order or at the same time: two loops around what is done. Steps of
    /// the outer one, over blocks, write to different places and read nothing that another one writes. A step of the
    /// inner one is a place to work in: each block is done in one of them alone.
    ///
    /// What is done contains no check, no kernel that may refuse, and no further blocks.
    Blocks {
        /// How many.
        count: usize,
        /// How many at the same time, at most.
        at_once: usize,
        /// What is done for each.
        body: Vec<PlacedAction>,
    },
    /// Do the first where a boolean scalar holds, else the second.
    Branch {
        /// The boolean.
        predicate: Operand,
        /// What is done.
        bodies: [Vec<PlacedAction>; 2],
    },
}

/// The end of a loop that depends on data.
#[derive(Clone, Debug)]
pub struct Until {
    /// A boolean scalar that ends the loop when it holds after a step.
    pub done: Operand,
    /// An i64 scalar that is set to the number of steps made.
    pub count: Operand,
}

impl PlacedAction {
    /// Whether there are blocks in it.
    pub(crate) fn has_blocks(&self) -> bool {
        match self {
            PlacedAction::Blocks { .. } => true,
            PlacedAction::Loop { body, .. } => body.iter().any(PlacedAction::has_blocks),
            PlacedAction::Branch { bodies, .. } => bodies.iter().flatten().any(PlacedAction::has_blocks),
            _ => false,
        }
    }

    /// The actions without parts of their own in it, in order: what is counted by failures and profiles.
    pub fn leaves(&self) -> Vec<&PlacedAction> {
        match self {
            PlacedAction::Loop { body, .. } | PlacedAction::Blocks { body, .. } => {
                body.iter().flat_map(PlacedAction::leaves).collect()
            }
            PlacedAction::Branch { bodies, .. } => bodies.iter().flatten().flat_map(PlacedAction::leaves).collect(),
            leaf => vec![leaf],
        }
    }
}

/// One entry of a compiled model.
#[derive(Clone, Debug)]
pub struct EntryCode {
    /// Name, for people.
    pub name: String,
    /// What it does, in order.
    pub actions: Vec<PlacedAction>,
    /// Bytes moved when all actions are done: (from, to, size in bytes).
    pub commits: Vec<(Place, Place, usize)>,
}

/// What code is made for.
#[derive(Clone, Debug)]
pub struct CodegenOptions {
    /// The machine.
    pub target: Target,
    /// Have Cranelift verify what it is given (tests).
    pub verify: bool,
    /// Let loops use vectors wider than 128 bits where the target has them; off, they are as those of other machines.
    pub wide: bool,
    /// Whether a library computes products.
    pub library: Library,
    /// Keep the text of every function, for [`Executable::texts`].
    pub keep_text: bool,
    /// Note when each action ends, for [`Executable::profile`].
    pub profile: bool,
}

impl CodegenOptions {
    /// Options for a target, without checks or texts.
    pub fn new(target: Target) -> Self {
        let library = Library::default();
        CodegenOptions { target, verify: false, wide: true, library, keep_text: false, profile: false }
    }
}

/// Kernels compiled once, however often they are run.
#[derive(Default)]
struct Kernels<'a> {
    list: Vec<(&'a KernelKind, Signature)>,
    known: HashMap<(&'a KernelKind, Signature), usize>,
}

impl<'a> Kernels<'a> {
    fn add(&mut self, kind: &'a KernelKind, signature: Signature) -> usize {
        let next = self.list.len();
        let at = *self.known.entry((kind, signature.clone())).or_insert(next);
        if at == next {
            self.list.push((kind, signature));
        }
        at
    }
}

/// Compiles all entries; identical kernels of any entry are compiled once, different ones in parallel.
pub fn compile(entries: &[EntryCode], options: &CodegenOptions) -> Result<Executable, Diagnostic> {
    let isa = target_isa(&options.target, options.verify)?;
    let mut kernels = Kernels::default();
    let mut runs = Vec::with_capacity(entries.len());
    for entry in entries {
        let leaves = entry.actions.iter().flat_map(PlacedAction::leaves).zip(fixed_operands(&entry.actions));
        let run = |(action, fixed)| add_kernel(&mut kernels, action, fixed, options.library);
        runs.push(leaves.map(run).collect::<Result<Vec<_>, _>>()?);
    }
    let simd = SimdOptions { fma: has_fused_multiply_add(&options.target), strips: strip_isa(options) };
    let Planned { codes, mut program } = Planned::new(&kernels.list, options.target.vector_isa, options.library);
    let functions = compile_all(&codes, &*isa, simd, options)?;
    let mut needs = Vec::with_capacity(entries.len());
    let (mut entry_functions, mut blocks) = (Vec::with_capacity(entries.len()), vec![]);
    let mut scratch = (Context::new(), FunctionBuilderContext::new());
    for (entry, runs) in entries.iter().zip(&runs) {
        needs.push(Needs::of(entry)?);
        let first = codes.len() + blocks.len();
        let (function, made) = compile_entry(entry, (runs, &codes), first, &*isa, &mut scratch, options)?;
        entry_functions.push(function);
        blocks.extend(made);
    }
    program.has_blocks = !blocks.is_empty();
    let engine = |run: &Option<usize>| run.map(|kernel| Engine::of(kernel, &codes, &program));
    let engines = runs.iter().map(|runs| runs.iter().map(engine).collect()).collect();
    Executable::link(
        entries.iter().map(|e| e.name.clone()).collect(),
        [functions, blocks],
        entry_functions,
        needs,
        engines,
        program,
    )
}

fn add_kernel<'a>(
    kernels: &mut Kernels<'a>,
    action: &'a PlacedAction,
    fixed: Vec<Option<Fixed>>,
    library: Library,
) -> Result<Option<usize>, Diagnostic> {
    let PlacedAction::Run { kernel, operands, results } = action else { return Ok(None) };
    let types = |list: &[Operand]| list.iter().map(|o| o.ty.clone()).collect();
    let in_own_memory = || operands.iter().all(|o| !matches!(o.place.segment, Segment::Host(_)));
    let for_library = library != Library::Never && in_own_memory();
    let fixed = if is_contraction(&kernel.kind) { fixed } else { vec![] };
    let signature = Signature { operands: types(operands), results: types(results), for_library, fixed };
    verify(&kernel.kind, &signature)?;
    results.iter().try_for_each(writable)?;
    Ok(Some(kernels.add(&kernel.kind, signature)))
}

fn is_contraction(kind: &KernelKind) -> bool {
    matches!(kind, KernelKind::Loops(LoopKernel { accumulate: Some(Accumulate::Contract(_)), .. }))
}

fn strip_isa(options: &CodegenOptions) -> Option<Isa> {
    let isa = match options.target.vector_isa {
        VectorIsa::Portable => None,
        VectorIsa::Avx2 => Some(Isa::Avx2),
        VectorIsa::Avx512 | VectorIsa::Amx => Some(Isa::Avx512),
    };
    isa.filter(|_| options.wide && cfg!(target_arch = "x86_64"))
}

fn compile_all(
    codes: &[KernelCode],
    isa: &dyn TargetIsa,
    simd: SimdOptions,
    options: &CodegenOptions,
) -> Result<Vec<Compiled>, Diagnostic> {
    let next = AtomicUsize::new(0);
    let compile_share = || -> Vec<(usize, Result<Compiled, Diagnostic>)> {
        let mut scratch = (Context::new(), FunctionBuilderContext::new());
        let claimed = std::iter::from_fn(|| Some(next.fetch_add(1, Relaxed)).filter(|&k| k < codes.len()));
        claimed.map(|k| (k, compile_kernel(&codes[k], isa, simd, &mut scratch, options.keep_text))).collect()
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(codes.len());
    let mut compiled = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(compile_share)).collect();
        let mut compiled = compile_share();
        helpers
            .into_iter()
            .for_each(|helper| compiled.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic))));
        compiled
    });
    compiled.sort_unstable_by_key(|(k, _)| *k);
    compiled.into_iter().map(|(_, compiled)| compiled).collect()
}
