//! What is taken of a tensor: along every axis some indices, evenly spaced or listed.

use super::{Site, Term};
use crate::axes::Group;
use gradc_ir::ops::{IndexSelect, Op, Slice};
use std::ops::Range;

/// What is taken along one axis, in ascending order.
#[derive(Clone, PartialEq)]
pub enum Cut {
    /// `count` indices from `start` on, `stride` apart.
    Even { start: usize, stride: usize, count: usize },
    /// At least three indices that no distance describes.
    Listed(Vec<usize>),
}

impl Cut {
    /// Everything of an axis.
    pub fn all(count: usize) -> Cut {
        Cut::Even { start: 0, stride: 1, count }
    }

    /// Evenly spaced indices; one, or none, has no distance to the next, and none begins nowhere.
    pub fn even(start: usize, stride: usize, count: usize) -> Cut {
        Cut::Even { start: if count > 0 { start } else { 0 }, stride: if count > 1 { stride } else { 1 }, count }
    }

    /// Ascending indices.
    pub fn listed(indices: Vec<usize>) -> Cut {
        let start = indices.first().copied().unwrap_or(0);
        let stride = indices.get(1).map_or(1, |second| second - start);
        let even = indices.iter().enumerate().all(|(k, &index)| index == start + k * stride);
        if even { Cut::even(start, stride, indices.len()) } else { Cut::Listed(indices) }
    }

    /// How many indices are taken.
    pub fn count(&self) -> usize {
        match self {
            Cut::Even { count, .. } => *count,
            Cut::Listed(indices) => indices.len(),
        }
    }

    fn at(&self, k: usize) -> usize {
        match self {
            Cut::Even { start, stride, .. } => start + k * stride,
            Cut::Listed(indices) => indices[k],
        }
    }

    fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.count()).map(|k| self.at(k))
    }

    /// Whether that is everything of an axis of this extent.
    pub fn is_all(&self, extent: usize) -> bool {
        *self == Cut::all(extent)
    }

    /// What is taken of the source when `self` is taken of what `inner` took.
    pub fn of(&self, inner: &Cut) -> Cut {
        match (self, inner) {
            (Cut::Even { start, stride, count }, Cut::Even { start: first, stride: step, .. }) => {
                Cut::even(first + start * step, stride * step, *count)
            }
            _ => Cut::listed(self.indices().map(|k| inner.at(k)).collect()),
        }
    }

    /// What falls into a range, counted from its start.
    pub fn within(&self, range: Range<usize>) -> Cut {
        match self {
            Cut::Even { start, stride, count } => {
                let first = range.start.saturating_sub(*start).div_ceil(*stride);
                let end = range.end.saturating_sub(*start).div_ceil(*stride).min(*count);
                Cut::even((start + first * stride).saturating_sub(range.start), *stride, end.saturating_sub(first))
            }
            Cut::Listed(indices) => {
                Cut::listed(indices.iter().filter(|i| range.contains(i)).map(|i| i - range.start).collect())
            }
        }
    }

    /// What is taken of `extent` elements that stand `gap` apart from `low` on; `None` if anything else is taken.
    pub fn of_spread(&self, extent: usize, low: usize, gap: usize) -> Option<Cut> {
        let source = |index: usize| {
            let offset = index.checked_sub(low)?;
            (offset.is_multiple_of(gap) && offset / gap < extent).then_some(offset / gap)
        };
        match self {
            Cut::Even { start, stride, count } if *count > 0 => {
                let (first, _) = (source(*start)?, source(self.at(count - 1))?);
                (*count == 1 || stride.is_multiple_of(gap)).then(|| Cut::even(first, (stride / gap).max(1), *count))
            }
            _ => self.indices().map(source).collect::<Option<_>>().map(Cut::listed),
        }
    }

    /// The blocks of `size` indices that are taken, if they are taken whole.
    pub fn blocks(&self, size: usize) -> Option<Cut> {
        if size == 1 {
            return Some(self.clone());
        }
        let indices: Vec<usize> = self.indices().collect();
        let whole = |block: &[usize]| {
            block[0].is_multiple_of(size) && block.len() == size && block[size - 1] == block[0] + size - 1
        };
        indices.chunks(size).all(whole).then(|| Cut::listed(indices.chunks(size).map(|b| b[0] / size).collect()))
    }

    /// Every index as a block of `size` indices.
    pub fn expanded(&self, size: usize) -> Cut {
        match self {
            Cut::Even { start, stride: 1, count } => Cut::even(start * size, 1, count * size),
            _ => Cut::listed(self.indices().flat_map(|index| index * size..(index + 1) * size).collect()),
        }
    }
}

/// Whether an op does nothing but take elements along axes.
pub fn is_selection(op: &Op) -> bool {
    matches!(op, Op::Slice(_) | Op::IndexSelect(_))
}

/// What an op that does nothing but take elements takes of its operand, and the operand.
pub fn taken(site: &Site) -> Option<Vec<Cut>> {
    match site.op {
        Op::Slice(Slice { start, limit, stride }) => {
            let cut = |d: usize| Cut::even(start[d], stride[d], (limit[d] - start[d]).div_ceil(stride[d]));
            Some((0..start.len()).map(cut).collect())
        }
        Op::IndexSelect(IndexSelect { axis, indices }) => {
            let mut cuts: Vec<Cut> = site.shape(site.args[0]).iter().map(|&d| Cut::all(d)).collect();
            cuts[*axis] = Cut::listed(indices.clone());
            Some(cuts)
        }
        _ => None,
    }
}

/// `x`, which has shape `shape`, cut along every axis: first evenly, then by lists, one axis after the other.
pub fn cut(x: impl Into<Term>, shape: &[usize], cuts: &[Cut]) -> Term {
    let mut term = x.into();
    let even = |(d, cut): (usize, &Cut)| match cut {
        Cut::Even { start, stride, count } => (*start, *stride, *count),
        Cut::Listed(_) => (0, 1, shape[d]),
    };
    let even: Vec<(usize, usize, usize)> = cuts.iter().enumerate().map(even).collect();
    if even.iter().zip(shape).any(|(&(.., count), &extent)| count != extent) {
        let end = |&(start, stride, count): &(usize, usize, usize)| {
            if count > 0 { start + (count - 1) * stride + 1 } else { 0 }
        };
        let limit = even.iter().map(end).collect();
        let (start, stride) = even.iter().map(|&(start, stride, _)| (start, stride)).unzip();
        term = Term::op(Slice { start, limit, stride }, [term]);
    }
    for (axis, cut) in cuts.iter().enumerate() {
        if let Cut::Listed(indices) = cut {
            term = Term::op(IndexSelect { axis, indices: indices.clone() }, [term]);
        }
    }
    term
}

/// Extents of what is taken.
pub fn counts(cuts: &[Cut]) -> Vec<usize> {
    cuts.iter().map(Cut::count).collect()
}

/// Cuts of a reshape's operand, of shape `from`, that take what `outer` takes of its result, of shape `to`, in a group
/// of axes: where at most the first axis is cut, in blocks that the other side has too.
pub fn regrouped(group: &Group, from: &[usize], to: &[usize], outer: &[Cut]) -> Option<Vec<Cut>> {
    let (from, to, outer) = (&from[group.from.clone()], &to[group.to.clone()], &outer[group.to.clone()]);
    let mut cuts: Vec<Cut> = from.iter().map(|&d| Cut::all(d)).collect();
    let Some(last) = outer.iter().zip(to).rposition(|(cut, &extent)| !cut.is_all(extent)) else { return Some(cuts) };
    let leads = to[..last].iter().all(|&extent| extent == 1);
    let first = from.iter().position(|&extent| extent != 1)?;
    let inner = |extents: &[usize]| extents.iter().product::<usize>();
    let (of_result, of_operand) = (inner(&to[last + 1..]), inner(&from[first + 1..]));
    cuts[first] = match leads {
        false => return None,
        true if of_operand > 0 && of_result.is_multiple_of(of_operand) => outer[last].expanded(of_result / of_operand),
        true if of_result > 0 && of_operand.is_multiple_of(of_result) => outer[last].blocks(of_operand / of_result)?,
        true => return None,
    };
    Some(cuts)
}
