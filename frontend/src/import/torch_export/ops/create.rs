//! Tensors from nothing: the recorded dtype, at the batch of this import.

use super::super::call::{Call, invalid, unsupported};
use super::super::fault::Fault;
use super::product::splat;
use crate::layers::offset;
use gradc_ir::graph::Value;
use gradc_ir::types::{DType, TensorType};

/// Elements of a range of floats, of which there are fewer: indices are exact.
const MOST_ELEMENTS: f64 = (1u64 << 53) as f64;

fn filled(call: &mut Call, value: f64) -> Result<Value, Fault> {
    let shape = call.new_shape("size")?;
    splat(call, &shape, value)
}

fn filled_like(call: &mut Call, value: f64) -> Result<Value, Fault> {
    let shape = call.b.shape(call.tensor("self")?).to_vec();
    splat(call, &shape, value)
}

pub fn zeros(call: &mut Call) -> Result<Value, Fault> {
    filled(call, 0.0)
}

pub fn ones(call: &mut Call) -> Result<Value, Fault> {
    filled(call, 1.0)
}

pub fn full(call: &mut Call) -> Result<Value, Fault> {
    let value = call.float("fill_value")?;
    filled(call, value)
}

pub fn zeros_like(call: &mut Call) -> Result<Value, Fault> {
    filled_like(call, 0.0)
}

pub fn ones_like(call: &mut Call) -> Result<Value, Fault> {
    filled_like(call, 1.0)
}

pub fn full_like(call: &mut Call) -> Result<Value, Fault> {
    let value = call.float("fill_value")?;
    filled_like(call, value)
}

pub fn scalar_tensor(call: &mut Call) -> Result<Value, Fault> {
    let value = call.float("s")?;
    splat(call, &[], value)
}

/// `steps` numbers, equally far apart, from start to end.
pub fn linspace(call: &mut Call) -> Result<Value, Fault> {
    let (start, end, steps) = (call.float("start")?, call.float("end")?, call.count("steps")?);
    let dtype = call.dtype()?;
    if !dtype.is_float() {
        return Err(unsupported("dtype", "a float"));
    }
    let ty = TensorType::checked(dtype, [steps])?;
    let index = call.b.iota(dtype, &ty.shape, 0)?;
    let scaled = call.b.scale(index, (end - start) / steps.saturating_sub(1).max(1) as f64)?;
    Ok(offset(call.b, scaled, start)?)
}

/// start, start + step, … before end. Floats are made in f64 and rounded once, as PyTorch does.
pub fn arange(call: &mut Call) -> Result<Value, Fault> {
    if ["start", "end", "step"].iter().any(|name| call.is_float(name)) {
        return float_range(call);
    }
    let int = |name: &str, absent: i64| if call.is_none(name) { Ok(absent) } else { call.int(name) };
    let (start, end, step) = (int("start", 0)?, int("end", 0)?, int("step", 1)?);
    if step == 0 {
        return Err(invalid("step", "an integer other than 0", step));
    }
    call.resize.not_the_batch(end)?;
    let distance = i128::from(end) - i128::from(start);
    let (distance, apart) = if step < 0 { (-distance, -i128::from(step)) } else { (distance, i128::from(step)) };
    let count = usize::try_from((distance + apart - 1).max(0) / apart)
        .map_err(|_| invalid("end", "a range that can be held", end))?;
    let ty = TensorType::checked(DType::I64, [count])?;
    let mut values = call.b.iota(DType::I64, &ty.shape, 0)?;
    if step != 1 {
        values = call.b.scale(values, step as f64)?;
    }
    if start != 0 {
        let start = call.b.splat(&ty, start as f64)?;
        values = call.b.add(values, start)?;
    }
    let dtype = call.dtype()?;
    Ok(call.b.cast(values, dtype)?)
}

fn float_range(call: &mut Call) -> Result<Value, Fault> {
    let float = |name: &str, absent: f64| call.optional_float(name).map(|number| number.unwrap_or(absent));
    let (start, end, step) = (float("start", 0.0)?, float("end", 0.0)?, float("step", 1.0)?);
    let count = ((end - start) / step).ceil();
    if !(0.0..MOST_ELEMENTS).contains(&count) {
        return Err(invalid("step", "one that leads from start to end", step));
    }
    call.resize.not_the_batch(count as i64)?;
    let ty = TensorType::checked(DType::F64, [count as usize])?;
    let index = call.b.iota(DType::F64, &ty.shape, 0)?;
    let scaled = call.b.scale(index, step)?;
    let (values, dtype) = (offset(call.b, scaled, start)?, call.dtype()?);
    Ok(call.b.cast(values, dtype)?)
}
