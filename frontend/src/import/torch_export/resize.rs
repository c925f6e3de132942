//! Literal sizes that follow a changed batch.
//!
//! A program exported at one batch size has that size inside the literals of `view`, `expand` or `zeros`. Shapes
//! recorded when exporting, held against the operands' shapes now, tell where it is: row-major order keeps the
//! position of an axis, counted in elements outside of it. Where that does not decide, the import fails.

use super::fault::Fault;
use super::sizes::Resized;
use std::collections::{BTreeMap, BTreeSet};

/// Finds changed sizes inside literals.
#[derive(Debug, Default)]
pub struct Resize {
    /// The literal batch, if it changes.
    batch: Option<Resized>,
    /// Every size that changes.
    changed: Vec<Resized>,
    /// Extents that contain a changed size beside others: which size, and the numbers of elements outside of it
    /// that were seen in such extents.
    merged: BTreeMap<Resized, BTreeSet<(Resized, usize)>>,
}

/// A changed size inside an axis.
#[derive(Clone, Copy)]
struct Place {
    size: Resized,
    /// Elements of the axis outside of the size.
    outside: usize,
}

impl Resize {
    /// Follows the sizes that change.
    pub fn new(batch: Option<Resized>, changed: impl Iterator<Item = Resized>) -> Self {
        Resize { batch, changed: changed.collect(), merged: BTreeMap::new() }
    }

    /// Target of a `view` now, from its literal (−1: inferred) and the operand's shape when exporting and now.
    pub fn view(&mut self, old: &[usize], new: &[usize], literal: &[i64]) -> Result<Vec<usize>, Fault> {
        if old == new {
            return infer_missing(literal, new);
        }
        match self.follow(old, new, literal) {
            Err(_) if literal.contains(&-1) => infer_missing(literal, new),
            followed => followed,
        }
    }

    fn follow(&mut self, old: &[usize], new: &[usize], literal: &[i64]) -> Result<Vec<usize>, Fault> {
        let before = infer_missing(literal, old)?;
        let mut target = before.clone();
        let mut merged = Vec::new();
        for axis in (0..old.len()).filter(|&k| old[k] != new[k]) {
            let place = self.place(Resized { old: old[axis], new: new[axis] })?;
            let position = old[..axis].iter().product::<usize>() * place.outside;
            let at = containing_axis(&before, position, axis, place.size).ok_or_else(unknown)?;
            let outside = position / before[..at].iter().product::<usize>();
            if !before[at].is_multiple_of(outside * place.size.old) {
                return Err(unknown());
            }
            target[at] = target[at] / place.size.old * place.size.new;
            merged.push((at, Place { outside, ..place }));
        }
        for (at, place) in merged {
            let extent = Resized { old: before[at], new: target[at] };
            self.merged.entry(extent).or_default().insert((place.size, place.outside));
        }
        Ok(target)
    }

    /// Where in an extent the changed size is.
    fn place(&self, extent: Resized) -> Result<Place, Fault> {
        if self.changed.contains(&extent) {
            return Ok(Place { size: extent, outside: 1 });
        }
        let seen: Vec<_> = self.merged.get(&extent).into_iter().flatten().collect();
        match seen[..] {
            [&(size, outside)] => Ok(Place { size, outside }),
            _ => Err(unknown()),
        }
    }

    /// A shape from nothing: the one size that equals the exported batch is the batch.
    pub fn literal(&self, literal: &[usize]) -> Result<Vec<usize>, Fault> {
        let mut shape = literal.to_vec();
        let Some(batch) = self.batch else { return Ok(shape) };
        let mut equal = shape.iter_mut().filter(|extent| **extent == batch.old);
        if let Some(extent) = equal.next() {
            *extent = batch.new;
        }
        if equal.next().is_some() { Err(unknown()) } else { Ok(shape) }
    }

    /// Fails when a literal that is no size equals the exported batch, because it may stand for it.
    pub fn not_the_batch(&self, literal: i64) -> Result<i64, Fault> {
        match self.batch {
            Some(batch) if usize::try_from(literal) == Ok(batch.old) => Err(unknown()),
            _ => Ok(literal),
        }
    }

    /// Fails when an axis that is cut at literal places has changed.
    pub fn unchanged(&self, old: usize, new: usize) -> Result<(), Fault> {
        if old == new { Ok(()) } else { Err(unknown()) }
    }

    /// Whether an extent now can be what became of the recorded one.
    pub fn is_consistent(&self, old: usize, new: usize) -> bool {
        old == new || self.changed.iter().any(|r| old.checked_mul(r.new) == new.checked_mul(r.old))
    }

    /// Whether a number equals the exported batch while the batch changes.
    pub fn equals_batch(&self, literal: f64) -> bool {
        self.batch.is_some_and(|batch| batch.old > 1 && literal == batch.old as f64)
    }
}

/// The axis of `shape` in which a size with `position` elements outside of it lies.
fn containing_axis(shape: &[usize], position: usize, old_axis: usize, size: Resized) -> Option<usize> {
    let outside = |axis: usize| shape[..axis].iter().product::<usize>();
    if size.old == 1 {
        // An extent of 1 occupies no elements: it can be any axis of 1 at its position.
        let units: Vec<usize> = (0..shape.len()).filter(|&k| shape[k] == 1 && outside(k) == position).collect();
        match units[..] {
            [] => {}
            [first, ..] if old_axis == 0 => return Some(first),
            [only] => return Some(only),
            _ => return None,
        }
    }
    (0..shape.len())
        .find(|&k| outside(k) <= position && position < outside(k) * shape[k])
        .filter(|&k| position.is_multiple_of(outside(k)))
}

/// A literal shape with its −1 replaced so that it has as many elements as `operand`.
pub fn infer_missing(literal: &[i64], operand: &[usize]) -> Result<Vec<usize>, Fault> {
    let invalid = || {
        Fault::new("invalid-shape", "the shape does not fit the operand")
            .expected(format!("as many elements as {operand:?}"))
            .found(format!("{literal:?}"))
    };
    let total = checked_product(operand).ok_or_else(invalid)?;
    let missing = literal.iter().filter(|&&d| d == -1).count();
    let given: Option<Vec<usize>> = literal.iter().filter(|&&d| d != -1).map(|&d| usize::try_from(d).ok()).collect();
    let known = checked_product(&given.ok_or_else(invalid)?).ok_or_else(invalid)?;
    let fill = match missing {
        0 if known == total => 0,
        1 if known > 0 && total.is_multiple_of(known) => total / known,
        _ => return Err(invalid()),
    };
    Ok(literal.iter().map(|&d| usize::try_from(d).unwrap_or(fill)).collect())
}

fn checked_product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

fn unknown() -> Fault {
    Fault::new("batch-unknown", "it cannot be known where the batch is in a size of this node")
        .help("export the model at the batch size to train at, or with a symbolic batch (torch.export.Dim)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize(old: usize, new: usize) -> Resize {
        let batch = Resized { old, new };
        Resize::new(Some(batch), std::iter::once(batch))
    }

    #[test]
    fn views_follow_the_batch() {
        let mut r = resize(8, 3);
        type Case<'a> = (&'a [usize], &'a [usize], &'a [i64], &'a [usize]);
        let cases: [Case; 6] = [
            (&[8, 64, 128], &[3, 64, 128], &[8, 64, 4, 32], &[3, 64, 4, 32]),
            (&[8, 64, 128], &[3, 64, 128], &[512, 128], &[192, 128]),
            (&[512, 128], &[192, 128], &[8, 64, 128], &[3, 64, 128]),
            (&[8, 64], &[3, 64], &[-1, 8], &[24, 8]),
            (&[8, 64], &[3, 64], &[8, -1], &[3, 64]),
            (&[5, 8, 12], &[5, 3, 12], &[5, 32, 3], &[5, 12, 3]),
        ];
        for (old, new, literal, target) in cases {
            assert_eq!(r.view(old, new, literal).unwrap(), target, "{old:?} as {literal:?}");
        }
    }

    #[test]
    fn a_merged_batch_is_found_again_only_where_it_was_merged_in_one_way() {
        let mut r = resize(8, 3);
        assert_eq!(r.view(&[64, 8, 5], &[64, 3, 5], &[512, 5]).unwrap(), [192, 5]);
        assert_eq!(r.view(&[512, 5], &[192, 5], &[64, 8, 5]).unwrap(), [64, 3, 5]);
        assert_eq!(r.view(&[8, 64, 5], &[3, 64, 5], &[512, 5]).unwrap(), [192, 5]);
        assert!(r.view(&[512, 5], &[192, 5], &[64, 8, 5]).is_err());
    }

    #[test]
    fn a_batch_of_one_keeps_its_place() {
        let mut r = resize(1, 4);
        assert_eq!(r.view(&[1, 1, 28, 28], &[4, 1, 28, 28], &[1, 784]).unwrap(), [4, 784]);
        assert_eq!(r.view(&[1, 6, 5], &[4, 6, 5], &[6, 5]).unwrap(), [24, 5]);
    }

    #[test]
    fn literal_shapes_follow_where_one_size_is_the_batch() {
        let r = resize(16, 3);
        assert_eq!(r.literal(&[1, 16, 128]).unwrap(), [1, 3, 128]);
        assert_eq!(r.literal(&[4, 128]).unwrap(), [4, 128]);
        assert!(r.literal(&[16, 16]).is_err());
    }
}
