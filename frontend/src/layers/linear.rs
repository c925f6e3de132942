//! Products: matrix products, fully connected layers, convolutions, embeddings.

use super::add_per_channel;
use gradc_ir::builder::{Builder, broadcast_shape};
use gradc_ir::graph::Value;
use gradc_ir::ops::Convolution;
use gradc_ir::types::TypeError;

/// x · wᵀ + bias for `x` `[…, in]`, `w` `[out, in]`, `bias` `[out]`.
pub fn linear(b: &mut Builder, x: Value, w: Value, bias: Option<Value>) -> Result<Value, TypeError> {
    let rank = b.shape(x).len();
    if rank == 0 || b.shape(w).len() != 2 {
        return Err(TypeError::new("a linear layer multiplies […, in] by [out, in]")
            .expected("x […, in] and w [out, in]")
            .found(format!("{} and {}", b.ty(x), b.ty(w))));
    }
    let y = b.dot_general(x, w, [&[], &[]], [&[rank - 1], &[1]])?;
    bias.map_or(Ok(y), |bias| b.add(y, bias))
}

/// Matrix product as `numpy.matmul`: vectors count as a row (left) or column (right), leading axes broadcast.
pub fn matmul(b: &mut Builder, left: Value, right: Value) -> Result<Value, TypeError> {
    let (l, r) = (b.shape(left).len(), b.shape(right).len());
    if l == 0 || r == 0 {
        return Err(TypeError::new("a matrix product has no scalar operands")
            .expected("at least one axis each")
            .found(format!("{} and {}", b.ty(left), b.ty(right))));
    }
    contract(b, [left, right], [l - 1, r.saturating_sub(2)])
}

/// Sums products over `axes[0]` of the left and `axes[1]` of the right, both among the last two axes;
/// the axes before those broadcast as NumPy's do.
pub(super) fn contract(b: &mut Builder, [left, right]: [Value; 2], axes: [usize; 2]) -> Result<Value, TypeError> {
    let (l, r) = (b.shape(left).to_vec(), b.shape(right).to_vec());
    if l.len() <= 2 && r.len() <= 2 || r.len() <= 2 && axes[0] + 1 == l.len() {
        return b.dot_general(left, right, [&[], &[]], [&[axes[0]], &[axes[1]]]);
    }
    let lead = |s: &[usize]| s.len().saturating_sub(2);
    let batch = broadcast_shape(&l[..lead(&l)], &r[..lead(&r)])?;
    let mut widen = |x: Value, shape: &[usize]| b.broadcast_to(x, &[&batch, &shape[lead(shape)..]].concat());
    let (left, right) = (widen(left, &l)?, widen(right, &r)?);
    let shared: Vec<usize> = (0..batch.len()).collect();
    let moved = |axis: usize, s: &[usize]| batch.len() + axis - lead(s);
    b.dot_general(left, right, [&shared, &shared], [&[moved(axes[0], &l)], &[moved(axes[1], &r)]])
}

/// Window of a convolution; one entry per spatial axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Distance between windows.
    pub stride: Vec<usize>,
    /// Zeros before each axis.
    pub pad_low: Vec<usize>,
    /// Zeros after each axis.
    pub pad_high: Vec<usize>,
    /// Distance between the elements of a window.
    pub dilation: Vec<usize>,
    /// Channel groups that do not see each other.
    pub groups: usize,
}

impl ConvSpec {
    /// Stride and dilation 1, no padding, one group.
    pub fn new(spatial_axes: usize) -> Self {
        let [ones, zeros] = [vec![1; spatial_axes], vec![0; spatial_axes]];
        ConvSpec { stride: ones.clone(), pad_low: zeros.clone(), pad_high: zeros, dilation: ones, groups: 1 }
    }
}

/// Convolution (cross-correlation) of `x` `[N, C, S…]` with `w` `[O, C/groups, K…]`, plus `bias` `[O]`.
pub fn conv(b: &mut Builder, x: Value, w: Value, bias: Option<Value>, spec: &ConvSpec) -> Result<Value, TypeError> {
    let spec = spec.clone();
    let op = Convolution {
        stride: spec.stride,
        pad_low: spec.pad_low,
        pad_high: spec.pad_high,
        dilation: spec.dilation,
        groups: spec.groups,
    };
    let y = b.convolution(x, w, op)?;
    add_per_channel(b, y, bias)
}

/// Rows of `table` `[V, D…]` picked by integer `indices` `[I…]`, as `[I…, D…]`.
pub fn embedding(b: &mut Builder, table: Value, indices: Value) -> Result<Value, TypeError> {
    b.gather(table, indices, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::{assert_close, build, evaluate, noise};
    use gradc_ir::tensor::Tensor;
    use gradc_ir::types::{DType, TensorType};

    #[test]
    fn linear_multiplies_by_the_transposed_weight() {
        let y = build(
            &[(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), (&[3, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, -1.0]), (&[3], &[0.5, 0.0, 1.0])],
            |b, x| linear(b, x[0], x[1], Some(x[2])),
        );
        assert_close("linear", y.floats(), &[1.5, 2.0, 1.0, 3.5, 4.0, 3.0], 0.0);
    }

    /// One entry of the product of matrices `a` `[_, k]` and `b` `[k, n]`.
    fn entry(a: &[f64], b: &[f64], [k, n]: [usize; 2], [i, j]: [usize; 2]) -> f64 {
        (0..k).map(|r| a[i * k + r] * b[r * n + j]).sum()
    }

    #[test]
    fn matmul_has_the_shapes_and_values_of_numpy() {
        let cases: [(&[usize], &[usize], &[usize]); 9] = [
            (&[3], &[3], &[]),
            (&[2, 3], &[3], &[2]),
            (&[3], &[3, 4], &[4]),
            (&[2, 3], &[3, 4], &[2, 4]),
            (&[5, 2, 3], &[3, 4], &[5, 2, 4]),
            (&[5, 2, 3], &[5, 3, 4], &[5, 2, 4]),
            (&[2, 3], &[5, 3, 4], &[5, 2, 4]),
            (&[6, 1, 2, 3], &[5, 3, 4], &[6, 5, 2, 4]),
            (&[5, 2, 3], &[3], &[5, 2]),
        ];
        for (l, r, shape) in cases {
            let (x, w) = (noise(l.iter().product(), 1), noise(r.iter().product(), 2));
            let y = build(&[(l, &x), (r, &w)], |b, v| matmul(b, v[0], v[1]));
            assert_eq!(y.ty.shape, shape, "{l:?} by {r:?}");
            let last = [l.iter().rev().nth(1).map_or(0, |m| m - 1), if r.len() == 1 { 0 } else { r[r.len() - 1] - 1 }];
            let n = if r.len() == 1 { 1 } else { r[r.len() - 1] };
            let (x, w) = (&x[x.len() - 3 * (last[0] + 1)..], &w[w.len() - 3 * n..]);
            assert_close("last entry", &y.floats()[y.floats().len() - 1..], &[entry(x, w, [3, n], last)], 1e-12);
        }
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let mut b = Builder::new("test");
        let scalar = b.input("s", TensorType::f32([])).unwrap();
        let [x, y] = ["x", "y"].map(|name| b.input(name, TensorType::f32([2, 3])).unwrap());
        assert!(matmul(&mut b, scalar, x).is_err());
        assert!(matmul(&mut b, x, y).is_err());
        assert!(linear(&mut b, scalar, x, None).is_err());
        assert!(linear(&mut b, x, scalar, None).is_err());
        assert!(conv(&mut b, x, y, None, &ConvSpec::new(1)).is_err());
    }

    /// Two-dimensional convolution by its loops, `[N, C, H, H]` by `[O, C/groups, K, K]`.
    fn conv_loop(x: &[f64], w: &[f64], bias: &[f64], [n, c, h, o, k]: [usize; 5], spec: &ConvSpec) -> Vec<f64> {
        let (stride, pad, dilation) = (spec.stride[0], spec.pad_low[0], spec.dilation[0]);
        let out = (h + pad + spec.pad_high[0] - (k - 1) * dilation - 1) / stride + 1;
        let per_group = c / spec.groups;
        let input = |ex: usize, ch: usize, r: usize, col: usize| {
            let inside = |p: usize| p.checked_sub(pad).filter(|&p| p < h);
            inside(r).zip(inside(col)).map_or(0.0, |(r, col)| x[((ex * c + ch) * h + r) * h + col])
        };
        let mut y = Vec::new();
        for at in 0..n * o * out * out {
            let (ex, oc, i, j) = (at / (o * out * out), at / (out * out) % o, at / out % out, at % out);
            let taps = (0..per_group * k * k).map(|t| (t / (k * k), t / k % k, t % k));
            let first = oc / (o / spec.groups) * per_group;
            let term = |(ci, a, b): (usize, usize, usize)| {
                w[((oc * per_group + ci) * k + a) * k + b]
                    * input(ex, first + ci, i * stride + a * dilation, j * stride + b * dilation)
            };
            y.push(bias[oc] + taps.map(term).sum::<f64>());
        }
        y
    }

    #[test]
    fn convolution_follows_its_loops() {
        let spec = |stride: usize, low: usize, high: usize, dilation: usize, groups: usize| ConvSpec {
            stride: vec![stride; 2],
            pad_low: vec![low; 2],
            pad_high: vec![high; 2],
            dilation: vec![dilation; 2],
            groups,
        };
        let [n, c, h, o, k] = [2, 4, 6, 4, 3];
        for spec in [spec(1, 0, 0, 1, 1), spec(2, 1, 1, 1, 1), spec(1, 2, 1, 2, 2), spec(2, 1, 0, 1, 4)] {
            let (x, bias) = (noise(n * c * h * h, 1), noise(o, 2));
            let w = noise(o * c / spec.groups * k * k, 3);
            let inputs: [(&[usize], &[f64]); 3] =
                [(&[n, c, h, h], &x), (&[o, c / spec.groups, k, k], &w), (&[o], &bias)];
            let y = build(&inputs, |b, v| conv(b, v[0], v[1], Some(v[2]), &spec));
            assert_close(&format!("{spec:?}"), y.floats(), &conv_loop(&x, &w, &bias, [n, c, h, o, k], &spec), 1e-12);
        }
    }

    #[test]
    fn embedding_picks_rows() {
        let table = Tensor::float(TensorType::f32([3, 2]), vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
        let indices = Tensor::int(TensorType::new(DType::I64, [2, 2]), vec![2, 0, 1, 1]);
        let y = evaluate(&[table, indices], |b, x| Ok(vec![embedding(b, x[0], x[1])?]));
        assert_eq!(y[0].ty.shape, [2, 2, 2]);
        assert_eq!(y[0].floats(), [20.0, 21.0, 0.0, 1.0, 10.0, 11.0, 10.0, 11.0]);
    }
}
