//! What bands leave of a product: the depths that count for its rows and columns, and the columns that are read of each
//! row.

use super::plan::{Block, ContractionPlan};
use crate::loops::Blocking;
use gradc_ir::band::{Band, LoopBand, share_inside};
use gradc_ir::lower::Contraction;
use std::ops::Range;

/// The bands of a product.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    /// Rows by depths: outside, the left factor is zero.
    left: Option<Band>,
    /// Columns by depths: outside, the right factor is zero.
    right: Option<Band>,
    /// Rows by columns: outside, sums are not read.
    result: Option<Band>,
    /// Share of the products that count.
    share: f64,
    /// What counts for the rows of each block.
    blocks: Vec<BlockBounds>,
}

/// What counts for the rows of a block.
#[derive(Clone, Debug)]
pub(super) struct BlockBounds {
    /// For all of them.
    pub of_rows: RowBounds,
    /// For those of each tile.
    pub tiles: Vec<RowBounds>,
}

/// What counts for some rows.
#[derive(Clone, Debug)]
pub(super) struct RowBounds {
    /// Depths at which the left factor is not zero in all of them.
    pub depth: Range<usize>,
    /// Columns that are read of any of them.
    pub columns: Range<usize>,
}

/// Tiles begin and end at multiples of so many depths, in whole rounds of a micro-kernel's loop.
const DEPTHS: usize = 4;

/// Rows, columns or depth of a product: the loops of a contraction that it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Rows,
    Columns,
    Depth,
}

impl Bounds {
    /// The bounds that the bands of a contraction are, `rows`, `columns` and `depth` being the loops of each product;
    /// `None` where there are none.
    pub fn new(contraction: &Contraction, loops: [&[usize]; 3]) -> Option<Bounds> {
        let extents = [&contraction.space[..], &contraction.reduce].concat();
        let mut bounds = Bounds { share: share_inside(&contraction.bands), ..Bounds::default() };
        for given in &contraction.bands {
            let side = |dim: usize| {
                let at = loops.iter().position(|group| group.contains(&dim))?;
                Some([Side::Rows, Side::Columns, Side::Depth][at])
            };
            let (Some(row), Some(column)) = (side(given.row), side(given.column)) else { continue };
            let (place, swapped) = match (row, column) {
                (Side::Rows, Side::Depth) => (&mut bounds.left, false),
                (Side::Depth, Side::Rows) => (&mut bounds.left, true),
                (Side::Columns, Side::Depth) => (&mut bounds.right, false),
                (Side::Depth, Side::Columns) => (&mut bounds.right, true),
                (Side::Rows, Side::Columns) => (&mut bounds.result, false),
                (Side::Columns, Side::Rows) => (&mut bounds.result, true),
                _ => continue,
            };
            let band = if swapped { given.transposed() } else { Some(given.clone()) };
            let Some(band) = band.and_then(|band| flat(&band, &loops, &extents)) else { continue };
            *place = Some(place.take().map_or_else(|| band.clone(), |other| other.meet(&band)));
        }
        let any = [&bounds.left, &bounds.right, &bounds.result].into_iter().any(Option::is_some);
        any.then_some(bounds)
    }

    /// The bounds of the product with rows and columns exchanged.
    pub fn turn(&mut self) {
        std::mem::swap(&mut self.left, &mut self.right);
        self.result = self.result.take().and_then(|band| band.transposed());
    }

    /// Depths that count for some columns.
    pub(super) fn depths_of_columns(&self, columns: &Range<usize>) -> Range<usize> {
        depths_in(&self.right, columns)
    }

    /// What counts for some rows, of `columns` columns.
    fn of_rows(&self, rows: &Range<usize>, columns: usize) -> RowBounds {
        let read = self.result.as_ref().map_or(0..columns, |band| band.columns_of(rows.clone()));
        RowBounds { depth: in_rounds(depths_in(&self.left, rows)), columns: read }
    }

    /// What counts for the rows of the block with this number.
    pub(super) fn of_block(&self, block: usize) -> &BlockBounds {
        &self.blocks[block]
    }
}

/// The smallest range of whole rounds that contains a range.
fn in_rounds(depth: Range<usize>) -> Range<usize> {
    depth.start / DEPTHS * DEPTHS..depth.end.div_ceil(DEPTHS).saturating_mul(DEPTHS)
}

/// Depths that count for some rows or columns of a factor.
fn depths_in(band: &Option<Band>, range: &Range<usize>) -> Range<usize> {
    band.as_ref().map_or(0..usize::MAX, |band| band.columns_of(range.clone()))
}

/// What two ranges have in common.
pub(super) fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// A band between loops as one between the rows, columns or depths that these are part of; `None` where those of one row
/// would not follow each other.
fn flat(given: &LoopBand, loops: &[&[usize]; 3], extents: &[usize]) -> Option<Band> {
    let group = |dim: usize| *loops.iter().find(|group| group.contains(&dim)).expect("the loop has a side");
    let size = |dims: &[usize]| dims.iter().map(|&d| extents[d]).product::<usize>();
    let (row_loops, column_loops) = (group(given.row), group(given.column));
    if size(column_loops) != extents[given.column] {
        return None;
    }
    let at = row_loops.iter().position(|&d| d == given.row)?;
    let inner = size(&row_loops[at + 1..]);
    let index = |row: usize| row / inner % extents[given.row];
    let ranges = (0..size(row_loops)).map(|row| given.band.ranges()[index(row)].clone());
    Band::new(ranges.collect(), given.band.columns())
}

impl ContractionPlan {
    /// Notes for the rows of each block and tile what counts, once these are known.
    pub(super) fn bound_tiles(&mut self) {
        let Some(mut bounds) = self.bounds.take() else { return };
        let Blocking { m, n, rows, .. } = self.blocking;
        let of_block = |start: usize| {
            let block = start..m.min(start + rows);
            let groups = self.row_groups(&Block { outer: 0, rows: block.clone(), columns: 0..n });
            let tiles = groups.iter().flat_map(|group| &group.tiles);
            let tiles = tiles.map(|tile| bounds.of_rows(&(start + tile.start..start + tile.end), n));
            BlockBounds { of_rows: bounds.of_rows(&block, n), tiles: tiles.collect() }
        };
        bounds.blocks = (0..m).step_by(rows).map(of_block).collect();
        self.bounds = Some(bounds);
    }

    /// Products of a sum that count, on average.
    pub(super) fn depth_that_counts(&self) -> usize {
        self.bounds.as_ref().map_or(self.k, |bounds| (bounds.share * self.k as f64).ceil() as usize)
    }

    /// The part of a block whose sums are read, from where a panel begins.
    pub(super) fn part_read(&self, block: &Block, of_rows: &RowBounds) -> Block {
        let (first, width) = (block.columns.start, self.kernel.columns);
        let read = common(&of_rows.columns, &block.columns);
        let columns =
            if read.is_empty() { first..first } else { first + (read.start - first) / width * width..read.end };
        Block { columns, ..block.clone() }
    }
}
