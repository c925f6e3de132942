//! `random_uniform`: counter-based random numbers.

use crate::lower::{Access, Affine, BinaryFn, Body, CompareFn, Lowering, Nest, ScalarId};
use crate::op::{Cotangent, EvalError, Numerics, OpDef, Sample, VjpContext, op_struct, arity, require};
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, TypeError, row_major_strides};

op_struct! {
    /// Numbers uniform in [0, 1), f32 of `shape`, from an i64[2] operand `(seed, counter)`.
    ///
    /// Element `k` in row-major order is word `k mod 4` of Philox4x32-10 with the seed as key and the counter
    /// `(k div 4, stream, low half of counter, high half of counter)`; its upper 24 bits are the fraction. Equal operands and
    /// attributes give equal numbers, so that a recomputation draws the same; at most 2³⁴ elements.
    /// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    pub struct RandomUniform = "random_uniform" {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Tells apart the draws of one step; below 2³².
        stream: usize,
    }
}

const ROUNDS: u32 = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const LOW_HALF: u32 = u32::MAX;
/// Value of the lowest of 24 bits of fraction.
const FRACTION_UNIT: f64 = 1.0 / (1 << 24) as f64;
const MAX_ELEMENTS: usize = 1 << 34;

/// One block of Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [a, b] = [0, 1].map(|k| MULTIPLIERS[k] as u64 * counter[2 * k] as u64);
        let high = |product: u64| (product >> 32) as u32;
        counter = [high(b) ^ counter[1] ^ key[0], b as u32, high(a) ^ counter[3] ^ key[1], a as u32];
        key = [0, 1].map(|k| key[k].wrapping_add(KEY_STEPS[k]));
    }
    counter
}

fn halves(word: i64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

impl OpDef for RandomUniform {
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
        let [state] = arity(inputs)?;
        let expected = TensorType::new(DType::I64, [2]);
        require(*state == expected, "the operand must be (seed, counter)", &expected, state)?;
        require(u32::try_from(self.stream).is_ok(), "`stream` is too large", "below 2^32", self.stream)?;
        let ty = TensorType::checked(DType::F32, self.shape.clone())?;
        require(ty.elements() <= MAX_ELEMENTS, "too many elements for one counter", "at most 2^34", &ty)?;
        Ok(vec![ty])
    }

    fn vjp(&self, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Ok(vec![Cotangent::Zero])
    }

    fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
        let numbers = self.numbers([inputs[0].ints()[0], inputs[0].ints()[1]]);
        Ok(vec![Tensor::float(TensorType::f32(self.shape.clone()), numbers.collect())])
    }

    fn lower(&self, _: &[&TensorType], _: &[TensorType]) -> Lowering {
        Lowering::Nests(vec![Nest::map(&self.shape, |body| {
            let element = body.affine(&self.element());
            let word = self.word(body, element);
            let eight = integer(body, 8);
            let bits = body.binary(BinaryFn::Shr, word, eight);
            let bits = body.cast(DType::F32, bits);
            let unit = body.constant(DType::F32, FRACTION_UNIT);
            body.binary(BinaryFn::Mul, bits, unit)
        })])
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn samples() -> Vec<Sample> {
        let draw = |shape: &[usize], stream| Sample::new(RandomUniform { shape: shape.to_vec(), stream });
        vec![
            draw(&[3, 5], 0).other(DType::I64, &[2], -1e15..1e15),
            draw(&[9], 7).other(DType::I64, &[2], -9.0..9.0),
            draw(&[], 1).other(DType::I64, &[2], 0.0..9.0),
        ]
    }
}

impl RandomUniform {
    /// The numbers for a seed and a counter, one after the other.
    pub fn numbers(&self, state: [i64; 2]) -> impl Iterator<Item = f64> + use<> {
        let ([key, [low, high]], stream) = (state.map(halves), self.stream as u32);
        let elements: usize = self.shape.iter().product();
        let blocks = (0..elements.div_ceil(4)).flat_map(move |block| philox([block as u32, stream, low, high], key));
        blocks.take(elements).map(|word| f64::from(word >> 8) * FRACTION_UNIT)
    }
}

/// Philox as scalar code: every word is an i64 in 0..2³².
impl RandomUniform {
    /// Row-major position of a point.
    fn element(&self) -> Affine {
        Affine { base: 0, coeffs: row_major_strides(&self.shape).into_iter().map(|s| s as i64).collect() }
    }

    fn word(&self, body: &mut Body, element: ScalarId) -> ScalarId {
        let two = integer(body, 2);
        let block = body.binary(BinaryFn::Shr, element, two);
        let stream = integer(body, self.stream as u32);
        let [key, [low, high]] = [0, 1].map(|at| self.load_halves(body, at));
        let words = philox_scalars(body, [block, stream, low, high], key);
        let three = integer(body, 3);
        let which = body.binary(BinaryFn::And, element, three);
        (0..3).rev().fold(words[3], |rest, k| {
            let number = integer(body, k);
            let chosen = body.compare(CompareFn::Eq, which, number);
            body.select(chosen, words[k as usize], rest)
        })
    }

    fn load_halves(&self, body: &mut Body, at: i64) -> [ScalarId; 2] {
        let index = Affine::constant(self.shape.len(), at);
        let word = body.load(DType::I64, Access::new(0, &[2], vec![index]));
        [low_half(body, word), high_half(body, word)]
    }
}

fn philox_scalars(body: &mut Body, mut counter: [ScalarId; 4], mut key: [ScalarId; 2]) -> [ScalarId; 4] {
    for _ in 0..ROUNDS {
        let [a, b] = [0, 1].map(|k| {
            let multiplier = integer(body, MULTIPLIERS[k]);
            body.binary(BinaryFn::Mul, multiplier, counter[2 * k])
        });
        let mixed = [(b, counter[1], key[0]), (a, counter[3], key[1])].map(|(product, word, key)| {
            let high = high_half(body, product);
            let high = body.binary(BinaryFn::Xor, high, word);
            body.binary(BinaryFn::Xor, high, key)
        });
        counter = [mixed[0], low_half(body, b), mixed[1], low_half(body, a)];
        key = [0, 1].map(|k| {
            let step = integer(body, KEY_STEPS[k]);
            let sum = body.binary(BinaryFn::Add, key[k], step);
            low_half(body, sum)
        });
    }
    counter
}

fn integer(body: &mut Body, value: u32) -> ScalarId {
    body.constant(DType::I64, value as f64)
}

fn low_half(body: &mut Body, word: ScalarId) -> ScalarId {
    let mask = integer(body, LOW_HALF);
    body.binary(BinaryFn::And, word, mask)
}

fn high_half(body: &mut Body, word: ScalarId) -> ScalarId {
    let width = integer(body, 32);
    body.binary(BinaryFn::Shr, word, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' Random123 library (`kat_vectors`).
    #[test]
    fn philox_gives_the_published_words() {
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn numbers_are_uniform_and_differ_by_stream_and_counter() {
        let draw = |stream, counter| {
            let state = Tensor::int(TensorType::new(DType::I64, [2]), vec![42, counter]);
            RandomUniform { shape: vec![4096], stream }.eval(&[&state]).expect("valid").remove(0)
        };
        let numbers = draw(0, 0);
        let mean = numbers.floats().iter().sum::<f64>() / 4096.0;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        assert!(numbers.floats().iter().all(|v| (0.0..1.0).contains(v)));
        assert_eq!(numbers, draw(0, 0));
        assert_ne!(numbers, draw(1, 0));
        assert_ne!(numbers, draw(0, 1));
    }
}
