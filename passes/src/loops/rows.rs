//! Vectors of a linear system as matrices with one row per example.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, NodeId, Value};
use gradc_ir::lower::{Access, Affine, Body, CompareFn, Lowering, Nest, Scalar};
use gradc_ir::types::{TensorType, TypeError};

/// How the parts of a vector make up the rows of a matrix `[rows, n]`.
pub(super) struct Rows {
    types: Vec<TensorType>,
    /// Number of rows.
    pub count: usize,
}

impl Rows {
    /// One row per entry of the leading axis where the step keeps them apart, else one row.
    pub fn new(step: &Graph, carries: usize, types: &[TensorType]) -> Self {
        let extent = |ty: &TensorType| ty.shape.first().copied().unwrap_or(1);
        let count = types.first().map_or(1, extent).max(1);
        let apart = types.iter().all(|ty| extent(ty) == count) && keeps_rows_apart(step, carries);
        Rows { types: types.to_vec(), count: if apart { count } else { 1 } }
    }

    /// The type of a matrix.
    pub fn matrix(&self) -> TensorType {
        let elements: usize = self.types.iter().map(TensorType::elements).sum();
        self.types[0].with_shape([self.count, elements / self.count])
    }

    /// The type of one number per row.
    pub fn numbers(&self) -> TensorType {
        self.types[0].with_shape([self.count])
    }

    /// The matrix of a vector's parts.
    pub fn join(&self, b: &mut Builder, parts: &[Value]) -> Result<Value, TypeError> {
        let row = |(&part, ty): (&Value, &TensorType)| b.reshape(part, &[self.count, ty.elements() / self.count]);
        let rows = parts.iter().zip(&self.types).map(row).collect::<Result<Vec<_>, _>>()?;
        if let [one] = rows[..] { Ok(one) } else { b.concat(&rows, 1) }
    }

    /// The parts of the vector that a matrix holds.
    pub fn split(&self, b: &mut Builder, matrix: Value) -> Result<Vec<Value>, TypeError> {
        let mut start = 0;
        let part = |ty: &TensorType| {
            let width = ty.elements() / self.count;
            let all = self.types.len() == 1;
            let columns = if all { matrix } else { b.slice_axis(matrix, 1, start, start + width)? };
            start += width;
            b.reshape(columns, &ty.shape)
        };
        self.types.iter().map(part).collect()
    }
}

/// The Euclidean norm of every row.
pub(super) fn norms(b: &mut Builder, matrix: Value) -> Result<Value, TypeError> {
    let square = b.mul(matrix, matrix)?;
    let sum = b.reduce_sum(square, &[1])?;
    b.sqrt(sum)
}

/// One number per row, as a column that broadcasts over a matrix.
pub(super) fn column(b: &mut Builder, numbers: Value) -> Result<Value, TypeError> {
    let count = b.shape(numbers)[0];
    b.reshape(numbers, &[count, 1])
}

/// Whether every number of `a` is at most that of `b`; not where either is NaN.
pub(super) fn all_at_most(b: &mut Builder, numbers: Value, limits: Value) -> Result<Value, TypeError> {
    let within = b.compare(CompareFn::Le, numbers, limits)?;
    let outside = b.not(within)?;
    super::linearised::none(b, outside)
}

/// Whether entry `r` of the leading axis of every carry that a body returns depends on no other entry of the carries
/// that it takes.
///
/// Read off the lowered forms: an axis carries rows where every read of a value with rows is at the loop index itself.
fn keeps_rows_apart(body: &Graph, carries: usize) -> bool {
    let mut rows: Vec<Option<usize>> = vec![None; body.nodes().len()];
    for id in body.node_ids() {
        let node = body.node(id);
        rows[id.index()] = match &node.def {
            Def::Input(input) => (input.index() < carries).then_some(0),
            Def::Op(_) if node.operands.iter().all(|v| rows[v.node.index()].is_none()) => None,
            Def::Op(_) => match row_axis(body, id, &rows) {
                Some(axis) => Some(axis),
                None => return false,
            },
        };
    }
    let leading = |output: &gradc_ir::graph::Output| matches!(rows[output.value.node.index()], None | Some(0));
    body.outputs()[..carries].iter().all(leading)
}

/// The axis of a node's result that carries the rows of its operands.
fn row_axis(body: &Graph, id: NodeId, rows: &[Option<usize>]) -> Option<usize> {
    let node = body.node(id);
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| body.ty(v)).collect();
    let accesses: (Vec<Access>, Vec<usize>) = match body.op(id)?.lower(&operands, &node.types) {
        Lowering::Nests(nests) if nests.len() == 1 => (loads(&nests[0]), nests[0].space.clone()),
        Lowering::Contraction(contraction) => (vec![contraction.lhs, contraction.rhs], contraction.space),
        Lowering::Lines(lines) => return rows[node.operands[0].node.index()].filter(|&axis| axis != lines.axis),
        _ => return None,
    };
    let (accesses, space) = accesses;
    let shape = &node.types[0].shape;
    let candidates = (0..shape.len().min(space.len())).filter(|&d| space[..=d] == shape[..=d]);
    let keeps = |d: usize| {
        accesses.iter().all(|access| match rows[node.operands[access.operand].node.index()] {
            None => true,
            Some(axis) => reads_row(access, &operands[access.operand].shape, axis, d),
        })
    };
    candidates.into_iter().find(|&d| keeps(d))
}

fn loads(nest: &Nest) -> Vec<Access> {
    let Body { scalars } = &nest.body;
    let load = |(scalar, _): &(Scalar, _)| if let Scalar::Load(access) = scalar { Some(access.clone()) } else { None };
    scalars.iter().filter_map(load).collect()
}

/// Whether an access reads axis `axis` of its operand at loop index `d`, and at it alone.
fn reads_row(access: &Access, shape: &[usize], axis: usize, d: usize) -> bool {
    let same_axes = access.view.len() > axis && access.view[..=axis] == shape[..=axis];
    let at = |index: &gradc_ir::lower::Index| {
        index.divisor == 1 && index.loaded.is_none() && index.affine == Affine::dim(index.affine.coeffs.len(), d)
    };
    same_axes && at(&access.indices[axis])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_inside_of_rows_keep_them_apart() {
        let types = [TensorType::f32([4, 3])];
        let rows = |axis| {
            let step = Builder::function("step", &types, |b, x| {
                let sums = b.cumulative_sum(x[0], axis, false)?;
                Ok(vec![b.sort(sums, axis, false)?[0]])
            });
            Rows::new(&step.unwrap(), 1, &types).count
        };
        assert_eq!([rows(0), rows(1)], [1, 4]);
    }
}
