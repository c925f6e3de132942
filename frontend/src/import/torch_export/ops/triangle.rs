//! Positions of the elements of a triangle, row by row.

use super::super::call::Call;
use super::super::fault::Fault;
use crate::layers::offset;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::lower::CompareFn;
use gradc_ir::types::{DType, TensorType, TypeError};

/// The lower triangle of a matrix: rows without elements, rows that grow by one element, and whole rows.
struct Lower {
    columns: usize,
    /// Rows without elements.
    empty: usize,
    /// Elements of the first row that has some.
    first: usize,
    /// Rows that grow, the first one included.
    growing: usize,
    /// Whole rows after them.
    whole: usize,
}

impl Lower {
    /// The elements of which the column is at most `diagonal` past the row.
    fn new(rows: usize, columns: usize, diagonal: i64) -> Lower {
        let (last_column, last_row) = (columns as i128 - 1, rows as i128);
        let empty = (-i128::from(diagonal)).clamp(0, last_row);
        let first = (empty + i128::from(diagonal)).min(last_column) + 1;
        let growing = if first > 0 { (last_row - empty).min(last_column + 2 - first) } else { 0 };
        let whole = if first > 0 { last_row - empty - growing } else { 0 };
        let [empty, first, growing, whole] = [empty, first.max(0), growing, whole].map(|count| count as usize);
        Lower { columns, empty, first, growing, whole }
    }

    /// Elements of the rows that grow.
    fn grown(&self) -> usize {
        self.growing * self.first + self.growing * self.growing.saturating_sub(1) / 2
    }

    fn elements(&self) -> usize {
        self.grown() + self.whole * self.columns
    }

    /// Rows and columns of the elements, as integers in f64.
    fn positions(&self, b: &mut Builder) -> Result<[Value; 2], TypeError> {
        let ty = TensorType::checked(DType::F64, [self.elements()])?;
        let at = b.iota(DType::F64, &ty.shape, 0)?;
        let [rows, columns] = self.positions_grown(b, at)?;
        if self.whole == 0 {
            return Ok([rows, columns]);
        }
        let after = offset(b, at, -(self.grown() as f64))?;
        let [row, column] = quotient(b, after, self.columns)?;
        let row = offset(b, row, (self.empty + self.growing) as f64)?;
        let grown = b.full_like(at, self.grown() as f64)?;
        let grows = b.compare(CompareFn::Lt, at, grown)?;
        Ok([b.select(grows, rows, row)?, b.select(grows, columns, column)?])
    }

    /// The positions in rows that grow: before row `j` of them are `j · first + j · (j − 1) / 2` elements.
    fn positions_grown(&self, b: &mut Builder, at: Value) -> Result<[Value; 2], TypeError> {
        let odd = 2.0 * self.first as f64 - 1.0;
        let square = b.scale(at, 8.0)?;
        let square = offset(b, square, odd * odd)?;
        let root = b.sqrt(square)?;
        let twice = offset(b, root, -odd)?;
        let half = b.scale(twice, 0.5)?;
        let row = b.floor(half)?;
        let mean_length = b.scale(row, 0.5)?;
        let mean_length = offset(b, mean_length, self.first as f64 - 0.5)?;
        let before = b.mul(row, mean_length)?;
        Ok([offset(b, row, self.empty as f64)?, b.sub(at, before)?])
    }
}

/// The whole quotient of numbers by a count, and what is left.
fn quotient(b: &mut Builder, x: Value, by: usize) -> Result<[Value; 2], TypeError> {
    let by = b.full_like(x, by as f64)?;
    let quotient = b.div(x, by)?;
    let quotient = b.floor(quotient)?;
    let whole = b.mul(quotient, by)?;
    Ok([quotient, b.sub(x, whole)?])
}

/// Extents and diagonal of the matrix, whose elements can be counted.
fn matrix(call: &Call) -> Result<(usize, usize, i64), Fault> {
    let (rows, columns) = (call.count("row")?, call.count("col")?);
    TensorType::checked(DType::F64, [rows, columns])?;
    Ok((rows, columns, call.int("offset")?))
}

fn stacked(call: &mut Call, positions: [Value; 2]) -> Result<Value, Fault> {
    let (elements, dtype) = (call.b.shape(positions[0])[0], call.dtype()?);
    let both = call.b.concat(&positions, 0)?;
    let both = call.b.reshape(both, &[2, elements])?;
    Ok(call.b.cast(both, dtype)?)
}

/// Rows and columns of the lower triangle.
pub fn tril_indices(call: &mut Call) -> Result<Value, Fault> {
    let (rows, columns, diagonal) = matrix(call)?;
    let positions = Lower::new(rows, columns, diagonal).positions(call.b)?;
    stacked(call, positions)
}

/// Rows and columns of the upper triangle: the lower one, turned by half.
pub fn triu_indices(call: &mut Call) -> Result<Value, Fault> {
    let (rows, columns, diagonal) = matrix(call)?;
    let turned = (columns as i64 - rows as i64).saturating_sub(diagonal);
    let positions = Lower::new(rows, columns, turned).positions(call.b)?;
    let [row, column] = [(positions[0], rows), (positions[1], columns)].map(|(at, extent)| {
        let last_first = call.b.reverse(at, &[0])?;
        let mirrored = call.b.neg(last_first)?;
        offset(call.b, mirrored, extent as f64 - 1.0)
    });
    stacked(call, [row?, column?])
}
