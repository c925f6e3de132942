//! First values of a model's tensors: from its weights file, or drawn.

use super::file::{Init, ModelFile, TensorDecl};
use crate::model::ImportOptions;
use crate::schema::at;
use crate::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::ops::RandomUniform;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType, TypeError};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The most elements that all initialised tensors of a model may have together (1 GiB of f32).
///
/// A few bytes of JSON can ask for any size; larger models bring a weights file, whose size is that of its tensors.
pub(crate) const MAX_INITIALISED: usize = 1 << 28;

/// The value of every parameter, buffer and constant, or everything that stands in the way.
pub(super) fn tensors(
    file: &ModelFile,
    path: &Path,
    options: &ImportOptions,
) -> Result<BTreeMap<String, HostTensor>, Diagnostics> {
    let stored = stored_tensors(file, path, options)?;
    let (mut found, mut problems, mut left) = (BTreeMap::new(), Vec::new(), MAX_INITIALISED);
    for (k, decl) in file.parameters.iter().chain(&file.buffers).chain(&file.constants).enumerate() {
        match value(decl, &stored, options.seed, k, &mut left) {
            Ok(tensor) => drop(found.insert(decl.name.clone(), tensor)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(Diagnostics(problems)) }
}

fn stored_tensors(
    file: &ModelFile,
    path: &Path,
    options: &ImportOptions,
) -> Result<BTreeMap<String, HostTensor>, Diagnostic> {
    let beside = file.weights.as_deref().map(|name| beside(path, name)).transpose()?;
    options.weights.clone().or(beside).map_or(Ok(BTreeMap::new()), |path| weights::read(&path))
}

/// A file in the model's folder; a model file cannot reach out of it.
fn beside(path: &Path, name: &str) -> Result<PathBuf, Diagnostic> {
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if inside && !name.is_empty() {
        return Ok(path.with_file_name(name));
    }
    Err(at("weights", "unsafe-path", "the weights must lie beside the model").expected("a file name").found(name))
}

fn value(
    decl: &TensorDecl,
    stored: &BTreeMap<String, HostTensor>,
    seed: u64,
    stream: usize,
    left: &mut usize,
) -> Result<HostTensor, Diagnostic> {
    let fail = |code: &'static str, e: TypeError| Diagnostic::from_type_error(code, e, at(&decl.name, "", "").loc);
    let ty = TensorType::checked(decl.dtype.0, decl.shape.clone()).map_err(|e| fail("shape-too-large", e))?;
    if let Some(tensor) = stored.get(&decl.name) {
        let mismatch =
            || at(&decl.name, "weight-mismatch", "the stored tensor has another type").expected(&ty).found(tensor.ty());
        return if *tensor.ty() == ty { Ok(tensor.clone()) } else { Err(mismatch()) };
    }
    let Some(init) = &decl.init else {
        return Err(at(&decl.name, "missing-weight", "the tensor has no value")
            .expected(format!("`init`, or a {ty} tensor of this name in the weights file")));
    };
    *left = left.checked_sub(ty.elements()).ok_or_else(|| {
        at(&decl.name, "shape-too-large", "the tensors to initialise are too large")
            .expected(format!("at most {MAX_INITIALISED} elements together"))
            .help("put the values into a weights file")
    })?;
    initialise(init, &ty, seed, stream).map_err(|e| fail("invalid-init", e))
}

/// A tensor with its first value; `stream` tells apart tensors drawn with one seed.
pub(crate) fn initialise(init: &Init, ty: &TensorType, seed: u64, stream: usize) -> Result<HostTensor, TypeError> {
    let draw = |low: f64, high: f64, own: &Option<u64>| uniform(ty, low, high, own.unwrap_or(seed), stream);
    let values = match init {
        Init::Zeros {} => vec![0.0; ty.elements()],
        Init::Ones {} => vec![1.0; ty.elements()],
        Init::Constant { value } => vec![*value; ty.elements()],
        Init::Values { values } => values.clone(),
        Init::Uniform { low, high, seed } => draw(*low, *high, seed),
        Init::Normal { mean, std, seed: own } => normal(ty, *mean, *std, own.unwrap_or(seed), stream),
        Init::KaimingUniform { a, seed } => {
            let bound = (6.0 / ((1.0 + a * a) * fans(ty)?[0])).sqrt();
            draw(-bound, bound, seed)
        }
        Init::XavierUniform { gain, seed } => {
            let bound = gain * (6.0 / fans(ty)?.iter().sum::<f64>()).sqrt();
            draw(-bound, bound, seed)
        }
    };
    encode(ty, values)
}

/// Elements that one output reads, and that read one input, of a weight `[out, in, window…]`.
fn fans(ty: &TensorType) -> Result<[f64; 2], TypeError> {
    match ty.shape[..] {
        [out, input, ref window @ ..] if ty.elements() > 0 => {
            let window: usize = window.iter().product();
            Ok([input * window, out * window].map(|n| n as f64))
        }
        _ => Err(TypeError::new("the fan of a tensor is defined for weights").expected("[out, in, …]").found(ty)),
    }
}

/// Numbers in [0, 1) with 24 bits, those of the op `random_uniform` at counter 0.
fn unit_numbers(ty: &TensorType, seed: u64, stream: usize) -> impl Iterator<Item = f64> + use<> {
    RandomUniform { shape: ty.shape.clone(), stream }.numbers([seed as i64, 0])
}

fn uniform(ty: &TensorType, low: f64, high: f64, seed: u64, stream: usize) -> Vec<f64> {
    unit_numbers(ty, seed, 2 * stream).map(|u| low + (high - low) * u).collect()
}

/// Box and Muller (1958), one of each pair.
fn normal(ty: &TensorType, mean: f64, std: f64, seed: u64, stream: usize) -> Vec<f64> {
    let [radius, angle] = [2 * stream, 2 * stream + 1].map(|stream| unit_numbers(ty, seed, stream));
    let unit = |(u, v): (f64, f64)| (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    radius.zip(angle).map(unit).map(|z| mean + std * z).collect()
}

fn encode(ty: &TensorType, values: Vec<f64>) -> Result<HostTensor, TypeError> {
    if values.len() != ty.elements() {
        return Err(TypeError::new("wrong number of values").expected(ty.elements()).found(values.len()));
    }
    if ty.dtype.is_float() {
        return Ok(Tensor::float(ty.clone(), values).to_host());
    }
    let integers: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    let tensor = Tensor::int(ty.clone(), integers.clone()).to_host();
    let exact = integers.iter().zip(&values).all(|(&i, &v)| i as f64 == v) && tensor.to_tensor().ints() == integers;
    let fits = exact && (ty.dtype != DType::Bool || integers.iter().all(|v| (0..=1).contains(v)));
    if fits { Ok(tensor) } else { Err(TypeError::new("a value does not fit the dtype").expected(ty.dtype)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(init: &str, shape: &[usize], seed: u64) -> Vec<f64> {
        let init: Init = serde_json::from_str(init).unwrap();
        initialise(&init, &TensorType::f32(shape), seed, 3).unwrap().to_tensor().floats().to_vec()
    }

    #[test]
    fn drawn_values_have_their_distribution() {
        // Kind, bounds, mean and standard deviation over 8192 numbers.
        let bound = |fan: f64| (6.0 / fan).sqrt();
        let cases = [
            (r#"{"kind": "uniform", "low": 1, "high": 3}"#, 2.0, 2.0 / 12f64.sqrt(), 1.0, 3.0),
            (r#"{"kind": "normal", "mean": 1, "std": 2}"#, 1.0, 2.0, -9.0, 11.0),
            (r#"{"kind": "kaiming_uniform"}"#, 0.0, bound(128.0) / 3f64.sqrt(), -bound(128.0), bound(128.0)),
            (r#"{"kind": "kaiming_uniform", "a": 1}"#, 0.0, bound(256.0) / 3f64.sqrt(), -bound(256.0), bound(256.0)),
            (
                r#"{"kind": "xavier_uniform", "gain": 2}"#,
                0.0,
                2.0 * bound(192.0) / 3f64.sqrt(),
                -2.0 * bound(192.0),
                2.0 * bound(192.0),
            ),
        ];
        for (init, mean, std, low, high) in cases {
            let x = floats(init, &[64, 128], 1);
            let found = x.iter().sum::<f64>() / x.len() as f64;
            let deviation = (x.iter().map(|v| (v - found).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
            assert!((found - mean).abs() < 0.05 * std, "{init}: mean {found}");
            assert!((deviation / std - 1.0).abs() < 0.03, "{init}: deviation {deviation}, expected {std}");
            assert!(x.iter().all(|v| (low..high).contains(v)), "{init}: bounds");
        }
    }

    #[test]
    fn equal_seeds_draw_equal_numbers() {
        let init = r#"{"kind": "normal"}"#;
        assert_eq!(floats(init, &[9], 1), floats(init, &[9], 1));
        assert_ne!(floats(init, &[9], 1), floats(init, &[9], 2));
        assert_eq!(floats(r#"{"kind": "normal", "seed": 2}"#, &[9], 1), floats(init, &[9], 2));
    }

    #[test]
    fn impossible_values_are_refused() {
        let cases = [
            (r#"{"kind": "values", "values": [1, 2]}"#, DType::F32),
            (r#"{"kind": "values", "values": [1, 2, 0.5]}"#, DType::I64),
            (r#"{"kind": "constant", "value": 256}"#, DType::U8),
            (r#"{"kind": "constant", "value": 2}"#, DType::Bool),
            (r#"{"kind": "kaiming_uniform"}"#, DType::F32),
        ];
        for (init, dtype) in cases {
            let parsed: Init = serde_json::from_str(init).unwrap();
            assert!(initialise(&parsed, &TensorType::new(dtype, [3]), 0, 0).is_err(), "{init} of {dtype}");
        }
    }
}
