//! Products whose rows are apart in the result, as those of attention are where heads stand between positions and
//! channels.

use super::plan::{class_of, split_space};
use crate::loops::{Groups, Piece};
use gradc_ir::kernel::{Accumulate, LoopKernel};
use gradc_ir::lower::{Access, Affine, Body, Contraction, Scalar};
use gradc_ir::types::row_major_strides;

/// The kernel of a contraction with the loops that repeat its product in front of its rows, each point where it was.
///
/// As it is where that is so anyway, and where rows would not be equally far apart.
pub(crate) fn products_first(kernel: &LoopKernel) -> Piece {
    let whole = Piece::whole(kernel);
    let Some(Accumulate::Contract(contraction)) = &kernel.accumulate else { return whole };
    let Some(order) = order(contraction) else { return whole };
    let space = order.iter().map(|&d| kernel.space[d]).collect::<Vec<usize>>();
    let contraction = arranged(contraction, &order);
    let body = Body { scalars: kernel.body.scalars.iter().map(|(s, d)| (scalar(s, &order), *d)).collect() };
    let accumulate = Some(Accumulate::Contract(contraction));
    let kernel = LoopKernel { space, accumulate, body, stores: kernel.stores.clone() };
    Piece { kernel, result: affine(&whole.result, &order) }
}

/// The loops of the space with those that repeat the product first; `None` where nothing is to be done.
fn order(contraction: &Contraction) -> Option<Vec<usize>> {
    let space = &contraction.space;
    let classes: Vec<_> = (0..space.len()).map(|d| class_of(contraction, d, space[d])).collect();
    let (Groups { first_row, first_column }, columns_are) = split_space(&classes, space)?;
    let has_rows = space[first_row..first_column].iter().any(|&extent| extent > 1);
    let is_row = |d: &usize| space[*d] > 1 && Some(classes[*d]) == columns_are.other();
    let (rows, repeated): (Vec<usize>, Vec<usize>) = (0..first_column).partition(is_row);
    let strides = row_major_strides(space);
    let even = rows.windows(2).all(|d| strides[d[0]] == strides[d[1]] * space[d[1]]);
    let order = [repeated, rows.clone(), (first_column..space.len()).collect()].concat();
    (!has_rows && !rows.is_empty() && even).then_some(order)
}

fn arranged(contraction: &Contraction, order: &[usize]) -> Contraction {
    let place = |dim: usize| order.iter().position(|&d| d == dim).unwrap_or(dim);
    let mut bands = contraction.bands.clone();
    bands.iter_mut().for_each(|band| (band.row, band.column) = (place(band.row), place(band.column)));
    Contraction {
        space: order.iter().map(|&d| contraction.space[d]).collect(),
        reduce: contraction.reduce.clone(),
        lhs: access(&contraction.lhs, order),
        rhs: access(&contraction.rhs, order),
        bands,
    }
}

/// Loops behind those of `order`, which are what is summed over, keep their places.
fn affine(from: &Affine, order: &[usize]) -> Affine {
    let moved = order.iter().map(|&d| from.coeffs.get(d).copied().unwrap_or(0));
    Affine { base: from.base, coeffs: moved.chain(from.coeffs.iter().skip(order.len()).copied()).collect() }
}

fn access(from: &Access, order: &[usize]) -> Access {
    let mut to = from.clone();
    to.indices.iter_mut().for_each(|index| index.affine = affine(&index.affine, order));
    to
}

fn scalar(from: &Scalar, order: &[usize]) -> Scalar {
    match from {
        Scalar::Load(read) => Scalar::Load(access(read, order)),
        Scalar::LoopIndex(dim) => Scalar::LoopIndex(order.iter().position(|d| d == dim).expect("a loop of the space")),
        other => other.clone(),
    }
}
