//! Sums of the elements of a line up to each; those of f32 in f64.

use super::{LinesPlan, Run};
use gradc_ir::lower::LineWork;
use gradc_ir::types::DType;
use std::ops::Range;

/// Lines that go on together, so that none waits for its own last addition: of those whose elements are next to those of
/// others, and of those behind each other. As many of these are as the first-level cache has places for where lines are
/// pages long.
const BESIDE: usize = 16;
const BEHIND: usize = 4;

/// A number that is added up.
trait Added: Copy {
    type Sum: Copy;
    const ZERO: Self::Sum;

    fn plus(self, sum: Self::Sum) -> Self::Sum;
    fn of(sum: Self::Sum) -> Self;
}

macro_rules! added {
    ($($element:ty: $sum:ty, $zero:literal, |$x:ident, $so_far:ident| $plus:expr;)+) => {
        $(impl Added for $element {
            type Sum = $sum;
            const ZERO: $sum = $zero;

            fn plus(self, $so_far: $sum) -> $sum {
                let $x = self;
                $plus
            }

            fn of(sum: $sum) -> $element {
                sum as $element
            }
        })+
    };
}

added! {
    f32: f64, 0.0, |x, sum| sum + f64::from(x);
    f64: f64, 0.0, |x, sum| sum + x;
    i32: i32, 0, |x, sum| sum.wrapping_add(x);
    i64: i64, 0, |x, sum| sum.wrapping_add(x);
    u8: u8, 0, |x, sum| sum.wrapping_add(x);
}

/// What adds up lines of a dtype.
pub(super) fn of(dtype: DType) -> Run {
    match dtype {
        DType::F32 => run::<f32>,
        DType::F64 => run::<f64>,
        DType::I32 => run::<i32>,
        DType::I64 => run::<i64>,
        DType::U8 => run::<u8>,
        DType::Bool | DType::F16 | DType::BF16 => unreachable!("neither booleans nor halves are added up"),
    }
}

/// # Safety
/// The addresses are those of an operand and of its result.
unsafe fn run<T: Added>(plan: &LinesPlan, mut lines: Range<usize>, arguments: &[*mut u8], _: *mut u8) {
    let (from, to) = (arguments[0].cast::<T>(), arguments[1].cast::<T>());
    while !lines.is_empty() {
        // Lines whose elements are between those of others end with the matrix.
        let left = if plan.inner == 1 { lines.len() } else { lines.len().min(plan.inner - lines.start % plan.inner) };
        let start = plan.start(lines.start, plan.extent);
        // SAFETY: as promised by the caller.
        lines.start += unsafe {
            let (from, to) = (from.add(start), to.add(start));
            match plan.inner {
                1 if left >= BEHIND => along::<T, BEHIND>(plan, plan.extent, from, to),
                2.. if left >= BESIDE => along::<T, BESIDE>(plan, 1, from, to),
                _ => along::<T, 1>(plan, 1, from, to),
            }
        };
    }
}

/// Adds up lines that begin so far apart; says how many.
///
/// # Safety
/// The addresses are those of the first of so many lines of the operand and of the result.
#[inline(always)]
unsafe fn along<T: Added, const LINES: usize>(plan: &LinesPlan, apart: usize, from: *const T, to: *mut T) -> usize {
    let LineWork::CumulativeSum { reverse } = plan.work else { unreachable!("a plan has what does its work") };
    let mut sums = [T::ZERO; LINES];
    for k in 0..plan.extent {
        let at = plan.inner * if reverse { plan.extent - 1 - k } else { k };
        for (line, sum) in sums.iter_mut().enumerate() {
            let at = at + line * apart;
            // SAFETY: as promised by the caller.
            unsafe {
                *sum = from.add(at).read_unaligned().plus(*sum);
                to.add(at).write(T::of(*sum));
            }
        }
    }
    LINES
}
