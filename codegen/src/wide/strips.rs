//! Which loops of a kernel are strips, and what each of these is.

use super::body::{StreamSource, Strip, Translator};
use super::code::{Combination, Element, Shape};
use super::layouts::fits_registers;
use crate::loops::{BodyPlan, LoopPlan, LoopSet, Reduction, Which};
use gradc_ir::lower::Scalar;
use gradc_ir::types::DType;

/// Shortest loop that is made a strip, in points: below, calls cost what wider vectors gain.
const SHORTEST: usize = 16;

/// Longest loop that is made a strip together with the loop around it, in points: above, calls cost little.
const LONGEST_IN_ROWS: usize = 64;

/// Columns whose partial results are kept at a time: 8 KiB in f64.
pub(crate) const COLUMNS: usize = 1024;

/// Bytes of an operand that are read before its next columns are: so few that what processors fetch ahead of one block of
/// columns is there when the next is read.
const TILE_BYTES: usize = 6 << 10;

/// Rows that are always combined before partial results go to memory.
const FEWEST_ROWS: usize = 16;

/// The vector loop of a kernel without accumulation; `ahead` is the loop whose next trip reads what should be in the cache by
/// then.
pub(crate) fn map(plan: &LoopPlan, ahead: Option<usize>) -> Option<Strip> {
    let mut translator = Translator::new(plan, Which::Point, Shape::Map, SHORTEST)?;
    translator.ahead = ahead;
    translator.stores()?;
    Some(translator.finish())
}

/// The vector loop of a kernel without accumulation, and the loop around it, where the vector loop is short.
pub(crate) fn rows(plan: &LoopPlan) -> Option<Strip> {
    let vector = plan.vector.filter(|&v| plan.extents[v] <= LONGEST_IN_ROWS)?;
    let row = vector.checked_sub(1)?;
    if plan.extents[vector] >= SHORTEST && computes_by_row(&plan.body, row, vector) {
        return None;
    }
    let mut translator = Translator::new(plan, Which::Point, Shape::Rows { points: plan.extents[vector] }, 1)?;
    translator.row = Some(row);
    translator.stores()?;
    let strip = translator.finish();
    fits_registers(&strip.code).then_some(strip)
}

/// Whether something is computed that changes from row to row but not along one: better once per row than at each vector.
fn computes_by_row(body: &BodyPlan, row: usize, vector: usize) -> bool {
    let by_row = |loops: LoopSet| loops & (1 << row) != 0 && loops & (1 << vector) == 0;
    let computed = body.scalars.iter().map(|(s, _)| !matches!(s, Scalar::Load(_) | Scalar::LoopIndex(_)));
    computed.zip(&body.loops).any(|(computed, &loops)| computed && by_row(loops))
}

/// The vector loop of the accumulation of a value, by position, along its innermost loop.
pub(crate) fn row(plan: &LoopPlan, number: usize) -> Option<Strip> {
    let reduction = plan.reduction.as_ref()?;
    let combination = Combination { values: 1, ..combination(plan, reduction) };
    let mut translator = Translator::new(plan, Which::Reduced, Shape::Row(combination), SHORTEST)?;
    translator.combine_vectors(combination, &reduction.values[number..=number])?;
    Some(translator.finish_with_tail())
}

/// The vector loop of an accumulation along rows of few points, and the loop over these: rows into one result each, and the
/// points from these.
pub(crate) fn short_rows(plan: &LoopPlan) -> Option<(Strip, Strip)> {
    let (reduction, &[points], row) = (plan.reduction.as_ref()?, plan.reduced(), plan.space.checked_sub(1)?) else {
        return None;
    };
    if plan.vector != Some(plan.space) || points > LONGEST_IN_ROWS || plan.is_long_sum() {
        return None;
    }
    let combination = combination(plan, reduction);
    let shape = Shape::ShortRows { combination, points };
    let mut translator = Translator::new(plan, Which::Reduced, shape, 1)?;
    translator.row = Some(row);
    for value in 0..combination.values {
        translator.stream(StreamSource::Sums(value), Element::RowFloat, DType::F32.size_bytes() as i32);
    }
    translator.combine_vectors(combination, &reduction.values)?;
    let accumulation = translator.finish_with_tail();
    let mut translator = Translator::along(row, plan, Which::Point, Shape::Map)?;
    translator.accumulated = Some(combination);
    translator.sums(combination);
    translator.stores()?;
    fits_registers(&accumulation.code).then(|| (accumulation, translator.finish()))
}

/// The vector loop of an accumulation along the space: rows into partial results, and the points from these.
pub(crate) fn columns(plan: &LoopPlan) -> Option<(Strip, Strip)> {
    let reduction = plan.reduction.as_ref()?;
    let combination = combination(plan, reduction);
    let &rows = plan.reduced().last()?;
    let continued = plan.reduced().len() > 1 || rows > rows_at_a_time(plan);
    let shape = Shape::Columns { combination, sums: 0, continued };
    let mut translator = Translator::new(plan, Which::Reduced, shape, 1)?;
    translator.row = Some(plan.extents.len() - 1);
    translator.sums(combination);
    for (number, &value) in reduction.values.iter().enumerate() {
        let value = translator.value(value)?;
        translator.combine(combination, number, value);
    }
    if combination.long {
        translator.rows_together(combination, &reduction.values)?;
    }
    let accumulation = translator.finish();
    let mut translator = Translator::new(plan, Which::Point, Shape::Map, 1)?;
    translator.accumulated = Some(combination);
    translator.sums(combination);
    translator.stores()?;
    fits_registers(&accumulation.code).then(|| (accumulation, translator.finish()))
}

/// Rows that are combined while their elements are in the first cache, block of columns after block.
pub(crate) fn rows_at_a_time(plan: &LoopPlan) -> usize {
    let columns = plan.vector.map_or(1, |v| plan.extents[v]).min(COLUMNS);
    (TILE_BYTES / (4 * columns)).max(FEWEST_ROWS)
}

fn combination(plan: &LoopPlan, reduction: &Reduction) -> Combination {
    Combination { combine: reduction.combine, long: plan.is_long_sum(), values: reduction.values.len() }
}
