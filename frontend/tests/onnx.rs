//! ONNX import: PyTorch's exports against PyTorch's own numbers, operators against their definitions, hostile files.

mod onnx {
    mod conformance;
    mod files;
    mod hostile;
    mod lost;
    mod models;
    mod reference;
    mod sizes;
}
