//! What the loops of a contraction are to its factors, and the layouts that follow from it.

use super::Stored;
use super::reorder::stored_places;
use crate::axes::{block, groups};
use gradc_ir::layout::Layout;
use gradc_ir::lower::{Access, Contraction, Index};

/// Channels from which on it pays to have them innermost: what a window meets at one place is then read, and made, together.
const CHANNELS: usize = 2;

/// The loops of a contraction by who uses them.
pub(super) struct Roles<'a> {
    contraction: &'a Contraction,
    extents: Vec<usize>,
}

impl<'a> Roles<'a> {
    pub fn new(contraction: &'a Contraction) -> Self {
        Roles { contraction, extents: [&contraction.space[..], &contraction.reduce].concat() }
    }

    /// Layouts of the factors, which are stored as `operands` or can be copied, and of the result of shape `shape`;
    /// `from_outside` says that the left factor is an input of the graph.
    pub fn choose(
        &self,
        stored: &[Stored],
        operands: &[Option<Layout>],
        from_outside: bool,
        shape: &[usize],
    ) -> (Vec<Option<Layout>>, Option<Layout>) {
        let [left, right] = [0, 1].map(|k| operands[k].clone());
        if !self.is_windowed() {
            let result = self.result_layout(Stored { layout: left.as_ref(), ..stored[0] }, shape);
            return (vec![left, right], result);
        }
        let left = left.or_else(|| self.window_layout(&stored[0], from_outside));
        let places = self.places(Stored { layout: left.as_ref(), ..stored[0] });
        let places = places.expect("layouts that an access cannot follow are dropped");
        let result = self.multiplied_layout(shape, &self.contraction.space, &places, |axis| vec![axis]);
        let factor = &self.contraction.rhs;
        let loops = |axis: usize| self.loops_along(&factor.indices[axis]);
        let right = self.multiplied_layout(stored[1].shape, &factor.view, &places, loops).or(right);
        (vec![left, right], result)
    }

    fn places(&self, left: Stored) -> Option<Vec<usize>> {
        stored_places(&self.contraction.lhs, self.extents.len(), &[left])
    }

    /// Extents of the result.
    pub fn space(&self) -> &[usize] {
        &self.contraction.space
    }

    /// How a factor is read.
    pub fn factor(&self, k: usize) -> &Access {
        [&self.contraction.lhs, &self.contraction.rhs][k]
    }

    pub fn loops_along(&self, index: &Index) -> Vec<usize> {
        (0..self.extents.len()).filter(|&d| index.affine.coeffs[d] != 0).collect()
    }

    fn moves(&self, access: &Access, d: usize) -> bool {
        self.extents[d] > 1 && access.indices.iter().any(|i| i.affine.coeffs[d] != 0)
    }

    /// Only the left factor moves with the loop.
    pub fn is_row(&self, d: usize) -> bool {
        self.moves(&self.contraction.lhs, d) && !self.moves(&self.contraction.rhs, d)
    }

    /// Only the right factor moves with the loop.
    pub fn is_column(&self, d: usize) -> bool {
        !self.moves(&self.contraction.lhs, d) && self.moves(&self.contraction.rhs, d)
    }

    /// Whether the left factor is read through a window: along an axis by two loops, or with holes.
    pub fn is_windowed(&self) -> bool {
        let loops = |i: &Index| self.loops_along(i).into_iter().filter(|&d| self.extents[d] > 1).count();
        self.contraction.lhs.indices.iter().any(|i| i.divisor > 1 || loops(i) > 1)
    }

    /// The left factor with its channels, the last axis that the window does not slide over, innermost.
    ///
    /// Few channels pay only where images come from outside, always in row-major order.
    fn window_layout(&self, left: &Stored, from_outside: bool) -> Option<Layout> {
        let access = &self.contraction.lhs;
        let axes = groups(left.shape, &access.view)?;
        let windowed = |axis: usize| block(&axes, axis).any(|at| self.loops_along(&access.indices[at]).len() > 1);
        let channels = (0..left.shape.len()).rev().find(|&axis| !windowed(axis))?;
        let mut order: Vec<usize> = (0..left.shape.len()).collect();
        order.sort_by_key(|&axis| (axis == channels, windowed(axis)));
        if from_outside { Layout::new(&order, left.shape) } else { long_enough(&order, left.shape) }
    }

    /// A tensor of `shape`, seen as `view`, with its axes in the order in which the left factor's are multiplied,
    /// columns innermost.
    fn multiplied_layout(
        &self,
        shape: &[usize],
        view: &[usize],
        places: &[usize],
        loops_along: impl Fn(usize) -> Vec<usize>,
    ) -> Option<Layout> {
        let axes = groups(shape, view)?;
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|&axis| {
            let loops = || block(&axes, axis).flat_map(&loops_along).filter(|&d| self.extents[d] > 1);
            (loops().any(|d| self.is_column(d)), loops().map(|d| places[d]).min())
        });
        long_enough(&order, shape)
    }

    /// The result of a contraction without window: row-major, unless that would put columns between the rows of a left
    /// factor that is stored in another order; then columns stand where that factor has what is summed over.
    fn result_layout(&self, left: Stored, shape: &[usize]) -> Option<Layout> {
        left.layout.filter(|_| self.has_columns_between_rows())?;
        let places = self.places(left)?;
        let axes = groups(shape, &self.contraction.space)?;
        let summed = (self.contraction.space.len()..self.extents.len()).filter(|&d| self.extents[d] > 1);
        let columns = summed.map(|d| places[d]).min()?;
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|&axis| {
            let loops = || block(&axes, axis).filter(|&d| self.extents[d] > 1);
            let is_batch = loops().any(|d| !self.is_row(d) && !self.is_column(d));
            (!is_batch, loops().map(|d| if self.is_column(d) { columns } else { places[d] }).min())
        });
        Layout::new(&order, shape)
    }

    fn has_columns_between_rows(&self) -> bool {
        let mut loops = (0..self.contraction.space.len()).filter(|&d| self.is_row(d) || self.is_column(d));
        let first_row = loops.by_ref().find(|&d| self.is_row(d));
        let column = loops.by_ref().find(|&d| self.is_column(d));
        first_row.is_some() && column.is_some() && loops.any(|d| self.is_row(d))
    }

    /// The layout of factor `k`, row-major so far, that puts the innermost loop of the result innermost; `None` when it
    /// is, when the factor does not have it, and for windows.
    pub fn contiguous_columns(
        &self,
        k: usize,
        factor: &[usize],
        result: &[usize],
        layout: Option<&Layout>,
    ) -> Option<Layout> {
        let (space, access) = (self.space(), self.factor(k));
        let order = Stored { shape: result, layout }.view_order(space)?;
        let innermost = order.into_iter().rev().find(|&d| space[d] > 1)?;
        let is_its_own = [self.is_row(innermost), self.is_column(innermost)][k];
        if !is_its_own || self.is_windowed() || access.view != factor {
            return None;
        }
        let mut order: Vec<usize> = (0..factor.len()).collect();
        order.sort_by_key(|&axis| access.indices[axis].affine.coeffs[innermost] != 0);
        Layout::new(&order, factor)
    }
}

/// The layout of this order, if the innermost axis is long enough for it to pay.
fn long_enough(order: &[usize], shape: &[usize]) -> Option<Layout> {
    let innermost = order.iter().rev().find(|&&axis| shape[axis] > 1)?;
    Layout::new(order, shape).filter(|_| shape[*innermost] >= CHANNELS)
}
