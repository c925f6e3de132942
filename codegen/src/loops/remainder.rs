//! The remainder of f32 by f32, exact: in vectors where the quotient is small, by the runtime where it is not.
//!
//! x − trunc(x / y)·y in f64 is exact for quotients below 2²⁸. The quotient of two numbers of 24 bits is at least 2⁻²⁴ away
//! from an integer that it is not, and f64 rounds it by at most 2⁻²⁶, so `trunc` is the true one; its product with y has at
//! most 52 bits, and the difference, smaller than y and a multiple of the last bit of x or y, has 24.

use super::emitter::Emitter;
use super::lanes::Lanes;
use super::values::splat_f32;
use crate::runtime::Function;
use crate::simd::{Op1, Op2, Simd};
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64};
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};

/// Quotients below it are computed in vectors; half of what is exact, since they are compared as rounded products.
const SMALL_QUOTIENT: f32 = (1 << 27) as f32;

fn lanes<'e, 'f>(e: &'e mut Emitter<'_, 'f>) -> Lanes<'e, 'f> {
    Lanes { b: e.b, fma: e.simd.fma }
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
    let [low, high] = [Op1::WidenLow, Op1::WidenHigh].map(|half| {
        let [x, y] = [x, y].map(|v| lanes(e).op1(half, &vec![v])[0]);
        let quotient = e.b.ins().fdiv(x, y);
        let quotient = e.b.ins().trunc(quotient);
        let product = e.b.ins().fmul(quotient, y);
        let rest = e.b.ins().fsub(x, product);
        lanes(e).op1(Op1::Narrow, &vec![rest])
    });
    let mut lanes = lanes(e);
    let rest = lanes.op2(Op2::Join, &low, &high);
    // It has the sign of x already unless it is zero.
    let sign_bit = lanes.word(1 << 31);
    let sign = lanes.op2(Op2::And, &vec![x], &sign_bit);
    lanes.op2(Op2::Or, &rest, &sign)[0]
}

/// Whether all quotients are small and all remainders numbers, which they are not for an infinite `y`.
fn is_exact(e: &mut Emitter, [x, y]: [Value; 2], remainder: Value) -> Value {
    let (x, y) = (e.b.ins().fabs(x), e.b.ins().fabs(y));
    let scale = splat_f32(e.b, SMALL_QUOTIENT);
    let most = e.b.ins().fmul(y, scale);
    let is_small = e.b.ins().fcmp(FloatCC::LessThan, x, most);
    let is_number = e.b.ins().fcmp(FloatCC::Equal, remainder, remainder);
    let both = e.b.ins().band(is_small, is_number);
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
