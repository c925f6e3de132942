//! Comparing training steps with numbers computed elsewhere.

use crate::compile::compile;
use crate::entries::EntryKind;
use crate::options::Options;
use crate::session::Session;
use crate::step::{CompiledStep, EntryInfo};
use crate::view::TensorView;
use gradc_frontend::model::Model;
use gradc_frontend::recipe::{Recipe, trainable_set};
use gradc_frontend::weights;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::op::OpDef;
use gradc_ir::ops::IndexSelect;
use gradc_ir::part::Part;
use gradc_ir::tensor::{Data, HostTensor};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Numbers of a training run: inputs of every step, the losses, first gradients and final tensors.
///
/// The file's names: `input.<name>`, `target`, `loss` (one per step on the same batch), `grad.<parameter>`
/// (first step), `after.<parameter or buffer>` (after all steps). The gradient of a parameter that trains in part may be
/// that of the whole parameter: it is compared where the part is.
pub struct Reference {
    tensors: BTreeMap<String, HostTensor>,
}

impl Reference {
    /// Reads a safetensors file.
    pub fn read(path: &Path) -> Result<Self, Diagnostic> {
        let tensors = weights::read(path)?;
        if !tensors.contains_key("loss") {
            return Err(Diagnostic::new("reference", "the reference has no tensor `loss`").in_file(path.display()));
        }
        Ok(Reference { tensors })
    }

    fn loss(&self) -> Vec<f64> {
        floats(&self.tensors["loss"])
    }

    fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a HostTensor)> {
        self.tensors.iter().filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
    }

    /// The reference's inputs under the names the entry has.
    fn inputs<'a>(&'a self, entry: &'a EntryInfo) -> Result<Vec<(&'a str, TensorView<'a>)>, Diagnostic> {
        let needed: Vec<&str> = entry.inputs.iter().filter(|i| i.default.is_none()).map(|i| i.name.as_str()).collect();
        let mut given: Vec<(&str, &HostTensor)> = self.with_prefix("input.").collect();
        given.extend(self.tensors.get("target").map(|t| ("target", t)));
        let unnamed: Vec<&str> = needed.iter().copied().filter(|n| !given.iter().any(|(g, _)| g == n)).collect();
        let unused: Vec<&str> = given.iter().map(|(g, _)| *g).filter(|g| !needed.contains(g)).collect();
        match (unnamed.as_slice(), unused.as_slice()) {
            ([], []) => {}
            ([model], [file]) => given.iter_mut().filter(|(g, _)| g == file).for_each(|(g, _)| *g = model),
            _ => {
                let message = "the reference's inputs are not the model's";
                return Err(Diagnostic::new("reference", message).expected(needed.join(", ")).found(unused.join(", ")));
            }
        }
        Ok(given.into_iter().map(|(name, tensor)| (name, TensorView::from(tensor))).collect())
    }
}

/// How far a tensor may be from the reference.
pub enum Tolerance {
    /// `max_abs ≤ 1e-3 · scale + 1e-6`, and what is [zero but for rounding](Verdict::Rounding) is told from the rest.
    Relative,
    /// `max_abs ≤ 10 · (f32 error of another implementation) + 3e-6 · max(scale, 1)`, per tensor name.
    F32Error(BTreeMap<String, f64>),
}

impl Tolerance {
    /// Reads a JSON object from tensor name to largest absolute difference.
    pub fn read_f32_error(path: &Path) -> Result<Self, Diagnostic> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Diagnostic::new("unreadable-file", e.to_string()).in_file(path.display()))?;
        let errors = serde_json::from_str(&text)
            .map_err(|e| Diagnostic::new("invalid-json", e.to_string()).in_file(path.display()))?;
        Ok(Tolerance::F32Error(errors))
    }

    fn limit(&self, name: &str, scale: f64) -> f64 {
        match self {
            Tolerance::Relative => RELATIVE * scale + 1e-6,
            Tolerance::F32Error(errors) => 10.0 * errors.get(name).copied().unwrap_or(0.0) + 3e-6 * scale.max(1.0),
        }
    }
}

/// Prefix of gradients.
const GRADIENT: &str = "grad.";

/// Prefix of what parameters and buffers are after all steps.
const FINAL: &str = "after.";

/// The relative part of [`Tolerance::Relative`].
const RELATIVE: f64 = 1e-3;

/// The largest magnitude of a gradient that is rounding of sums of terms of the magnitude of other gradients, in units
/// of the largest of all gradients, if that is above 1.
const ROUNDING: f64 = 3e-6;

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within tolerance.
    Ok,
    /// Zero in exact arithmetic, here and in the reference: the gradient of a bias before a batch norm, or of the bias of
    /// attention's keys. What such a gradient moves, moves by rounding alone (by whole steps under Adam), and is not held
    /// to the reference.
    Rounding,
    /// Further off than the tolerance.
    TooFar,
}

/// How one tensor compares.
#[derive(Clone, Debug, Serialize)]
pub struct TensorComparison {
    /// Name in the reference.
    pub name: String,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest magnitude in the reference.
    pub scale: f64,
    /// `max_abs / scale`.
    pub rel: f64,
    /// What that comes to.
    pub verdict: Verdict,
}

/// How a run compares.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Losses of the steps.
    pub loss: Vec<f64>,
    /// Every tensor of the reference: `loss`, `grad.*`, `after.*`.
    pub tensors: Vec<TensorComparison>,
    /// Whether none is too far off.
    pub ok: bool,
    /// What the user should know of how it was compared.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Runs as many steps as the reference has losses, and a second compilation that outputs gradients.
pub fn compare(
    model: &Model,
    recipe: &Recipe,
    options: &Options,
    reference: &Reference,
    tolerance: &Tolerance,
) -> Result<Comparison, Diagnostics> {
    let step = compile(model, Some(recipe), options)?;
    let mut session = step.session()?;
    let inputs = reference.inputs(trained_entry(&step)?)?;
    let notes = undo_traced_update(&step, &mut session, &inputs)?;
    let mut loss = Vec::new();
    for _ in reference.loss() {
        loss.push(session.step(&inputs).map_err(|e| e.into_diagnostic())? as f64);
    }
    let mut tensors = vec![judge("loss", &loss, &reference.loss(), tolerance)];
    tensors.extend(gradients(model, recipe, options, reference, tolerance)?);
    tensors.extend(finals(&session, model, reference, tolerance)?);
    if matches!(tolerance, Tolerance::Relative) {
        tell_rounding(&mut tensors);
    }
    let ok = tensors.iter().all(|t| t.verdict != Verdict::TooFar);
    Ok(Comparison { loss, tensors, ok, notes })
}

/// Tells gradients that are zero but for rounding, and the parameters that they move.
fn tell_rounding(tensors: &mut [TensorComparison]) {
    let gradients = tensors.iter().filter(|t| t.name.starts_with(GRADIENT));
    let limit = ROUNDING * gradients.map(|t| t.scale).filter(|s| s.is_finite()).fold(1.0, f64::max);
    let is_rounding = |t: &TensorComparison| t.scale.max(t.max_abs) <= limit && t.max_abs > RELATIVE * t.scale;
    let mut moved = BTreeSet::new();
    for tensor in tensors.iter_mut().filter(|t| is_rounding(t)) {
        if let Some(parameter) = tensor.name.strip_prefix(GRADIENT) {
            moved.insert(format!("{FINAL}{parameter}"));
            tensor.verdict = Verdict::Rounding;
        }
    }
    let wrong = tensors.iter_mut().filter(|t| t.verdict == Verdict::TooFar);
    wrong.filter(|t| moved.contains(&t.name)).for_each(|t| t.verdict = Verdict::Rounding);
}

/// Exporters that trace a model in training mode update its running statistics before they save them.
///
/// Where one step on this very batch from PyTorch's initial statistics (mean 0, variance 1) gives exactly what the
/// file has, the file was saved after such a trace, and the reference, which was not, is compared from the start.
fn undo_traced_update(
    step: &CompiledStep,
    session: &mut Session,
    inputs: &[(&str, TensorView)],
) -> Result<Vec<String>, Diagnostics> {
    let statistics: Vec<(&str, f64)> =
        step.persistent().iter().filter_map(|t| Some((t.name.as_str(), initial_statistic(&t.name)?))).collect();
    let reset = |session: &mut Session| -> Result<(), Diagnostic> {
        for &(name, initial) in &statistics {
            let ty = session.parameter(name).expect("a persistent tensor").ty().clone();
            session
                .set_parameter(name, TensorView::from(&HostTensor::splat(ty, initial)))
                .map_err(|e| e.into_diagnostic())?;
        }
        Ok(())
    };
    let mut probe = step.session()?;
    reset(&mut probe)?;
    let fresh = statistics
        .iter()
        .all(|(name, _)| probe.parameter(name).map(|v| v.to_f32()) == session.parameter(name).map(|v| v.to_f32()));
    if statistics.is_empty() || fresh {
        return Ok(vec![]);
    }
    probe.step(inputs).map_err(|e| e.into_diagnostic())?;
    let of = |session: &Session, name: &str| session.parameter(name).map_or(vec![], |v| v.to_f32());
    let traced = statistics.iter().all(|(name, _)| nearly_equal(&of(&probe, name), &of(session, name)));
    if !traced {
        return Ok(vec![]);
    }
    reset(session)?;
    Ok(vec!["the file's running statistics are those after one step on this batch: its exporter traced the model in training mode; compared from the initial statistics".into()])
}

/// What PyTorch starts a running statistic from, by the names it gives them.
fn initial_statistic(name: &str) -> Option<f64> {
    match name.rsplit('.').next() {
        Some("running_mean") => Some(0.0),
        Some("running_var") => Some(1.0),
        _ => None,
    }
}

fn nearly_equal(a: &[f32], b: &[f32]) -> bool {
    let scale = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-4 * scale + 1e-6)
}

fn trained_entry(step: &CompiledStep) -> Result<&EntryInfo, Diagnostic> {
    step.entry(EntryKind::Step)
        .ok_or_else(|| Diagnostic::new("no-entry", "the model was compiled without a training step"))
}

fn gradients(
    model: &Model,
    recipe: &Recipe,
    options: &Options,
    reference: &Reference,
    tolerance: &Tolerance,
) -> Result<Vec<TensorComparison>, Diagnostics> {
    let step = compile(model, Some(recipe), &Options { gradients: true, ..options.clone() })?;
    let mut session = step.session()?;
    let inputs = reference.inputs(trained_entry(&step)?)?;
    let outputs = session.call(EntryKind::Step, &inputs).map_err(|e| e.into_diagnostic())?;
    let parts = trainable_set(recipe, model)?;
    let mut compared = Vec::new();
    for (parameter, expected) in reference.with_prefix(GRADIENT) {
        let name = format!("{GRADIENT}{parameter}");
        let own = own_name(model, parameter);
        let found = outputs.get(&format!("{GRADIENT}{own}"));
        let found = found.ok_or_else(|| absent(&name, "the step has no such gradient"))?.to_host();
        let expected = match parts.get(own) {
            Some(Some(part)) if expected.ty() != found.ty() => part_of(expected, part),
            _ => floats(expected),
        };
        compared.push(judge(&name, &floats(&found), &expected, tolerance));
    }
    Ok(compared)
}

fn finals(
    session: &Session,
    model: &Model,
    reference: &Reference,
    tolerance: &Tolerance,
) -> Result<Vec<TensorComparison>, Diagnostics> {
    let mut compared = Vec::new();
    for (tensor, expected) in reference.with_prefix(FINAL) {
        let name = format!("{FINAL}{tensor}");
        let found =
            session.parameter(own_name(model, tensor)).ok_or_else(|| absent(&name, "the model has no such tensor"))?;
        compared.push(judge(&name, &floats(&found.to_host()), &floats(expected), tolerance));
    }
    Ok(compared)
}

/// What a gradient of a whole parameter says of the part that trains; all of it where it has no such part.
fn part_of(whole: &HostTensor, part: &Part) -> Vec<f64> {
    let op = IndexSelect { axis: part.axis, indices: part.indices.clone() };
    let tensor = whole.to_tensor();
    let restricted = op.infer(&[&tensor.ty]).ok().and_then(|_| op.eval(&[&tensor]).ok());
    restricted.map_or_else(|| floats(whole), |mut results| floats(&results.remove(0).to_host()))
}

/// The model's name of a tensor that may go by the name of one it is tied to.
fn own_name<'a>(model: &'a Model, name: &'a str) -> &'a str {
    model.aliases.get(name).map_or(name, String::as_str)
}

fn absent(name: &str, message: &str) -> Diagnostic {
    Diagnostic::new("reference", format!("{message}: `{name}`")).help("does the recipe train the same parameters?")
}

fn floats(tensor: &HostTensor) -> Vec<f64> {
    match tensor.to_tensor().data {
        Data::Float(values) => values,
        Data::Int(values) => values.into_iter().map(|v| v as f64).collect(),
    }
}

fn judge(name: &str, found: &[f64], expected: &[f64], tolerance: &Tolerance) -> TensorComparison {
    let magnitude = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) })
    };
    let scale = magnitude(&mut expected.iter().copied());
    let same_length = found.len() == expected.len();
    let max_abs =
        if same_length { magnitude(&mut found.iter().zip(expected).map(|(a, b)| a - b)) } else { f64::INFINITY };
    let rel = if scale > 0.0 { max_abs / scale } else { max_abs };
    // a reference that is not finite has no tolerance: nothing is known of what should have come out
    let ok = max_abs.is_finite() && max_abs <= tolerance.limit(name, scale);
    let verdict = if ok { Verdict::Ok } else { Verdict::TooFar };
    TensorComparison { name: name.to_string(), max_abs, scale, rel, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ok(found: &[f64], expected: &[f64]) -> bool {
        judge("w", found, expected, &Tolerance::Relative).verdict == Verdict::Ok
    }

    #[test]
    fn only_numbers_within_the_tolerance_pass() {
        assert!(is_ok(&[1.0, 2.0], &[1.0, 2.001]));
        assert!(!is_ok(&[1.0, 2.0], &[1.0, 2.01]));
        assert!(!is_ok(&[1.0], &[1.0, 2.0]), "another number of elements");
        for odd in [f64::NAN, f64::INFINITY] {
            assert!(!is_ok(&[odd, 2.0], &[1.0, 2.0]), "{odd} found");
            assert!(!is_ok(&[1.0, 2.0], &[odd, 2.0]), "{odd} expected");
        }
    }

    fn verdicts(tensors: &[(&str, f64, f64)]) -> Vec<Verdict> {
        let judged = |&(name, found, expected)| judge(name, &[found], &[expected], &Tolerance::Relative);
        let mut all: Vec<_> = tensors.iter().map(judged).collect();
        tell_rounding(&mut all);
        all.iter().map(|t| t.verdict).collect()
    }

    #[test]
    fn a_gradient_that_is_zero_but_for_rounding_is_no_failure() {
        use Verdict::{Ok, Rounding, TooFar};
        // Adam moves by its rate whatever the size of a gradient.
        let moved = [("grad.w", 7.1, 7.1), ("grad.b", 1.6e-6, 3e-15), ("after.b", 0.1, -0.1), ("after.w", 1.0, 1.0)];
        assert_eq!(verdicts(&moved), [Ok, Rounding, Rounding, Ok]);
        let wrong = [("grad.w", 7.1, 7.1), ("grad.b", 1e-4, 3e-15), ("after.b", 0.1, -0.1), ("after.w", 1.0, 1.1)];
        assert_eq!(verdicts(&wrong), [Ok, TooFar, TooFar, TooFar]);
        // A small gradient that is right counts, and so does one that is missing.
        assert_eq!(verdicts(&[("grad.w", 7.1, 7.1), ("grad.b", 9e-6, 9e-6), ("after.b", 0.1, -0.1)]), [Ok, Ok, TooFar]);
        assert_eq!(verdicts(&[("grad.w", 7.1, 7.1), ("grad.b", 0.0, 1e-4)]), [Ok, TooFar]);
    }
}
