//! What each loop of a contraction is: column, row, depth, or repetition of the product.

use super::factor::step;
use crate::loops::{Groups, LoadPlan};
use gradc_ir::lower::Contraction;

/// Fewest columns, unless there is one because rows are the innermost loop.
const FEWEST_COLUMNS: usize = 2;

/// Most rows that share tables.
const MOST_ROWS: usize = 1 << 14;

/// The loops of a contraction by what they do, and its two factors. Loops of one trip are in no list.
#[derive(Clone, Debug)]
pub(super) struct Roles {
    /// Trip counts of all loops: the space, then what is summed over.
    pub extents: Vec<usize>,
    /// The factor with the rows.
    pub left: LoadPlan,
    /// The factor with the columns, which are contiguous in it and never guarded.
    pub right: LoadPlan,
    /// The left factor has the columns too.
    pub lanewise: bool,
    /// Loops that repeat the product.
    pub outer: Vec<usize>,
    /// Loops over rows.
    pub rows: Vec<usize>,
    /// The innermost loops of the space; none where there is one column.
    pub columns: Vec<usize>,
    /// The loop summed over in runs.
    pub run: Option<usize>,
    /// The other loops summed over.
    pub lines: Vec<usize>,
    /// Elements of the left factor that are one depth.
    depths: usize,
}

pub(super) fn guards(load: &LoadPlan, dim: usize) -> bool {
    load.axes.iter().any(|a| a.index.affine.coeffs[dim] != 0)
}

pub(super) fn uses(load: &LoadPlan, dim: usize) -> bool {
    load.flat.coeffs[dim] != 0 || guards(load, dim)
}

impl Roles {
    /// The roles of the loops; `None` where tables of rows do not serve: nothing is windowed, or the columns are not
    /// contiguous, `depths` elements each. While there are less than `few` rows, loops without guards are rows too; a
    /// loop over `neighbours` in the left factor always is.
    pub fn new(contraction: &Contraction, few: usize, neighbours: bool, depths: usize) -> Option<Roles> {
        let extents = [&contraction.space[..], &contraction.reduce].concat();
        let space: Vec<usize> = (0..contraction.space.len()).filter(|&d| extents[d] != 1).collect();
        let [lhs, rhs] = [&contraction.lhs, &contraction.rhs].map(|access| LoadPlan::new(access, &extents));
        let last = *space.last()?;
        // Windows that slide along the innermost loop are rows: of one column.
        let slides = |window: &LoadPlan, other: &LoadPlan| guards(window, last) && other.axes.is_empty();
        let one_column = slides(&lhs, &rhs) || slides(&rhs, &lhs);
        let (left, right, lanewise) = match (uses(&lhs, last), uses(&rhs, last)) {
            (true, false) if one_column => (lhs, rhs, false),
            (false, true) if one_column => (rhs, lhs, false),
            (true, true) if lhs.axes.is_empty() && !rhs.axes.is_empty() => (rhs, lhs, true),
            (true, true) => (lhs, rhs, true),
            (true, false) => (rhs, lhs, false),
            (false, true) => (lhs, rhs, false),
            (false, false) => return None,
        };
        let columns = columns(&space, &extents, (&left, &right), lanewise, depths);
        let others = &space[..space.len() - columns.len()];
        let rows = rows(others, &extents, (few, neighbours), &left, &right);
        let outer = others.iter().copied().filter(|d| !rows.contains(d)).collect();
        let depth: Vec<usize> = (contraction.space.len()..extents.len()).filter(|&d| extents[d] != 1).collect();
        let run = run(&depth, &extents, &left, &right);
        let lines = depth.into_iter().filter(|&d| Some(d) != run).collect();
        let roles = Roles { extents, left, right, lanewise, outer, rows, columns, run, lines, depths };
        let has_columns = roles.count(&roles.columns) >= FEWEST_COLUMNS || one_column && !roles.lanewise;
        (has_columns && roles.is_windowed()).then_some(roles)
    }

    /// Where rows and columns begin, when the loops that repeat the product come before all rows.
    pub fn groups(&self) -> Option<Groups> {
        let (&first_row, &last_row) = (self.rows.first()?, self.rows.last()?);
        let &first_column = self.columns.first()?;
        let apart = last_row < first_column && self.outer.iter().all(|&d| d < first_row);
        apart.then_some(Groups { first_row, first_column })
    }

    /// Number of iterations of some loops.
    pub fn count(&self, dims: &[usize]) -> usize {
        dims.iter().map(|&d| self.extents[d]).product()
    }

    /// Trip count of the run.
    pub fn depth(&self) -> usize {
        self.run.map_or(1, |d| self.extents[d])
    }

    /// Whether tables are worth it: otherwise the rows, or the depths, are equally far apart.
    fn is_windowed(&self) -> bool {
        let guarded = !self.left.axes.is_empty() || !self.right.axes.is_empty();
        let neighbours = |dims: &[usize]| dims.last().is_some_and(|&d| self.left.flat.coeffs[d] == 1);
        let depth: Vec<usize> = self.lines.iter().copied().chain(self.run).collect();
        let even = is_even(&self.left, &self.rows, &self.extents) && is_even(&self.left, &depth, &self.extents);
        let close = step(&self.left, self.run) == self.depths as i64 || neighbours(&self.rows);
        guarded || self.lanewise || (!even && close)
    }
}

/// Whether an unguarded factor advances by one distance over all values of some loops.
fn is_even(load: &LoadPlan, dims: &[usize], extents: &[usize]) -> bool {
    let mut sorted: Vec<(i64, usize)> = dims.iter().map(|&d| (load.flat.coeffs[d], extents[d])).collect();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[1].0 == pair[0].0 * pair[0].1 as i64)
}

/// The longest run of innermost loops that are one contiguous row of the right factor, and of the left if lanewise.
fn columns(
    space: &[usize],
    extents: &[usize],
    (left, right): (&LoadPlan, &LoadPlan),
    lanewise: bool,
    depths: usize,
) -> Vec<usize> {
    let (mut stride, mut found) = (depths as i64, vec![]);
    for &d in space.iter().rev() {
        let contiguous = |load: &LoadPlan| load.flat.coeffs[d] == stride && !guards(load, d);
        if !contiguous(right) || if lanewise { !contiguous(left) } else { uses(left, d) } {
            break;
        }
        stride *= extents[d] as i64;
        found.insert(0, d);
    }
    found
}

/// The loops of the left factor alone: all that move a guard, but for outer ones of large images, with neighbours those
/// along which it is contiguous, and further ones from the innermost out while rows are few.
fn rows(
    others: &[usize],
    extents: &[usize],
    (few, neighbours): (usize, bool),
    left: &LoadPlan,
    right: &LoadPlan,
) -> Vec<usize> {
    let all: Vec<usize> = others.iter().copied().filter(|&d| uses(left, d) && !uses(right, d)).collect();
    let always = |d: usize| guards(left, d) || (neighbours && left.flat.coeffs[d] == 1);
    let mut rows: Vec<usize> = all.iter().copied().filter(|&d| always(d)).collect();
    let count = |rows: &[usize]| rows.iter().map(|&d| extents[d]).product::<usize>();
    while rows.len() > 1 && count(&rows) > MOST_ROWS {
        rows.remove(0);
    }
    for &d in all.iter().rev().filter(|&&d| !always(d)) {
        let count: usize = rows.iter().map(|&d| extents[d]).product();
        if count < few && count * extents[d] <= MOST_ROWS {
            rows.push(d);
        }
    }
    rows.sort_unstable();
    rows
}

/// The loop along which the left factor's elements are closest.
fn run(depth: &[usize], extents: &[usize], left: &LoadPlan, right: &LoadPlan) -> Option<usize> {
    let divided =
        |load: &LoadPlan, d: usize| load.axes.iter().any(|a| a.index.divisor != 1 && a.index.affine.coeffs[d] != 0);
    let candidates = depth.iter().copied().filter(|&d| !divided(left, d) && !divided(right, d));
    candidates.min_by_key(|&d| (step(left, Some(d)).abs(), std::cmp::Reverse(extents[d])))
}
