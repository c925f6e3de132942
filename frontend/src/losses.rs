//! Losses as builders over the IR's primitives. Definitions are PyTorch's with `reduction="mean"`.

use crate::layers::activation::softplus;
use crate::layers::normalise::log_softmax;
use crate::layers::reduce::{mean, sum};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LossKind {
    /// −log softmax(prediction)\[target\] for logits `[N, C, …]` and integer labels `[N, …]`, or
    /// −Σ target · log softmax(prediction) over C for probabilities `[N, C, …]`.
    SoftmaxCrossEntropy {
        /// Label of rows that do not count.
        #[serde(default = "default_ignore_index")]
        ignore_index: i64,
        /// What the target is.
        #[serde(default)]
        target_kind: TargetKind,
    },
    /// (prediction − target)²
    Mse {},
    /// |prediction − target|
    L1 {},
    /// d²/2 where d = |prediction − target| < delta, else delta · (d − delta/2).
    Huber {
        /// Where the quadratic part ends; positive.
        #[serde(default = "default_delta")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        delta: f64,
    },
    /// Binary cross entropy of sigmoid(prediction) against targets in \[0, 1\].
    BceWithLogits {},
    /// The prediction is the loss itself; there is no target.
    Output {},
}

/// What a cross entropy is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// The number of each example's class, `[N, …]`, i64.
    #[default]
    Labels,
    /// The probability of every class, `[N, C, …]`, of the prediction's dtype.
    Probabilities,
}

fn default_ignore_index() -> i64 {
    -100
}

fn default_delta() -> f64 {
    1.0
}

/// What a loss computes; `loss` = Σ `per_example` / Σ `weight`.
#[derive(Clone, Copy, Debug)]
pub struct LossOutput {
    /// The mean that is minimised, a scalar.
    pub loss: Value,
    /// Sum of each example's terms, `[N]`: evaluates a padded batch exactly.
    pub per_example: Value,
    /// How much each example counts in the mean, `[N]`: 1, or its number of labels that are not ignored.
    pub weight: Value,
}

impl LossKind {
    /// Whether the loss compares the prediction with a target.
    pub fn has_target(&self) -> bool {
        !matches!(self, LossKind::Output {})
    }

    /// Type of the target that goes with a prediction, `None` when there is none.
    pub fn target_type(&self, prediction: &TensorType) -> Result<Option<TensorType>, TypeError> {
        Ok(match self {
            LossKind::Output {} => None,
            LossKind::SoftmaxCrossEntropy { target_kind: TargetKind::Labels, .. } => {
                Some(TensorType::new(DType::I64, label_shape(prediction)?))
            }
            _ => Some(prediction.clone()),
        })
    }

    /// Number of classes that labels choose from, `None` when targets are not labels.
    pub fn classes(&self, prediction: &TensorType) -> Option<usize> {
        let labels = matches!(self, LossKind::SoftmaxCrossEntropy { target_kind: TargetKind::Labels, .. });
        labels.then(|| prediction.shape.get(1).copied()).flatten()
    }
}

/// Shape of the labels of logits `[N, C, …]`: without the class axis.
fn label_shape(logits: &TensorType) -> Result<Vec<usize>, TypeError> {
    if logits.rank() < 2 {
        return Err(TypeError::new("cross entropy needs logits with a class axis").expected("[N, C, …]").found(logits));
    }
    Ok([&logits.shape[..1], &logits.shape[2..]].concat())
}

/// Appends a loss; `target` must be there exactly when the loss [has one](LossKind::has_target).
///
/// The first axis counts the examples; a scalar is one example.
pub fn build(
    b: &mut Builder,
    kind: &LossKind,
    prediction: Value,
    target: Option<Value>,
) -> Result<LossOutput, TypeError> {
    if target.is_some() != kind.has_target() {
        let word = |there: bool| if there { "a target" } else { "no target" };
        return Err(TypeError::new("the loss and its target do not go together")
            .expected(word(kind.has_target()))
            .found(word(target.is_some())));
    }
    let target = target.unwrap_or(prediction);
    match kind {
        LossKind::SoftmaxCrossEntropy { ignore_index, .. } => cross_entropy(b, prediction, target, *ignore_index),
        _ => averaged(b, prediction, target, |b, p, t| terms(b, kind, p, t)),
    }
}

/// The terms of an elementwise loss, shaped as the prediction.
pub fn terms(b: &mut Builder, kind: &LossKind, prediction: Value, target: Value) -> Result<Value, TypeError> {
    match kind {
        LossKind::SoftmaxCrossEntropy { .. } => Err(TypeError::new("cross entropy has no terms per element")),
        LossKind::Mse {} => squared(b, prediction, target),
        LossKind::L1 {} => absolute(b, prediction, target),
        LossKind::Huber { delta } => huber(b, prediction, target, *delta),
        LossKind::BceWithLogits {} => bce_with_logits(b, prediction, target),
        LossKind::Output {} => Ok(prediction),
    }
}

/// A loss whose terms are elementwise and all count alike.
fn averaged(
    b: &mut Builder,
    prediction: Value,
    target: Value,
    term: impl FnOnce(&mut Builder, Value, Value) -> Result<Value, TypeError>,
) -> Result<LossOutput, TypeError> {
    let (p, t) = (b.ty(prediction).clone(), b.ty(target).clone());
    if p != t {
        return Err(TypeError::new("prediction and target must have one type").expected(p).found(t));
    }
    let terms = term(b, prediction, target)?;
    let terms = if p.rank() == 0 { b.reshape(terms, &[1])? } else { terms };
    let axes: Vec<usize> = (0..p.rank().max(1)).collect();
    let per_example = mean(b, terms, &axes[1..], false)?;
    Ok(LossOutput { loss: mean(b, terms, &axes, false)?, per_example, weight: b.full_like(per_example, 1.0)? })
}

fn squared(b: &mut Builder, p: Value, t: Value) -> Result<Value, TypeError> {
    let d = b.sub(p, t)?;
    b.mul(d, d)
}

fn absolute(b: &mut Builder, p: Value, t: Value) -> Result<Value, TypeError> {
    let d = b.sub(p, t)?;
    b.abs(d)
}

fn huber(b: &mut Builder, p: Value, t: Value, delta: f64) -> Result<Value, TypeError> {
    let d = b.sub(p, t)?;
    let size = b.abs(d)?;
    let square = b.mul(d, d)?;
    let quadratic = b.scale(square, 0.5)?;
    let half = b.full_like(d, 0.5 * delta)?;
    let beyond = b.sub(size, half)?;
    let linear = b.scale(beyond, delta)?;
    let bound = b.full_like(d, delta)?;
    let near = b.compare(CompareFn::Lt, size, bound)?;
    b.select(near, quadratic, linear)
}

/// −t ln σ(x) − (1 − t) ln(1 − σ(x)) = ln(1 + eˣ) − t x
fn bce_with_logits(b: &mut Builder, x: Value, t: Value) -> Result<Value, TypeError> {
    let log = softplus(b, x)?;
    let product = b.mul(t, x)?;
    b.sub(log, product)
}

fn cross_entropy(b: &mut Builder, logits: Value, target: Value, ignore_index: i64) -> Result<LossOutput, TypeError> {
    let labels = label_shape(b.ty(logits))?;
    let logs = log_softmax(b, logits, 1)?;
    let (terms, weights) = if b.ty(target).dtype.is_float() {
        against_probabilities(b, logs, target)?
    } else {
        against_labels(b, logs, target, ignore_index)?
    };
    let rest: Vec<usize> = (1..labels.len()).collect();
    let (per_example, weight) = (sum(b, terms, &rest, false)?, sum(b, weights, &rest, false)?);
    let (total, count) = (sum(b, per_example, &[0], false)?, sum(b, weight, &[0], false)?);
    Ok(LossOutput { loss: b.div(total, count)?, per_example, weight })
}

/// Terms and their weights, shaped as labels.
fn against_probabilities(b: &mut Builder, logs: Value, target: Value) -> Result<(Value, Value), TypeError> {
    let (p, t) = (b.ty(logs).clone(), b.ty(target).clone());
    if p != t {
        return Err(TypeError::new("probability targets must have the logits' type").expected(p).found(t));
    }
    let products = b.mul(target, logs)?;
    let negative = b.neg(products)?;
    let terms = sum(b, negative, &[1], false)?;
    Ok((terms, b.full_like(terms, 1.0)?))
}

/// Terms and their weights, shaped as labels; an ignored label has term and weight 0.
fn against_labels(b: &mut Builder, logs: Value, labels: Value, ignore_index: i64) -> Result<(Value, Value), TypeError> {
    let (p, t) = (b.ty(logs).clone(), b.ty(labels).clone());
    let shape = label_shape(&p)?;
    if t.dtype == DType::Bool || t.shape != shape {
        let expected = format!("integers {shape:?}, or probabilities {p}");
        return Err(TypeError::new("the target does not fit the logits").expected(expected).found(t));
    }
    // Comparing with class numbers needs no gather, whose adjoint would scatter: this stays in one loop nest, and
    // 32-bit numbers are as wide as the logits. No label of that many classes is lost.
    let class = b.iota(DType::I32, &p.shape, 1)?;
    let narrow = b.cast(labels, DType::I32)?;
    let kept: Vec<usize> = (0..p.rank()).filter(|&d| d != 1).collect();
    let spread = b.broadcast(narrow, &p.shape, &kept)?;
    let hit = b.compare(CompareFn::Eq, class, spread)?;
    let zero = b.full_like(logs, 0.0)?;
    let picked = b.select(hit, logs, zero)?;
    let log_likelihood = sum(b, picked, &[1], false)?;
    let terms = b.neg(log_likelihood)?;
    let wide = b.cast(labels, DType::I64)?;
    let ignored = b.full_like(wide, ignore_index as f64)?;
    let counts = b.compare(CompareFn::Ne, wide, ignored)?;
    let weights = b.cast(counts, p.dtype)?;
    Ok((b.mul(terms, weights)?, weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, evaluate, noise};
    use gradc_ir::tensor::Tensor;

    const CROSS_ENTROPY: LossKind =
        LossKind::SoftmaxCrossEntropy { ignore_index: -100, target_kind: TargetKind::Labels };

    /// loss, per_example and weight on a prediction and a target.
    fn run(kind: &LossKind, prediction: &Tensor, target: Option<&Tensor>) -> [Vec<f64>; 3] {
        let tensors: Vec<Tensor> = [Some(prediction), target].into_iter().flatten().cloned().collect();
        let found = evaluate(&tensors, |b, x| {
            let out = build(b, kind, x[0], x.get(1).copied())?;
            Ok(vec![out.loss, out.per_example, out.weight])
        });
        [0, 1, 2].map(|k| found[k].floats().to_vec())
    }

    fn floats(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::float(TensorType::f32(shape), values.to_vec())
    }

    fn labels(dtype: DType, shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::int(TensorType::new(dtype, shape), values.to_vec())
    }

    #[test]
    fn elementwise_losses_follow_their_formulas() {
        type Term = fn(f64, f64) -> f64;
        let cases: [(LossKind, Term); 4] = [
            (LossKind::Mse {}, |p, t| (p - t).powi(2)),
            (LossKind::L1 {}, |p, t| (p - t).abs()),
            (LossKind::Huber { delta: 0.5 }, |p, t| {
                let d = (p - t).abs();
                if d < 0.5 { d * d / 2.0 } else { 0.5 * (d - 0.25) }
            }),
            (LossKind::BceWithLogits {}, |p, t| {
                let probability = 1.0 / (1.0 + (-p).exp());
                -(t * probability.ln() + (1.0 - t) * (1.0 - probability).ln())
            }),
        ];
        let (p, t): (Vec<f64>, Vec<f64>) =
            (noise(6, 1).iter().map(|v| 3.0 * v).collect(), noise(6, 2).iter().map(|v| (v + 1.0) / 2.0).collect());
        for (kind, term) in cases {
            let [loss, per_example, weight] = run(&kind, &floats(&[2, 3], &p), Some(&floats(&[2, 3], &t)));
            let terms: Vec<f64> = p.iter().zip(&t).map(|(&p, &t)| term(p, t)).collect();
            let rows: Vec<f64> = terms.chunks(3).map(|r| r.iter().sum::<f64>() / 3.0).collect();
            assert_close("per example", &per_example, &rows, 1e-12);
            assert_close("loss", &loss, &[(rows[0] + rows[1]) / 2.0], 1e-12);
            assert_eq!(weight, [1.0, 1.0]);
        }
    }

    /// −ln softmax of class `label` of a row.
    fn surprise(row: &[f64], label: usize) -> f64 {
        row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label]
    }

    #[test]
    fn cross_entropy_takes_labels_of_any_integer_type() {
        let x = noise(6, 1);
        for dtype in [DType::I64, DType::I32, DType::U8] {
            let found = run(&CROSS_ENTROPY, &floats(&[2, 3], &x), Some(&labels(dtype, &[2], &[2, 0])));
            let expected = [surprise(&x[..3], 2), surprise(&x[3..], 0)];
            assert_close("per example", &found[1], &expected, 1e-12);
            assert_close("loss", &found[0], &[(expected[0] + expected[1]) / 2.0], 1e-12);
        }
    }

    #[test]
    fn ignored_labels_do_not_count() {
        let x = noise(9, 1);
        let found = run(&CROSS_ENTROPY, &floats(&[3, 3], &x), Some(&labels(DType::I64, &[3], &[1, -100, 2])));
        let expected = [surprise(&x[..3], 1), 0.0, surprise(&x[6..], 2)];
        assert_close("per example", &found[1], &expected, 1e-12);
        assert_eq!(found[2], [1.0, 0.0, 1.0]);
        assert_close("loss", &found[0], &[(expected[0] + expected[2]) / 2.0], 1e-12);
        let other = LossKind::SoftmaxCrossEntropy { ignore_index: 1, target_kind: TargetKind::Labels };
        let found = run(&other, &floats(&[3, 3], &x), Some(&labels(DType::I64, &[3], &[1, 0, 2])));
        assert_eq!(found[2], [0.0, 1.0, 1.0]);
    }

    #[test]
    fn classes_are_on_axis_one() {
        // [2, 3, 2]: example 0, position 1 has the logits x[1], x[3], x[5].
        let x = noise(12, 1);
        let target = labels(DType::I64, &[2, 2], &[0, 2, -100, 1]);
        let [loss, per_example, weight] = run(&CROSS_ENTROPY, &floats(&[2, 3, 2], &x), Some(&target));
        let row = |example: usize, position: usize| [0, 2, 4].map(|c| x[example * 6 + c + position]);
        let expected = [surprise(&row(0, 0), 0) + surprise(&row(0, 1), 2), surprise(&row(1, 1), 1)];
        assert_close("per example", &per_example, &expected, 1e-12);
        assert_eq!(weight, [2.0, 1.0]);
        assert_close("loss", &loss, &[(expected[0] + expected[1]) / 3.0], 1e-12);
    }

    #[test]
    fn a_one_hot_distribution_is_a_label() {
        let x = floats(&[2, 3], &noise(6, 1));
        let hard = run(&CROSS_ENTROPY, &x, Some(&labels(DType::I64, &[2], &[2, 0])));
        let soft = run(&CROSS_ENTROPY, &x, Some(&floats(&[2, 3], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0])));
        assert_close("loss", &soft[0], &hard[0], 1e-12);
        assert_close("per example", &soft[1], &hard[1], 1e-12);
    }

    #[test]
    fn an_output_can_be_the_loss() {
        let [loss, per_example, weight] = run(&LossKind::Output {}, &floats(&[], &[2.5]), None);
        assert_eq!((loss, per_example, weight), (vec![2.5], vec![2.5], vec![1.0]));
        let [loss, per_example, _] = run(&LossKind::Output {}, &floats(&[2, 2], &[1.0, 2.0, 3.0, 6.0]), None);
        assert_eq!((loss, per_example), (vec![3.0], vec![1.5, 4.5]));
    }

    #[test]
    fn targets_that_do_not_fit_are_refused() {
        let logits = TensorType::f32([2, 3]);
        let cases = [
            (CROSS_ENTROPY, logits.clone(), Some(TensorType::new(DType::I64, [3]))),
            (CROSS_ENTROPY, logits.clone(), Some(TensorType::new(DType::Bool, [2]))),
            (CROSS_ENTROPY, logits.clone(), Some(TensorType::f32([2]))),
            (CROSS_ENTROPY, TensorType::f32([2]), Some(TensorType::new(DType::I64, [2]))),
            (LossKind::Mse {}, logits.clone(), Some(TensorType::f32([2]))),
            (LossKind::Mse {}, logits.clone(), None),
            (LossKind::Output {}, logits.clone(), Some(logits)),
        ];
        for (kind, prediction, target) in cases {
            let mut b = Builder::new("test");
            let p = b.input("p", prediction.clone()).unwrap();
            let t = target.clone().map(|ty| b.input("t", ty).unwrap());
            assert!(build(&mut b, &kind, p, t).is_err(), "{kind:?} of {prediction} and {target:?}");
        }
    }

    #[test]
    fn the_target_type_follows_from_the_prediction() {
        let prediction = TensorType::f32([4, 10, 7]);
        let target = CROSS_ENTROPY.target_type(&prediction).unwrap();
        assert_eq!(target, Some(TensorType::new(DType::I64, [4, 7])));
        assert_eq!(CROSS_ENTROPY.classes(&prediction), Some(10));
        let soft = LossKind::SoftmaxCrossEntropy { ignore_index: -100, target_kind: TargetKind::Probabilities };
        assert_eq!(soft.target_type(&prediction).unwrap(), Some(prediction.clone()));
        assert_eq!(soft.classes(&prediction), None, "there are no labels to check");
        assert_eq!(LossKind::Mse {}.target_type(&prediction).unwrap(), Some(prediction.clone()));
        assert_eq!(LossKind::Output {}.target_type(&prediction).unwrap(), None);
    }
}
