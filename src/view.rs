//! Tensors borrowed from a host, or by it: copied only where they are stored in another order.

use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use std::borrow::Cow;

/// A contiguous row-major tensor, in somebody else's memory unless it had to be put in that order.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    ty: TensorType,
    bytes: Cow<'a, [u8]>,
}

impl<'a> TensorView<'a> {
    /// A view of bytes; fails when their number does not fit the type.
    pub fn new(ty: TensorType, bytes: &'a [u8]) -> Result<Self, TypeError> {
        if ty.size_bytes() == bytes.len() {
            return Ok(TensorView { ty, bytes: Cow::Borrowed(bytes) });
        }
        let error = TypeError::new(format!("data of a {ty} tensor has the wrong size"));
        Err(error.expected(format!("{} bytes", ty.size_bytes())).found(format!("{} bytes", bytes.len())))
    }

    /// The tensor of as many bytes as its type has.
    pub(crate) fn owned(ty: TensorType, bytes: Vec<u8>) -> Self {
        TensorView { ty, bytes: Cow::Owned(bytes) }
    }

    /// A view of f32 values.
    pub fn f32(shape: &[usize], values: &'a [f32]) -> Result<Self, TypeError> {
        Self::new(TensorType::f32(shape), bytemuck::cast_slice(values))
    }

    /// A view of i64 values.
    pub fn i64(shape: &[usize], values: &'a [i64]) -> Result<Self, TypeError> {
        Self::new(TensorType::new(DType::I64, shape), bytemuck::cast_slice(values))
    }

    /// Type of the tensor.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Little-endian bytes in row-major order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Elements as f32, converted when the dtype is another.
    pub fn to_f32(&self) -> Vec<f32> {
        if self.ty.dtype == DType::F32 {
            return self.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        }
        let tensor = self.to_host().to_tensor();
        match tensor.data {
            gradc_ir::tensor::Data::Float(values) => values.into_iter().map(|v| v as f32).collect(),
            gradc_ir::tensor::Data::Int(values) => values.into_iter().map(|v| v as f32).collect(),
        }
    }

    /// Elements of an integer or boolean tensor; none of a tensor of floats.
    pub(crate) fn ints(&self) -> impl Iterator<Item = i64> {
        let dtype = self.ty.dtype;
        self.bytes.chunks_exact(dtype.size_bytes()).filter_map(move |bytes| match dtype {
            DType::Bool | DType::U8 => Some(bytes[0].into()),
            DType::I32 => bytes.try_into().ok().map(|b| i32::from_le_bytes(b).into()),
            DType::I64 => bytes.try_into().ok().map(i64::from_le_bytes),
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => None,
        })
    }

    /// Whether no element is NaN or infinite.
    pub(crate) fn is_finite(&self) -> bool {
        let mut elements = self.bytes.chunks_exact(self.ty.dtype.size_bytes());
        match self.ty.dtype {
            DType::F32 => elements.all(|b| b.try_into().is_ok_and(|b| f32::from_le_bytes(b).is_finite())),
            DType::F64 => elements.all(|b| b.try_into().is_ok_and(|b| f64::from_le_bytes(b).is_finite())),
            DType::F16 | DType::BF16 => self.to_f32().iter().all(|v| v.is_finite()),
            DType::Bool | DType::U8 | DType::I32 | DType::I64 => true,
        }
    }

    /// An owned copy.
    pub fn to_host(&self) -> HostTensor {
        HostTensor::new(self.ty.clone(), self.bytes.to_vec()).expect("a view has as many bytes as its type")
    }
}

impl<'a> From<&'a HostTensor> for TensorView<'a> {
    fn from(tensor: &'a HostTensor) -> Self {
        TensorView { ty: tensor.ty().clone(), bytes: Cow::Borrowed(tensor.bytes()) }
    }
}
