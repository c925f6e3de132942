//! ATen ops on small operands, against their definitions worked out by hand.

use super::program::{BOOL, F32, I64, Program, tensor};
use gradc_frontend::model::ImportOptions;
use gradc_ir::interpret;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType};
use serde_json::{Value, json};
use std::collections::HashMap;

/// An argument of a call under test.
enum A<'a> {
    /// Floats.
    F(&'a [usize], &'a [f64]),
    /// Integers.
    I(&'a [usize], &'a [f64]),
    /// Booleans.
    B(&'a [usize], &'a [f64]),
    /// Several tensors of floats.
    Fs(&'a [(&'a [usize], &'a [f64])]),
    /// As it stands in the file.
    J(Value),
}

fn dtype(number: u32) -> DType {
    match number {
        F32 => DType::F32,
        I64 => DType::I64,
        _ => DType::Bool,
    }
}

/// The type and values expected of a result.
type Expected<'a> = (u32, &'a [usize], &'a [f64]);

fn int(value: i64) -> A<'static> {
    A::J(json!({"as_int": value}))
}

fn ints(values: &[i64]) -> A<'static> {
    A::J(json!({"as_ints": values}))
}

fn float(value: f64) -> A<'static> {
    A::J(json!({"as_float": value}))
}

fn yes() -> A<'static> {
    A::J(json!({"as_bool": true}))
}

/// A program of one call, and its data inputs.
struct Case {
    program: Program,
    inputs: HashMap<String, Tensor>,
}

impl Case {
    fn input(&mut self, name: String, number: u32, shape: &[usize], values: &[f64]) -> Value {
        self.program = self.program.clone().input(&name, number, shape);
        let ty = TensorType::new(dtype(number), shape);
        let value = match number {
            F32 => Tensor::float(ty, values.to_vec()),
            _ => Tensor::int(ty, values.iter().map(|&v| v as i64).collect()),
        };
        self.inputs.insert(name.clone(), value);
        tensor(&name)
    }

    fn argument(&mut self, name: &str, arg: &A) -> Value {
        match arg {
            A::F(shape, values) => self.input(format!("in_{name}"), F32, shape, values),
            A::I(shape, values) => self.input(format!("in_{name}"), I64, shape, values),
            A::B(shape, values) => self.input(format!("in_{name}"), BOOL, shape, values),
            A::Fs(list) => {
                let each = |(k, (shape, values)): (usize, &(&[usize], &[f64]))| {
                    self.input(format!("in_{name}_{k}"), F32, shape, values)["as_tensor"].clone()
                };
                json!({"as_tensors": list.iter().enumerate().map(each).collect::<Vec<_>>()})
            }
            A::J(value) => value.clone(),
        }
    }
}

/// Results of one call.
fn call(target: &str, args: &[(&str, A)], expected: &[Expected], as_list: bool) -> Vec<Tensor> {
    let mut case = Case { program: Program::new(), inputs: HashMap::new() };
    let args: Vec<(&str, Value)> = args.iter().map(|(name, arg)| (*name, case.argument(name, arg))).collect();
    let names: Vec<String> = (0..expected.len()).map(|k| format!("y{k}")).collect();
    let refs: Vec<Value> = names.iter().map(|n| tensor(n)["as_tensor"].clone()).collect();
    let list = json!([{"as_tensors": refs}]);
    let outputs = if as_list { list } else { names.iter().map(|n| tensor(n)).collect() };
    let mut program = case.program.nodes(target, &args, outputs, "call");
    for (name, (number, shape, _)) in names.iter().zip(expected) {
        program = program.value(name, *number, shape).output(name);
    }
    let model = program.import_with(&ImportOptions::default()).unwrap_or_else(|e| panic!("{target}: {e}"));
    let mut results = interpret::step(&model.train, &mut case.inputs).unwrap_or_else(|e| panic!("{target}: {e}"));
    names.iter().map(|name| results.remove(name).expect("a result")).collect()
}

fn check_all(target: &str, args: &[(&str, A)], expected: &[Expected], as_list: bool) {
    for (result, (number, shape, values)) in call(target, args, expected, as_list).iter().zip(expected) {
        assert_eq!(result.ty, TensorType::new(dtype(*number), *shape), "{target}");
        let found: Vec<f64> = match &result.data {
            Data::Float(v) => v.clone(),
            Data::Int(v) => v.iter().map(|&v| v as f64).collect(),
        };
        let close = found.iter().zip(*values).all(|(a, b)| a == b || (a - b).abs() <= 1e-7 * b.abs().max(1.0));
        assert!(close && found.len() == values.len(), "{target}: {found:?} instead of {values:?}");
    }
}

fn check(target: &str, args: &[(&str, A)], expected: Expected) {
    check_all(target, args, &[expected], false);
}

const X: &[f64] = &[-2.0, -0.5, 0.0, 0.5, 1.0, 4.0];
const M: A = A::F(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);

fn unary(target: &str, f: impl Fn(f64) -> f64) {
    let expected: Vec<f64> = X.iter().map(|&x| f(x)).collect();
    check(&format!("{target}.default"), &[("self", A::F(&[6], X))], (F32, &[6], &expected));
}

#[test]
fn one_operand() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    unary("abs", f64::abs);
    unary("neg", |x| -x);
    unary("exp", f64::exp);
    unary("tanh", f64::tanh);
    unary("square", |x| x * x);
    unary("floor", f64::floor);
    unary("relu", |x| x.max(0.0));
    unary("relu6", |x| x.clamp(0.0, 6.0));
    unary("sigmoid", sigmoid);
    unary("silu", |x| x * sigmoid(x));
    unary("hardsigmoid", |x| (x / 6.0 + 0.5).clamp(0.0, 1.0));
    unary("hardswish", |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0));
    unary("softplus", |x| x.exp().ln_1p());
    unary("log_sigmoid", |x| -(-x).exp().ln_1p());
    unary("mish", |x| x * x.exp().ln_1p().tanh());
    unary("hardtanh", |x| x.clamp(-1.0, 1.0));
    unary("leaky_relu", |x| if x > 0.0 { x } else { 0.01 * x });
    unary("elu", |x| if x > 0.0 { x } else { x.exp_m1() });
    unary("detach", |x| x);
    unary("zeros_like", |_| 0.0);
}

#[test]
fn numbers_and_promotion() {
    let x = || ("self", A::F(&[6], X));
    let map = |f: &dyn Fn(f64) -> f64| X.iter().map(|&x| f(x)).collect::<Vec<_>>();
    check("add.Tensor", &[x(), ("other", int(2)), ("alpha", int(3))], (F32, &[6], &map(&|x| x + 6.0)));
    check("rsub.Scalar", &[x(), ("other", int(2))], (F32, &[6], &map(&|x| 2.0 - x)));
    check("div.Tensor", &[x(), ("other", float(4.0))], (F32, &[6], &map(&|x| x / 4.0)));
    check("pow.Scalar", &[("self", int(3)), ("exponent", A::F(&[6], X))], (F32, &[6], &map(&|x| 3f64.powf(x))));
    check("pow.Tensor_Scalar", &[x(), ("exponent", int(3))], (F32, &[6], &map(&|x| x * x * x)));
    check("clamp.default", &[x(), ("max", int(1))], (F32, &[6], &map(&|x| x.min(1.0))));
    check("clamp_min.default", &[x(), ("min", int(0))], (F32, &[6], &map(&|x| x.max(0.0))));
    let softplus = |x: f64| (2.0 * x).exp().ln_1p() / 2.0;
    check("softplus.default", &[x(), ("beta", int(2))], (F32, &[6], &map(&softplus)));
    check("gt.Scalar", &[x(), ("other", int(0))], (BOOL, &[6], &map(&|x| f64::from(u8::from(x > 0.0)))));
    let floor = A::J(json!({"as_string": "floor"}));
    check(
        "div.Tensor_mode",
        &[x(), ("other", int(3)), ("rounding_mode", floor)],
        (F32, &[6], &map(&|x| (x / 3.0).floor())),
    );
    let whole = || ("self", A::I(&[3], &[1.0, 2.0, 3.0]));
    check("mul.Tensor", &[whole(), ("other", float(0.5))], (F32, &[3], &[0.5, 1.0, 1.5]));
    check("div.Tensor", &[whole(), ("other", int(2))], (F32, &[3], &[0.5, 1.0, 1.5]));
    check("add.Tensor", &[whole(), ("other", A::F(&[1], &[0.5]))], (F32, &[3], &[1.5, 2.5, 3.5]));
    check("lt.Scalar", &[whole(), ("other", float(2.5))], (BOOL, &[3], &[1.0, 1.0, 0.0]));
    check("neg.default", &[whole()], (I64, &[3], &[-1.0, -2.0, -3.0]));
    check("to.dtype", &[whole(), ("dtype", A::J(json!({"as_scalar_type": F32})))], (F32, &[3], &[1.0, 2.0, 3.0]));
}

#[test]
fn several_operands() {
    let mask = || A::B(&[3], &[1.0, 0.0, 1.0]);
    check(
        "where.self",
        &[("condition", mask()), ("self", M), ("other", A::F(&[], &[9.0]))],
        (F32, &[2, 3], &[1.0, 9.0, 3.0, 4.0, 9.0, 6.0]),
    );
    let infinity = A::J(json!({"as_float": "-Infinity"}));
    check(
        "masked_fill.Scalar",
        &[("self", A::F(&[3], &[1.0, 2.0, 3.0])), ("mask", mask()), ("value", infinity)],
        (F32, &[3], &[f64::NEG_INFINITY, 2.0, f64::NEG_INFINITY]),
    );
    check("logical_and.default", &[("self", mask()), ("other", A::B(&[1], &[1.0]))], (BOOL, &[3], &[1.0, 0.0, 1.0]));
    check(
        "lerp.Scalar",
        &[("self", A::F(&[2], &[0.0, 2.0])), ("end", A::F(&[2], &[4.0, 4.0])), ("weight", float(0.25))],
        (F32, &[2], &[1.0, 2.5]),
    );
    check(
        "addcdiv.default",
        &[
            ("self", A::F(&[1], &[1.0])),
            ("tensor1", A::F(&[1], &[3.0])),
            ("tensor2", A::F(&[1], &[4.0])),
            ("value", int(2)),
        ],
        (F32, &[1], &[2.5]),
    );
    check(
        "prelu.default",
        &[("self", A::F(&[1, 2], &[-2.0, -4.0])), ("weight", A::F(&[2], &[0.5, 0.25]))],
        (F32, &[1, 2], &[-1.0, -1.0]),
    );
}

#[test]
fn products() {
    let w = || A::F(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    check("mm.default", &[("self", M), ("mat2", w())], (F32, &[2, 2], &[4.0, 5.0, 10.0, 11.0]));
    check(
        "addmm.default",
        &[("self", A::F(&[2], &[1.0, 2.0])), ("mat1", M), ("mat2", w()), ("alpha", int(2))],
        (F32, &[2, 2], &[9.0, 12.0, 21.0, 24.0]),
    );
    check("mv.default", &[("self", M), ("vec", A::F(&[3], &[1.0, 0.0, -1.0]))], (F32, &[2], &[-2.0, -2.0]));
    check(
        "bmm.default",
        &[("self", A::F(&[2, 1, 1], &[2.0, 3.0])), ("mat2", A::F(&[2, 1, 1], &[5.0, 7.0]))],
        (F32, &[2, 1, 1], &[10.0, 21.0]),
    );
    let table = || A::F(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check(
        "embedding.default",
        &[("weight", table()), ("indices", A::I(&[2], &[2.0, 0.0])), ("padding_idx", int(0))],
        (F32, &[2, 2], &[5.0, 6.0, 1.0, 2.0]),
    );
    check(
        "index_select.default",
        &[("self", M), ("dim", int(1)), ("index", A::I(&[2], &[2.0, 0.0]))],
        (F32, &[2, 2], &[3.0, 1.0, 6.0, 4.0]),
    );
    let eye = || A::F(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0]);
    let v = A::F(&[1, 1, 2, 1], &[3.0, 5.0]);
    let half = 1.0 / (1.0 + (1.0f64 / 2f64.sqrt()).exp());
    check(
        "scaled_dot_product_attention.default",
        &[("query", eye()), ("key", eye()), ("value", v), ("is_causal", yes())],
        (F32, &[1, 1, 2, 1], &[3.0, 3.0 * half + 5.0 * (1.0 - half)]),
    );
}

#[test]
fn windows() {
    let x = || A::F(&[1, 1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let w = || A::F(&[1, 1, 2], &[1.0, 10.0]);
    check(
        "conv1d.default",
        &[("input", x()), ("weight", w()), ("stride", ints(&[2])), ("padding", ints(&[1]))],
        (F32, &[1, 1, 3], &[10.0, 32.0, 54.0]),
    );
    let same = A::J(json!({"as_string": "same"}));
    check(
        "conv1d.padding",
        &[("input", x()), ("weight", w()), ("padding", same)],
        (F32, &[1, 1, 5], &[21.0, 32.0, 43.0, 54.0, 5.0]),
    );
    let y = A::F(&[1, 1, 2], &[1.0, 2.0]);
    check(
        "conv_transpose1d.default",
        &[("input", y), ("weight", w()), ("stride", ints(&[2])), ("bias", A::F(&[1], &[0.5]))],
        (F32, &[1, 1, 4], &[1.5, 10.5, 2.5, 20.5]),
    );
    check("max_pool1d.default", &[("self", x()), ("kernel_size", ints(&[2]))], (F32, &[1, 1, 2], &[2.0, 4.0]));
    check(
        "max_pool1d.default",
        &[("self", x()), ("kernel_size", ints(&[2])), ("stride", ints(&[2])), ("ceil_mode", yes())],
        (F32, &[1, 1, 3], &[2.0, 4.0, 5.0]),
    );
    check(
        "avg_pool1d.default",
        &[("self", x()), ("kernel_size", ints(&[3])), ("stride", ints(&[2])), ("padding", ints(&[1]))],
        (F32, &[1, 1, 3], &[1.0, 3.0, 3.0]),
    );
    let image = A::F(&[1, 1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    check(
        "adaptive_avg_pool2d.default",
        &[("self", image), ("output_size", ints(&[1, 2]))],
        (F32, &[1, 1, 1, 2], &[3.5, 5.5]),
    );
}

#[test]
fn reductions() {
    let m = || ("self", M);
    check("sum.dim_IntList", &[m(), ("dim", ints(&[0]))], (F32, &[3], &[5.0, 7.0, 9.0]));
    check("mean.default", &[m()], (F32, &[], &[3.5]));
    check("mean.dim", &[m(), ("dim", ints(&[-1])), ("keepdim", yes())], (F32, &[2, 1], &[2.0, 5.0]));
    check("amax.default", &[m(), ("dim", ints(&[1]))], (F32, &[2], &[3.0, 6.0]));
    check("min.default", &[m()], (F32, &[], &[1.0]));
    check("argmax.default", &[m(), ("dim", int(0))], (I64, &[3], &[1.0, 1.0, 1.0]));
    check("var.correction", &[m(), ("dim", ints(&[1]))], (F32, &[2], &[1.0, 1.0]));
    check("var.correction", &[m(), ("dim", ints(&[1])), ("correction", int(0))], (F32, &[2], &[2.0 / 3.0, 2.0 / 3.0]));
    check("std.dim", &[m(), ("dim", ints(&[0]))], (F32, &[3], &[4.5f64.sqrt(); 3]));
    check("sum.default", &[("self", A::B(&[3], &[1.0, 0.0, 1.0]))], (I64, &[], &[2.0]));
    check(
        "logsumexp.default",
        &[("self", A::F(&[2], &[1000.0, 1000.0])), ("dim", ints(&[0]))],
        (F32, &[], &[1000.0 + 2f64.ln()]),
    );
    check("linalg_vector_norm.default", &[("self", A::F(&[2], &[3.0, 4.0]))], (F32, &[], &[5.0]));
}

#[test]
fn shapes() {
    let m = || ("self", M);
    let six = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    check("view.default", &[m(), ("size", ints(&[3, -1]))], (F32, &[3, 2], &six));
    check("unflatten.int", &[m(), ("dim", int(1)), ("sizes", ints(&[3, 1]))], (F32, &[2, 3, 1], &six));
    check("flatten.using_ints", &[m()], (F32, &[6], &six));
    check("t.default", &[m()], (F32, &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    check("permute.default", &[m(), ("dims", ints(&[-1, 0]))], (F32, &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    check("unsqueeze.default", &[m(), ("dim", int(-1))], (F32, &[2, 3, 1], &six));
    check("squeeze.dim", &[m(), ("dim", int(0))], (F32, &[2, 3], &six));
    check("select.int", &[m(), ("dim", int(1)), ("index", int(-1))], (F32, &[2], &[3.0, 6.0]));
    check(
        "slice.Tensor",
        &[m(), ("dim", int(1)), ("start", int(-2)), ("end", int(i64::MAX))],
        (F32, &[2, 2], &[2.0, 3.0, 5.0, 6.0]),
    );
    check("slice.Tensor", &[m(), ("dim", int(1)), ("step", int(2))], (F32, &[2, 2], &[1.0, 3.0, 4.0, 6.0]));
    check("flip.default", &[m(), ("dims", ints(&[0]))], (F32, &[2, 3], &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]));
    check("tril.default", &[m()], (F32, &[2, 3], &[1.0, 0.0, 0.0, 4.0, 5.0, 0.0]));
    check("triu.default", &[m(), ("diagonal", int(1))], (F32, &[2, 3], &[0.0, 2.0, 3.0, 0.0, 0.0, 6.0]));
    let row = || ("self", A::F(&[1, 2], &[1.0, 2.0]));
    check(
        "expand.default",
        &[row(), ("size", ints(&[2, 2, -1]))],
        (F32, &[2, 2, 2], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]),
    );
    check(
        "repeat.default",
        &[row(), ("repeats", ints(&[2, 2]))],
        (F32, &[2, 4], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]),
    );
    check(
        "constant_pad_nd.default",
        &[row(), ("pad", ints(&[1, 0])), ("value", int(7))],
        (F32, &[1, 3], &[7.0, 1.0, 2.0]),
    );
    let pair = || A::Fs(&[(&[1, 2], &[1.0, 2.0]), (&[1, 2], &[3.0, 4.0])]);
    check("cat.default", &[("tensors", pair()), ("dim", int(-1))], (F32, &[1, 4], &[1.0, 2.0, 3.0, 4.0]));
    check("stack.default", &[("tensors", pair()), ("dim", int(-1))], (F32, &[1, 2, 2], &[1.0, 3.0, 2.0, 4.0]));
    let parts: [Expected; 2] = [(F32, &[2, 2], &[1.0, 2.0, 4.0, 5.0]), (F32, &[2, 1], &[3.0, 6.0])];
    check_all("chunk.default", &[m(), ("chunks", int(2)), ("dim", int(1))], &parts, true);
    check_all("split_with_sizes.default", &[m(), ("split_sizes", ints(&[2, 1])), ("dim", int(1))], &parts, true);
    check_all("unbind.int", &[m()], &[(F32, &[3], &six[..3]), (F32, &[3], &six[3..])], true);
}

#[test]
fn new_tensors() {
    check("arange.start_step", &[("start", int(2)), ("end", int(9)), ("step", int(3))], (I64, &[3], &[2.0, 5.0, 8.0]));
    check("arange.default", &[("end", int(3))], (F32, &[3], &[0.0, 1.0, 2.0]));
    check("arange.start_step", &[("start", int(5)), ("end", int(0)), ("step", int(-2))], (I64, &[3], &[5.0, 3.0, 1.0]));
    check("arange.default", &[("end", float(2.5))], (F32, &[3], &[0.0, 1.0, 2.0]));
    let tenths = [("start", float(0.5)), ("end", float(0.2)), ("step", float(-0.1))];
    check("arange.start_step", &tenths, (F32, &[3], &[0.5, 0.4, 0.5 - 0.1 * 2.0]));
    check("full.default", &[("size", ints(&[2])), ("fill_value", float(1.5))], (F32, &[2], &[1.5, 1.5]));
    check("ones.default", &[("size", ints(&[1, 2]))], (I64, &[1, 2], &[1.0, 1.0]));
}

#[test]
fn indices_of_triangles() {
    let extents = [0, 1, 2, 5, 6].into_iter().flat_map(|rows| [0, 1, 3, 5, 7].map(|columns| (rows, columns)));
    for ((rows, columns), diagonal) in extents.flat_map(|extents| (-8..=8).map(move |diagonal| (extents, diagonal))) {
        let inside = |keep: &dyn Fn(i64) -> bool| {
            let all = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            let kept = all.filter(|(row, column)| keep(column - row)).map(|(row, column)| (row as f64, column as f64));
            let (rows, columns): (Vec<f64>, Vec<f64>) = kept.unzip();
            [rows, columns].concat()
        };
        let extents = || [("row", int(rows)), ("col", int(columns)), ("offset", int(diagonal))];
        let [lower, upper] = [inside(&|past| past <= diagonal), inside(&|past| past >= diagonal)];
        check("tril_indices.default", &extents(), (I64, &[2, lower.len() / 2], &lower));
        check("triu_indices.default", &extents(), (I64, &[2, upper.len() / 2], &upper));
    }
}

#[test]
fn normalisations_and_losses() {
    let x = || A::F(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let unit = (1.25f64 + 1e-5).sqrt();
    let normal = [-1.5, -0.5, 0.5, 1.5].map(|v| v / unit);
    check("layer_norm.default", &[("input", x()), ("normalized_shape", ints(&[4]))], (F32, &[1, 4], &normal));
    let pair = 1.0 / (0.25f64 + 1e-5).sqrt();
    check(
        "group_norm.default",
        &[("input", x()), ("num_groups", int(2))],
        (F32, &[1, 4], &[-0.5 * pair, 0.5 * pair, -0.5 * pair, 0.5 * pair]),
    );
    let third = [1.0 / 3.0, 2.0 / 3.0];
    check("softmax.int", &[("self", A::F(&[2], &[0.0, 2f64.ln()])), ("dim", int(-1))], (F32, &[2], &third));
    let logits = A::F(&[2, 2], &[0.0, 2f64.ln(), 5.0, 5.0]);
    let label = || ("target", A::I(&[2], &[1.0, -100.0]));
    check("cross_entropy_loss.default", &[("self", logits), label()], (F32, &[], &[1.5f64.ln()]));
    let (p, t) = (|| ("self", A::F(&[2], &[1.0, 4.0])), || ("target", A::F(&[2], &[0.5, 1.0])));
    check("mse_loss.default", &[p(), t()], (F32, &[], &[9.25 / 2.0]));
    check("mse_loss.default", &[p(), t(), ("reduction", int(2))], (F32, &[], &[9.25]));
    check("l1_loss.default", &[p(), t()], (F32, &[], &[1.75]));
    check("huber_loss.default", &[p(), t(), ("delta", float(2.0))], (F32, &[], &[(0.125 + 4.0) / 2.0]));
    check("smooth_l1_loss.default", &[p(), t(), ("beta", float(2.0))], (F32, &[], &[(0.125 + 4.0) / 4.0]));
    let zero = ("self", A::F(&[1], &[0.0]));
    check(
        "binary_cross_entropy_with_logits.default",
        &[zero, ("target", A::F(&[1], &[1.0]))],
        (F32, &[], &[2f64.ln()]),
    );
}

#[test]
fn recurrent_layers_run_both_ways() {
    // One unit, every weight 1, no biases: h' = tanh of what the gates let through.
    let weights: [(&[usize], &[f64]); 4] =
        [(&[3, 1], &[1.0; 3]), (&[3, 1], &[1.0; 3]), (&[3, 1], &[1.0; 3]), (&[3, 1], &[1.0; 3])];
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cell = |x: f64, h: f64| {
        let gate = sigmoid(x + h);
        (1.0 - gate) * (x + gate * h).tanh() + gate * h
    };
    let (h1, b1) = (cell(0.5, 0.0), cell(-1.0, 0.0));
    let (h2, b2) = (cell(-1.0, h1), cell(0.5, b1));
    let no = || A::J(json!({"as_bool": false}));
    let args = [
        ("input", A::F(&[1, 2, 1], &[0.5, -1.0])),
        ("hx", A::F(&[2, 1, 1], &[0.0, 0.0])),
        ("params", A::Fs(&weights)),
        ("has_biases", no()),
        ("num_layers", int(1)),
        ("dropout", float(0.0)),
        ("train", yes()),
        ("bidirectional", yes()),
        ("batch_first", yes()),
    ];
    check_all("gru.input", &args, &[(F32, &[1, 2, 2], &[h1, b2, h2, b1]), (F32, &[2, 1, 1], &[h2, b2])], false);
}
