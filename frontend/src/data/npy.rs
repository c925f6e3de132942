//! NumPy's npy and npz files, read with npyz.

use super::stated_type;
use crate::zip::Zip;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType};
use npyz::{NpyFile, Order, TypeChar};
use std::collections::BTreeMap;
use std::io::Read;

fn malformed(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new("malformed-npy", error.to_string())
}

/// The arrays of an npz file, by name: a zip archive of npy files.
pub(super) fn read_npz(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, Diagnostic> {
    let archive = Zip::of_bytes(bytes)?;
    let mut columns = BTreeMap::new();
    for entry in archive.names() {
        if let (Some(name), Some(array)) = (entry.strip_suffix(".npy"), archive.read(entry)?) {
            columns.insert(name.to_string(), read_npy(&array)?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::tests::deflated;

    /// A version 1.0 npy file.
    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn arrays_of_an_npz_file_go_by_name() {
        let x = npy("<i4", "(2, 1)", &[1, 0, 0, 0, 254, 255, 255, 255]);
        let y = npy("|u1", "(3,)", &[4, 5, 6]);
        let columns = read_npz(&deflated(&[("x.npy", &x), ("y.npy", &y), ("notes.txt", b"no array")])).unwrap();
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(*columns["x"].ty(), TensorType::new(DType::I32, [2, 1]));
        assert_eq!(columns["x"].to_tensor().ints(), [1, -2]);
        assert_eq!(columns["y"].to_tensor().ints(), [4, 5, 6]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let code = |file: &[u8]| read_npy(file).map_err(|d| d.code);
        assert_eq!(code(b"no numpy"), Err("malformed-npy"));
        assert_eq!(code(&npy("<c8", "(1,)", &[0; 8])), Err("data-dtype"));
        assert_eq!(code(&npy("<f4", "(2,)", &[0; 4])), Err("malformed-npy"));
        assert_eq!(code(&npy("<f4", "(1099511627777,)", &[0; 4])), Err("data-shape"));
    }
}
