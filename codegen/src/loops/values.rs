//! How scalars of a body live in registers, and conversions between those forms.

use cranelift_codegen::ir::types::{F32, F32X4, F64, I8, I8X16, I16X8, I32, I32X4, I64};
use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::types::DType;

/// Lanes of a vector register as Cranelift offers it.
pub(crate) const LANES: usize = 4;

/// One scalar of a body at all points of a block.
///
/// A uniform scalar has one value, equal in all lanes; any other has one value per vector or one per point.
#[derive(Clone, Debug)]
pub(crate) enum Rep {
    /// f32 in `F32X4`.
    Vector(Vec<Value>),
    /// bool in `I32X4`, all bits of a lane equal.
    Mask(Vec<Value>),
    /// Any other dtype, or bool as 0 and 1 in `I8`: one scalar per point.
    Lanes(Vec<Value>),
}

/// The register type of one element.
pub(crate) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => F32,
        DType::F64 => F64,
        DType::I64 => I64,
        DType::I32 => I32,
        DType::U8 | DType::Bool => I8,
        DType::F16 | DType::BF16 => unreachable!("half types are refused before emission"),
    }
}

/// Flags of every access: never traps, no alignment beyond the element's promised.
pub(crate) const MEMORY: MemFlagsData = MemFlagsData::new().with_notrap();

/// Flags of a bitcast between vector types.
fn lane_order() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

/// The same bits as another type of the same width.
pub(crate) fn bits(b: &mut FunctionBuilder, ty: Type, x: Value) -> Value {
    b.ins().bitcast(ty, lane_order(), x)
}

/// An `F32X4` constant, equal in all lanes.
pub(crate) fn splat_f32(b: &mut FunctionBuilder, x: f32) -> Value {
    vector_constant(b, F32X4, x.to_bits())
}

/// An `I32X4` constant, equal in all lanes.
pub(crate) fn splat_i32(b: &mut FunctionBuilder, x: i32) -> Value {
    vector_constant(b, I32X4, x.cast_unsigned())
}

fn vector_constant(b: &mut FunctionBuilder, ty: Type, word: u32) -> Value {
    let data = ConstantData::from(word.to_le_bytes().repeat(LANES));
    let handle = b.func.dfg.constants.insert(data);
    b.ins().vconst(ty, handle)
}

/// The bytes of two vectors of four f32 chosen by position: 0 to 15 in `x`, 16 to 31 in `y`.
pub(crate) fn shuffle(b: &mut FunctionBuilder, x: Value, y: Value, bytes: [u8; 16]) -> Value {
    let mask = b.func.dfg.immediates.push(ConstantData::from(bytes.as_slice()));
    let (x, y) = (bits(b, I8X16, x), bits(b, I8X16, y));
    let chosen = b.ins().shuffle(x, y, mask);
    bits(b, F32X4, chosen)
}

/// `mask ? x : y` per lane of `F32X4`.
pub(crate) fn blend(b: &mut FunctionBuilder, mask: Value, x: Value, y: Value) -> Value {
    let mask = bits(b, F32X4, mask);
    b.ins().bitselect(mask, x, y)
}

/// Puts scalars into the lanes of a vector.
fn pack(b: &mut FunctionBuilder, ty: Type, lanes: &[Value]) -> Value {
    let first = b.ins().splat(ty, lanes[0]);
    (1..lanes.len()).fold(first, |v, k| b.ins().insertlane(v, lanes[k], k as u8))
}

/// A boolean in `I8` as all bits of an `I32`.
fn widen_bool(b: &mut FunctionBuilder, x: Value) -> Value {
    let wide = b.ins().uextend(I32, x);
    b.ins().ineg(wide)
}

fn pack_all(b: &mut FunctionBuilder, ty: Type, lanes: &[Value]) -> Vec<Value> {
    match lanes {
        [one] => vec![b.ins().splat(ty, *one)],
        _ => lanes.chunks(LANES).map(|l| pack(b, ty, l)).collect(),
    }
}

/// As vectors of f32.
pub(crate) fn to_vector(b: &mut FunctionBuilder, rep: &Rep) -> Vec<Value> {
    match rep {
        Rep::Vector(v) => v.clone(),
        Rep::Lanes(lanes) => pack_all(b, F32X4, lanes),
        Rep::Mask(_) => unreachable!("a boolean is cast before it is used as a number"),
    }
}

/// As masks.
pub(crate) fn to_mask(b: &mut FunctionBuilder, rep: &Rep) -> Vec<Value> {
    match rep {
        Rep::Mask(v) => v.clone(),
        Rep::Lanes(lanes) => {
            let wide: Vec<Value> = lanes.iter().map(|&l| widen_bool(b, l)).collect();
            pack_all(b, I32X4, &wide)
        }
        Rep::Vector(_) => unreachable!("a number is cast before it is used as a boolean"),
    }
}

/// As one scalar per point; f32 in `F32`, booleans in `I8`.
///
/// `uniform` scalars give one.
pub(crate) fn to_lanes(b: &mut FunctionBuilder, rep: &Rep, uniform: bool) -> Vec<Value> {
    let lanes = if uniform { 1 } else { LANES };
    let mut extract = |v: &[Value], narrow: bool| {
        let mut all = Vec::with_capacity(v.len() * lanes);
        for &v in v {
            for k in 0..lanes {
                let lane = b.ins().extractlane(v, k as u8);
                all.push(if narrow { bool_of_word(b, lane) } else { lane });
            }
        }
        all
    };
    match rep {
        Rep::Lanes(v) => v.clone(),
        Rep::Vector(v) => extract(v, false),
        Rep::Mask(v) => extract(v, true),
    }
}

fn bool_of_word(b: &mut FunctionBuilder, word: Value) -> Value {
    let low = b.ins().ireduce(I8, word);
    b.ins().band_imm_u(low, 1)
}

/// Four boolean bytes, packed in an `I32`, as a mask.
pub(crate) fn mask_of_bytes(b: &mut FunctionBuilder, bytes: Value) -> Value {
    let zero = splat_i32(b, 0);
    let vector = b.ins().insertlane(zero, bytes, 0u8);
    let vector = bits(b, I8X16, vector);
    let half = b.ins().uwiden_low(vector);
    let words = b.ins().uwiden_low(half);
    b.ins().icmp(cranelift_codegen::ir::condcodes::IntCC::NotEqual, words, zero)
}

/// A mask as four boolean bytes packed in an `I32`.
pub(crate) fn bytes_of_mask(b: &mut FunctionBuilder, mask: Value) -> Value {
    let half = b.ins().snarrow(mask, mask);
    let half = bits(b, I16X8, half);
    let bytes = b.ins().snarrow(half, half);
    let words = bits(b, I32X4, bytes);
    let word = b.ins().extractlane(words, 0u8);
    b.ins().band_imm_u(word, 0x0101_0101)
}
