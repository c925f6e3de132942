//! Computes the blocks of a contraction.

use super::blocking::parts;
use super::pack::pack;
use super::parts::Splitting;
use super::plan::{Block, ContractionPlan, Layout, RowGroup};
use crate::microkernel::{MicroKernel, Side, Tile};
use crate::program::{PlacedContraction, Program};
use crate::runtime::{KernelFn, StepContext};
use std::ops::Range;

/// Computes one chunk of the contraction with this position in the program; see [`Function`](crate::runtime::Function).
///
/// # Safety
/// Called by native code with its own context and the addresses of the contraction's operands and of its results.
pub(crate) unsafe extern "C" fn contract(
    context: *const StepContext,
    contraction: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: the context and all behind it outlive the call; the arguments are those of the kernel.
    unsafe {
        let program: &Program = &*(*context).program;
        let entry = &program.contractions[contraction];
        match &entry.plan.direct {
            Some(direct) => direct.compute(context, entry, arguments),
            None => Product::new(&*context, entry, arguments).run_chunk(chunk),
        }
    }
}

/// Packs one chunk of what all blocks of a contraction share, and maybe all steps of a loop; see
/// [`Function`](crate::runtime::Function).
///
/// # Safety
/// As for [`contract`]; of the addresses, only that of the right factor is read.
pub(crate) unsafe extern "C" fn pack_shared(
    context: *const StepContext,
    contraction: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: as in `contract`; chunks pack different panels.
    unsafe {
        let program: &Program = &*(*context).program;
        let entry = &program.contractions[contraction];
        let plan = &entry.plan;
        let right = (*arguments.add(plan.right.operand)).cast::<f32>();
        let width = plan.kernel.columns;
        let panels = plan.blocking.n.div_ceil(width);
        let panels = parts(0..panels, plan.packing_chunks()).nth(chunk).unwrap_or_default();
        let columns = panels.start * width..plan.blocking.n.min(panels.end * width);
        for depth in &plan.depths {
            let to = shared_panel(&*context, entry, depth, columns.start);
            plan.pack_side(Side::Right, 0, plan.column_tiles(columns.clone()), depth.clone(), (right, to));
        }
    }
}

/// A contraction on concrete memory.
pub(super) struct Product<'a> {
    pub(super) plan: &'a ContractionPlan,
    entry: &'a PlacedContraction,
    context: &'a StepContext,
    arguments: *const *mut u8,
    left: *const f32,
    right: *const f32,
    /// What is added to the sums as they are stored; null if nothing is.
    added: *const f32,
    /// This thread's work space: packed rows, packed columns, sums.
    packed_left: *mut f32,
    packed_right: *mut f32,
    sums: *mut f32,
}

impl ContractionPlan {
    /// Packs tiles of a factor into panels.
    ///
    /// # Safety
    /// As for [`pack`].
    unsafe fn pack_side(
        &self,
        side: Side,
        outer: usize,
        tiles: impl Iterator<Item = Range<usize>> + Clone,
        depth: Range<usize>,
        (from, to): (*const f32, *mut f32),
    ) {
        let (kernel, (factor, width)) = (
            &self.kernel,
            match side {
                Side::Left => (&self.left, self.kernel.rows),
                Side::Right => (&self.right, self.kernel.columns),
            },
        );
        // SAFETY: as promised by the caller; panels are aligned as work space is.
        unsafe {
            match kernel.split {
                Some(_) => Splitting { factor, side, kernel, outer }.pack(tiles, depth, from, to),
                None => pack(factor, kernel, outer, tiles, depth, from, (to, width)),
            }
        }
    }
}

impl<'a> Product<'a> {
    /// # Safety
    /// The arguments are the addresses of the contraction's operands and results in the call of this context.
    unsafe fn new(context: &'a StepContext, entry: &'a PlacedContraction, arguments: *const *mut u8) -> Self {
        let plan = &entry.plan;
        // SAFETY: as promised by the caller; the scratch of a thread has room for what the plan asks for.
        unsafe {
            let packed_left: *mut f32 = context.scratch_of_thread(entry.shared_bytes).cast();
            let packed_right = packed_left.add(plan.floats.left);
            let float = |k: usize| (*arguments.add(k)).cast::<f32>();
            let (left, right_at) = (float(plan.left.operand), float(plan.right.operand));
            let sums = packed_right.add(plan.floats.right);
            let added = entry.added.map_or(std::ptr::null(), |operand| float(operand).cast_const());
            Product { plan, entry, context, arguments, left, right: right_at, added, packed_left, packed_right, sums }
        }
    }

    /// Computes the blocks of a chunk, or its part of the depth.
    ///
    /// # Safety
    /// As for [`contract`].
    #[inline(never)] // What it keeps in registers, small products would save and restore for nothing.
    unsafe fn run_chunk(&self, chunk: usize) {
        let plan = self.plan;
        let first = chunk * plan.blocks_per_chunk;
        // SAFETY: as promised by the caller.
        unsafe {
            if plan.depth_parts > 1 {
                return self.sum_part(chunk);
            }
            for at in first..plan.blocks().min(first + plan.blocks_per_chunk) {
                self.run(&plan.block_at(at));
            }
        }
    }

    /// Computes the sums of a part of the depth, which go to the shared work space.
    ///
    /// # Safety
    /// As for [`contract`].
    unsafe fn sum_part(&self, part: usize) {
        let (plan, depths) = (self.plan, self.plan.depths_of(part));
        let sums = self.context.shared().wrapping_add(part * plan.elements());
        for at in 0..plan.blocks() {
            // SAFETY: as promised by the caller; the shared work space has room for the sums of all parts.
            unsafe { self.compute(&plan.block_at(at), depths, sums, plan.blocking.n) };
        }
    }

    /// Computes a block and what follows from its sums.
    ///
    /// # Safety
    /// As for [`contract`].
    unsafe fn run(&self, block: &Block) {
        // SAFETY: the block's sums are inside the result, or inside the work space when an epilogue reads them.
        unsafe {
            let Some(epilogue) = self.entry.epilogue else {
                let result = (*self.arguments.add(self.entry.result)).cast::<f32>();
                return self.sum(block, result.add(self.plan.products_at[block.outer]), self.plan.result_row);
            };
            if self.plan.completes_groups() {
                return self.run_by_groups(block, epilogue);
            }
            let (plan, part) = (self.plan, self.plan.result_block(block));
            let row_stride = plan.result_blocking().row_stride();
            let sums = if plan.turned { self.sums.wrapping_add(plan.floats.sums) } else { self.sums };
            let origin = sums.wrapping_sub(part.rows.start * row_stride + part.columns.start);
            self.sum(block, origin, row_stride);
            self.finish(&part, origin, epilogue);
        }
    }

    /// Computes the rows of a block that are packed together and what follows from their sums, then the next ones.
    ///
    /// # Safety
    /// As for [`contract`].
    unsafe fn run_by_groups(&self, block: &Block, epilogue: usize) {
        let (plan, row_stride, depth) = (self.plan, self.plan.blocking.row_stride(), &self.plan.depths[0]);
        // SAFETY: as promised by the caller; the work space has room for the sums of a group.
        unsafe {
            let right = self.right_panels(block, depth);
            for group in plan.row_groups(block) {
                let rows = block.rows.start + group.rows.start..block.rows.start + group.rows.end;
                let origin = self.sums.wrapping_sub(rows.start * row_stride + block.columns.start);
                let left = self.left_panels(block, group, depth);
                self.compute_tiles(block, group, (depth, false), [&left, &right], (origin, row_stride));
                self.finish(&Block { rows, ..block.clone() }, origin, epilogue);
            }
        }
    }

    /// Computes what follows from the sums of a part of the result; `origin` is where row 0 and column 0 would be.
    ///
    /// # Safety
    /// As for [`contract`], and the sums are there.
    unsafe fn finish(&self, part: &Block, origin: *mut f32, epilogue: usize) {
        // SAFETY: as promised by the caller.
        unsafe {
            let epilogue: KernelFn = std::mem::transmute(*self.context.kernels.add(epilogue));
            let rectangle = part.rectangle(origin);
            epilogue(self.context, self.arguments, &raw const rectangle as usize);
        }
    }

    /// Computes a block's part of the result; `origin` is where row 0 and column 0 of the result would be.
    unsafe fn sum(&self, block: &Block, origin: *mut f32, row_stride: usize) {
        let plan = self.plan;
        if !plan.turned {
            // SAFETY: as promised by the caller.
            return unsafe { self.compute(block, &plan.depths, origin, row_stride) };
        }
        let (part, stride) = (plan.result_block(block), plan.blocking.row_stride());
        let first = self.sums.wrapping_sub(block.rows.start * stride + block.columns.start);
        // SAFETY: the work space has room for the sums of a block; they are inside the result, or inside the part of the
        // work space for turned sums.
        unsafe {
            self.compute(block, &plan.depths, first, stride);
            let to = origin.wrapping_add(part.rows.start * row_stride + part.columns.start);
            plan.write_turned(block, self.sums, to, row_stride);
        }
    }

    /// Computes a block of sums over these depths; `origin` is where row 0 and column 0 of the product would be.
    unsafe fn compute(&self, block: &Block, depths: &[Range<usize>], origin: *mut f32, row_stride: usize) {
        let plan = self.plan;
        if plan.by_library {
            // SAFETY: as promised by the caller; only operands that gradc has aligned are left to the library.
            return unsafe { plan.multiply_by_library([self.left, self.right], block, origin, row_stride) };
        }
        if let Some(bounds) = &plan.bounds {
            // SAFETY: as promised by the caller.
            return unsafe { self.compute_banded(block, (bounds, depths), origin, row_stride) };
        }
        for (at, depth) in depths.iter().enumerate() {
            // SAFETY: as promised by the caller; packed parts fit the work space made for them.
            unsafe {
                let right = self.right_panels(block, depth);
                for group in plan.row_groups(block) {
                    let left = self.left_panels(block, group, depth);
                    self.compute_tiles(block, group, (depth, at > 0), [&left, &right], (origin, row_stride));
                }
            }
        }
    }

    unsafe fn compute_tiles(
        &self,
        Block { outer, rows, columns }: &Block,
        group: &RowGroup,
        (depth, accumulate): (&Range<usize>, bool),
        [left, right]: [&Panels; 2],
        (origin, row_stride): (*mut f32, usize),
    ) {
        let kernel = &self.plan.kernel;
        let sums = origin.wrapping_add(rows.start * row_stride);
        let mut tile = Tile {
            depth: depth.len(),
            a: left.start,
            a_row: left.free,
            a_step: left.step,
            b: right.start,
            ahead: std::ptr::null(),
            b_column: right.free,
            b_step: right.step,
            c: sums,
            c_row: row_stride,
            rows: 0,
            tiles: 0,
            a_tile: 0,
            columns: 0,
            add: std::ptr::null(),
        };
        let added = match self.added.is_null() {
            true => self.added,
            false => self.added.wrapping_add(self.plan.products_at[*outer] + rows.start * row_stride),
        };
        let mut column = columns.start;
        while column < columns.end {
            tile.columns = right.columns_of_tile(columns.end - column, kernel);
            let next = tile.b.wrapping_offset(right.to_next_tile(tile.columns));
            let is_last = column + tile.columns == columns.end;
            let ahead = if is_last { right.start.wrapping_offset(depth.len() as isize * right.step) } else { next };
            for run in group.runs() {
                // Tiles of the first run do it for those of the second.
                let reads_ahead = self.plan.reads_ahead && run.start == 0;
                tile.ahead = if reads_ahead { ahead } else { std::ptr::null() };
                let rows = &group.tiles[run.start];
                let row = (rows.start - group.rows.start) as isize;
                let from_first = if left.panel == 0 { row * left.free } else { run.start as isize * left.panel };
                tile.a = left.start.wrapping_offset(from_first);
                tile.a_tile = if left.panel == 0 { rows.len() as isize * left.free } else { left.panel };
                let first = rows.start * row_stride + column;
                tile.c = sums.wrapping_add(first);
                tile.add = match accumulate {
                    true => tile.c,
                    false if added.is_null() => added,
                    false => added.wrapping_add(first),
                };
                (tile.rows, tile.tiles) = (rows.len(), run.len());
                // SAFETY: offsets of rows, columns and panels stay inside the factors, the packed panels and the sums.
                unsafe { (kernel.run)(&tile) };
            }
            tile.b = next;
            column += tile.columns;
        }
    }

    pub(super) unsafe fn left_panels(&self, block: &Block, group: &RowGroup, depth: &Range<usize>) -> Panels {
        let (plan, factor, width) = (self.plan, &self.plan.left, self.plan.kernel.rows);
        if let (Layout::InPlace, Some((row, step))) = (plan.layouts[0], factor.strides()) {
            let start = factor.first(self.left, block.outer, block.rows.start + group.rows.start, depth.start);
            return Panels { start, panel: 0, free: row, step };
        }
        let first = block.rows.start;
        let tiles = group.tiles.iter().map(|tile| first + tile.start..first + tile.end);
        // SAFETY: the work space has room for these rows.
        unsafe { plan.pack_side(Side::Left, block.outer, tiles, depth.clone(), (self.left, self.packed_left)) };
        Panels::packed(&plan.kernel, width, depth, self.packed_left)
    }

    pub(super) unsafe fn right_panels(&self, block: &Block, depth: &Range<usize>) -> Panels {
        let (plan, factor, width) = (self.plan, &self.plan.right, self.plan.kernel.columns);
        if let (Layout::InPlace, Some((column, step))) = (plan.layouts[1], factor.strides()) {
            let start = factor.first(self.right, block.outer, block.columns.start, depth.start);
            return Panels { start, panel: 0, free: column, step };
        }
        if plan.kernel.along_depth {
            let (columns, ends) = ((block.outer, &block.columns), (self.right, self.packed_right));
            // SAFETY: the work space has room for the block's columns.
            unsafe { plan.pack_along_depth(columns, depth, ends) };
            return Panels { start: self.packed_right, panel: 0, free: depth.len() as isize, step: 1 };
        }
        let start = if matches!(plan.layouts[1], Layout::Shared | Layout::Kept) {
            shared_panel(self.context, self.entry, depth, block.columns.start).cast_const()
        } else {
            // SAFETY: the work space has room for the block's columns.
            unsafe {
                let (tiles, ends) = (plan.column_tiles(block.columns.clone()), (self.right, self.packed_right));
                plan.pack_side(Side::Right, block.outer, tiles, depth.clone(), ends);
            }
            self.packed_right.cast_const()
        };
        Panels::packed(&plan.kernel, width, depth, start)
    }
}

/// The panel of a depth that begins with this column, among those packed once.
fn shared_panel(
    context: &StepContext,
    PlacedContraction { plan, kept_at, .. }: &PlacedContraction,
    depth: &Range<usize>,
    column: usize,
) -> *mut f32 {
    let columns = plan.blocking.n.next_multiple_of(plan.kernel.columns);
    let first: *mut f32 = match plan.layouts[1] {
        Layout::Kept => context.kept.wrapping_add(*kept_at).cast(),
        _ => context.shared(),
    };
    first.wrapping_add(plan.kernel.panel_floats(columns, depth.start) + plan.kernel.panel_floats(column, depth.len()))
}

/// Where the tiles of a block of a factor are.
#[derive(Debug)]
pub(super) struct Panels {
    pub start: *const f32,
    /// From one packed panel to the next; 0 for what is read in place.
    pub panel: isize,
    /// From one row or column to the next.
    pub free: isize,
    /// From one k to the next.
    pub step: isize,
}

impl Panels {
    /// Panels of so many rows or columns at these depths.
    fn packed(kernel: &MicroKernel, width: usize, depth: &Range<usize>, start: *const f32) -> Panels {
        let step = kernel.panel_floats(width, kernel.unit()) / kernel.unit();
        Panels { start, panel: kernel.panel_floats(width, depth.len()) as isize, free: 1, step: step as isize }
    }

    /// Columns of the next tile where so many are left. A panel fixes them; in place, the last two tiles share what is
    /// left, so that neither is much narrower than the other.
    pub(super) fn columns_of_tile(&self, left: usize, kernel: &MicroKernel) -> usize {
        if self.panel == 0 && left > kernel.columns && left < 2 * kernel.columns {
            return left.div_ceil(2).next_multiple_of(kernel.vector);
        }
        kernel.columns.min(left)
    }

    /// From a tile of so many columns to the next.
    pub(super) fn to_next_tile(&self, columns: usize) -> isize {
        if self.panel == 0 { columns as isize * self.free } else { self.panel }
    }
}
