//! Tensors of an ONNX file: elements inside the message or in a file beside the model.

use super::proto::{TensorProto, lookup};
use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The dtype that stands for an ONNX `DataType`, or why there is none.
pub fn dtype(data_type: i32) -> Result<DType, TypeError> {
    const DTYPES: [(i32, DType); 8] = [
        (1, DType::F32),
        (2, DType::U8),
        (6, DType::I32),
        (7, DType::I64),
        (9, DType::Bool),
        (10, DType::F16),
        (11, DType::F64),
        (16, DType::BF16),
    ];
    DTYPES.iter().find(|(code, _)| *code == data_type).map(|(_, dtype)| *dtype).ok_or_else(|| {
        TypeError::new("the element type is not supported")
            .expected("FLOAT, DOUBLE, FLOAT16, BFLOAT16, INT64, INT32, UINT8 or BOOL")
            .found(format!("DataType {data_type}"))
    })
}

/// Reads tensors of one model file; each external file is opened once.
pub struct TensorReader {
    folder: PathBuf,
    file: String,
    opened: HashMap<String, File>,
}

impl TensorReader {
    /// A reader for the model at `path`.
    pub fn new(path: &Path) -> Self {
        let file = path.file_name().map_or_else(String::new, |f| f.to_string_lossy().into_owned());
        TensorReader { folder: path.parent().unwrap_or(Path::new("")).to_path_buf(), file, opened: HashMap::new() }
    }

    /// The tensor of a message; consumes its bytes.
    ///
    /// # Errors
    /// A diagnostic naming the tensor when its type is not supported, its size is absurd or does not fit its data, or
    /// its external file cannot be read.
    pub fn read(&mut self, proto: &mut TensorProto) -> Result<HostTensor, Diagnostic> {
        self.read_inner(proto).map_err(|(code, error)| {
            let error = TypeError { message: format!("tensor `{}`: {}", proto.name, error.message), ..error };
            Diagnostic::from_type_error(code, error, Loc { file: self.file.clone(), ..Loc::default() })
        })
    }

    fn read_inner(&mut self, proto: &mut TensorProto) -> Result<HostTensor, (&'static str, TypeError)> {
        let invalid = |e| ("invalid-tensor", e);
        let ty = tensor_type(proto).map_err(invalid)?;
        if proto.segment.is_some() {
            return Err(invalid(TypeError::new("segmented tensors are not supported")));
        }
        let bytes = match proto.data_location {
            0 => match proto.raw_data.take() {
                Some(raw) => raw,
                None => typed_bytes(proto, ty.dtype),
            },
            1 => self.external_bytes(proto, &ty).map_err(|e| ("external-data", e))?,
            other => return Err(invalid(TypeError::new("unknown data location").expected("0 or 1").found(other))),
        };
        HostTensor::new(ty, normal_bools(proto.data_type, bytes)).map_err(invalid)
    }

    fn external_bytes(&mut self, proto: &TensorProto, ty: &TensorType) -> Result<Vec<u8>, TypeError> {
        let entries = &proto.external_data;
        let location = lookup(entries, "location").ok_or_else(|| TypeError::new("external data has no `location`"))?;
        let offset_bytes = number(lookup(entries, "offset"), 0)?;
        let length_bytes = number(lookup(entries, "length"), ty.size_bytes() as u64)?;
        if length_bytes != ty.size_bytes() as u64 {
            return Err(TypeError::new(format!("external data of a {ty} tensor has the wrong length"))
                .expected(format!("{} bytes", ty.size_bytes()))
                .found(format!("{length_bytes} bytes")));
        }
        let file = self.open(location)?;
        let failed = |e: std::io::Error| TypeError::new(format!("external file `{location}` cannot be read: {e}"));
        let size_bytes = file.metadata().map_err(failed)?.len();
        if offset_bytes.checked_add(length_bytes).is_none_or(|end| end > size_bytes) {
            return Err(TypeError::new(format!("external file `{location}` is too short"))
                .expected(format!("{length_bytes} bytes from byte {offset_bytes}"))
                .found(format!("{size_bytes} bytes")));
        }
        let mut bytes = vec![0; ty.size_bytes()];
        file.seek(SeekFrom::Start(offset_bytes)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Opens a file in the model's folder or below; a path that could lead out of it is refused.
    fn open(&mut self, location: &str) -> Result<&mut File, TypeError> {
        let path = Path::new(location);
        if location.is_empty() || !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(TypeError::new("external data must lie beside the model")
                .expected("a relative path without `..`")
                .found(format!("`{location}`")));
        }
        if !self.opened.contains_key(location) {
            let file = File::open(self.folder.join(path))
                .map_err(|e| TypeError::new(format!("external file `{location}` cannot be opened: {}", e.kind())))?;
            self.opened.insert(location.to_string(), file);
        }
        Ok(self.opened.get_mut(location).expect("the file was just inserted"))
    }
}

fn number(text: Option<&str>, default: u64) -> Result<u64, TypeError> {
    text.map_or(Ok(default), |t| {
        t.parse().map_err(|_| TypeError::new("external data has a malformed number").expected("bytes").found(t))
    })
}

fn tensor_type(proto: &TensorProto) -> Result<TensorType, TypeError> {
    let extent = |&d: &i64| usize::try_from(d).map_err(|_| TypeError::new("an extent is negative").found(d));
    let shape = proto.dims.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
    TensorType::checked(dtype(proto.data_type)?, shape)
}

/// Little-endian bytes of the typed field that belongs to `dtype`; another field's elements leave this one empty,
/// which the size check then reports.
fn typed_bytes(proto: &TensorProto, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => proto.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 | DType::BF16 => proto.int32_data.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
        DType::U8 | DType::Bool => proto.int32_data.iter().map(|&v| v as u8).collect(),
    }
}

/// Booleans as 0 and 1, whatever non-zero byte the file holds for true.
fn normal_bools(data_type: i32, mut bytes: Vec<u8>) -> Vec<u8> {
    if dtype(data_type) == Ok(DType::Bool) {
        bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    bytes
}
