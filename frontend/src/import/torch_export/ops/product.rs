//! Matrix products, lookups and attention.

use super::super::call::{Call, unsupported};
use super::super::fault::Fault;
use crate::layers::{attention as layers_attention, linear as layers};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::TensorType;

pub fn linear(call: &mut Call) -> Result<Value, Fault> {
    let (x, w, bias) = (call.tensor("input")?, call.tensor("weight")?, call.optional_tensor("bias")?);
    Ok(layers::linear(call.b, x, w, bias)?)
}

/// The product of two tensors of `rank` axes each.
pub fn product(call: &mut Call, [left, right]: [&str; 2], ranks: [usize; 2]) -> Result<Value, Fault> {
    let (a, b) = (call.tensor(left)?, call.tensor(right)?);
    let found = [call.b.shape(a).len(), call.b.shape(b).len()];
    if found != ranks {
        return Err(Fault::new("invalid-operands", "the operands have the wrong numbers of axes")
            .expected(format!("{ranks:?}"))
            .found(format!("{found:?}")));
    }
    Ok(layers::matmul(call.b, a, b)?)
}

/// Product of two matrices or two batches of matrices.
pub fn mm(call: &mut Call) -> Result<Value, Fault> {
    let rank = call.b.shape(call.tensor("self")?).len();
    product(call, ["self", "mat2"], [rank, rank])
}

pub fn mv(call: &mut Call) -> Result<Value, Fault> {
    product(call, ["self", "vec"], [2, 1])
}

pub fn dot(call: &mut Call) -> Result<Value, Fault> {
    product(call, ["self", "tensor"], [1, 1])
}

pub fn vdot(call: &mut Call) -> Result<Value, Fault> {
    product(call, ["self", "other"], [1, 1])
}

pub fn addmm(call: &mut Call) -> Result<Value, Fault> {
    let product = product(call, ["mat1", "mat2"], [2, 2])?;
    add_to_self(call, product)
}

pub fn baddbmm(call: &mut Call) -> Result<Value, Fault> {
    let product = product(call, ["batch1", "batch2"], [3, 3])?;
    add_to_self(call, product)
}

/// beta · self + alpha · product
pub fn add_to_self(call: &mut Call, product: Value) -> Result<Value, Fault> {
    let x = call.tensor("self")?;
    let (beta, alpha) = (call.float("beta")?, call.float("alpha")?);
    let scaled = |b: &mut Builder, v: Value, by: f64| if by == 1.0 { Ok(v) } else { b.scale(v, by) };
    let product = scaled(call.b, product, alpha)?;
    // A beta of 0 ignores `self`, even where it is not finite.
    if beta == 0.0 {
        return Ok(product);
    }
    let x = scaled(call.b, x, beta)?;
    Ok(call.b.add(x, product)?)
}

/// Rows of a table; the row at `padding_idx` gets no gradient.
pub fn embedding(call: &mut Call) -> Result<Value, Fault> {
    call.require_bool("scale_grad_by_freq", false)?;
    call.require_bool("sparse", false)?;
    let (table, indices, padding) = (call.tensor("weight")?, call.tensor("indices")?, call.int("padding_idx")?);
    let rows = layers::embedding(call.b, table, indices)?;
    if padding < 0 {
        return Ok(rows);
    }
    let ty = call.b.ty(indices).clone();
    let padding = call.b.splat(&ty, padding as f64)?;
    let is_padding = call.b.compare(CompareFn::Eq, indices, padding)?;
    let is_padding = call.b.reshape(is_padding, &[&ty.shape[..], &[1]].concat())?;
    let fixed = call.b.stop_gradient(rows)?;
    Ok(call.b.select(is_padding, fixed, rows)?)
}

/// Scaled dot-product attention; dropout of the weights only where there is none. With `enable_gqa` groups of heads
/// share keys and values.
pub fn attention(call: &mut Call) -> Result<Value, Fault> {
    if call.mode.training && call.float("dropout_p")? > 0.0 {
        return Err(unsupported("dropout_p", 0));
    }
    let [q, mut k, mut v] = [call.tensor("query")?, call.tensor("key")?, call.tensor("value")?];
    if call.args.contains_key("enable_gqa") && call.bool("enable_gqa")? {
        (k, v) = (for_every_head(call, k, q)?, for_every_head(call, v, q)?);
    }
    let (mask, scale) = (call.optional_tensor("attn_mask")?, call.optional_float("scale")?);
    let causal = call.bool("is_causal")?;
    Ok(layers_attention::scaled_dot_product_attention(call.b, q, k, v, mask, causal, scale)?)
}

/// Heads `[…, G, S, E]` repeated so that there are as many as in `q`, each group beside itself.
fn for_every_head(call: &mut Call, x: Value, q: Value) -> Result<Value, Fault> {
    let (own, wanted) = (call.b.shape(x).to_vec(), call.b.shape(q).to_vec());
    let heads = |shape: &[usize]| shape.len().checked_sub(3).map(|at| (at, shape[at]));
    let (Some((at, groups)), Some((_, heads))) = (heads(&own), heads(&wanted)) else {
        return Err(Fault::new("invalid-operands", "attention in groups needs an axis of heads").found(call.b.ty(x)));
    };
    if groups == 0 || !heads.is_multiple_of(groups) {
        let fault = Fault::new("invalid-operands", "groups of keys and values must divide the heads");
        return Err(fault.expected(format!("a divisor of {heads}")).found(groups));
    }
    let wide = [&own[..=at], &[heads / groups], &own[at + 1..]].concat();
    let kept: Vec<usize> = (0..wide.len()).filter(|&d| d != at + 1).collect();
    let repeated = call.b.broadcast(x, &wide, &kept)?;
    Ok(call.b.reshape(repeated, &[&own[..at], &[heads], &own[at + 1..]].concat())?)
}

/// A scalar of a type, as a tensor of any shape.
pub fn splat(call: &mut Call, shape: &[usize], value: f64) -> Result<Value, Fault> {
    let ty = TensorType::checked(call.dtype()?, shape)?;
    Ok(call.b.splat(&ty, value)?)
}
