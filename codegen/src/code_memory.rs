//! Executable memory, owned: given back when dropped.

use cranelift_jit::{BranchProtection, JITMemoryKind, JITMemoryProvider, SystemMemoryProvider};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::plan::ALIGNMENT_BYTES;

/// Machine code that can be called for as long as this lives; never written again.
pub(crate) struct CodeMemory {
    provider: SystemMemoryProvider,
    start: *const u8,
    len: usize,
}

// SAFETY: the memory is mapped read and execute only once `new` returns, and belongs to this value alone.
unsafe impl Send for CodeMemory {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Copies code into fresh memory and makes it executable.
    pub fn new(code: &[u8]) -> Result<CodeMemory, Diagnostic> {
        let mut provider = SystemMemoryProvider::new();
        let size = code.len().max(1);
        let start = provider.allocate(size, ALIGNMENT_BYTES as u64, JITMemoryKind::Executable).map_err(refused)?;
        // SAFETY: `start` is the start of `size` writable bytes that nobody else knows of.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), start, code.len()) };
        let memory = CodeMemory { provider, start, len: code.len() };
        memory.finalized()
    }

    fn finalized(mut self) -> Result<CodeMemory, Diagnostic> {
        self.provider.finalize(BranchProtection::None).map_err(refused)?;
        Ok(self)
    }

    /// The code.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `new` filled these bytes, and they stay mapped and unchanged for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: code is only called through a borrow of its owner, so none of it runs any more.
        unsafe { self.provider.free_memory() };
    }
}

impl std::fmt::Debug for CodeMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of code", self.len)
    }
}

fn refused(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new("code-memory", format!("cannot get executable memory: {error}"))
}
