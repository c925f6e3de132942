//! Lines in order, or their first elements.

use super::{LinesPlan, Run};
use gradc_ir::lower::LineWork;
use gradc_ir::types::DType;
use std::ops::Range;

/// Elements up to which the first of a line are kept in order while the others pass.
const FEW: usize = 16;

/// What is put in order: an element and its place, as one number that compares like the two.
trait Keyed: Copy {
    type Key: Copy + Ord;

    /// The number of an element at a place.
    fn key(self, place: usize, descending: bool) -> Self::Key;

    /// The place of the element.
    fn place(key: Self::Key) -> usize;
}

/// The bits of a float as a number in the order of floats: by value, NaN last, the zeros equal. Nothing is computed, which
/// could flush the least numbers.
macro_rules! in_order {
    ($x:ident, $bits:ty) => {{
        let (sign, bits) = (<$bits>::MAX ^ <$bits>::MAX >> 1, $x.to_bits());
        match bits & sign == 0 {
            _ if $x.is_nan() => <$bits>::MAX,
            _ if bits << 1 == 0 => sign,
            true => bits | sign,
            false => !bits,
        }
    }};
}

macro_rules! keyed {
    ($($element:ty: $order:ty, $key:ty, |$x:ident| $in_order:expr;)+) => {
        $(impl Keyed for $element {
            type Key = $key;

            fn key(self, place: usize, descending: bool) -> $key {
                let $x = self;
                let order: $order = $in_order;
                let order = if descending { !order } else { order };
                <$key>::from(order) << u32::BITS | place as $key
            }

            fn place(key: $key) -> usize {
                key as u32 as usize
            }
        })+
    };
}

keyed! {
    f32: u32, u64, |x| in_order!(x, u32);
    f64: u64, u128, |x| in_order!(x, u64);
    i32: u32, u64, |x| x.cast_unsigned() ^ 1 << 31;
    i64: u64, u128, |x| x.cast_unsigned() ^ 1 << 63;
    u8: u32, u64, |x| x.into();
}

/// What sorts lines of a dtype.
pub(super) fn of(dtype: DType) -> Run {
    match dtype {
        DType::F32 => run::<f32>,
        DType::F64 => run::<f64>,
        DType::I32 => run::<i32>,
        DType::I64 => run::<i64>,
        DType::U8 | DType::Bool => run::<u8>,
        DType::F16 | DType::BF16 => unreachable!("native code does not compute in half precision"),
    }
}

pub(super) fn bytes_of_key(dtype: DType) -> usize {
    if dtype.size_bytes() > 4 { size_of::<u128>() } else { size_of::<u64>() }
}

/// # Safety
/// The addresses are those of an operand and of its results, the work space has room for the keys of a line.
unsafe fn run<T: Keyed>(plan: &LinesPlan, lines: Range<usize>, arguments: &[*mut u8], work_space: *mut u8) {
    let LineWork::Sort { descending, count } = plan.work else { unreachable!("a plan has what does its work") };
    let (from, values, places) = (arguments[0].cast::<T>(), arguments[1].cast::<T>(), arguments[2].cast::<i64>());
    let keys = work_space.cast::<T::Key>();
    for line in lines {
        let (first, to) = (plan.start(line, plan.extent), plan.start(line, count));
        // SAFETY: as promised by the caller; only places in the line are read and only the first of its results written.
        unsafe {
            let element = |k: usize| from.add(first + k * plan.inner).read_unaligned();
            (0..plan.extent).for_each(|k| keys.add(k).write(element(k).key(k, descending)));
            let keys = std::slice::from_raw_parts_mut(keys, plan.extent);
            for (k, &key) in first_in_order(keys, count).iter().enumerate() {
                let place = T::place(key);
                values.add(to + k * plan.inner).write(element(place));
                places.add(to + k * plan.inner).write(place as i64);
            }
        }
    }
}

/// The first `count` keys in order, in front of the others.
fn first_in_order<K: Copy + Ord>(keys: &mut [K], count: usize) -> &[K] {
    if count == 0 {
        return &[];
    }
    if count <= FEW {
        keep_few(keys, count);
    } else if count < keys.len() {
        keys.select_nth_unstable(count);
        keys[..count].sort_unstable();
    } else {
        keys.sort_unstable();
    }
    &keys[..count]
}

/// The first keys are always the least so far, in order.
fn keep_few<K: Copy + Ord>(keys: &mut [K], count: usize) {
    keys[..count].sort_unstable();
    let mut greatest = keys[count - 1];
    for k in count..keys.len() {
        let key = keys[k];
        if key < greatest {
            let at = keys[..count].partition_point(|&other| other < key);
            keys.copy_within(at..count - 1, at + 1);
            keys[at] = key;
            greatest = keys[count - 1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_those_of_the_whole_order() {
        let keys: Vec<u64> = (0..300u64).map(|k| k.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        for count in [0, 1, 5, FEW, FEW + 1, 150, 299, 300] {
            assert_eq!(first_in_order(&mut keys.clone(), count), &sorted[..count]);
        }
        let mut falling: Vec<u64> = (0..100).rev().collect();
        assert_eq!(first_in_order(&mut falling, 3), [0, 1, 2]);
    }

    #[test]
    fn keys_are_in_the_order_of_numbers_then_of_places() {
        let least = f32::from_bits(1);
        let floats = [f32::NEG_INFINITY, -1.0, -least, 0.0, least, f32::MIN_POSITIVE, 3.0, f32::INFINITY, f32::NAN];
        assert!(floats.windows(2).all(|w| w[0].key(9, false) < w[1].key(0, false)));
        assert!(floats.windows(2).all(|w| w[0].key(0, true) > w[1].key(9, true)));
        assert!((-0.0f32).key(1, false) > 0.0f32.key(0, false) && (-f32::NAN).key(1, false) > f32::NAN.key(0, false));
        assert!((-1.5f64).key(0, false) < 2.5f64.key(0, false) && i64::MIN.key(0, false) < 7i64.key(0, false));
        assert!((-3i32).key(0, false) < 0i32.key(0, false) && 3u8.key(0, true) < 2u8.key(0, true));
        assert_eq!(<f32 as Keyed>::place(5.0f32.key(70_000, true)), 70_000);
    }
}
