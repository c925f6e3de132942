//! What windowed ops (convolution, pooling) share: a window sliding over the spatial axes.

use crate::lower::{Affine, Index};
use crate::op::require;
use crate::types::{MAX_ELEMENTS, TypeError, row_major_strides, unravel};
use std::ops::Range;

/// Most taps of a window that nests spell out, one read each, instead of looping over them: then the positions are their
/// only loops, which run in vectors along the channels and take up what comes before and after.
const MOST_SPELLED_OUT: usize = 16;

/// How a window slides, one entry per spatial axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slide<'a> {
    pub stride: &'a [usize],
    pub pad_low: &'a [usize],
    pub pad_high: &'a [usize],
    pub dilation: &'a [usize],
}

/// A window at all its positions: position `p` with tap `k` meets input element `p·stride + k·dilation − pad_low`.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Extents of the input.
    pub input: Vec<usize>,
    /// Extents of the window, in taps.
    pub kernel: Vec<usize>,
    /// Number of positions.
    pub output: Vec<usize>,
    stride: Vec<i64>,
    pad_low: Vec<i64>,
    dilation: Vec<i64>,
}

/// An input element, the tap and the position at which a window meets it; each flat in its row-major plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    pub input: usize,
    pub tap: usize,
    pub position: usize,
}

impl Windows {
    /// Places a window of extents `kernel` on an input of extents `input`.
    ///
    /// Fails on lists of different lengths, zero or absurd entries, and a window larger than the padded input.
    pub fn new(slide: Slide, input: &[usize], kernel: &[usize]) -> Result<Self, TypeError> {
        let rank = input.len();
        let lists = [kernel, slide.stride, slide.pad_low, slide.pad_high, slide.dilation];
        let one_each = rank > 0 && lists.iter().all(|l| l.len() == rank);
        let lengths: Vec<usize> = lists.iter().map(|l| l.len()).collect();
        let expected = format!("at least one spatial axis and {rank} entries in each list");
        require(one_each, "window attributes must have one entry per spatial axis", expected, format!("{lengths:?}"))?;
        let output = (0..rank).map(|d| positions(slide, d, input[d], kernel[d])).collect::<Result<_, _>>()?;
        let signed = |list: &[usize]| list.iter().map(|&v| v as i64).collect();
        Ok(Windows {
            input: input.to_vec(),
            kernel: kernel.to_vec(),
            output,
            stride: signed(slide.stride),
            pad_low: signed(slide.pad_low),
            dilation: signed(slide.dilation),
        })
    }

    /// Number of spatial axes.
    pub fn rank(&self) -> usize {
        self.input.len()
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether nests read each tap by itself.
    pub fn is_spelled_out(&self) -> bool {
        self.taps() <= MOST_SPELLED_OUT
    }

    fn met(&self, d: usize, position: usize, tap: usize) -> i64 {
        position as i64 * self.stride[d] + tap as i64 * self.dilation[d] - self.pad_low[d]
    }

    /// Whether a tap may meet padding along axis `d`.
    pub fn padded(&self, d: usize) -> bool {
        let last = self.met(d, self.output[d].saturating_sub(1), self.kernel[d] - 1);
        self.pad_low[d] > 0 || last >= self.input[d] as i64
    }

    /// Whether a tap may meet padding.
    pub fn any_padded(&self) -> bool {
        (0..self.rank()).any(|d| self.padded(d))
    }

    /// Whether the window is one tap that visits every element once.
    pub fn is_pointwise(&self) -> bool {
        self.input == self.output
            && (0..self.rank()).all(|d| self.kernel[d] == 1 && self.stride[d] == 1)
            && !self.any_padded()
    }

    /// The input element met, per axis; positions and taps are the loop indices from `position` and from `tap` of `rank`.
    pub fn input_indices(&self, rank: usize, position: usize, tap: usize) -> Vec<Affine> {
        let index = |d: usize| {
            Affine::constant(rank, -self.pad_low[d]).plus(position + d, self.stride[d]).plus(tap + d, self.dilation[d])
        };
        (0..self.rank()).map(index).collect()
    }

    /// As [`input_indices`](Self::input_indices) for the tap with this number.
    pub fn inputs_of_tap(&self, tap: usize, rank: usize, position: usize) -> Vec<Affine> {
        let at = unravel(tap, &self.kernel);
        let index = |d: usize| {
            Affine::constant(rank, at[d] as i64 * self.dilation[d] - self.pad_low[d]).plus(position + d, self.stride[d])
        };
        (0..self.rank()).map(index).collect()
    }

    /// As [`position_indices`](Self::position_indices) for the tap with this number.
    pub fn positions_of_tap(&self, tap: usize, rank: usize, input: usize) -> Vec<Index> {
        let at = unravel(tap, &self.kernel);
        let index = |d: usize| {
            let affine = Affine::constant(rank, self.pad_low[d] - at[d] as i64 * self.dilation[d]).plus(input + d, 1);
            Index { affine, divisor: self.stride[d], loaded: None }
        };
        (0..self.rank()).map(index).collect()
    }

    /// The positions along axis `d` at which a tap meets an element and not padding.
    pub fn inside(&self, d: usize, tap: usize) -> Range<usize> {
        let first = |least: i64| {
            let before = (least - self.met(d, 0, unravel(tap, &self.kernel)[d])).max(0);
            self.output[d].min(before.unsigned_abs().div_ceil(self.stride[d].unsigned_abs()) as usize)
        };
        first(0)..first(self.input[d] as i64)
    }

    /// The position at which a tap meets an input element, per axis; out of bounds where there is none.
    pub fn position_indices(&self, rank: usize, input: usize, tap: usize) -> Vec<Index> {
        let index = |d: usize| {
            let affine = Affine::constant(rank, self.pad_low[d]).plus(input + d, 1).plus(tap + d, -self.dilation[d]);
            Index { affine, divisor: self.stride[d], loaded: None }
        };
        (0..self.rank()).map(index).collect()
    }

    /// All meetings that are not with padding: by position, then by tap, both row-major.
    pub fn meetings(&self) -> Vec<Meeting> {
        let mut all = Vec::new();
        for position in 0..self.output.iter().product() {
            for tap in 0..self.kernel.iter().product() {
                all.extend(self.meeting(position, tap));
            }
        }
        all
    }

    /// Calls `visit` with all meetings in each of `outer` planes; inputs and positions are counted over all planes.
    pub fn for_each_meeting(&self, outer: usize, mut visit: impl FnMut(Meeting)) {
        let (inputs, positions): (usize, usize) = (self.input.iter().product(), self.output.iter().product());
        let meetings = self.meetings();
        for plane in 0..outer {
            let in_plane = |m: &Meeting| Meeting {
                input: plane * inputs + m.input,
                position: plane * positions + m.position,
                ..*m
            };
            meetings.iter().for_each(|m| visit(in_plane(m)));
        }
    }

    fn meeting(&self, position: usize, tap: usize) -> Option<Meeting> {
        let (p, k) = (unravel(position, &self.output), unravel(tap, &self.kernel));
        let strides = row_major_strides(&self.input);
        let mut input = 0;
        for d in 0..self.rank() {
            let at = usize::try_from(self.met(d, p[d], k[d])).ok().filter(|&at| at < self.input[d])?;
            input += at * strides[d];
        }
        Some(Meeting { input, tap, position })
    }
}

/// Number of positions along axis `d`: `⌊(input + pads − dilation·(kernel − 1) − 1) / stride⌋ + 1`.
fn positions(slide: Slide, d: usize, input: usize, kernel: usize) -> Result<usize, TypeError> {
    let (stride, dilation) = (slide.stride[d], slide.dilation[d]);
    let in_range = |v: usize| (1..=MAX_ELEMENTS).contains(&v);
    let entries = format!("kernel {kernel}, stride {stride}, dilation {dilation}");
    let sane = [kernel, stride, dilation].into_iter().all(in_range);
    require(sane, "window, stride and dilation must be positive", format!("1..={MAX_ELEMENTS}"), entries)?;
    let padded = input.checked_add(slide.pad_low[d]).and_then(|v| v.checked_add(slide.pad_high[d]));
    let span = dilation.checked_mul(kernel - 1).and_then(|v| v.checked_add(1));
    match (padded, span) {
        (Some(padded), Some(span)) if span <= padded && padded <= MAX_ELEMENTS => Ok((padded - span) / stride + 1),
        _ => Err(TypeError::new(format!("the window does not fit the padded input along spatial axis {d}"))
            .expected(format!("dilation · (kernel − 1) + 1 at most input + padding, at most {MAX_ELEMENTS}"))
            .found(format!(
                "input {input}, padding {} and {}, kernel {kernel}, dilation {dilation}",
                slide.pad_low[d], slide.pad_high[d]
            ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: usize, kernel: usize, [stride, low, high, dilation]: [usize; 4]) -> Result<Windows, TypeError> {
        let slide = Slide { stride: &[stride], pad_low: &[low], pad_high: &[high], dilation: &[dilation] };
        Windows::new(slide, &[input], &[kernel])
    }

    #[test]
    fn counts_positions_as_pytorch_does() {
        for (input, kernel, slide, expected) in [
            (7, 3, [1, 0, 0, 1], 5),
            (7, 3, [2, 1, 1, 1], 4),
            (8, 3, [2, 0, 1, 1], 4),
            (9, 3, [1, 2, 2, 2], 9),
            (5, 5, [3, 0, 0, 1], 1),
        ] {
            assert_eq!(line(input, kernel, slide).unwrap().output, [expected], "{input} {kernel} {slide:?}");
        }
    }

    #[test]
    fn refuses_windows_that_do_not_fit() {
        for (input, kernel, slide) in [
            (2, 3, [1, 0, 0, 1]),
            (3, 0, [1, 0, 0, 1]),
            (3, 1, [0, 0, 0, 1]),
            (3, 1, [1, 0, 0, 0]),
            (3, 2, [1, usize::MAX, 1, 1]),
            (3, usize::MAX, [1, 1, 1, usize::MAX]),
            (3, 1, [1, MAX_ELEMENTS, 0, 1]),
        ] {
            assert!(line(input, kernel, slide).is_err(), "{input} {kernel} {slide:?}");
        }
    }

    #[test]
    fn meetings_leave_padding_out() {
        let met: Vec<_> = line(3, 2, [2, 1, 0, 1]).unwrap().meetings();
        let expected = [(0, 1, 0), (1, 0, 1), (2, 1, 1)];
        assert_eq!(met, expected.map(|(input, tap, position)| Meeting { input, tap, position }));
    }

    #[test]
    fn taps_by_number_meet_what_all_taps_meet() {
        for slide in [[1, 0, 0, 1], [2, 2, 1, 1], [3, 1, 2, 2]] {
            let windows = line(9, 3, slide).unwrap();
            for (tap, position) in (0..3).flat_map(|tap| (0..windows.output[0]).map(move |p| (tap, p))) {
                let met = windows.input_indices(2, 0, 1)[0].at(&[position, tap]);
                assert_eq!(windows.inputs_of_tap(tap, 1, 0)[0].at(&[position]), met);
                assert_eq!(windows.inside(0, tap).contains(&position), (0..9).contains(&met), "{slide:?} {tap}");
                if let Ok(input) = usize::try_from(met) {
                    let back = &windows.positions_of_tap(tap, 1, 0)[0];
                    assert_eq!(back.affine.at(&[input]), position as i64 * back.divisor);
                }
            }
        }
    }

    #[test]
    fn only_windows_that_reach_out_are_guarded() {
        assert!(!line(5, 2, [1, 0, 0, 1]).unwrap().any_padded());
        assert!(line(5, 2, [1, 0, 1, 1]).unwrap().any_padded());
        assert!(!line(6, 2, [2, 0, 1, 1]).unwrap().any_padded(), "the padding is never reached");
        assert!(line(5, 1, [1, 0, 0, 1]).unwrap().is_pointwise());
        assert!(!line(5, 1, [2, 0, 0, 1]).unwrap().is_pointwise());
    }
}
