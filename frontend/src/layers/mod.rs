//! Layers as builders over the IR's primitives; fusion wins their speed back.
//!
//! Every function appends nodes to the builder it is given and fails with a [`TypeError`] when the operands
//! do not fit; the caller knows the place. Definitions are PyTorch's, gradients at kinks included.

use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

pub mod activation;
pub mod attention;
pub mod bag;
pub mod cumulative;
pub mod einsum;
pub mod grid;
pub mod indexing;
pub mod inverse;
pub mod linear;
pub mod math;
pub mod normalise;
pub mod pad;
pub mod patches;
pub mod pool;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod scatter;
pub mod search;
pub mod shape;

#[cfg(test)]
pub(crate) mod testing;

/// x + value
pub(crate) fn offset(b: &mut Builder, x: Value, value: f64) -> Result<Value, TypeError> {
    let value = b.full_like(x, value)?;
    b.add(x, value)
}

/// `x` plus an operand with one element per channel (axis 1).
fn add_per_channel(b: &mut Builder, x: Value, channels: Option<Value>) -> Result<Value, TypeError> {
    let Some(channels) = channels else { return Ok(x) };
    let channels = per_channel(b, channels, x)?;
    b.add(x, channels)
}

/// `x` times an operand with one element per channel (axis 1).
fn mul_per_channel(b: &mut Builder, x: Value, channels: Option<Value>) -> Result<Value, TypeError> {
    let Some(channels) = channels else { return Ok(x) };
    let channels = per_channel(b, channels, x)?;
    b.mul(x, channels)
}

/// A `[C]` operand repeated to the shape of `like`, `[N, C, …]`.
pub(crate) fn per_channel(b: &mut Builder, channels: Value, like: Value) -> Result<Value, TypeError> {
    let shape = b.shape(like).to_vec();
    b.broadcast(channels, &shape, &[1])
}
