//! Entries of `trainable` that name parts of parameters.

use super::{Keep, ParameterPart};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::part::Part;
use std::collections::BTreeSet;
use std::ops::Range;

/// What a valid `keep` says.
enum Kept<'a> {
    /// Indices in a range.
    Range(Range<usize>),
    /// The first share of all indices: numerator and denominator.
    First(u128, u128),
    /// Indices in any order, no two equal.
    Listed(&'a [usize]),
}

impl Keep {
    /// Fails unless `keep` names something, whatever the parameter.
    pub(super) fn check(&self) -> Result<(), Diagnostic> {
        self.parse().map(|_| ())
    }

    fn parse(&self) -> Result<Kept<'_>, Diagnostic> {
        match self {
            Keep::Indices(list) => {
                let mut seen = BTreeSet::new();
                match list.iter().find(|&index| !seen.insert(index)) {
                    Some(twice) => Err(invalid("an index is listed twice").found(twice)),
                    None if list.is_empty() => Err(invalid("no index is listed").expected("at least one index")),
                    None => Ok(Kept::Listed(list)),
                }
            }
            Keep::Text(text) => parse_text(text).ok_or_else(|| {
                invalid("this does not say what trains")
                    .expected("a range `0..12` that is not empty, a share `1/8` of at most 1, or a list of indices")
                    .found(text)
            }),
        }
    }
}

fn invalid(message: &str) -> Diagnostic {
    Diagnostic::new("invalid-part", message)
}

/// `0..12` or `1/8`.
fn parse_text(text: &str) -> Option<Kept<'static>> {
    if let Some((start, end)) = text.split_once("..") {
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        return (start < end).then_some(Kept::Range(start..end));
    }
    let (share, of) = text.split_once('/')?;
    let (share, of): (u32, u32) = (share.parse().ok()?, of.parse().ok()?);
    (0 < share && share <= of).then_some(Kept::First(share.into(), of.into()))
}

impl ParameterPart {
    /// What trains of a parameter of this name and shape; `None` is all of it.
    ///
    /// # Errors
    /// The axis, the groups or the indices do not fit the shape.
    pub(super) fn part(&self, name: &str, shape: &[usize]) -> Result<Option<Part>, Diagnostic> {
        let misfit = |message: String| Diagnostic::new("part-range", message);
        let Some(&extent) = shape.get(self.axis) else {
            return Err(misfit(format!("parameter `{name}` has no axis {}", self.axis))
                .expected(format!("an axis below {}", shape.len()))
                .found(self.axis));
        };
        let groups = self.groups.map_or(extent, |groups| groups.get());
        if groups > extent || !extent.is_multiple_of(groups) {
            return Err(misfit(format!("axis {} of `{name}` does not fall into {groups} equal groups", self.axis))
                .expected(format!("a divisor of {extent}"))
                .found(groups));
        }
        let kept = self.kept(groups)?;
        if let Some(outside) = kept.iter().find(|&&index| index >= groups) {
            let what = if self.groups.is_some() { "groups" } else { "indices" };
            return Err(misfit(format!("axis {} of `{name}` has {groups} {what}", self.axis))
                .expected(format!("{what} below {groups}"))
                .found(outside));
        }
        let size = extent / groups;
        let indices: Vec<usize> = kept.iter().flat_map(|group| group * size..(group + 1) * size).collect();
        Ok((indices.len() < extent).then_some(Part { axis: self.axis, indices }))
    }

    /// What is kept of `count` indices or groups, ascending; of a range, the first one outside as well.
    fn kept(&self, count: usize) -> Result<Vec<usize>, Diagnostic> {
        Ok(match self.keep.parse()? {
            Kept::Range(range) => (range.start.min(count)..range.end.min(count + 1)).collect(),
            Kept::First(share, of) => (0..(count as u128 * share / of).max(1) as usize).collect(),
            Kept::Listed(list) => list.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        })
    }
}

/// What trains of a parameter that two entries name; `None` where that is no part of one axis.
pub(super) fn union(a: Option<Part>, b: Option<Part>, extents: &[usize]) -> Option<Option<Part>> {
    match (a, b) {
        (None, None) => Some(None),
        (Some(a), Some(b)) if a.axis == b.axis => {
            let indices: Vec<usize> =
                a.indices.into_iter().chain(b.indices).collect::<BTreeSet<_>>().into_iter().collect();
            Some((indices.len() < extents[a.axis]).then_some(Part { axis: a.axis, indices }))
        }
        _ => None,
    }
}
