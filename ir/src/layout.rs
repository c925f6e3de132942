//! In which order the elements of a buffer stand.

use crate::graph::Value;
use crate::types::TensorType;
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

    /// Stores a tensor: `row_major` has its elements in row-major order, `stored` gets them in this one.
    pub fn store(&self, ty: &TensorType, row_major: &[u8], stored: &mut [u8]) {
        permute(row_major, &ty.shape, &self.0, ty.dtype.size_bytes(), stored);
    }

    /// The elements of a stored tensor in row-major order.
    pub fn restore(&self, ty: &TensorType, stored: &[u8]) -> Vec<u8> {
        let mut back = vec![0; self.0.len()];
        self.0.iter().enumerate().for_each(|(k, &axis)| back[axis] = k);
        let mut row_major = vec![0; stored.len()];
        permute(stored, &self.stored_shape(&ty.shape), &back, ty.dtype.size_bytes(), &mut row_major);
        row_major
    }
}

/// Copies a row-major tensor of `shape` so that axis `k` of the copy is axis `order[k]`; elements have so many bytes.
fn permute(from: &[u8], shape: &[usize], order: &[usize], element_bytes: usize, to: &mut [u8]) {
    let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<usize>()).collect();
    let extents: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| element_bytes * strides[axis]).collect();
    let (mut point, mut at) = (vec![0; order.len()], 0);
    for element in to.chunks_exact_mut(element_bytes) {
        element.copy_from_slice(&from[at..at + element_bytes]);
        for axis in (0..order.len()).rev() {
            point[axis] += 1;
            at += steps[axis];
            if point[axis] < extents[axis] {
                break;
            }
            at -= steps[axis] * extents[axis];
            point[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

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

    #[test]
    fn what_is_stored_comes_back() {
        let ty = TensorType::new(DType::F16, [2, 3, 2]);
        let layout = Layout::new(&[1, 2, 0], &ty.shape).expect("axes change places");
        let row_major: Vec<u8> = (0..12).flat_map(|k| [k, 100 + k]).collect();
        let mut stored = vec![0; row_major.len()];
        layout.store(&ty, &row_major, &mut stored);
        let elements: Vec<u8> = stored.iter().step_by(2).copied().collect();
        assert_eq!(elements, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
        assert_eq!(layout.restore(&ty, &stored), row_major);
    }
}
