//! Regions: how ops that apply closed functions run natively, as loops and branches around the kernels of their bodies.

use crate::attr::Attr;
use crate::graph::{Function, Graph, InputId, NodeId, OutputKind, Role};
use crate::interpret;
use crate::lower::{Expansion, Lowering};
use crate::op::EvalError;
use crate::ops::Op;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};
use std::ops::Range;

/// Most blocks of rows of a loop that are worked on at the same time.
pub const MOST_BLOCKS_AT_ONCE: usize = 8;

/// What an op that applies closed functions is to later stages.
#[derive(Clone, Debug)]
pub struct Region {
    /// How it runs as it is.
    pub form: RegionForm,
    /// How it is built from other ops instead, its bodies inlined.
    pub expand: Expansion,
}

/// Control flow around bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionForm {
    /// One body again and again.
    Loop(Loop),
    /// The first body where operand 0, a boolean scalar, holds, else the second; both take the other operands.
    Branch([Function; 2]),
}

/// A body applied up to `steps` times.
///
/// Operands: carries, scanned tensors with leading axis `steps`, constants. The body takes the carries, a slice of each
/// scanned tensor and the constants; it returns the next carries, a slice of each stacked result and, where
/// `until_done`, whether this step is the last; then nothing is stacked. Results: final carries, stacked results with leading axis `steps` and,
/// where `until_done`, the number of steps made as an i64 scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// One step.
    pub body: Function,
    /// Number of carries.
    pub carries: usize,
    /// Number of scanned operands.
    pub scanned: usize,
    /// Largest number of steps, at least 1.
    pub steps: usize,
    /// From the last slice to the first.
    pub reverse: bool,
    /// Whether the body's last result, a boolean scalar, ends the loop.
    pub until_done: bool,
    /// Number of blocks of rows, 1 where rows are not told apart; never more where `until_done`.
    pub blocks: usize,
    /// Number of constants, the first ones, of which the body takes its block; 0 where there is one.
    pub blocked: usize,
}

/// What an argument of a body is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The operand at first, what the body returned from then on.
    Carry,
    /// A slice of the operand along its leading axis.
    Slice,
    /// The block of the operand that the loop runs for.
    Block,
    /// The operand.
    Whole,
}

/// What a result of a body becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyResult {
    /// The next value of the carry with this position.
    Carry,
    /// A slice of the region's result with this position along its leading axis.
    Slice,
    /// The region's result with this position.
    Whole,
    /// Says whether the loop ends.
    Done,
}

impl RegionForm {
    /// The region form of a node, if it has one.
    pub fn of_node(graph: &Graph, id: NodeId) -> Option<RegionForm> {
        let node = graph.node(id);
        let inputs: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
        match graph.op(id)?.lower(&inputs, &node.types) {
            Lowering::Region(region) => Some(region.form),
            _ => None,
        }
    }

    /// The functions it applies.
    pub fn bodies(&self) -> &[Function] {
        match self {
            RegionForm::Loop(looped) => std::slice::from_ref(&looped.body),
            RegionForm::Branch(bodies) => bodies,
        }
    }

    /// How often a body is applied at most, in all blocks together.
    pub fn steps(&self) -> usize {
        match self {
            RegionForm::Loop(looped) => looped.steps * looped.blocks,
            RegionForm::Branch(_) => 1,
        }
    }

    /// How many blocks its bodies are run for.
    pub fn blocks(&self) -> usize {
        match self {
            RegionForm::Loop(looped) => looped.blocks,
            RegionForm::Branch(_) => 1,
        }
    }

    /// How many runs of its bodies may be under way at the same time: each needs memory of its own.
    pub fn blocks_at_once(&self) -> usize {
        self.blocks().min(MOST_BLOCKS_AT_ONCE)
    }

    /// The operand that argument `k` of a body is bound to.
    pub fn operand_of(&self, argument: usize) -> usize {
        match self {
            RegionForm::Loop(_) => argument,
            RegionForm::Branch(_) => argument + 1,
        }
    }

    /// What argument `k` of a body is bound to.
    pub fn argument(&self, k: usize) -> Argument {
        match self {
            RegionForm::Loop(looped) => looped.argument(k),
            RegionForm::Branch(_) => Argument::Whole,
        }
    }

    /// What result `k` of a body becomes.
    pub fn result(&self, k: usize) -> BodyResult {
        match self {
            RegionForm::Loop(looped) if k < looped.carries => BodyResult::Carry,
            RegionForm::Loop(looped) if looped.until_done && k + 1 == looped.body.outputs().len() => BodyResult::Done,
            RegionForm::Loop(_) => BodyResult::Slice,
            RegionForm::Branch(_) => BodyResult::Whole,
        }
    }

    /// Positions of the operands that are carried.
    pub fn carries(&self) -> Range<usize> {
        match self {
            RegionForm::Loop(looped) => 0..looped.carries,
            RegionForm::Branch(_) => 0..0,
        }
    }

    /// The bodies as graphs to be scheduled: carries are buffers that the body updates, what every step reads alike
    /// is constant.
    pub fn frames(&self) -> Vec<Graph> {
        self.bodies().iter().map(|body| self.frame(body)).collect()
    }

    fn frame(&self, body: &Graph) -> Graph {
        let mut frame = body.clone();
        for (k, input) in frame.inputs.iter_mut().enumerate() {
            input.role = match self.argument(k) {
                Argument::Carry => Role::Buffer,
                Argument::Slice | Argument::Block => Role::Input,
                Argument::Whole => Role::Constant,
            };
        }
        name_results(&mut frame);
        for k in self.carries() {
            frame.outputs[k].kind = OutputKind::Update(InputId(k as u32));
            frame.outputs[k].name = frame.inputs[k].name.clone();
        }
        frame
    }

    /// Reference semantics by control flow alone: what native code does with operands.
    pub fn evaluate(&self, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
        match self {
            RegionForm::Branch([then, otherwise]) => {
                let body = if operands[0].ints()[0] != 0 { then } else { otherwise };
                interpret::apply(body, &operands[1..])
            }
            RegionForm::Loop(looped) => looped.evaluate(operands, results),
        }
    }
}

/// A graph of [`RegionForm::frames`] as a closed function again.
pub fn closed(frame: &Graph) -> Graph {
    let mut body = frame.clone();
    body.inputs.iter_mut().for_each(|input| input.role = Role::Input);
    name_results(&mut body);
    body
}

/// Makes all outputs plain results with names that say their positions.
fn name_results(graph: &mut Graph) {
    for (k, output) in graph.outputs.iter_mut().enumerate() {
        output.kind = OutputKind::Result;
        output.name = format!("y{k}");
    }
}

impl Loop {
    /// What argument `k` of the body is bound to.
    pub fn argument(&self, k: usize) -> Argument {
        let kinds = [(self.carries, Argument::Carry), (self.scanned, Argument::Slice), (self.blocked, Argument::Block)];
        let mut first = k;
        for (count, kind) in kinds {
            if first < count {
                return kind;
            }
            first -= count;
        }
        Argument::Whole
    }

    /// The axis of rows of the operand for argument `k`; `None` of what all blocks share.
    pub fn axis_of_rows(&self, k: usize) -> Option<usize> {
        match self.argument(k) {
            Argument::Carry | Argument::Block => Some(0),
            Argument::Slice => Some(1),
            Argument::Whole => None,
        }
    }

    /// The slice that a step works on.
    pub fn slice_of_step(&self, step: usize) -> usize {
        if self.reverse { self.steps - 1 - step } else { step }
    }

    fn evaluate(&self, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
        if self.blocks == 1 { self.evaluate_block(operands, results) } else { self.evaluate_blocks(operands, results) }
    }

    fn evaluate_blocks(&self, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
        let alone = Loop { blocks: 1, ..self.clone() };
        let axis_of_result = |k: usize| usize::from(k >= self.carries);
        let types = results.iter().enumerate().map(|(k, ty)| {
            let mut shape = ty.shape.clone();
            shape[axis_of_result(k)] /= self.blocks;
            ty.with_shape(shape)
        });
        let types: Vec<TensorType> = types.collect();
        let of_block = |block: usize| {
            let cut = |(k, x): (usize, &&Tensor)| match self.axis_of_rows(k) {
                Some(axis) => x.block(axis, self.blocks, block),
                None => (*x).clone(),
            };
            let operands: Vec<Tensor> = operands.iter().enumerate().map(cut).collect();
            alone.evaluate_block(&operands.iter().collect::<Vec<_>>(), &types)
        };
        let made = (0..self.blocks).map(of_block).collect::<Result<Vec<_>, _>>()?;
        let join = |(k, ty): (usize, &TensorType)| {
            let blocks: Vec<&Tensor> = made.iter().map(|of| &of[k]).collect();
            Tensor::joined(ty.clone(), axis_of_result(k), &blocks)
        };
        Ok(results.iter().enumerate().map(join).collect())
    }

    fn evaluate_block(&self, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
        let (carries, rest) = operands.split_at(self.carries);
        let (xs, consts) = rest.split_at(self.scanned);
        let mut carries: Vec<Tensor> = carries.iter().map(|&c| c.clone()).collect();
        let stacked = results.len() - self.carries - usize::from(self.until_done);
        let mut slices = vec![vec![]; stacked];
        let mut made = 0;
        while made < self.steps {
            let sliced: Vec<Tensor> = xs.iter().map(|x| x.slice(self.slice_of_step(made))).collect();
            let arguments: Vec<&Tensor> = carries.iter().chain(&sliced).chain(consts.iter().copied()).collect();
            let mut returned = interpret::apply(&self.body, &arguments)?;
            let ys = returned.split_off(self.carries);
            slices.iter_mut().zip(&ys).for_each(|(slices, y)| slices.push(y.clone()));
            (carries, made) = (returned, made + 1);
            if self.until_done && ys.last().is_some_and(|done| done.ints()[0] != 0) {
                break;
            }
        }
        for (slices, ty) in slices.iter_mut().zip(&results[self.carries..]) {
            if self.reverse {
                slices.reverse();
            }
            carries.push(Tensor::stack(ty.clone(), slices.iter()));
        }
        if self.until_done {
            carries.push(Tensor::splat(TensorType::new(DType::I64, []), made as f64));
        }
        Ok(carries)
    }
}

impl Op {
    /// The closed functions among its attributes, in order.
    pub fn functions(&self) -> Vec<Function> {
        let function = |attr| if let Attr::Function(body) = attr { Some(body) } else { None };
        self.attrs().into_iter().filter_map(|(_, attr)| function(attr)).collect()
    }

    /// The op with other closed functions in place of its own, in order; they take and return the same types.
    pub fn with_functions(&self, functions: impl IntoIterator<Item = Function>) -> Op {
        let mut functions = functions.into_iter();
        let replaced = |(name, attr): (&str, Attr)| {
            let attr = match attr {
                Attr::Function(_) => Attr::Function(functions.next().expect("one function replaces each")),
                other => other,
            };
            (name.to_string(), attr)
        };
        let attrs = self.attrs().into_iter().map(replaced).collect();
        Op::parse(self.name(), attrs).expect("an op has its own name").expect("attributes keep their kinds")
    }
}
