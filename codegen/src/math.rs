//! f32 functions in vectors.
//!
//! Largest errors measured against f64 (`tests/math.rs`), in units in the last place: exp 1.0, log 0.8, tanh 1.1,
//! erf 1.1, pow 1.1, sin and cos 1.5 up to |x| = 1e6. Infinities, NaN and subnormal operands follow IEEE 754;
//! results below the least normal number are zero in a step (`subnormals.rs`).

use crate::simd::{Op1, Op2, Relation, Simd};
use gradc_ir::lower::{BinaryFn, UnaryFn};

/// An exponent whose power is 2⁻²⁵⁴ to the nearest: both of the factors 2⁻¹²⁷ that scale it have the bits of 0.
///
/// Any exponent from −104 down gives 0, but where nothing is flushed a product that ends below the subnormal numbers takes
/// many times as long as one with 0, and masked scores of attention are far below.
const VANISHING_EXPONENT: f32 = -176.0;

/// 1.5 · 2²³: a sum with it has no fraction bits, and the integer nearest to the other number in the low ones.
const MAGIC: f32 = 12_582_912.0;

/// What is added to the exponent of a float in its bits.
const EXPONENT_BIAS: f32 = 127.0;

/// Scalar functions of bodies over the operations of a [`Simd`].
pub(crate) trait Math: Simd {
    /// f(x) of f32.
    fn unary(&mut self, f: UnaryFn, x: &Self::Vector) -> Self::Vector {
        match f {
            UnaryFn::Neg => self.with_sign_bits(Op2::Xor, x, 0x8000_0000),
            UnaryFn::Abs => self.with_sign_bits(Op2::And, x, 0x7FFF_FFFF),
            UnaryFn::Sqrt => self.op1(Op1::Sqrt, x),
            UnaryFn::Floor => self.op1(Op1::Floor, x),
            UnaryFn::Ceil => self.op1(Op1::Ceil, x),
            UnaryFn::Round => self.op1(Op1::Round, x),
            UnaryFn::Recip => self.recip(x),
            UnaryFn::Rsqrt => {
                let root = self.op1(Op1::Sqrt, x);
                self.recip(&root)
            }
            UnaryFn::Sign => self.sign(x),
            UnaryFn::Exp => self.exp(x),
            UnaryFn::Log => self.log(x),
            UnaryFn::Tanh => self.tanh(x),
            UnaryFn::Erf => self.erf(x),
            UnaryFn::Sin => self.sine(x, 0.0),
            UnaryFn::Cos => self.sine(x, 1.0),
            UnaryFn::Not => unreachable!("`not` takes booleans"),
        }
    }

    /// f(x, y) of f32.
    fn binary(&mut self, f: BinaryFn, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        match f {
            BinaryFn::Add => self.op2(Op2::Add, x, y),
            BinaryFn::Sub => self.op2(Op2::Sub, x, y),
            BinaryFn::Mul => self.op2(Op2::Mul, x, y),
            BinaryFn::Div => self.op2(Op2::Div, x, y),
            BinaryFn::Max => self.extreme(Op2::Greater, x, y),
            BinaryFn::Min => self.extreme(Op2::Less, x, y),
            BinaryFn::Pow => self.pow(x, y),
            _ => unreachable!("the function is called or takes integers"),
        }
    }

    /// The same number in every lane.
    fn constant(&mut self, x: f32) -> Self::Vector {
        self.word(x.to_bits())
    }

    /// `x + y`
    fn add(&mut self, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        self.op2(Op2::Add, x, y)
    }

    /// `x − y`
    fn sub(&mut self, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        self.op2(Op2::Sub, x, y)
    }

    /// `x · y`
    fn mul(&mut self, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        self.op2(Op2::Mul, x, y)
    }

    /// Mask of the lanes where `x` and `y` compare so.
    fn compare(&mut self, relation: Relation, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        self.op2(Op2::Compare(relation), x, y)
    }

    /// Mask of the lanes where `x` and a constant compare so.
    fn compare_with(&mut self, relation: Relation, x: &Self::Vector, y: f32) -> Self::Vector {
        let y = self.constant(y);
        self.compare(relation, x, &y)
    }

    fn with_sign_bits(&mut self, op: Op2, x: &Self::Vector, bits: u32) -> Self::Vector {
        let bits = self.word(bits);
        self.op2(op, x, &bits)
    }

    /// Polynomial in `x`, coefficients from the highest power down.
    fn polynomial(&mut self, x: &Self::Vector, coefficients: &[f32]) -> Self::Vector {
        let first = self.constant(coefficients[0]);
        coefficients[1..].iter().fold(first, |sum, &c| {
            let c = self.constant(c);
            self.multiply_add(&sum, x, &c)
        })
    }

    /// The larger or smaller of two, NaN if either is: three instructions where the exact minimum of the
    /// instruction set's own semantics takes one and forgets a NaN on the left.
    fn extreme(&mut self, better: Op2, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        // Gives y if either is NaN.
        let best = self.op2(better, x, y);
        let nan = self.compare(Relation::Unordered, x, x);
        self.select(&nan, x, &best)
    }

    /// `x` limited to `low..=high`; NaN stays.
    fn clamp(&mut self, x: &Self::Vector, low: f32, high: f32) -> Self::Vector {
        let (low, high) = (self.constant(low), self.constant(high));
        let above = self.op2(Op2::Greater, &low, x);
        self.op2(Op2::Less, &high, &above)
    }

    /// 1 / x
    fn recip(&mut self, x: &Self::Vector) -> Self::Vector {
        let one = self.constant(1.0);
        self.op2(Op2::Div, &one, x)
    }

    /// −1, 0 or 1; zeros and NaN stay.
    fn sign(&mut self, x: &Self::Vector) -> Self::Vector {
        let (one, minus) = (self.constant(1.0), self.constant(-1.0));
        let above = self.compare_with(Relation::Gt, x, 0.0);
        let below = self.compare_with(Relation::Lt, x, 0.0);
        let low = self.select(&below, &minus, x);
        self.select(&above, &one, &low)
    }

    /// x, not negative or of the same sign already, with the sign of `of`.
    fn with_sign(&mut self, x: &Self::Vector, of: &Self::Vector) -> Self::Vector {
        let sign = self.with_sign_bits(Op2::And, of, 0x8000_0000);
        self.op2(Op2::Or, x, &sign)
    }

    /// eˣ: argument reduction to |r| ≤ ½ ln 2 and a polynomial (Cephes expf); scaled in two steps so that
    /// results down to the smallest normal number (and below, where nothing is flushed) and up to infinity come out.
    fn exp(&mut self, x: &Self::Vector) -> Self::Vector {
        let x = self.clamp(x, VANISHING_EXPONENT, 89.0);
        let (log2_e, magic) = (self.constant(std::f32::consts::LOG2_E), self.constant(MAGIC + 2.0 * EXPONENT_BIAS));
        let scaled = self.mul(&x, &log2_e);
        let shifted = self.add(&scaled, &magic);
        let n = self.sub(&shifted, &magic);
        let (high, low) = (self.constant(-0.693_359_4), self.constant(2.121_944_4e-4));
        let r = self.multiply_add(&n, &high, &x);
        let r = self.multiply_add(&n, &low, &r);
        self.exp_of_sum(&shifted, &r)
    }

    /// e^(n · ln 2 + r) for |r| ≤ ½ ln 2, given the sum of n and [`MAGIC`] + 2 · [`EXPONENT_BIAS`].
    fn exp_of_sum(&mut self, shifted: &Self::Vector, r: &Self::Vector) -> Self::Vector {
        let p =
            self.polynomial(r, &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1]);
        let (square, one) = (self.mul(r, r), self.constant(1.0));
        let tail = self.multiply_add(&p, &square, r);
        let p = self.add(&tail, &one);
        let half = self.op1(Op1::ShiftRight(1), shifted);
        let rest = self.op2(Op2::SubInt, shifted, &half);
        let (first, second) = (self.power_of_two(&half), self.power_of_two(&rest));
        let p = self.mul(&p, &first);
        self.mul(&p, &second)
    }

    /// eˣ for x between −87 and 88 as two factors, the second a power of two; to 2 units in the last place, for sums with
    /// larger numbers. The polynomial is `(eʳ − 1 − r) / r²` (minimax by Remez' algorithm) and gives eʳ to 2⁻²⁸.
    fn exp_factors(&mut self, x: &Self::Vector) -> (Self::Vector, Self::Vector) {
        let (log2_e, magic) = (self.constant(std::f32::consts::LOG2_E), self.constant(MAGIC + EXPONENT_BIAS));
        let shifted = self.multiply_add(x, &log2_e, &magic);
        let n = self.sub(&shifted, &magic);
        let ln_2 = self.constant(-std::f32::consts::LN_2);
        let r = self.multiply_add(&n, &ln_2, x);
        let coefficients = [1.381_454e-3, 8.368_745e-3, 4.166_839e-2, 1.666_652e-1, 4.999_999_3e-1, 1.0, 1.0];
        (self.polynomial(&r, &coefficients), self.power_of_two(&shifted))
    }

    /// `2ⁿ` of the integer `n` + [`EXPONENT_BIAS`] in the low bits of a lane whose nine bits above are clear.
    fn power_of_two(&mut self, biased: &Self::Vector) -> Self::Vector {
        self.op1(Op1::ShiftLeft(23), biased)
    }

    /// ln x (Cephes logf): mantissa in √½..√2 by its bits.
    fn log(&mut self, x: &Self::Vector) -> Self::Vector {
        let (exponent, mantissa) = self.split(x);
        let one = self.constant(1.0);
        let m = self.sub(&mantissa, &one);
        let p = self.polynomial(
            &m,
            &[
                7.037_683_6e-2,
                -1.151_461e-1,
                1.167_699_9e-1,
                -1.242_014_1e-1,
                1.424_932_3e-1,
                -1.666_805_8e-1,
                2.000_071_5e-1,
                -2.499_999_4e-1,
                3.333_333e-1,
            ],
        );
        let square = self.mul(&m, &m);
        let cube = self.mul(&square, &m);
        let p = self.mul(&p, &cube);
        let (low, half, high) = (self.constant(-2.121_944_4e-4), self.constant(-0.5), self.constant(0.693_359_4));
        let p = self.multiply_add(&exponent, &low, &p);
        let p = self.multiply_add(&square, &half, &p);
        let sum = self.add(&m, &p);
        let y = self.multiply_add(&exponent, &high, &sum);
        self.log_limits(x, &y)
    }

    /// Exponent and mantissa in √½..√2 of positive numbers, denormal ones scaled up first.
    fn split(&mut self, x: &Self::Vector) -> (Self::Vector, Self::Vector) {
        let up = self.constant(8_388_608.0);
        let tiny = self.compare_with(Relation::Lt, x, f32::MIN_POSITIVE);
        let scaled = self.mul(x, &up);
        let normal = self.select(&tiny, &scaled, x);
        let (exponent, mantissa) = self.split_normal(&normal);
        let down = self.constant(-23.0);
        let extra = self.op2(Op2::And, &tiny, &down);
        (self.add(&exponent, &extra), mantissa)
    }

    /// Exponent and mantissa in √½..√2 of normal numbers.
    fn split_normal(&mut self, x: &Self::Vector) -> (Self::Vector, Self::Vector) {
        // Bits of √½, so that the exponent steps up where the mantissa passes it.
        let (offset, fraction) = (self.word(std::f32::consts::FRAC_1_SQRT_2.to_bits()), self.word(0x007F_FFFF));
        let above = self.op2(Op2::SubInt, x, &offset);
        let exponent = self.op1(Op1::ShiftRight(23), &above);
        let exponent = self.op1(Op1::FloatOfInt, &exponent);
        let kept = self.op2(Op2::And, &above, &fraction);
        (exponent, self.op2(Op2::AddInt, &kept, &offset))
    }

    /// Puts in what the logarithm of 0, of infinity, of NaN and of negative numbers is.
    fn log_limits(&mut self, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        let infinity = self.constant(f32::INFINITY);
        let (least, nan) = (self.constant(f32::NEG_INFINITY), self.constant(f32::NAN));
        let huge = self.compare(Relation::Eq, x, &infinity);
        let y = self.select(&huge, &infinity, y);
        let at_zero = self.compare_with(Relation::Eq, x, 0.0);
        let y = self.select(&at_zero, &least, &y);
        let outside = self.compare_with(Relation::UnorderedOrLess, x, 0.0);
        self.select(&outside, &nan, &y)
    }

    /// xʸ = e^(y · ln |x|) with the sign of x for odd y, the logarithm and the product in f64: of 128 bits before the point
    /// as many are left behind it as f32 has.
    fn pow(&mut self, x: &Self::Vector, y: &Self::Vector) -> Self::Vector {
        let magnitude = self.unary(UnaryFn::Abs, x);
        let (exponent, mantissa) = self.split(&magnitude);
        let exponent = self.exponent_limits(&magnitude, &exponent);
        let (n0, r0) = self.power_half(Op1::WidenLow, [&exponent, &mantissa, y]);
        let (n1, r1) = self.power_half(Op1::WidenHigh, [&exponent, &mantissa, y]);
        let (n, r) = (self.op2(Op2::Join, &n0, &n1), self.op2(Op2::Join, &r0, &r1));
        let n = self.clamp(&n, -2.0 * EXPONENT_BIAS, EXPONENT_BIAS + 2.0);
        // Where n is infinite there is no remainder.
        let (magic, largest) = (self.constant(MAGIC + 2.0 * EXPONENT_BIAS), self.constant(0.5));
        let (shifted, r) = (self.add(&n, &magic), self.op2(Op2::Less, &r, &largest));
        let power = self.exp_of_sum(&shifted, &r);
        self.power_limits([x, y, &magnitude], &power)
    }

    /// The binary logarithm of 0 and of infinity in the place of their exponents.
    fn exponent_limits(&mut self, x: &Self::Vector, exponent: &Self::Vector) -> Self::Vector {
        let (infinity, least) = (self.constant(f32::INFINITY), self.constant(f32::NEG_INFINITY));
        let huge = self.compare(Relation::Eq, x, &infinity);
        let exponent = self.select(&huge, &infinity, exponent);
        let at_zero = self.compare_with(Relation::Eq, x, 0.0);
        self.select(&at_zero, &least, &exponent)
    }

    /// (n, r) with `n · ln 2 + r = y · ln(mantissa · 2^exponent)` of one half of the lanes, r within ± ½ ln 2. The polynomial
    /// is `log₂(1 + t) / t` (minimax by Remez' algorithm, to 2⁻³³).
    fn power_half(&mut self, half: Op1, operands: [&Self::Vector; 3]) -> (Self::Vector, Self::Vector) {
        let [exponent, mantissa, y] = operands.map(|v| self.op1(half, v));
        let minus_one = self.wide_constant(-1.0);
        let t = self.op2(Op2::AddWide, &mantissa, &minus_one);
        let p = self.wide_polynomial(
            &t,
            &[
                -0.086_346_031_009_738_76,
                0.154_857_553_074_124_1,
                -0.156_982_255_325_195_9,
                0.159_001_492_174_942_27,
                -0.179_046_952_649_697_16,
                0.206_096_256_611_687_23,
                -0.240_504_174_119_200_87,
                0.288_540_643_551_429_5,
                -0.360_672_800_546_637_1,
                0.480_898_320_729_459_4,
                -0.721_347_525_213_214_9,
                1.442_695_040_939_345_7,
            ],
        );
        let p = self.op2(Op2::MulWide, &p, &t);
        let log = self.op2(Op2::AddWide, &p, &exponent);
        let scaled = self.op2(Op2::MulWide, &log, &y);
        let n = self.op1(Op1::RoundWide, &scaled);
        let back = self.op2(Op2::MulWide, &n, &minus_one);
        let r = self.op2(Op2::AddWide, &scaled, &back);
        let ln_2 = self.wide_constant(std::f64::consts::LN_2);
        let r = self.op2(Op2::MulWide, &r, &ln_2);
        (self.op1(Op1::Narrow, &n), self.op1(Op1::Narrow, &r))
    }

    /// As [`polynomial`](Self::polynomial) of f64.
    fn wide_polynomial(&mut self, x: &Self::Vector, coefficients: &[f64]) -> Self::Vector {
        let first = self.wide_constant(coefficients[0]);
        coefficients[1..].iter().fold(first, |sum, &c| {
            let (product, c) = (self.op2(Op2::MulWide, &sum, x), self.wide_constant(c));
            self.op2(Op2::AddWide, &product, &c)
        })
    }

    /// Puts in the sign of the power of x, NaN where there is none, and 1 where 0, infinity or NaN of one operand does not
    /// matter (IEEE 754-2019, 9.2.1).
    fn power_limits(&mut self, [x, y, magnitude]: [&Self::Vector; 3], power: &Self::Vector) -> Self::Vector {
        let (half, one, nan) = (self.constant(0.5), self.constant(1.0), self.constant(f32::NAN));
        let (infinity, least) = (self.constant(f32::INFINITY), self.constant(f32::NEG_INFINITY));
        let half_y = self.mul(y, &half);
        let (whole, whole_half) = (self.op1(Op1::Floor, y), self.op1(Op1::Floor, &half_y));
        let is_whole = self.compare(Relation::Eq, &whole, y);
        let is_not_even = self.compare(Relation::Ne, &whole_half, &half_y);
        let is_odd = self.op2(Op2::And, &is_whole, &is_not_even);
        let sign = self.with_sign_bits(Op2::And, x, 0x8000_0000);
        let sign = self.op2(Op2::And, &is_odd, &sign);
        let power = self.op2(Op2::Or, power, &sign);

        let (negative, finite) = (self.compare_with(Relation::Lt, x, 0.0), self.compare(Relation::Gt, x, &least));
        let is_not_whole = self.compare(Relation::Ne, &whole, y);
        let has_root = self.op2(Op2::And, &negative, &is_not_whole);
        let no_root = self.op2(Op2::And, &has_root, &finite);
        let unordered = self.compare(Relation::Unordered, x, y);
        let undefined = self.op2(Op2::Or, &no_root, &unordered);
        let power = self.select(&undefined, &nan, &power);

        let (no_factor, of_one) = (self.compare_with(Relation::Eq, y, 0.0), self.compare(Relation::Eq, x, &one));
        let (of_unit, y) = (self.compare(Relation::Eq, magnitude, &one), self.unary(UnaryFn::Abs, y));
        let endless = self.compare(Relation::Eq, &y, &infinity);
        let of_unit = self.op2(Op2::And, &of_unit, &endless);
        let is_one = self.op2(Op2::Or, &no_factor, &of_one);
        let is_one = self.op2(Op2::Or, &is_one, &of_unit);
        self.select(&is_one, &one, &power)
    }

    /// tanh x: `1 − 2 / (e^2|x| + 1)`, below 0.7 an odd polynomial (minimax by Remez' algorithm).
    fn tanh(&mut self, x: &Self::Vector) -> Self::Vector {
        let (one, minus_two) = (self.constant(1.0), self.constant(-2.0));
        let a = self.unary(UnaryFn::Abs, x);
        let twice = self.add(&a, &a);
        // Past this point tanh is 1.
        let end = self.constant(18.5);
        let limited = self.op2(Op2::Less, &twice, &end);
        let (p, power) = self.exp_factors(&limited);
        let denominator = self.multiply_add(&p, &power, &one);
        let quotient = self.op2(Op2::Div, &minus_two, &denominator);
        let large = self.add(&quotient, &one);
        let square = self.mul(x, x);
        let p = self
            .polynomial(&square, &[-5.115_338e-3, 2.006_671_3e-2, -5.354_954_3e-2, 1.332_897_7e-1, -3.333_318_4e-1]);
        let p = self.mul(&p, &square);
        let small = self.multiply_add(&p, x, x);
        // NaN is not above.
        let above = self.compare_with(Relation::Gt, &square, 0.484_375);
        let y = self.select(&above, &large, &small);
        self.with_sign(&y, x)
    }

    /// erf x: an odd polynomial below 475/512, else `1 − e^q(|x|)` (N. Juffa's single-precision fit).
    fn erf(&mut self, x: &Self::Vector) -> Self::Vector {
        let a = self.unary(UnaryFn::Abs, x);
        // Past this point erf is 1, and the fit turns back up.
        let end = self.constant(4.0);
        let t = self.op2(Op2::Less, &a, &end);
        let q = self.polynomial(
            &t,
            &[
                -1.728_534_7e-5,
                3.831_971_3e-4,
                -3.883_964_4e-3,
                2.425_462_2e-2,
                -1.067_778_8e-1,
                -6.348_467e-1,
                -1.287_175_1e-1,
            ],
        );
        let minus = self.unary(UnaryFn::Neg, &t);
        let exponent = self.multiply_add(&q, &t, &minus);
        let (p, power) = self.exp_factors(&exponent);
        let (e, one) = (self.mul(&p, &power), self.constant(1.0));
        let large = self.sub(&one, &e);
        let square = self.mul(x, x);
        let p = self.polynomial(
            &square,
            &[-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1],
        );
        let small = self.multiply_add(&p, x, x);
        // NaN is not above.
        let above = self.compare_with(Relation::Gt, &a, 475.0 / 512.0);
        let y = self.select(&above, &large, &small);
        self.with_sign(&y, x)
    }

    /// sin(x + quarter · π/2): reduction by π/2 in f64, then the polynomial of the quadrant (Cephes sinf, cosf).
    fn sine(&mut self, x: &Self::Vector, quarter: f64) -> Self::Vector {
        let (r, quadrant) = self.reduce_quadrant(x, quarter);
        let square = self.mul(&r, &r);
        let sin = self.polynomial(&square, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let sin = self.mul(&sin, &square);
        let sin = self.multiply_add(&sin, &r, &r);
        let cos = self.polynomial(&square, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5]);
        let one = self.constant(1.0);
        let cos = self.multiply_add(&cos, &square, &one);
        let is_one = self.compare_with(Relation::Eq, &quadrant, 1.0);
        let is_three = self.compare_with(Relation::Eq, &quadrant, 3.0);
        let odd = self.op2(Op2::Or, &is_one, &is_three);
        let y = self.select(&odd, &cos, &sin);
        let negated = self.unary(UnaryFn::Neg, &y);
        let second_half = self.compare_with(Relation::Ge, &quadrant, 2.0);
        self.select(&second_half, &negated, &y)
    }

    /// Remainder of `x` to the nearest multiple of π/2, and that multiple plus `quarter` modulo 4.
    fn reduce_quadrant(&mut self, x: &Self::Vector, quarter: f64) -> (Self::Vector, Self::Vector) {
        let (low, high) = (self.op1(Op1::WidenLow, x), self.op1(Op1::WidenHigh, x));
        let (r0, q0) = self.reduce_half(&low, quarter);
        let (r1, q1) = self.reduce_half(&high, quarter);
        (self.op2(Op2::Join, &r0, &r1), self.op2(Op2::Join, &q0, &q1))
    }

    /// As [`reduce_quadrant`](Self::reduce_quadrant) of f64; results in half as many lanes of f32.
    fn reduce_half(&mut self, x: &Self::Vector, quarter: f64) -> (Self::Vector, Self::Vector) {
        let per_quadrant = self.wide_constant(std::f64::consts::FRAC_2_PI);
        let scaled = self.op2(Op2::MulWide, x, &per_quadrant);
        let n = self.op1(Op1::RoundWide, &scaled);
        // π/2 in two parts, so that the product with n is exact in the first.
        let high = self.wide_constant(-1.570_796_251_296_997);
        let low = self.wide_constant(-7.549_789_954_891_882e-8);
        let step = self.op2(Op2::MulWide, &n, &high);
        let r = self.op2(Op2::AddWide, x, &step);
        let step = self.op2(Op2::MulWide, &n, &low);
        let r = self.op2(Op2::AddWide, &r, &step);
        let quarter = self.wide_constant(quarter);
        let n = self.op2(Op2::AddWide, &n, &quarter);
        let (fourth, four) = (self.wide_constant(0.25), self.wide_constant(-4.0));
        let turns = self.op2(Op2::MulWide, &n, &fourth);
        let turns = self.op1(Op1::FloorWide, &turns);
        let back = self.op2(Op2::MulWide, &turns, &four);
        let quadrant = self.op2(Op2::AddWide, &n, &back);
        (self.op1(Op1::Narrow, &r), self.op1(Op1::Narrow, &quadrant))
    }
}

impl<S: Simd> Math for S {}
