//! The remainder of f32 by f32, exact: in vectors where the quotient is small, by the runtime where it is not.
//!
//! x − trunc(x / y)·y in f64 is exact for quotients below 2²⁸. The quotient of two numbers of 24 bits is at least 2⁻²⁴ away
//! from an integer that it is not, and f64 rounds it by at most 2⁻²⁶, so `trunc` is the true one; its product with y has at
//! most 52 bits, and the difference, smaller than y and a multiple of the last bit of x or y, has 24.

use super::emitter::Emitter;
use super::values::{bits, shuffle, splat_f32, splat_i32};
use crate::runtime::Function;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, I32X4};
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};

/// Quotients below it are computed in vectors; half of what is exact, since they are compared as rounded products.
const SMALL_QUOTIENT: f32 = (1 << 27) as f32;

/// Both f64 pairs of four f32.
fn widened(e: &mut Emitter, x: Value) -> [Value; 2] {
    let high = shuffle(e.b, x, x, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
    [x, high].map(|x| e.b.ins().fvpromote_low(x))
}

/// The remainder of f32×4 vectors, with the sign of `x`, as `fmod` has it: no number where `y` is zero or `x` infinite,
/// `x` itself where `y` is infinite.
pub(super) fn remainder(e: &mut Emitter, x: Value, y: Value) -> Value {
    let near = by_small_quotients(e, x, y);
    let is_near = is_exact(e, [x, y], near);
    let (far, done) = (e.b.create_block(), e.b.create_block());
    e.b.append_block_param(done, F32X4);
    e.b.ins().brif(is_near, done, &[BlockArg::from(near)], far, &[]);
    e.b.switch_to_block(far);
    let exact = by_lanes(e, x, y);
    e.b.ins().jump(done, &[BlockArg::from(exact)]);
    e.b.switch_to_block(done);
    e.b.block_params(done)[0]
}

fn by_small_quotients(e: &mut Emitter, x: Value, y: Value) -> Value {
    let (wide_x, wide_y) = (widened(e, x), widened(e, y));
    let half = |k: usize| {
        let quotient = e.b.ins().fdiv(wide_x[k], wide_y[k]);
        let quotient = e.b.ins().trunc(quotient);
        let product = e.b.ins().fmul(quotient, wide_y[k]);
        let rest = e.b.ins().fsub(wide_x[k], product);
        e.b.ins().fvdemote(rest)
    };
    let [low, high] = [0, 1].map(half);
    let rest = shuffle(e.b, low, high, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);
    with_sign_of(e, rest, x)
}

/// The remainder of `x`, which has its sign already unless it is zero.
fn with_sign_of(e: &mut Emitter, rest: Value, x: Value) -> Value {
    let [rest, x] = [rest, x].map(|v| bits(e.b, I32X4, v));
    let sign = splat_i32(e.b, i32::MIN);
    let sign = e.b.ins().band(x, sign);
    let signed = e.b.ins().bor(rest, sign);
    bits(e.b, F32X4, signed)
}

/// Whether all quotients are small and all remainders numbers, which they are not for an infinite `y`.
fn is_exact(e: &mut Emitter, [x, y]: [Value; 2], remainder: Value) -> Value {
    let (x, y) = (e.b.ins().fabs(x), e.b.ins().fabs(y));
    let scale = splat_f32(e.b, SMALL_QUOTIENT);
    let most = e.b.ins().fmul(y, scale);
    let is_small = e.b.ins().fcmp(FloatCC::LessThan, x, most);
    let is_number = e.b.ins().fcmp(FloatCC::Equal, remainder, remainder);
    let both = e.b.ins().band(is_small, is_number);
    let both = bits(e.b, I32X4, both);
    e.b.ins().vall_true(both)
}

fn by_lanes(e: &mut Emitter, x: Value, y: Value) -> Value {
    (0..4).fold(x, |result, lane| {
        let [x, y] = [x, y].map(|v| {
            let v = e.b.ins().extractlane(v, lane);
            e.b.ins().fpromote(F64, v)
        });
        let rest = Function::Rem.emit_call(e.b, e.context, &[x, y]).expect("a remainder");
        let rest = e.b.ins().fdemote(F32, rest);
        e.b.ins().insertlane(result, rest, lane)
    })
}
