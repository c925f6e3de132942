//! NumPy's npy and npz files, read with npyz.

use super::stated_type;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType};
use npyz::{NpyFile, Order, TypeChar};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};

fn malformed(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new("malformed-npy", error.to_string())
}

/// The arrays of an npz file, by name.
pub(super) fn read_npz(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, Diagnostic> {
    let mut archive = npyz::npz::NpzArchive::new(Cursor::new(bytes)).map_err(malformed)?;
    let names: Vec<String> = archive.array_names().map(str::to_string).collect();
    let mut columns = BTreeMap::new();
    for name in names {
        if let Some(array) = archive.by_name(&name).map_err(malformed)? {
            columns.insert(name, read_array(array)?);
        }
    }
    Ok(columns)
}

/// The array of an npy file.
pub(super) fn read_npy(bytes: &[u8]) -> Result<HostTensor, Diagnostic> {
    read_array(NpyFile::new(bytes).map_err(malformed)?)
}

fn read_array<R: Read>(file: NpyFile<R>) -> Result<HostTensor, Diagnostic> {
    if file.order() != Order::C && file.shape().len() > 1 {
        return Err(
            Diagnostic::new("data-layout", "the array is in Fortran order").help("save numpy.ascontiguousarray(array)")
        );
    }
    let shape = file.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect::<Vec<_>>();
    let dtype = element_type(&file)?;
    let ty = stated_type(dtype, shape)?;
    let bytes = elements(file, &ty)?;
    HostTensor::new(ty, bytes).map_err(|e| Diagnostic::from_type_error("truncated-file", e, Default::default()))
}

fn element_type<R: Read>(file: &NpyFile<R>) -> Result<DType, Diagnostic> {
    let text = file.dtype().descr();
    let npyz::DType::Plain(ty) = file.dtype() else {
        return Err(Diagnostic::new("data-dtype", "structured arrays are not read").found(text));
    };
    match (ty.type_char(), ty.num_bytes()) {
        (TypeChar::Float, Some(4)) => Ok(DType::F32),
        (TypeChar::Float, Some(8)) => Ok(DType::F64),
        (TypeChar::Int, Some(8)) => Ok(DType::I64),
        (TypeChar::Int, Some(4)) => Ok(DType::I32),
        (TypeChar::Uint, Some(1)) => Ok(DType::U8),
        (TypeChar::Bool, Some(1)) => Ok(DType::Bool),
        _ => Err(Diagnostic::new("data-dtype", "this element type is not read")
            .expected("f4, f8, i8, i4, u1 or bool")
            .found(text)),
    }
}

fn elements<R: Read>(file: NpyFile<R>, ty: &TensorType) -> Result<Vec<u8>, Diagnostic> {
    macro_rules! bytes_of {
        ($element:ty) => {{
            let values: Vec<$element> = file.into_vec().map_err(malformed)?;
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        }};
    }
    Ok(match ty.dtype {
        DType::F32 => bytes_of!(f32),
        DType::F64 => bytes_of!(f64),
        DType::I64 => bytes_of!(i64),
        DType::I32 => bytes_of!(i32),
        DType::U8 => bytes_of!(u8),
        _ => file.into_vec::<bool>().map_err(malformed)?.into_iter().map(u8::from).collect(),
    })
}
