//! What the tiles of a contraction take, to choose among ways to compute it.

use super::tiles::{Tables, Tile};
use crate::microkernel::RowKernel;

// In cycles, measured on Zen 3 with `--bench convolutions`. Only their ratios count.

/// From one depth to the next: the latency of an addition, two multiply-adds a cycle, two reads a cycle.
const LATENCY: f64 = 4.0;
const PER_PRODUCT: f64 = 0.5;
const PER_READ: f64 = 0.55;

/// From one run of depth to the next: where all share the rows' offsets, and to find each row's.
const RUN: f64 = 7.0;
const RUN_OF_ROWS: f64 = 22.0;

/// A tile, whatever it computes, and a vector of its sums that is transposed.
const TILE: f64 = 15.0;
const TRANSPOSED_SUMS: f64 = 14.0;

/// A float of a copy.
const COPIED_FLOAT: f64 = 1.0;

impl Tables {
    /// What all tiles and a copy of so many floats take, where there are so many columns.
    pub fn cost(&self, kernel: &RowKernel, columns: usize, copied_floats: usize) -> f64 {
        let parts = (0..columns).step_by(kernel.columns).map(|first| kernel.columns.min(columns - first));
        let mut before = vec![0.0];
        for tile in &self.tiles {
            let cost: f64 = parts.clone().map(|columns| self.tile_cost(tile, kernel, columns)).sum();
            before.push(before[before.len() - 1] + cost);
        }
        let tiles: f64 = self.products.iter().map(|p| before[p.tiles.end] - before[p.tiles.start]).sum();
        tiles + COPIED_FLOAT * copied_floats as f64
    }

    fn tile_cost(&self, tile: &Tile, kernel: &RowKernel, columns: usize) -> f64 {
        let of_rows = kernel.has_vectors_of_rows();
        let (vectors, others) = match of_rows {
            false => (columns.div_ceil(kernel.lanes), tile.rows),
            true => (tile.rows / kernel.lanes, columns),
        };
        let (products, reads) = ((vectors * others) as f64, (vectors + others) as f64);
        let step = LATENCY.max(PER_PRODUCT * products).max(PER_READ * reads);
        let run = if tile.left_rows_step == 0 { RUN } else { RUN_OF_ROWS };
        let runs = self.groups[tile.groups..tile.groups + self.depth_groups].iter();
        let sums = if of_rows { vectors as f64 * TRANSPOSED_SUMS } else { 0.0 };
        runs.map(|&(first, count)| {
            let depth: i32 = self.segments[first..first + count].iter().map(|s| s.depth).sum();
            TILE + sums + f64::from(depth) * step + count as f64 * run
        })
        .sum()
    }
}
