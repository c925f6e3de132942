//! What a host or the command line decides about a compilation.

use gradc_codegen::{CodegenOptions, Library, Pool, host_target};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::target::Target;
use gradc_passes::egraph::Strategy;
use gradc_passes::egraph::rules::{Family, NumericClass};
use gradc_passes::expand_regions::ExpandLimits;
use gradc_passes::schedule::Ordering;
use std::collections::BTreeSet;

/// Options of a compilation that are not part of the training recipe.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads a step may use, at least 1; results do not depend on it.
    pub threads: usize,
    /// Threads to share with other models instead of `threads` of its own.
    pub pool: Option<Pool>,
    /// Machine the code is made for.
    pub target: Target,
    /// Which kernels compute products.
    pub backend: Backend,
    /// Order of the step's kernels.
    pub ordering: Ordering,
    /// Most memory a session may take, bytes: arena and what is kept between steps, without the threads' work space.
    /// Values of the forward pass are made again for the backward pass as far as it takes; where that is not enough the
    /// batch is taken in parts, which sums over examples in another order.
    pub peak_mem_bytes: Option<usize>,
    /// Make values again for the backward pass where that takes next to no time and saves memory. Never under a recipe's
    /// budget: what a parameter costs would depend on all others.
    pub spare_time: bool,
    /// Up to what size loops and branches are expanded, where the recipe does not say otherwise.
    pub expand: ExpandLimits,
    /// Whether unrolled loops of the model are rolled before anything is derived from it.
    pub roll: bool,
    /// Whether graphs are rewritten by the e-graph optimizer.
    pub optimize: bool,
    /// The most that a rewrite may change.
    pub fp: NumericClass,
    /// Families of rules that rewrite.
    pub families: BTreeSet<Family>,
    /// How rewrites are searched for.
    pub strategy: Strategy,
    /// Whether the report has every rewrite, priced and replayed.
    pub explain: bool,
    /// Adds the gradients of the step as results called `grad.<parameter>` and leaves out the updates.
    pub gradients: bool,
    /// Leaves parameters as they are and adds what their updates are worth as results of the step called
    /// `importance.<parameter>`: Σ|gradient · update|.
    pub importances: bool,
    /// Have each call note when its kernels end, for [`Session::profile`](crate::Session::profile).
    pub profile: bool,
    /// Stages whose text is kept in the compiled step's report.
    pub emit: Vec<Stage>,
    /// Whether the process is there for this compilation alone, as the command is: memory that nobody needs then is
    /// given back to the system between stages.
    pub owns_process: bool,
}

impl Options {
    /// The threads that steps run on.
    pub(crate) fn pool(&self) -> Result<Pool, Diagnostic> {
        self.pool.clone().map_or_else(|| Pool::new(self.threads), Ok)
    }

    /// What code generation is told.
    pub(crate) fn codegen(&self) -> CodegenOptions {
        let library = match (self.backend, self.fp) {
            (Backend::Own, _) | (Backend::Auto, NumericClass::Bitwise) => Library::Never,
            (Backend::Auto, _) => Library::WhereFaster,
            (Backend::Gemm, _) => Library::WherePossible,
        };
        CodegenOptions {
            verify: cfg!(debug_assertions),
            library,
            keep_text: self.emit.contains(&Stage::Clif),
            profile: self.profile,
            ..CodegenOptions::new(self.target.clone())
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            pool: None,
            target: host_target(),
            backend: Backend::default(),
            ordering: Ordering::default(),
            peak_mem_bytes: None,
            spare_time: true,
            expand: ExpandLimits::default(),
            roll: true,
            optimize: true,
            fp: NumericClass::Bitwise,
            families: Family::ALL.into(),
            strategy: Strategy::default(),
            explain: false,
            gradients: false,
            importances: false,
            profile: false,
            emit: vec![],
            owns_process: false,
        }
    }
}

/// Which kernels compute products of f32 matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// gradc's own; where `fp` allows another order of summation, the library's where they are estimated to be faster.
    #[default]
    Auto,
    /// gradc's own.
    Own,
    /// The `gemm` crate's wherever it can.
    Gemm,
}

/// A stage of the pipeline whose data prints as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Stage {
    /// The imported forward graph.
    Forward,
    /// The forward graph with its unrolled loops rolled.
    Rolled,
    /// Forward, backward and updates, as derived.
    Train,
    /// After the e-graph.
    Optimized,
    /// Kernels and their order.
    Schedule,
    /// A place for every value.
    Memory,
    /// Cranelift's intermediate code of every kernel.
    Clif,
}

impl Stage {
    /// Name in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Forward => "forward",
            Stage::Rolled => "rolled",
            Stage::Train => "train",
            Stage::Optimized => "optimized",
            Stage::Schedule => "schedule",
            Stage::Memory => "memory",
            Stage::Clif => "clif",
        }
    }
}
