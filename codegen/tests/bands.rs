//! Contractions with bands: the bits of those without, and nothing computed far outside.

mod common;

use common::{Case, Random, instruction_sets, options};
use gradc_codegen::{CodegenOptions, Library, Pool, compile};
use gradc_ir::band::{Band, LoopBand};
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Contraction, Scalar};
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType};
use std::ops::Range;

/// Loops of `out[o, i, j] = Σ_k a[o, i, k] · b[o, k, j]`.
const OUTER: usize = 0;
const ROW: usize = 1;
const COLUMN: usize = 2;
const DEPTH: usize = 3;

/// A batched product whose factors may be stored with depth outermost or innermost.
struct Product {
    extents: [usize; 4],
    /// Axes of the left and of the right factor, outermost first.
    stored: [[usize; 3]; 2],
    bands: Vec<LoopBand>,
}

impl Product {
    fn shape(&self, factor: usize) -> Vec<usize> {
        self.stored[factor].iter().map(|&d| self.extents[d]).collect()
    }

    fn kernel(&self, bands: Vec<LoopBand>, epilogue: bool) -> KernelKind {
        let access = |factor: usize| {
            let axes = self.stored[factor].iter().map(|&d| Affine::dim(4, d)).collect();
            Access::new(factor, &self.shape(factor), axes)
        };
        let space = self.extents[..3].to_vec();
        let contraction = Contraction {
            space: space.clone(),
            reduce: vec![self.extents[DEPTH]],
            lhs: access(0),
            rhs: access(1),
            bands,
        };
        let mut body = Body::default();
        let mut out = body.push(Scalar::Accumulated(0), DType::F32);
        if epilogue {
            let two = body.constant(DType::F32, 2.0);
            out = body.binary(BinaryFn::Mul, out, two);
        }
        let accumulate = Some(Accumulate::Contract(contraction));
        KernelKind::Loops(LoopKernel { space, accumulate, body, stores: vec![out] })
    }

    /// Whether a pair of loops is inside of the bands between them.
    fn is_inside(&self, point: [usize; 4], among: &[usize]) -> bool {
        let between = self.bands.iter().filter(|b| among.contains(&b.row) && among.contains(&b.column));
        between.into_iter().all(|b| b.band.ranges()[point[b.row]].contains(&point[b.column]))
    }

    /// A random factor that is `outside` where a band of it has ended by `margin` columns.
    fn factor(&self, factor: usize, random: &mut Random, outside: f64, margin: usize) -> Tensor {
        let shape = self.shape(factor);
        let mut tensor = random.tensor(&TensorType::f32(shape.clone()), -1.0..1.0);
        let Data::Float(values) = &mut tensor.data else { panic!("floats") };
        for (at, value) in values.iter_mut().enumerate() {
            let index = gradc_ir::types::unravel(at, &shape);
            let mut point = [0; 4];
            self.stored[factor].iter().zip(&index).for_each(|(&d, &i)| point[d] = i);
            let near = |b: &LoopBand, by: usize| {
                let Range { start, end } = b.band.ranges()[point[b.row]].clone();
                (start.saturating_sub(by)..end + by).contains(&point[b.column])
            };
            let own = self
                .bands
                .iter()
                .filter(|b| self.stored[factor].contains(&b.row) && self.stored[factor].contains(&b.column));
            let own: Vec<&LoopBand> = own.collect();
            if !own.iter().all(|b| near(b, 0)) {
                *value = if own.iter().all(|b| near(b, margin)) { 0.0 } else { outside };
            }
        }
        tensor
    }
}

fn causal(rows: usize, columns: usize) -> Option<Band> {
    Band::new((0..rows).map(|row| 0..((row + 1) * columns).div_ceil(rows)).collect(), columns)
}

fn window(rows: usize, columns: usize) -> Option<Band> {
    let at = |row: usize| row * columns / rows;
    Band::new((0..rows).map(|row| at(row).saturating_sub(columns / 7)..at(row) + 1 + columns / rows).collect(), columns)
}

fn scattered(rows: usize, columns: usize) -> Option<Band> {
    let mut random = Random(3);
    Band::new((0..rows).map(|_| random.below(columns)..random.below(columns) + 1).collect(), columns)
}

/// All bands between two loops of a product, of one kind.
fn between(extents: [usize; 4], pairs: &[(usize, usize)], kind: fn(usize, usize) -> Option<Band>) -> Vec<LoopBand> {
    let band =
        |&(row, column): &(usize, usize)| Some(LoopBand { row, column, band: kind(extents[row], extents[column])? });
    pairs.iter().filter_map(band).collect()
}

const STORED: [[[usize; 3]; 2]; 4] = [
    [[OUTER, ROW, DEPTH], [OUTER, DEPTH, COLUMN]],
    [[OUTER, ROW, DEPTH], [OUTER, COLUMN, DEPTH]],
    [[OUTER, DEPTH, ROW], [OUTER, DEPTH, COLUMN]],
    [[OUTER, DEPTH, ROW], [OUTER, COLUMN, DEPTH]],
];

const SIZES: [[usize; 4]; 11] = [
    [3, 64, 32, 64],
    [2, 64, 64, 32],
    [1, 65, 33, 65],
    [2, 7, 9, 11],
    [1, 100, 100, 300],
    [1, 13, 300, 513],
    [1, 150, 24, 520],
    [1, 37, 29, 1100],
    [1, 300, 280, 40],
    [1, 520, 530, 20],
    // Of parts of floats where there are such.
    [1, 140, 150, 200],
];

const PAIRS: [&[(usize, usize)]; 6] = [
    &[(ROW, DEPTH)],
    &[(DEPTH, ROW)],
    &[(COLUMN, DEPTH)],
    &[(ROW, COLUMN)],
    &[(COLUMN, ROW)],
    &[(ROW, DEPTH), (DEPTH, COLUMN), (ROW, COLUMN)],
];

/// Calls `check` for products of every size, storage and kind of band.
fn for_each_product(check: impl Fn(&Product)) {
    for extents in SIZES {
        for stored in STORED {
            for pairs in PAIRS {
                for kind in [causal, window, scattered] {
                    let bands = between(extents, pairs, kind);
                    if !bands.is_empty() {
                        check(&Product { extents, stored, bands });
                    }
                }
            }
        }
    }
}

fn run(kernel: KernelKind, inputs: &[Tensor], options: &CodegenOptions, threads: usize) -> Vec<f32> {
    let KernelKind::Loops(loops) = &kernel else { panic!("a loop kernel") };
    let result = TensorType::f32(loops.space.clone());
    let types: Vec<TensorType> = inputs.iter().map(|t| t.ty.clone()).collect();
    let case = Case::new(vec![kernel], &types, &[result]);
    let pool = Pool::new(threads).expect("threads start");
    case.run(&case.compile(options), inputs, &pool).remove(0).to_f32().expect("f32")
}

#[test]
fn sums_inside_have_the_bits_of_sums_without_bands() {
    for_each_product(|product| {
        let mut random = Random(5);
        let inputs = [0, 1].map(|factor| product.factor(factor, &mut random, 0.0, 0));
        for (isa, epilogue) in instruction_sets().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
            let [all, banded] = [vec![], product.bands.clone()]
                .map(|bands| run(product.kernel(bands, epilogue), &inputs, &options(isa), 1));
            let [_, rows, columns, _] = product.extents;
            for (at, (&full, &found)) in all.iter().zip(&banded).enumerate() {
                let point = [0, at / columns % rows, at % columns, 0];
                let is_read = product.is_inside(point, &[ROW, COLUMN]);
                let fits = full.to_bits() == found.to_bits() || !is_read && found == 0.0;
                assert!(
                    fits,
                    "{isa:?} {:?} {:?}: {found} instead of {full} at {point:?}",
                    product.extents, product.stored
                );
            }
            let of_threads = run(product.kernel(product.bands.clone(), epilogue), &inputs, &options(isa), 3);
            assert!(of_threads.iter().zip(&banded).all(|(a, b)| a.to_bits() == b.to_bits()), "threads change bits");
        }
    });
}

/// What is read in tiles and steps of depth that lie outside altogether does not reach any sum.
#[test]
fn nothing_is_read_far_outside() {
    let extents = [2, 64, 48, 64];
    for stored in STORED {
        let product = Product { extents, stored, bands: between(extents, &[(ROW, DEPTH)], causal) };
        let mut random = Random(9);
        let inputs = [product.factor(0, &mut random, f64::NAN, 16), product.factor(1, &mut random, 0.0, 0)];
        assert!(inputs[0].floats().iter().any(|v| v.is_nan()));
        for isa in instruction_sets() {
            let sums = run(product.kernel(product.bands.clone(), false), &inputs, &options(isa), 1);
            assert!(sums.iter().all(|v| v.is_finite()), "{isa:?} {stored:?}");
            let all = run(product.kernel(vec![], false), &inputs, &options(isa), 1);
            assert!(all.iter().any(|v| v.is_nan()), "without bands they are read");
        }
    }
}

/// Tiles of all instruction sets have at most 64 rows and columns together.
#[test]
fn sums_that_nobody_reads_are_not_computed() {
    const FAR: usize = 64;
    let extents = [2, 128, 128, 32];
    let product = Product { extents, stored: STORED[1], bands: between(extents, &[(ROW, COLUMN)], causal) };
    let mut random = Random(9);
    let inputs = [0, 1].map(|factor| product.factor(factor, &mut random, 0.0, 0));
    for isa in instruction_sets() {
        let sums = run(product.kernel(product.bands.clone(), false), &inputs, &options(isa), 1);
        let far = |at: &usize| at % 128 >= at / 128 % 128 + FAR;
        assert!((0..sums.len()).filter(far).all(|at| sums[at] == 0.0), "{isa:?}");
        let near = |at: &usize| at % 128 <= at / 128 % 128;
        assert!((0..sums.len()).filter(near).all(|at| sums[at] != 0.0), "{isa:?}");
    }
}

/// A library computes all of a product.
#[test]
fn a_library_knows_no_bands() {
    let extents = [1, 96, 96, 96];
    let product = Product { extents, stored: STORED[0], bands: between(extents, &[(ROW, DEPTH)], causal) };
    let mut random = Random(9);
    let inputs = [0, 1].map(|factor| product.factor(factor, &mut random, 0.0, 0));
    for isa in instruction_sets() {
        let options = CodegenOptions { library: Library::WherePossible, ..options(isa) };
        let [all, banded] =
            [vec![], product.bands.clone()].map(|bands| run(product.kernel(bands, false), &inputs, &options, 1));
        assert_eq!(all, banded);
    }
}

#[test]
fn bands_that_do_not_fit_are_refused() {
    let extents = [1, 8, 8, 16];
    let wrong = [
        LoopBand { row: ROW, column: DEPTH, band: causal(8, 15).expect("a band") },
        LoopBand { row: ROW, column: DEPTH, band: causal(9, 16).expect("a band") },
        LoopBand { row: ROW, column: 4, band: causal(8, 16).expect("a band") },
        LoopBand { row: ROW, column: ROW, band: causal(8, 8).expect("a band") },
    ];
    for band in wrong {
        let product = Product { extents, stored: STORED[0], bands: vec![] };
        let types = [0, 1].map(|factor| TensorType::f32(product.shape(factor)));
        let case = Case::new(vec![product.kernel(vec![band], false)], &types, &[TensorType::f32([1, 8, 8])]);
        let refused = compile(&[case.entry], &options(instruction_sets()[0])).expect_err("it does not fit");
        assert_eq!(refused.code, "invalid-kernel");
    }
}
