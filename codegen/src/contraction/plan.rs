//! A contraction seen as products of matrices: which loops are rows, columns and depth, and where elements are.

use super::blocking::parts;
use super::bounds::Bounds;
use super::direct::Direct;
use super::factor::Factor;
use crate::backend::Library;
use crate::loops::{Blocking, Groups, Rectangle};
use crate::microkernel::{MicroKernel, dot_kernel, micro_kernel};
use gradc_ir::lower::{Access, Affine, Contraction};
use gradc_ir::target::{LEAST_TILED_PRODUCT, VectorIsa};
use std::ops::Range;

/// `outer` products of an `m × k` with a `k × n` matrix, each cut into blocks.
#[derive(Clone, Debug)]
pub(crate) struct ContractionPlan {
    /// Which loops are rows and columns.
    pub groups: Groups,
    /// Number of products.
    pub outer: usize,
    /// Where the sums of each product begin in the result, in elements.
    pub products_at: Vec<usize>,
    /// From one row of a product to the next in the result, in elements.
    pub result_row: usize,
    /// Rows and columns of each, and how they are cut.
    pub blocking: Blocking,
    /// Depth of each.
    pub k: usize,
    /// The factor with the rows.
    pub left: Factor,
    /// The factor with the columns.
    pub right: Factor,
    /// Instructions that micro-kernels may use.
    pub isa: VectorIsa,
    /// Computes tiles.
    pub kernel: MicroKernel,
    /// Which products count, if not all do.
    pub bounds: Option<Bounds>,
    /// Whether a library computes the blocks, not tiles.
    pub by_library: bool,
    /// Whether the rows of the products are the columns of the result.
    pub turned: bool,
    /// Where the rows of a block's sums begin, when they are to be turned.
    pub row_offsets: Vec<i32>,
    /// Where the tiles are, if that is known beforehand.
    pub direct: Option<Direct>,
    /// Where tiles read the left and the right factor.
    pub layouts: [Layout; 2],
    /// Whether tiles bring what those of the next columns read of the right factor into the cache.
    pub reads_ahead: bool,
    /// Blocks along the rows and along the columns of one product.
    pub grid: (usize, usize),
    /// Blocks a chunk computes one after the other.
    pub blocks_per_chunk: usize,
    /// How rows are grouped in blocks of all rows but the last, and in the last block of a product.
    pub row_groups: [Vec<RowGroup>; 2],
    /// The depths that are summed one after the other.
    pub depths: Vec<Range<usize>>,
    /// Parts of the depths, equally many in each, that are summed by themselves: one chunk each.
    pub depth_parts: usize,
    /// Work space.
    pub floats: WorkSpace,
}

/// Rows of a block that are packed together; counted from the block's first row.
#[derive(Clone, Debug)]
pub(crate) struct RowGroup {
    pub rows: Range<usize>,
    /// The rows of each tile: equally many, because a tile of few rows does not fill the processor.
    pub tiles: Vec<Range<usize>>,
    /// How many tiles have as many rows as the first; those that follow have one row less.
    pub taller: usize,
}

impl RowGroup {
    /// Rows that are packed and computed together, in so many tiles.
    pub fn new(rows: Range<usize>, tiles: usize) -> RowGroup {
        let tiles: Vec<Range<usize>> = parts(rows.clone(), tiles).collect();
        let taller = tiles.iter().take_while(|tile| tile.len() == tiles[0].len()).count();
        RowGroup { rows, tiles, taller }
    }

    /// Rows that are packed and computed together, in tiles of so many and one of the rest.
    pub fn in_tiles_of(rows: Range<usize>, most: usize) -> RowGroup {
        let tiles: Vec<Range<usize>> =
            rows.clone().step_by(most).map(|first| first..rows.end.min(first + most)).collect();
        RowGroup { taller: rows.len() / most, rows, tiles }
    }

    /// The tiles in runs of equally many rows.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let runs = [0..self.taller, self.taller..self.tiles.len()];
        runs.into_iter().filter(|run| !run.is_empty())
    }
}

/// Floats of work space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkSpace {
    /// For panels of rows that a thread packs.
    pub left: usize,
    /// For panels of columns that a thread packs.
    pub right: usize,
    /// For the sums of a block that an epilogue reads, or that are to be turned.
    pub sums: usize,
    /// For turned sums that an epilogue reads.
    pub turned: usize,
    /// For panels that all threads share.
    pub shared: usize,
    /// For panels that a loop keeps.
    pub kept: usize,
}

/// Where tiles read a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In the operand itself.
    InPlace,
    /// In panels that are packed for each block and depth.
    Packed,
    /// In panels that are packed once for all blocks.
    Shared,
    /// In panels that are packed once for all steps of a loop.
    Kept,
}

/// What uses a loop of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Left,
    Right,
    Neither,
}

impl Class {
    /// The other factor.
    pub fn other(self) -> Option<Class> {
        match self {
            Class::Left => Some(Class::Right),
            Class::Right => Some(Class::Left),
            Class::Neither => None,
        }
    }
}

impl ContractionPlan {
    /// Plans an f32 contraction whose points are at `result`; `None` where a plain loop nest serves better (few columns,
    /// batches innermost).
    pub fn new(
        contraction: &Contraction,
        result: &Affine,
        isa: VectorIsa,
        library: Library,
    ) -> Option<ContractionPlan> {
        let space = contraction.space.len();
        let extents = [&contraction.space[..], &contraction.reduce].concat();
        let product = |dims: &[usize]| dims.iter().map(|&d| extents[d]).product::<usize>();
        let classes: Vec<Class> = (0..space).map(|d| class_of(contraction, d, extents[d])).collect();
        let (groups, columns_are) = split_space(&classes, &contraction.space)?;
        let range = |from: usize, to: usize| (from..to).collect::<Vec<usize>>();
        let (outers, rows) = (range(0, groups.first_row), range(groups.first_row, groups.first_column));
        let (columns, depth) = (range(groups.first_column, space), range(space, extents.len()));
        let [outer, m, n, k] = [&outers, &rows, &columns, &depth].map(|d| product(d));
        if [outer, m, n, k].contains(&0) {
            return None;
        }
        let (left, right) = match columns_are {
            Class::Left => (&contraction.rhs, &contraction.lhs),
            _ => (&contraction.lhs, &contraction.rhs),
        };
        let factor = |access: &Access, free: &[usize]| Factor::new(access, &extents, [&outers, free, &depth]);
        let kernel = micro_kernel(isa, m, n);
        let (left, right) = (factor(left, &rows)?, factor(right, &columns)?);
        let blocking = Blocking { m, n, rows: m, columns: n };
        let mut plan = ContractionPlan {
            groups,
            outer,
            products_at: offsets(result, &outers, &extents),
            result_row: rows.iter().rev().find(|&&d| extents[d] > 1).map_or(n, |&d| result.coeffs[d] as usize),
            blocking,
            k,
            left,
            right,
            isa,
            kernel,
            bounds: Bounds::new(contraction, [&rows, &columns, &depth]),
            by_library: false,
            turned: false,
            row_offsets: vec![],
            direct: None,
            layouts: [Layout::InPlace; 2],
            reads_ahead: false,
            grid: (1, 1),
            blocks_per_chunk: 1,
            row_groups: [vec![], vec![]],
            depths: vec![],
            depth_parts: 1,
            floats: WorkSpace::default(),
        };
        let vectors = plan.vector_kernel();
        let pays = vectors.is_some() || plan.tiles_pay();
        plan.by_library = plan.wants_library(library, pays);
        match vectors {
            _ if plan.by_library => {}
            Some(vectors) => plan.compute_by(vectors),
            None => {
                plan.read_along_depth_if_it_pays();
                plan.multiply_parts_if_it_pays();
            }
        }
        (pays || plan.by_library).then_some(plan)
    }

    /// Whether tiles of several rows serve. Few columns are left to loops where there are few rows too, and where only loops
    /// find both factors side by side along the depth.
    fn tiles_pay(&self) -> bool {
        let Blocking { m, n, .. } = self.blocking;
        let wide_enough = match (dot_kernel(self.isa), self.is_along_depth()) {
            (Some(_), true) => n >= 2,
            (Some(_), false) => n >= 8 || n >= 2 && m >= 4,
            (None, true) => n >= 8 || n >= 4 && m >= 8,
            (None, false) => n >= 8 || n >= 2 && m >= 8,
        };
        m >= 2 && wide_enough && m.saturating_mul(n).saturating_mul(self.k) >= LEAST_TILED_PRODUCT
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.outer * self.grid.0 * self.grid.1
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        self.depth_parts * self.blocks().div_ceil(self.blocks_per_chunk)
    }

    /// Elements of the result.
    pub fn elements(&self) -> usize {
        self.outer * self.blocking.m * self.blocking.n
    }

    /// The depths of a part.
    pub fn depths_of(&self, part: usize) -> &[Range<usize>] {
        let count = self.depths.len() / self.depth_parts;
        &self.depths[part * count..][..count]
    }

    /// The groups of rows of a block.
    pub fn row_groups(&self, block: &Block) -> &[RowGroup] {
        &self.row_groups[usize::from(block.rows.len() != self.blocking.rows)]
    }

    /// The block with this number; blocks of one product follow each other by rows.
    pub fn block_at(&self, at: usize) -> Block {
        let (down, across) = self.grid;
        let Blocking { m, n, rows, columns } = self.blocking;
        if self.blocks() == 1 {
            return Block { outer: 0, rows: 0..m, columns: 0..n }; // Saves small products four divisions.
        }
        let (outer, at) = (at / (down * across), at % (down * across));
        let (i, j) = (at / across, at % across);
        Block { outer, rows: i * rows..m.min((i + 1) * rows), columns: j * columns..n.min((j + 1) * columns) }
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

pub(super) fn class_of(contraction: &Contraction, dim: usize, extent: usize) -> Class {
    let uses = |a: &Access| extent > 1 && a.indices.iter().any(|i| i.affine.coeffs.get(dim).is_some_and(|&c| c != 0));
    match (uses(&contraction.lhs), uses(&contraction.rhs)) {
        (true, false) => Class::Left,
        (false, true) => Class::Right,
        _ => Class::Neither,
    }
}

/// The innermost loops of one factor are columns, those of the other before them rows, all further out is repeated.
pub(super) fn split_space(classes: &[Class], extents: &[usize]) -> Option<(Groups, Class)> {
    let last = (0..classes.len()).rev().find(|&d| extents[d] != 1)?;
    let columns_are = classes[last];
    let rows_are = columns_are.other()?;
    let run = |end: usize, class: Class| {
        (0..end).rev().find(|&d| extents[d] != 1 && classes[d] != class).map_or(0, |d| d + 1)
    };
    let first_column = run(classes.len(), columns_are);
    Some((Groups { first_row: run(first_column, rows_are), first_column }, columns_are))
}

/// Offsets of a result over some of the loops, row-major.
fn offsets(result: &Affine, dims: &[usize], extents: &[usize]) -> Vec<usize> {
    dims.iter().fold(vec![0], |offsets, &d| {
        let step = result.coeffs[d] as usize;
        offsets.iter().flat_map(|&at| (0..extents[d]).map(move |i| at + i * step)).collect()
    })
}
