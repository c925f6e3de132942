//! Import of torch.export programs: PyTorch's exports against PyTorch's own numbers, ops against their definitions,
//! damaged files.

mod torch_export {
    mod hostile;
    mod models;
    mod ops;
    mod program;
    mod regions;
    mod semantics;
}
