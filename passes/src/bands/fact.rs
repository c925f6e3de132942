//! What is known of a tensor or of a scalar at all points of some loops.

use gradc_ir::band::{Band, LoopBand};
use gradc_ir::lower::{Access, Affine, Index};
use gradc_ir::types::row_major_strides;

/// A set of axes, or of loops: bit `d` for the one numbered `d`, the last bit for all further ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Axes(u64);

impl Axes {
    pub const NONE: Axes = Axes(0);
    pub const ALL: Axes = Axes(u64::MAX);

    pub fn one(axis: usize) -> Axes {
        Axes(1 << axis.min(63))
    }

    pub fn union(self, other: Axes) -> Axes {
        Axes(self.0 | other.0)
    }

    pub fn contains(self, axis: usize) -> bool {
        self.0 & Axes::one(axis).0 != 0
    }
}

impl FromIterator<usize> for Axes {
    fn from_iter<I: IntoIterator<Item = usize>>(axes: I) -> Self {
        axes.into_iter().fold(Axes::NONE, |set, axis| set.union(Axes::one(axis)))
    }
}

/// One value that all elements outside of a band have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    /// The value; booleans as 0 and 1. Of a zero, the sign may be any.
    pub value: f64,
    /// The band, between two axes, or two loops.
    pub within: LoopBand,
}

/// What is known of a tensor, whose axes are those it is stored with, or of a scalar, whose axes are the loops around it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fact {
    /// The value of all elements.
    pub uniform: Option<f64>,
    /// The integers that all elements are, from their indices.
    pub line: Option<Affine>,
    /// Values that all elements outside of bands have.
    pub known: Vec<Known>,
    /// The axes along which it may vary.
    pub varies: Axes,
    /// If it may not be finite although all that is computed from finite values is: along which axes that may vary.
    pub suspect: Option<Axes>,
}

impl Fact {
    /// Nothing but that it is finite.
    pub fn finite() -> Fact {
        Fact { uniform: None, line: None, known: vec![], varies: Axes::ALL, suspect: None }
    }

    /// Nothing.
    pub fn anything() -> Fact {
        Fact { suspect: Some(Axes::ALL), ..Fact::finite() }
    }

    /// What a read of a tensor of this shape is at the points of loops of these extents.
    pub fn read(&self, shape: &[usize], access: &Access, extents: &[usize]) -> Fact {
        let read = Read { shape, access, extents };
        let varies = read.loops_of_axes(self.varies);
        let suspect = self.suspect.map(|axes| read.loops_of_axes(axes));
        match access.fill {
            Some(fill) if !fill.get().is_finite() => Fact { varies, ..Fact::anything() },
            Some(_) => Fact { varies, suspect, ..Fact::finite() },
            None => {
                let known = |k: &Known| Some(Known { value: k.value, within: read.band(&k.within)? });
                let known = self.known.iter().filter_map(known).collect();
                let line = self.line.as_ref().and_then(|line| read.line(line));
                Fact { uniform: self.uniform, line, known, varies, suspect }
            }
        }
    }
}

/// A read of a tensor of some shape inside of loops.
pub(crate) struct Read<'a> {
    pub shape: &'a [usize],
    pub access: &'a Access,
    pub extents: &'a [usize],
}

impl Read<'_> {
    /// The loops that move along an axis of the view.
    fn loops_of(&self, axis: usize) -> Axes {
        let Index { affine, loaded, .. } = &self.access.indices[axis];
        match loaded {
            Some(_) => Axes::ALL,
            None => (0..affine.coeffs.len()).filter(|&d| affine.coeffs[d] != 0).collect(),
        }
    }

    /// The loops that move along some axes of the tensor.
    fn loops_of_axes(&self, axes: Axes) -> Axes {
        let loops = |axis: usize| match axis_as(self.shape, axis, &self.access.view) {
            Some(axis) => self.loops_of(axis),
            None if self.shape[axis] == 1 => Axes::NONE,
            None => Axes::ALL,
        };
        (0..self.shape.len()).filter(|&axis| axes.contains(axis)).fold(Axes::NONE, |all, a| all.union(loops(a)))
    }

    /// The loop that moves along an axis of the tensor by one element in each step, and where it starts.
    pub fn loop_along(&self, axis: usize) -> Option<(usize, usize)> {
        let axis = axis_as(self.shape, axis, &self.access.view)?;
        let Index { affine, divisor: 1, loaded: None } = &self.access.indices[axis] else { return None };
        let mut moving = (0..affine.coeffs.len()).filter(|&d| affine.coeffs[d] != 0 && self.extents[d] != 1);
        let (d, start) = (moving.next()?, usize::try_from(affine.base).ok()?);
        let only = moving.next().is_none() && affine.coeffs[d] == 1;
        (only && start + self.extents[d] <= self.access.view[axis]).then_some((d, start))
    }

    /// A band between two axes of the tensor as one between the loops along them.
    fn band(&self, of: &LoopBand) -> Option<LoopBand> {
        let ((row, from), (column, left)) = (self.loop_along(of.row)?, self.loop_along(of.column)?);
        let (rows, columns) = (from..from + self.extents[row], left..left + self.extents[column]);
        (row != column).then_some(())?;
        Some(LoopBand { row, column, band: of.band.part(rows, columns)? })
    }

    /// An affine function of the tensor's indices as one of the loops.
    fn line(&self, line: &Affine) -> Option<Affine> {
        let mut composed = Affine::constant(self.extents.len(), line.base);
        for (axis, &coeff) in line.coeffs.iter().enumerate().filter(|(_, c)| **c != 0) {
            let axis = axis_as(self.shape, axis, &self.access.view)?;
            let Index { affine, divisor: 1, loaded: None } = &self.access.indices[axis] else { return None };
            composed.base += coeff * affine.base;
            composed.coeffs.iter_mut().zip(&affine.coeffs).for_each(|(c, step)| *c += coeff * step);
        }
        Some(composed)
    }
}

/// The axis that an axis of a tensor is under another shape with the same elements in the same order; `None` where it is
/// split or merged, and for axes of one element.
pub(crate) fn axis_as(shape: &[usize], axis: usize, other: &[usize]) -> Option<usize> {
    let (stride, extent) = (row_major_strides(shape)[axis], shape[axis]);
    let strides = row_major_strides(other);
    (0..other.len()).find(|&a| extent != 1 && other[a] == extent && strides[a] == stride)
}

/// A band between two axes of a tensor as one between those of another shape with the same elements in the same order.
pub(crate) fn band_as(shape: &[usize], of: &LoopBand, other: &[usize]) -> Option<LoopBand> {
    let [row, column] = [of.row, of.column].map(|axis| axis_as(shape, axis, other));
    Some(LoopBand { row: row?, column: column?, band: of.band.clone() })
}

/// Another band with the rows and columns of this one; `None` where it is between other axes.
pub(crate) fn aligned(to: &LoopBand, other: &LoopBand) -> Option<Band> {
    match (other.row, other.column) {
        same if same == (to.row, to.column) => Some(other.band.clone()),
        swapped if swapped == (to.column, to.row) => other.band.transposed(),
        _ => None,
    }
}
