//! What scalar functions make of what is known of their operands: the rules of the analysis, one table per kind.

use super::fact::{Axes, Fact, Known, aligned};
use gradc_ir::band::{Band, LoopBand};
use gradc_ir::lower::{Affine, BinaryFn, CompareFn, UnaryFn};
use gradc_ir::scalar::Number;
use gradc_ir::types::DType;
use std::ops::Range;

/// Known values kept of one scalar.
const MOST_KNOWN: usize = 4;

/// Most rows of a band that a comparison of indices makes.
const MOST_ROWS: usize = 1 << 16;

/// Integers up to which all are floats.
const EXACT_INTEGERS: i64 = 1 << 24;

/// `f(a)`.
pub(super) fn unary(f: UnaryFn, a: &Fact) -> Fact {
    let known = a.known.iter().filter_map(|k| Some(Known { value: exact(f, k.value)?, ..k.clone() }));
    Fact {
        uniform: a.uniform.and_then(|x| exact(f, x)),
        known: known.collect(),
        varies: a.varies,
        suspect: if may_leave_finite(f) { Some(a.varies) } else { a.suspect },
        line: None,
    }
}

/// `f(x)` where every implementation gives the same bits.
fn exact(f: UnaryFn, x: f64) -> Option<f64> {
    match f {
        UnaryFn::Neg => Some(-x),
        UnaryFn::Abs => Some(x.abs()),
        UnaryFn::Not => Some(1.0 - x),
        UnaryFn::Exp if x == f64::NEG_INFINITY => Some(0.0),
        UnaryFn::Sqrt if x == 0.0 => Some(0.0),
        UnaryFn::Recip if x.is_infinite() => Some(0.0),
        _ => None,
    }
}

/// Whether a finite operand may give what is not finite, other than by being too large.
fn may_leave_finite(f: UnaryFn) -> bool {
    matches!(f, UnaryFn::Log | UnaryFn::Recip | UnaryFn::Sqrt | UnaryFn::Rsqrt)
}

/// `f(a, b)` for operands of this dtype.
pub(super) fn binary(f: BinaryFn, dtype: DType, a: &Fact, b: &Fact) -> Fact {
    let apply = |a: f64, b: f64| {
        let by_zero = f == BinaryFn::Div && b == 0.0;
        let result = f.apply(dtype, number(dtype, a), number(dtype, b)).filter(|_| !by_zero);
        result.and_then(of_number).filter(is_exact)
    };
    let mut known = both_known(a, b, apply);
    known.extend(a.known.iter().filter_map(|k| absorbed_by((f, dtype), Side::Left, k, b)));
    known.extend(b.known.iter().filter_map(|k| absorbed_by((f, dtype), Side::Right, k, a)));
    known.truncate(MOST_KNOWN);
    let own = own_suspect(f, a, b).filter(|_| dtype.is_float());
    Fact {
        uniform: a.uniform.zip(b.uniform).and_then(|(a, b)| apply(a, b)),
        line: lines(f, dtype, a, b),
        known,
        varies: a.varies.union(b.varies),
        suspect: either(own, either(a.suspect, b.suspect)),
    }
}

/// The axes along which finite operands may give what is not finite, other than by being too large.
fn own_suspect(f: BinaryFn, a: &Fact, b: &Fact) -> Option<Axes> {
    match f {
        BinaryFn::Div | BinaryFn::Rem if b.uniform.is_none_or(|b| b == 0.0) => Some(b.varies),
        BinaryFn::Pow => Some(a.varies.union(b.varies)),
        _ => None,
    }
}

/// Values that arithmetic with others like them keeps exact in every dtype.
fn is_exact(value: &f64) -> bool {
    value.is_infinite() || [0.0, 1.0, -1.0].contains(value)
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// What `f` gives where an operand is `value` and the other one finite; for division also other than zero.
fn absorbed(f: BinaryFn, dtype: DType, side: Side, value: f64) -> Option<f64> {
    match (f, side) {
        (BinaryFn::Add, _) | (BinaryFn::Sub, Side::Left) if value.is_infinite() => Some(value),
        (BinaryFn::Sub, Side::Right) if value.is_infinite() => Some(-value),
        (BinaryFn::Mul, _) | (BinaryFn::Div, Side::Left) if value == 0.0 => Some(0.0),
        (BinaryFn::Div, Side::Right) if value.is_infinite() => Some(0.0),
        (BinaryFn::Max, _) if value == f64::INFINITY => Some(value),
        (BinaryFn::Min, _) if value == f64::NEG_INFINITY => Some(value),
        (BinaryFn::And, _) if value == 0.0 => Some(0.0),
        (BinaryFn::Or, _) if value == 1.0 && dtype == DType::Bool => Some(value),
        _ => None,
    }
}

/// What is known of `f` outside of a band although of the other operand nothing is.
///
/// The other operand has to be finite there. One that is the same along a row, or along a column, is met inside of the
/// band as well: were it not finite, that would be seen there.
fn absorbed_by((f, dtype): (BinaryFn, DType), side: Side, known: &Known, other: &Fact) -> Option<Known> {
    let LoopBand { row, column, .. } = known.within;
    let along_both = |axes: Axes| axes.contains(row) && axes.contains(column);
    let may_be_zero = (f, side) == (BinaryFn::Div, Side::Left) && along_both(other.varies);
    let is_finite = other.uniform.is_none() && !other.suspect.is_some_and(along_both) && !may_be_zero;
    Some(Known { value: absorbed(f, dtype, side, known.value).filter(|_| is_finite)?, within: known.within.clone() })
}

/// What is known of a function of two operands where both are known.
fn both_known(a: &Fact, b: &Fact, apply: impl Fn(f64, f64) -> Option<f64>) -> Vec<Known> {
    let mut found = vec![];
    for k in &a.known {
        let value = b.uniform.and_then(|b| apply(k.value, b));
        found.extend(value.map(|value| Known { value, within: k.within.clone() }));
        for other in &b.known {
            let value = apply(k.value, other.value);
            found.extend(value.and_then(|value| outside_both(value, &k.within, &other.within)));
        }
    }
    for k in &b.known {
        let value = a.uniform.and_then(|a| apply(a, k.value));
        found.extend(value.map(|value| Known { value, within: k.within.clone() }));
    }
    found
}

/// A value that is known where two bands have both ended.
fn outside_both(value: f64, a: &LoopBand, b: &LoopBand) -> Option<Known> {
    let band = a.band.join(&aligned(a, b)?)?;
    Some(Known { value, within: LoopBand { band, ..a.clone() } })
}

fn lines(f: BinaryFn, dtype: DType, a: &Fact, b: &Fact) -> Option<Affine> {
    let (a, b) = (a.line.as_ref().filter(|_| !dtype.is_float())?, b.line.as_ref()?);
    let constant = |line: &Affine| line.coeffs.iter().all(|&c| c == 0).then_some(line.base);
    match f {
        BinaryFn::Add => Some(plus(a, b, 1)),
        BinaryFn::Sub => Some(plus(a, b, -1)),
        BinaryFn::Mul => match (constant(a), constant(b)) {
            (_, Some(times)) => Some(plus(&Affine::constant(a.coeffs.len(), 0), a, times)),
            (Some(times), _) => Some(plus(&Affine::constant(b.coeffs.len(), 0), b, times)),
            _ => None,
        },
        _ => None,
    }
}

/// `a + times · b`.
fn plus(a: &Affine, b: &Affine, times: i64) -> Affine {
    let coeffs = a.coeffs.iter().zip(&b.coeffs).map(|(a, b)| a.wrapping_add(b.wrapping_mul(times)));
    Affine { base: a.base.wrapping_add(b.base.wrapping_mul(times)), coeffs: coeffs.collect() }
}

/// `a ⋈ b` in loops of these extents.
pub(super) fn compare(f: CompareFn, a: &Fact, b: &Fact, extents: &[usize]) -> Fact {
    let holds = |a: f64, b: f64| Some(f64::from(u8::from(f.holds(a, b))));
    let difference = a.line.as_ref().zip(b.line.as_ref()).map(|(a, b)| plus(a, b, -1));
    let mut known = both_known(a, b, holds);
    known.extend(difference.iter().flat_map(|difference| bands_of_comparison(f, difference, extents)));
    known.truncate(MOST_KNOWN);
    let uniform = a.uniform.zip(b.uniform).and_then(|(a, b)| holds(a, b));
    Fact { uniform, line: None, known, varies: a.varies.union(b.varies), suspect: None }
}

/// Where a comparison of an affine function of two loops with zero is known not to hold, and where to hold.
fn bands_of_comparison(f: CompareFn, difference: &Affine, extents: &[usize]) -> Vec<Known> {
    let moving: Vec<usize> = (0..extents.len()).filter(|&d| difference.coeffs[d] != 0 && extents[d] > 1).collect();
    let [row, column] = moving[..] else { return vec![] };
    let (rows, columns) = (extents[row], extents[column]);
    if rows.max(columns) > MOST_ROWS {
        return vec![];
    }
    let [by_row, by_column] = [row, column].map(|d| difference.coeffs[d]);
    let start = |row: usize| difference.base + by_row * row as i64;
    let holds = (0..rows).map(|row| columns_where(f, start(row), by_column, columns));
    let (holds, fails): (Vec<Range<usize>>, Vec<Range<usize>>) = holds
        .map(|holds| (holds.clone(), rest_of(&holds, columns)))
        .map(|(a, b)| if f == CompareFn::Ne { (b, a) } else { (a, b) })
        .unzip();
    let known =
        |value: f64, ranges| Some(Known { value, within: LoopBand { row, column, band: Band::new(ranges, columns)? } });
    [known(0.0, holds), known(1.0, fails)].into_iter().flatten().collect()
}

/// The columns in which `start + step · column ⋈ 0` holds; for `≠`, those in which it does not.
fn columns_where(f: CompareFn, start: i64, step: i64, columns: usize) -> Range<usize> {
    let at = |column: usize| start + step * column as i64;
    let first = |is: &dyn Fn(i64) -> bool| first_where(columns, |column| is(at(column)));
    match (f, step > 0) {
        (CompareFn::Lt | CompareFn::Le, true) | (CompareFn::Gt | CompareFn::Ge, false) => {
            0..first(&|value| !f.holds(value, 0))
        }
        (CompareFn::Lt | CompareFn::Le, false) | (CompareFn::Gt | CompareFn::Ge, true) => {
            first(&|value| f.holds(value, 0))..columns
        }
        (CompareFn::Eq | CompareFn::Ne, up) => {
            let zero = first(&|value| if up { value >= 0 } else { value <= 0 });
            zero..if zero < columns && at(zero) == 0 { zero + 1 } else { zero }
        }
    }
}

/// The first of so many columns from which on something holds.
fn first_where(columns: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, columns);
    while low < high {
        let middle = usize::midpoint(low, high);
        (low, high) = if holds(middle) { (low, middle) } else { (middle + 1, high) };
    }
    low
}

/// The smallest range of columns that contains those outside of one.
fn rest_of(range: &Range<usize>, columns: usize) -> Range<usize> {
    match (range.start, range.end) {
        (start, end) if start == end => 0..columns,
        (0, end) => end..columns,
        (start, end) if end == columns => 0..start,
        _ => 0..columns,
    }
}

/// `condition ? a : b`.
pub(super) fn select(condition: &Fact, a: &Fact, b: &Fact) -> Fact {
    let mut known = vec![];
    for k in &condition.known {
        let chosen = if k.value == 0.0 { b } else { a };
        known.extend(chosen.uniform.map(|value| Known { value, within: k.within.clone() }));
        known.extend(chosen.known.iter().filter_map(|other| outside_both(other.value, &k.within, &other.within)));
    }
    let same = |a: f64, b: f64| (a == b).then_some(a);
    known.extend(both_known(a, b, same));
    known.truncate(MOST_KNOWN);
    let uniform = match condition.uniform {
        Some(0.0) => b.uniform,
        Some(_) => a.uniform,
        None => a.uniform.zip(b.uniform).and_then(|(a, b)| same(a, b)),
    };
    let varies = condition.varies.union(a.varies).union(b.varies);
    let suspect = either(a.suspect, b.suspect).map(|axes| axes.union(condition.varies));
    Fact { uniform, line: None, known, varies, suspect }
}

/// A conversion to another dtype, inside of loops of these extents.
pub(super) fn cast(to: DType, a: &Fact, extents: &[usize]) -> Fact {
    let exact = |x: f64| match to {
        DType::Bool => Some(f64::from(u8::from(x != 0.0))),
        _ if to.is_float() || x.is_finite() => Some(x).filter(is_exact).filter(|x| *x >= 0.0 || to != DType::U8),
        _ => None,
    };
    let known = a.known.iter().filter_map(|k| Some(Known { value: exact(k.value)?, ..k.clone() }));
    let keeps_lines = !matches!(to, DType::Bool | DType::U8);
    Fact {
        uniform: a.uniform.and_then(exact),
        known: known.collect(),
        line: a.line.clone().filter(|line| keeps_lines && is_small(line, extents)),
        ..a.clone()
    }
}

fn is_small(line: &Affine, extents: &[usize]) -> bool {
    let far = |(&coeff, &extent): (&i64, &usize)| coeff.saturating_mul(extent as i64).saturating_abs();
    let farthest = line.coeffs.iter().zip(extents).map(far).fold(line.base.saturating_abs(), i64::saturating_add);
    farthest <= EXACT_INTEGERS
}

fn either(a: Option<Axes>, b: Option<Axes>) -> Option<Axes> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.union(b)),
        (a, b) => a.or(b),
    }
}

fn number(dtype: DType, value: f64) -> Number {
    if dtype.is_float() { Number::Float(value) } else { Number::Int(value as i64) }
}

fn of_number(number: Number) -> Option<f64> {
    match number {
        Number::Float(value) => Some(value),
        Number::Int(value) => (value.unsigned_abs() < 1 << 53).then_some(value as f64),
    }
}
