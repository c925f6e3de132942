//! Tensor data: [`HostTensor`] as files and hosts hold it, [`Tensor`] as the interpreter computes with it.

use crate::scalar::Number;
use crate::types::{DType, TensorType, TypeError};
use half::{bf16, f16};
use std::sync::Arc;

/// Tensor bytes in native little-endian layout, row-major and contiguous. Clones share them.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    ty: TensorType,
    bytes: Arc<Vec<u8>>,
}

impl HostTensor {
    /// Wraps bytes; fails when their number does not fit the type.
    pub fn new(ty: TensorType, bytes: Vec<u8>) -> Result<Self, TypeError> {
        ty.check_size()?;
        if bytes.len() != ty.size_bytes() {
            return Err(TypeError::new(format!("data of a {ty} tensor has the wrong size"))
                .expected(format!("{} bytes", ty.size_bytes()))
                .found(format!("{} bytes", bytes.len())));
        }
        Ok(HostTensor { ty, bytes: Arc::new(bytes) })
    }

    /// An f32 tensor from values in row-major order.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Result<Self, TypeError> {
        Self::new(TensorType::f32(shape), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An i64 tensor from values in row-major order.
    pub fn from_i64(shape: impl Into<Vec<usize>>, values: &[i64]) -> Result<Self, TypeError> {
        Self::new(TensorType::new(DType::I64, shape), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A tensor with every element equal to `value`, rounded or truncated to `ty.dtype`.
    pub fn splat(ty: TensorType, value: f64) -> Self {
        let one = Tensor::splat(TensorType::new(ty.dtype, []), value).to_host();
        let bytes = one.bytes.repeat(ty.elements());
        HostTensor { ty, bytes: Arc::new(bytes) }
    }

    /// Type of the tensor.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The contiguous little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The contiguous little-endian bytes, to be overwritten; clones keep what they have.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        Arc::<Vec<u8>>::make_mut(&mut self.bytes)
    }

    /// The same bytes under another shape with as many elements.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Result<Self, TypeError> {
        let ty = self.ty.with_shape(shape);
        ty.check_size()?;
        if ty.elements() != self.ty.elements() {
            return Err(TypeError::new("shapes differ in the number of elements").expected(&self.ty).found(ty));
        }
        Ok(HostTensor { ty, bytes: self.bytes })
    }

    /// Elements as f32; `None` for another dtype.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.ty.dtype == DType::F32).then(|| words(&self.bytes).map(f32::from_le_bytes).collect())
    }

    /// Elements as i64; `None` for another dtype.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        (self.ty.dtype == DType::I64).then(|| words(&self.bytes).map(i64::from_le_bytes).collect())
    }

    /// The interpreter's view of the same values (floats widened to f64, which is exact).
    pub fn to_tensor(&self) -> Tensor {
        let b = &self.bytes;
        let data = match self.ty.dtype {
            DType::F32 => Data::Float(words(b).map(|w| f32::from_le_bytes(w) as f64).collect()),
            DType::F64 => Data::Float(words(b).map(f64::from_le_bytes).collect()),
            DType::F16 => Data::Float(words(b).map(|w| f16::from_le_bytes(w).to_f64()).collect()),
            DType::BF16 => Data::Float(words(b).map(|w| bf16::from_le_bytes(w).to_f64()).collect()),
            DType::I64 => Data::Int(words(b).map(i64::from_le_bytes).collect()),
            DType::I32 => Data::Int(words(b).map(|w| i32::from_le_bytes(w) as i64).collect()),
            DType::U8 | DType::Bool => Data::Int(b.iter().map(|&v| v as i64).collect()),
        };
        Tensor { ty: self.ty.clone(), data }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Values as the interpreter holds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floating-point dtypes, computed in f64.
    Float(Vec<f64>),
    /// Integer dtypes and booleans (0 or 1).
    Int(Vec<i64>),
}

/// A tensor of the interpreter: row-major, floats in f64 whatever the dtype says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Logical type.
    pub ty: TensorType,
    /// Elements in row-major order.
    pub data: Data,
}

impl Tensor {
    /// A float tensor; `values` must have as many elements as `ty`.
    pub fn float(ty: TensorType, values: Vec<f64>) -> Self {
        debug_assert_eq!(ty.elements(), values.len());
        Tensor { ty, data: Data::Float(values) }
    }

    /// An integer or boolean tensor; `values` must have as many elements as `ty`.
    pub fn int(ty: TensorType, values: Vec<i64>) -> Self {
        debug_assert_eq!(ty.elements(), values.len());
        Tensor { ty, data: Data::Int(values) }
    }

    /// A tensor with every element equal to `value`.
    pub fn splat(ty: TensorType, value: f64) -> Self {
        let n = ty.elements();
        if ty.dtype.is_float() { Tensor::float(ty, vec![value; n]) } else { Tensor::int(ty, vec![value as i64; n]) }
    }

    /// Float elements; panics on an integer tensor, which inference has ruled out.
    pub fn floats(&self) -> &[f64] {
        match &self.data {
            Data::Float(v) => v,
            Data::Int(_) => panic!("float tensor expected, found {}", self.ty),
        }
    }

    /// Integer elements; panics on a float tensor, which inference has ruled out.
    pub fn ints(&self) -> &[i64] {
        match &self.data {
            Data::Int(v) => v,
            Data::Float(_) => panic!("integer tensor expected, found {}", self.ty),
        }
    }

    /// Element `k` in row-major order.
    pub fn number(&self, k: usize) -> Number {
        match &self.data {
            Data::Float(v) => Number::Float(v[k]),
            Data::Int(v) => Number::Int(v[k]),
        }
    }

    /// A tensor from elements in row-major order, which must be of the kind of `ty` and as many.
    pub fn from_numbers(ty: TensorType, numbers: impl IntoIterator<Item = Number>) -> Tensor {
        let float = |n| if let Number::Float(v) = n { v } else { panic!("float expected, found {n:?}") };
        let int = |n| if let Number::Int(v) = n { v } else { panic!("integer expected, found {n:?}") };
        if ty.dtype.is_float() {
            Tensor::float(ty, numbers.into_iter().map(float).collect())
        } else {
            Tensor::int(ty, numbers.into_iter().map(int).collect())
        }
    }

    /// A tensor of type `ty` whose element `k` is this tensor's element `index(k)`.
    pub fn gather_flat(&self, ty: TensorType, index: impl Fn(usize) -> usize) -> Tensor {
        let n = ty.elements();
        match &self.data {
            Data::Float(v) => Tensor::float(ty, (0..n).map(|k| v[index(k)]).collect()),
            Data::Int(v) => Tensor::int(ty, (0..n).map(|k| v[index(k)]).collect()),
        }
    }

    /// Slice `at` along the leading axis, without that axis.
    pub fn slice(&self, at: usize) -> Tensor {
        let ty = self.ty.with_shape(&self.ty.shape[1..]);
        let size = ty.elements();
        self.gather_flat(ty, |k| at * size + k)
    }

    /// Slices along a new leading axis of type `ty`.
    pub fn stack<'a>(ty: TensorType, slices: impl IntoIterator<Item = &'a Tensor>) -> Tensor {
        let mut stacked = Tensor::splat(ty.with_shape([0]), 0.0);
        for slice in slices {
            match &mut stacked.data {
                Data::Float(all) => all.extend(slice.floats()),
                Data::Int(all) => all.extend(slice.ints()),
            }
        }
        Tensor { ty, ..stacked }
    }

    /// The block with number `at` of the `count` of equal length that `axis` is cut into.
    pub fn block(&self, axis: usize, count: usize, at: usize) -> Tensor {
        let mut shape = self.ty.shape.clone();
        shape[axis] /= count;
        let run: usize = shape[axis..].iter().product();
        self.gather_flat(self.ty.with_shape(shape), |k| (k / run * count + at) * run + k % run)
    }

    /// The tensor of type `ty` whose [blocks](Self::block) along `axis` are these.
    pub fn joined(ty: TensorType, axis: usize, blocks: &[&Tensor]) -> Tensor {
        let run = ty.shape[axis..].iter().product::<usize>() / blocks.len();
        let number = |k: usize| blocks[k / run % blocks.len()].number(k / run / blocks.len() * run + k % run);
        let numbers: Vec<Number> = (0..ty.elements()).map(number).collect();
        Tensor::from_numbers(ty, numbers)
    }

    /// Values rounded to the dtype's storage precision (identity for f64 and integers).
    pub fn rounded(&self) -> Tensor {
        self.to_host().to_tensor()
    }

    /// Encodes as the dtype's bytes, rounding floats to nearest even and wrapping integers.
    pub fn to_host(&self) -> HostTensor {
        let bytes = match (&self.data, self.ty.dtype) {
            (Data::Float(v), DType::F32) => v.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
            (Data::Float(v), DType::F16) => v.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect(),
            (Data::Float(v), DType::BF16) => v.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect(),
            (Data::Float(v), _) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            (Data::Int(v), DType::I32) => v.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect(),
            (Data::Int(v), DType::U8 | DType::Bool) => v.iter().map(|&x| x as u8).collect(),
            (Data::Int(v), _) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        HostTensor { ty: self.ty.clone(), bytes: Arc::new(bytes) }
    }
}
