//! f32 functions in vectors, several interleaved so that their latencies overlap.
//!
//! Largest errors measured against f64 (`tests/math.rs`), in units in the last place: exp 1.0, log 0.8, tanh 1.3,
//! erf 1.1, sin and cos 1.5 up to |x| = 1e6. Infinities, NaN and denormal numbers follow IEEE 754.

use super::values::{bits, blend, splat_f32, splat_i32};
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32X4, I32X4};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::lower::{BinaryFn, UnaryFn};

/// Vectors of f32, interleaved; one vector stands for as many equal ones as needed.
type Vectors = Vec<Value>;

/// Emits f32 arithmetic.
pub(crate) struct Math<'e, 'f> {
    pub b: &'e mut FunctionBuilder<'f>,
    /// Whether polynomials may use fused multiply-add.
    pub fma: bool,
}

impl<'f> Math<'_, 'f> {
    /// f(x) per vector.
    pub fn unary(&mut self, f: UnaryFn, x: &[Value]) -> Vectors {
        match f {
            UnaryFn::Neg => self.map(x, |b, x| b.ins().fneg(x)),
            UnaryFn::Abs => self.map(x, |b, x| b.ins().fabs(x)),
            UnaryFn::Sqrt => self.map(x, |b, x| b.ins().sqrt(x)),
            UnaryFn::Floor => self.map(x, |b, x| b.ins().floor(x)),
            UnaryFn::Ceil => self.map(x, |b, x| b.ins().ceil(x)),
            UnaryFn::Round => self.map(x, |b, x| b.ins().nearest(x)),
            UnaryFn::Recip => self.recip(x),
            UnaryFn::Rsqrt => {
                let root = self.map(x, |b, x| b.ins().sqrt(x));
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

    /// f(x, y) per vector.
    pub fn binary(&mut self, f: BinaryFn, x: &[Value], y: &[Value]) -> Vectors {
        match f {
            BinaryFn::Add => self.add(x, y),
            BinaryFn::Sub => self.sub(x, y),
            BinaryFn::Mul => self.mul(x, y),
            BinaryFn::Div => self.zip(x, y, |b, x, y| b.ins().fdiv(x, y)),
            BinaryFn::Max => self.extreme(x, y, FloatCC::GreaterThan),
            BinaryFn::Min => self.extreme(x, y, FloatCC::LessThan),
            _ => unreachable!("the function is called or takes integers"),
        }
    }

    fn map(&mut self, x: &[Value], mut f: impl FnMut(&mut FunctionBuilder<'f>, Value) -> Value) -> Vectors {
        x.iter().map(|&x| f(self.b, x)).collect()
    }

    fn zip(
        &mut self,
        x: &[Value],
        y: &[Value],
        mut f: impl FnMut(&mut FunctionBuilder<'f>, Value, Value) -> Value,
    ) -> Vectors {
        (0..x.len().max(y.len())).map(|k| f(self.b, x[k % x.len()], y[k % y.len()])).collect()
    }

    fn add(&mut self, x: &[Value], y: &[Value]) -> Vectors {
        self.zip(x, y, |b, x, y| b.ins().fadd(x, y))
    }

    fn sub(&mut self, x: &[Value], y: &[Value]) -> Vectors {
        self.zip(x, y, |b, x, y| b.ins().fsub(x, y))
    }

    fn mul(&mut self, x: &[Value], y: &[Value]) -> Vectors {
        self.zip(x, y, |b, x, y| b.ins().fmul(x, y))
    }

    /// `x · y + z`
    fn multiply_add(&mut self, x: &[Value], y: &[Value], z: &[Value]) -> Vectors {
        if !self.fma {
            let product = self.mul(x, y);
            return self.add(&product, z);
        }
        let n = x.len().max(y.len()).max(z.len());
        (0..n).map(|k| self.b.ins().fma(x[k % x.len()], y[k % y.len()], z[k % z.len()])).collect()
    }

    fn constant(&mut self, x: f32) -> Vectors {
        vec![splat_f32(self.b, x)]
    }

    fn select(&mut self, mask: &[Value], x: &[Value], y: &[Value]) -> Vectors {
        let n = mask.len().max(x.len()).max(y.len());
        (0..n).map(|k| blend(self.b, mask[k % mask.len()], x[k % x.len()], y[k % y.len()])).collect()
    }

    fn compare(&mut self, condition: FloatCC, x: &[Value], y: &[Value]) -> Vectors {
        self.zip(x, y, |b, x, y| b.ins().fcmp(condition, x, y))
    }

    /// Polynomial in `x`, coefficients from the highest power down.
    fn polynomial(&mut self, x: &[Value], coefficients: &[f32]) -> Vectors {
        let first = self.constant(coefficients[0]);
        coefficients[1..].iter().fold(first, |sum, &c| {
            let c = self.constant(c);
            self.multiply_add(&sum, x, &c)
        })
    }

    /// The larger or smaller of two, NaN if either is: three instructions where the exact minimum of the
    /// instruction set's own semantics takes one and forgets a NaN on the left.
    fn extreme(&mut self, x: &[Value], y: &[Value], wins: FloatCC) -> Vectors {
        self.zip(x, y, |b, x, y| {
            // One `maxps` or `minps`: gives y if either is NaN.
            let better = b.ins().fcmp(wins, x, y);
            let best = blend(b, better, x, y);
            let nan = b.ins().fcmp(FloatCC::Unordered, x, x);
            blend(b, nan, x, best)
        })
    }

    /// `x` limited to `low..=high`; NaN stays.
    fn clamp(&mut self, x: &[Value], low: f32, high: f32) -> Vectors {
        let (low, high) = (self.constant(low), self.constant(high));
        let above = self.zip(&low, x, |b, l, x| {
            let outside = b.ins().fcmp(FloatCC::GreaterThan, l, x);
            blend(b, outside, l, x)
        });
        self.zip(&high, &above, |b, h, x| {
            let outside = b.ins().fcmp(FloatCC::LessThan, h, x);
            blend(b, outside, h, x)
        })
    }

    fn recip(&mut self, x: &[Value]) -> Vectors {
        let one = self.constant(1.0);
        self.zip(&one, x, |b, one, x| b.ins().fdiv(one, x))
    }

    fn sign(&mut self, x: &[Value]) -> Vectors {
        let (zero, one, minus) = (self.constant(0.0), self.constant(1.0), self.constant(-1.0));
        let above = self.compare(FloatCC::GreaterThan, x, &zero);
        let below = self.compare(FloatCC::LessThan, x, &zero);
        let low = self.select(&below, &minus, x);
        self.select(&above, &one, &low)
    }

    /// x, which is not negative, with the sign of `of`.
    fn with_sign(&mut self, x: &[Value], of: &[Value]) -> Vectors {
        let sign_bit = self.constant(-0.0);
        let sign = self.zip(of, &sign_bit, |b, of, bit| b.ins().band(of, bit));
        self.zip(x, &sign, |b, x, sign| b.ins().bor(x, sign))
    }

    /// `2ⁿ` of small integral `n`, given in `I32X4`.
    fn power_of_two(&mut self, n: &[Value]) -> Vectors {
        let bias = splat_i32(self.b, 127);
        self.map(n, |b, n| {
            let biased = b.ins().iadd(n, bias);
            let shift = b.ins().iconst(cranelift_codegen::ir::types::I32, 23);
            let exponent = b.ins().ishl(biased, shift);
            bits(b, F32X4, exponent)
        })
    }

    /// Nearest integer of small `x`, as f32 and in `I32X4`.
    fn round_small(&mut self, x: &[Value]) -> (Vectors, Vectors) {
        // Adding 1.5 · 2²³ leaves no fraction bits, and the integer in the low ones.
        let (magic, magic_bits) = (self.constant(12_582_912.0), splat_i32(self.b, 0x4B40_0000));
        let shifted = self.add(x, &magic);
        let rounded = self.sub(&shifted, &magic);
        let integer = self.map(&shifted, |b, t| {
            let word = bits(b, I32X4, t);
            b.ins().isub(word, magic_bits)
        });
        (rounded, integer)
    }

    /// eˣ: argument reduction to |r| ≤ ½ ln 2 and a polynomial (Cephes expf); scaled in two steps so that
    /// results down to the smallest denormal number and up to infinity come out.
    fn exp(&mut self, x: &[Value]) -> Vectors {
        let x = self.clamp(x, -104.0, 89.0);
        let log2_e = self.constant(std::f32::consts::LOG2_E);
        let scaled = self.mul(&x, &log2_e);
        let (n, integer) = self.round_small(&scaled);
        let (high, low) = (self.constant(-0.693_359_4), self.constant(2.121_944_4e-4));
        let r = self.multiply_add(&n, &high, &x);
        let r = self.multiply_add(&n, &low, &r);
        let p =
            self.polynomial(&r, &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1]);
        let (square, one) = (self.mul(&r, &r), self.constant(1.0));
        let tail = self.multiply_add(&p, &square, &r);
        let p = self.add(&tail, &one);
        let one_bit = self.b.ins().iconst(cranelift_codegen::ir::types::I32, 1);
        let half = self.map(&integer, |b, n| b.ins().sshr(n, one_bit));
        let rest = self.zip(&integer, &half, |b, n, h| b.ins().isub(n, h));
        let (first, second) = (self.power_of_two(&half), self.power_of_two(&rest));
        let p = self.mul(&p, &first);
        self.mul(&p, &second)
    }

    /// ln x (Cephes logf): mantissa in √½..√2 by its bits, denormal numbers scaled up first.
    fn log(&mut self, x: &[Value]) -> Vectors {
        let (smallest, up) = (self.constant(f32::MIN_POSITIVE), self.constant(8_388_608.0));
        let tiny = self.compare(FloatCC::LessThan, x, &smallest);
        let scaled = self.mul(x, &up);
        let normal = self.select(&tiny, &scaled, x);
        let (zero, down) = (self.constant(0.0), self.constant(-23.0));
        let extra = self.select(&tiny, &down, &zero);
        let (exponent, mantissa) = self.split(&normal);
        let exponent = self.add(&exponent, &extra);
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

    /// Exponent and mantissa in √½..√2 of normal numbers.
    fn split(&mut self, x: &[Value]) -> (Vectors, Vectors) {
        // Bits of √½, so that the exponent steps up where the mantissa passes it.
        let offset = splat_i32(self.b, 0x3F35_04F3);
        let (fraction, shift) =
            (splat_i32(self.b, 0x007F_FFFF), self.b.ins().iconst(cranelift_codegen::ir::types::I32, 23));
        let above = self.map(x, |b, x| {
            let word = bits(b, I32X4, x);
            b.ins().isub(word, offset)
        });
        let exponent = self.map(&above, |b, w| {
            let n = b.ins().sshr(w, shift);
            b.ins().fcvt_from_sint(F32X4, n)
        });
        let mantissa = self.map(&above, |b, w| {
            let kept = b.ins().band(w, fraction);
            let word = b.ins().iadd(kept, offset);
            bits(b, F32X4, word)
        });
        (exponent, mantissa)
    }

    /// Puts in what the logarithm of 0, of infinity, of NaN and of negative numbers is.
    fn log_limits(&mut self, x: &[Value], y: &[Value]) -> Vectors {
        let (zero, infinity) = (self.constant(0.0), self.constant(f32::INFINITY));
        let (least, nan) = (self.constant(f32::NEG_INFINITY), self.constant(f32::NAN));
        let huge = self.compare(FloatCC::Equal, x, &infinity);
        let y = self.select(&huge, &infinity, y);
        let at_zero = self.compare(FloatCC::Equal, x, &zero);
        let y = self.select(&at_zero, &least, &y);
        let outside = self.compare(FloatCC::UnorderedOrLessThan, x, &zero);
        self.select(&outside, &nan, &y)
    }

    /// tanh x (Cephes tanhf): an odd polynomial below 0.625, else `1 − 2 / (e^2|x| + 1)`.
    fn tanh(&mut self, x: &[Value]) -> Vectors {
        let a = self.map(x, |b, x| b.ins().fabs(x));
        let (one, two) = (self.constant(1.0), self.constant(2.0));
        let twice = self.add(&a, &a);
        let e = self.exp(&twice);
        let denominator = self.add(&e, &one);
        let quotient = self.zip(&two, &denominator, |b, x, y| b.ins().fdiv(x, y));
        let large = self.sub(&one, &quotient);
        let square = self.mul(x, x);
        let p =
            self.polynomial(&square, &[-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
        let p = self.mul(&p, &square);
        let small = self.multiply_add(&p, &a, &a);
        let bound = self.constant(0.625);
        let below = self.compare(FloatCC::LessThan, &a, &bound);
        let y = self.select(&below, &small, &large);
        self.with_sign(&y, x)
    }

    /// erf x: an odd polynomial below 475/512, else `1 − e^q(|x|)` (N. Juffa's single-precision fit).
    fn erf(&mut self, x: &[Value]) -> Vectors {
        let t = self.map(x, |b, x| b.ins().fabs(x));
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
        let minus = self.map(&t, |b, t| b.ins().fneg(t));
        let exponent = self.multiply_add(&q, &t, &minus);
        // Past this point erf is 1, and the fit turns back up.
        let bound = self.constant(4.0);
        let far = self.compare(FloatCC::GreaterThan, &t, &bound);
        let least = self.constant(-104.0);
        let exponent = self.select(&far, &least, &exponent);
        let (e, one) = (self.exp(&exponent), self.constant(1.0));
        let large = self.sub(&one, &e);
        let square = self.mul(x, x);
        let p = self.polynomial(
            &square,
            &[-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1],
        );
        let small = self.multiply_add(&p, &t, &t);
        let bound = self.constant(475.0 / 512.0);
        let above = self.compare(FloatCC::GreaterThan, &t, &bound);
        let y = self.select(&above, &large, &small);
        self.with_sign(&y, x)
    }

    /// sin(x + quarter · π/2): reduction by π/2 in f64, then the polynomial of the quadrant (Cephes sinf, cosf).
    fn sine(&mut self, x: &[Value], quarter: f64) -> Vectors {
        let reduced: Vec<(Value, Value)> = x.iter().map(|&x| self.reduce_quadrant(x, quarter)).collect();
        let (r, quadrant): (Vectors, Vectors) = reduced.into_iter().unzip();
        let square = self.mul(&r, &r);
        let sin = self.polynomial(&square, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let sin = self.mul(&sin, &square);
        let sin = self.multiply_add(&sin, &r, &r);
        let cos = self.polynomial(&square, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5]);
        let one = self.constant(1.0);
        let cos = self.multiply_add(&cos, &square, &one);
        let (two, one) = (self.constant(2.0), self.constant(1.0));
        let three = self.constant(3.0);
        let is_one = self.compare(FloatCC::Equal, &quadrant, &one);
        let is_three = self.compare(FloatCC::Equal, &quadrant, &three);
        let odd = self.zip(&is_one, &is_three, |b, x, y| b.ins().bor(x, y));
        let y = self.select(&odd, &cos, &sin);
        let negated = self.map(&y, |b, y| b.ins().fneg(y));
        let second_half = self.compare(FloatCC::GreaterThanOrEqual, &quadrant, &two);
        self.select(&second_half, &negated, &y)
    }

    /// Remainder of `x` to the nearest multiple of π/2, and that multiple plus `quarter` modulo 4.
    fn reduce_quadrant(&mut self, x: Value, quarter: f64) -> (Value, Value) {
        let upper = {
            let mask = [8u8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
            let mask = self.b.func.dfg.immediates.push(ConstantDataOf(mask).into());
            let bytes = bits(self.b, cranelift_codegen::ir::types::I8X16, x);
            let swapped = self.b.ins().shuffle(bytes, bytes, mask);
            bits(self.b, F32X4, swapped)
        };
        let (r0, q0) = self.reduce_half(x, quarter);
        let (r1, q1) = self.reduce_half(upper, quarter);
        (self.join_halves(r0, r1), self.join_halves(q0, q1))
    }

    fn reduce_half(&mut self, x: Value, quarter: f64) -> (Value, Value) {
        let wide = self.b.ins().fvpromote_low(x);
        let per_quadrant = self.splat_f64(std::f64::consts::FRAC_2_PI);
        let scaled = self.b.ins().fmul(wide, per_quadrant);
        let n = self.b.ins().nearest(scaled);
        // π/2 in two parts, so that the product with n is exact in the first.
        let high = self.splat_f64(-1.570_796_251_296_997);
        let low = self.splat_f64(-7.549_789_954_891_882e-8);
        let step = self.b.ins().fmul(n, high);
        let r = self.b.ins().fadd(wide, step);
        let step = self.b.ins().fmul(n, low);
        let r = self.b.ins().fadd(r, step);
        let quarter = self.splat_f64(quarter);
        let n = self.b.ins().fadd(n, quarter);
        let (fourth, four) = (self.splat_f64(0.25), self.splat_f64(-4.0));
        let turns = self.b.ins().fmul(n, fourth);
        let turns = self.b.ins().floor(turns);
        let back = self.b.ins().fmul(turns, four);
        let quadrant = self.b.ins().fadd(n, back);
        (self.b.ins().fvdemote(r), self.b.ins().fvdemote(quadrant))
    }

    fn splat_f64(&mut self, x: f64) -> Value {
        let one = self.b.ins().f64const(x);
        self.b.ins().splat(cranelift_codegen::ir::types::F64X2, one)
    }

    /// Two vectors with two lanes each as one.
    fn join_halves(&mut self, low: Value, high: Value) -> Value {
        let mask = [0u8, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
        let mask = self.b.func.dfg.immediates.push(ConstantDataOf(mask).into());
        let (low, high) = (
            bits(self.b, cranelift_codegen::ir::types::I8X16, low),
            bits(self.b, cranelift_codegen::ir::types::I8X16, high),
        );
        let joined = self.b.ins().shuffle(low, high, mask);
        bits(self.b, F32X4, joined)
    }
}

struct ConstantDataOf([u8; 16]);

impl From<ConstantDataOf> for cranelift_codegen::ir::ConstantData {
    fn from(mask: ConstantDataOf) -> Self {
        mask.0.to_vec().into()
    }
}
