//! The programs of a window, run on the same random inputs.

use super::Replay;
use crate::cost::graph_cost;
use crate::egraph::replay::{Interpreter, awkward, bounded, difference};
use crate::egraph::rules::{NumericClass, Random};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Graph;
use gradc_ir::target::Target;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::TensorType;

/// Most scalar operations of a window that is replayed; the interpreter does some ten million a second.
const MAX_FLOPS: f64 = 3e8;

/// How far outputs may lie apart in f64 after sums and products met in another order, relative to the largest element:
/// ten thousand roundings (1e-12), made a thousand times worse by what the window computes from them.
const REASSOCIATED: f64 = 1e-9;

/// Runs the programs of one window.
pub struct Replayer {
    /// On floats in [−1, 1).
    bounded: Interpreter,
    /// On NaN, infinities and signed zeros among others.
    awkward: Interpreter,
    skipped: Option<String>,
}

impl Replayer {
    /// A replayer of programs with the inputs of a window.
    pub fn new(window: &Graph, target: &Target) -> Self {
        let run = |draw: fn(&TensorType, &mut Random) -> Tensor, seed: u64| {
            let mut random = Random::new(seed);
            Interpreter::new(window.inputs().iter().map(|i| draw(window.ty(i.value), &mut random)).collect())
        };
        let flops = graph_cost(window, target).flops;
        let skipped = (flops > MAX_FLOPS).then(|| format!("{flops:.1e} operations are too many to interpret"));
        Replayer { bounded: run(bounded, 1), awkward: run(awkward, 2), skipped }
    }

    /// Runs two programs that a rewrite of a class lies between.
    pub fn compare(&mut self, before: &Graph, after: &Graph, class: NumericClass) -> Replay {
        if let Some(reason) = &self.skipped {
            return Replay::Skipped { reason: reason.clone() };
        }
        let result = match class {
            NumericClass::Bitwise => self.equal(before, after),
            NumericClass::Reassociation => self.close(before, after),
        };
        result.unwrap_or_else(|failed| Replay::Skipped { reason: failed.message })
    }

    fn equal(&mut self, before: &Graph, after: &Graph) -> Result<Replay, Diagnostic> {
        let mut largest: f64 = 0.0;
        for run in [&mut self.bounded, &mut self.awkward] {
            let pairs = outputs(run, before, after)?;
            let distances = pairs.iter().map(|&(x, y)| difference(run.tensor(x), run.tensor(y)));
            largest = distances.fold(largest, f64::max);
        }
        Ok(if largest == 0.0 { Replay::Equal { inputs: 2 } } else { Replay::Differs { difference: largest } })
    }

    /// Rounding in another order may overflow elsewhere and lose the sign of a zero, so bounded inputs only.
    fn close(&mut self, before: &Graph, after: &Graph) -> Result<Replay, Diagnostic> {
        let run = &mut self.bounded;
        let pairs = outputs(run, before, after)?;
        let distances = pairs.iter().map(|&(x, y)| relative(run.tensor(x), run.tensor(y)));
        let largest = distances.fold(0.0, f64::max);
        Ok(match largest <= REASSOCIATED {
            true => Replay::Close { inputs: 1, error: largest },
            false => Replay::Differs { difference: largest },
        })
    }
}

/// The numbers of the outputs of two programs, in pairs; those with the same bits are left out.
fn outputs(run: &mut Interpreter, before: &Graph, after: &Graph) -> Result<Vec<(usize, usize)>, Diagnostic> {
    let (a, b) = (run.outputs(before)?, run.outputs(after)?);
    Ok(a.into_iter().zip(b).filter(|(x, y)| x != y).collect())
}

/// Largest difference of two tensors over their largest magnitude; NaN and infinity stand only against themselves.
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (Data::Float(x), Data::Float(y)) = (&a.data, &b.data) else { return difference(a, b) };
    let scale = x.iter().chain(y).filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let distance = |(&x, &y): (&f64, &f64)| match (x - y).abs() {
        _ if x == y || (x.is_nan() && y.is_nan()) => 0.0,
        d if d.is_finite() => d / scale,
        _ => f64::INFINITY,
    };
    x.iter().zip(y).map(distance).fold(0.0, f64::max)
}
