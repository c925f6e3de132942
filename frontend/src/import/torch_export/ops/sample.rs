//! Images sampled at computed places, and bags of rows.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use crate::layers::bag::{Bags, Pooling, embedding_bag as pooled};
use crate::layers::grid::{self, Between, Outside, Sampler};
use gradc_ir::graph::Value;

/// Bilinear or nearest.
pub fn grid_sampler(call: &mut Call) -> Result<Value, Fault> {
    let between = match call.int("interpolation_mode")? {
        0 => Between::Bilinear,
        1 => Between::Nearest,
        other => return Err(unsupported("interpolation_mode", "0 (bilinear) or 1 (nearest)").found(other)),
    };
    let outside = match call.int("padding_mode")? {
        0 => Outside::Zeros,
        1 => Outside::Border,
        2 => Outside::Reflection,
        other => return Err(invalid("padding_mode", "0 to 2", other)),
    };
    let sampler = Sampler { between, outside, align_corners: call.bool("align_corners")? };
    let (x, at) = (call.tensor("input")?, call.tensor("grid")?);
    Ok(grid::grid_sample(call.b, x, at, sampler)?)
}

/// Of planes.
pub fn affine_grid(call: &mut Call) -> Result<Value, Fault> {
    let (theta, size) = (call.tensor("theta")?, call.new_shape("size")?);
    let &[n, _, height, width] = &size[..] else {
        return Err(unsupported("size", "[N, C, H, W]").found(format!("{size:?}")));
    };
    if call.b.shape(theta).first() != Some(&n) {
        return Err(invalid("size", "a matrix for each plane", n));
    }
    let align_corners = call.bool("align_corners")?;
    Ok(grid::affine_grid(call.b, theta, [height, width], align_corners)?)
}

/// (bags, and what ATen keeps for its own backward pass, which nobody else may read)
pub fn embedding_bag(call: &mut Call) -> Result<Vec<Value>, Fault> {
    call.require_bool("scale_grad_by_freq", false)?;
    call.require_bool("sparse", false)?;
    if call.read.iter().skip(1).any(|&read| read) {
        return Err(Fault::new("unsupported-output", "only the first result of embedding_bag can be read"));
    }
    let pooling = match call.int("mode")? {
        0 => Pooling::Sum,
        1 => Pooling::Mean,
        2 => Pooling::Max,
        other => return Err(invalid("mode", "0 to 2", other)),
    };
    let (table, indices) = (call.tensor("weight")?, call.tensor("indices")?);
    let bags = bags(call, indices)?;
    let padding = if call.is_none("padding_idx") { None } else { usize::try_from(call.int("padding_idx")?).ok() };
    let weights = call.optional_tensor("per_sample_weights")?;
    let mut results = vec![pooled(call.b, table, indices, bags, pooling, weights, padding)?];
    for ty in &call.recorded[1..] {
        results.push(call.b.splat(ty, 0.0)?);
    }
    Ok(results)
}

/// Where bags begin; where that is known and they are of one size, only how many there are.
fn bags(call: &mut Call, indices: Value) -> Result<Bags, Fault> {
    let offsets = call.tensor("offsets")?;
    let (&[given], &[count]) = (call.b.shape(offsets), call.b.shape(indices)) else {
        return Err(Fault::new("invalid-operands", "offsets and indices must be vectors").found(call.b.ty(offsets)));
    };
    let whole = if call.bool("include_last_offset")? { given.saturating_sub(1) } else { given };
    let begins = call.known_ints(offsets);
    let size = count / whole.max(1);
    let is_even = whole * size == count && whole > 0;
    let even = begins.is_some_and(|begins| is_even && (0..whole).all(|k| begins[k] == (k * size) as i64));
    Ok(if even { Bags::Even(whole) } else { Bags::At(offsets, whole) })
}
