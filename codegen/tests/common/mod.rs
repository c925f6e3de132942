//! Running single kernels and ops natively.

#![allow(dead_code, reason = "every test file uses a part of it")]

use gradc_codegen::{
    AlignedBuffer, CodegenOptions, EntryCode, Executable, Memory, Operand, PlacedAction, Pool, compile, host_target,
};
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, Body, Contraction, Lowering, Nest, Scalar};
use gradc_ir::op::Sample;
use gradc_ir::ops::Op;
use gradc_ir::plan::{Place, Segment};
use gradc_ir::target::{Target, VectorIsa};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType};

/// A small generator of numbers, the same in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn uniform(&mut self, range: std::ops::Range<f64>) -> f64 {
        range.start + (range.end - range.start) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// A tensor of a type with values in a range, rounded to the dtype.
    pub fn tensor(&mut self, ty: &TensorType, range: std::ops::Range<f64>) -> Tensor {
        let values: Vec<f64> = (0..ty.elements()).map(|_| self.uniform(range.clone())).collect();
        if ty.dtype.is_float() {
            return Tensor::float(ty.clone(), values).rounded();
        }
        let ints = values.iter().map(|v| ty.dtype.wrap(v.floor() as i64)).collect();
        Tensor::int(ty.clone(), ints)
    }
}

/// The options tests compile with.
pub fn options(isa: VectorIsa) -> CodegenOptions {
    CodegenOptions { verify: true, ..CodegenOptions::new(Target::of(isa)) }
}

/// Instruction sets this machine can run.
pub fn instruction_sets() -> Vec<VectorIsa> {
    let best = host_target().vector_isa;
    [VectorIsa::Portable, VectorIsa::Avx2, VectorIsa::Avx512, VectorIsa::Amx]
        .into_iter()
        .filter(|isa| *isa <= best)
        .collect()
}

/// The kernel of one nest.
pub fn nest_kernel(nest: &Nest) -> KernelKind {
    let Some(combine) = nest.combine else {
        let (body, stores) = (nest.body.clone(), vec![nest.result]);
        return KernelKind::Loops(LoopKernel { space: nest.space.clone(), accumulate: None, body, stores });
    };
    let accumulate = Accumulate::Reduce {
        extents: nest.reduce.clone(),
        combine,
        body: nest.body.clone(),
        values: vec![nest.result],
    };
    KernelKind::Loops(accumulated(&nest.space, accumulate, nest.body.dtype(nest.result)))
}

fn accumulated(space: &[usize], accumulate: Accumulate, dtype: DType) -> LoopKernel {
    let mut body = Body::default();
    let sum = body.push(Scalar::Accumulated(0), dtype);
    LoopKernel { space: space.to_vec(), accumulate: Some(accumulate), body, stores: vec![sum] }
}

/// The kernels of an op, one per result for nests, else one for all; `None` when it is expanded.
pub fn op_kernels(op: &Op, inputs: &[&TensorType], outputs: &[TensorType]) -> Option<Vec<KernelKind>> {
    Some(match op.lower(inputs, outputs) {
        Lowering::Nests(nests) => nests.iter().map(nest_kernel).collect(),
        Lowering::Contraction(c) => {
            let space = c.space.clone();
            vec![KernelKind::Loops(accumulated(&space, Accumulate::Contract(c), outputs[0].dtype))]
        }
        Lowering::Scatter(scatter) => vec![KernelKind::Scatter(scatter)],
        Lowering::Lines(lines) => vec![KernelKind::Lines(lines)],
        Lowering::Expand(_) | Lowering::Region(_) => return None,
    })
}

/// An entry of some kernels over operands handed in by the host, with results in the arena.
pub struct Case {
    pub entry: EntryCode,
    pub results: Vec<Operand>,
    pub arena_bytes: usize,
}

impl Case {
    pub fn new(kernels: Vec<KernelKind>, inputs: &[TensorType], outputs: &[TensorType]) -> Case {
        let host = |(k, ty): (usize, &TensorType)| {
            Operand::fixed(Place { segment: Segment::Host(k as u32), offset_bytes: 0 }, ty.clone())
        };
        let operands: Vec<Operand> = inputs.iter().enumerate().map(host).collect();
        let mut arena_bytes = 0;
        let results: Vec<Operand> = outputs
            .iter()
            .map(|ty| {
                let place = Place { segment: Segment::Arena, offset_bytes: arena_bytes };
                arena_bytes += ty.size_bytes().next_multiple_of(64);
                Operand::fixed(place, ty.clone())
            })
            .collect();
        let value = |k: usize| Value { node: NodeId(k as u32), result: 0 };
        let one_per_result = kernels.len() == outputs.len();
        let actions = kernels.into_iter().enumerate().map(|(k, kind)| {
            let (earlier, own) =
                if one_per_result { (&results[..k], &results[k..=k]) } else { (&results[..0], &results[..]) };
            let operands = [&operands[..], earlier].concat();
            let kernel = Kernel {
                kind,
                operands: (0..operands.len()).map(value).collect(),
                results: (0..own.len()).map(|r| value(1000 + k + r)).collect(),
            };
            PlacedAction::Run { kernel: Box::new(kernel), operands, results: own.to_vec() }
        });
        let entry = EntryCode { name: "test".into(), actions: actions.collect(), commits: vec![] };
        Case { entry, results, arena_bytes }
    }

    pub fn of_op(op: &Op, inputs: &[TensorType]) -> Option<Case> {
        let types: Vec<&TensorType> = inputs.iter().collect();
        let outputs = op.infer(&types).expect("samples infer");
        Some(Case::new(op_kernels(op, &types, &outputs)?, inputs, &outputs))
    }

    pub fn compile(&self, options: &CodegenOptions) -> Executable {
        compile(std::slice::from_ref(&self.entry), options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs the entry on operands at odd addresses; results as bytes.
    pub fn run(&self, executable: &Executable, inputs: &[Tensor], pool: &Pool) -> Vec<HostTensor> {
        let shifted: Vec<Vec<u8>> = inputs.iter().map(|t| [&[0u8; 1], t.to_host().bytes()].concat()).collect();
        let host: Vec<&[u8]> = shifted.iter().map(|b| &b[1..]).collect();
        let mut arena = AlignedBuffer::zeroed(self.arena_bytes);
        arena.bytes_mut().fill(0xCD);
        let (mut persistent, constants) = (AlignedBuffer::zeroed(0), AlignedBuffer::zeroed(0));
        let mut scratch = AlignedBuffer::zeroed(executable.scratch_bytes(pool.threads()));
        scratch.bytes_mut().fill(0xCD);
        let mut memory =
            Memory { arena: &mut arena, persistent: &mut persistent, constants: &constants, scratch: &mut scratch };
        executable.run(0, &mut memory, &host, pool).unwrap_or_else(|e| panic!("{e:?}"));
        let read = |r: &Operand| {
            let bytes = &arena.bytes()[r.place.offset_bytes..][..r.ty.size_bytes()];
            HostTensor::new(r.ty.clone(), bytes.to_vec()).expect("the sizes agree")
        };
        self.results.iter().map(read).collect()
    }
}

/// Operands of a sample.
pub fn sample_inputs(sample: &Sample, random: &mut Random) -> Vec<Tensor> {
    sample.operands.iter().map(|o| random.tensor(&o.ty, o.range.clone())).collect()
}

/// Order of the axes of images `[n, g, c, h, w]` with channels innermost.
pub const CHANNELS_LAST: [usize; 5] = [0, 3, 4, 1, 2];
/// Order of the axes of weights `[g, o, c, kh, kw]` with output channels innermost.
pub const TAPS_FIRST: [usize; 5] = [3, 4, 2, 0, 1];
/// The same with input channels innermost.
pub const TAPS_FIRST_INPUTS_LAST: [usize; 5] = [3, 4, 1, 0, 2];

/// A list in another order.
pub fn permuted<T: Copy>(list: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&d| list[d]).collect()
}

/// A contraction whose space and whose operands have their axes in other orders.
pub fn reordered(c: &Contraction, [space, lhs, rhs]: [&[usize]; 3]) -> Contraction {
    let affine = |a: &Affine| Affine {
        base: a.base,
        coeffs: [permuted(&a.coeffs, space), a.coeffs[space.len()..].to_vec()].concat(),
    };
    let access = |a: &Access, order: &[usize]| {
        let mut found = Access { view: permuted(&a.view, order), ..a.clone() };
        found.indices = order.iter().map(|&d| a.indices[d].clone()).collect();
        found.indices.iter_mut().for_each(|i| i.affine = affine(&i.affine));
        found
    };
    Contraction {
        space: permuted(&c.space, space),
        reduce: c.reduce.clone(),
        lhs: access(&c.lhs, lhs),
        rhs: access(&c.rhs, rhs),
        bands: vec![],
    }
}
