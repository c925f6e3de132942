//! By what kernels are computed: loop nests, gradc's micro-kernels, or a library.

use crate::kernel_code::KernelCode;
use crate::program::Program;
use crate::runtime::Function;

/// Whether a library, the `gemm` crate, computes products of f32 matrices.
///
/// It sums in an order of its own, so results are not those of gradc's kernels to the last bit; they are still the same
/// for any number of threads. It chooses its instructions itself, whatever the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Library {
    /// It does not.
    #[default]
    Never,
    /// Where it is estimated to take less time.
    WhereFaster,
    /// Wherever it can: both factors are matrices with strides, in memory that gradc has aligned.
    WherePossible,
}

/// What computes a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// Loop nests.
    Loops,
    /// Loops that update elements at computed places.
    Scatter,
    /// Micro-kernels on tiles of matrices.
    Tiles,
    /// Micro-kernels on tiles of the parts of floats.
    Parts,
    /// Micro-kernels on tiles whose rows are found through tables.
    Rows,
    /// The library.
    Gemm,
    /// A transposition in registers.
    Transpose,
    /// A routine that works along lines.
    Lines,
}

impl Engine {
    /// What computes the kernel with this position.
    pub(crate) fn of(kernel: usize, codes: &[KernelCode], program: &Program) -> Engine {
        match &codes[kernel] {
            KernelCode::Loops(..)
            | KernelCode::Rows(..)
            | KernelCode::Epilogue(..)
            | KernelCode::Finish(..)
            | KernelCode::Copy(..) => Engine::Loops,
            KernelCode::Scatter(..) => Engine::Scatter,
            KernelCode::Call { function: Function::ContractRows, .. } => Engine::Rows,
            KernelCode::Call { function: Function::Transpose, .. } => Engine::Transpose,
            KernelCode::Call { function: Function::Lines, .. } => Engine::Lines,
            KernelCode::Call { tables, .. } => match &program.contractions[*tables].plan {
                plan if plan.by_library => Engine::Gemm,
                plan if plan.kernel.split.is_some() => Engine::Parts,
                _ => Engine::Tiles,
            },
            KernelCode::Sequence(steps) => {
                let mut engines = steps.clone().map(|step| Engine::of(step, codes, program));
                engines.find(|engine| !matches!(engine, Engine::Loops | Engine::Transpose)).unwrap_or(Engine::Loops)
            }
            KernelCode::Kept { packing, .. } => Engine::of(*packing, codes, program),
        }
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Loops => "loops",
            Engine::Scatter => "scatter",
            Engine::Tiles => "tiles",
            Engine::Parts => "parts",
            Engine::Rows => "rows",
            Engine::Gemm => "gemm",
            Engine::Transpose => "transpose",
            Engine::Lines => "lines",
        }
    }
}
