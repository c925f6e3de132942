//! Maps that read a large operand against the order of their results, line by line: every element is the one of its place.

mod common;

use common::{Case, Random, instruction_sets, options};
use gradc_codegen::Pool;
use gradc_ir::kernel::{KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Scalar};
use gradc_ir::types::{DType, TensorType};

/// `w[o, i, k] − g[k, i, o] / 2`, and the number of the row `o` added if asked to.
fn update([o, i, k]: [usize; 3], adds_row: bool) -> KernelKind {
    let mut body = Body::default();
    let in_order = |d: usize| Affine::dim(3, d);
    let w = body.load(DType::F32, Access::new(0, &[o, i, k], vec![in_order(0), in_order(1), in_order(2)]));
    let g = body.load(DType::F32, Access::new(1, &[k, i, o], vec![in_order(2), in_order(1), in_order(0)]));
    let half = body.constant(DType::F32, 0.5);
    let step = body.binary(BinaryFn::Mul, g, half);
    let mut made = body.binary(BinaryFn::Sub, w, step);
    if adds_row {
        let row = body.push(Scalar::LoopIndex(0), DType::I64);
        let row = body.push(Scalar::Cast(row), DType::F32);
        made = body.binary(BinaryFn::Add, made, row);
    }
    KernelKind::Loops(LoopKernel { space: vec![o, i, k], accumulate: None, body, stores: vec![made] })
}

fn check(extents: [usize; 3], adds_row: bool) {
    let [o, i, k] = extents;
    let types = [[o, i, k], [k, i, o]].map(TensorType::f32);
    let mut random = Random(3);
    let inputs = types.each_ref().map(|ty| random.tensor(ty, -1.0..1.0));
    let case = Case::new(vec![update(extents, adds_row)], &types, &[types[0].clone()]);
    let expected = |at: usize| {
        let (row, column, depth) = (at / k / i, at / k % i, at % k);
        let g = inputs[1].floats()[(depth * i + column) * o + row] as f32;
        let made = inputs[0].floats()[at] as f32 - g / 2.0;
        if adds_row { made + row as f32 } else { made }
    };
    for (isa, threads) in instruction_sets().into_iter().flat_map(|isa| [1, 2, 4].map(|threads| (isa, threads))) {
        let pool = Pool::new(threads).expect("threads start");
        let found = case.run(&case.compile(&options(isa)), &inputs, &pool)[0].to_f32().expect("f32");
        let wrong = found.iter().enumerate().find(|&(at, found)| found.to_bits() != expected(at).to_bits());
        assert_eq!(wrong, None, "{extents:?} {isa:?}, {threads} threads");
    }
}

#[test]
fn elements_stay_in_their_places() {
    check([64, 512, 9], false);
    check([4112, 1, 65], false);
    check([16, 90, 200], false);
    // No whole lines, and one that has to know where it is.
    check([60, 500, 9], false);
    check([64, 512, 9], true);
}
