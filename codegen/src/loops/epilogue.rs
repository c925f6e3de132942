//! What is computed with the sums of a contraction: the body of its kernel, run on one block of sums at a time while
//! they are in the cache.

use super::SimdOptions;
use super::emitter::{Bound, Buffer, Emitter};
use super::pieces::Piece;
use super::plan::LoopPlan;
use super::values::MEMORY;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::kernel::LoopKernel;
use gradc_ir::lower::{Access, Affine, BinaryFn, Index, Scalar, ScalarId};
use gradc_ir::types::{DType, row_major_strides};
use std::mem::offset_of;

/// Points whose floats are more than a second-level cache holds: 2 MiB of each operand.
const FAR_POINTS: usize = 1 << 19;

/// The sums an epilogue is called for: rows and columns of one of the products.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Rectangle {
    /// Where the sum of row 0 and column 0 would be.
    pub sums: *const f32,
    /// Which product.
    pub outer: usize,
    /// First row and end of the rows.
    pub rows: [usize; 2],
    /// First column and end of the columns.
    pub columns: [usize; 2],
}

/// Where the loops of a space that are rows, and those that are columns, begin; those before are different products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// First loop of the rows.
    pub first_row: usize,
    /// First loop of the columns.
    pub first_column: usize,
}

/// How the `m × n` sums of each product are cut into blocks of at most `rows × columns`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocking {
    pub m: usize,
    pub n: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Blocking {
    /// Sums from one row of a block to the next.
    pub fn row_stride(self) -> usize {
        self.columns.min(self.n)
    }

    fn has_whole_rows(self) -> bool {
        self.columns >= self.n
    }

    fn has_all_rows(self) -> bool {
        self.rows >= self.m
    }
}

/// The body of a contraction, with the loops of products, rows and columns apart.
#[derive(Clone, Debug)]
pub(crate) struct EpiloguePlan {
    plan: LoopPlan,
    blocking: Blocking,
    /// Position of the sums among the operands: behind all others.
    sums: usize,
    /// First loop of the plan that is a row, and first that is a column.
    first_row: usize,
    first_column: usize,
    /// Whether rows and columns are one loop.
    is_flat: bool,
}

impl EpiloguePlan {
    /// Plans the body of a contraction for blocks of sums.
    ///
    /// Whole rows are one loop with their columns where the body's accesses allow.
    pub fn new(
        Piece { kernel, result }: &Piece,
        groups: Groups,
        operands: &[DType],
        blocking: Blocking,
    ) -> EpiloguePlan {
        let sums = operands.len();
        let load = Scalar::Load(read_sums(&kernel.space, groups, sums, blocking.row_stride()));
        let mut body = kernel.body.clone();
        for (scalar, _) in body.scalars.iter_mut().filter(|(s, _)| matches!(s, Scalar::Accumulated(_))) {
            *scalar = load.clone();
        }
        let kernel = LoopKernel { accumulate: None, body, ..kernel.clone() };
        let piece = Piece { kernel, result: result.clone() };
        let operands = [operands, &[DType::F32]].concat();
        let planned = |groups: Groups, is_flat: bool| {
            let (plan, loops) = LoopPlan::grouped(&piece, &operands, &[groups.first_row, groups.first_column]);
            let before = |first: usize| loops.iter().filter(|&&d| d < first).count();
            let (first_row, first_column) = (before(groups.first_row), before(groups.first_column));
            EpiloguePlan { plan, blocking, sums, first_row, first_column, is_flat }
        };
        let flat = planned(Groups { first_column: groups.first_row, ..groups }, true);
        if blocking.has_whole_rows() && flat.has_divisible_columns() { flat } else { planned(groups, false) }
    }

    /// Whether the columns are one loop, so that any part of them can be run.
    pub fn has_divisible_columns(&self) -> bool {
        self.plan.space == self.first_column + 1
    }

    /// The loop over rows whose next trip reads what should be brought into the cache during this one: where a block has a
    /// part of each row, a processor that reads on where a row's part ends fetches what nothing reads now, and begins the next
    /// late. What is smaller is in a cache already.
    fn row_ahead(&self) -> Option<usize> {
        let has_parts = self.first_row < self.first_column && !self.blocking.has_whole_rows();
        (has_parts && self.plan.points() >= FAR_POINTS).then(|| self.first_column - 1)
    }

    /// What it costs at each point, in scalar operations.
    pub fn cost_per_point(&self) -> usize {
        self.plan.cost() / self.plan.points().max(1)
    }
}

/// Whether all a contraction's kernel does with its sums is to store them.
pub(crate) fn stores_only_sums(kernel: &LoopKernel) -> bool {
    let is_sum = |id: &ScalarId| kernel.body.scalars[id.0 as usize].0 == Scalar::Accumulated(0);
    matches!(&kernel.stores[..], [only] if is_sum(only))
}

/// The operand that a contraction's kernel adds to its sums, if that is all it does with them: one f32 for each point, in
/// the order of the points.
pub(crate) fn added_to_sums(kernel: &LoopKernel) -> Option<usize> {
    let of = |id: ScalarId| &kernel.body.scalars[id.0 as usize].0;
    let &[only] = &kernel.stores[..] else { return None };
    let &Scalar::Binary(BinaryFn::Add, a, b) = of(only) else { return None };
    match (of(a), of(b)) {
        (Scalar::Accumulated(0), Scalar::Load(access)) | (Scalar::Load(access), Scalar::Accumulated(0)) => {
            reads_each_point_in_order(access, &kernel.space).then_some(access.operand)
        }
        _ => None,
    }
}

fn reads_each_point_in_order(access: &Access, space: &[usize]) -> bool {
    let plain = |index: &Index| index.divisor == 1 && index.loaded.is_none() && index.affine.base == 0;
    let distance = |dim: usize| -> i64 {
        let strides = row_major_strides(&access.view);
        access.indices.iter().zip(strides).map(|(index, stride)| index.affine.coeffs[dim] * stride as i64).sum()
    };
    let expected = row_major_strides(space);
    access.fill.is_none()
        && access.indices.iter().all(plain)
        && (0..space.len()).all(|dim| space[dim] == 1 || distance(dim) == expected[dim] as i64)
}

/// The sum of each point: row and column of its product.
fn read_sums(space: &[usize], groups: Groups, operand: usize, row_stride: usize) -> Access {
    let index = |first: usize, end: usize| {
        let mut affine = Affine::constant(space.len(), 0);
        affine.coeffs[first..end]
            .iter_mut()
            .zip(row_major_strides(&space[first..end]))
            .for_each(|(c, s)| *c = s as i64);
        Index::from(affine)
    };
    let rows = space[groups.first_row..groups.first_column].iter().product();
    let indices = vec![index(groups.first_row, groups.first_column), index(groups.first_column, space.len())];
    Access { operand, view: vec![rows, row_stride], indices, fill: None }
}

/// Emits an epilogue; `buffers` are the kernel's operands, then its results, `rectangle` the address of a [`Rectangle`].
/// Gives the code of the strips called.
pub(crate) fn emit_epilogue(
    b: &mut FunctionBuilder,
    epilogue: &EpiloguePlan,
    mut buffers: Vec<Buffer>,
    [context, rectangle]: [Value; 2],
    simd: SimdOptions,
) -> Vec<Vec<u8>> {
    let (plan, Blocking { m, n, .. }) = (&epilogue.plan, epilogue.blocking);
    let mut field = |offset: usize| b.ins().load(I64, MEMORY, rectangle, offset as i32);
    let base = field(offset_of!(Rectangle, sums));
    let outer = field(offset_of!(Rectangle, outer));
    let mut bounds = |offset: usize, extent: usize, whole: bool| match whole {
        true => (Bound::Static(0), Bound::Static(extent as i64)),
        false => (Bound::Dynamic(field(offset)), Bound::Dynamic(field(offset + 8))),
    };
    let rows = bounds(offset_of!(Rectangle, rows), m, epilogue.blocking.has_all_rows());
    let columns = bounds(offset_of!(Rectangle, columns), n, epilogue.blocking.has_whole_rows());
    buffers.insert(epilogue.sums, Buffer { base, dtype: DType::F32 });
    let mut e = Emitter::new(b, plan, &buffers, context, simd);
    e.hoist_both();
    e.ahead = epilogue.row_ahead();
    e.fixed(0, epilogue.first_row, outer, &mut |e| {
        if epilogue.is_flat {
            let points = [rows.0, rows.1].map(|row| e.scaled(row, n));
            return e.space(epilogue.first_column, (points[0], points[1]));
        }
        let one_loop = epilogue.first_column == epilogue.first_row + 1;
        if one_loop && epilogue.blocking.has_whole_rows() && e.strip_of_rows(epilogue.first_row, rows) {
            return;
        }
        e.range(rows, 1, vec![], &mut |e, row, _| {
            e.fixed(epilogue.first_row, epilogue.first_column, row, &mut |e| {
                let extent = plan.extents[epilogue.first_column] as i64;
                let whole = (Bound::Static(0), Bound::Static(extent));
                e.space(epilogue.first_column, if epilogue.has_divisible_columns() { columns } else { whole });
            });
            vec![]
        });
    });
    e.strips
}

impl<'e, 'f> Emitter<'e, 'f> {
    fn scaled(&mut self, bound: Bound, by: usize) -> Bound {
        match bound {
            Bound::Static(n) => Bound::Static(n * by as i64),
            Bound::Dynamic(v) => Bound::Dynamic(self.b.ins().imul_imm_s(v, by as i64)),
        }
    }

    /// Opens the loops from `dim` to `end` at their indices for `position`, which counts through all of them.
    fn fixed(&mut self, dim: usize, end: usize, position: Value, body: &mut dyn FnMut(&mut Self)) {
        if dim == end {
            self.hoist_both();
            return body(self);
        }
        let inner: usize = self.plan.extents[dim + 1..end].iter().product();
        let (mut index, mut rest) = (position, position);
        if inner > 1 {
            let divisor = self.b.ins().iconst(I64, inner as i64);
            index = self.b.ins().udiv(position, divisor);
            rest = self.b.ins().urem(position, divisor);
        }
        self.at(dim, index, |e| e.fixed(dim + 1, end, rest, body));
    }
}
