//! Row kernels: the bits of their steps run as kernels of their own, whatever the rows, the threads and the machine.

mod common;

use common::{Case, Random, instruction_sets, options};
use gradc_codegen::{CodegenOptions, Pool, compile};
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel, RowKernel, RowStep};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Scalar, ScalarId, UnaryFn};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::TensorType;

/// Rows as the product of some axes, each row of `width` elements.
#[derive(Clone)]
struct Shape {
    rows: Vec<usize>,
    width: usize,
}

impl Shape {
    fn full(&self) -> Vec<usize> {
        [&self.rows[..], &[self.width]].concat()
    }

    fn count(&self) -> usize {
        self.rows.iter().product()
    }
}

/// Steps in the making: every step reads operand 0 (`f32[rows…, width]`), operand 1 (`f32[width]`) and what is made.
struct Program {
    shape: Shape,
    steps: Vec<LoopKernel>,
    /// What each step makes.
    types: Vec<TensorType>,
}

const OPERANDS: usize = 2;

impl Program {
    fn new(shape: Shape) -> Self {
        Program { shape, steps: vec![], types: vec![] }
    }

    /// Reads a value at a point of the loops: element by element, or by row where it has one element per row.
    fn read(&self, body: &mut Body, buffer: usize, rank: usize) -> ScalarId {
        let shape = match buffer {
            0 => self.shape.full(),
            1 => vec![self.shape.width],
            _ => self.types[buffer - OPERANDS].shape.clone(),
        };
        let access = match buffer {
            1 => Access::new(1, &shape, vec![Affine::dim(rank, rank - 1)]),
            _ => Access::identity(buffer, &shape, rank),
        };
        body.load(gradc_ir::types::DType::F32, access)
    }

    /// Σ, maximum, … over a row of `f(a, b)`, times a half.
    fn reduce(&mut self, combine: Combine, f: BinaryFn, a: usize, b: usize) -> usize {
        let rank = self.shape.rows.len() + 1;
        let mut body = Body::default();
        let [x, y] = [a, b].map(|buffer| self.read(&mut body, buffer, rank));
        let value = body.binary(f, x, y);
        let mut after = Body::default();
        let sum = after.push(Scalar::Accumulated(0), body.dtype(value));
        let half = after.constant(body.dtype(value), 0.5);
        let store = after.binary(BinaryFn::Mul, sum, half);
        let accumulate = Accumulate::Reduce { extents: vec![self.shape.width], combine, body, values: vec![value] };
        self.push(self.shape.rows.clone(), Some(accumulate), after, store)
    }

    /// `u(f(a, b))` at every point of the rows, or of each row as a whole.
    fn map(&mut self, u: UnaryFn, f: BinaryFn, a: usize, b: usize, by_row: bool) -> usize {
        let space = if by_row { self.shape.rows.clone() } else { self.shape.full() };
        let mut body = Body::default();
        let [x, y] = [a, b].map(|buffer| self.read(&mut body, buffer, space.len()));
        let value = body.binary(f, x, y);
        let store = body.unary(u, value);
        self.push(space, None, body, store)
    }

    fn push(&mut self, space: Vec<usize>, accumulate: Option<Accumulate>, body: Body, store: ScalarId) -> usize {
        self.types.push(TensorType::f32(space.clone()));
        self.steps.push(LoopKernel { space, accumulate, body, stores: vec![store] });
        OPERANDS + self.types.len() - 1
    }

    fn operands(&self) -> Vec<TensorType> {
        vec![TensorType::f32(self.shape.full()), TensorType::f32([self.shape.width])]
    }

    /// The steps as kernels of their own.
    fn apart(&self) -> Case {
        Case::new(self.steps.iter().cloned().map(KernelKind::Loops).collect(), &self.operands(), &self.types)
    }

    /// The steps as one kernel that makes only what `kept` says.
    fn joined(&self, kept: &[bool]) -> (RowKernel, Vec<TensorType>) {
        let of = |wanted: bool| (0..self.types.len()).filter(move |&k| kept[k] == wanted);
        let order: Vec<usize> = of(true).chain(of(false)).collect();
        let position = |k: usize| order.iter().position(|&o| o == k).expect("every step is made");
        let number = |k: usize| if k < OPERANDS { k } else { OPERANDS + position(k - OPERANDS) };
        let step = |(k, loops): (usize, &LoopKernel)| RowStep {
            loops: loops.clone().renumbered(number),
            makes: vec![position(k)],
        };
        let steps = self.steps.iter().enumerate().map(step).collect();
        let types = |wanted: bool| of(wanted).map(|k| self.types[k].clone()).collect::<Vec<_>>();
        (RowKernel { rows: self.shape.count(), temporaries: types(false), steps }, types(true))
    }
}

/// Softmax, layer norm, and both in some random order with maps between.
fn programs(shape: &Shape, random: &mut Random) -> Vec<Program> {
    use BinaryFn::{Add, Div, Max, Mul, Sub};
    let mut softmax = Program::new(shape.clone());
    let most = softmax.reduce(Combine::Max, Add, 0, 1);
    let exp = softmax.map(UnaryFn::Exp, Sub, 0, most, false);
    let sum = softmax.reduce(Combine::Sum, Mul, exp, 1);
    let scaled = softmax.map(UnaryFn::Tanh, Mul, sum, most, true);
    softmax.map(UnaryFn::Neg, Div, exp, scaled, false);
    let mut mixed = Program::new(shape.clone());
    for _ in 0..6 {
        let buffers = OPERANDS + mixed.types.len();
        let by_row: Vec<usize> =
            (OPERANDS..buffers).filter(|&k| mixed.types[k - OPERANDS].shape == shape.rows).collect();
        let [a, b] = [(); 2].map(|()| random.below(buffers));
        let f = [Add, Sub, Mul, Max][random.below(4)];
        match random.below(3) {
            0 => mixed.map(UnaryFn::Tanh, f, a, b, false),
            1 if !by_row.is_empty() => {
                let [a, b] = [(); 2].map(|()| by_row[random.below(by_row.len())]);
                mixed.map(UnaryFn::Abs, f, a, b, true)
            }
            _ => mixed.reduce([Combine::Sum, Combine::Max, Combine::Min][random.below(3)], f, a, b),
        };
    }
    vec![softmax, mixed]
}

fn shapes() -> Vec<Shape> {
    let shape = |rows: &[usize], width| Shape { rows: rows.to_vec(), width };
    vec![
        shape(&[1], 7),
        shape(&[3], 1),
        shape(&[2, 3, 5], 4),
        shape(&[64], 10),
        shape(&[37], 65),
        shape(&[4, 16], 130),
        shape(&[515], 33),
        shape(&[2, 300], 257),
        shape(&[18], 3000),
    ]
}

fn bits(tensor: &HostTensor) -> Vec<u32> {
    tensor.to_f32().expect("results are f32").iter().map(|x| x.to_bits()).collect()
}

#[test]
fn steps_by_rows_have_the_bits_of_kernels_of_their_own() {
    let mut random = Random(7);
    for shape in shapes() {
        for program in programs(&shape, &mut random) {
            let kept: Vec<bool> =
                (0..program.types.len()).map(|k| k + 1 == program.types.len() || random.below(2) == 0).collect();
            let inputs: Vec<_> = program.operands().iter().map(|ty| random.tensor(ty, -2.0..2.0)).collect();
            let apart = program.apart();
            let (kernel, results) = program.joined(&kept);
            let joined = Case::new(vec![KernelKind::Rows(kernel)], &program.operands(), &results);
            for isa in instruction_sets() {
                for wide in [true, false] {
                    let options = CodegenOptions { wide, ..options(isa) };
                    let expected = apart.run(&apart.compile(&options), &inputs, &Pool::new(1).expect("a pool"));
                    let expected = expected.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(t, _)| bits(t));
                    let expected: Vec<_> = expected.collect();
                    for threads in [1, 3] {
                        let found =
                            joined.run(&joined.compile(&options), &inputs, &Pool::new(threads).expect("a pool"));
                        let found: Vec<_> = found.iter().map(bits).collect();
                        assert!(found == expected, "{:?} × {}, {isa:?}, {threads} threads", shape.rows, shape.width);
                    }
                }
            }
        }
    }
}

/// What `change` makes of a sound kernel is refused.
fn refused(change: impl FnOnce(&mut RowKernel)) {
    let shape = Shape { rows: vec![6, 2], width: 8 };
    let mut program = Program::new(shape.clone());
    let sum = program.reduce(Combine::Sum, BinaryFn::Add, 0, 1);
    program.map(UnaryFn::Exp, BinaryFn::Sub, 0, sum, false);
    let (mut kernel, results) = program.joined(&[false, true]);
    change(&mut kernel);
    let case = Case::new(vec![KernelKind::Rows(kernel)], &program.operands(), &results);
    let error =
        compile(&[case.entry], &CodegenOptions::new(Target::of(VectorIsa::Portable))).expect_err("it is unsound");
    assert_eq!(error.code, "invalid-kernel");
}

fn access(kernel: &mut RowKernel, step: usize, operand: usize) -> &mut Access {
    let loads = kernel.steps[step].loops.body.scalars.iter_mut();
    let mut loads = loads.filter_map(|(s, _)| if let Scalar::Load(access) = s { Some(access) } else { None });
    loads.find(|access| access.operand == operand).expect("the step reads it")
}

#[test]
fn reads_of_other_rows_and_of_what_is_not_made_yet_are_refused() {
    const SUM: usize = OPERANDS + 1;
    // The next row, but for the last.
    refused(|kernel| access(kernel, 1, SUM).indices[1].affine = Affine::constant(3, 1));
    // The same row of another block.
    refused(|kernel| access(kernel, 1, SUM).indices[0].affine = Affine::constant(3, 0));
    refused(|kernel| kernel.steps.swap(0, 1));
    refused(|kernel| kernel.rows = 5);
    refused(|kernel| kernel.rows = 96);
    refused(|kernel| kernel.rows = 0);
    refused(|kernel| kernel.steps[1].makes = vec![1]);
    refused(|kernel| kernel.steps[1].makes = vec![2]);
    refused(|kernel| kernel.temporaries[0] = TensorType::f32([6, 3]));
    refused(|kernel| _ = kernel.steps.pop());
}
