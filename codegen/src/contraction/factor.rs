//! Where the elements of a factor are: tables and strides made when compiling.

use crate::loops::LoadPlan;
use gradc_ir::lower::{Access, Affine};

/// Where the elements of a factor are: sums of an offset for the product, for the row or column, and for the depth.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    /// Which operand.
    pub operand: usize,
    /// Offsets of the axes without guards, in elements.
    pub flat: Offsets,
    /// Axes with guards.
    pub guarded: Vec<GuardedAxis>,
    /// Distance between rows (or columns), when all are equally far apart and nothing is guarded.
    pub free_step: Option<isize>,
    /// Distance between depths, likewise.
    pub depth_step: Option<isize>,
    /// First row (or column) of each run of neighbouring elements, and at last their number, when nothing is guarded and
    /// runs are long.
    pub free_runs: Option<Vec<usize>>,
    /// The same of depths.
    pub depth_runs: Option<Vec<usize>>,
    /// Rows or columns in runs of neighbouring elements, when that is how a guarded factor is best read.
    pub runs: Option<Runs>,
}

/// Rows or columns whose elements follow each other in memory.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    /// First of each run, and at last the number of rows or columns.
    pub starts: Vec<usize>,
    /// The guarded axis that advances by 1 along a run.
    pub moving: Option<usize>,
}

/// Mean length from which on runs are read as such.
const LONG_RUN: usize = 4;

/// The same where there are no guards: a vector of 256 bits.
const LONG_UNGUARDED_RUN: usize = 8;

/// The three parts of an index.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    pub outer: Vec<i32>,
    pub free: Vec<i32>,
    pub depth: Vec<i32>,
}

/// An axis that is zero outside `0..extent` and where the division leaves a remainder.
#[derive(Clone, Debug)]
pub(crate) struct GuardedAxis {
    pub index: Offsets,
    pub divisor: i32,
    pub extent: i32,
    pub stride: i32,
}

impl Factor {
    /// Tables of an access under loops of the given extents; `None` when an offset does not fit.
    pub fn new(access: &Access, extents: &[usize], [outer, free, depth]: [&[usize]; 3]) -> Option<Factor> {
        let load = LoadPlan::new(access, extents);
        let tables = |affine: &Affine| {
            Some(Offsets {
                outer: table(affine, affine.base, outer, extents)?,
                free: table(affine, 0, free, extents)?,
                depth: table(affine, 0, depth, extents)?,
            })
        };
        let guarded = load.axes.iter().map(|axis| {
            Some(GuardedAxis {
                index: tables(&axis.index.affine)?,
                divisor: i32::try_from(axis.index.divisor).ok()?,
                extent: i32::try_from(axis.extent).ok()?,
                stride: i32::try_from(axis.stride).ok()?,
            })
        });
        let guarded = guarded.collect::<Option<Vec<_>>>()?;
        let elements: usize = access.view.iter().product();
        let flat = tables(&load.flat).filter(|_| i32::try_from(elements).is_ok())?;
        let [free_step, depth_step] =
            [&flat.free, &flat.depth].map(|table| step_of(table).filter(|_| guarded.is_empty()));
        let [free_runs, depth_runs] =
            [&flat.free, &flat.depth].map(|table| long_runs(table).filter(|_| guarded.is_empty()));
        let runs = find_runs(&flat, &guarded);
        Some(Factor { operand: access.operand, flat, guarded, free_step, depth_step, free_runs, depth_runs, runs })
    }

    /// Distances between rows (or columns) and between depths, when the factor is a matrix that can be read in place.
    pub fn strides(&self) -> Option<(isize, isize)> {
        self.free_step.zip(self.depth_step)
    }

    /// The element with these three indices of a factor without guards that begins at `base`.
    pub fn first(&self, base: *const f32, outer: usize, free: usize, depth: usize) -> *const f32 {
        base.wrapping_offset(self.first_offset(outer, free, depth))
    }

    /// Its offset, in elements.
    pub fn first_offset(&self, outer: usize, free: usize, depth: usize) -> isize {
        (self.flat.outer[outer] + self.flat.free[free] + self.flat.depth[depth]) as isize
    }
}

/// Where runs of neighbours begin in a table, and its length, when they are long.
fn long_runs(table: &[i32]) -> Option<Vec<usize>> {
    let begins = |&at: &usize| at == 0 || table[at] != table[at - 1] + 1;
    let mut starts: Vec<usize> = (0..table.len()).filter(begins).collect();
    let long = starts.len() == 1 || table.len() >= LONG_UNGUARDED_RUN * starts.len();
    starts.push(table.len());
    long.then_some(starts)
}

fn find_runs(flat: &Offsets, guarded: &[GuardedAxis]) -> Option<Runs> {
    let moving = guarded.iter().position(|a| a.stride == 1 && step_changes(&a.index.free));
    let continues = |at: usize| {
        let step = |table: &[i32]| table[at] - table[at - 1];
        let expected = |axis: usize| i32::from(moving == Some(axis));
        step(&flat.free) == i32::from(moving.is_none())
            && guarded.iter().enumerate().all(|(axis, a)| step(&a.index.free) == expected(axis))
    };
    let count = flat.free.len();
    let mut starts: Vec<usize> = (0..count).filter(|&at| at == 0 || !continues(at)).collect();
    let long = count >= LONG_RUN * starts.len();
    starts.push(count);
    (long && !guarded.is_empty() && guarded.iter().all(|a| a.divisor == 1)).then_some(Runs { starts, moving })
}

fn step_changes(table: &[i32]) -> bool {
    table.iter().any(|v| *v != table[0])
}

/// Values of the affine over some loops, row-major; `None` when one does not fit.
fn table(affine: &Affine, base: i64, dims: &[usize], extents: &[usize]) -> Option<Vec<i32>> {
    let mut values = vec![base];
    for &d in dims {
        let step = affine.coeffs[d];
        values = values.iter().flat_map(|&v| (0..extents[d] as i64).map(move |i| v + i * step)).collect();
    }
    values.into_iter().map(|v| i32::try_from(v).ok()).collect()
}

/// The distance between neighbours, when all are equally far apart.
fn step_of(table: &[i32]) -> Option<isize> {
    let step = table.get(1).map_or(1, |second| second - table[0]);
    table.windows(2).all(|w| w[1] - w[0] == step).then_some(step as isize)
}
