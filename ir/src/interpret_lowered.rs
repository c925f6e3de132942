//! Interpreter of lowered forms, point by point in f64: says whether an op's lowering means what its `eval` means.

use crate::builder::Builder;
use crate::graph::{Def, Role};
use crate::lower::{
    Access, BinaryFn, Body, Combine, Contraction, Expansion, Index, Lowering, Meeting, Nest, Scalar, ScalarId, Scatter,
};
use crate::op::EvalError;
use crate::ops::Op;
use crate::scalar::Number;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType, unravel};

/// Evaluates the lowered form of an op on operands; fails when the form is ill-typed or reads out of bounds unguarded.
pub fn evaluate(op: &Op, operands: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let types: Vec<&TensorType> = operands.iter().map(|t| &t.ty).collect();
    let results = op.infer(&types)?;
    match op.lower(&types, &results) {
        Lowering::Nests(nests) => evaluate_nests(&nests, operands, &results),
        Lowering::Contraction(contraction) => Ok(vec![evaluate_contraction(&contraction, operands, &results[0])?]),
        Lowering::Scatter(scatter) => Ok(vec![evaluate_scatter(&scatter, operands)?]),
        Lowering::Expand(expansion) => evaluate_expansion(expansion, op, operands),
        Lowering::Region(region) => region.form.evaluate(operands, &results),
        Lowering::Lines(_) => op.eval(operands),
    }
}

fn evaluate_nests(nests: &[Nest], operands: &[&Tensor], types: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
    ensure(nests.len() == types.len(), || format!("{} nests for {} results", nests.len(), types.len()))?;
    let mut results: Vec<Tensor> = Vec::new();
    for (nest, ty) in nests.iter().zip(types) {
        let readable: Vec<&Tensor> = operands.iter().copied().chain(&results).collect();
        results.push(evaluate_nest(nest, &readable, ty)?);
    }
    Ok(results)
}

fn evaluate_nest(nest: &Nest, operands: &[&Tensor], ty: &TensorType) -> Result<Tensor, EvalError> {
    check_body(&nest.body, operands)?;
    let dtype = nest.body.dtype(nest.result);
    ensure(dtype == ty.dtype && nest.space == ty.shape, || format!("a nest over {:?} makes {ty}", nest.space))?;
    ensure(nest.combine.is_some() || nest.reduce.is_empty(), || "a nest reduces without a combination".into())?;
    let value = |point: Vec<usize>| Ok(evaluate_body(&nest.body, operands, &point)?[nest.result.0 as usize]);
    let numbers = points(&nest.space).map(|outer| match nest.combine {
        None => value(outer),
        Some(combine) => points(&nest.reduce).try_fold(combine_start(combine, dtype), |so_far, inner| {
            apply_binary(combine_step(combine), dtype, so_far, value([&outer[..], &inner].concat())?)
        }),
    });
    Ok(Tensor::from_numbers(ty.clone(), numbers.collect::<Result<Vec<_>, EvalError>>()?))
}

fn evaluate_contraction(c: &Contraction, operands: &[&Tensor], ty: &TensorType) -> Result<Tensor, EvalError> {
    ensure(c.space.iter().product::<usize>() == ty.elements(), || {
        format!("a contraction over {:?} makes {ty}", c.space)
    })?;
    [&c.lhs, &c.rhs].into_iter().try_for_each(|access| check_access(access, ty.dtype, operands))?;
    let read = |access: &Access, point: &[usize]| read(access, operands, point, &[]);
    let product = |point: &[usize]| apply_binary(BinaryFn::Mul, ty.dtype, read(&c.lhs, point)?, read(&c.rhs, point)?);
    let numbers = points(&c.space).map(|outer| {
        points(&c.reduce).try_fold(Number::constant(ty.dtype, 0.0), |sum, inner| {
            apply_binary(BinaryFn::Add, ty.dtype, sum, product(&[&outer[..], &inner].concat())?)
        })
    });
    Ok(Tensor::from_numbers(ty.clone(), numbers.collect::<Result<Vec<_>, EvalError>>()?))
}

fn evaluate_scatter(scatter: &Scatter, operands: &[&Tensor]) -> Result<Tensor, EvalError> {
    check_body(&scatter.body, operands)?;
    let ty = &operands[0].ty;
    ensure(scatter.target.iter().product::<usize>() == ty.elements(), || {
        format!("target {:?} is no {ty}", scatter.target)
    })?;
    ensure(scatter.body.dtype(scatter.update) == ty.dtype, || format!("an update of {ty} is of another dtype"))?;
    let mut out: Vec<Number> = (0..ty.elements()).map(|k| operands[0].number(k)).collect();
    for point in points(&scatter.space) {
        let values = evaluate_body(&scatter.body, operands, &point)?;
        if let Some(place) = place(&scatter.indices, &scatter.target, &point, &values, false) {
            let update = values[scatter.update.0 as usize];
            out[place] = match scatter.meeting {
                Meeting::Add => apply_binary(BinaryFn::Add, ty.dtype, out[place], update)?,
                Meeting::Replace => update,
            };
        }
    }
    Ok(Tensor::from_numbers(ty.clone(), out))
}

fn evaluate_expansion(expansion: Expansion, op: &Op, operands: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let mut builder = Builder::new(op.name());
    let arguments = operands
        .iter()
        .enumerate()
        .map(|(k, t)| builder.declare(&k.to_string(), Role::Input, t.ty.clone(), None))
        .collect::<Result<Vec<_>, _>>()?;
    let outputs = expansion(op, &mut builder, &arguments)?;
    let graph = builder.finish();
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        values.push(match &node.def {
            Def::Input(input) => vec![operands[input.index()].clone()],
            Def::Op(op) => {
                let read: Vec<&Tensor> =
                    node.operands.iter().map(|v| &values[v.node.index()][v.result as usize]).collect();
                evaluate(op, &read)?
            }
        });
    }
    Ok(outputs.iter().map(|v| values[v.node.index()][v.result as usize].clone()).collect())
}

/// All points of a space in row-major order.
fn points(space: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    (0..space.iter().product()).map(|k| unravel(k, space))
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<(), EvalError> {
    if ok { Ok(()) } else { Err(EvalError(message())) }
}

/// Checks what generated code relies on: dtypes agree, views have their operand's size, operands come before users.
fn check_body(body: &Body, operands: &[&Tensor]) -> Result<(), EvalError> {
    for (k, (scalar, dtype)) in body.scalars.iter().enumerate() {
        let typed = |id: &ScalarId, dtype: DType| id.0 < k as u32 && body.dtype(*id) == dtype;
        let ok = match scalar {
            Scalar::Const(_) => true,
            Scalar::LoopIndex(_) => *dtype == DType::I64,
            Scalar::Load(access) => check_access(access, *dtype, operands).map(|()| true)?,
            Scalar::Unary(_, a) => typed(a, *dtype),
            Scalar::Binary(_, a, b) => typed(a, *dtype) && typed(b, *dtype),
            Scalar::Compare(_, a, b) => *dtype == DType::Bool && a.0 < k as u32 && typed(b, body.dtype(*a)),
            Scalar::Select(c, a, b) => typed(c, DType::Bool) && typed(a, *dtype) && typed(b, *dtype),
            Scalar::Cast(a) => a.0 < k as u32,
            Scalar::Accumulated(_) => false,
        };
        ensure(ok, || format!("scalar {k} of the body is ill-typed: {scalar:?} : {dtype}"))?;
    }
    Ok(())
}

fn check_access(access: &Access, dtype: DType, operands: &[&Tensor]) -> Result<(), EvalError> {
    let operand = operands.get(access.operand).ok_or_else(|| EvalError(format!("no operand {}", access.operand)))?;
    let fits = operand.ty.dtype == dtype
        && access.view.iter().product::<usize>() == operand.ty.elements()
        && access.indices.len() == access.view.len();
    ensure(fits, || format!("operand {} of type {} is read as {dtype}{:?}", access.operand, operand.ty, access.view))
}

/// Values of all scalars of a checked body at one point.
fn evaluate_body(body: &Body, operands: &[&Tensor], point: &[usize]) -> Result<Vec<Number>, EvalError> {
    let mut values: Vec<Number> = Vec::with_capacity(body.scalars.len());
    for (scalar, dtype) in &body.scalars {
        let value = |id: ScalarId| values[id.0 as usize];
        let number = match scalar {
            Scalar::Const(constant) => Number::constant(*dtype, constant.get()),
            Scalar::LoopIndex(dim) => Number::Int(point[*dim] as i64),
            Scalar::Load(access) => read(access, operands, point, &values)?,
            Scalar::Unary(f, a) => f.apply(value(*a)).ok_or_else(|| EvalError(format!("{f:?} of {dtype}")))?,
            Scalar::Binary(f, a, b) => apply_binary(*f, *dtype, value(*a), value(*b))?,
            Scalar::Compare(f, a, b) => Number::Int(match (value(*a), value(*b)) {
                (Number::Float(a), Number::Float(b)) => f.holds(a, b),
                (Number::Int(a), Number::Int(b)) => f.holds(a, b),
                _ => return Err(EvalError("a comparison of different kinds".into())),
            } as i64),
            Scalar::Select(c, a, b) => value(if value(*c) == Number::Int(0) { *b } else { *a }),
            Scalar::Cast(a) => value(*a).cast(*dtype),
            Scalar::Accumulated(_) => return Err(EvalError("nothing is accumulated in an op's own body".into())),
        };
        values.push(number);
    }
    Ok(values)
}

fn apply_binary(f: BinaryFn, dtype: DType, a: Number, b: Number) -> Result<Number, EvalError> {
    f.apply(dtype, a, b).ok_or_else(|| EvalError(format!("{f:?} of {dtype}")))
}

fn read(access: &Access, operands: &[&Tensor], point: &[usize], values: &[Number]) -> Result<Number, EvalError> {
    let operand = operands[access.operand];
    match (place(&access.indices, &access.view, point, values, true), access.fill) {
        (Some(place), _) => Ok(operand.number(place)),
        (None, Some(fill)) => Ok(Number::constant(operand.ty.dtype, fill.get())),
        (None, None) => Err(EvalError(format!("operand {} is read out of bounds at {point:?}", access.operand))),
    }
}

/// Row-major position in `view` that the indices name at a point; `None` out of bounds.
fn place(indices: &[Index], view: &[usize], point: &[usize], values: &[Number], clamp_loaded: bool) -> Option<usize> {
    indices.iter().zip(view).try_fold(0, |flat, (index, &extent)| {
        let mut at = index.affine.at(point);
        if at.rem_euclid(index.divisor) != 0 {
            return None;
        }
        at /= index.divisor;
        if let Some(loaded) = index.loaded {
            at = at.saturating_add(integer(values[loaded.0 as usize])?);
        }
        if clamp_loaded && index.loaded.is_some() {
            at = at.clamp(0, extent.checked_sub(1)? as i64);
        }
        usize::try_from(at).ok().filter(|&at| at < extent).map(|at| flat * extent + at)
    })
}

fn integer(number: Number) -> Option<i64> {
    match number {
        Number::Int(v) => Some(v),
        Number::Float(_) => None,
    }
}

fn combine_start(combine: Combine, dtype: DType) -> Number {
    match combine {
        Combine::Sum => Number::constant(dtype, 0.0),
        Combine::Prod => Number::constant(dtype, 1.0),
        Combine::Max if dtype.is_float() => Number::Float(f64::NEG_INFINITY),
        Combine::Min if dtype.is_float() => Number::Float(f64::INFINITY),
        Combine::Max => Number::Int(dtype.least()),
        Combine::Min => Number::Int(dtype.greatest()),
    }
}

fn combine_step(combine: Combine) -> BinaryFn {
    match combine {
        Combine::Sum => BinaryFn::Add,
        Combine::Prod => BinaryFn::Mul,
        Combine::Max => BinaryFn::Max,
        Combine::Min => BinaryFn::Min,
    }
}
