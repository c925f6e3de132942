//! What is put around a tensor: a constant, or its own elements again.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use crate::layers::pad::{Border, pad_with, reflected, replicated, wrapped};
use gradc_ir::graph::Value;

/// Pairs (before, after) from the last axis on; negative ones cut.
pub fn pad(call: &mut Call) -> Result<Value, Fault> {
    let mode = if call.args.contains_key("mode") { call.text("mode")? } else { "constant" };
    let border = match mode {
        "constant" => return constant(call),
        "reflect" => reflected,
        "replicate" => replicated,
        "circular" => wrapped,
        _ => return Err(unsupported("mode", "constant, reflect, replicate or circular")),
    };
    around(call, "pad", border)
}

pub fn reflection(call: &mut Call) -> Result<Value, Fault> {
    around(call, "padding", reflected)
}

pub fn replication(call: &mut Call) -> Result<Value, Fault> {
    around(call, "padding", replicated)
}

/// Widths (before, after) of the axes they are given for, with these axes.
fn widths(call: &Call, name: &str, rank: usize) -> Result<Vec<(usize, [i64; 2])>, Fault> {
    let pads = call.ints(name)?;
    let wide = 1 << 24;
    if !pads.len().is_multiple_of(2) || pads.len() / 2 > rank || pads.iter().any(|p| !(-wide..wide).contains(p)) {
        return Err(invalid(name, &format!("pairs for at most {rank} axes"), format!("{pads:?}")));
    }
    Ok(pads.chunks_exact(2).enumerate().map(|(k, pair)| (rank - 1 - k, [pair[0], pair[1]])).collect())
}

fn constant(call: &mut Call) -> Result<Value, Fault> {
    let (x, value) = (call.tensor("self")?, call.optional_float("value")?.unwrap_or(0.0));
    let rank = call.b.shape(x).len();
    let (mut y, mut low, mut high) = (x, vec![0; rank], vec![0; rank]);
    for (axis, [before, after]) in widths(call, "pad", rank)? {
        (low[axis], high[axis]) = (before.max(0) as usize, after.max(0) as usize);
        let extent = call.b.shape(y)[axis];
        let (from, cut) = ((-before).max(0) as usize, (-after).max(0) as usize);
        if from + cut > extent {
            return Err(invalid("pad", &format!("cuts of at most {extent}"), format!("{before} and {after}")));
        }
        y = call.b.slice_axis(y, axis, from, extent - cut)?;
    }
    Ok(call.b.pad(y, &low, &high, &vec![0; rank], value)?)
}

fn around(call: &mut Call, name: &str, border: Border) -> Result<Value, Fault> {
    let mut y = call.tensor("self")?;
    let rank = call.b.shape(y).len();
    for (axis, widths) in widths(call, name, rank)? {
        y = pad_with(call.b, y, axis, widths, border)?;
    }
    Ok(y)
}
