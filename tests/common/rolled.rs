//! Graphs run natively with their loops as loops, and held to the interpreter.

use gradc::{CompiledStep, HostTensor, Model, Options, TensorView};
use gradc_ir::graph::Graph;
use gradc_ir::plan::MemoryPlan;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::text::parse_plan;
use gradc_passes::expand_regions::ExpandLimits;

/// Largest difference from the interpreter, relative to the largest magnitude of the tensor: sums of a few products.
const TOLERANCE: f64 = 1e-5;

/// Options that unroll nothing and tell the plan.
pub fn rolled(threads: usize) -> Options {
    Options { threads, expand: ExpandLimits::NONE, emit: vec![gradc::Stage::Memory], ..Options::default() }
}

/// A model without weights that trains as it predicts.
pub fn model(graph: &Graph) -> Model {
    Model {
        name: graph.name.clone(),
        train: graph.clone(),
        infer: graph.clone(),
        tensors: Default::default(),
        frozen: Default::default(),
        aliases: Default::default(),
        lost: Default::default(),
        notes: vec![],
    }
}

/// A graph compiled.
pub fn compiled(graph: &Graph, options: &Options) -> CompiledStep {
    gradc::compile(&model(graph), None, options).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
}

/// The plan of a step compiled with these options.
pub fn plan(step: &CompiledStep) -> MemoryPlan {
    parse_plan(&step.report().texts[0].2).unwrap_or_else(|e| panic!("{e}"))
}

/// Its outputs.
pub fn predict(step: &CompiledStep, graph: &Graph, inputs: &[Tensor]) -> Vec<HostTensor> {
    let host: Vec<HostTensor> = inputs.iter().map(Tensor::to_host).collect();
    let named: Vec<(&str, TensorView)> =
        graph.inputs().iter().zip(&host).map(|(i, t)| (i.name.as_str(), TensorView::from(t))).collect();
    let mut session = step.session().expect("a session");
    let outputs = session.predict(&named).unwrap_or_else(|e| panic!("{}: {e}", graph.name));
    let read = |o: &gradc_ir::graph::Output| {
        let view = outputs.get(&o.name).expect("every output is there");
        HostTensor::new(graph.ty(o.value).clone(), view.bytes().to_vec()).expect("the sizes agree")
    };
    graph.outputs().iter().map(read).collect()
}

/// Equal but for rounding.
pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor) {
    let (Data::Float(f), Data::Float(e)) = (&found.data, &expected.data) else {
        return assert_eq!(found, expected, "{what}");
    };
    let scale = e.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let close = f.iter().zip(e).all(|(f, e)| (f - e).abs() <= TOLERANCE * scale);
    assert!(close && found.ty == expected.ty, "{what}: {found:?} instead of {expected:?}");
}
