//! Sums of cotangents: what several readers of a value contribute to its gradient.
//!
//! Readers of disjoint parts each contribute a part with zeros around it. Parts that lie next to each other are joined
//! instead of added: the tensor is then written once, and not once per part. Only the sign of zeros can differ.

use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::op::SoFar;
use gradc_ir::ops::{Op, Pad};
use gradc_ir::types::TypeError;
use std::collections::BTreeMap;

/// Contributions to the cotangents of values.
#[derive(Debug, Default)]
pub(crate) struct Cotangents {
    contributions: BTreeMap<Value, Vec<Value>>,
}

impl Cotangents {
    /// Adds a contribution to the cotangent of `value`.
    pub fn contribute(&mut self, value: Value, cotangent: Value) {
        self.contributions.entry(value).or_default().push(cotangent);
    }

    /// The sum of the contributions so far, `None` if there are none; computed once.
    pub fn sum(&mut self, builder: &mut Builder, value: Value) -> Result<Option<Value>, TypeError> {
        let Some(contributions) = self.contributions.get_mut(&value) else { return Ok(None) };
        let mut terms = join_parts(builder, contributions)?.into_iter();
        let first = terms.next().expect("an entry has a contribution");
        let sum = terms.try_fold(first, |sum, term| builder.add(sum, term))?;
        *contributions = vec![sum];
        Ok(Some(sum))
    }
}

impl SoFar for Cotangents {
    fn take(&mut self, builder: &mut Builder, value: Value) -> Result<Option<Value>, TypeError> {
        let sum = self.sum(builder, value)?;
        self.contributions.remove(&value);
        Ok(sum)
    }
}

/// A contribution that is zero outside of a range of one axis.
#[derive(Clone, Copy, Debug)]
struct Part {
    axis: usize,
    start: usize,
    end: usize,
    /// What stands in the range.
    inner: Value,
    /// The contribution as it came.
    whole: Value,
}

impl Part {
    fn of(builder: &Builder, whole: Value) -> Option<Part> {
        let Some(Op::Pad(Pad { low, high, interior, value })) = builder.graph().op(whole.node) else { return None };
        let padded: Vec<usize> = (0..low.len()).filter(|&d| low[d] + high[d] > 0).collect();
        let &[axis] = &padded[..] else { return None };
        let inner = builder.graph().node(whole.node).operands[0];
        let plain = value.get() == 0.0 && interior.iter().all(|&n| n == 0);
        let end = low[axis] + builder.shape(inner)[axis];
        plain.then_some(Part { axis, start: low[axis], end, inner, whole })
    }
}

/// The terms of a sum with neighbouring parts joined; other terms keep their order and come first.
fn join_parts(builder: &mut Builder, terms: &[Value]) -> Result<Vec<Value>, TypeError> {
    let (mut joined, mut parts) = (vec![], vec![]);
    for &term in terms {
        match Part::of(builder, term) {
            Some(part) => parts.push(part),
            None => joined.push(term),
        }
    }
    parts.sort_by_key(|part| (part.axis, part.start));
    for run in parts.chunk_by(|a, b| a.axis == b.axis && a.end == b.start) {
        joined.push(join_run(builder, run)?);
    }
    Ok(joined)
}

/// Parts that follow each other, as one contribution.
fn join_run(builder: &mut Builder, run: &[Part]) -> Result<Value, TypeError> {
    let (first, last) = (run[0], run[run.len() - 1]);
    if run.len() == 1 {
        return Ok(first.whole);
    }
    let shape = builder.shape(first.whole).to_vec();
    let inner: Vec<Value> = run.iter().map(|part| part.inner).collect();
    let inner = builder.concat(&inner, first.axis)?;
    let (mut low, mut high) = (vec![0; shape.len()], vec![0; shape.len()]);
    (low[first.axis], high[first.axis]) = (first.start, shape[first.axis] - last.end);
    builder.pad(inner, &low, &high, &vec![0; shape.len()], 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::types::TensorType;

    /// Cotangent of a value of 6 elements that is read in these ranges.
    fn gradient_of_reads(ranges: &[(usize, usize)]) -> String {
        let mut b = Builder::new("reads");
        let x = b.input("x", TensorType::f32([6])).expect("a fresh name");
        let mut cotangents = Cotangents::default();
        for (k, &(start, end)) in ranges.iter().enumerate() {
            let g = b.input(&format!("g{k}"), TensorType::f32([end - start])).expect("a fresh name");
            let padded = b.pad(g, &[start], &[6 - end], &[0], 0.0).expect("the range is inside");
            cotangents.contribute(x, padded);
        }
        let sum = cotangents.sum(&mut b, x).expect("shapes agree").expect("there are reads");
        assert_eq!(cotangents.sum(&mut b, x).expect("shapes agree"), Some(sum));
        b.graph().op(sum.node).map_or("input", |op| op.name()).to_string()
    }

    #[test]
    fn parts_that_cover_the_value_are_joined() {
        assert_eq!(gradient_of_reads(&[(4, 6), (0, 1), (1, 4)]), "concat");
    }

    #[test]
    fn a_run_of_parts_is_padded_once() {
        assert_eq!(gradient_of_reads(&[(3, 4), (1, 3)]), "pad");
    }

    #[test]
    fn parts_that_overlap_are_added() {
        assert_eq!(gradient_of_reads(&[(0, 4), (3, 6)]), "add");
        assert_eq!(gradient_of_reads(&[(0, 6), (2, 3)]), "add");
    }
}
