//! `Einsum` of one or two operands.

use super::Rule::{self, One};
use super::{Fault, Node, Walk, require};
use crate::layers::reduce;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[("Einsum", One(einsum))];

/// Sums products over the labels that the result does not have, as `numpy.einsum` does; without ellipses and diagonals.
fn einsum(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let equation: String = node.string("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let values = node.inputs()?;
    let (terms, result) = parse(&equation)?;
    require(terms.len() == values.len(), "one term per operand is needed", values.len(), terms.len())?;
    for (term, &value) in terms.iter().zip(&values) {
        require(
            term.len() == cx.b.shape(value).len(),
            "one label per axis is needed",
            cx.b.ty(value),
            term.iter().collect::<String>(),
        )?;
    }
    let (labels, value) = match (&terms[..], &values[..]) {
        ([term], [value]) => (term.clone(), *value),
        ([left, right], [x, y]) => contract(cx, (left, *x), (right, *y), &result)?,
        _ => return Err(Fault::unsupported("`Einsum` of more than two operands is not supported").found(equation)),
    };
    let (labels, value) = sum_out(cx, labels, value, |label| result.contains(label))?;
    let place = |label: &char| labels.iter().position(|l| l == label);
    let perm = result.iter().map(place).collect::<Option<Vec<_>>>();
    let perm = perm.filter(|p| p.len() == labels.len());
    let perm = perm.ok_or_else(|| TypeError::new("the result has a label that no operand has").found(equation))?;
    Ok(cx.b.transpose(value, &perm)?)
}

/// Labels of every operand and of the result.
fn parse(equation: &str) -> Result<(Vec<Vec<char>>, Vec<char>), Fault> {
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation, None),
    };
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let result = right.map_or_else(|| implicit_result(&terms), |r| r.chars().collect());
    for term in terms.iter().chain([&result]) {
        let plain = term.iter().enumerate().all(|(k, c)| c.is_ascii_alphabetic() && !term[..k].contains(c));
        if !plain {
            return Err(Fault::unsupported("ellipses and repeated labels are not supported").found(equation));
        }
    }
    Ok((terms, result))
}

/// Labels that occur once, in alphabetical order.
fn implicit_result(terms: &[Vec<char>]) -> Vec<char> {
    let all: Vec<char> = terms.concat();
    let mut once: Vec<char> = all.iter().copied().filter(|c| all.iter().filter(|o| *o == c).count() == 1).collect();
    once.sort_unstable();
    once
}

/// Sums over the axes whose label is not kept.
fn sum_out(
    cx: &mut Walk,
    labels: Vec<char>,
    value: Value,
    kept: impl Fn(&char) -> bool,
) -> Result<(Vec<char>, Value), Fault> {
    let dropped: Vec<usize> = (0..labels.len()).filter(|&d| !kept(&labels[d])).collect();
    let value = reduce::sum(&mut cx.b, value, &dropped, false)?;
    Ok((labels.into_iter().filter(kept).collect(), value))
}

type Term<'a> = (&'a Vec<char>, Value);

/// Product of two operands: labels of both that the result has are batch axes, others of both are summed over.
fn contract(cx: &mut Walk, left: Term, right: Term, result: &[char]) -> Result<(Vec<char>, Value), Fault> {
    let (l, x) = sum_out(cx, left.0.clone(), left.1, |c| result.contains(c) || right.0.contains(c))?;
    let (r, y) = sum_out(cx, right.0.clone(), right.1, |c| result.contains(c) || l.contains(c))?;
    let shared =
        |in_result: bool| l.iter().copied().filter(|c| r.contains(c) && result.contains(c) == in_result).collect();
    let (batch, contracted): (Vec<char>, Vec<char>) = (shared(true), shared(false));
    let places = |labels: &[char], wanted: &[char]| -> Vec<usize> {
        wanted.iter().filter_map(|c| labels.iter().position(|l| l == c)).collect()
    };
    let (lb, rb) = (places(&l, &batch), places(&r, &batch));
    let (lc, rc) = (places(&l, &contracted), places(&r, &contracted));
    let value = cx.b.dot_general(x, y, [&lb, &rb], [&lc, &rc])?;
    let free = |own: &[char], other: &[char]| own.iter().copied().filter(|c| !other.contains(c)).collect::<Vec<_>>();
    Ok(([batch, free(&l, &r), free(&r, &l)].concat(), value))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn equations_are_parsed() {
        let (terms, result) = parse("bij,bjk->bik").expect("well formed");
        assert_eq!(
            (terms.concat().iter().collect::<String>(), result.iter().collect::<String>()),
            ("bijbjk".into(), "bik".into())
        );
        assert_eq!(parse("ba,bc").expect("implicit").1, ['a', 'c']);
        for equation in ["...i,i->...", "ii->i", "a1->a", "a->b->c"] {
            assert!(parse(equation).is_err(), "{equation}");
        }
    }
}
