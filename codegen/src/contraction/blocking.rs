//! How products are cut into blocks and chunks: by shape and cost alone.

use super::plan::{ContractionPlan, Layout, RowGroup, WorkSpace};
use crate::chunks::{SMALL_RESULT, equal_shares, parts_of_depth};
use crate::loops::{Blocking, EpiloguePlan};
use crate::microkernel::{MicroKernel, SQUARE};
use std::ops::{Range, RangeInclusive};

/// Largest depth of a block: what is summed before it is added to other sums. Part of the order of summation.
///
/// A panel of this depth and the rows it meets fit into the first-level cache together, with room to spare.
pub(super) const MOST_DEPTH: usize = 256;

/// The same where vectors are read along the depth: of sixteen sums, each as long.
const MOST_VECTOR_DEPTH: usize = 16 * MOST_DEPTH;

/// The same of parts of floats, which take one and a half times as many bytes.
pub(super) const MOST_DEPTH_OF_PARTS: usize = 128;

/// Rows whose panels are packed at a time; those of a block's depth fill a quarter of the second-level cache.
const MOST_PACKED_ROWS: usize = 120;

/// The same of parts of floats: whole squares.
const MOST_PACKED_ROWS_OF_PARTS: usize = 8 * SQUARE;

/// Columns of a block whose sums are the result.
const MOST_COLUMNS: usize = 2048;

/// Rows and columns of a block that packs both factors for itself, so that each serves for many tiles; and rows that
/// meet a large right factor, which is read anew for each block.
const SQUARE_BLOCK: usize = 256;

/// Rows and columns of a block that packs parts of both factors: what takes long is to split the floats, and panels of so
/// many columns fill less than half of the second-level cache.
const BLOCK_OF_PARTS: [usize; 2] = [512, 512];

/// The same where an epilogue runs on the sums, which should be in that cache as well.
const EPILOGUE_BLOCK_OF_PARTS: [usize; 2] = [256, 512];

/// Sums of the largest block that an epilogue runs on: a part of the second-level cache.
const BLOCK_SUMS: usize = 1 << 15;

/// The same where vectors are lines of the cache: these processors have a larger one.
const BLOCK_SUMS_OF_LINES: usize = 1 << 16;

/// Floats of a factor that is packed once: they stay in the third-level cache, and memory stays small.
const MOST_SHARED: usize = 1 << 20;

/// Products a chunk should have at least, about 5 µs of work.
const CHUNK_PRODUCTS: usize = 1 << 18;

/// The same of a product of one row, which takes as long as reading its other factor.
const CHUNK_VECTOR_PRODUCTS: usize = 1 << 17;

/// The same of parts of floats, which are split again for each block: about 8 µs of work.
const CHUNK_PRODUCTS_OF_PARTS: usize = 1 << 20;

/// Chunks wanted of a product that is large enough, so that threads end at about the same time.
const CHUNKS_WANTED: usize = 8;

/// The same of parts of floats, which each block splits for itself: packed once they would come from the caches of other
/// threads, which takes as long.
const CHUNKS_OF_PARTS_WANTED: usize = 4;

/// Floats that are split into parts in the time that it takes to cut a row of the result, which several threads write then.
const CUT_ROW: usize = 256;

/// Blocks for each thread of which one more or less than others have does not matter.
const MANY_BLOCKS: usize = 16;

/// Most chunks.
const MOST_CHUNKS: usize = 64;

/// Floats a chunk should pack at least, about 2 µs of work: several times as long as handing it over. What one thread
/// packs alone, the others wait for.
const CHUNK_PACKED: usize = 1 << 13;

/// Products that take as long as a scalar operation of an epilogue.
const PRODUCTS_PER_OPERATION: usize = 4;

/// Tiles that a block has at least, so that what is brought into the cache serves several of them.
const LEAST_ROW_TILES: usize = 4;
pub(super) const LEAST_COLUMN_TILES: usize = 4;

/// The same of parts of floats, whose tiles are larger.
const LEAST_TILES_OF_PARTS: usize = 2;

/// Floats of a factor, 1 MiB, above which it is not in the second-level cache any more when the next block reads it.
pub(super) const LARGE_FACTOR: usize = 1 << 18;

/// How many times as long as rows and columns a depth is that is cut before them.
const DEEP: usize = 4;

impl ContractionPlan {
    /// Cuts the products into blocks and these into chunks, for the epilogue that runs on each block. `room` is how
    /// many floats of the right factor the loop around may keep in panels; 0 where the factor changes with its steps.
    pub fn cut(&mut self, epilogue: Option<&EpiloguePlan>, room: usize) {
        self.turn_if_it_pays(epilogue);
        let Blocking { m, n, .. } = self.blocking;
        let per_sum = self.depth_that_counts() + epilogue.map_or(0, |e| PRODUCTS_PER_OPERATION * e.cost_per_point());
        let chunk_products = match self.kernel.split {
            Some(_) => CHUNK_PRODUCTS_OF_PARTS,
            None if self.is_one_row() => CHUNK_VECTOR_PRODUCTS,
            None => CHUNK_PRODUCTS,
        };
        let chunks = self.outer.saturating_mul(m * n).saturating_mul(per_sum) / chunk_products;
        let packs_right = !self.by_library && self.packs_right();
        self.depth_parts = if room == 0 { self.parts_of_depth() } else { 1 };
        let shares = self.depth_parts == 1
            && packs_right
            && !self.kernel.along_depth
            && !self.multiplies_parts()
            && self.outer == 1
            && self.k * n <= MOST_SHARED
            && self.right.guarded.is_empty();
        // Parts are added up first.
        let epilogue = epilogue.filter(|_| self.depth_parts == 1);
        let (rows, columns) = self.largest_block(epilogue.is_some() || self.turned, packs_right && !shares);
        let divisible = epilogue.is_none_or(EpiloguePlan::has_divisible_columns);
        let [rows, columns] = match self.turned {
            true => [divisible.then_some(rows), Some(columns)],
            false => [Some(rows), divisible.then_some(columns)],
        };
        let wanted = if self.multiplies_parts() { CHUNKS_OF_PARTS_WANTED } else { CHUNKS_WANTED };
        self.divide(rows, columns, if self.depth_parts == 1 { chunks.min(wanted) } else { 1 });
        let right = match packs_right {
            _ if self.keeps_right(packs_right, room) => Layout::Kept,
            true if shares && self.grid.0 > 1 => Layout::Shared,
            true => Layout::Packed,
            false => Layout::InPlace,
        };
        let packs_left = !self.by_library && self.packs_left();
        self.layouts = [if packs_left { Layout::Packed } else { Layout::InPlace }, right];
        self.reads_ahead = right == Layout::InPlace && self.is_read_ahead();
        self.blocks_per_chunk = match self.depth_parts {
            1 => self.blocks().div_ceil(equal_shares(chunks.min(MOST_CHUNKS))),
            _ => self.blocks(),
        };
        let rest = self.blocking.m - (self.grid.0 - 1) * self.blocking.rows;
        self.depths = self.cut_depth();
        let most_packed_rows = self.most_packed_rows(epilogue.is_some());
        self.row_groups = [self.blocking.rows, rest].map(|rows| self.group_rows(rows, most_packed_rows));
        self.bound_tiles();
        self.row_offsets = self.rows_to_turn();
        self.floats = self.work_space(epilogue.is_some());
        self.direct = self.direct(epilogue.is_some());
    }

    /// The depths of blocks, each but the last in whole units.
    fn cut_depth(&self) -> Vec<Range<usize>> {
        let unit = self.kernel.unit();
        let count = self.depth_parts * self.k.div_ceil(self.depth_parts * self.most_depth());
        let ends = |units: Range<usize>| units.start * unit..self.k.min(units.end * unit);
        parts(0..self.k.div_ceil(unit), count).map(ends).collect()
    }

    /// Largest depth of a block.
    pub(super) fn most_depth(&self) -> usize {
        match self.kernel.split {
            Some(_) => MOST_DEPTH_OF_PARTS,
            None if self.kernel.along_depth => MOST_VECTOR_DEPTH,
            None => MOST_DEPTH,
        }
    }

    /// In how many parts the depth is cut. Rows and columns are what to cut where the depth is not far longer.
    fn parts_of_depth(&self) -> usize {
        let cannot_be = self.by_library || self.turned || self.is_one_row() || self.outer > 1;
        let is_deep = self.k > DEEP * self.blocking.m.max(self.blocking.n);
        if cannot_be || !is_deep {
            1
        } else {
            parts_of_depth(self.elements().saturating_mul(self.k), self.elements(), self.k, SMALL_RESULT)
        }
    }

    fn largest_block(&self, has_epilogue: bool, packs_both: bool) -> (usize, usize) {
        let Blocking { m, n, .. } = self.blocking;
        match (has_epilogue, packs_both) {
            _ if self.is_one_column() => (self.kernel.rows.min(m), n),
            _ if self.multiplies_parts() => {
                let [rows, columns] = if has_epilogue { EPILOGUE_BLOCK_OF_PARTS } else { BLOCK_OF_PARTS };
                (rows.min(m), columns.min(n))
            }
            (_, true) => (SQUARE_BLOCK.min(m), SQUARE_BLOCK),
            (false, false) if self.by_library => (m, n),
            (false, false) => {
                let rows = if self.k.saturating_mul(n) > LARGE_FACTOR { SQUARE_BLOCK } else { MOST_PACKED_ROWS };
                (rows.min(m), MOST_COLUMNS.min(n))
            }
            // Long rows: an epilogue reads and writes several arrays, which memory serves best in long runs.
            (true, false) => {
                let sums = if self.has_lines() { BLOCK_SUMS_OF_LINES } else { BLOCK_SUMS };
                let columns = n.min(sums / self.least_rows());
                ((sums / columns).min(m), columns)
            }
        }
    }

    /// Rows that a block has at least: several tiles, and as many as columns of a tile, which take longer to bring into
    /// the cache the more there are.
    fn least_rows(&self) -> usize {
        let MicroKernel { rows, columns, .. } = self.kernel;
        if self.is_one_row() { LEAST_ROW_TILES * rows } else { columns.max(LEAST_ROW_TILES * rows) }
    }

    /// Cuts rows and columns, where they may be cut, into equal parts of at most this size; into more parts where
    /// threads would lack work or would not end together. What costs most is to read a large factor again for each of
    /// several blocks, and then few columns: what is packed for a block serves fewer tiles, and what is done with the
    /// sums runs over shorter rows. Of parts of floats the latter costs more: what a processor brings into its cache
    /// ahead of the end of a row is then what another one writes.
    fn divide(&mut self, rows: Option<usize>, columns: Option<usize>, wanted: usize) {
        let Blocking { m, n, .. } = self.blocking;
        // Of a matrix that meets a vector, nothing serves several tiles.
        let least = match self.kernel.split {
            Some(_) => [LEAST_TILES_OF_PARTS * SQUARE, LEAST_TILES_OF_PARTS],
            None if self.is_one_row() => [self.kernel.rows, 1],
            None => [self.least_rows(), LEAST_COLUMN_TILES],
        };
        let parts = |extent: usize, most: Option<usize>, least: usize| {
            most.map_or(1..=1, |most| numbers_of_parts(extent, most, least))
        };
        let down = parts(m, rows, least[0]);
        let across = parts(n, columns, least[1] * self.kernel.columns);
        let sizes = down.flat_map(|down| across.clone().map(move |across| (down, across))).map(|(down, across)| {
            (
                m.div_ceil(down).next_multiple_of(self.kernel.unit()).min(m).max(1),
                n.div_ceil(across).next_multiple_of(self.kernel.columns).min(n).max(1),
            )
        });
        let wanted = equal_shares(wanted);
        let enough = wanted.div_ceil(2);
        let preference = |&(rows, columns): &(usize, usize)| {
            let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
            let blocks = self.outer * down * across;
            let read = self.floats_read_again(m, across).saturating_add(self.floats_read_again(n, down));
            // Of many, it does not matter whether all threads get as many.
            let uneven = if blocks < MANY_BLOCKS * enough { blocks % enough } else { 0 };
            let cut = if self.multiplies_parts() { across.saturating_mul(m).saturating_mul(CUT_ROW) } else { 0 };
            let read = read.saturating_add(cut);
            (enough.saturating_sub(blocks), uneven, read, across, wanted.saturating_sub(blocks), blocks)
        };
        let (rows, columns) = sizes.min_by_key(preference).expect("any product can be left in one part");
        self.blocking = Blocking { m, n, rows, columns };
        self.grid = (m.div_ceil(rows), n.div_ceil(columns));
    }

    /// Floats that so many blocks read of a factor of so many rows or columns, where it does not stay in a cache
    /// between them, or split into parts.
    fn floats_read_again(&self, free: usize, blocks: usize) -> usize {
        let floats = self.k.saturating_mul(free);
        if floats > LARGE_FACTOR || self.multiplies_parts() { floats.saturating_mul(blocks) } else { 0 }
    }

    /// How so many rows of a block are packed and computed.
    fn group_rows(&self, rows: usize, most: usize) -> Vec<RowGroup> {
        if self.multiplies_parts() {
            let group = |first| RowGroup::in_tiles_of(first..rows.min(first + most), self.kernel.rows);
            return (0..rows).step_by(most).map(group).collect();
        }
        let group = |rows: Range<usize>| {
            let tiles = rows.len().div_ceil(self.kernel.rows);
            RowGroup::new(rows, tiles)
        };
        parts(0..rows, rows.div_ceil(most)).map(group).collect()
    }

    /// Rows whose panels are packed at a time. Of parts of floats as many as there are depths where an epilogue runs on their
    /// sums before others are packed: the fewer these are, the more of the time is the epilogue's.
    fn most_packed_rows(&self, has_epilogue: bool) -> usize {
        match self.kernel.split {
            None => MOST_PACKED_ROWS,
            Some(_) if has_epilogue && self.completes_groups() => self.k.next_multiple_of(SQUARE),
            Some(_) => MOST_PACKED_ROWS_OF_PARTS,
        }
    }

    /// Whether the sums of rows that are packed together are complete before the next ones are packed, and an epilogue runs
    /// on them then: of parts of floats blocks are large, and their sums would take a large part of the cache.
    pub(super) fn completes_groups(&self) -> bool {
        self.multiplies_parts() && self.depths.len() == 1 && !self.turned && self.bounds.is_none()
    }

    /// The columns of each tile.
    pub fn column_tiles(&self, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let (end, width) = (columns.end, self.kernel.columns);
        columns.step_by(width).map(move |first| first..end.min(first + width))
    }

    fn work_space(&self, has_epilogue: bool) -> WorkSpace {
        let depth = self.k.min(self.most_depth());
        let Blocking { n, rows, columns, .. } = self.blocking;
        let (tall, wide) = (self.kernel.rows, self.kernel.columns);
        let used = |condition: bool, floats: usize| if condition { floats.next_multiple_of(16) } else { 0 };
        let panels = |width: usize, depth: usize| self.kernel.panel_floats(width, depth);
        let packed_rows = rows.min(self.most_packed_rows(has_epilogue)).next_multiple_of(tall);
        let summed_rows = if self.completes_groups() { packed_rows } else { rows };
        WorkSpace {
            left: used(self.layouts[0] == Layout::Packed, panels(packed_rows, depth)),
            right: used(self.layouts[1] == Layout::Packed, panels(columns.next_multiple_of(wide), depth)),
            sums: used(has_epilogue || self.turned, summed_rows * self.blocking.row_stride()),
            turned: used(has_epilogue && self.turned, rows * self.blocking.row_stride()),
            shared: used(self.layouts[1] == Layout::Shared, panels(n.next_multiple_of(wide), self.k)),
            kept: used(self.layouts[1] == Layout::Kept, panels(n.next_multiple_of(wide), self.k)),
        }
    }

    /// Chunks in which shared panels are packed.
    pub fn packing_chunks(&self) -> usize {
        let panels = self.blocking.n.div_ceil(self.kernel.columns);
        equal_shares((self.floats.shared.max(self.floats.kept) / CHUNK_PACKED).clamp(1, panels.min(MOST_CHUNKS)))
    }
}

/// In how many parts of at most `most` something may be cut, where parts below `least` do not pay.
fn numbers_of_parts(extent: usize, most: usize, least: usize) -> RangeInclusive<usize> {
    let fewest = extent.div_ceil(most).max(1);
    fewest..=(extent / least).clamp(fewest, fewest + CHUNKS_WANTED)
}

/// A range in this many parts that differ by at most one.
pub(super) fn parts(range: Range<usize>, count: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let (length, longer) = (range.len() / count.max(1), range.len() % count.max(1));
    let start = move |part: usize| range.start + part * length + part.min(longer);
    (0..count).map(move |part| start(part)..start(part + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Library;
    use gradc_ir::lower::{Access, Affine, Contraction, Index};
    use gradc_ir::target::VectorIsa;

    /// An `m × k` by a `k × n` matrix, cut.
    fn cut(product: [usize; 3], isa: VectorIsa) -> ContractionPlan {
        cut_from(product, [false, false], isa)
    }

    /// The same, factors stored as `k × m` and `n × k` if they are turned.
    fn cut_from([m, n, k]: [usize; 3], turned: [bool; 2], isa: VectorIsa) -> ContractionPlan {
        let loops = |dims: &[usize], steps: &[i64]| {
            let mut affine = Affine::constant(3, 0);
            dims.iter().zip(steps).for_each(|(&dim, &step)| affine.coeffs[dim] = step);
            affine
        };
        let factor = |operand, view: [usize; 2], dims: [usize; 2]| {
            let indices = dims.map(|dim| Index::from(loops(&[dim], &[1]))).to_vec();
            Access { operand, view: view.to_vec(), indices, fill: None }
        };
        let contraction = Contraction {
            space: vec![m, n],
            reduce: vec![k],
            lhs: if turned[0] { factor(0, [k, m], [2, 0]) } else { factor(0, [m, k], [0, 2]) },
            rhs: if turned[1] { factor(1, [n, k], [1, 2]) } else { factor(1, [k, n], [2, 1]) },
            bands: vec![],
        };
        let result = loops(&[0, 1], &[n as i64, 1]);
        let mut plan = ContractionPlan::new(&contraction, &result, isa, Library::Never).expect("tiles serve");
        plan.cut(None, 0);
        plan
    }

    #[test]
    fn a_large_factor_is_read_once() {
        for isa in [VectorIsa::Portable, VectorIsa::Avx2, VectorIsa::Avx512, VectorIsa::Amx] {
            assert_eq!(
                cut([256, 768, 3072], isa).grid.0,
                1,
                "rows that meet a large right factor are cut with {isa:?}"
            );
            assert_eq!(cut([256, 50257, 768], isa).grid.0, 1, "rows of a product of many blocks are cut with {isa:?}");
            // Both are large, the left one more so.
            assert_eq!(cut([4096, 512, 640], isa).grid.1, 1, "columns that meet a larger left factor with {isa:?}");
        }
    }

    #[test]
    fn sums_of_parts_are_made_apart_where_rows_of_the_result_meet_in_the_cache() {
        let apart = |n, isa| cut([256, n, 768], isa).sums_apart();
        assert!(![784, 1008].iter().any(|&n| apart(n, VectorIsa::Amx)), "rows are lines of their own");
        let parts = cut([256, 784, 768], VectorIsa::Amx).multiplies_parts();
        assert_eq!([1001, 1024].map(|n| apart(n, VectorIsa::Amx)), [parts; 2]);
        assert!(!apart(1001, VectorIsa::Avx2), "tiles of floats are stored once");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rows_are_cut_before_columns_of_which_threads_write_the_same_lines() {
        let plan = cut_from([256, 512, 64], [true, false], VectorIsa::Amx);
        assert!(plan.multiplies_parts(), "weight gradients of 64 rows are products of parts");
        assert_eq!(plan.grid, (2, 1), "though splitting fewer floats of the left factor would take less");
        // Reading the longer right factor twice takes longer than cutting rows once more.
        assert_eq!(cut([256, 2304, 768], VectorIsa::Amx).grid.0, 1);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn few_rows_or_columns_are_read_along_the_depth() {
        for isa in [VectorIsa::Avx2, VectorIsa::Avx512] {
            let along_depth = |product, turned| cut_from(product, turned, isa).kernel.along_depth;
            // Nothing has to be transposed, or little; and lanes are full.
            assert!(along_depth([4, 512, 784], [false, true]) && along_depth([64, 4, 512], [false, true]), "{isa:?}");
            assert!(along_depth([64, 4, 512], [false, false]), "{isa:?}");
            assert!(!along_depth([4, 512, 784], [false, false]), "{isa:?}: columns are next to each other");
            assert!(!along_depth([48, 512, 784], [false, true]), "{isa:?}: what is transposed serves many rows");
            assert!(!along_depth([24, 256, 32], [false, true]), "{isa:?}: the lanes of each element have to meet");
            // Rows that fill vectors become columns.
            let cut = |n| cut_from([512, n, 64], [true, false], isa);
            assert_eq!([4, 48].map(|n| cut(n).turned), [true, false], "{isa:?}");
            assert!(cut(4).kernel.columns >= 16, "{isa:?}: tiles are those of its many columns");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rows_that_are_complete_at_once_are_few_before_an_epilogue() {
        let packed_rows = |k, has_epilogue| cut([784, 512, k], VectorIsa::Amx).most_packed_rows(has_epilogue);
        assert_eq!([64, 128].map(|k| packed_rows(k, true)), [64, 128]);
        assert_eq!([packed_rows(64, false), packed_rows(256, true)], [MOST_PACKED_ROWS_OF_PARTS; 2]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_large_factor_that_is_read_in_place_is_read_ahead() {
        let reads_ahead = |product, isa| cut(product, isa).reads_ahead;
        assert!(reads_ahead([64, 512, 784], VectorIsa::Avx512));
        assert!(!reads_ahead([32, 128, 784], VectorIsa::Avx512), "it stays in the second-level cache");
        assert!(!reads_ahead([512, 512, 784], VectorIsa::Avx512), "panels follow each other");
        assert!(!reads_ahead([64, 512, 784], VectorIsa::Avx2), "vectors are halves of lines");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn depths_of_the_left_factor_that_are_far_apart_are_packed_for_few_tiles() {
        let layout = |m, isa| cut_from([m, 256, 128], [true, false], isa).layouts[0];
        assert_eq!([layout(384, VectorIsa::Avx512), layout(512, VectorIsa::Avx2)], [Layout::InPlace; 2]);
        assert_eq!([layout(512, VectorIsa::Avx512), layout(1024, VectorIsa::Avx2)], [Layout::Packed; 2]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rows_that_are_pages_apart_are_packed_for_few_tiles() {
        let layout = |m, n| cut([m, n, 512], VectorIsa::Avx512).layouts[1];
        assert_eq!([layout(128, 1536), layout(32, 2048)], [Layout::InPlace; 2]);
        assert_ne!(layout(128, 2048), Layout::InPlace);
    }
}
