//! Einstein summation.

use super::indexing::diagonal;
use super::reduce;
use gradc_ir::builder::{Builder, broadcast_shape};
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// An axis of a term: a letter, or one that an ellipsis stands for, counted from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// Counted from the end of the ellipsis.
    Ellipsis(usize),
    Letter(char),
}

/// A tensor and what its axes are called.
struct Term {
    labels: Vec<Label>,
    value: Value,
}

/// Sums products over the labels that the result does not have, as `numpy.einsum` does: `bij,bjk->bik`.
///
/// Ellipses broadcast; a label that occurs twice in a term takes the diagonal. More than two operands are multiplied
/// from left to right.
pub fn einsum(b: &mut Builder, equation: &str, values: &[Value]) -> Result<Value, TypeError> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != values.len() {
        return Err(TypeError::new("one term per operand is needed").expected(values.len()).found(texts.len()));
    }
    let mut terms = Vec::new();
    for (text, &value) in texts.iter().zip(values) {
        let labels = labels(text, b.shape(value).len())?;
        terms.push(diagonals(b, Term { labels, value })?);
    }
    let width = ellipsis_width(&terms);
    let result = match right {
        Some(text) => result_labels(text, width)?,
        None => implicit_result(left, width),
    };
    contract_all(b, terms, &result).map_err(|e| match e.found {
        Some(_) => e,
        None => e.found(&equation),
    })
}

fn malformed(text: &str) -> TypeError {
    TypeError::new("a term of the equation is malformed").expected("letters, and at most one `...`").found(text)
}

/// Labels of the axes of an operand.
fn labels(text: &str, rank: usize) -> Result<Vec<Label>, TypeError> {
    let letters = text.chars().filter(|c| *c != '.').count();
    let wrong = || TypeError::new("one label per axis is needed").expected(format!("{rank} axes")).found(text);
    let hidden = match text.contains("...") {
        true => rank.checked_sub(letters).ok_or_else(wrong)?,
        false if letters == rank => 0,
        false => return Err(wrong()),
    };
    result_labels(text, hidden)
}

/// Labels of a term whose ellipsis stands for `width` axes.
fn result_labels(text: &str, width: usize) -> Result<Vec<Label>, TypeError> {
    let (before, after) = text.split_once("...").unwrap_or((text, ""));
    let hidden = if text.contains("...") { width } else { 0 };
    if !before.chars().chain(after.chars()).all(|c| c.is_ascii_alphabetic()) {
        return Err(malformed(text));
    }
    let letters = |part: &str| part.chars().map(Label::Letter).collect::<Vec<_>>();
    let ellipsis: Vec<Label> = (0..hidden).rev().map(Label::Ellipsis).collect();
    Ok([letters(before), ellipsis, letters(after)].concat())
}

fn ellipsis_width(terms: &[Term]) -> usize {
    let all = terms.iter().flat_map(|t| &t.labels);
    all.map(|l| if let Label::Ellipsis(k) = l { k + 1 } else { 0 }).max().unwrap_or(0)
}

/// The axes of ellipses, then the letters that occur once, in alphabetical order.
fn implicit_result(left: &str, width: usize) -> Vec<Label> {
    let letters: Vec<char> = left.chars().filter(|c| c.is_ascii_alphabetic()).collect();
    let once = |c: &char| letters.iter().filter(|o| *o == c).count() == 1;
    let mut kept: Vec<char> = letters.iter().copied().filter(once).collect();
    kept.sort_unstable();
    (0..width).rev().map(Label::Ellipsis).chain(kept.into_iter().map(Label::Letter)).collect()
}

/// A term in which every label occurs once.
fn diagonals(b: &mut Builder, mut term: Term) -> Result<Term, TypeError> {
    let twice =
        |labels: &[Label]| (1..labels.len()).find_map(|k| Some((labels[..k].iter().position(|l| *l == labels[k])?, k)));
    while let Some((first, second)) = twice(&term.labels) {
        term.value = diagonal(b, term.value, first, second)?;
        term.labels.remove(second);
    }
    Ok(term)
}

/// Multiplies the terms one after the other and puts the axes of the result in order.
fn contract_all(b: &mut Builder, terms: Vec<Term>, result: &[Label]) -> Result<Value, TypeError> {
    let mut left = terms.into_iter().collect::<std::collections::VecDeque<_>>();
    let mut product = left.pop_front().ok_or_else(|| TypeError::new("an equation needs an operand"))?;
    while let Some(next) = left.pop_front() {
        let needed = |label: &Label| result.contains(label) || left.iter().any(|t| t.labels.contains(label));
        product = contract(b, product, next, needed)?;
    }
    let product = sum_out(b, product, |label| result.contains(label))?;
    in_order(b, product, result)
}

/// The axes in the order of `result`.
fn in_order(b: &mut Builder, term: Term, result: &[Label]) -> Result<Value, TypeError> {
    let place = |label: &Label| term.labels.iter().position(|l| l == label);
    let perm = result.iter().map(place).collect::<Option<Vec<_>>>().filter(|p| p.len() == term.labels.len());
    let wrong = || TypeError::new("the result has a label that no operand has, or one twice");
    b.transpose(term.value, &perm.ok_or_else(wrong)?)
}

/// Sums over the axes whose label is not kept.
fn sum_out(b: &mut Builder, term: Term, kept: impl Fn(&Label) -> bool) -> Result<Term, TypeError> {
    let dropped: Vec<usize> = (0..term.labels.len()).filter(|&d| !kept(&term.labels[d])).collect();
    let value = reduce::sum(b, term.value, &dropped, false)?;
    Ok(Term { labels: term.labels.into_iter().filter(kept).collect(), value })
}

/// The product of two terms: shared labels that are needed are batch axes, other shared ones are summed over.
fn contract(b: &mut Builder, left: Term, right: Term, needed: impl Fn(&Label) -> bool) -> Result<Term, TypeError> {
    let (left, right) = broadcast_shared(b, left, right)?;
    let of_right = right.labels.clone();
    let left = sum_out(b, left, |l| needed(l) || of_right.contains(l))?;
    let of_left = left.labels.clone();
    let right = sum_out(b, right, |l| needed(l) || of_left.contains(l))?;
    let shared = |needs: bool| -> Vec<Label> {
        left.labels.iter().copied().filter(|l| right.labels.contains(l) && needed(l) == needs).collect()
    };
    let (batch, summed) = (shared(true), shared(false));
    let places = |labels: &[Label], of: &[Label]| -> Vec<usize> {
        of.iter().filter_map(|l| labels.iter().position(|o| o == l)).collect()
    };
    let rest = |labels: &[Label]| -> Vec<Label> {
        labels.iter().copied().filter(|l| !batch.contains(l) && !summed.contains(l)).collect()
    };
    let labels = [batch.clone(), rest(&left.labels), rest(&right.labels)].concat();
    let axes = |of: &[Label]| [places(&left.labels, of), places(&right.labels, of)];
    let ([lb, rb], [ls, rs]) = (axes(&batch), axes(&summed));
    let value = b.dot_general(left.value, right.value, [&lb, &rb], [&ls, &rs])?;
    Ok(Term { labels, value })
}

/// Both terms with shared axes of equal extents; those of extent 1 are repeated.
fn broadcast_shared(b: &mut Builder, left: Term, right: Term) -> Result<(Term, Term), TypeError> {
    let (mut l, mut r) = (b.shape(left.value).to_vec(), b.shape(right.value).to_vec());
    for (k, label) in left.labels.iter().enumerate() {
        if let Some(other) = right.labels.iter().position(|o| o == label) {
            let common = broadcast_shape(&[l[k]], &[r[other]])?[0];
            (l[k], r[other]) = (common, common);
        }
    }
    let (x, y) = (b.broadcast_to(left.value, &l)?, b.broadcast_to(right.value, &r)?);
    Ok((Term { value: x, ..left }, Term { value: y, ..right }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build, noise};

    /// Row-major element of a cube of side 2 or 3.
    fn at(x: &[f64], n: usize, index: &[usize]) -> f64 {
        x[index.iter().fold(0, |flat, i| flat * n + i)]
    }

    #[test]
    fn equations_follow_their_sums() {
        let n = 3;
        let (x, y, z) = (noise(27, 1), noise(9, 2), noise(3, 3));
        let inputs: [(&[usize], &[f64]); 3] = [(&[3, 3, 3], &x), (&[3, 3], &y), (&[3], &z)];
        let sum = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>();
        type Element<'a> = Box<dyn Fn(&[usize]) -> f64 + 'a>;
        let cases: [(&str, &[usize], usize, Element); 9] = [
            ("ij->ji", &[1], 2, Box::new(|i| at(&y, n, &[i[1], i[0]]))),
            ("ii", &[1], 0, Box::new(|_| sum(&|k| at(&y, n, &[k, k])))),
            ("bii->bi", &[0], 2, Box::new(|i| at(&x, n, &[i[0], i[1], i[1]]))),
            ("bij, jk -> bik", &[0, 1], 3, Box::new(|i| sum(&|k| at(&x, n, &[i[0], i[1], k]) * at(&y, n, &[k, i[2]])))),
            ("...j,jk", &[0, 1], 3, Box::new(|i| sum(&|k| at(&x, n, &[i[0], i[1], k]) * at(&y, n, &[k, i[2]])))),
            ("b...,...->b...", &[0, 1], 3, Box::new(|i| at(&x, n, i) * at(&y, n, &i[1..]))),
            ("i,ij,j->", &[2, 1, 2], 0, Box::new(|_| sum(&|i| sum(&|j| z[i] * at(&y, n, &[i, j]) * z[j])))),
            ("i,j,k->kij", &[2, 2, 2], 3, Box::new(|i| z[i[0]] * z[i[1]] * z[i[2]])),
            (
                "ij,ik->",
                &[1, 1],
                0,
                Box::new(|_| sum(&|i| sum(&|j| sum(&|k| at(&y, n, &[i, j]) * at(&y, n, &[i, k]))))),
            ),
        ];
        for (equation, operands, rank, element) in cases {
            let found = build(&inputs, |b, v| einsum(b, equation, &operands.iter().map(|&k| v[k]).collect::<Vec<_>>()));
            assert_eq!(found.ty.shape, vec![n; rank], "{equation}");
            let index = |k: usize| (0..rank).rev().map(|d| k / n.pow(d as u32) % n).collect::<Vec<_>>();
            let expected: Vec<f64> = (0..n.pow(rank as u32)).map(|k| element(&index(k))).collect();
            assert_close(equation, found.floats(), &expected, 1e-12);
        }
    }

    #[test]
    fn wrong_equations_are_refused() {
        for equation in ["ij", "ijk->il", "ij,jk->ik", "i.k->i", "ijk->iij", "ijkl->i", "i j 1->i"] {
            let mut b = Builder::new("test");
            let x = b.input("x", gradc_ir::types::TensorType::f32([2, 3, 4])).unwrap();
            assert!(einsum(&mut b, equation, &[x]).is_err(), "{equation}");
        }
    }
}
