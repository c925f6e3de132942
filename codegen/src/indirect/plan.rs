//! How the tiles of a contraction are computed: in which order, and in which chunks.

use super::depths::beside_each_other;
use super::factor::FactorCopy;
use super::interleaving::{Interleaved, interleaved};
use super::padding::padded;
use super::roles::Roles;
use super::tiles::Tables;
use crate::chunks::{SMALL_RESULT, equal_shares, parts_of_depth};
use crate::loops::{Blocking, Groups};
use crate::microkernel::{
    RowKernel, Slide, kernel_of_neighbours, kernels_of_depths, neighbour_kernel, row_kernel, sliding_kernel,
};
use gradc_ir::lower::Contraction;
use gradc_ir::target::VectorIsa;
use std::ops::Range;

/// Multiplications of a chunk of tiles, at least: about 5 µs of work. A kernel that one thread does alone also brings
/// it what others have made, and leaves its result away from them.
const TILE_PRODUCTS: usize = 1 << 18;

/// What a product of lanes costs, in products of rows with columns: it loads an operand of its own.
const LANEWISE_COST: usize = 3;

/// Most chunks of one kernel.
const MOST_CHUNKS: usize = 32;

/// Floats of a right factor that does not stay in the second-level cache beside all else.
const LARGE_FACTOR: usize = 1 << 17;

/// Rows of a chunk of tiles that reads such a factor, at least: reading is then little beside multiplying. Where that
/// makes fewer chunks than these, threads would lack work.
const ROWS_OF_LARGE: usize = 64;
const FEWEST_CHUNKS: usize = 4;

/// Largest result of which parts of such a factor may have their own sums, in elements, and how many times as many
/// depths as rows it then has.
const RESULT_OF_LARGE: usize = 1 << 16;
const DEEP: usize = 8;

/// Rows that share tables, at least. More are taken where tiles would otherwise mix rows that meet different runs.
const FEW_ROWS: [usize; 3] = [96, 768, 6144];

/// Share of mixed tiles that is accepted.
const MIXED_SHARE: f64 = 0.125;

/// Sums of the largest product that an epilogue runs on: a part of the second-level cache.
const PRODUCT_SUMS: usize = 1 << 15;

/// Fewest multiplications for which tables are made.
const FEWEST_PRODUCTS: usize = 512;

/// Most columns for which a copy of the left factor may pay: more fill vectors, and their sums outweigh what rows cost.
const FEW_COLUMNS: usize = 8;

/// Most depths between rows that slide.
const MOST_APART: usize = 2;

/// Products of matrices whose left rows are found through tables.
#[derive(Clone, Debug)]
pub(crate) struct IndirectPlan {
    /// Operand of the left and of the right factor.
    pub left: usize,
    pub right: usize,
    /// The copy that stands for one of them.
    pub copy: Option<FactorCopy>,
    /// From one depth to the next in them, in elements.
    pub(super) steps: [isize; 2],
    /// The left factor has the columns too.
    pub(super) lanewise: bool,
    pub(super) columns: usize,
    pub(super) kernel: RowKernel,
    pub(super) tables: Tables,
    /// How the work is cut.
    cut: Cut,
    /// Elements of the result.
    elements: usize,
    /// Where rows and columns begin among the loops of the space, when all before them are different products.
    groups: Option<Groups>,
    /// Products that follow each other and are together all rows of the groups: 1 where each has them all.
    parts_of_rows: usize,
}

/// What one chunk computes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// This many of the tiles, products one after the other.
    Tiles(usize),
    /// This many groups of the depth, for all tiles, into sums of its own.
    Depth(usize),
}

/// A chunk: groups of depth of tiles of products; offset of its sums, in elements.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Numbers of tiles, counted over all products.
    pub tiles: Range<usize>,
    pub groups: Range<usize>,
    pub sums: usize,
}

impl IndirectPlan {
    /// Plans an f32 contraction; `None` where tables of rows do not serve. If a copy stands for a factor, that is
    /// operand `copy`.
    pub fn new(contraction: &Contraction, isa: VectorIsa, copy: usize) -> Option<IndirectPlan> {
        let elements: usize = contraction.space.iter().product();
        if elements * contraction.reduce.iter().product::<usize>() < FEWEST_PRODUCTS {
            return None;
        }
        let roles = Roles::new(contraction, FEW_ROWS[0], false, 1)?;
        let columns = roles.count(&roles.columns);
        if let Some(plan) = IndirectPlan::sliding(contraction, &roles, isa) {
            return Some(plan);
        }
        let kernel = row_kernel(isa, columns, roles.lanewise);
        let mut plans = vec![IndirectPlan::by(contraction, kernel, None)?];
        if columns <= FEW_COLUMNS && !roles.lanewise {
            plans.extend(IndirectPlan::on_copies(contraction, [Some(kernel), neighbour_kernel(isa)], copy));
        }
        if !roles.lanewise
            && let Some(kernel) = kernel_of_neighbours(isa, columns)
        {
            plans.extend(IndirectPlan::by(contraction, kernel, None));
        }
        for kernel in kernels_of_depths(isa, columns) {
            let made = beside_each_other(contraction, &roles, &kernel, copy);
            plans.extend(made.and_then(|(contraction, made)| IndirectPlan::by(&contraction, kernel, Some(made))));
        }
        plans.into_iter().min_by(|a, b| a.cost().total_cmp(&b.cost()))
    }

    /// The plan in which rows slide along the runs, if they do.
    fn sliding(contraction: &Contraction, roles: &Roles, isa: VectorIsa) -> Option<IndirectPlan> {
        let slides = (1..=MOST_APART).map(|apart| Slide { apart, depth: roles.depth() });
        let kernels = slides.filter(|_| roles.lanewise).filter_map(|slide| sliding_kernel(isa, slide));
        kernels.filter_map(|kernel| IndirectPlan::by(contraction, kernel, None)).next()
    }

    /// Plans in which operand `copy` stands for the left factor: one with zeros around it, or one in which images are
    /// neighbours.
    fn on_copies(contraction: &Contraction, kernels: [Option<RowKernel>; 2], copy: usize) -> Vec<IndirectPlan> {
        let mut plans = vec![];
        for kernel in kernels.into_iter().flatten() {
            if let Some((padded, made)) = padded(contraction, copy) {
                plans.extend(IndirectPlan::by(&padded, kernel, Some(made)));
            }
            let vectors = (1..=kernel.rows / kernel.neighbours).filter(|_| kernel.neighbours > 1);
            let lanes = vectors.map(|vectors| vectors * kernel.neighbours);
            for (lanes, factor) in lanes.flat_map(|lanes| [(lanes, 0), (lanes, 1)]) {
                let made = interleaved(contraction, factor, copy, lanes);
                plans.extend(made.and_then(|made| IndirectPlan::by_groups(made, kernel)));
            }
        }
        plans.retain(|plan| plan.left == copy);
        plans
    }

    /// The plan with a kernel on a copy in which images are neighbours.
    fn by_groups(Interleaved { contraction, copy, groups }: Interleaved, kernel: RowKernel) -> Option<IndirectPlan> {
        let mut plan = IndirectPlan::by(&contraction, kernel, Some(copy))?;
        // The loops of the kernel are those before the split; what repeats the product may be groups of its first row.
        plan.groups = plan.groups.map(|Groups { first_row, first_column }| {
            let before = |loop_: usize| if loop_ > groups { loop_ - 1 } else { loop_ };
            if first_row == groups + 1 {
                plan.parts_of_rows = contraction.space[groups];
            }
            Groups { first_row: before(first_row), first_column: before(first_column) }
        });
        Some(plan)
    }

    /// The plan with a kernel and a copy.
    fn by(contraction: &Contraction, kernel: RowKernel, copy: Option<FactorCopy>) -> Option<IndirectPlan> {
        let elements: usize = contraction.space.iter().product();
        let products = elements * contraction.reduce.iter().product::<usize>() * kernel.depths;
        let roles = |few: usize| Roles::new(contraction, few, kernel.neighbours > 1, kernel.depths);
        let tables = FEW_ROWS.iter().filter_map(|&few| {
            let roles = roles(few)?;
            Some((Tables::new(&roles, &kernel)?, roles.groups()))
        });
        let (tables, groups) = first_or_least(tables, MIXED_SHARE, |(tables, _)| tables.mixed_share())?;
        let roles = roles(FEW_ROWS[0])?;
        let cost = if roles.lanewise { LANEWISE_COST } else { 1 };
        let depth = products / elements.max(1);
        let is_large = depth * roles.count(&roles.columns) > LARGE_FACTOR;
        let cut = Cut::new(&tables, &kernel, (products.saturating_mul(cost), elements, depth), is_large);
        let steps = [&roles.left, &roles.right].map(|load| super::factor::step(load, roles.run) as isize);
        let (left, right, lanewise) = (roles.left.operand, roles.right.operand, roles.lanewise);
        let columns = roles.count(&roles.columns);
        let parts_of_rows = 1;
        Some(IndirectPlan {
            left,
            right,
            copy,
            steps,
            lanewise,
            columns,
            kernel,
            tables,
            cut,
            elements,
            groups,
            parts_of_rows,
        })
    }

    /// What computing it takes; only comparisons count.
    fn cost(&self) -> f64 {
        self.tables.cost(&self.kernel, self.columns, self.copy.as_ref().map_or(0, FactorCopy::floats))
    }

    /// Makes chunks of whole products, so that something can run on the sums of each while they are in the cache: where
    /// rows, columns and what products differ in are apart, and there are enough products for all chunks.
    pub fn cut_by_product(&mut self) -> Option<(Groups, Blocking)> {
        let (groups, products) = (self.groups?, &self.tables.products);
        let tiles = products.first()?.tiles.len();
        let sums = self.elements / products.len();
        let Cut::Tiles(size) = self.cut else { return None };
        let equal = products.iter().all(|p| p.tiles.len() == tiles);
        if !equal || sums > PRODUCT_SUMS || products.len() < self.chunks() {
            return None;
        }
        self.cut = Cut::Tiles(size.next_multiple_of(tiles));
        let (rows, n) = (sums / self.columns, self.columns);
        Some((groups, Blocking { m: rows * self.parts_of_rows, n, rows, columns: n }))
    }

    /// Which product of the kernel's groups a product is of, and its rows there.
    pub(super) fn rows_of_product(&self, product: usize) -> (usize, [usize; 2]) {
        let [m, _] = self.product_extents();
        let part = product % self.parts_of_rows;
        (product / self.parts_of_rows, [part * m, (part + 1) * m])
    }

    /// Rows and columns of one product.
    pub(super) fn product_extents(&self) -> [usize; 2] {
        [self.elements / self.tables.products.len() / self.columns, self.columns]
    }

    /// Number of chunks, by shape alone.
    pub fn chunks(&self) -> usize {
        match self.cut {
            Cut::Tiles(size) => self.tables.count().div_ceil(size),
            Cut::Depth(size) => self.tables.depth_groups.div_ceil(size),
        }
    }

    /// Number of partial results, which have to be added; with one, that is the result.
    pub fn partials(&self) -> usize {
        match self.cut {
            Cut::Tiles(_) => 1,
            Cut::Depth(_) => self.chunks(),
        }
    }

    /// What a chunk computes.
    pub(super) fn part(&self, chunk: usize) -> Part {
        let piece = |size: usize, all: usize| chunk * size..all.min((chunk + 1) * size);
        let (tiles, groups) = (self.tables.count(), self.tables.depth_groups);
        match self.cut {
            Cut::Tiles(size) => Part { tiles: piece(size, tiles), groups: 0..groups, sums: 0 },
            Cut::Depth(size) => Part { tiles: 0..tiles, groups: piece(size, groups), sums: chunk * self.elements },
        }
    }
}

/// The first item of which `measure` is at most `enough`, else the one of which it is least.
fn first_or_least<T>(items: impl Iterator<Item = T>, enough: f64, measure: impl Fn(&T) -> f64) -> Option<T> {
    let mut best: Option<T> = None;
    for item in items {
        if measure(&item) <= enough {
            return Some(item);
        }
        if best.as_ref().is_none_or(|b| measure(&item) < measure(b)) {
            best = Some(item);
        }
    }
    best
}

impl Cut {
    /// How to cut so many products, `depth` for each element; whether the right factor is large.
    fn new(
        tables: &Tables,
        kernel: &RowKernel,
        (products, elements, depth): (usize, usize, usize),
        is_large: bool,
    ) -> Cut {
        let rows = tables.count() * kernel.rows;
        let small = if is_large && depth > DEEP * rows { RESULT_OF_LARGE } else { SMALL_RESULT };
        let partials = parts_of_depth(products, elements, depth, small).min(equal_shares(tables.depth_groups / 2));
        if partials > 1 {
            return Cut::Depth(tables.depth_groups.div_ceil(partials));
        }
        let least_rows = if is_large { ROWS_OF_LARGE } else { 1 };
        let most = (rows / least_rows).clamp(FEWEST_CHUNKS, MOST_CHUNKS);
        let wanted = equal_shares((products / TILE_PRODUCTS).clamp(1, most));
        Cut::Tiles(tables.count().div_ceil(wanted).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indirect::tiles::Product;

    /// The cut of so many rows and columns with this depth.
    fn cut(rows: usize, columns: usize, depth: usize) -> Cut {
        let kernel = row_kernel(VectorIsa::Portable, columns, false);
        let product = Product { left: 0, right: 0, result: 0, tiles: 0..rows / kernel.rows, first: 0 };
        let tables = Tables { products: vec![product], depth_groups: depth.div_ceil(256), ..Tables::default() };
        let (elements, is_large) = (rows * columns, depth * columns > LARGE_FACTOR);
        Cut::new(&tables, &kernel, (elements * depth, elements, depth), is_large)
    }

    #[test]
    fn chunks_that_read_a_large_factor_have_many_rows() {
        let rows = row_kernel(VectorIsa::Portable, 256, false).rows;
        assert!(matches!(cut(512, 256, 512), Cut::Tiles(tiles) if tiles * rows == 16), "read from the cache");
        assert!(matches!(cut(512, 256, 2304), Cut::Tiles(tiles) if tiles * rows == 64), "read from beyond it");
        assert!(matches!(cut(64, 2048, 512), Cut::Tiles(tiles) if tiles * rows == 16), "few rows");
    }

    #[test]
    fn long_sums_over_a_large_factor_are_cut_before_rows() {
        assert!(matches!(cut(576, 64, 8192), Cut::Depth(4)));
        assert!(matches!(cut(576, 64, 1024), Cut::Tiles(_)), "a small factor");
        assert!(matches!(cut(576, 64, 4096), Cut::Tiles(_)), "not much deeper than rows");
    }
}
