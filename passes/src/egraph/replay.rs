//! Numeric replay: two graphs run side by side on the same random inputs.

use super::rules::Random;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::{Def, Graph, Value};
use gradc_ir::interpret::outputs;
use gradc_ir::ops::Op;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::TensorType;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The largest absolute difference between corresponding outputs of two graphs in the interpreter.
///
/// Inputs are random: floats in [−1, 1), a hundredth of them zeros of either sign; integers 0 or 1, which index
/// anything. 0 means the same bits, NaN counting as equal to NaN; infinity that shapes differ, that a NaN stands
/// against a number, or that equal numbers differ in the sign of zero.
/// Fails when the graphs take different inputs or the interpreter fails.
pub fn replay(before: &Graph, after: &Graph, seed: u64) -> Result<f64, Diagnostic> {
    let mut random = Random::new(seed);
    let inputs: Vec<Tensor> = before.inputs().iter().map(|i| bounded(before.ty(i.value), &mut random)).collect();
    let (a, b) = (outputs(before, &inputs)?, outputs(after, &inputs)?);
    if a.len() != b.len() {
        return Ok(f64::INFINITY);
    }
    Ok(a.iter().zip(&b).map(|(x, y)| difference(x, y)).fold(0.0, f64::max))
}

/// A tensor of values that show what arithmetic identities break: a quarter signed zeros, infinities, NaN, the very
/// small and large; the others in [−10, 10). Integers are 0 or 1.
pub fn awkward(ty: &TensorType, random: &mut Random) -> Tensor {
    const SPECIAL: [f64; 8] = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-300, 1e300, -1.0];
    let count = ty.elements();
    if !ty.dtype.is_float() {
        return Tensor::int(ty.clone(), (0..count).map(|_| random.below(2) as i64).collect());
    }
    let draw = |random: &mut Random| match random.below(4) {
        0 => SPECIAL[random.below(SPECIAL.len())],
        _ => 20.0 * random.unit() - 10.0,
    };
    Tensor::float(ty.clone(), (0..count).map(|_| draw(random)).collect())
}

/// The interpreter on programs that take the same inputs. What one has made, another does not make again: an op on
/// equal operands is evaluated once, so that a program that differs in one place costs that place.
pub struct Interpreter {
    inputs: Vec<usize>,
    values: Vec<Tensor>,
    by_bits: HashMap<u64, Vec<usize>>,
    made: HashMap<(Op, Vec<usize>), Vec<usize>>,
}

impl Interpreter {
    /// An interpreter with one tensor per input.
    pub fn new(inputs: Vec<Tensor>) -> Self {
        let mut new = Interpreter { inputs: vec![], values: vec![], by_bits: HashMap::new(), made: HashMap::new() };
        new.inputs = inputs.into_iter().map(|tensor| new.number(tensor)).collect();
        new
    }

    /// Numbers of the outputs of a program. Equal numbers are equal bits, all NaNs counting as one.
    pub fn outputs(&mut self, program: &Graph) -> Result<Vec<usize>, Diagnostic> {
        let mut results: Vec<Vec<usize>> = Vec::with_capacity(program.nodes().len());
        for id in program.node_ids() {
            let node = program.node(id);
            results.push(match &node.def {
                Def::Input(input) => vec![self.inputs[input.index()]],
                Def::Op(op) => {
                    let operand = |v: &Value| results[v.node.index()][v.result as usize];
                    let operands: Vec<usize> = node.operands.iter().map(operand).collect();
                    let failed = |e| program.diagnostic_at(id, "evaluation", e);
                    self.apply(op, operands).map_err(failed)?
                }
            });
        }
        Ok(program.outputs().iter().map(|o| results[o.value.node.index()][o.value.result as usize]).collect())
    }

    /// The tensor with a number.
    pub fn tensor(&self, number: usize) -> &Tensor {
        &self.values[number]
    }

    fn apply(&mut self, op: &Op, operands: Vec<usize>) -> Result<Vec<usize>, String> {
        let key = (op.clone(), operands);
        if let Some(known) = self.made.get(&key) {
            return Ok(known.clone());
        }
        let tensors: Vec<&Tensor> = key.1.iter().map(|&k| &self.values[k]).collect();
        let results = op.eval(&tensors).map_err(|e| format!("{}: {e}", op.name()))?;
        let numbers: Vec<usize> = results.into_iter().map(|tensor| self.number(tensor)).collect();
        self.made.insert(key, numbers.clone());
        Ok(numbers)
    }

    /// The number of a tensor, a new one if there is none with the same bits.
    fn number(&mut self, tensor: Tensor) -> usize {
        let same_bits = self.by_bits.entry(hash(&tensor)).or_default();
        if let Some(&known) = same_bits.iter().find(|&&k| difference(&self.values[k], &tensor) == 0.0) {
            return known;
        }
        same_bits.push(self.values.len());
        self.values.push(tensor);
        self.values.len() - 1
    }
}

/// A hash that is equal for tensors of equal type and bits, all NaNs being one.
fn hash(tensor: &Tensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    tensor.ty.hash(&mut hasher);
    match &tensor.data {
        Data::Float(v) => v.iter().for_each(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits().hash(&mut hasher)),
        Data::Int(v) => v.hash(&mut hasher),
    }
    hasher.finish()
}

/// A tensor with floats in [−1, 1), a hundredth of them zeros of either sign, and integers 0 or 1.
pub fn bounded(ty: &TensorType, random: &mut Random) -> Tensor {
    let count = ty.elements();
    if !ty.dtype.is_float() {
        return Tensor::int(ty.clone(), (0..count).map(|_| random.below(2) as i64).collect());
    }
    let draw = |random: &mut Random| match random.below(100) {
        0 => [0.0, -0.0][random.below(2)],
        _ => 2.0 * random.unit() - 1.0,
    };
    Tensor::float(ty.clone(), (0..count).map(|_| draw(random)).collect())
}

/// Largest absolute difference of two tensors; see [`replay`].
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.ty != b.ty {
        return f64::INFINITY;
    }
    match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => x.iter().zip(y).map(|(&x, &y)| distance(x, y)).fold(0.0, f64::max),
        (Data::Int(x), Data::Int(y)) => x.iter().zip(y).map(|(&x, &y)| x.abs_diff(y) as f64).fold(0.0, f64::max),
        _ => f64::INFINITY,
    }
}

fn distance(x: f64, y: f64) -> f64 {
    if x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) {
        0.0
    } else if x == y || x.is_nan() || y.is_nan() {
        f64::INFINITY
    } else {
        (x - y).abs()
    }
}
