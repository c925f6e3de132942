//! `Reshape`, whose literal targets may contain the batch size of the export.

use super::{Fault, Node, Walk, require};
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The elements in row-major order under another shape; 0 keeps an extent (unless `allowzero`), −1 is what remains.
pub fn reshape(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let target = cx.ints(node, 1)?;
    let allow_zero = node.flag("allowzero", false)?;
    let shape = cx.b.shape(x).to_vec();
    let literal = resolve(&shape, &target, allow_zero);
    let recorded = (cx.recorded_shape(node.input_name(0)), cx.recorded_shape(node.output(0)));
    let (Some(old_from), Some(old_to)) = recorded else { return Ok(cx.b.reshape(x, &literal?)?) };
    Ok(match rescale(old_from, old_to, &shape) {
        Some(to) => cx.b.reshape(x, &to)?,
        None => {
            // a target computed from shapes has changed with them; one that has not holds the old batch size
            let computed = literal.ok().filter(|to| to != old_to && !target.contains(&-1));
            let to = computed.ok_or_else(|| batch_fault(old_from, old_to, &shape))?;
            cx.b.reshape(x, &to)?
        }
    })
}

fn resolve(shape: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>, Fault> {
    let elements: usize = shape.iter().product();
    let extent = |(d, &t): (usize, &i64)| match t {
        0 if !allow_zero => shape.get(d).copied().ok_or_else(|| TypeError::new("0 keeps an axis that is not there")),
        -1 => Ok(1),
        t => usize::try_from(t).map_err(|_| TypeError::new("an extent is negative").found(t)),
    };
    let mut extents = target.iter().enumerate().map(extent).collect::<Result<Vec<_>, TypeError>>()?;
    let unknown: Vec<usize> = (0..target.len()).filter(|&d| target[d] == -1).collect();
    require(unknown.len() <= 1, "only one extent may be -1", "one", unknown.len())?;
    if let Some(&d) = unknown.first() {
        let known = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).filter(|&n| n > 0);
        let rest = known.filter(|n| elements.is_multiple_of(*n)).map(|n| elements / n);
        extents[d] = rest.ok_or_else(|| {
            TypeError::new("-1 has no solution").expected(format!("{elements} elements")).found(format!("{target:?}"))
        })?;
    }
    Ok(extents)
}

/// The target of a reshape when one extent of its operand has changed: the axis of the target that covers the changed
/// axis in row-major order (that axis alone, or merged with neighbours) changes in proportion.
///
/// `None` when several extents changed, when the changed axis is split, or when several axes would do.
fn rescale(old_from: &[usize], old_to: &[usize], from: &[usize]) -> Option<Vec<usize>> {
    if old_from.len() != from.len() {
        return None;
    }
    let changed: Vec<usize> = (0..from.len()).filter(|&d| from[d] != old_from[d]).collect();
    let d = match changed[..] {
        [] => return Some(old_to.to_vec()),
        [d] if !old_from.contains(&0) => d,
        _ => return None,
    };
    let product = |extents: &[usize]| extents.iter().product::<usize>();
    let (outer, inner) = (product(&old_from[..d]), product(&old_from[d + 1..]));
    let covers =
        |k: &usize| outer.is_multiple_of(product(&old_to[..*k])) && inner.is_multiple_of(product(&old_to[*k + 1..]));
    let covering: Vec<usize> = (0..old_to.len()).filter(covers).collect();
    let smallest = covering.iter().map(|&k| old_to[k]).min()?;
    let mut tightest = covering.into_iter().filter(|&k| old_to[k] == smallest);
    let (axis, None) = (tightest.next()?, tightest.next()) else { return None };
    let mut to = old_to.to_vec();
    to[axis] = to[axis] / old_from[d] * from[d];
    (product(&to) == product(from)).then_some(to)
}

fn batch_fault(old_from: &[usize], old_to: &[usize], from: &[usize]) -> Fault {
    let error = TypeError::new("the target shape holds the batch size of the export")
        .expected(format!("an axis of {old_to:?} that carries what changed from {old_from:?} to {from:?}"));
    Fault::new("fixed-batch", error).help("export the model at this batch size, or with a dynamic one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_the_batch() {
        type Case<'a> = ([&'a [usize]; 3], Option<&'a [usize]>);
        let cases: &[Case] = &[
            // split of a later axis
            ([&[8, 64, 128], &[8, 64, 4, 32], &[2, 64, 128]], Some(&[2, 64, 4, 32])),
            // batch merged with time
            ([&[16, 32, 65], &[512, 65], &[4, 32, 65]], Some(&[128, 65])),
            // and taken apart again: the batch is hidden in the first extent
            ([&[512, 65], &[16, 32, 65], &[128, 65]], None),
            // a new leading axis
            ([&[8, 4], &[1, 8, 4], &[2, 4]], Some(&[1, 2, 4])),
            // batch inside, merged with what follows, with what precedes, or with both
            ([&[4, 8, 3], &[4, 24], &[4, 2, 3]], Some(&[4, 6])),
            ([&[4, 8, 3], &[32, 3], &[4, 2, 3]], Some(&[8, 3])),
            ([&[4, 8, 3], &[96], &[4, 2, 3]], Some(&[24])),
            // exported with a batch of one: which of two axes it was cannot be known
            ([&[1, 5], &[1, 1, 5], &[3, 5]], None),
            ([&[1, 5], &[1, 5, 1], &[3, 5]], Some(&[3, 5, 1])),
            // nothing changed
            ([&[4, 8], &[32], &[4, 8]], Some(&[32])),
            // flattened to one extent that two axes share
            ([&[1, 5], &[5], &[3, 5]], Some(&[15])),
        ];
        for ([old_from, old_to, from], expected) in cases {
            assert_eq!(rescale(old_from, old_to, from).as_deref(), *expected, "{old_from:?} {old_to:?} {from:?}");
        }
    }

    #[test]
    fn zero_and_minus_one_are_resolved() {
        assert_eq!(resolve(&[2, 3, 4], &[0, -1], false).expect("solvable"), [2, 12]);
        assert_eq!(resolve(&[2, 0], &[0, 5], true).expect("literal"), [0, 5]);
        for (shape, target) in [(&[2usize, 3][..], &[-1i64, -1][..]), (&[6], &[4, -1]), (&[6], &[-2]), (&[], &[0])] {
            assert!(resolve(shape, target, false).is_err(), "{shape:?} {target:?}");
        }
    }
}
