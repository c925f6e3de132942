//! A loop with constants that are differentiated, and what its gradients come out as.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Graph, OutputKind, Role};
use gradc_ir::interpret;
use gradc_ir::tensor::Tensor;
use gradc_ir::types::TypeError;
use gradc_passes::differentiate::differentiate_loops;
use gradc_passes::loops::{Backward, FALLBACKS, LoopPolicies, Tolerance, merge_loops};
/// What f64 allows where the loop has arrived.
pub const TIGHT: Tolerance = Tolerance { forward: 1e-10, backward: 1e-13, gap: 1e-3 };

/// One step of a solver, `(x, constants…) → x`, and how often it is made.
pub struct Solver {
    pub step: Function,
    pub count: usize,
    /// Where it starts.
    pub start: Vec<f64>,
    /// The constants; gradients are taken of all of them.
    pub consts: Vec<Vec<f64>>,
    /// The cotangent of its result.
    pub g: Vec<f64>,
}

/// Gradients of the constants, and how often a guard did not hold.
pub struct Outcome {
    pub gradients: Vec<Vec<f64>>,
    pub fallbacks: i64,
}

impl Solver {
    /// `Σ g · x` and the gradients of the constants.
    pub fn graph(&self, policy: Backward) -> Graph {
        let mut b = Builder::new("solver");
        let ty = |k: usize| self.step.ty(self.step.inputs()[k].value).clone();
        let mut inputs = vec![];
        for k in 0..self.step.inputs().len() {
            inputs.push(b.input(&format!("in{k}"), ty(k)).expect("a fresh name"));
        }
        let g = b.input("g", ty(0)).expect("a fresh name");
        let build = |b: &mut Builder| {
            let x = b.iterate(&self.step, self.count, &inputs[..1], &inputs[1..])?[0];
            let axes: Vec<usize> = (0..b.shape(x).len()).collect();
            let pairing = b.mul(x, g)?;
            Ok::<_, TypeError>((x, b.reduce_sum(pairing, &axes)?))
        };
        let (x, loss) = build(&mut b).expect("well typed");
        let policies = LoopPolicies::from([(x.node, policy)]);
        let gradients = differentiate_loops(&mut b, loss, &inputs[1..], &policies).expect("it differentiates");
        b.output("x", x, OutputKind::Result);
        for gradient in gradients {
            b.output("gradient", gradient.expect("a gradient reaches it"), OutputKind::Result);
        }
        let graph = merge_loops(&b.finish().without_dead_nodes()).expect("well typed");
        gradc_ir::verify::verify(&graph).expect("well formed");
        graph
    }

    /// What goes into the graph.
    pub fn data(&self) -> Vec<Vec<f64>> {
        let before = std::iter::once(&self.start).chain(&self.consts);
        before.chain([&self.g]).cloned().collect()
    }

    pub fn run(&self, policy: Backward) -> Outcome {
        let graph = self.graph(policy);
        let mut data = self.data().into_iter();
        let tensor = |input: &gradc_ir::graph::Input| match input.role {
            Role::State => Tensor::splat(graph.ty(input.value).clone(), 0.0),
            _ => Tensor::float(graph.ty(input.value).clone(), data.next().expect("one per input")),
        };
        let inputs: Vec<Tensor> = graph.inputs().iter().map(tensor).collect();
        let results = interpret::outputs(&graph, &inputs).expect("it runs");
        let mut outcome = Outcome { gradients: vec![], fallbacks: 0 };
        for (output, result) in graph.outputs().iter().zip(results) {
            match output.name.as_str() {
                "gradient" => outcome.gradients.push(result.floats().to_vec()),
                name if name.starts_with(FALLBACKS) => outcome.fallbacks += result.ints()[0],
                _ => {}
            }
        }
        outcome
    }

    /// The implicit gradient of the first constant, computed without falling back.
    pub fn implicit(&self) -> Vec<f64> {
        let outcome = self.run(Backward::Implicit(TIGHT));
        assert_eq!(outcome.fallbacks, 0, "the guard holds");
        outcome.gradients[0].clone()
    }

    /// Whether the guards of both approximations refuse, and what comes out is the exact gradient.
    pub fn falls_back(&self, policies: &[Backward]) {
        let exact = self.run(Backward::Exact).gradients;
        for &policy in policies {
            let outcome = self.run(policy);
            assert_eq!(outcome.fallbacks, 1, "{policy:?}");
            for (found, exact) in outcome.gradients.iter().zip(&exact) {
                assert_close(found, exact, 1e-13);
            }
        }
    }
}

/// Largest difference, relative to the largest of `expected`; NaN is expected where it stands.
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    let scale = expected.iter().filter(|e| e.is_finite()).fold(f64::MIN_POSITIVE, |s, e| s.max(e.abs()));
    let differs = |(f, e): (&f64, &f64)| f.is_nan() != e.is_nan() || (f - e).abs() > tolerance * scale;
    assert!(found.len() == expected.len(), "{found:?}");
    assert!(!found.iter().zip(expected).any(differs), "found {found:?}, expected {expected:?}");
}
