//! Shapes: broadcasting, reshaping, cutting and joining.

use super::Builder;
use crate::graph::Value;
use crate::ops::{Barrier, Broadcast, Concat, Iota, Pad, RandomUniform, Reshape, Reverse, Slice, Transpose};
use crate::types::{DType, TypeError};

/// Most operands of one `concat` that [`Builder::concat`] makes.
const CONCAT_GROUP: usize = 8;

impl Builder {
    /// The operand under another shape; returns it unchanged when it has that shape.
    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Result<Value, TypeError> {
        if self.shape(x) == shape { Ok(x) } else { self.op(Reshape { shape: shape.to_vec() }, &[x]) }
    }

    /// Permutes axes; returns the operand unchanged for the identity.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value, TypeError> {
        let identity = perm.iter().enumerate().all(|(k, &p)| k == p) && perm.len() == self.shape(x).len();
        if identity { Ok(x) } else { self.op(Transpose { perm: perm.to_vec() }, &[x]) }
    }

    /// Swaps two axes.
    pub fn swap_axes(&mut self, x: Value, a: usize, b: usize) -> Result<Value, TypeError> {
        let mut perm: Vec<usize> = (0..self.shape(x).len()).collect();
        if a.max(b) >= perm.len() {
            return Err(axis_out_of_range(perm.len(), format!("{a}, {b}")));
        }
        perm.swap(a, b);
        self.transpose(x, &perm)
    }

    /// Repeats along the axes of `shape` that are not in `dims`; returns the operand when there is nothing to repeat.
    pub fn broadcast(&mut self, x: Value, shape: &[usize], dims: &[usize]) -> Result<Value, TypeError> {
        if self.shape(x) == shape {
            Ok(x)
        } else {
            self.op(Broadcast { shape: shape.to_vec(), dims: dims.to_vec() }, &[x])
        }
    }

    /// NumPy broadcast of `x` to `shape`: axes aligned at the end, extents of 1 repeat.
    pub fn broadcast_to(&mut self, x: Value, shape: &[usize]) -> Result<Value, TypeError> {
        let from = self.shape(x).to_vec();
        let fits =
            from.len() <= shape.len() && from.iter().rev().zip(shape.iter().rev()).all(|(&f, &t)| f == t || f == 1);
        if !fits {
            return Err(TypeError::new("shapes do not broadcast")
                .expected(format!("{shape:?}"))
                .found(format!("{from:?}")));
        }
        let lead = shape.len() - from.len();
        let dims: Vec<usize> = (0..from.len()).filter(|&d| from[d] == shape[lead + d]).collect();
        let kept: Vec<usize> = dims.iter().map(|&d| from[d]).collect();
        let squeezed = self.reshape(x, &kept)?;
        self.broadcast(squeezed, shape, &dims.iter().map(|d| lead + d).collect::<Vec<_>>())
    }

    /// Both operands under their common NumPy broadcast shape.
    pub fn broadcast_pair(&mut self, a: Value, b: Value) -> Result<(Value, Value), TypeError> {
        let shape = broadcast_shape(self.shape(a), self.shape(b))?;
        Ok((self.broadcast_to(a, &shape)?, self.broadcast_to(b, &shape)?))
    }

    /// The index along `axis`, as a tensor of `dtype` and `shape`.
    pub fn iota(&mut self, dtype: DType, shape: &[usize], axis: usize) -> Result<Value, TypeError> {
        self.op(Iota { dtype, shape: shape.to_vec(), axis }, &[])
    }

    /// f32 numbers uniform in [0, 1), from `state` = i64[2] (seed, counter); `stream` tells apart the draws of one step.
    pub fn random_uniform(&mut self, state: Value, shape: &[usize], stream: usize) -> Result<Value, TypeError> {
        self.op(RandomUniform { shape: shape.to_vec(), stream }, &[state])
    }

    /// Elements `start..limit` by `stride` along every axis; returns the operand when that is all of it.
    pub fn slice(&mut self, x: Value, start: &[usize], limit: &[usize], stride: &[usize]) -> Result<Value, TypeError> {
        let shape = self.shape(x);
        let whole = limit == shape
            && start.iter().all(|&s| s == 0)
            && stride.iter().all(|&s| s == 1)
            && [start.len(), stride.len()] == [shape.len(); 2];
        if whole {
            return Ok(x);
        }
        // A stride past the end takes one element, as the extent does.
        let stride = stride.iter().enumerate().map(|(d, &s)| shape.get(d).map_or(s, |&n| s.min(n.max(1)))).collect();
        self.op(Slice { start: start.to_vec(), limit: limit.to_vec(), stride }, &[x])
    }

    /// Elements `start..limit` along one axis.
    pub fn slice_axis(&mut self, x: Value, axis: usize, start: usize, limit: usize) -> Result<Value, TypeError> {
        let mut limits = self.shape(x).to_vec();
        let rank = limits.len();
        let Some(axis_limit) = limits.get_mut(axis) else {
            return Err(axis_out_of_range(rank, axis));
        };
        *axis_limit = limit;
        let mut starts = vec![0; rank];
        starts[axis] = start;
        self.slice(x, &starts, &limits, &vec![1; rank])
    }

    /// `value` around (`low`, `high`) and between (`interior`) the elements; returns the operand when there is none.
    pub fn pad(
        &mut self,
        x: Value,
        low: &[usize],
        high: &[usize],
        interior: &[usize],
        value: f64,
    ) -> Result<Value, TypeError> {
        let rank = self.shape(x).len();
        let none = [low, high, interior].iter().all(|amounts| amounts.len() == rank && amounts.iter().all(|&n| n == 0));
        if none {
            return Ok(x);
        }
        let op = Pad { low: low.to_vec(), high: high.to_vec(), interior: interior.to_vec(), value: value.into() };
        self.op(op, &[x])
    }

    /// `x` itself, apart from all that was computed from it so far and not before `token`.
    pub fn barrier(&mut self, x: Value, token: Value) -> Result<Value, TypeError> {
        self.op(Barrier {}, &[x, token])
    }

    /// `x` with `axes` (ascending) running backwards; returns the operand when there are none.
    pub fn reverse(&mut self, x: Value, axes: &[usize]) -> Result<Value, TypeError> {
        if axes.is_empty() { Ok(x) } else { self.op(Reverse { axes: axes.to_vec() }, &[x]) }
    }

    /// The operands one after the other along `axis`; returns the operand when there is only one.
    ///
    /// Natively every element is chosen among all operands of a `concat`, so many operands are joined group by group.
    pub fn concat(&mut self, values: &[Value], axis: usize) -> Result<Value, TypeError> {
        match values {
            [one] if axis < self.shape(*one).len() => Ok(*one),
            few if few.len() <= CONCAT_GROUP => self.op(Concat { axis }, few),
            many => {
                let groups = many.chunks(CONCAT_GROUP).map(|group| self.concat(group, axis));
                let groups = groups.collect::<Result<Vec<_>, _>>()?;
                self.concat(&groups, axis)
            }
        }
    }
}

fn axis_out_of_range(rank: usize, found: impl std::fmt::Display) -> TypeError {
    TypeError::new("axis out of range").expected(format!("axes below {rank}")).found(found)
}

/// Common NumPy broadcast shape of two shapes.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, TypeError> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], d: usize| if d + s.len() >= rank { s[d + s.len() - rank] } else { 1 };
    (0..rank)
        .map(|d| match (extent(a, d), extent(b, d)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(TypeError::new("shapes do not broadcast").expected(format!("{a:?}")).found(format!("{b:?}"))),
        })
        .collect()
}
