//! Products of tensors of any rank.

use super::super::call::{Call, invalid, normal_axis};
use super::super::fault::Fault;
use super::product::{add_to_self, product};
use crate::layers::einsum as layers;
use crate::layers::linear::matmul;
use crate::layers::shape::unsqueeze;
use gradc_ir::graph::Value;

pub fn einsum(call: &mut Call) -> Result<Value, Fault> {
    let (equation, values) = (call.text("equation")?.to_string(), call.tensors("tensors")?);
    Ok(layers::einsum(call.b, &equation, &values)?)
}

/// x yᵀ of vectors.
fn outer_product(call: &mut Call, left: &str, right: &str) -> Result<Value, Fault> {
    let (x, y) = (call.tensor(left)?, call.tensor(right)?);
    let (x, y) = (unsqueeze(call.b, x, &[1])?, unsqueeze(call.b, y, &[0])?);
    Ok(call.b.mul(x, y)?)
}

pub fn outer(call: &mut Call) -> Result<Value, Fault> {
    outer_product(call, "self", "vec2")
}

pub fn addr(call: &mut Call) -> Result<Value, Fault> {
    let product = outer_product(call, "vec1", "vec2")?;
    add_to_self(call, product)
}

pub fn addmv(call: &mut Call) -> Result<Value, Fault> {
    let product = product(call, ["mat", "vec"], [2, 1])?;
    add_to_self(call, product)
}

/// beta · self + alpha · Σ products of a batch.
pub fn addbmm(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("batch1")?, call.tensor("batch2")?);
    let product = call.b.dot_general(x, y, [&[], &[]], [&[0, 2], &[0, 1]])?;
    add_to_self(call, product)
}

/// Sums of products over the last axes of both.
pub fn inner(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("self")?, call.tensor("other")?);
    let last = |v: Value| call.b.shape(v).len().checked_sub(1);
    match (last(x), last(y)) {
        (Some(a), Some(b)) => Ok(call.b.dot_general(x, y, [&[], &[]], [&[a], &[b]])?),
        _ => Ok(call.b.mul(x, y)?),
    }
}

pub fn tensordot(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("self")?, call.tensor("other")?);
    let axes = |name: &str, v: Value| {
        let rank = call.b.shape(v).len();
        call.ints(name)?.into_iter().map(|d| normal_axis(name, d, rank)).collect::<Result<Vec<_>, _>>()
    };
    let (left, right) = (axes("dims_self", x)?, axes("dims_other", y)?);
    Ok(call.b.dot_general(x, y, [&[], &[]], [&left, &right])?)
}

/// Every element of the left times all of the right.
pub fn kron(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("self")?, call.tensor("other")?);
    let (mut left, mut right) = (call.b.shape(x).to_vec(), call.b.shape(y).to_vec());
    let rank = left.len().max(right.len());
    for shape in [&mut left, &mut right] {
        shape.splice(0..0, vec![1; rank - shape.len()]);
    }
    let spread =
        |shape: &[usize], own: usize| (0..2 * rank).map(|k| if k % 2 == own { shape[k / 2] } else { 1 }).collect();
    let (wide_left, wide_right): (Vec<usize>, Vec<usize>) = (spread(&left, 0), spread(&right, 1));
    let (x, y) = (call.b.reshape(x, &wide_left)?, call.b.reshape(y, &wide_right)?);
    let product = call.b.mul(x, y)?;
    let joined: Vec<usize> = left.iter().zip(&right).map(|(l, r)| l * r).collect();
    Ok(call.b.reshape(product, &joined)?)
}

/// Vector product of three elements along an axis.
pub fn cross(call: &mut Call) -> Result<Value, Fault> {
    let (x, y) = (call.tensor("self")?, call.tensor("other")?);
    let (x, y) = call.b.broadcast_pair(x, y)?;
    let axis = call.axis("dim", call.b.shape(x).len())?;
    if call.b.shape(x).get(axis) != Some(&3) {
        return Err(invalid("dim", "an axis of three elements", axis));
    }
    let b = &mut *call.b;
    let mut turned = |v: Value, by: [usize; 3]| crate::layers::indexing::pick(b, v, axis, &by);
    let (x1, y2, x2, y1) = (turned(x, [1, 2, 0])?, turned(y, [2, 0, 1])?, turned(x, [2, 0, 1])?, turned(y, [1, 2, 0])?);
    let (left, right) = (b.mul(x1, y2)?, b.mul(x2, y1)?);
    Ok(b.sub(left, right)?)
}

/// The product of several matrices, from left to right.
pub fn multi_dot(call: &mut Call) -> Result<Value, Fault> {
    let values = call.tensors("tensors")?;
    let mut rest = values.into_iter();
    let mut product = rest.next().ok_or_else(|| invalid("tensors", "at least one matrix", 0))?;
    for next in rest {
        product = matmul(call.b, product, next)?;
    }
    Ok(product)
}

/// x₁ᵀ W x₂ for each matrix of `weight` `[O, I, J]`.
pub fn bilinear(call: &mut Call) -> Result<Value, Fault> {
    let (x, y, w) = (call.tensor("input1")?, call.tensor("input2")?, call.tensor("weight")?);
    let mut z = layers::einsum(call.b, "...i,oij,...j->...o", &[x, w, y])?;
    if let Some(bias) = call.optional_tensor("bias")? {
        z = call.b.add(z, bias)?;
    }
    Ok(z)
}
