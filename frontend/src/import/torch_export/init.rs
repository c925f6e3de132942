//! Fresh values for a program that comes without weights, after PyTorch's defaults.

use super::program::{Declared, Program};
use super::schema::{Argument, NamedArgument};
use crate::import::json::{Init, MAX_INITIALISED, initialise};
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::graph::Role;
use gradc_ir::tensor::HostTensor;

/// Draws first values; each tensor has numbers of its own.
pub struct Fresh<'p> {
    program: &'p Program,
    seed: u64,
    /// Elements that may still be made.
    left: usize,
}

impl<'p> Fresh<'p> {
    /// Values for a program's tensors.
    pub fn new(program: &'p Program, seed: u64) -> Self {
        Fresh { program, seed, left: MAX_INITIALISED }
    }

    /// The fresh value of a parameter or of running statistics; other tensors cannot be made up.
    pub fn value(&mut self, declared: &Declared) -> Result<HostTensor, Diagnostic> {
        let init = init(self.program, declared).ok_or_else(|| {
            Diagnostic::new(
                "missing-tensor",
                format!("there is no value for `{}`, and none can be made up", declared.name),
            )
            .expected(&declared.ty)
            .help("give the archive made by torch.export.save, or a safetensors file that has it")
        })?;
        self.left = self.left.checked_sub(declared.ty.elements()).ok_or_else(|| {
            Diagnostic::new("tensor-too-large", format!("`{}` is too large to be drawn", declared.name))
                .expected(format!("at most {MAX_INITIALISED} elements in all tensors together"))
                .found(&declared.ty)
        })?;
        let stream = self.program.declared.iter().position(|d| d.name == declared.name).unwrap_or_default();
        initialise(&init, &declared.ty, self.seed, stream)
            .map_err(|e| Diagnostic::from_type_error("invalid-size", e, Loc::default()))
    }
}

fn init(program: &Program, declared: &Declared) -> Option<Init> {
    if declared.role != Role::Parameter {
        return match declared.name.rsplit('.').next() {
            Some("running_mean" | "num_batches_tracked") => Some(Init::Zeros {}),
            Some("running_var") => Some(Init::Ones {}),
            _ => None,
        };
    }
    let Some((target, argument, arguments)) = first_use(program, &declared.id) else {
        return Some(fan_in_uniform(&declared.ty.shape));
    };
    let is_norm = target.contains("_norm");
    Some(match argument {
        "weight" if is_norm => Init::Ones {},
        "bias" if is_norm => Init::Zeros {},
        "weight" if target.contains("embedding") => Init::Normal { mean: 0.0, std: 1.0, seed: None },
        // A bias is drawn like its weight.
        "bias" => weight_shape(program, arguments).map_or(Init::Zeros {}, |shape| fan_in_uniform(&shape)),
        _ if declared.ty.rank() < 2 => Init::Zeros {},
        _ => fan_in_uniform(&declared.ty.shape),
    })
}

/// Target, argument name and all arguments of the first node that reads a tensor.
fn first_use<'p>(program: &'p Program, id: &str) -> Option<(&'p str, &'p str, &'p [NamedArgument])> {
    program.nodes().iter().find_map(|node| {
        let input = node.inputs.iter().find(|input| tensor_name(&input.arg) == Some(id))?;
        Some((node.target.as_str(), input.name.as_str(), node.inputs.as_slice()))
    })
}

fn tensor_name(arg: &Argument) -> Option<&str> {
    match arg {
        Argument::AsTensor(t) => Some(&t.name),
        _ => None,
    }
}

fn weight_shape(program: &Program, arguments: &[NamedArgument]) -> Option<Vec<usize>> {
    let id = arguments.iter().find(|a| a.name == "weight").and_then(|a| tensor_name(&a.arg))?;
    program.declared.iter().find(|d| d.id == id).map(|d| d.ty.shape.clone())
}

/// Uniform in ±1/√fan-in: PyTorch's Kaiming initialisation of linear and convolution layers (a = √5).
fn fan_in_uniform(shape: &[usize]) -> Init {
    let fan_in: usize = shape.iter().skip(1).product();
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { low: -bound, high: bound, seed: None }
}
