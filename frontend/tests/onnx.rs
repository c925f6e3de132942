//! ONNX import: PyTorch's exports against PyTorch's own numbers, operators against their definitions, hostile files.

mod onnx {
    mod models;
    mod reference;
}
