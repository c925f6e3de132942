//! Places in sorted sequences.

use super::reduce;
use super::shape::unsqueeze;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TypeError};

/// How many of the elements along the last axis of `sorted` come before each of `values`, as i64; of equal ones all with
/// `right`, else none. NaN comes last (PyTorch `searchsorted`).
///
/// `sorted` is `[N]`, or `[L…, N]` beside `values` `[L…, M]`. Every element is compared with every value.
pub fn search_sorted(b: &mut Builder, sorted: Value, values: Value, right: bool) -> Result<Value, TypeError> {
    let (of, wanted) = (b.shape(sorted).to_vec(), b.shape(values).to_vec());
    let Some((_, lines)) = of.split_last() else {
        return Err(TypeError::new("a scalar is no sequence").expected("[…, N]").found(b.ty(sorted)));
    };
    let fits = lines.is_empty() || wanted.split_last().is_some_and(|(_, own)| own == lines);
    if !fits {
        let error = TypeError::new("sequences and values need the same leading axes");
        return Err(error.expected(format!("{lines:?} and one more")).found(format!("{wanted:?}")));
    }
    let values = unsqueeze(b, values, &[wanted.len()])?;
    let sorted = if lines.is_empty() { sorted } else { unsqueeze(b, sorted, &[lines.len()])? };
    let stops = b.compare(if right { CompareFn::Gt } else { CompareFn::Ge }, sorted, values)?;
    let before = b.not(stops)?;
    let counted = b.cast(before, DType::I64)?;
    reduce::sum(b, counted, &[wanted.len()], false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::build;

    #[test]
    fn equal_elements_are_counted_on_one_side() {
        let sorted: (&[usize], &[f64]) = (&[4], &[0.0, 1.0, 1.0, 2.0]);
        let values: (&[usize], &[f64]) = (&[2, 3], &[-1.0, 1.0, 0.5, 2.0, 9.0, f64::NAN]);
        let found = |right| build(&[sorted, values], |b, x| search_sorted(b, x[0], x[1], right)).ints().to_vec();
        assert_eq!(found(false), [0, 1, 1, 3, 4, 4]);
        assert_eq!(found(true), [0, 3, 1, 4, 4, 4]);
    }

    #[test]
    fn every_line_has_a_sequence_of_its_own() {
        let sorted: (&[usize], &[f64]) = (&[2, 2], &[0.0, 1.0, 5.0, 6.0]);
        let values: (&[usize], &[f64]) = (&[2, 3], &[-1.0, 0.5, 2.0, 4.0, 5.5, 7.0]);
        assert_eq!(build(&[sorted, values], |b, x| search_sorted(b, x[0], x[1], true)).ints(), [0, 1, 2, 0, 1, 2]);
        let mut b = Builder::new("test");
        let x = b.input("x", gradc_ir::types::TensorType::f32([2, 3])).unwrap();
        let y = b.input("y", gradc_ir::types::TensorType::f32([3, 3])).unwrap();
        assert!(search_sorted(&mut b, x, y, false).is_err());
    }
}
