//! Emission of the scalar functions of a body.

use super::emitter::{Emitter, Which};
use super::lanes::Lanes;
use super::remainder::remainder;
use super::values::{Rep, blend, splat_f32, splat_i32, to_lanes, to_vector};
use crate::math::Math;
use crate::runtime::Function;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F64, I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::lower::{BinaryFn, Combine, CompareFn, Scalar, ScalarId, UnaryFn};
use gradc_ir::types::DType;

impl Emitter<'_, '_> {
    /// Emits one computation of a body.
    pub fn compute(&mut self, which: Which, id: ScalarId) -> Rep {
        let body = self.body(which);
        let (scalar, dtype) = &body.scalars[id.0 as usize];
        let dtype = *dtype;
        match scalar {
            Scalar::Const(value) => self.constant(dtype, value.get()),
            Scalar::LoopIndex(dim) => self.loop_index(*dim),
            Scalar::Load(_) => {
                let load = body.loads[id.0 as usize].as_ref().expect("every load has a plan");
                self.load(which, id, load)
            }
            Scalar::Accumulated(_) => unreachable!("set when the accumulation is done"),
            Scalar::Unary(f, a) => self.unary(which, *f, *a, dtype),
            Scalar::Binary(f, a, b) => self.binary(which, *f, [*a, *b], dtype),
            Scalar::Compare(f, a, b) => self.compare(which, *f, [*a, *b]),
            Scalar::Select(c, a, b) => self.select(which, [*c, *a, *b], dtype),
            Scalar::Cast(a) => self.cast(which, *a, dtype),
        }
    }

    fn constant(&mut self, dtype: DType, value: f64) -> Rep {
        match dtype {
            DType::F32 => Rep::Vector(vec![splat_f32(self.b, value as f32)]),
            _ => Rep::Lanes(vec![self.constant_lane(dtype, value)]),
        }
    }

    fn unary(&mut self, which: Which, f: UnaryFn, a: ScalarId, dtype: DType) -> Rep {
        match dtype {
            DType::F32 => {
                let x = self.vector(which, a);
                Rep::Vector(Lanes { b: self.b, fma: self.simd.fma }.unary(f, &x))
            }
            DType::Bool => {
                let x = self.mask(which, a);
                Rep::Mask(x.into_iter().map(|m| self.b.ins().bnot(m)).collect())
            }
            _ => {
                let x = self.lanes(which, a);
                Rep::Lanes(x.into_iter().map(|x| self.unary_f64(f, x)).collect())
            }
        }
    }

    fn unary_f64(&mut self, f: UnaryFn, x: Value) -> Value {
        let one = self.b.ins().f64const(1.0);
        match f {
            UnaryFn::Neg => self.b.ins().fneg(x),
            UnaryFn::Abs => self.b.ins().fabs(x),
            UnaryFn::Sqrt => self.b.ins().sqrt(x),
            UnaryFn::Rsqrt => {
                let root = self.b.ins().sqrt(x);
                self.b.ins().fdiv(one, root)
            }
            UnaryFn::Recip => self.b.ins().fdiv(one, x),
            UnaryFn::Floor => self.b.ins().floor(x),
            UnaryFn::Ceil => self.b.ins().ceil(x),
            UnaryFn::Round => self.b.ins().nearest(x),
            UnaryFn::Sign => {
                let zero = self.b.ins().f64const(0.0);
                let above = self.b.ins().fcmp(FloatCC::GreaterThan, x, zero);
                let below = self.b.ins().fcmp(FloatCC::LessThan, x, zero);
                let minus = self.b.ins().f64const(-1.0);
                let low = self.b.ins().select(below, minus, x);
                self.b.ins().select(above, one, low)
            }
            UnaryFn::Exp => self.call(Function::Exp, &[x]),
            UnaryFn::Log => self.call(Function::Log, &[x]),
            UnaryFn::Tanh => self.call(Function::Tanh, &[x]),
            UnaryFn::Erf => self.call(Function::Erf, &[x]),
            UnaryFn::Sin => self.call(Function::Sin, &[x]),
            UnaryFn::Cos => self.call(Function::Cos, &[x]),
            UnaryFn::Not => unreachable!("`not` takes booleans"),
        }
    }

    fn binary(&mut self, which: Which, f: BinaryFn, [a, b]: [ScalarId; 2], dtype: DType) -> Rep {
        let uniform = self.is_uniform(which, a) && self.is_uniform(which, b);
        match (dtype, f) {
            (DType::F32, BinaryFn::Rem) => {
                let (x, y) = (self.vector(which, a), self.vector(which, b));
                Rep::Vector(zip(&x, &y, |x, y| remainder(self, x, y)))
            }
            (DType::F32, _) => {
                let (x, y) = (self.vector(which, a), self.vector(which, b));
                Rep::Vector(Lanes { b: self.b, fma: self.simd.fma }.binary(f, &x, &y))
            }
            (DType::Bool, BinaryFn::And | BinaryFn::Or | BinaryFn::Xor) if !uniform => {
                let (x, y) = (self.mask(which, a), self.mask(which, b));
                Rep::Mask(zip(&x, &y, |x, y| logic(self.b, f, x, y)))
            }
            _ => {
                let (x, y) = (self.lanes(which, a), self.lanes(which, b));
                Rep::Lanes(zip(&x, &y, |x, y| self.binary_lane(f, x, y, dtype)))
            }
        }
    }

    /// f(x, y) of scalars that are not f32.
    pub fn binary_lane(&mut self, f: BinaryFn, x: Value, y: Value, dtype: DType) -> Value {
        match dtype {
            DType::F64 => self.binary_f64(f, x, y),
            _ => binary_int(self.b, f, x, y, matches!(dtype, DType::U8 | DType::Bool)),
        }
    }

    fn binary_f64(&mut self, f: BinaryFn, x: Value, y: Value) -> Value {
        match f {
            BinaryFn::Add => self.b.ins().fadd(x, y),
            BinaryFn::Sub => self.b.ins().fsub(x, y),
            BinaryFn::Mul => self.b.ins().fmul(x, y),
            BinaryFn::Div => self.b.ins().fdiv(x, y),
            BinaryFn::Max => self.b.ins().fmax(x, y),
            BinaryFn::Min => self.b.ins().fmin(x, y),
            BinaryFn::Pow => self.call(Function::Pow, &[x, y]),
            BinaryFn::Rem => self.call(Function::Rem, &[x, y]),
            _ => unreachable!("bit operations take integers"),
        }
    }

    fn compare(&mut self, which: Which, f: CompareFn, [a, b]: [ScalarId; 2]) -> Rep {
        match self.body(which).dtype(a) {
            DType::F32 => {
                let (x, y) = (self.vector(which, a), self.vector(which, b));
                Rep::Mask(zip(&x, &y, |x, y| self.b.ins().fcmp(float_condition(f), x, y)))
            }
            dtype => {
                let (x, y) = (self.lanes(which, a), self.lanes(which, b));
                Rep::Lanes(zip(&x, &y, |x, y| match dtype {
                    DType::F64 => self.b.ins().fcmp(float_condition(f), x, y),
                    DType::U8 | DType::Bool => self.b.ins().icmp(unsigned_condition(f), x, y),
                    _ => self.b.ins().icmp(int_condition(f), x, y),
                }))
            }
        }
    }

    fn select(&mut self, which: Which, [c, a, b]: [ScalarId; 3], dtype: DType) -> Rep {
        match dtype {
            DType::F32 => {
                let (c, x, y) = (self.mask(which, c), self.vector(which, a), self.vector(which, b));
                Rep::Vector(zip3(&c, &x, &y, |c, x, y| blend(self.b, c, x, y)))
            }
            DType::Bool => {
                let (c, x, y) = (self.mask(which, c), self.mask(which, a), self.mask(which, b));
                Rep::Mask(zip3(&c, &x, &y, |c, x, y| self.b.ins().bitselect(c, x, y)))
            }
            _ => {
                let (c, x, y) = (self.lanes(which, c), self.lanes(which, a), self.lanes(which, b));
                Rep::Lanes(zip3(&c, &x, &y, |c, x, y| self.b.ins().select(c, x, y)))
            }
        }
    }

    fn cast(&mut self, which: Which, a: ScalarId, to: DType) -> Rep {
        let from = self.body(which).dtype(a);
        match (from, to) {
            (DType::Bool, DType::F32) => {
                let one = splat_i32(self.b, 1.0f32.to_bits() as i32);
                let mask = self.mask(which, a);
                Rep::Vector(
                    mask.into_iter()
                        .map(|m| {
                            let bits = self.b.ins().band(m, one);
                            self.mask_bits(bits)
                        })
                        .collect(),
                )
            }
            (DType::F32, DType::Bool) => {
                let zero = splat_f32(self.b, 0.0);
                let x = self.vector(which, a);
                Rep::Mask(x.into_iter().map(|x| self.b.ins().fcmp(FloatCC::NotEqual, x, zero)).collect())
            }
            _ => {
                let x = self.lanes(which, a);
                let lanes = Rep::Lanes(x.into_iter().map(|x| cast_lane(self.b, x, from, to)).collect());
                if to == DType::F32 { Rep::Vector(to_vector(self.b, &lanes)) } else { lanes }
            }
        }
    }

    /// Calls a function of the context with f64 arguments.
    fn call(&mut self, function: Function, arguments: &[Value]) -> Value {
        let result = function.emit_call(self.b, self.context, arguments);
        result.expect("a scalar function has a result")
    }

    /// The start of an accumulation, in the form its dtype computes in.
    pub fn start(&mut self, combine: Combine, dtype: DType) -> Value {
        let value = match (combine, dtype) {
            (Combine::Sum, _) => 0.0,
            (Combine::Prod, _) => 1.0,
            (Combine::Max, DType::F32 | DType::F64) => f64::NEG_INFINITY,
            (Combine::Min, DType::F32 | DType::F64) => f64::INFINITY,
            (Combine::Max, DType::U8 | DType::Bool) => 0.0,
            (Combine::Min, DType::U8) => 255.0,
            (Combine::Min, DType::Bool) => 1.0,
            (Combine::Max, DType::I32) => f64::from(i32::MIN),
            (Combine::Min, DType::I32) => f64::from(i32::MAX),
            (Combine::Max, _) => i64::MIN as f64,
            (Combine::Min, _) => i64::MAX as f64,
        };
        if dtype == DType::F32 { splat_f32(self.b, value as f32) } else { self.constant_lane(dtype, value) }
    }

    /// Combines two partial accumulations.
    pub fn combine(&mut self, combine: Combine, dtype: DType, x: Value, sum: Value) -> Value {
        let f = match combine {
            Combine::Sum => BinaryFn::Add,
            Combine::Prod => BinaryFn::Mul,
            Combine::Max => BinaryFn::Max,
            Combine::Min => BinaryFn::Min,
        };
        if dtype == DType::F32 {
            return Lanes { b: self.b, fma: self.simd.fma }.binary(f, &vec![x], &vec![sum])[0];
        }
        self.binary_lane(f, x, sum, dtype)
    }

    /// A scalar in the form accumulations are kept in.
    pub fn accumulator(&mut self, which: Which, id: ScalarId, dtype: DType) -> Vec<Value> {
        let rep = self.rep(which, id);
        let uniform = self.is_uniform(which, id);
        if dtype == DType::F32 { to_vector(self.b, &rep) } else { to_lanes(self.b, &rep, uniform) }
    }
}

/// Applies `f` pairwise; a uniform side has one value.
fn zip(x: &[Value], y: &[Value], mut f: impl FnMut(Value, Value) -> Value) -> Vec<Value> {
    (0..x.len().max(y.len())).map(|k| f(x[k % x.len()], y[k % y.len()])).collect()
}

fn zip3(x: &[Value], y: &[Value], z: &[Value], mut f: impl FnMut(Value, Value, Value) -> Value) -> Vec<Value> {
    let n = x.len().max(y.len()).max(z.len());
    (0..n).map(|k| f(x[k % x.len()], y[k % y.len()], z[k % z.len()])).collect()
}

fn logic(b: &mut FunctionBuilder, f: BinaryFn, x: Value, y: Value) -> Value {
    match f {
        BinaryFn::And => b.ins().band(x, y),
        BinaryFn::Or => b.ins().bor(x, y),
        _ => b.ins().bxor(x, y),
    }
}

fn binary_int(b: &mut FunctionBuilder, f: BinaryFn, x: Value, y: Value, unsigned: bool) -> Value {
    match (f, unsigned) {
        (BinaryFn::Add, _) => b.ins().iadd(x, y),
        (BinaryFn::Sub, _) => b.ins().isub(x, y),
        (BinaryFn::Mul, _) => b.ins().imul(x, y),
        (BinaryFn::Div, _) => divide(b, x, y, unsigned).0,
        (BinaryFn::Rem, _) => divide(b, x, y, unsigned).1,
        (BinaryFn::Max, true) => b.ins().umax(x, y),
        (BinaryFn::Max, false) => b.ins().smax(x, y),
        (BinaryFn::Min, true) => b.ins().umin(x, y),
        (BinaryFn::Min, false) => b.ins().smin(x, y),
        (BinaryFn::And | BinaryFn::Or | BinaryFn::Xor, _) => logic(b, f, x, y),
        (BinaryFn::Shl, _) => b.ins().ishl(x, y),
        (BinaryFn::Shr, _) => b.ins().ushr(x, y),
        (BinaryFn::Pow, _) => unreachable!("powers take floats"),
    }
}

/// Quotient and remainder that never trap: x / 0 = −1 with remainder x, and the least integer over −1 wraps.
fn divide(b: &mut FunctionBuilder, x: Value, y: Value, unsigned: bool) -> (Value, Value) {
    let ty = b.func.dfg.value_type(y);
    let wide = if unsigned { I32 } else { ty };
    let (x, y) = if unsigned { (b.ins().uextend(wide, x), b.ins().uextend(wide, y)) } else { (x, y) };
    let (zero, one, minus) = (b.ins().iconst(wide, 0), b.ins().iconst(wide, 1), b.ins().iconst(wide, -1));
    let by_zero = b.ins().icmp(IntCC::Equal, y, zero);
    let by_minus = b.ins().icmp(IntCC::Equal, y, minus);
    let special = b.ins().bor(by_zero, by_minus);
    let safe = b.ins().select(special, one, y);
    let (quotient, negated) = (b.ins().sdiv(x, safe), b.ins().ineg(x));
    let quotient = b.ins().select(by_minus, negated, quotient);
    let quotient = b.ins().select(by_zero, minus, quotient);
    let product = b.ins().imul(quotient, y);
    let remainder = b.ins().isub(x, product);
    if unsigned { (b.ins().ireduce(ty, quotient), b.ins().ireduce(ty, remainder)) } else { (quotient, remainder) }
}

fn float_condition(f: CompareFn) -> FloatCC {
    match f {
        CompareFn::Eq => FloatCC::Equal,
        CompareFn::Ne => FloatCC::NotEqual,
        CompareFn::Lt => FloatCC::LessThan,
        CompareFn::Le => FloatCC::LessThanOrEqual,
        CompareFn::Gt => FloatCC::GreaterThan,
        CompareFn::Ge => FloatCC::GreaterThanOrEqual,
    }
}

fn int_condition(f: CompareFn) -> IntCC {
    match f {
        CompareFn::Eq => IntCC::Equal,
        CompareFn::Ne => IntCC::NotEqual,
        CompareFn::Lt => IntCC::SignedLessThan,
        CompareFn::Le => IntCC::SignedLessThanOrEqual,
        CompareFn::Gt => IntCC::SignedGreaterThan,
        CompareFn::Ge => IntCC::SignedGreaterThanOrEqual,
    }
}

fn unsigned_condition(f: CompareFn) -> IntCC {
    int_condition(f).unsigned()
}

/// Converts one scalar between dtypes other than bool ↔ f32.
fn cast_lane(b: &mut FunctionBuilder, x: Value, from: DType, to: DType) -> Value {
    match (from.is_float(), to) {
        (true, DType::F64) => b.ins().fpromote(F64, x),
        (true, DType::F32) => b.ins().fdemote(F32, x),
        (true, DType::I64) => b.ins().fcvt_to_sint_sat(I64, x),
        (true, DType::I32) => b.ins().fcvt_to_sint_sat(I32, x),
        (true, DType::Bool) => {
            let zero = b.ins().f64const(0.0);
            b.ins().fcmp(FloatCC::NotEqual, x, zero)
        }
        (true, _) => {
            let wide = b.ins().fcvt_to_uint_sat(I32, x);
            let most = b.ins().iconst(I32, 255);
            let clamped = b.ins().umin(wide, most);
            b.ins().ireduce(I8, clamped)
        }
        (false, DType::Bool) => {
            let ty = b.func.dfg.value_type(x);
            let zero = b.ins().iconst(ty, 0);
            b.ins().icmp(IntCC::NotEqual, x, zero)
        }
        (false, DType::F32) => {
            let x = widen(b, x, from);
            b.ins().fcvt_from_sint(F32, x)
        }
        (false, DType::F64) => {
            let x = widen(b, x, from);
            b.ins().fcvt_from_sint(F64, x)
        }
        (false, to) => {
            let x = widen(b, x, from);
            match to {
                DType::I64 => x,
                DType::I32 => b.ins().ireduce(I32, x),
                _ => b.ins().ireduce(I8, x),
            }
        }
    }
}

fn widen(b: &mut FunctionBuilder, x: Value, from: DType) -> Value {
    match from {
        DType::I64 => x,
        DType::I32 => b.ins().sextend(I64, x),
        _ => b.ins().uextend(I64, x),
    }
}
