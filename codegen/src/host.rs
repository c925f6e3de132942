//! Kernels without a loop form: the reference semantics of an op on converted tensors. Clear and slow.

use gradc_ir::ops::Op;
use gradc_ir::tensor::{HostTensor, Tensor};
use gradc_ir::types::TensorType;

/// An op called from native code.
#[derive(Debug)]
pub(crate) struct HostKernel {
    /// What is evaluated.
    pub op: Op,
    /// Types of the operands.
    pub operands: Vec<TensorType>,
    /// Types of the results.
    pub results: Vec<TensorType>,
}

impl HostKernel {
    /// Evaluates the op; false when it refuses its operands.
    ///
    /// # Safety
    /// `arguments` holds one address per operand and result, each valid for its type's size.
    pub unsafe fn run(&self, arguments: *const *mut u8) -> bool {
        let read = |k: usize, ty: &TensorType| {
            // SAFETY: as promised by the caller.
            let bytes = unsafe { std::slice::from_raw_parts(*arguments.add(k), ty.size_bytes()) };
            HostTensor::new(ty.clone(), bytes.to_vec()).map(|t| t.to_tensor())
        };
        let operands: Result<Vec<Tensor>, _> = self.operands.iter().enumerate().map(|(k, ty)| read(k, ty)).collect();
        let Ok(operands) = operands else { return false };
        let Ok(results) = self.op.eval(&operands.iter().collect::<Vec<_>>()) else { return false };
        for (k, (tensor, ty)) in results.iter().zip(&self.results).enumerate() {
            let host = tensor.to_host();
            if host.ty() != ty {
                return false;
            }
            // SAFETY: as promised by the caller; the bytes just made are not in the step's memory.
            unsafe {
                let to = *arguments.add(self.operands.len() + k);
                std::ptr::copy_nonoverlapping(host.bytes().as_ptr(), to, host.bytes().len());
            }
        }
        true
    }
}
