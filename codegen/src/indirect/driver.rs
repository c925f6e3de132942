//! Computes the chunks of a contraction with tables of rows.

use super::plan::{IndirectPlan, Part};
use super::tiles::{Product, Tile};
use crate::loops::Rectangle;
use crate::microkernel::RowTile;
use crate::program::Sums;
use crate::runtime::{KernelFn, StepContext};
use std::ops::Range;

/// Sums of a chunk that stay in the second-level cache, in elements.
const CACHED_SUMS: usize = 1 << 15;

/// Computes one chunk of the sums with this position in the program; see [`Function`](crate::runtime::Function).
///
/// # Safety
/// Called by native code with its own context and the addresses of the contraction's operands and of its sums.
pub(crate) unsafe extern "C" fn contract_rows(
    context: *const StepContext,
    contraction: usize,
    arguments: *const *mut u8,
    chunk: usize,
) {
    // SAFETY: the context and all behind it outlive the call; the arguments are those of the kernel.
    unsafe {
        let context = &*context;
        let entry = &(&(*context.program).indirect)[contraction];
        let plan = &entry.plan;
        let floats = |k: usize| (*arguments.add(k)).cast::<f32>();
        let part = plan.part(chunk);
        let factors = [plan.left, plan.right].map(|k| match entry.copy {
            Some((operand, at)) if operand == k => context.shared().add(at).cast_const(),
            _ => floats(k).cast_const(),
        });
        let result = match entry.sums {
            Sums::Result(at) => floats(at),
            Sums::Shared => context.shared(),
            Sums::Epilogue(kernel) => {
                let kernel: KernelFn = std::mem::transmute(*context.kernels.add(kernel));
                let sums = context.scratch_of_thread(entry.shared_bytes).cast();
                return each_product(plan, factors, &part, sums, |rectangle| kernel(context, arguments, rectangle));
            }
        };
        Rows { plan, factors, result: result.add(part.sums) }.compute(&part);
    }
}

/// Computes the products of a part one after the other in work space, and runs what follows on each: it is given the
/// address of a [`Rectangle`].
///
/// # Safety
/// The addresses are those of the plan's factors; the part is of whole products; `sums` has room for those of one.
unsafe fn each_product(
    plan: &IndirectPlan,
    factors: [*const f32; 2],
    part: &Part,
    sums: *mut f32,
    then: impl Fn(usize),
) {
    let ([_, columns], tiles) = (plan.product_extents(), plan.tables.products[0].tiles.len());
    for number in part.tiles.start / tiles..part.tiles.end / tiles {
        let product = &plan.tables.products[number];
        // Offsets in the result count from where the first product would be.
        let rows = Rows { plan, factors, result: sums.wrapping_offset(-product.result) };
        let tiles = product.first..product.first + tiles;
        // SAFETY: as promised by the caller.
        unsafe { rows.compute(&Part { tiles, groups: part.groups.clone(), sums: 0 }) };
        let (outer, rows) = plan.rows_of_product(number);
        // Rows count from the first of the groups.
        let sums = sums.wrapping_sub(rows[0] * columns);
        let rectangle = Rectangle { sums, outer, rows, columns: [0, columns] };
        then(&raw const rectangle as usize);
    }
}

/// A contraction on concrete memory.
struct Rows<'a> {
    plan: &'a IndirectPlan,
    factors: [*const f32; 2],
    result: *mut f32,
}

impl Rows<'_> {
    /// Depth group by depth group, so that its part of the right factor is used for all tiles while in cache; as many
    /// products together as have their sums in cache.
    ///
    /// # Safety
    /// The addresses are those of the plan's operands and of the part's sums.
    unsafe fn compute(&self, part: &Part) {
        let products = self.products(&part.tiles);
        let sums = part.tiles.len() * self.plan.kernel.rows * self.plan.columns;
        let together = if sums <= CACHED_SUMS { products.len() } else { 1 };
        for some in products.chunks(together.max(1)) {
            for group in part.groups.clone() {
                for product in some {
                    // SAFETY: as promised by the caller.
                    unsafe { self.compute_group(product, part, group) };
                }
            }
        }
    }

    /// The products that some tiles are of.
    fn products(&self, tiles: &Range<usize>) -> &[Product] {
        let all = &self.plan.tables.products;
        let first = all.partition_point(|p| p.first + p.tiles.len() <= tiles.start);
        let end = all.partition_point(|p| p.first < tiles.end);
        &all[first..end.max(first)]
    }

    unsafe fn compute_group(&self, product: &Product, part: &Part, group: usize) {
        let IndirectPlan { columns, kernel, lanewise, tables, steps, .. } = self.plan;
        let of_product = part.tiles.start.saturating_sub(product.first)..(part.tiles.end - product.first);
        let tiles = &tables.tiles[product.tiles.clone()];
        let tiles = &tiles[of_product.start..of_product.end.min(tiles.len())];
        let accumulate = group > part.groups.start;
        for column in (0..*columns).step_by(kernel.columns) {
            for tiles in tiles.chunk_by(Tile::continues_with) {
                let tile = &tiles[0];
                let (first, count) = tables.groups[tile.groups + group];
                if accumulate && count == 0 {
                    continue;
                }
                let before = (first - tables.groups[tile.groups].0) * tile.left_rows_step;
                // SAFETY: offsets of tables are inside the factors and the result, for every row and column of the
                // tile.
                unsafe {
                    (kernel.run)(&RowTile {
                        segments: tables.segments.as_ptr().add(first),
                        count,
                        left: self.factors[0].offset(product.left + if *lanewise { column as isize } else { 0 }),
                        left_step: steps[0],
                        left_rows: tables.offsets.as_ptr().add(tile.left_rows + before),
                        left_rows_step: tile.left_rows_step,
                        right: self.factors[1].offset(product.right + column as isize),
                        right_step: steps[1],
                        result: self.result.wrapping_offset(product.result + column as isize),
                        result_rows: tables.offsets.as_ptr().add(tile.result_rows),
                        rows: tile.rows,
                        tiles: tiles.len(),
                        tile_step: 2 * tile.rows,
                        columns: kernel.columns.min(columns - column),
                        accumulate,
                    });
                }
            }
        }
    }
}
