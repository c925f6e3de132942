//! What ops do at ties, zeros, NaN, overflow and the edges of shapes, and what they refuse.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret;
use gradc_ir::lower::CompareFn;
use gradc_ir::op::{Cotangent, DifferentiateBody, OpDef, SoFar, VjpContext};
use gradc_ir::ops::*;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};

const NAN: f64 = f64::NAN;

fn floats(values: &[f64]) -> Tensor {
    Tensor::float(TensorType::f32([values.len()]), values.to_vec())
}

fn ints(dtype: DType, values: &[i64]) -> Tensor {
    Tensor::int(TensorType::new(dtype, [values.len()]), values.to_vec())
}

fn eval(op: impl Into<Op>, operands: &[&Tensor]) -> Tensor {
    op.into().eval(operands).expect("evaluates").remove(0)
}

/// Evaluates what `build` makes of one input.
fn built(x: &Tensor, build: impl FnOnce(&mut Builder, Value) -> Result<Value, TypeError>) -> Tensor {
    let mut builder = Builder::new("test");
    let input = builder.input("x", x.ty.clone()).expect("first input");
    let result = build(&mut builder, input).expect("builds");
    builder.output("y", result, OutputKind::Result);
    interpret::outputs(&builder.finish(), std::slice::from_ref(x)).expect("evaluates").remove(0)
}

struct NoBodies;

/// An op by itself: nothing was contributed before.
struct NothingSoFar;

impl SoFar for NothingSoFar {
    fn take(&mut self, _: &mut Builder, _: Value) -> Result<Option<Value>, TypeError> {
        Ok(None)
    }
}

impl DifferentiateBody for NoBodies {
    fn vjp_body(&self, _: &Graph, _: &[usize]) -> Result<Graph, TypeError> {
        Err(TypeError::new("no region is under test"))
    }

    fn vjp_loop(&self, _: &Scan, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Err(TypeError::new("no region is under test"))
    }

    fn vjp_until(&self, _: &IterateUntil, _: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
        Err(TypeError::new("no region is under test"))
    }
}

/// Gradients of all float operands for a cotangent of ones.
fn gradients(op: impl Into<Op>, operands: &[&Tensor]) -> Vec<Vec<f64>> {
    let mut builder = Builder::new("test");
    let declare = |(k, t): (usize, &&Tensor)| builder.input(&k.to_string(), t.ty.clone()).expect("unique names");
    let inputs: Vec<Value> = operands.iter().enumerate().map(declare).collect();
    let op = op.into();
    let outputs = builder.apply(op.clone(), &inputs).expect("applies");
    let cotangent = builder.full_like(outputs[0], 1.0).expect("a constant");
    let mut cx = VjpContext {
        builder: &mut builder,
        inputs: &inputs,
        outputs: &outputs,
        cotangents: &[Some(cotangent)],
        wanted: &vec![true; inputs.len()],
        bodies: &NoBodies,
        so_far: &mut NothingSoFar,
    };
    for answer in op.vjp(&mut cx).expect("differentiates") {
        if let Cotangent::Flows(gradient) = answer {
            builder.output("gradient", gradient, OutputKind::Result);
        }
    }
    let operands: Vec<Tensor> = operands.iter().map(|&t| t.clone()).collect();
    let results = interpret::outputs(&builder.finish(), &operands).expect("evaluates");
    results.iter().map(|t| t.floats().to_vec()).collect()
}

/// Equality in which NaN equals NaN.
fn assert_same(found: &[f64], expected: &[f64]) {
    let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(same), "{found:?} is not {expected:?}");
}

#[test]
fn nan_propagates_through_extrema() {
    let (a, b) = (floats(&[NAN, 1.0, NAN]), floats(&[1.0, NAN, NAN]));
    assert_same(eval(Maximum {}, &[&a, &b]).floats(), &[NAN; 3]);
    assert_same(eval(Minimum {}, &[&a, &b]).floats(), &[NAN; 3]);
    assert_same(eval(ReduceMax { axes: vec![0] }, &[&a]).floats(), &[NAN]);
    assert_same(eval(ReduceMin { axes: vec![0] }, &[&b]).floats(), &[NAN]);
    assert_same(eval(Sign {}, &[&floats(&[NAN, -0.5, 0.0])]).floats(), &[NAN, -1.0, 0.0]);
}

#[test]
fn ties_share_the_gradient() {
    let (a, b) = (floats(&[1.0, 2.0, 3.0]), floats(&[2.0, 2.0, 2.0]));
    assert_eq!(gradients(Maximum {}, &[&a, &b]), [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]);
    assert_eq!(gradients(Minimum {}, &[&a, &b]), [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]);
    assert_eq!(gradients(ReduceMax { axes: vec![0] }, &[&floats(&[3.0, 1.0, 3.0])]), [[0.5, 0.0, 0.5]]);
    assert_same(&gradients(ReduceMax { axes: vec![0] }, &[&floats(&[3.0, NAN])])[0], &[NAN, NAN]);
    assert_eq!(gradients(Abs {}, &[&floats(&[-2.0, 0.0, 2.0])]), [[-1.0, 0.0, 1.0]]);
}

#[test]
fn products_differentiate_around_zeros() {
    let prod = |values: &[f64]| gradients(ReduceProd { axes: vec![0] }, &[&floats(values)]).remove(0);
    assert_eq!(prod(&[2.0, 3.0, 4.0]), [12.0, 8.0, 6.0]);
    assert_eq!(prod(&[2.0, 0.0, 4.0]), [0.0, 8.0, 0.0]);
    assert_eq!(prod(&[0.0, 0.0, 4.0]), [0.0, 0.0, 0.0]);
}

#[test]
fn powers_differentiate_at_zero() {
    let found = gradients(Pow {}, &[&floats(&[0.0, 0.0, 2.0, -2.0]), &floats(&[0.0, 2.0, 0.0, 3.0])]);
    assert_same(&found[0], &[0.0, 0.0, 0.0, 12.0]);
    assert_same(&found[1], &[0.0, 0.0, 2f64.ln(), NAN]);
}

#[test]
fn integers_wrap_and_survive_zero_divisors() {
    let (a, b) = (ints(DType::I32, &[i32::MIN as i64, 7, -7]), ints(DType::I32, &[-1, 0, 2]));
    assert_eq!(eval(Div {}, &[&a, &b]).ints(), [i32::MIN as i64, -1, -3]);
    assert_eq!(eval(Rem {}, &[&a, &b]).ints(), [0, 7, -1]);
    let bytes = ints(DType::U8, &[250, 10]);
    assert_eq!(eval(Add {}, &[&bytes, &bytes]).ints(), [244, 20]);
    assert_eq!(eval(Sub {}, &[&ints(DType::U8, &[1]), &ints(DType::U8, &[2])]).ints(), [255]);
}

#[test]
fn shifts_are_logical_and_modulo_the_width() {
    let (a, by) = (ints(DType::I32, &[-1, 1, 3]), ints(DType::I32, &[28, 31, 33]));
    assert_eq!(eval(Shr {}, &[&a, &by]).ints(), [15, 0, 1]);
    assert_eq!(eval(Shl {}, &[&a, &by]).ints(), [-(1 << 28), i32::MIN as i64, 6]);
}

#[test]
fn casts_saturate_and_truncate() {
    let x = floats(&[NAN, f64::INFINITY, -1e30, 2.9, -2.9]);
    let greatest = i32::MAX as i64;
    assert_eq!(eval(Cast { dtype: DType::I32 }, &[&x]).ints(), [0, greatest, i32::MIN as i64, 2, -2]);
    assert_eq!(eval(Cast { dtype: DType::U8 }, &[&x]).ints(), [0, 255, 0, 2, 0]);
    assert_eq!(eval(Cast { dtype: DType::Bool }, &[&x]).ints(), [1; 5]);
    assert_eq!(eval(Cast { dtype: DType::U8 }, &[&ints(DType::I64, &[-1, 256, 257])]).ints(), [255, 0, 1]);
}

#[test]
fn comparisons_with_nan_fail_except_unequal() {
    for &kind in CompareFn::ALL {
        let found = eval(Compare { kind }, &[&floats(&[NAN]), &floats(&[NAN])]);
        assert_eq!(found.ints(), [(kind == CompareFn::Ne) as i64], "{kind:?}");
    }
}

#[test]
fn rounding_goes_to_even() {
    assert_eq!(eval(Round {}, &[&floats(&[0.5, 1.5, 2.5, -0.5, -1.5])]).floats(), [0.0, 2.0, 2.0, 0.0, -2.0]);
}

#[test]
fn reductions_of_nothing_give_the_neutral_element() {
    let nothing = Tensor::float(TensorType::f32([2, 0]), vec![]);
    let axes = || vec![1];
    assert_eq!(eval(ReduceSum { axes: axes() }, &[&nothing]).floats(), [0.0; 2]);
    assert_eq!(eval(ReduceProd { axes: axes() }, &[&nothing]).floats(), [1.0; 2]);
    assert_eq!(eval(ReduceMax { axes: axes() }, &[&nothing]).floats(), [f64::NEG_INFINITY; 2]);
    assert_eq!(eval(ReduceMin { axes: axes() }, &[&nothing]).floats(), [f64::INFINITY; 2]);
    assert_eq!(eval(ReduceMax { axes: vec![0] }, &[&ints(DType::U8, &[])]).ints(), [0]);
}

#[test]
fn arg_max_takes_the_first_maximum_or_nan() {
    let arg_max = |values: &[f64]| built(&floats(values), |b, x| b.arg_max(x, 0)).ints()[0];
    assert_eq!(arg_max(&[1.0, 5.0, 5.0]), 1);
    assert_eq!(arg_max(&[1.0, NAN, 9.0, NAN]), 1);
    assert_eq!(arg_max(&[f64::NEG_INFINITY; 3]), 0);
    let rows = Tensor::float(TensorType::f32([2, 3]), vec![0.0, 2.0, 1.0, 7.0, 3.0, 5.0]);
    assert_eq!(built(&rows, |b, x| b.arg_max(x, 1)).ints(), [1, 0]);
    assert_eq!(built(&rows, |b, x| b.arg_max(x, 0)).ints(), [1, 1, 1]);
}

#[test]
fn builder_methods_leave_identities_out() {
    let mut b = Builder::new("test");
    let x = b.input("x", TensorType::f32([2, 3])).expect("first input");
    assert_eq!(b.slice_axis(x, 1, 0, 3), Ok(x));
    assert_eq!(b.pad(x, &[0, 0], &[0, 0], &[0, 0], 1.0), Ok(x));
    assert_eq!(b.concat(&[x], 1), Ok(x));
    assert_eq!(b.cast(x, DType::F32), Ok(x));
    assert_eq!(b.reverse(x, &[]), Ok(x));
    assert_eq!(b.reduce_max(x, &[]), Ok(x));
}

#[test]
fn a_stride_past_the_end_takes_the_first_element() {
    let first = built(&floats(&[4.0, 5.0, 6.0]), |b, x| b.slice(x, &[1], &[3], &[i64::MAX as usize]));
    assert_eq!(first.floats(), [5.0]);
}

#[test]
fn many_operands_are_joined_in_order() {
    let pieces =
        |b: &mut Builder, x| (0..70).map(|k| b.slice_axis(x, 0, 69 - k, 70 - k)).collect::<Result<Vec<_>, _>>();
    let x = floats(&(0..70).map(f64::from).collect::<Vec<_>>());
    let joined = built(&x, |b, x| pieces(b, x).and_then(|pieces| b.concat(&pieces, 0)));
    assert_eq!(joined, eval(Reverse { axes: vec![0] }, &[&x]));
}

#[test]
fn absurd_attributes_are_refused() {
    let huge = i64::MAX as usize;
    let refused: Vec<(Op, &[usize])> = vec![
        (Slice { start: vec![2], limit: vec![1], stride: vec![1] }.into(), &[3]),
        (Slice { start: vec![0], limit: vec![huge], stride: vec![1] }.into(), &[3]),
        (Slice { start: vec![0], limit: vec![3], stride: vec![0] }.into(), &[3]),
        (Slice { start: vec![0], limit: vec![3], stride: vec![huge] }.into(), &[3]),
        (Slice { start: vec![0, 0], limit: vec![3], stride: vec![1] }.into(), &[3]),
        (Pad { low: vec![huge], high: vec![huge], interior: vec![0], value: 0.0.into() }.into(), &[3]),
        (Pad { low: vec![0], high: vec![0], interior: vec![huge], value: 0.0.into() }.into(), &[1]),
        (Pad { low: vec![1 << 39], high: vec![1 << 39], interior: vec![0], value: 0.0.into() }.into(), &[3]),
        (Pad { low: vec![], high: vec![0], interior: vec![0], value: 0.0.into() }.into(), &[3]),
        (Concat { axis: 1 }.into(), &[3]),
        (Reverse { axes: vec![1] }.into(), &[3]),
        (Reverse { axes: vec![0, 0] }.into(), &[3]),
        (ReduceMax { axes: vec![huge] }.into(), &[3]),
    ];
    for (op, shape) in refused {
        assert!(op.infer(&[&TensorType::f32(shape)]).is_err(), "{op} was accepted");
    }
    let sources: [Op; 3] = [
        Iota { dtype: DType::I64, shape: vec![3], axis: 1 }.into(),
        Iota { dtype: DType::Bool, shape: vec![3], axis: 0 }.into(),
        Iota { dtype: DType::I64, shape: vec![huge, huge], axis: 0 }.into(),
    ];
    sources.iter().for_each(|op| assert!(op.infer(&[]).is_err(), "{op} was accepted"));
    assert!(Op::from(Concat { axis: 0 }).infer(&[]).is_err(), "nothing was concatenated");
}

#[test]
fn dtypes_an_op_does_not_take_are_refused() {
    let of = |dtype| TensorType::new(dtype, [3]);
    let accepts = |op: Op, dtype| op.infer(&[&of(dtype), &of(dtype)]).is_ok();
    assert!(!accepts(Add {}.into(), DType::Bool), "booleans have no sum");
    assert!(!accepts(And {}.into(), DType::F32) && accepts(And {}.into(), DType::Bool));
    assert!(!accepts(Pow {}.into(), DType::I64) && accepts(Pow {}.into(), DType::F64));
    assert!(!accepts(Shl {}.into(), DType::Bool) && accepts(Shl {}.into(), DType::U8));
    assert!(Not {}.infer(&[&of(DType::I64)]).is_err());
    assert!(Exp {}.infer(&[&of(DType::I64)]).is_err());
}
