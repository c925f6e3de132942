//! A contraction seen as products of matrices: which loops are rows, columns and depth, and where elements are.

use crate::loops::{Blocking, EpiloguePlan, Groups, LoadPlan, Rectangle};
use crate::microkernel::{MicroKernel, micro_kernel};
use gradc_ir::lower::{Access, Affine, Contraction};
use gradc_ir::target::VectorIsa;
use std::ops::Range;

/// Depth of a block: what is summed before it is added to the result. Part of the order of summation.
pub(crate) const DEPTH_BLOCK: usize = 256;

/// Row tiles and column tiles of the largest block.
const ROW_TILES: usize = 20;
const COLUMN_TILES: usize = 16;

/// Sums of the largest block that an epilogue runs on: a part of the second-level cache.
const BLOCK_SUMS: usize = 1 << 15;

/// Row tiles such a block has at least.
const LEAST_ROW_TILES: usize = 4;

/// Multiplications a chunk should have at least, about 20 µs of work.
const CHUNK_PRODUCTS: usize = 1 << 20;

/// Blocks wanted of a product that is large enough, so that threads can share it.
const BLOCKS_WANTED: usize = 8;

/// `outer` products of an `m × k` with a `k × n` matrix, each cut into blocks.
#[derive(Clone, Debug)]
pub(crate) struct ContractionPlan {
    /// Which loops are rows and columns.
    pub groups: Groups,
    /// Number of products.
    pub outer: usize,
    /// Rows and columns of each, and how they are cut.
    pub blocking: Blocking,
    /// Depth of each.
    pub k: usize,
    /// The factor with the rows.
    pub left: Factor,
    /// The factor with the columns.
    pub right: Factor,
    /// Computes tiles.
    pub kernel: MicroKernel,
    /// Blocks a chunk computes one after the other.
    pub blocks_per_chunk: usize,
}

/// Where the elements of a factor are: sums of an offset for the product, for the row or column, and for the depth.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    /// Which operand.
    pub operand: usize,
    /// Offsets of the axes without guards, in elements.
    pub flat: Offsets,
    /// Axes with guards.
    pub guarded: Vec<GuardedAxis>,
    /// Distance between rows (or columns) and between depths, when all are equally far apart and nothing is guarded.
    pub strides: Option<(isize, isize)>,
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

/// What uses a loop of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Left,
    Right,
    Neither,
}

impl ContractionPlan {
    /// Plans an f32 contraction; `None` where a plain loop nest serves better (few columns, batches innermost).
    pub fn new(contraction: &Contraction, isa: VectorIsa) -> Option<ContractionPlan> {
        let space = contraction.space.len();
        let extents = [&contraction.space[..], &contraction.reduce].concat();
        let product = |dims: &[usize]| dims.iter().map(|&d| extents[d]).product::<usize>();
        let classes: Vec<Class> = (0..space).map(|d| class_of(contraction, d, extents[d])).collect();
        let (groups, columns_are) = split_space(&classes, &contraction.space)?;
        let range = |from: usize, to: usize| (from..to).collect::<Vec<usize>>();
        let (outers, rows) = (range(0, groups.first_row), range(groups.first_row, groups.first_column));
        let (columns, depth) = (range(groups.first_column, space), range(space, extents.len()));
        let [outer, m, n, k] = [&outers, &rows, &columns, &depth].map(|d| product(d));
        if !pays(m, n, k) || outer == 0 {
            return None;
        }
        let (left, right) = match columns_are {
            Class::Left => (&contraction.rhs, &contraction.lhs),
            _ => (&contraction.lhs, &contraction.rhs),
        };
        let factor = |access: &Access, free: &[usize]| Factor::new(access, &extents, [&outers, free, &depth]);
        let kernel = micro_kernel(isa);
        let (left, right) = (factor(left, &rows)?, factor(right, &columns)?);
        let blocking = Blocking { m, n, rows: m, columns: n };
        Some(ContractionPlan { groups, outer, blocking, k, left, right, kernel, blocks_per_chunk: 1 })
    }

    /// Cuts the products into blocks and these into chunks, for the epilogue that runs on each block.
    pub fn cut(&mut self, epilogue: Option<&EpiloguePlan>) {
        let Blocking { m, n, .. } = self.blocking;
        let largest = match epilogue {
            None => (self.kernel.rows * ROW_TILES, self.kernel.columns * COLUMN_TILES),
            Some(_) => {
                // Long rows: an epilogue reads and writes several arrays, which memory serves best in long runs.
                let columns =
                    n.next_multiple_of(self.kernel.columns).min(BLOCK_SUMS / (LEAST_ROW_TILES * self.kernel.rows));
                (BLOCK_SUMS / columns, columns)
            }
        };
        let (rows, columns) = block_size(&self.kernel, self.outer, [m, n, self.k], largest);
        let divisible = epilogue.is_none_or(EpiloguePlan::has_divisible_columns);
        self.blocking = Blocking { m, n, rows: rows.min(m), columns: if divisible { columns.min(n) } else { n } };
        let per_sum = self.k + epilogue.map_or(0, EpiloguePlan::cost_per_point);
        let products = self.blocking.rows * self.blocking.columns * per_sum;
        self.blocks_per_chunk = (CHUNK_PRODUCTS / products.max(1)).max(1);
    }

    /// Blocks along the rows and along the columns of one product.
    pub fn grid(&self) -> (usize, usize) {
        (self.blocking.m.div_ceil(self.blocking.rows), self.blocking.n.div_ceil(self.blocking.columns))
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.outer * self.grid().0 * self.grid().1
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        self.blocks().div_ceil(self.blocks_per_chunk)
    }

    /// The block with this number; blocks of one product follow each other by rows.
    pub fn block_at(&self, at: usize) -> Block {
        let (down, across) = self.grid();
        let Blocking { m, n, rows, columns } = self.blocking;
        let (outer, at) = (at / (down * across), at % (down * across));
        let (i, j) = (at / across, at % across);
        Block { outer, rows: i * rows..m.min((i + 1) * rows), columns: j * columns..n.min((j + 1) * columns) }
    }

    /// Floats of work space for packed parts of the left and of the right factor.
    pub fn scratch(&self) -> [usize; 2] {
        let depth = self.k.min(DEPTH_BLOCK);
        let Blocking { rows, columns, .. } = self.blocking;
        let (rows, columns) = (rows.next_multiple_of(self.kernel.rows), columns.next_multiple_of(self.kernel.columns));
        let packed = |needed: bool, floats: usize| if needed { floats.next_multiple_of(16) } else { 0 };
        [packed(!self.left.is_direct(), rows * depth), packed(!self.right.has_contiguous_columns(), columns * depth)]
    }

    /// Floats of work space for the sums of a block.
    pub fn sums(&self) -> usize {
        self.blocking.rows * self.blocking.row_stride()
    }
}

/// Rows and columns of one of the products.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub outer: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Block {
    /// The block as native code is told of it; `sums` is where row 0 and column 0 of the product would be.
    pub fn rectangle(&self, sums: *const f32) -> Rectangle {
        let ends = |range: &Range<usize>| [range.start, range.end];
        Rectangle { sums, outer: self.outer, rows: ends(&self.rows), columns: ends(&self.columns) }
    }
}

fn pays(m: usize, n: usize, k: usize) -> bool {
    m >= 2 && n >= 8 && k >= 1 && m.saturating_mul(n).saturating_mul(k) >= 512
}

/// Rows and columns of a block: as large as the second-level cache holds, smaller where threads would lack work.
fn block_size(
    kernel: &MicroKernel,
    outer: usize,
    [m, n, k]: [usize; 3],
    (rows, columns): (usize, usize),
) -> (usize, usize) {
    let mut rows = rows.min(m).next_multiple_of(kernel.rows);
    let mut columns = columns.min(n).next_multiple_of(kernel.columns);
    let blocks = |rows: usize, columns: usize| outer * m.div_ceil(rows) * n.div_ceil(columns);
    while blocks(rows, columns) < BLOCKS_WANTED && rows * columns * k > 2 * CHUNK_PRODUCTS {
        if columns > rows && columns > 2 * kernel.columns {
            columns = (columns / 2).next_multiple_of(kernel.columns);
        } else if rows > 2 * kernel.rows {
            rows = (rows / 2).next_multiple_of(kernel.rows);
        } else {
            break;
        }
    }
    (rows, columns)
}

fn class_of(contraction: &Contraction, dim: usize, extent: usize) -> Class {
    let uses = |a: &Access| extent > 1 && a.indices.iter().any(|i| i.affine.coeffs.get(dim).is_some_and(|&c| c != 0));
    match (uses(&contraction.lhs), uses(&contraction.rhs)) {
        (true, false) => Class::Left,
        (false, true) => Class::Right,
        _ => Class::Neither,
    }
}

/// The innermost loops of one factor are columns, those of the other before them rows, all further out is repeated.
fn split_space(classes: &[Class], extents: &[usize]) -> Option<(Groups, Class)> {
    let last = (0..classes.len()).rev().find(|&d| extents[d] != 1)?;
    let columns_are = classes[last];
    let rows_are = match columns_are {
        Class::Left => Class::Right,
        Class::Right => Class::Left,
        Class::Neither => return None,
    };
    let run = |end: usize, class: Class| {
        (0..end).rev().find(|&d| extents[d] != 1 && classes[d] != class).map_or(0, |d| d + 1)
    };
    let first_column = run(classes.len(), columns_are);
    Some((Groups { first_row: run(first_column, rows_are), first_column }, columns_are))
}

impl Factor {
    fn new(access: &Access, extents: &[usize], [outer, free, depth]: [&[usize]; 3]) -> Option<Factor> {
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
        let strides = step_of(&flat.free).zip(step_of(&flat.depth)).filter(|_| guarded.is_empty());
        let runs = find_runs(&flat, &guarded);
        Some(Factor { operand: access.operand, flat, guarded, strides, runs })
    }

    /// Whether micro-kernels can read rows of it where they are.
    pub fn is_direct(&self) -> bool {
        self.strides.is_some()
    }

    /// Whether micro-kernels can read columns of it where they are.
    pub fn has_contiguous_columns(&self) -> bool {
        self.strides.is_some_and(|(free, _)| free == 1)
    }
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
