//! Scaled dot-product attention.

use super::linear::{contract, matmul};
use super::normalise::{safe_softmax, softmax};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// softmax(q · kᵀ · scale + mask) · v for `q` `[…, L, E]`, `k` `[…, S, E]`, `v` `[…, S, V]`; the result is `[…, L, V]`.
///
/// A boolean mask keeps what is true, a float mask is added; both broadcast to `[…, L, S]`. `is_causal` lets
/// row i see the columns 0 to i. `scale` defaults to 1/√E (Vaswani et al., 2017). A row that a mask shows nothing is 0
/// and has no gradient, as in PyTorch.
pub fn scaled_dot_product_attention(
    b: &mut Builder,
    q: Value,
    k: Value,
    v: Value,
    mask: Option<Value>,
    is_causal: bool,
    scale: Option<f64>,
) -> Result<Value, TypeError> {
    let (q_rank, k_rank) = (b.shape(q).len(), b.shape(k).len());
    if q_rank < 2 || k_rank < 2 {
        return Err(TypeError::new("attention needs matrices").expected("q […, L, E] and k […, S, E]").found(format!(
            "{} and {}",
            b.ty(q),
            b.ty(k)
        )));
    }
    let scale = scale.unwrap_or_else(|| 1.0 / (b.shape(q)[q_rank - 1] as f64).sqrt());
    let q = b.scale(q, scale)?;
    let scores = contract(b, [q, k], [q_rank - 1, k_rank - 1])?;
    let scores = mask.map_or(Ok(scores), |mask| apply_mask(b, scores, mask))?;
    let scores = if is_causal { apply_causal_mask(b, scores)? } else { scores };
    let axis = b.shape(scores).len() - 1;
    let weights = if mask.is_some() { safe_softmax(b, scores, axis)? } else { softmax(b, scores, axis)? };
    matmul(b, weights, v)
}

fn apply_mask(b: &mut Builder, scores: Value, mask: Value) -> Result<Value, TypeError> {
    if b.ty(mask).dtype != DType::Bool {
        return b.add(scores, mask);
    }
    let hidden = b.scalar(b.ty(scores).dtype, f64::NEG_INFINITY)?;
    b.select(mask, scores, hidden)
}

fn apply_causal_mask(b: &mut Builder, scores: Value) -> Result<Value, TypeError> {
    let shape = b.shape(scores).to_vec();
    let square = &shape[shape.len() - 2..];
    let row = b.iota(DType::I64, square, 0)?;
    let column = b.iota(DType::I64, square, 1)?;
    let seen = b.compare(CompareFn::Ge, row, column)?;
    let seen = b.broadcast_to(seen, &shape)?;
    let hidden = b.full_like(scores, f64::NEG_INFINITY)?;
    b.select(seen, scores, hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build, evaluate, noise};
    use gradc_ir::tensor::Tensor;
    use gradc_ir::types::TensorType;

    const HEADS: usize = 2;
    const L: usize = 3;
    const S: usize = 4;
    const E: usize = 5;

    /// Attention by its definition; `bias(i, j)` is added to the scores.
    fn reference(q: &[f64], k: &[f64], v: &[f64], scale: f64, bias: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let mut out = vec![0.0; HEADS * L * E];
        for (head, i) in (0..HEADS).flat_map(|h| (0..L).map(move |i| (h, i))) {
            let row = |m: &[f64], rows: usize, at: usize| m[(head * rows + at) * E..][..E].to_vec();
            let dot = |j: usize| row(q, L, i).iter().zip(row(k, S, j)).map(|(a, b)| a * b).sum::<f64>();
            let weights: Vec<f64> = (0..S).map(|j| (dot(j) * scale + bias(i, j)).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, e) in (0..S).flat_map(|j| (0..E).map(move |e| (j, e))) {
                out[(head * L + i) * E + e] += weights[j] / total * row(v, S, j)[e];
            }
        }
        out
    }

    #[test]
    fn attention_follows_its_definition() {
        let (q, k, v) = (noise(HEADS * L * E, 1), noise(HEADS * S * E, 2), noise(HEADS * S * E, 3));
        let mask = noise(L * S, 4);
        let shape = |rows: usize| TensorType::f32([HEADS, rows, E]);
        let keep: Vec<i64> = (0..L * S).map(|at| (at % S <= 1) as i64).collect();
        let tensors = [
            Tensor::float(shape(L), q.clone()),
            Tensor::float(shape(S), k.clone()),
            Tensor::float(shape(S), v.clone()),
            Tensor::float(TensorType::f32([L, S]), mask.clone()),
            Tensor::int(TensorType::new(DType::Bool, [L, S]), keep),
        ];
        let unit = 1.0 / (E as f64).sqrt();
        let hidden = |yes: bool| if yes { f64::NEG_INFINITY } else { 0.0 };
        type Bias<'a> = Box<dyn Fn(usize, usize) -> f64 + 'a>;
        type Case<'a> = (&'a str, Option<usize>, bool, Option<f64>, Bias<'a>);
        let cases: [Case; 5] = [
            ("plain", None, false, None, Box::new(|_, _| 0.0)),
            ("scaled", None, false, Some(0.3), Box::new(|_, _| 0.0)),
            ("causal", None, true, None, Box::new(|i, j| hidden(j > i))),
            ("float mask", Some(3), false, None, Box::new(|i, j| mask[i * S + j])),
            ("boolean mask", Some(4), false, None, Box::new(|_, j| hidden(j > 1))),
        ];
        for (name, mask, is_causal, scale, bias) in cases {
            let y = evaluate(&tensors, |b, x| {
                let mask = mask.map(|at| x[at]);
                Ok(vec![scaled_dot_product_attention(b, x[0], x[1], x[2], mask, is_causal, scale)?])
            });
            let expected = reference(&q, &k, &v, scale.unwrap_or(unit), bias);
            assert_close(name, y[0].floats(), &expected, 1e-12);
        }
    }

    #[test]
    fn a_row_that_sees_nothing_is_zero() {
        let (q, k, v) = (noise(HEADS * L * E, 1), noise(HEADS * S * E, 2), noise(HEADS * S * E, 3));
        let sees = |at: usize| at / S != 1;
        let hidden: Vec<f64> = (0..L * S).map(|at| if sees(at) { 0.0 } else { f64::NEG_INFINITY }).collect();
        let masks = [
            Tensor::float(TensorType::f32([L, S]), hidden),
            Tensor::int(TensorType::new(DType::Bool, [L, S]), (0..L * S).map(|at| sees(at) as i64).collect()),
        ];
        let mut expected = reference(&q, &k, &v, 1.0 / (E as f64).sqrt(), |_, _| 0.0);
        for head in 0..HEADS {
            expected[(head * L + 1) * E..][..E].fill(0.0);
        }
        for mask in masks {
            let shape = |rows: usize| TensorType::f32([HEADS, rows, E]);
            let [q, k, v] = [(L, &q), (S, &k), (S, &v)].map(|(rows, x)| Tensor::float(shape(rows), x.clone()));
            let y = evaluate(&[q, k, v, mask], |b, x| {
                Ok(vec![scaled_dot_product_attention(b, x[0], x[1], x[2], Some(x[3]), false, None)?])
            });
            assert_close("masked", y[0].floats(), &expected, 1e-12);
        }
    }

    #[test]
    fn heads_may_share_keys_and_values() {
        let (q, k) = (noise(HEADS * L * E, 1), noise(S * E, 2));
        let shared = build(&[(&[HEADS, L, E], &q), (&[S, E], &k)], |b, x| {
            scaled_dot_product_attention(b, x[0], x[1], x[1], None, false, None)
        });
        let twice = [k.clone(), k].concat();
        let expected = reference(&q, &twice, &twice, 1.0 / (E as f64).sqrt(), |_, _| 0.0);
        assert_close("shared", shared.floats(), &expected, 1e-12);
    }
}
