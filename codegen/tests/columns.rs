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

/// What is summed.
#[derive(Clone, Copy, Debug)]
enum Term {
    /// `x y`
    Product,
    /// `x − y`
    Difference,
    /// `x`
    First,
}

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
        self.kernel_of(&[Term::Product])
    }

    /// The same of several terms, one result each.
    fn kernel_of(&self, terms: &[Term]) -> LoopKernel {
        let (view, rank) = (self.view(), self.rows.len() + 1);
        let indices: Vec<Affine> = (1..rank).chain([0]).map(|d| Affine::dim(rank, d)).collect();
        let mut summed = Body::default();
        let [x, y] = [0, 1].map(|k| summed.load(DType::F32, Access::new(k, &view, indices.clone())));
        let value = |term: &Term| match term {
            Term::Product => summed.binary(BinaryFn::Mul, x, y),
            Term::Difference => summed.binary(BinaryFn::Sub, x, y),
            Term::First => x,
        };
        let values = terms.iter().map(value).collect();
        let mut body = Body::default();
        let two = body.constant(DType::F32, 2.0);
        let z = body.load(DType::F32, Access::identity(2, &[self.columns], 1));
        let store = |number: usize| {
            let sum = body.push(Scalar::Accumulated(number), DType::F32);
            let twice = body.binary(BinaryFn::Mul, sum, two);
            body.binary(BinaryFn::Add, twice, z)
        };
        let stores = (0..terms.len()).map(store).collect();
        let accumulate = Accumulate::Reduce { extents: self.rows.clone(), combine: Combine::Sum, body: summed, values };
        LoopKernel { space: vec![self.columns], accumulate: Some(accumulate), body, stores }
    }

    fn case(&self, kind: KernelKind) -> Case {
        self.case_of(kind, 1)
    }

    fn case_of(&self, kind: KernelKind, results: usize) -> Case {
        let view = TensorType::f32(self.view());
        let columns = TensorType::f32([self.columns]);
        Case::new(vec![kind], &[view.clone(), view, columns.clone()], &vec![columns; results])
    }

    fn inputs(&self, random: &mut Random) -> [Tensor; 3] {
        let view = TensorType::f32(self.view());
        let [x, y] = [(); 2].map(|()| random.tensor(&view, -1.0..1.5));
        [x, y, random.tensor(&TensorType::f32([self.columns]), -1.0..1.0)]
    }

    /// The result in f64, and how far from it one may be: a product and the additions of eight neighbouring rows are
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
            (twice + z, rounding * (2.0 * 8.0 * all + 2.0 * twice.abs() + z.abs() + (twice + z).abs()))
        };
        (0..self.columns).map(of_column).collect()
    }
}

fn bits(results: &[HostTensor]) -> Vec<u32> {
    results.iter().flat_map(|result| result.to_f32().expect("f32")).map(f32::to_bits).collect()
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

/// Sums of one kernel share what they read, not how they are rounded.
#[test]
fn sums_together_have_the_bits_of_each_alone() {
    let mut random = Random(33);
    let terms = [Term::Product, Term::First, Term::Difference];
    for (rows, columns) in SHAPES {
        let sums = Columns { rows: rows.to_vec(), columns };
        let inputs = sums.inputs(&mut random);
        for (count, options) in [2, 3].into_iter().flat_map(|count| all_options().map(move |options| (count, options)))
        {
            let run = |terms: &[Term], threads: usize| {
                let case = sums.case_of(KernelKind::Loops(sums.kernel_of(terms)), terms.len());
                let pool = Pool::new(threads).expect("threads start");
                bits(&case.run(&case.compile(&options), &inputs, &pool))
            };
            let alone: Vec<u32> = terms[..count].iter().flat_map(|&term| run(&[term], 1)).collect();
            for threads in [1, 2, 4] {
                let together = run(&terms[..count], threads);
                assert!(together == alone, "{count} of {rows:?} × {columns}, {:?}", options.target.vector_isa);
            }
        }
    }
}
