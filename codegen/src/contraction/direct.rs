//! Products of one block and one depth whose factors nothing is packed of: where their tiles are is known beforehand.

use super::driver::Panels;
use super::plan::{ContractionPlan, Layout};
use crate::loops::{Blocking, Rectangle};
use crate::microkernel::Tile;
use crate::program::PlacedContraction;
use crate::runtime::{KernelFn, StepContext};

/// The tiles of a product, in elements.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    /// Offset of the first element of the left and of the right factor.
    first: [isize; 2],
    /// From one row to the next of the left factor.
    row: isize,
    /// From one column to the next of the right factor.
    column: isize,
    /// From one depth to the next of the left and of the right factor.
    steps: [isize; 2],
    /// From one row of the sums to the next.
    sums_row: usize,
    tiles: Vec<DirectTiles>,
}

/// Tiles below each other.
#[derive(Clone, Copy, Debug)]
struct DirectTiles {
    /// Offsets from the first elements of the factors, and of the sums.
    at: [isize; 3],
    rows: usize,
    columns: usize,
    tiles: usize,
    /// From the first row of a tile to that of the next in the left factor.
    left_tile: isize,
}

impl ContractionPlan {
    /// The tiles, where they do not depend on the block or the depth and nothing is packed for them here. What an epilogue
    /// reads is in the work space, else sums are where the result is.
    pub(super) fn direct(&self, has_epilogue: bool) -> Option<Direct> {
        let n = self.blocking.n;
        let sums_row = if has_epilogue { self.blocking.row_stride() } else { self.result_row };
        let one_block = self.blocks() == 1 && self.outer == 1 && self.depths.len() == 1;
        let by_tiles = !self.by_library && !self.turned && self.bounds.is_none();
        let [Layout::InPlace, right @ (Layout::InPlace | Layout::Kept)] = self.layouts else { return None };
        if !(one_block && by_tiles) {
            return None;
        }
        let (row, left_step) = self.left.strides()?;
        let width = self.kernel.columns;
        let (right_first, panel, (right_column, right_step)) = match right {
            Layout::InPlace => (self.right.first_offset(0, 0, 0), 0, self.right.strides()?),
            _ => (0, width * self.k, (1, width as isize)),
        };
        let panels = Panels { start: std::ptr::null(), panel: panel as isize, free: right_column, step: right_step };
        let (mut tiles, mut column, mut right) = (vec![], 0, 0);
        while column < n {
            let columns = panels.columns_of_tile(n - column, &self.kernel);
            for group in &self.row_groups[0] {
                for run in group.runs() {
                    let rows = &group.tiles[run.start];
                    let at = [rows.start as isize * row, right, (rows.start * sums_row + column) as isize];
                    let left_tile = rows.len() as isize * row;
                    tiles.push(DirectTiles { at, rows: rows.len(), columns, tiles: run.len(), left_tile });
                }
            }
            right += panels.to_next_tile(columns);
            column += columns;
        }
        let first = [self.left.first_offset(0, 0, 0), right_first];
        Some(Direct { first, row, column: right_column, steps: [left_step, right_step], sums_row, tiles })
    }
}

impl Direct {
    /// Computes the product and what follows from it.
    ///
    /// # Safety
    /// As for [`contract`](super::contract).
    pub(super) unsafe fn compute(
        &self,
        context: *const StepContext,
        PlacedContraction { plan, epilogue, result, added, kept_at, shared_bytes }: &PlacedContraction,
        arguments: *const *mut u8,
    ) {
        let Blocking { m, n, .. } = plan.blocking;
        // SAFETY: the arguments are those of the kernel; offsets of tiles are inside the factors, the panels that the loop
        // around keeps, and the sums: the result, or work space with room for them.
        unsafe {
            let float = |k: usize| (*arguments.add(k)).cast::<f32>();
            let right = match plan.layouts[1] {
                Layout::Kept => (*context).kept.wrapping_add(*kept_at).cast(),
                _ => float(plan.right.operand),
            };
            let sums =
                if epilogue.is_some() { (*context).scratch_of_thread(*shared_bytes).cast() } else { float(*result) };
            let left = float(plan.left.operand).wrapping_offset(self.first[0]);
            let right = right.wrapping_offset(self.first[1]);
            let added = added.map_or(std::ptr::null(), |operand| float(operand).cast_const());
            for tiles in &self.tiles {
                let [a, b, c] = tiles.at;
                (plan.kernel.run)(&Tile {
                    depth: plan.k,
                    a: left.wrapping_offset(a),
                    a_row: self.row,
                    a_step: self.steps[0],
                    b: right.wrapping_offset(b),
                    ahead: std::ptr::null(),
                    b_column: self.column,
                    b_step: self.steps[1],
                    c: sums.wrapping_offset(c),
                    c_row: self.sums_row,
                    rows: tiles.rows,
                    tiles: tiles.tiles,
                    a_tile: tiles.left_tile,
                    columns: tiles.columns,
                    add: if added.is_null() { added } else { added.wrapping_offset(c) },
                });
            }
            if let Some(epilogue) = epilogue {
                let epilogue: KernelFn = std::mem::transmute(*(*context).kernels.add(*epilogue));
                let whole = Rectangle { sums, outer: 0, rows: [0, m], columns: [0, n] };
                epilogue(context, arguments, &raw const whole as usize);
            }
        }
    }
}
