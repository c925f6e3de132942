//! GMRES(20) (Saad and Schultz, 1986) for `(I − Φᵀ)v = g`, every row of the matrices a system of its own.
//!
//! Arnoldi's basis is orthogonalised twice (classical Gram–Schmidt, which is two products), the small least-squares
//! problem is solved by Givens rotations. A row whose residual is zero gets a basis of zeros and stays as it is: nothing
//! divides by zero.

use super::rows::{all_at_most, column, norms};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Value};
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// Vectors of a basis.
const BASIS: usize = 20;

/// Most times that a basis is built.
const MOST_CYCLES: usize = 10;

/// A linear system `(I − Φᵀ)v = g` over matrices `[rows, n]`.
pub(super) struct System {
    /// `(w, given…) → Φᵀw`.
    pub apply: Function,
    /// The values that `apply` is given.
    pub given: Vec<Value>,
    /// Type of `v` and `g`.
    pub matrix: TensorType,
    /// Largest `‖g − (I − Φᵀ)v‖ / ‖g‖` of a solution.
    pub tolerance: f64,
}

impl System {
    /// `Φᵀw`.
    pub fn transposed(&self, b: &mut Builder, w: Value, given: &[Value]) -> Result<Value, TypeError> {
        Ok(b.inline(&self.apply, &[&[w], given].concat())?[0])
    }

    /// `(I − Φᵀ)w`.
    fn product(&self, b: &mut Builder, w: Value, given: &[Value]) -> Result<Value, TypeError> {
        let turned = self.transposed(b, w, given)?;
        b.sub(w, turned)
    }

    fn residual(&self, b: &mut Builder, v: Value, g: Value, given: &[Value]) -> Result<Value, TypeError> {
        let product = self.product(b, v, given)?;
        b.sub(g, product)
    }

    /// Whether every row of `v` is a solution; not where a number is NaN.
    pub fn is_solved(&self, b: &mut Builder, v: Value, g: Value, given: &[Value]) -> Result<Value, TypeError> {
        let residual = self.residual(b, v, g, given)?;
        let (residual, size) = (norms(b, residual)?, norms(b, g)?);
        let limit = b.scale(size, self.tolerance)?;
        all_at_most(b, residual, limit)
    }
}

/// `(v, g, given…) → (v)`: improves `v` until it is a solution, or ten bases are used up.
pub(super) fn solver(system: &System, types: &[TensorType]) -> Result<Function, TypeError> {
    let cycle = Builder::function("GMRES cycle", types, |b, x| {
        let (v, g, given) = (x[0], x[1], &x[2..]);
        let correction = correction(b, system, v, g, given)?;
        let next = b.add(v, correction)?;
        Ok(vec![next, system.is_solved(b, next, g, given)?])
    })?;
    Builder::function("GMRES", types, |b, x| Ok(b.iterate_until(&cycle, MOST_CYCLES, &x[..1], &x[1..])?.0))
}

/// What minimises the residual over the span of one basis.
fn correction(b: &mut Builder, system: &System, v: Value, g: Value, given: &[Value]) -> Result<Value, TypeError> {
    let size = BASIS.min(system.matrix.shape[1]);
    let residual = system.residual(b, v, g, given)?;
    let length = norms(b, residual)?;
    let first = direction(b, residual, length, length)?;
    let (basis, columns) = arnoldi(b, system, first, size, given)?;
    let weights = least_squares(b, columns, length, size)?;
    let used = b.slice_axis(basis, 0, 0, size)?;
    combination(b, used, weights)
}

/// `vector / length` per row, zeros where the length is negligible against `scale`.
fn direction(b: &mut Builder, vector: Value, length: Value, scale: Value) -> Result<Value, TypeError> {
    let least = b.scale(scale, 1e-7)?;
    let (there, one) = (b.compare(CompareFn::Gt, length, least)?, b.full_like(length, 1.0)?);
    let divisor = b.select(there, length, one)?;
    let (there, divisor) = (column(b, there)?, column(b, divisor)?);
    let unit = b.div(vector, divisor)?;
    let (shape, zero) = (b.shape(unit).to_vec(), b.full_like(unit, 0.0)?);
    let there = b.broadcast_to(there, &shape)?;
    b.select(there, unit, zero)
}

/// `Σ weights[r, k] · basis[k, r, :]`, per row `r`.
fn combination(b: &mut Builder, basis: Value, weights: Value) -> Result<Value, TypeError> {
    b.dot_general(basis, weights, [&[1], &[0]], [&[0], &[1]])
}

/// A basis `[size + 1, rows, n]` of the Krylov space of `first`, and the columns `[size, rows, size + 1]` of the matrix
/// that `I − Φᵀ` is in it.
fn arnoldi(
    b: &mut Builder,
    system: &System,
    first: Value,
    size: usize,
    given: &[Value],
) -> Result<(Value, Value), TypeError> {
    let places = unit_rows(b, system.matrix.dtype, size, 1)?;
    let rows = system.matrix.shape[0];
    let (basis, place) = (
        system.matrix.with_shape([&[size + 1], &system.matrix.shape[..]].concat()),
        system.matrix.with_shape([size + 1]),
    );
    let given_types = given.iter().map(|&v| b.ty(v).clone()).collect();
    let types = [vec![system.matrix.clone(), basis.clone(), place], given_types].concat();
    let body = Builder::function("Arnoldi step", &types, |b, x| {
        let (newest, basis, place, given) = (x[0], x[1], x[2], &x[3..]);
        let product = system.product(b, newest, given)?;
        let scale = norms(b, product)?;
        let (rest, once) = orthogonal(b, basis, product)?;
        let (rest, twice) = orthogonal(b, basis, rest)?;
        let parts = b.add(once, twice)?;
        let length = norms(b, rest)?;
        let next = direction(b, rest, length, scale)?;
        let along = outer(b, place, length, &[rows, size + 1], [1, 0])?;
        let entry = b.add(parts, along)?;
        let grown = place_at(b, basis, place, next)?;
        Ok(vec![next, grown, entry])
    })?;
    let zeros = b.splat(&basis, 0.0)?;
    let leading = unit_rows(b, system.matrix.dtype, size, 0)?;
    let leading = b.slice_axis(leading, 0, 0, 1)?;
    let leading = b.reshape(leading, &[size + 1])?;
    let basis = place_at(b, zeros, leading, first)?;
    let (carries, columns) = b.scan(&body, &[first, basis], &[places], given, false)?;
    Ok((carries[1], columns[0]))
}

/// Rows `e_(k + shift)` of the unit matrix for `k` below `count`, `count + 1` long.
fn unit_rows(b: &mut Builder, dtype: DType, count: usize, shift: usize) -> Result<Value, TypeError> {
    let shape = [count, count + 1];
    let (row, entry) = (b.iota(DType::I64, &shape, 0)?, b.iota(DType::I64, &shape, 1)?);
    let shift = b.full_like(row, shift as f64)?;
    let place = b.add(row, shift)?;
    let here = b.compare(CompareFn::Eq, entry, place)?;
    b.cast(here, dtype)
}

/// A vector minus its parts along the basis, and these parts `[rows, size + 1]`.
fn orthogonal(b: &mut Builder, basis: Value, vector: Value) -> Result<(Value, Value), TypeError> {
    let parts = b.dot_general(basis, vector, [&[1], &[0]], [&[2], &[1]])?;
    let along = combination(b, basis, parts)?;
    Ok((b.sub(vector, along)?, parts))
}

/// Adds a matrix to the basis at the place that a unit vector names.
fn place_at(b: &mut Builder, basis: Value, place: Value, matrix: Value) -> Result<Value, TypeError> {
    let shape = b.shape(basis).to_vec();
    let (place, matrix) = (b.broadcast(place, &shape, &[0])?, b.broadcast(matrix, &shape, &[1, 2])?);
    let there = b.mul(place, matrix)?;
    b.add(basis, there)
}

/// The outer product of two vectors, whose axes stand at `axes` of a matrix of shape `shape`.
fn outer(b: &mut Builder, x: Value, y: Value, shape: &[usize], axes: [usize; 2]) -> Result<Value, TypeError> {
    let (x, y) = (b.broadcast(x, shape, &axes[..1])?, b.broadcast(y, shape, &axes[1..])?);
    b.mul(x, y)
}

/// The `y[rows, size]` of least `‖H y − length · e₀‖` per row, for the columns `[size, rows, size + 1]` of `H`.
fn least_squares(b: &mut Builder, columns: Value, length: Value, size: usize) -> Result<Value, TypeError> {
    let dtype = b.ty(columns).dtype;
    let rows = b.shape(length)[0];
    let matrix = b.transpose(columns, &[1, 2, 0])?;
    let right = b.reshape(length, &[rows, 1, 1])?;
    let right = b.pad(right, &[0, 0, 0], &[0, size, 0], &[0, 0, 0], 0.0)?;
    let matrix = b.concat(&[matrix, right], 2)?;
    let (here, below) = (unit_rows(b, dtype, size, 0)?, unit_rows(b, dtype, size, 1)?);
    let types = [b.ty(matrix).clone(), TensorType::new(dtype, [size + 1]), TensorType::new(dtype, [size + 1])];
    let rotate = Builder::function("Givens rotation", &types, rotation)?;
    let (triangle, _) = b.scan(&rotate, &[matrix], &[here, below], &[], false)?;
    let y = b.splat(&TensorType::new(dtype, [rows, size + 1]), 0.0)?;
    let types = [b.ty(y).clone(), types[1].clone(), types[0].clone()];
    let substitute = Builder::function("back substitution", &types, substitution)?;
    let (y, _) = b.scan(&substitute, &[y], &[here], &triangle, true)?;
    b.slice_axis(y[0], 1, 0, size)
}

/// Row `place` of every matrix: `[rows, m, n]` and `[m]` make `[rows, n]`.
fn row(b: &mut Builder, matrices: Value, place: Value) -> Result<Value, TypeError> {
    b.dot_general(matrices, place, [&[], &[]], [&[1], &[0]])
}

/// Entry `place` of every row: `[rows, n]` and `[n]` make `[rows]`.
fn entry(b: &mut Builder, rows: Value, place: Value) -> Result<Value, TypeError> {
    b.dot_general(rows, place, [&[], &[]], [&[1], &[0]])
}

/// `(matrices, here, below) → matrices`, rows `here` and `below` turned so that the entry below the diagonal is zero.
fn rotation(b: &mut Builder, x: &[Value]) -> Result<Vec<Value>, TypeError> {
    let (matrices, here, below) = (x[0], x[1], x[2]);
    let (upper, lower) = (row(b, matrices, here)?, row(b, matrices, below)?);
    let (a, c) = (entry(b, upper, here)?, entry(b, lower, here)?);
    let (a2, c2) = (b.mul(a, a)?, b.mul(c, c)?);
    let square = b.add(a2, c2)?;
    let (length, zero, one) = (b.sqrt(square)?, b.full_like(a, 0.0)?, b.full_like(a, 1.0)?);
    let nothing = b.compare(CompareFn::Eq, length, zero)?;
    let divisor = b.select(nothing, one, length)?;
    let (cosine, sine) = (b.div(a, divisor)?, b.div(c, divisor)?);
    let cosine = b.select(nothing, one, cosine)?;
    let (cosine, sine) = (column(b, cosine)?, column(b, sine)?);
    let (cu, sl, su, cl) = (b.mul(cosine, upper)?, b.mul(sine, lower)?, b.mul(sine, upper)?, b.mul(cosine, lower)?);
    let (new_upper, new_lower) = (b.add(cu, sl)?, b.sub(cl, su)?);
    let (raised, lowered) = (b.sub(new_upper, upper)?, b.sub(new_lower, lower)?);
    let changed = change_row(b, matrices, here, raised)?;
    Ok(vec![change_row(b, changed, below, lowered)?])
}

/// Adds `change[rows, n]` to row `place` of every matrix.
fn change_row(b: &mut Builder, matrices: Value, place: Value, change: Value) -> Result<Value, TypeError> {
    let shape = b.shape(matrices).to_vec();
    let (place, change) = (b.broadcast(place, &shape, &[1])?, b.broadcast(change, &shape, &[0, 2])?);
    let there = b.mul(place, change)?;
    b.add(matrices, there)
}

/// `(y, here, matrices) → y` with entry `here` solved for; 0 where the diagonal is.
fn substitution(b: &mut Builder, x: &[Value]) -> Result<Vec<Value>, TypeError> {
    let (y, here, matrices) = (x[0], x[1], x[2]);
    let equation = row(b, matrices, here)?;
    let last = b.shape(equation)[1] - 1;
    let rows = b.shape(equation)[0];
    let right = b.slice_axis(equation, 1, last, last + 1)?;
    let right = b.reshape(right, &[rows])?;
    let known = b.mul(equation, y)?;
    let (known, diagonal) = (b.reduce_sum(known, &[1])?, entry(b, equation, here)?);
    let rest = b.sub(right, known)?;
    let zero = b.full_like(rest, 0.0)?;
    let singular = b.compare(CompareFn::Eq, diagonal, zero)?;
    let value = b.div(rest, diagonal)?;
    let value = b.select(singular, zero, value)?;
    let shape = b.shape(y).to_vec();
    let there = outer(b, here, value, &shape, [1, 0])?;
    Ok(vec![b.add(y, there)?])
}
