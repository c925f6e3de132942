//! In which order the elements of a buffer stand.

use crate::graph::Value;
use std::collections::BTreeMap;

/// The order in which the axes of a tensor are stored, outermost first: stored axis `k` is axis `order()[k]`.
///
/// Axes of extent 1 stand last, so that tensors stored alike have equal layouts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layout(Vec<usize>);

/// Layouts of the values that are not stored in row-major order.
pub type Layouts = BTreeMap<Value, Layout>;

impl Layout {
    /// The layout that stores a tensor of `shape` with its axes in `order`.
    ///
    /// `None` when that is row-major order, when `order` is no permutation of the axes, and for tensors without elements.
    pub fn new(order: &[usize], shape: &[usize]) -> Option<Layout> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted.iter().copied().ne(0..shape.len()) || shape.contains(&0) {
            return None;
        }
        let (long, short): (Vec<usize>, Vec<usize>) = order.iter().partition(|&&axis| shape[axis] != 1);
        (!long.is_sorted()).then(|| Layout([long, short].concat()))
    }

    /// The axes, outermost first.
    pub fn order(&self) -> &[usize] {
        &self.0
    }

    /// The extents of a tensor of `shape`, outermost first.
    pub fn stored_shape(&self, shape: &[usize]) -> Vec<usize> {
        self.0.iter().map(|&axis| shape[axis]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_major_order_has_no_layout() {
        assert_eq!(Layout::new(&[0, 1], &[2, 3]), None);
        assert_eq!(Layout::new(&[1, 0], &[2, 1]), None, "an axis of extent 1 may stand anywhere");
        assert_eq!(Layout::new(&[1, 0], &[0, 3]), None, "nothing is stored");
    }

    #[test]
    fn orders_are_permutations() {
        assert_eq!(Layout::new(&[1, 1], &[2, 3]), None);
        assert_eq!(Layout::new(&[1], &[2, 3]), None);
        assert_eq!(Layout::new(&[1, 2], &[2, 3]), None);
    }

    #[test]
    fn equal_storage_is_an_equal_layout() {
        let layout = Layout::new(&[0, 2, 1, 3], &[2, 3, 4, 1]).expect("axes 1 and 2 change places");
        assert_eq!(Some(&layout), Layout::new(&[3, 0, 2, 1], &[2, 3, 4, 1]).as_ref());
        assert_eq!(layout.stored_shape(&[2, 3, 4, 1]), [2, 4, 3, 1]);
    }
}
