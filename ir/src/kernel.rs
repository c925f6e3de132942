//! Kernels: what one native function computes, after fusion.

use crate::graph::Value;
use crate::lower::{Access, Body, Combine, Contraction, Lines, Scalar, ScalarId, Scatter};
use crate::types::{TensorType, row_major_strides};

/// One native function: what it computes, what it reads and what it makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// What it computes.
    pub kind: KernelKind,
    /// Values read; accesses refer to them by position.
    pub operands: Vec<Value>,
    /// Values made, each dense and row-major.
    pub results: Vec<Value>,
}

/// The forms of kernel that code generation knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KernelKind {
    /// A fused loop nest, with or without an accumulation.
    Loops(LoopKernel),
    /// Several loop nests over the same rows.
    Rows(RowKernel),
    /// An update of computed places in a copy of operand 0.
    Scatter(Scatter),
    /// Work along each line of an axis of operand 0.
    Lines(Lines),
}

/// A loop over `space`: accumulate, then run `body` and store.
///
/// ```text
/// for i in space (row-major):
///     (Accumulated 0, …) = accumulate(i)
///     (s0, s1, …) = body(i)
///     result k [i] = stores[k]
/// ```
///
/// Points are independent: a result may share its buffer with an operand that is only read at the point itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopKernel {
    /// Extents of every result (a result's own shape may be coarser, never of another row-major order).
    pub space: Vec<usize>,
    /// What is accumulated per point, if anything.
    pub accumulate: Option<Accumulate>,
    /// Scalar code per point; its accesses use the loop indices of `space` only.
    pub body: Body,
    /// One scalar of `body` per result.
    pub stores: Vec<ScalarId>,
}

/// An accumulation per point of a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Accumulate {
    /// Combines values of `body` over `extents`; loop indices are those of the space followed by those of `extents`.
    Reduce {
        /// Extents reduced over.
        extents: Vec<usize>,
        /// How values meet.
        combine: Combine,
        /// Scalar code per point and reduced index.
        body: Body,
        /// The scalars that are combined, each by itself, of one dtype; at least one.
        values: Vec<ScalarId>,
    },
    /// A sum of products; its `space` equals the kernel's.
    Contract(Contraction),
}

impl LoopKernel {
    /// Every read of an operand, with the extents that it is reduced over.
    pub fn reads(&self) -> impl Iterator<Item = (&Access, &[usize])> {
        let (body, factors, reduced): (_, _, &[usize]) = match &self.accumulate {
            None => (None, [None, None], &[]),
            Some(Accumulate::Reduce { extents, body, .. }) => (Some(body), [None, None], extents),
            Some(Accumulate::Contract(c)) => (None, [Some(&c.lhs), Some(&c.rhs)], &c.reduce),
        };
        let accumulated = body.into_iter().flat_map(loads).chain(factors.into_iter().flatten());
        accumulated.map(move |access| (access, reduced)).chain(loads(&self.body).map(|access| (access, &[][..])))
    }
}

impl LoopKernel {
    /// The kernel with other numbers of its operands.
    pub fn renumbered(mut self, number: impl Fn(usize) -> usize) -> LoopKernel {
        let renumber = |access: &mut Access| access.operand = number(access.operand);
        match &mut self.accumulate {
            None => {}
            Some(Accumulate::Reduce { body, .. }) => loads_mut(body).for_each(renumber),
            Some(Accumulate::Contract(c)) => [&mut c.lhs, &mut c.rhs].into_iter().for_each(renumber),
        }
        loads_mut(&mut self.body).for_each(renumber);
        self
    }
}

fn loads_mut(body: &mut Body) -> impl Iterator<Item = &mut Access> {
    let scalars = body.scalars.iter_mut();
    scalars.filter_map(|(scalar, _)| if let Scalar::Load(access) = scalar { Some(access) } else { None })
}

fn loads(body: &Body) -> impl Iterator<Item = &Access> {
    body.scalars.iter().filter_map(|(scalar, _)| if let Scalar::Load(access) = scalar { Some(access) } else { None })
}

/// Loop kernels that run one after the other on some rows, then on the next: what one of them makes of a row is in the
/// cache when another reads it.
///
/// ```text
/// for r in 0..rows:
///     for step in steps:
///         step at the points of row r
/// ```
///
/// A row of a space or of a tensor is one of `rows` parts of equal size, in row-major order. Rows are independent: of
/// what is made inside, a step reads the row that it is at only, and only what steps before it have made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowKernel {
    /// Number of rows: the product of the first axes of every step's space.
    pub rows: usize,
    /// Values that exist only inside, for as many rows as are worked on at a time.
    pub temporaries: Vec<TensorType>,
    /// What is done with each row, in order.
    pub steps: Vec<RowStep>,
}

/// A step of a [`RowKernel`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowStep {
    /// What is computed. Accesses count the kernel's operands, then its results, then its temporaries.
    pub loops: LoopKernel,
    /// What each of its stores makes: a position among the results and, behind them, the temporaries.
    pub makes: Vec<usize>,
}

/// How many of the first axes of a space make `rows` rows, as few as possible; `None` where rows end within an axis.
pub fn row_axes(space: &[usize], rows: usize) -> Option<usize> {
    (0..=space.len()).find(|&axes| space[..axes].iter().product::<usize>() == rows)
}

/// Whether a point of a space, at any index reduced over, reads its own row only: space and view have `rows` rows each.
pub fn stays_in_row(access: &Access, space: &[usize], reduced: &[usize], rows: usize) -> bool {
    let elements: usize = access.view.iter().product();
    let (Some(axes), true) = (row_axes(space, rows), elements.is_multiple_of(rows)) else { return false };
    let (None, Some(flat)) = (access.fill, access.flat()) else { return rows == 1 };
    let width = (elements / rows) as i64;
    let by_row = |(d, stride): (usize, usize)| space[d] == 1 || flat.coeffs.get(d) == Some(&(stride as i64 * width));
    let (mut first, mut last) = (flat.base, flat.base);
    for (&coeff, &extent) in flat.coeffs.iter().zip(space.iter().chain(reduced)).skip(axes) {
        let farthest = coeff * (extent as i64 - 1);
        (first, last) = (first + farthest.min(0), last + farthest.max(0));
    }
    let along_rows = row_major_strides(&space[..axes]).into_iter().enumerate().all(by_row);
    rows == 1 || along_rows && first >= 0 && last < width
}
