//! Access to the reference models.

use gradc_ir::tensor::HostTensor;
use gradc_ir::types::{DType, TensorType};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the reference models.
pub const MODELS: [&str; 10] = [
    "char_lstm",
    "gpt_tiny",
    "ista_denoiser",
    "lenet",
    "lora_mlp",
    "mlp_digits",
    "mlp_mnist",
    "mobilenetv2_sparse",
    "mobilenetv2_tiny",
    "resnet8",
];

/// Folder of a reference model; `None`, said aloud, where the reference models are not there.
pub fn folder(model: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var_os("GRADC_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let folder = shared.join("reference/models").join(model);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no reference model in {}", folder.display());
    None
}

/// PyTorch's numbers for a model.
pub fn tensors(model: &str) -> Option<BTreeMap<String, HostTensor>> {
    Some(read_safetensors(&folder(model)?.join("reference.safetensors")))
}

/// The tensors of a safetensors file of ours, which is well formed.
pub fn read_safetensors(path: &Path) -> BTreeMap<String, HostTensor> {
    let bytes = std::fs::read(path).expect("the file is readable");
    let file = SafeTensors::deserialize(&bytes).expect("the file is well formed");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView)| {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::U8 => DType::U8,
            Dtype::BOOL => DType::Bool,
            other => panic!("unexpected dtype {other:?} of `{name}`"),
        };
        let ty = TensorType::new(dtype, view.shape().to_vec());
        (name, HostTensor::new(ty, view.data().to_vec()).expect("safetensors checks sizes"))
    };
    file.tensors().into_iter().map(tensor).collect()
}
