//! Fresh values for a program that comes without weights, after PyTorch's defaults.

use super::program::{Declared, Program};
use super::schema::{Argument, NamedArgument};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Role;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::TensorType;

/// Largest tensor that is drawn, in elements.
const MAX_ELEMENTS: usize = 1 << 31;

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// Every element equal.
    Fill(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// Standard normal.
    Normal,
}

/// The fresh value of a parameter or buffer; other constants cannot be made up.
pub fn value(program: &Program, declared: &Declared, seed: u64) -> Result<HostTensor, Diagnostic> {
    if declared.ty.elements() > MAX_ELEMENTS {
        return Err(Diagnostic::new("tensor-too-large", format!("`{}` is too large to be drawn", declared.name))
            .expected(format!("at most {MAX_ELEMENTS} elements"))
            .found(&declared.ty));
    }
    let start = start(program, declared).ok_or_else(|| {
        Diagnostic::new("missing-tensor", format!("there is no value for `{}`, and none can be made up", declared.name))
            .expected(&declared.ty)
            .help("give the archive made by torch.export.save, or a safetensors file that has it")
    })?;
    Ok(draw(&declared.ty, start, seed ^ fnv1a(&declared.name)))
}

fn start(program: &Program, declared: &Declared) -> Option<Start> {
    if declared.role != Role::Parameter {
        return match declared.name.rsplit('.').next() {
            Some("running_mean" | "num_batches_tracked") => Some(Start::Fill(0.0)),
            Some("running_var") => Some(Start::Fill(1.0)),
            _ => None,
        };
    }
    let Some((target, argument, arguments)) = first_use(program, &declared.id) else {
        return Some(fan_in_uniform(&declared.ty.shape));
    };
    let is_norm = target.contains("_norm");
    Some(match argument {
        "weight" if is_norm => Start::Fill(1.0),
        "bias" if is_norm => Start::Fill(0.0),
        "weight" if target.contains("embedding") => Start::Normal,
        // A bias is drawn like its weight.
        "bias" => weight_shape(program, arguments).map_or(Start::Fill(0.0), |shape| fan_in_uniform(&shape)),
        _ if declared.ty.rank() < 2 => Start::Fill(0.0),
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
fn fan_in_uniform(shape: &[usize]) -> Start {
    let fan_in: usize = shape.iter().skip(1).product();
    Start::Uniform(1.0 / (fan_in.max(1) as f64).sqrt())
}

fn draw(ty: &TensorType, start: Start, seed: u64) -> HostTensor {
    let mut state = seed;
    let mut unit = || (splitmix64(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
    let values = (0..ty.elements()).map(|_| match start {
        Start::Fill(value) => value,
        Start::Uniform(bound) => (2.0 * unit() - 1.0) * bound,
        // Box and Muller; 1 − u is never 0.
        Start::Normal => (-2.0 * (1.0 - unit()).ln()).sqrt() * (std::f64::consts::TAU * unit()).cos(),
    });
    if ty.dtype.is_float() {
        Tensor::float(ty.clone(), values.collect()).to_host()
    } else {
        Tensor::int(ty.clone(), values.map(|v| v as i64).collect()).to_host()
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, so that each tensor draws its own numbers whatever else the model has.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}
