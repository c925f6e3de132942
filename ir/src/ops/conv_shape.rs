//! What the three convolution ops share: one multilinear form over an input, a weight and an output.
//!
//! Convolution, its input gradient and its weight gradient all sum the terms `x · w · y` of this form; they differ only
//! in which of the three they make. So each is the vector-Jacobian product of the other two.

use super::windows::{Slide, Windows};
use crate::lower::Affine;
use crate::op::require;
use crate::types::TypeError;

/// Extents of a grouped convolution; channels are counted per group.
#[derive(Clone, Debug)]
pub(super) struct ConvShape {
    pub n: usize,
    pub groups: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub windows: Windows,
}

impl ConvShape {
    /// From the shapes of an input `[N, C, S…]` and a weight `[O, C/groups, K…]`.
    pub fn new(slide: Slide, groups: usize, x: &[usize], w: &[usize]) -> Result<Self, TypeError> {
        let ranks = x.len() == w.len() && x.len() >= 3;
        require(
            ranks,
            "input and weight must both have two axes and the spatial ones",
            "equal ranks, at least 3",
            format!("{x:?} and {w:?}"),
        )?;
        let grouped = groups > 0 && w[0].is_multiple_of(groups) && w[1].checked_mul(groups) == Some(x[1]);
        require(
            grouped,
            "channels do not fit the groups",
            format!("input [N, C, …] and weight [O, C/{groups}, …] with O divisible by {groups}"),
            format!("{x:?} and {w:?}"),
        )?;
        let windows = Windows::new(slide, &x[2..], &w[2..])?;
        Ok(ConvShape { n: x[0], groups, outputs: w[0] / groups, inputs: w[1], windows })
    }

    /// Shape of the output: `[N, O, P…]`.
    pub fn output(&self) -> Vec<usize> {
        [&[self.n, self.groups * self.outputs][..], &self.windows.output].concat()
    }

    /// The input with its groups apart: `[N, G, C/G, S…]`.
    pub fn x_view(&self) -> Vec<usize> {
        [&[self.n, self.groups, self.inputs][..], &self.windows.input].concat()
    }

    /// The weight with its groups apart: `[G, O/G, C/G, K…]`.
    pub fn w_view(&self) -> Vec<usize> {
        [&[self.groups, self.outputs, self.inputs][..], &self.windows.kernel].concat()
    }

    /// The output with its groups apart: `[N, G, O/G, P…]`.
    pub fn y_view(&self) -> Vec<usize> {
        [&[self.n, self.groups, self.outputs][..], &self.windows.output].concat()
    }

    /// Number of loop indices of each of the three contractions: n, group, output, input, and two spatial planes.
    pub fn loops(&self) -> usize {
        4 + 2 * self.windows.rank()
    }

    /// Loop indices `leading`, then the spatial ones from `spatial`, one per axis.
    pub fn loop_dims(&self, leading: [usize; 3], spatial: usize) -> Vec<Affine> {
        let all = leading.into_iter().chain(spatial..spatial + self.windows.rank());
        all.map(|d| Affine::dim(self.loops(), d)).collect()
    }

    /// Calls `term` with the flat elements of input, weight and output that each term of the form multiplies.
    pub fn for_each_term(&self, mut term: impl FnMut(usize, usize, usize)) {
        let plane = |extents: &[usize]| extents.iter().product::<usize>();
        let (s, k, p) = (plane(&self.windows.input), plane(&self.windows.kernel), plane(&self.windows.output));
        let meetings = self.windows.meetings();
        for n in 0..self.n {
            for g in 0..self.groups {
                for o in 0..self.outputs {
                    for c in 0..self.inputs {
                        let x = ((n * self.groups + g) * self.inputs + c) * s;
                        let w = ((g * self.outputs + o) * self.inputs + c) * k;
                        let y = ((n * self.groups + g) * self.outputs + o) * p;
                        meetings.iter().for_each(|m| term(x + m.input, w + m.tap, y + m.position));
                    }
                }
            }
        }
    }
}
