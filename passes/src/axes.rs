//! Arithmetic on axes: permutations, and which axes a reshape merges or splits.

use std::ops::Range;

/// `axes.map(|k| of[k])`: the composition of two permutations, or a choice of axes renamed.
pub fn pick(of: &[usize], axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|&k| of[k]).collect()
}

/// The permutation that undoes `perm`.
pub fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(k, &p)| inverse[p] = k);
    inverse
}

/// Whether `perm` leaves every axis where it is.
pub fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(k, &p)| k == p)
}

/// Where each of `axes` stands when they are put in ascending order.
pub fn ranks(axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|a| axes.iter().filter(|b| *b < a).count()).collect()
}

/// Axes below `rank` that are not in `axes`.
pub fn others(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !axes.contains(d)).collect()
}

/// Axes of one shape that hold the same elements as axes of another. One side may be empty: axes of extent 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Axes of the operand.
    pub from: Range<usize>,
    /// Axes of the result.
    pub to: Range<usize>,
}

/// Splits a reshape into the smallest independent groups of neighbouring axes, in order; `None` for empty tensors.
pub fn groups(from: &[usize], to: &[usize]) -> Option<Vec<Group>> {
    if from.contains(&0) || to.contains(&0) {
        return None;
    }
    let (mut i, mut j, mut groups) = (0, 0, Vec::new());
    while i < from.len() || j < to.len() {
        let (start_i, start_j) = (i, j);
        match (from.get(i), to.get(j)) {
            (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
            (Some(1), _) => i += 1,
            (_, Some(1)) => j += 1,
            _ => {
                let (mut a, mut b) = (*from.get(i)?, *to.get(j)?);
                (i, j) = (i + 1, j + 1);
                while a != b {
                    if a < b {
                        a *= *from.get(i)?;
                        i += 1;
                    } else {
                        b *= *to.get(j)?;
                        j += 1;
                    }
                }
            }
        }
        groups.push(Group { from: start_i..i, to: start_j..j });
    }
    Some(groups)
}

/// The axes of the result in whose group an axis of the operand is.
pub fn block(groups: &[Group], axis: usize) -> Range<usize> {
    groups.iter().find(|g| g.from.contains(&axis)).expect("every axis is in a group").to.clone()
}

/// Whether `axes` are consecutive and ascending.
pub fn is_run(axes: &[usize]) -> bool {
    axes.windows(2).all(|w| w[0] + 1 == w[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(from: &[usize], to: &[usize]) -> Vec<(Range<usize>, Range<usize>)> {
        groups(from, to).expect("no empty axes").into_iter().map(|g| (g.from, g.to)).collect()
    }

    #[test]
    fn groups_are_smallest() {
        assert_eq!(sides(&[2, 3, 4], &[6, 4]), [(0..2, 0..1), (2..3, 1..2)]);
        assert_eq!(sides(&[2, 12], &[2, 3, 4]), [(0..1, 0..1), (1..2, 1..3)]);
        assert_eq!(sides(&[4, 6], &[3, 8]), [(0..2, 0..2)]);
        assert_eq!(sides(&[1, 5], &[5, 1]), [(0..1, 0..0), (1..2, 0..1), (2..2, 1..2)]);
        assert_eq!(groups(&[0, 2], &[2, 0]), None);
    }

    #[test]
    fn permutations() {
        assert_eq!(inverse(&[2, 0, 1]), [1, 2, 0]);
        assert!(is_identity(&pick(&[2, 0, 1], &inverse(&[2, 0, 1]))));
        assert_eq!(ranks(&[5, 1, 3]), [2, 0, 1]);
    }
}
