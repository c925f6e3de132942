//! Long sums down columns: near the sums of f64, and the same bits whatever makes them.

mod common;

use common::{Case, Random, instruction_sets, options};
use gradc_codegen::{CodegenOptions, Pool};
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel, RowKernel, RowStep};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Combine, Scalar};
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::{DType, TensorType};

/// Rows, as one loop or as two that cannot be merged, and columns.
const SHAPES: [(&[usize], usize); 8] = [
    (&[100], 64),
    (&[4096], 16),
    (&[9000], 5),
    (&[3001], 37),
    (&[2500], 1100),
    (&[300], 2048),
    (&[40, 77], 33),
    (&[5, 900], 48),
];

/// `2 Σ x y + z` down the columns of `x`, `y`: f32[rows…, columns]; `z`: f32[columns]. Of two axes of rows the last of the
/// inner one is left out, so that they stay two loops.
struct Columns {
    rows: Vec<usize>,
    columns: usize,
}

impl Columns {
    fn view(&self) -> Vec<usize> {
        let mut view = [&self.rows[..], &[self.columns]].concat();
        if let [_, inner, _] = &mut view[..] {
            *inner += 1;
        }
        view
    }

    fn kernel(&self) -> LoopKernel {
        let (view, rank) = (self.view(), self.rows.len() + 1);
        let indices: Vec<Affine> = (1..rank).chain([0]).map(|d| Affine::dim(rank, d)).collect();
        let mut terms = Body::default();
        let [x, y] = [0, 1].map(|k| terms.load(DType::F32, Access::new(k, &view, indices.clone())));
        let value = terms.binary(BinaryFn::Mul, x, y);
        let mut body = Body::default();
        let sum = body.push(Scalar::Accumulated, DType::F32);
        let two = body.constant(DType::F32, 2.0);
        let twice = body.binary(BinaryFn::Mul, sum, two);
        let z = body.load(DType::F32, Access::identity(2, &[self.columns], 1));
        let store = body.binary(BinaryFn::Add, twice, z);
        let accumulate = Accumulate::Reduce { extents: self.rows.clone(), combine: Combine::Sum, body: terms, value };
        LoopKernel { space: vec![self.columns], accumulate: Some(accumulate), body, stores: vec![store] }
    }

    fn case(&self, kind: KernelKind) -> Case {
        let view = TensorType::f32(self.view());
        let columns = TensorType::f32([self.columns]);
        Case::new(vec![kind], &[view.clone(), view, columns.clone()], &[columns])
    }

    fn inputs(&self, random: &mut Random) -> [Tensor; 3] {
        let view = TensorType::f32(self.view());
        let [x, y] = [(); 2].map(|()| random.tensor(&view, -1.0..1.5));
        [x, y, random.tensor(&TensorType::f32([self.columns]), -1.0..1.0)]
    }

    /// The result in f64, and how far from it one may be: the products and three additions of neighbouring rows are
    /// rounded, then the sum, twice it and the result.
    fn expected(&self, [x, y, z]: &[Tensor; 3]) -> Vec<(f64, f64)> {
        let (x, y, view) = (x.floats(), y.floats(), self.view());
        let is_read = |row: usize| self.rows.len() == 1 || row % view[1] < self.rows[1];
        let of_column = |column: usize| {
            let rows = (0..x.len() / self.columns).filter(|&row| is_read(row));
            let terms: Vec<f64> = rows.map(|row| row * self.columns + column).map(|k| x[k] * y[k]).collect();
            let (sum, all) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
            let (twice, z) = (2.0 * sum, z.floats()[column]);
            let rounding = f64::from(f32::EPSILON) / 2.0;
            (twice + z, rounding * (2.0 * 4.0 * all + 2.0 * twice.abs() + z.abs() + (twice + z).abs()))
        };
        (0..self.columns).map(of_column).collect()
    }
}

fn bits(results: &[HostTensor]) -> Vec<u32> {
    results[0].to_f32().expect("f32").iter().map(|v| v.to_bits()).collect()
}

fn all_options() -> impl Iterator<Item = CodegenOptions> {
    instruction_sets().into_iter().flat_map(|isa| [true, false].map(|wide| CodegenOptions { wide, ..options(isa) }))
}

#[test]
fn sums_are_near_those_of_f64_and_the_same_for_any_threads() {
    let mut random = Random(31);
    for (rows, columns) in SHAPES {
        let sums = Columns { rows: rows.to_vec(), columns };
        let (case, inputs) = (sums.case(KernelKind::Loops(sums.kernel())), sums.inputs(&mut random));
        let expected = sums.expected(&inputs);
        for options in all_options() {
            let executable = case.compile(&options);
            let run =
                |threads: usize| bits(&case.run(&executable, &inputs, &Pool::new(threads).expect("threads start")));
            let found = run(1);
            for (column, (&found, &(expected, allowed))) in found.iter().zip(&expected).enumerate() {
                let error = (f64::from(f32::from_bits(found)) - expected).abs();
                assert!(
                    error <= allowed,
                    "{rows:?} × {columns}, column {column}: off by {error:e}, {allowed:e} allowed"
                );
            }
            assert!([2, 3, 4].into_iter().all(|threads| run(threads) == found), "{rows:?} × {columns}: threads differ");
        }
    }
}

/// As the step of a row kernel, which has no stages, a sum is made by one function.
#[test]
fn stages_make_the_bits_of_one_function() {
    let mut random = Random(32);
    let mut in_stages = 0;
    for (rows, columns) in SHAPES {
        let sums = Columns { rows: rows.to_vec(), columns };
        let step = RowStep { loops: sums.kernel(), makes: vec![0] };
        let alone = KernelKind::Rows(RowKernel { rows: columns, temporaries: vec![], steps: vec![step] });
        let (staged, alone) = (sums.case(KernelKind::Loops(sums.kernel())), sums.case(alone));
        let inputs = sums.inputs(&mut random);
        for options in all_options() {
            let [found, expected] = [&staged, &alone].map(|case| {
                let executable = case.compile(&options);
                in_stages += usize::from(executable.scratch_bytes(1) > 0);
                bits(&case.run(&executable, &inputs, &Pool::default()))
            });
            assert!(found == expected, "{rows:?} × {columns}, {:?}", options.target.vector_isa);
        }
    }
    assert_eq!(in_stages, 7 * all_options().count(), "kernels that hand sums over");
}
