//! Computes the blocks of a contraction.

use super::pack::pack;
use super::plan::{Block, ContractionPlan, DEPTH_BLOCK};
use crate::loops::Blocking;
use crate::microkernel::Tile;
use crate::runtime::{KernelFn, StepContext};
use std::ops::Range;

/// Computes one chunk of the contraction with this position in the program; see [`Function`](crate::runtime::Function).
///
/// # Safety
/// Called by native code with its own context and the addresses of the contraction's operands and of its result.
pub(crate) unsafe extern "C" fn contract(
    context: *const StepContext,
    contraction: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: the context and all behind it outlive the call; the arguments are those of the kernel.
    unsafe {
        let context = &*context;
        let program = &*context.program;
        let entry = &program.contractions[contraction];
        let plan = &entry.plan;
        let floats = |k: usize| (*arguments.add(k)).cast::<f32>();
        let product = Product {
            plan,
            left: floats(plan.left.operand),
            right: floats(plan.right.operand),
            scratch: context.scratch_of_thread().cast(),
        };
        let first = chunk * plan.blocks_per_chunk;
        for at in first..plan.blocks().min(first + plan.blocks_per_chunk) {
            let block = plan.block_at(at);
            let Blocking { m, n, .. } = plan.blocking;
            let Some(epilogue) = entry.epilogue else {
                product.compute(&block, floats(entry.result).wrapping_add(block.outer * m * n), n);
                continue;
            };
            let row_stride = plan.blocking.row_stride();
            let before = block.rows.start * row_stride + block.columns.start;
            let sums = product.scratch.add(plan.scratch().iter().sum()).wrapping_sub(before);
            product.compute(&block, sums, row_stride);
            let epilogue: KernelFn = std::mem::transmute(*context.kernels.add(epilogue));
            let rectangle = block.rectangle(sums);
            epilogue(context, arguments, &raw const rectangle as usize);
        }
    }
}

/// A contraction on concrete memory.
struct Product<'a> {
    plan: &'a ContractionPlan,
    left: *const f32,
    right: *const f32,
    scratch: *mut f32,
}

impl Product<'_> {
    /// Computes a block of sums; `sums` is where row 0 and column 0 of the product would be.
    ///
    /// # Safety
    /// The addresses are those of the plan's operands and of room for the block; the scratch is this thread's own.
    unsafe fn compute(&self, block: &Block, sums: *mut f32, row_stride: usize) {
        for first in (0..self.plan.k).step_by(DEPTH_BLOCK) {
            let depth = first..self.plan.k.min(first + DEPTH_BLOCK);
            // SAFETY: as promised by the caller.
            unsafe { self.compute_depth(block, depth, sums, row_stride) };
        }
    }

    unsafe fn compute_depth(&self, block: &Block, depth: Range<usize>, sums: *mut f32, row_stride: usize) {
        let Block { outer, rows, columns } = block;
        // SAFETY: as promised by the caller.
        let (left, right) = unsafe {
            (
                self.left_panels(*outer, rows.clone(), depth.clone()),
                self.right_panels(*outer, columns.clone(), depth.clone()),
            )
        };
        let kernel = &self.plan.kernel;
        for (j, column) in columns.clone().step_by(kernel.columns).enumerate() {
            for (i, row) in rows.clone().step_by(kernel.rows).enumerate() {
                // SAFETY: offsets of rows, columns and panels stay inside the factors, the packed panels and the result.
                unsafe {
                    (kernel.run)(&Tile {
                        depth: depth.len(),
                        a: left.start.offset(i as isize * left.panel),
                        a_row: left.free,
                        a_step: left.step,
                        b: right.start.offset(j as isize * right.panel),
                        b_step: right.step,
                        c: sums.wrapping_add(row * row_stride + column),
                        c_row: row_stride,
                        rows: kernel.rows.min(rows.end - row),
                        columns: kernel.columns.min(columns.end - column),
                        accumulate: depth.start > 0,
                    });
                }
            }
        }
    }

    unsafe fn left_panels(&self, outer: usize, rows: Range<usize>, depth: Range<usize>) -> Panels {
        let (factor, width) = (&self.plan.left, self.plan.kernel.rows);
        if let Some((row, step)) = factor.strides {
            let at = factor.flat.outer[outer] as isize + rows.start as isize * row + depth.start as isize * step;
            // SAFETY: the first element of the block.
            let start = unsafe { self.left.offset(at) };
            return Panels { start, panel: width as isize * row, free: row, step };
        }
        // SAFETY: the scratch has room for the block's rows.
        unsafe { pack(factor, outer, rows, depth.clone(), width, self.left, self.scratch) };
        Panels { start: self.scratch, panel: (width * depth.len()) as isize, free: 1, step: width as isize }
    }

    unsafe fn right_panels(&self, outer: usize, columns: Range<usize>, depth: Range<usize>) -> Panels {
        let (factor, width) = (&self.plan.right, self.plan.kernel.columns);
        if let Some((1, step)) = factor.strides {
            let at = factor.flat.outer[outer] as isize + columns.start as isize + depth.start as isize * step;
            // SAFETY: the first element of the block.
            let start = unsafe { self.right.offset(at) };
            return Panels { start, panel: width as isize, free: 1, step };
        }
        // SAFETY: the scratch has room for the block's columns behind those of the left factor.
        let start = unsafe {
            let to = self.scratch.add(self.plan.scratch()[0]);
            pack(factor, outer, columns, depth.clone(), width, self.right, to);
            to
        };
        Panels { start, panel: (width * depth.len()) as isize, free: 1, step: width as isize }
    }
}

/// Where the tiles of a block of a factor are.
struct Panels {
    start: *const f32,
    /// From one tile to the next.
    panel: isize,
    /// From one row or column to the next.
    free: isize,
    /// From one k to the next.
    step: isize,
}
