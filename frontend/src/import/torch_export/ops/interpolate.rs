//! Images of other sizes.
//!
//! Sizes come from `output_size` or from `scale_factors`; a factor also says where samples are taken.

use super::super::call::{Call, invalid};
use super::super::fault::Fault;
use crate::layers::resize::{self as layers, Sampling};
use gradc_ir::graph::Value;

/// Of every spatial axis: its extent, and the scale from its samples to those of the operand if that is given.
fn targets(call: &Call, x: Value) -> Result<Vec<(usize, Option<f64>)>, Fault> {
    let spatial = call.b.shape(x).get(2..).unwrap_or_default().to_vec();
    let no_size = call.is_none("output_size");
    let factors = if no_size || !call.is_none("scale_factors") { call.optional_floats("scale_factors")? } else { None };
    let fits = |count: usize| {
        if count == spatial.len() { Ok(()) } else { Err(invalid("scale_factors", "one per axis", count)) }
    };
    match (no_size, factors) {
        (false, _) => Ok(call.per_axis("output_size", spatial.len())?.into_iter().map(|n| (n, None)).collect()),
        (true, Some(factors)) => {
            fits(factors.len())?;
            let scaled = |(&n, &f): (&usize, &f64)| match (n as f64 * f).floor() {
                extent if f > 0.0 && extent < 1e9 => Ok((extent as usize, Some(1.0 / f))),
                _ => Err(invalid("scale_factors", "positive numbers", f)),
            };
            spatial.iter().zip(&factors).map(scaled).collect()
        }
        (true, None) => Err(invalid("output_size", "sizes or factors", "neither")),
    }
}

fn resized(call: &mut Call, sampling: Sampling) -> Result<Value, Fault> {
    let x = call.tensor("input")?;
    let mut y = x;
    for (k, (extent, scale)) in targets(call, x)?.into_iter().enumerate() {
        y = layers::resize_axis(call.b, y, 2 + k, extent, scale, sampling)?;
    }
    Ok(y)
}

pub fn nearest(call: &mut Call) -> Result<Value, Fault> {
    resized(call, Sampling::Nearest)
}

pub fn nearest_exact(call: &mut Call) -> Result<Value, Fault> {
    resized(call, Sampling::NearestExact)
}

/// Linear along every axis: linear, bilinear, trilinear.
pub fn linear(call: &mut Call) -> Result<Value, Fault> {
    let corners = call.bool("align_corners")?;
    resized(call, if corners { Sampling::LinearCorners } else { Sampling::Linear })
}

pub fn cubic(call: &mut Call) -> Result<Value, Fault> {
    let corners = call.bool("align_corners")?;
    resized(call, if corners { Sampling::CubicCorners } else { Sampling::Cubic })
}
