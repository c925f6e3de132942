//! The memory a step works in.

use gradc_ir::plan::ALIGNMENT_BYTES;

/// Zero-initialised bytes aligned to [`ALIGNMENT_BYTES`].
#[derive(Debug)]
pub struct AlignedBuffer {
    /// Whole lines of [`ALIGNMENT_BYTES`] from `start` on, and what alignment takes.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A buffer of `len` zero bytes; pages that nothing touches take no memory.
    ///
    /// It is aligned within a larger vector: an allocator that is asked for alignment does not know of pages that they
    /// are zero and writes to all of them.
    pub fn zeroed(len: usize) -> Self {
        let bytes = vec![0_u8; len.next_multiple_of(ALIGNMENT_BYTES) + ALIGNMENT_BYTES - 1];
        let start = bytes.as_ptr().align_offset(ALIGNMENT_BYTES);
        AlignedBuffer { bytes, start, len }
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
        &self.bytes[self.start..][..self.len]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        Self::from_bytes(self.bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero_also_when_cloned() {
        for len in [0, 1, 63, 64, 65, 1 << 20] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!((buffer.len(), buffer.bytes().len()), (len, len));
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
            buffer.bytes_mut().fill(7);
            for buffer in [&buffer, &buffer.clone()] {
                assert_eq!(buffer.bytes().as_ptr().align_offset(ALIGNMENT_BYTES), 0);
                assert_eq!(buffer.bytes(), vec![7; len]);
            }
        }
    }

    /// Resident memory of this process, KiB.
    #[cfg(target_os = "linux")]
    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of every process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has resident memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_nothing_touches_takes_no_memory() {
        let before = resident_kib();
        let mut buffer = AlignedBuffer::zeroed(1 << 28);
        // Other tests run meanwhile.
        assert!(resident_kib() < before + (1 << 17), "a buffer of 256 MiB took memory before it was used");
        buffer.bytes_mut().fill(1);
        assert!(resident_kib() > before + (1 << 17));
    }
}
