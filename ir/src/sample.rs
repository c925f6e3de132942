//! Operands drawn for a [`Sample`]: the same for the same seed, on every machine.

use crate::op::{Sample, SampleOperand};
use crate::tensor::Tensor;
use std::ops::Range;

/// Least distance between values of an operand that asks for distinct ones.
const DISTINCT_BY: f64 = 1e-2;

impl Sample {
    /// One tensor per operand, floats rounded to the operand's dtype.
    ///
    /// # Panics
    /// When a range is too narrow for as many distinct values as its operand asks for.
    pub fn draw(&self, seed: u64) -> Vec<Tensor> {
        let mut random = SplitMix64(seed);
        self.operands.iter().map(|operand| draw_operand(operand, &mut random)).collect()
    }
}

fn draw_operand(operand: &SampleOperand, random: &mut SplitMix64) -> Tensor {
    let (ty, range) = (operand.ty.clone(), &operand.range);
    let count = ty.elements();
    let values = if operand.distinct { draw_distinct(count, range, random) } else { draw_any(count, range, random) };
    if ty.dtype.is_float() {
        Tensor::float(ty, values).rounded()
    } else {
        Tensor::int(ty, values.iter().map(|v| v.floor() as i64).collect())
    }
}

fn draw_any(count: usize, range: &Range<f64>, random: &mut SplitMix64) -> Vec<f64> {
    (0..count).map(|_| range.start + (range.end - range.start) * random.unit()).collect()
}

/// Evenly spaced values in a random order.
fn draw_distinct(count: usize, range: &Range<f64>, random: &mut SplitMix64) -> Vec<f64> {
    let step = (range.end - range.start) / count as f64;
    assert!(count == 0 || step >= DISTINCT_BY, "{range:?} has no room for {count} values {DISTINCT_BY} apart");
    let mut values: Vec<f64> = (0..count).map(|k| range.start + (k as f64 + 0.5) * step).collect();
    for k in (1..count).rev() {
        values.swap(k, random.below(k + 1));
    }
    values
}

/// Generator of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform below `bound`, up to a bias of `bound / 2⁵³`.
    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }
}
