//! The memory a step works in.

use gradc_ir::plan::ALIGNMENT_BYTES;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// Zero-initialised bytes aligned to [`ALIGNMENT_BYTES`].
#[derive(Debug)]
pub struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT_BYTES]);

impl AlignedBuffer {
    /// A buffer of `len` zero bytes; pages that nothing touches take no memory.
    pub fn zeroed(len: usize) -> Self {
        let count = len.div_ceil(ALIGNMENT_BYTES);
        let layout = Layout::array::<Line>(count).expect("sizes of buffers were checked when they were planned");
        if count == 0 {
            return AlignedBuffer { lines: vec![], len };
        }
        // SAFETY: the layout is that of a vector of `count` lines and is not empty; zeros are valid lines.
        let lines = unsafe {
            let start = alloc_zeroed(layout);
            if start.is_null() {
                handle_alloc_error(layout);
            }
            Vec::from_raw_parts(start.cast(), count, count)
        };
        AlignedBuffer { lines, len }
    }

    /// A buffer holding a copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines are initialised, contiguous and at least `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of `self` covers the lines, and any byte is a valid value.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        AlignedBuffer { lines: self.lines.clone(), len: self.len }
    }
}

/// The blocks one call of an entry works in, apart from the host's own slices.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Intermediate values.
    pub arena: &'a mut AlignedBuffer,
    /// Parameters, buffers and state.
    pub persistent: &'a mut AlignedBuffer,
    /// Constants of the model.
    pub constants: &'a AlignedBuffer,
    /// Work space of kernels, at least [`scratch_bytes`](crate::Executable::scratch_bytes) of the pool.
    pub scratch: &'a mut AlignedBuffer,
}
