//! Arguments that commands share, and what they load.

use super::Failure;
use clap::{Args, ValueEnum};
use gradc::budget::ParameterCost;
use gradc::options::Backend;
use gradc::training::Trained;
use gradc::{CompiledStep, Diagnostic, ImportOptions, Model, Options, Recipe, Selector};
use gradc_codegen::host_target;
use gradc_codegen::process::release_unused_memory;
use gradc_frontend::bytes::parse_bytes;
use gradc_ir::target::{Target, VectorIsa};
use gradc_passes::egraph::rules::NumericClass;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The model and how it trains.
#[derive(Args)]
pub(crate) struct ModelArguments {
    /// Model: gradc's or torch.export's JSON, .pt2, .onnx, or a package made by `gradc compile -o`
    pub model: PathBuf,
    /// Recipe (JSON): loss, optimizer, what trains
    #[arg(long)]
    pub recipe: Option<PathBuf>,
    /// Weights (safetensors) for a model file that has none inside
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Batch size instead of the one the model was exported at
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Size of a symbolic dimension
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, usize)>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or("expected NAME=N")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a size"))?;
    Ok((name.to_string(), size))
}

/// How code is made.
#[derive(Args)]
pub(crate) struct CodeArguments {
    /// Threads; results do not depend on it [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Machine to make code for
    #[arg(long, value_enum, default_value_t)]
    pub target: TargetName,
    /// Which kernels compute products of matrices
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Floating-point rewrites allowed
    #[arg(long, value_enum, default_value_t)]
    pub fp: FloatingPoint,
    /// Leave unrolled loops of the model as they are
    #[arg(long)]
    pub no_roll: bool,
    /// Most memory a session may plan, in bytes, or with suffix K, M, G: recomputes to fit, splits
    /// the batch if nothing else fits, or says by how much it cannot
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub peak_mem: Option<usize>,
}

/// Machines code can be made for.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum TargetName {
    /// This machine.
    #[default]
    Host,
    /// No vector extensions in micro-kernels.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
    /// 512-bit vectors, and tiles of bf16 that large products of floats are sums of.
    Amx,
}

/// Rewrites by numeric class.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum FloatingPoint {
    /// Only rewrites that keep every bit.
    #[default]
    Strict,
    /// Also those that sum and multiply in another order.
    Reassoc,
}

impl CodeArguments {
    /// Compilation options from the arguments.
    pub fn options(&self) -> Result<Options, Failure> {
        let defaults = Options::default();
        let threads = self.threads.map_or(defaults.threads, usize::from);
        Ok(Options {
            threads,
            target: self.target()?,
            backend: self.backend,
            peak_mem_bytes: self.peak_mem,
            roll: !self.no_roll,
            fp: self.numeric_class(),
            owns_process: true,
            ..defaults
        })
    }

    fn numeric_class(&self) -> NumericClass {
        match self.fp {
            FloatingPoint::Strict => NumericClass::Bitwise,
            FloatingPoint::Reassoc => NumericClass::Reassociation,
        }
    }

    fn target(&self) -> Result<Target, Failure> {
        let wanted = match self.target {
            TargetName::Host => return Ok(host_target()),
            TargetName::Portable => VectorIsa::Portable,
            TargetName::Avx2 => VectorIsa::Avx2,
            TargetName::Avx512 => VectorIsa::Avx512,
            TargetName::Amx => VectorIsa::Amx,
        };
        let best = host_target().vector_isa;
        if wanted > best {
            let message = "this machine cannot run code for that target";
            return Err(Diagnostic::new("target", message)
                .expected(format!("at most {best:?}"))
                .found(format!("{wanted:?}"))
                .into());
        }
        Ok(Target::of(wanted))
    }
}

impl ModelArguments {
    /// The recipe, if one is named.
    pub fn recipe(&self) -> Result<Option<Recipe>, Failure> {
        self.recipe.as_ref().map(|path| Recipe::from_file(path).map_err(Failure::from)).transpose()
    }

    /// The recipe, which this command needs.
    pub fn needed_recipe(&self) -> Result<Recipe, Failure> {
        let missing = || {
            Diagnostic::new("no-recipe", "this command needs a recipe")
                .help("pass --recipe FILE: loss, optimizer, what trains")
        };
        self.recipe()?.ok_or_else(|| missing().into())
    }

    /// The recipe named, or the one a package was made with.
    pub fn recipe_for(&self, step: &CompiledStep) -> Result<Recipe, Failure> {
        match step.recipe() {
            Some(packed) => Ok(self.recipe()?.unwrap_or_else(|| packed.clone())),
            None => self.needed_recipe(),
        }
    }

    /// The model, imported; notes go to standard error.
    pub fn import(&self, recipe: Option<&Recipe>) -> Result<Model, Failure> {
        if gradc::package::is_package(&self.model) {
            return Err(self.decided("a package is compiled already, this command needs the model".into()).into());
        }
        let model = gradc::import(&self.model, &self.import_options(recipe))?;
        model.notes.iter().for_each(|note| eprintln!("note: {note}"));
        release_unused_memory();
        Ok(model)
    }

    fn import_options(&self, recipe: Option<&Recipe>) -> ImportOptions {
        ImportOptions {
            batch_norm: recipe.map(|r| r.batch_norm).unwrap_or_default(),
            batch: self.batch,
            dims: self.dims.iter().cloned().collect::<BTreeMap<_, _>>(),
            weights: self.weights.clone(),
            seed: self.seed,
        }
    }

    /// The compiled model: loaded from a package, or compiled with the recipe if there is one. What compiling took of
    /// memory and the model needs no more is the system's again.
    pub fn compile(&self, options: &Options) -> Result<CompiledStep, Failure> {
        let step = self.load_or_compile(options)?;
        release_unused_memory();
        Ok(step)
    }

    fn load_or_compile(&self, options: &Options) -> Result<CompiledStep, Failure> {
        if gradc::package::is_package(&self.model) {
            self.check_packaged(options)?;
            let step = gradc::package::load(&self.model, options)?;
            self.check_packaged_recipe(&step)?;
            return Ok(step);
        }
        let recipe = self.recipe()?;
        let model = self.import(recipe.as_ref())?;
        let step = gradc::compile(&model, recipe.as_ref(), options)?;
        step.report().notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(step)
    }

    /// Refuses what was decided when a package was made.
    fn check_packaged(&self, options: &Options) -> Result<(), Diagnostic> {
        let given = [
            ("--weights", self.weights.is_some()),
            ("--batch", self.batch.is_some()),
            ("--dim", !self.dims.is_empty()),
            ("--fp", options.fp != NumericClass::Bitwise),
            ("--no-roll", !options.roll),
            ("--peak-mem", options.peak_mem_bytes.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(self.decided(format!("`{option}` has no effect on a package"))),
            None => Ok(()),
        }
    }

    /// Refuses a recipe that trains otherwise than the package does; where data comes from may differ.
    fn check_packaged_recipe(&self, step: &CompiledStep) -> Result<(), Failure> {
        let Some(mut named) = self.recipe()? else { return Ok(()) };
        let packed = step.recipe().ok_or_else(|| self.decided("the package was made without a recipe".into()))?;
        named.data.clone_from(&packed.data);
        (named.last_batch, named.non_finite) = (packed.last_batch, packed.non_finite);
        if named == *packed {
            Ok(())
        } else {
            Err(self.decided("the package was made with another recipe".into()).into())
        }
    }

    fn decided(&self, message: String) -> Diagnostic {
        Diagnostic::new("package-option", message)
            .in_file(self.model.display())
            .help("compile the model again, with what it is to do")
    }

    /// What training each parameter costs; nothing without a recipe, and of a package.
    pub fn parameter_costs(&self, options: &Options) -> Result<Vec<ParameterCost>, Failure> {
        let recipe = self.recipe()?.filter(|_| !gradc::package::is_package(&self.model));
        let Some(recipe) = recipe else { return Ok(vec![]) };
        let model = gradc::import(&self.model, &self.import_options(Some(&recipe)))?;
        Ok(gradc::budget::parameter_costs(&model, &recipe, options)?)
    }

    /// What a training run trains: the compiled model, or what is selected of it under the recipe's budget.
    pub fn trained(&self, options: &Options) -> Result<Trained, Failure> {
        let is_package = gradc::package::is_package(&self.model);
        let recipe = self.recipe()?.filter(|r| r.budget.is_some() && !is_package);
        let Some(recipe) = recipe else {
            let step = self.compile(options)?;
            if step.recipe().is_some_and(|packed| packed.budget.is_some()) {
                eprintln!("note: a package trains what was selected when it was made");
            }
            return Ok(step.into_session()?.into());
        };
        let trained = Trained::selected(Selector::new(&self.import(Some(&recipe))?, &recipe, options)?)?;
        trained.compiled().report().notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(trained)
    }
}

/// A model that does not go through a stage that was asked for.
pub(crate) fn no_stage(model: &ModelArguments) -> Diagnostic {
    let help = match gradc::package::is_package(&model.model) {
        true => "a package went through all stages when it was made: look at the model",
        false => "training stages need --recipe",
    };
    Diagnostic::new("no-stage", "this model has no such stage").help(help)
}

/// Bytes for people.
pub(crate) fn human_bytes(bytes: usize) -> String {
    indicatif::BinaryBytes(bytes as u64).to_string()
}

/// Says how often the gradient of a solver was computed exactly.
pub(crate) fn print_fallbacks(fallbacks: &BTreeMap<String, u64>) {
    for (solver, count) in fallbacks.iter().filter(|(_, count)| **count > 0) {
        let name = if solver.is_empty() { "a loop" } else { solver };
        println!("  {name}: {count} gradients were computed exactly, for a guard did not hold");
    }
}
