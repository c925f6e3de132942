//! Products over labelled axes (Einstein's notation), for rules that multiply in another order.

use super::Term;
use super::contraction::free_axes;
use super::terms::transpose;
use crate::axes::pick;
use gradc_ir::ops::DotGeneral;

/// A factor of a product. Every axis has a label; axes with equal labels are paired.
#[derive(Clone, Debug)]
pub struct Factor {
    /// The factor.
    pub term: Term,
    /// One label per axis, no two equal.
    pub labels: Vec<usize>,
}

impl Factor {
    /// A factor with labels from `first` on.
    pub fn new(term: impl Into<Term>, rank: usize, first: usize) -> Factor {
        Factor { term: term.into(), labels: (first..first + rank).collect() }
    }

    /// Gives axes of this factor, number `side` of a product, the labels of the axes they are paired with.
    pub fn pair(&mut self, op: &DotGeneral, side: usize, partner: &[usize]) {
        let (left, right) =
            ([&op.lhs_batch[..], &op.lhs_contract].concat(), [&op.rhs_batch[..], &op.rhs_contract].concat());
        let (own, other) = if side == 0 { (left, right) } else { (right, left) };
        own.into_iter().zip(other).for_each(|(axis, of)| self.labels[axis] = partner[of]);
    }

    /// The product with another factor, summed over all labels but `kept`.
    ///
    /// `None` where nothing is paired, or where a label of one factor alone would be summed.
    pub fn times(&self, other: &Factor, kept: &[usize]) -> Option<Factor> {
        let shared: Vec<usize> = self.labels.iter().copied().filter(|l| other.labels.contains(l)).collect();
        let own = self.labels.iter().chain(&other.labels).filter(|l| !shared.contains(l));
        if shared.is_empty() || own.into_iter().any(|l| !kept.contains(l)) {
            return None;
        }
        let (batch, contract): (Vec<usize>, Vec<usize>) = shared.into_iter().partition(|l| kept.contains(l));
        let [lhs_batch, lhs_contract] = [&batch, &contract].map(|labels| axes(&self.labels, labels));
        let [rhs_batch, rhs_contract] = [&batch, &contract].map(|labels| axes(&other.labels, labels));
        let op = DotGeneral { lhs_batch, rhs_batch, lhs_contract, rhs_contract };
        let labels = result_labels(&op, &self.labels, &other.labels);
        Some(Factor { term: Term::op(op, [self.term.clone(), other.term.clone()]), labels })
    }

    /// The factor with its axes in the order of `labels`.
    pub fn arranged(self, labels: &[usize]) -> Term {
        transpose(self.term, axes(&self.labels, labels))
    }
}

/// The product of two factors with its axes in the order of `labels`, the factors in the order that needs no
/// transpose where there is one.
pub fn product(a: &Factor, b: &Factor, labels: &[usize]) -> Option<Term> {
    let straight = a.times(b, labels)?;
    if straight.labels == labels {
        return Some(straight.term);
    }
    let swapped = b.times(a, labels)?;
    Some(if swapped.labels == labels { swapped.term } else { straight.arranged(labels) })
}

/// Labels of the axes of a product.
pub fn result_labels(op: &DotGeneral, left: &[usize], right: &[usize]) -> Vec<usize> {
    let [left_free, right_free] = free_axes(op, [left.len(), right.len()]);
    [pick(left, &op.lhs_batch), pick(left, &left_free), pick(right, &right_free)].concat()
}

/// Where `wanted` labels stand.
fn axes(labels: &[usize], wanted: &[usize]) -> Vec<usize> {
    let at = |label: &usize| labels.iter().position(|l| l == label);
    wanted.iter().map(|l| at(l).expect("a label of the factor")).collect()
}
