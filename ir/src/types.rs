//! Element types and tensor types: what a value is, before where it lives.

use std::fmt;
use std::str::FromStr;

/// The largest number of elements a tensor may have (2^40).
///
/// Importers meet hostile files: every size is checked against this before anything is allocated.
pub const MAX_ELEMENTS: usize = 1 << 40;

/// The largest rank a tensor may have.
pub const MAX_RANK: usize = 12;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32, the type models train in.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16 storage.
    F16,
    /// bfloat16 storage.
    BF16,
    /// Signed 64-bit integer (labels, token ids, indices).
    I64,
    /// Signed 32-bit integer (saved indices).
    I32,
    /// Unsigned byte (pixels).
    U8,
    /// Boolean, one byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U8, DType::Bool];

    /// In what to compute with the indices of so many elements: f32 where it has them all, since vectors do most with it.
    pub fn index_of(elements: usize) -> DType {
        if elements <= 1 << f32::MANTISSA_DIGITS { DType::F32 } else { DType::I64 }
    }

    /// Size of one element in bytes.
    pub fn size_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether values are floating point; only these carry gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// Least value of an integer dtype (booleans: 0); `i64::MIN` for floats.
    pub fn least(self) -> i64 {
        match self {
            DType::U8 | DType::Bool => 0,
            DType::I32 => i32::MIN as i64,
            _ => i64::MIN,
        }
    }

    /// Greatest value of an integer dtype (booleans: 1); `i64::MAX` for floats.
    pub fn greatest(self) -> i64 {
        match self {
            DType::U8 => u8::MAX as i64,
            DType::Bool => 1,
            DType::I32 => i32::MAX as i64,
            _ => i64::MAX,
        }
    }

    /// `v` modulo the range of an integer dtype.
    pub fn wrap(self, v: i64) -> i64 {
        match self {
            DType::U8 => v as u8 as i64,
            DType::I32 => v as i32 as i64,
            DType::Bool => v & 1,
            _ => v,
        }
    }

    /// Name in the text format: `f32`, `i64`, …
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| TypeError::new(format!("unknown dtype `{text}`")))
    }
}

/// Logical type of a value: element type and static shape (row-major when flattened).
///
/// Physical layout belongs to buffers, never to types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A type from a dtype and extents whose size is already known to be small enough.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// An f32 tensor type.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        TensorType::new(DType::F32, shape)
    }

    /// A type from extents of unknown origin; refuses sizes above [`MAX_ELEMENTS`] and ranks above [`MAX_RANK`].
    pub fn checked(dtype: DType, shape: impl Into<Vec<usize>>) -> Result<Self, TypeError> {
        let ty = TensorType::new(dtype, shape);
        ty.check_size()?;
        Ok(ty)
    }

    /// Fails when the shape has too many elements or axes to be held.
    pub fn check_size(&self) -> Result<(), TypeError> {
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        let in_range = count.is_some_and(|n| n <= MAX_ELEMENTS) && self.shape.len() <= MAX_RANK;
        if in_range {
            return Ok(());
        }
        Err(TypeError::new(format!("tensor type {self} is too large"))
            .expected(format!("at most {MAX_ELEMENTS} elements and {MAX_RANK} axes")))
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size of the contiguous tensor in bytes.
    pub fn size_bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }

    /// The same shape with another dtype.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        TensorType::new(dtype, self.shape.clone())
    }

    /// The same dtype with another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        TensorType::new(self.dtype, shape)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}

/// Row-major strides of a shape, in elements.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

/// Coordinates of a row-major position.
pub fn unravel(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut coordinates = vec![0; shape.len()];
    for d in (0..shape.len()).rev() {
        coordinates[d] = position % shape[d];
        position /= shape[d];
    }
    coordinates
}

/// Why an op does not accept its operands or attributes.
///
/// Carries no place: whoever applies the op knows the place and turns this into a
/// [`Diagnostic`](crate::diagnostic::Diagnostic).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", self.suffix())]
pub struct TypeError {
    /// What is wrong, in one sentence.
    pub message: String,
    /// What would have been accepted.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
}

impl TypeError {
    /// An error with only a message.
    pub fn new(message: impl Into<String>) -> Self {
        TypeError { message: message.into(), expected: None, found: None }
    }

    /// Adds what would have been accepted.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self
    }

    /// Adds what was there.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }

    fn suffix(&self) -> String {
        let part =
            |label: &str, value: &Option<String>| value.as_ref().map(|v| format!("; {label} {v}")).unwrap_or_default();
        part("expected", &self.expected) + &part("found", &self.found)
    }
}
