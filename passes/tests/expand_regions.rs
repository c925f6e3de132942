//! Expanding regions changes no result, and leaves inputs, outputs and places alone.

use gradc_ir::builder::Builder;
use gradc_ir::diagnostic::Loc;
use gradc_ir::graph::{Function, Graph, InputId, OutputKind, Role, Value};
use gradc_ir::interpret;
use gradc_ir::lower::Lowering;
use gradc_ir::op::{Cotangent, Sample};
use gradc_ir::ops::Op;
use gradc_ir::target::Target;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use gradc_passes::differentiate::vjp_alone;
use gradc_passes::expand_regions::{ExpandLimits, expand_regions, expand_small_regions};

fn is_region(sample: &Sample) -> bool {
    let types: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
    let results = sample.op.infer(&types).expect("samples are well typed");
    matches!(sample.op.lower(&types, &results), Lowering::Expand(_) | Lowering::Region(_))
}

fn regions_left(graph: &Graph) -> usize {
    let lowered = |node: &gradc_ir::graph::Node| {
        let types: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
        let gradc_ir::graph::Def::Op(op) = &node.def else { return false };
        matches!(op.lower(&types, &node.types), Lowering::Expand(_) | Lowering::Region(_))
    };
    graph.nodes().iter().filter(|node| lowered(node)).count()
}

/// The sample's op on inputs, its float results and the gradients of their sum.
fn with_gradients(sample: &Sample) -> Graph {
    let mut b = Builder::new("sample");
    let inputs: Vec<Value> =
        sample.operands.iter().enumerate().map(|(k, o)| b.input(&format!("x{k}"), o.ty.clone()).unwrap()).collect();
    let outputs = b.apply(sample.op.clone(), &inputs).unwrap();
    let seed = |b: &mut Builder, v| {
        let ty = b.ty(v).clone();
        ty.dtype.is_float().then(|| b.splat(&ty, 1.0).unwrap())
    };
    let cotangents: Vec<Option<Value>> = outputs.iter().map(|&v| seed(&mut b, v)).collect();
    let wanted: Vec<bool> = sample.operands.iter().map(|o| o.differentiable).collect();
    let answers = vjp_alone(&mut b, &sample.op, [&inputs, &outputs], &cotangents, &wanted).unwrap();
    let gradients = answers.iter().filter_map(|a| if let Cotangent::Flows(g) = a { Some(*g) } else { None });
    for (k, value) in outputs.into_iter().chain(gradients).enumerate() {
        b.output(&format!("y{k}"), value, OutputKind::Result);
    }
    b.finish()
}

fn assert_same_results(before: &Graph, after: &Graph, inputs: &[Tensor]) {
    assert_eq!(interpret::outputs(before, inputs).unwrap(), interpret::outputs(after, inputs).unwrap());
}

#[test]
fn samples_and_their_gradients_expand_to_the_same_results() {
    let mut seen = 0;
    for sample in Op::all_samples().iter().filter(|s| is_region(s)) {
        let graph = with_gradients(sample);
        let differentiates = sample.operands.iter().any(|o| o.differentiable);
        let expected = 1 + usize::from(differentiates);
        assert!(regions_left(&graph) >= expected, "{} and its derivative are regions", sample.op.name());
        let expanded = expand_regions(&graph).unwrap();
        assert_eq!(regions_left(&expanded), 0, "{}", sample.op.name());
        for seed in 0..2 {
            assert_same_results(&graph, &expanded, &sample.draw(seed));
        }
        seen += 1;
    }
    assert!(seen > 4, "call, cond, scan and iterate have samples");
}

fn function(name: &str, build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>) -> Function {
    Builder::function(name, &[TensorType::new(DType::Bool, []), TensorType::f32([2])], build).unwrap()
}

/// A `cond` in a `scan` in a `call`.
fn nested() -> Graph {
    let double = function("double", |b, x| Ok(vec![b.add(x[1], x[1])?]));
    let square = function("square", |b, x| Ok(vec![b.mul(x[1], x[1])?]));
    let types = [TensorType::f32([2]), TensorType::new(DType::Bool, [])];
    let step = Builder::function("step", &types, |b, x| b.cond(x[1], &double, &square, &[x[1], x[0]])).unwrap();
    let types = [TensorType::f32([2]), TensorType::new(DType::Bool, [3])];
    let all = Builder::function("all", &types, |b, x| Ok(b.scan(&step, &x[..1], &x[1..], &[], false)?.0)).unwrap();
    let mut b = Builder::new("nested");
    b.set_loc(Loc { layer: "choices".into(), ..Loc::default() });
    let state = b.declare("state", Role::State, TensorType::f32([2]), Some(3.0)).unwrap();
    let choices = b.input("choices", TensorType::new(DType::Bool, [3])).unwrap();
    b.set_loc(Loc { layer: "net".into(), ..Loc::default() });
    let y = b.call(&all, &[state, choices]).unwrap()[0];
    b.output("y", y, OutputKind::Checked);
    b.update(InputId(0), y).unwrap();
    b.finish()
}

#[test]
fn nested_regions_expand_to_the_end() {
    let graph = nested();
    let expanded = expand_regions(&graph).unwrap();
    assert_eq!(regions_left(&expanded), 0);
    let state = Tensor::float(TensorType::f32([2]), vec![1.0, 3.0]);
    let choices = Tensor::int(TensorType::new(DType::Bool, [3]), vec![1, 0, 1]);
    assert_same_results(&graph, &expanded, &[state.clone(), choices.clone()]);
    assert_eq!(interpret::outputs(&expanded, &[state, choices]).unwrap()[0].floats(), [8.0, 72.0]);
}

#[test]
fn inputs_outputs_and_places_stay() {
    let graph = nested();
    let expanded = expand_regions(&graph).unwrap();
    let declared = |g: &Graph| -> Vec<_> { g.inputs().iter().map(|i| (i.name.clone(), i.role, i.default)).collect() };
    assert_eq!(declared(&expanded), declared(&graph));
    let kinds = |g: &Graph| -> Vec<_> { g.outputs().iter().map(|o| (o.name.clone(), o.kind)).collect() };
    assert_eq!(kinds(&expanded), kinds(&graph));
    let layers = |id| expanded.loc(id).layer.as_str();
    assert!(expanded.node_ids().all(|id| layers(id) == if expanded.op(id).is_some() { "net" } else { "choices" }));
}

#[test]
fn bodies_keep_the_places_they_have() {
    let types = [TensorType::f32([2])];
    let body = Builder::function("body", &types, |b, x| {
        b.set_loc(Loc { layer: "inner".into(), ..Loc::default() });
        Ok(vec![b.neg(x[0])?])
    });
    let mut b = Builder::new("outer");
    let x = b.input("x", types[0].clone()).unwrap();
    b.set_loc(Loc { layer: "outer".into(), ..Loc::default() });
    let y = b.call(&body.unwrap(), &[x]).unwrap()[0];
    let z = b.neg(y).unwrap();
    b.output("z", z, OutputKind::Result);
    let expanded = expand_regions(&b.finish()).unwrap();
    let layers: Vec<&str> = expanded.node_ids().map(|id| expanded.loc(id).layer.as_str()).collect();
    assert_eq!(layers, ["", "inner", "outer"]);
}

#[test]
fn graphs_without_regions_come_back_equal() {
    let mut b = Builder::new("plain");
    let x = b.input("x", TensorType::f32([2])).unwrap();
    let y = b.neg(x).unwrap();
    b.exp(y).unwrap();
    b.output("y", y, OutputKind::Result);
    let graph = b.finish();
    assert_eq!(expand_regions(&graph).unwrap(), graph);
}

/// A loop whose body has so many ops.
fn chain(steps: usize, ops: usize) -> Graph {
    let types = [TensorType::f32([])];
    let step = Builder::function("step", &types, |b, x| {
        let mut value = x[0];
        for _ in 0..ops {
            value = b.neg(value)?;
        }
        Ok(vec![value])
    });
    let mut b = Builder::new("chain");
    let x = b.input("x", types[0].clone()).unwrap();
    let y = b.iterate(&step.unwrap(), steps, &[x], &[]).unwrap()[0];
    b.output("y", y, OutputKind::Result);
    b.finish()
}

#[test]
fn loops_of_few_steps_or_few_nodes_are_small() {
    let limits = ExpandLimits { loop_nodes: 320, loop_steps: 8, ..ExpandLimits::NONE };
    let stays = |steps: usize, ops: usize| {
        let graph = chain(steps, ops);
        regions_left(&expand_small_regions(&graph, &limits, &Target::host()).unwrap()) == 1
    };
    assert!(!stays(8, 40) && stays(8, 41), "few steps, up to 320 nodes");
    assert!(!stays(20, 2) && stays(21, 2), "few nodes, up to 40");
}

#[test]
fn endless_loops_are_refused() {
    let types = [TensorType::f32([])];
    let step = Builder::function("step", &types, |b, x| Ok(vec![b.neg(x[0])?])).unwrap();
    let mut b = Builder::new("long");
    let x = b.input("x", types[0].clone()).unwrap();
    let y = b.iterate(&step, 1 << 30, &[x], &[]).unwrap()[0];
    b.output("y", y, OutputKind::Result);
    assert_eq!(expand_regions(&b.finish()).unwrap_err().code, "region-expansion");
}
