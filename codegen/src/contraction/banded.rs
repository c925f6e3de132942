//! Computes the blocks of a contraction inside of its bands.
//!
//! Sums are those without bands: what is left out adds zero, and begins and ends within the blocks of depth. Sums that
//! nobody reads are zero, or computed where others of the tile are read.

use super::bounds::{BlockBounds, Bounds, RowBounds, common};
use super::driver::{Panels, Product};
use super::plan::{Block, ContractionPlan, Layout, RowGroup};
use crate::microkernel::Tile;
use std::ops::Range;

impl Product<'_> {
    /// As [`compute`](Self::compute), inside of bounds.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    pub(super) unsafe fn compute_banded(
        &self,
        block: &Block,
        (bounds, depths): (&Bounds, &[Range<usize>]),
        origin: *mut f32,
        row_stride: usize,
    ) {
        let plan = self.plan;
        let BlockBounds { of_rows, tiles } = bounds.of_block(block.rows.start / plan.blocking.rows);
        let part = plan.part_read(block, of_rows);
        let counts = common(&of_rows.depth, &bounds.depths_of_columns(&part.columns));
        // SAFETY: what is cleared is inside the block.
        unsafe {
            clear(origin, row_stride, &block.rows, block.columns.start..part.columns.start);
            clear(origin, row_stride, &block.rows, part.columns.end..block.columns.end);
        }
        for (at, depth) in depths.iter().enumerate() {
            let is_first = at == 0;
            let counts = in_units(&common(depth, &counts), depth.start, plan.kernel.unit());
            if counts.is_empty() || part.columns.is_empty() {
                if is_first {
                    // SAFETY: as above.
                    unsafe { clear(origin, row_stride, &block.rows, part.columns.clone()) };
                }
                continue;
            }
            // Panels that are packed elsewhere have all of the depth.
            let packed_here = matches!(plan.layouts[1], Layout::InPlace | Layout::Packed);
            let right_depth = if packed_here { counts.clone() } else { depth.clone() };
            // SAFETY: as promised by the caller.
            unsafe {
                let right = (self.right_panels(&part, &right_depth), right_depth.start);
                let mut tiles = &tiles[..];
                for group in plan.row_groups(block) {
                    let left = (self.left_panels(&part, group, &counts), counts.start);
                    let (of_group, rest) = tiles.split_at(group.tiles.len());
                    let banded = Banded { plan, bounds, tiles: of_group, is_first, counts: &counts };
                    banded.compute_tiles(&part, group, [&left, &right], (origin, row_stride));
                    tiles = rest;
                }
            }
        }
    }
}

/// Tiles of a group of rows, at some depths.
struct Banded<'a> {
    plan: &'a ContractionPlan,
    bounds: &'a Bounds,
    tiles: &'a [RowBounds],
    /// Whether their sums are the first, not added to others.
    is_first: bool,
    /// Those that count.
    counts: &'a Range<usize>,
}

impl Banded<'_> {
    /// Panels come with the depth they begin at.
    ///
    /// # Safety
    /// As for [`Product::compute`].
    unsafe fn compute_tiles(
        &self,
        Block { rows, columns, .. }: &Block,
        group: &RowGroup,
        [(left, left_depth), (right, right_depth)]: [&(Panels, usize); 2],
        (origin, row_stride): (*mut f32, usize),
    ) {
        let kernel = &self.plan.kernel;
        let (mut column, mut panel) = (columns.start, right.start);
        while column < columns.end {
            let width = right.columns_of_tile(columns.end - column, kernel);
            let tile_columns = column..column + width;
            let counts = common(self.counts, &self.bounds.depths_of_columns(&tile_columns));
            let of_tile = |bounds: &RowBounds| self.depths_of_tile(&counts, bounds, &tile_columns);
            let mut i = 0;
            while i < group.tiles.len() {
                let (tile, counts) = (&group.tiles[i], of_tile(&self.tiles[i]));
                let alike = |&at: &usize| group.tiles[at].len() == tile.len() && of_tile(&self.tiles[at]) == counts;
                let run = (i..group.tiles.len()).take_while(alike).count();
                let first = i;
                i += run;
                if counts.is_empty() && !self.is_first {
                    continue;
                }
                let (first, a_tile) = match left.panel {
                    0 => ((tile.start - group.rows.start) as isize * left.free, tile.len() as isize * left.free),
                    panel => (first as isize * panel, panel),
                };
                let c = origin.wrapping_add((rows.start + tile.start) * row_stride + column);
                let skipped = |from: usize, step: isize| (counts.start - from) as isize * step;
                // SAFETY: offsets of rows, columns, depths and panels stay inside the factors, the packed panels and the
                // sums.
                unsafe {
                    (kernel.run)(&Tile {
                        depth: counts.len(),
                        a: left.start.wrapping_offset(first + skipped(*left_depth, left.step)),
                        a_row: left.free,
                        a_step: left.step,
                        b: panel.wrapping_offset(skipped(*right_depth, right.step)),
                        ahead: std::ptr::null(),
                        b_column: right.free,
                        b_step: right.step,
                        c,
                        c_row: row_stride,
                        rows: tile.len(),
                        tiles: run,
                        a_tile,
                        columns: width,
                        add: if self.is_first { std::ptr::null() } else { c },
                    });
                }
            }
            panel = panel.wrapping_offset(right.to_next_tile(width));
            column += width;
        }
    }

    /// Those of `counts` that count for the rows of a tile; none where nothing of it is read.
    fn depths_of_tile(&self, counts: &Range<usize>, rows: &RowBounds, columns: &Range<usize>) -> Range<usize> {
        let is_read = rows.columns.start < columns.end && columns.start < rows.columns.end;
        let depths = if is_read { common(counts, &rows.depth) } else { counts.start..counts.start };
        in_units(&depths, self.counts.start, self.plan.kernel.unit())
    }
}

/// Depths from the beginning of the unit on that the first of them is in, units being counted from `first`.
fn in_units(depths: &Range<usize>, first: usize, unit: usize) -> Range<usize> {
    let start = if depths.is_empty() { depths.start } else { first + (depths.start - first) / unit * unit };
    start..depths.end
}

/// Sets sums to zero; `origin` is where row 0 and column 0 of the product would be.
///
/// # Safety
/// The rows and columns are inside of what is behind `origin`.
unsafe fn clear(origin: *mut f32, row_stride: usize, rows: &Range<usize>, columns: Range<usize>) {
    if columns.is_empty() {
        return;
    }
    for row in rows.clone() {
        // SAFETY: as promised by the caller; all bits of a zero are.
        unsafe { origin.wrapping_add(row * row_stride + columns.start).write_bytes(0, columns.len()) };
    }
}
