//! Vector arithmetic by Cranelift: four lanes, several vectors interleaved so that their latencies overlap.

use super::values::{bits, blend, shuffle, splat_i32};
use crate::simd::{Op1, Op2, Relation, Simd};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32X4, F64X2, I32X4};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use cranelift_frontend::FunctionBuilder;

/// Emits f32 arithmetic; a vector of it is one value per interleaved vector, or one for as many equal ones as needed.
pub(crate) struct Lanes<'e, 'f> {
    pub b: &'e mut FunctionBuilder<'f>,
    /// Whether polynomials may use fused multiply-add.
    pub fma: bool,
}

impl Lanes<'_, '_> {
    fn typed(&mut self, ty: Type, x: Value) -> Value {
        if self.b.func.dfg.value_type(x) == ty { x } else { bits(self.b, ty, x) }
    }

    fn one(&mut self, op: Op1, x: Value) -> Value {
        let ty = match op {
            Op1::FloorWide | Op1::RoundWide | Op1::Narrow => F64X2,
            Op1::ShiftLeft(_) | Op1::ShiftRight(_) | Op1::FloatOfInt => I32X4,
            _ => F32X4,
        };
        let x = self.typed(ty, x);
        match op {
            Op1::Sqrt => self.b.ins().sqrt(x),
            Op1::Floor | Op1::FloorWide => self.b.ins().floor(x),
            Op1::Ceil => self.b.ins().ceil(x),
            Op1::Round | Op1::RoundWide => self.b.ins().nearest(x),
            Op1::ShiftLeft(by) => self.b.ins().ishl_imm_u(x, i64::from(by)),
            Op1::ShiftRight(by) => self.b.ins().sshr_imm_u(x, i64::from(by)),
            Op1::FloatOfInt => self.b.ins().fcvt_from_sint(F32X4, x),
            Op1::WidenLow => self.b.ins().fvpromote_low(x),
            Op1::WidenHigh => {
                let high = shuffle(self.b, x, x, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
                self.b.ins().fvpromote_low(high)
            }
            Op1::Narrow => self.b.ins().fvdemote(x),
        }
    }

    fn two(&mut self, op: Op2, x: Value, y: Value) -> Value {
        let ty = match op {
            Op2::AddWide | Op2::MulWide => F64X2,
            Op2::AddInt | Op2::SubInt | Op2::GreaterInt => I32X4,
            Op2::And | Op2::Or | Op2::Xor => self.b.func.dfg.value_type(x),
            _ => F32X4,
        };
        let (x, y) = (self.typed(ty, x), self.typed(ty, y));
        match op {
            Op2::Add | Op2::AddWide => self.b.ins().fadd(x, y),
            Op2::Sub => self.b.ins().fsub(x, y),
            Op2::Mul | Op2::MulWide => self.b.ins().fmul(x, y),
            Op2::Div => self.b.ins().fdiv(x, y),
            Op2::Greater => self.better(FloatCC::GreaterThan, x, y),
            Op2::Less => self.better(FloatCC::LessThan, x, y),
            Op2::And => self.b.ins().band(x, y),
            Op2::Or => self.b.ins().bor(x, y),
            Op2::Xor => self.b.ins().bxor(x, y),
            Op2::AddInt => self.b.ins().iadd(x, y),
            Op2::SubInt => self.b.ins().isub(x, y),
            Op2::GreaterInt => self.b.ins().icmp(IntCC::SignedGreaterThan, x, y),
            Op2::Compare(relation) => self.b.ins().fcmp(condition(relation), x, y),
            Op2::Join => shuffle(self.b, x, y, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]),
        }
    }

    /// One `maxps` or `minps`.
    fn better(&mut self, wins: FloatCC, x: Value, y: Value) -> Value {
        let mask = self.b.ins().fcmp(wins, x, y);
        blend(self.b, mask, x, y)
    }
}

impl Simd for Lanes<'_, '_> {
    type Vector = Vec<Value>;

    fn word(&mut self, bits_of_lane: u32) -> Vec<Value> {
        let word = splat_i32(self.b, bits_of_lane.cast_signed());
        vec![bits(self.b, F32X4, word)]
    }

    fn wide_constant(&mut self, x: f64) -> Vec<Value> {
        let one = self.b.ins().f64const(x);
        vec![self.b.ins().splat(F64X2, one)]
    }

    fn op1(&mut self, op: Op1, x: &Vec<Value>) -> Vec<Value> {
        x.iter().map(|&x| self.one(op, x)).collect()
    }

    fn op2(&mut self, op: Op2, x: &Vec<Value>, y: &Vec<Value>) -> Vec<Value> {
        (0..x.len().max(y.len())).map(|k| self.two(op, x[k % x.len()], y[k % y.len()])).collect()
    }

    fn multiply_add(&mut self, x: &Vec<Value>, y: &Vec<Value>, z: &Vec<Value>) -> Vec<Value> {
        if !self.fma {
            let product = self.op2(Op2::Mul, x, y);
            return self.op2(Op2::Add, &product, z);
        }
        let n = x.len().max(y.len()).max(z.len());
        let lanes = (0..n).map(|k| {
            let [x, y, z] = [x, y, z].map(|v| self.typed(F32X4, v[k % v.len()]));
            self.b.ins().fma(x, y, z)
        });
        lanes.collect()
    }

    fn select(&mut self, mask: &Vec<Value>, x: &Vec<Value>, y: &Vec<Value>) -> Vec<Value> {
        let n = mask.len().max(x.len()).max(y.len());
        let lane = |k: usize| (mask[k % mask.len()], x[k % x.len()], y[k % y.len()]);
        (0..n)
            .map(|k| {
                let (mask, x, y) = lane(k);
                let (x, y) = (self.typed(F32X4, x), self.typed(F32X4, y));
                blend(self.b, mask, x, y)
            })
            .collect()
    }
}

fn condition(relation: Relation) -> FloatCC {
    match relation {
        Relation::Eq => FloatCC::Equal,
        Relation::Ne => FloatCC::NotEqual,
        Relation::Lt => FloatCC::LessThan,
        Relation::Le => FloatCC::LessThanOrEqual,
        Relation::Gt => FloatCC::GreaterThan,
        Relation::Ge => FloatCC::GreaterThanOrEqual,
        Relation::Unordered => FloatCC::Unordered,
        Relation::UnorderedOrLess => FloatCC::UnorderedOrLessThan,
    }
}
