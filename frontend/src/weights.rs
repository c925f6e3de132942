//! Tensors in safetensors files: weights, reference numbers, checkpoints.

use crate::replace::Replacement;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType, TypeError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Tensors by name.
pub type Tensors = BTreeMap<String, HostTensor>;

/// Text fields of a file's header.
pub type Metadata = BTreeMap<String, String>;

/// The one header field that holds all others as JSON, sorted: the format's writer orders fields at random, and equal
/// contents must give equal bytes.
const PACKED: &str = "gradc";

/// Reads all tensors of a file.
///
/// # Errors
/// The file cannot be read, is truncated or corrupt, or has a dtype gradc does not hold.
pub fn read(path: &Path) -> Result<Tensors, Diagnostic> {
    read_with_metadata(path).map(|(tensors, _)| tensors)
}

/// Reads all tensors of a file and its metadata; errors as for [`read`].
pub fn read_with_metadata(path: &Path) -> Result<(Tensors, Metadata), Diagnostic> {
    parse(&crate::import::read(path)?).map_err(|d| d.in_file(path.display()))
}

/// Reads all tensors in the bytes of a file; errors as for [`read`], without the file's name.
pub fn parse(bytes: &[u8]) -> Result<(Tensors, Metadata), Diagnostic> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(corrupt)?;
    let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        tensors.insert(name.to_string(), tensor(name, &view)?);
    }
    let plain = || header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let packed = header.metadata().as_ref().and_then(|fields| serde_json::from_str(fields.get(PACKED)?).ok());
    Ok((tensors, packed.unwrap_or_else(plain)))
}

fn corrupt(error: safetensors::SafeTensorError) -> Diagnostic {
    Diagnostic::new("corrupt-safetensors", format!("this is no valid safetensors file: {error}"))
        .help("was the download or copy complete?")
}

fn tensor(name: &str, view: &TensorView) -> Result<HostTensor, Diagnostic> {
    let unsupported = || {
        Diagnostic::new("unsupported-dtype", format!("tensor `{name}` has a dtype gradc does not hold"))
            .expected(DType::ALL.map(DType::name).join(", "))
            .found(format!("{:?}", view.dtype()))
    };
    let dtype = from_file(view.dtype()).ok_or_else(unsupported)?;
    if dtype == DType::Bool && view.data().iter().any(|&byte| byte > 1) {
        return Err(Diagnostic::new("corrupt-safetensors", format!("tensor `{name}` has booleans besides 0 and 1")));
    }
    let wrong = |e: TypeError| Diagnostic::from_type_error("tensor-size", e, Default::default());
    let ty = TensorType::checked(dtype, view.shape()).map_err(wrong)?;
    HostTensor::new(ty, view.data().to_vec()).map_err(wrong)
}

fn from_file(dtype: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|d| to_file(*d) == dtype)
}

fn to_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// Writes tensors and text fields. Atomic: after a crash or a full disk the file is the old one or the new one.
///
/// # Errors
/// The folder cannot be written to; an old file is as it was.
pub fn write(path: &Path, tensors: &Tensors, metadata: &Metadata) -> Result<(), Diagnostic> {
    try_write(path, tensors, metadata).map_err(|e| {
        Diagnostic::new("unwritable-file", format!("the file cannot be written: {e}"))
            .in_file(path.display())
            .help("nothing was replaced; free space or choose another folder")
    })
}

fn try_write(path: &Path, tensors: &Tensors, metadata: &Metadata) -> Result<(), Box<dyn std::error::Error>> {
    let replacement = Replacement::of(path)?;
    let views = tensors.iter().map(|(name, t)| {
        let view = TensorView::new(to_file(t.ty().dtype), t.ty().shape.clone(), t.bytes());
        view.map(|v| (name.as_str(), v))
    });
    let packed = serde_json::to_string(metadata)?;
    let fields = (!metadata.is_empty()).then(|| HashMap::from([(PACKED.to_string(), packed)]));
    serialize_to_file(views.collect::<Result<Vec<_>, _>>()?, fields, replacement.temporary_path())?;
    Ok(replacement.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tensors {
        let tensor = |ty: TensorType| HostTensor::splat(ty, 1.0);
        let all = DType::ALL.into_iter().map(|d| (format!("t.{d}"), tensor(TensorType::new(d, [2, 3]))));
        all.chain([("scalar".to_string(), tensor(TensorType::f32([])))]).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file.safetensors");
        let metadata = Metadata::from([("step".to_string(), "3".to_string())]);
        write(&path, &sample(), &metadata).expect("it is written");
        assert_eq!(read_with_metadata(&path).expect("it is read"), (sample(), metadata));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "no temporary file is left");
    }

    #[test]
    fn damage_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file.safetensors");
        write(&path, &sample(), &Metadata::new()).expect("it is written");
        let bytes = std::fs::read(&path).expect("it is there");
        for end in [0, 4, 9, 40, bytes.len() - 1] {
            assert_eq!(parse(&bytes[..end]).expect_err("it is cut off").code, "corrupt-safetensors");
        }
    }

    #[test]
    fn lying_headers_are_told() {
        let cases = [
            (r#""F32","shape":[1152921504606846976,1152921504606846976],"data_offsets":[0,4]"#, "corrupt-safetensors"),
            (r#""F32","shape":[2],"data_offsets":[0,4]"#, "corrupt-safetensors"),
            (r#""F32","shape":[0],"data_offsets":[0,0]"#, "corrupt-safetensors"),
            (r#""BOOL","shape":[4],"data_offsets":[0,4]"#, "corrupt-safetensors"),
            (r#""U16","shape":[2],"data_offsets":[0,4]"#, "unsupported-dtype"),
        ];
        for (fields, code) in cases {
            let header = format!(r#"{{"t":{{"dtype":{fields}}}}}"#);
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[7; 4]].concat();
            assert_eq!(parse(&file).expect_err("the header lies").code, code, "{fields}");
        }
        assert_eq!(parse(&u64::MAX.to_le_bytes()).expect_err("no header").code, "corrupt-safetensors");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("nowhere/file.safetensors");
        assert_eq!(write(&path, &sample(), &Metadata::new()).expect_err("there is no folder").code, "unwritable-file");
    }
}
