//! Tiles whose rows slide along a run: what one row reads at a depth, the row before it reads some depths later.
//! Depthwise convolutions have such rows, the neighbours in an image.

use super::factor::{Part, step, stretch};
use super::tiles::{Maker, Tile, exact};
use crate::microkernel::{Segment, Slide};
use gradc_ir::lower::Affine;
use std::ops::Range;

/// Rows of a tile on average, at least: fewer sums do not hide the latency of additions.
const FEWEST_ROWS: usize = 3;

/// A tile that is not in the tables yet: how many rows, which positions of each line they read, which rows.
type Found = (usize, Vec<[u16; 2]>, Vec<usize>);

impl Maker<'_> {
    /// Tiles of a product whose outer loops add this part to the left factor; `None` where too few rows follow each
    /// other.
    pub(super) fn sliding_tiles(&mut self, slide: Slide, left: &Part) -> Option<Range<usize>> {
        let first = self.tables.tiles.len();
        let tiles = self.rows_that_slide(slide);
        if self.rows.len() < FEWEST_ROWS * tiles.len() || !self.roles.right.axes.is_empty() {
            return None;
        }
        let positions = |rows: &[usize]| -> Vec<[u16; 2]> {
            (0..self.lines.len()).map(|line| self.positions(slide, rows, left, line).0).collect()
        };
        let mut tiles: Vec<Found> = tiles.into_iter().map(|rows| (rows.len(), positions(&rows), rows)).collect();
        // One call computes those that read the same.
        tiles.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
        for (_, _, rows) in tiles {
            self.sliding_tile(slide, &rows, left)?;
        }
        Some(first..self.tables.tiles.len())
    }

    /// Rows that follow each other, cut into equal parts that fit a tile: forwards or backwards, whichever are fewer.
    fn rows_that_slide(&self, slide: Slide) -> Vec<Vec<usize>> {
        let equal_parts = |rows: &[usize]| {
            let size = rows.len().div_ceil(rows.len().div_ceil(self.kernel.rows));
            rows.chunks(size).map(<[usize]>::to_vec).collect::<Vec<_>>()
        };
        let tiles = |order: Vec<usize>| -> Vec<Vec<usize>> {
            order.chunk_by(|&a, &b| self.follows(slide, a, b)).flat_map(equal_parts).collect()
        };
        let (forwards, backwards) =
            (tiles((0..self.rows.len()).collect()), tiles((0..self.rows.len()).rev().collect()));
        if backwards.len() < forwards.len() { backwards } else { forwards }
    }

    /// Whether row `b` reads at its first depth what row `a` reads some depths later.
    fn follows(&self, Slide { apart, .. }: Slide, a: usize, b: usize) -> bool {
        let (load, [a, b]) = (&self.roles.left, [a, b].map(|row| &self.rows[row]));
        let moved = |affine: &Affine| self.roles.run.map_or(0, |run| affine.coeffs[run]) * apart as i64;
        let mut axes = a.axes.iter().zip(&b.axes).zip(&load.axes);
        b.flat - a.flat == moved(&load.flat) && axes.all(|((a, b), axis)| b - a == moved(&axis.index.affine))
    }

    /// Which positions of a line the rows of a tile read, and where the first position is in the left factor.
    fn positions(&self, slide: Slide, rows: &[usize], left: &Part, line: usize) -> ([u16; 2], i64) {
        let (line, row) = (&self.lines[line].left, &self.rows[rows[0]]);
        let count = slide.apart * (rows.len() - 1) + slide.depth;
        let met = stretch(&self.roles.left, self.roles.run, count as i64, &[left, row, line]);
        ([met.low as u16, met.high as u16], row.flat + line.flat + met.offset)
    }

    fn sliding_tile(&mut self, slide: Slide, rows: &[usize], left: &Part) -> Option<()> {
        let mut first = None;
        let mut list: Vec<Vec<Segment>> = vec![];
        for group in self.groups.clone() {
            let mut segments = vec![];
            for line in group {
                let (positions, offset) = self.positions(slide, rows, left, line);
                if positions[0] < positions[1] {
                    let left = exact(offset - *first.get_or_insert(offset))?;
                    let right = exact(self.lines[line].right.flat)?;
                    segments.push(Segment { left, right, depth: slide.depth as i32, positions });
                }
            }
            list.push(segments);
        }
        let result_rows = self.tables.offsets.len();
        for &row in rows {
            self.tables.offsets.push(exact(self.places[row])?);
        }
        let left_rows = self.tables.offsets.len();
        let apart = slide.apart as i64 * step(&self.roles.left, self.roles.run);
        for row in 0..rows.len() as i64 {
            self.tables.offsets.push(exact(first.unwrap_or(0) + row * apart)?);
        }
        let groups = self.list(list);
        self.tables.tiles.push(Tile { groups, left_rows, left_rows_step: 0, result_rows, rows: rows.len() });
        Some(())
    }
}
