//! What is known of the constants of a model: which values fill matrices outside of a band.

use super::fact::{Axes, Fact, Known};
use gradc_ir::band::{Band, LoopBand};
use gradc_ir::lower::Affine;
use gradc_ir::tensor::{Data, HostTensor, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;

/// Elements of the largest constant that is looked into.
const MOST_ELEMENTS: usize = 1 << 22;

/// What is known of the constants of a model, by name.
#[derive(Clone, Debug, Default)]
pub struct KnownConstants(BTreeMap<String, Fact>);

impl KnownConstants {
    /// Looks into constants; they must be the ones that the compiled step is run with.
    pub fn of<'a>(constants: impl IntoIterator<Item = (&'a str, &'a HostTensor)>) -> Self {
        KnownConstants(constants.into_iter().map(|(name, tensor)| (name.to_string(), fact(tensor))).collect())
    }

    pub(super) fn fact(&self, name: &str) -> Option<Fact> {
        self.0.get(name).cloned()
    }
}

fn fact(tensor: &HostTensor) -> Fact {
    if tensor.ty().elements() > MOST_ELEMENTS {
        return Fact::anything();
    }
    let tensor = tensor.to_tensor();
    let values: Vec<f64> = match &tensor.data {
        Data::Float(values) => values.clone(),
        Data::Int(values) => values.iter().map(|&v| v as f64).collect(),
    };
    let uniform = values.first().copied().filter(|first| values.iter().all(|v| v == first));
    let suspect = values.iter().any(|v| !v.is_finite()).then_some(Axes::ALL);
    Fact { uniform, line: line(&tensor), known: known(&tensor.ty.shape, &values), suspect, ..Fact::finite() }
}

/// Integers along one axis at equal distances.
fn line(tensor: &Tensor) -> Option<Affine> {
    let Data::Int(values) = &tensor.data else { return None };
    let mut long = (0..tensor.ty.rank()).filter(|&axis| tensor.ty.shape[axis] > 1);
    let (axis, None) = (long.next()?, long.next()) else { return None };
    let step = values[1].checked_sub(values[0])?;
    let is_line = values.windows(2).all(|w| w[1].checked_sub(w[0]) == Some(step));
    is_line.then(|| Affine::constant(tensor.ty.rank(), values[0]).plus(axis, step))
}

/// The values in the corners of the innermost matrices, if bands separate these from the others.
fn known(shape: &[usize], values: &[f64]) -> Vec<Known> {
    let mut long = (0..shape.len()).rev().filter(|&axis| shape[axis] > 1);
    let (Some(column), Some(row)) = (long.next(), long.next()) else { return vec![] };
    let (rows, columns) = (shape[row], shape[column]);
    let [upper, lower] = [values[columns - 1], values[(rows - 1) * columns]];
    let corners = if upper == lower { vec![upper] } else { vec![upper, lower] };
    let around = |value: f64| {
        let mut ranges: Vec<Range<usize>> = vec![columns..0; rows];
        for (at, _) in values.iter().enumerate().filter(|(_, v)| **v != value) {
            let (range, column) = (&mut ranges[at / columns % rows], at % columns);
            *range = range.start.min(column)..range.end.max(column + 1);
        }
        let band = Band::new(ranges, columns)?;
        Some(Known { value, within: LoopBand { row, column, band } })
    };
    corners.into_iter().filter_map(around).collect()
}
