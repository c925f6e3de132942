//! The memory a step works in.

use gradc_ir::plan::ALIGNMENT_BYTES;

/// Pages that large buffers are advised to have, bytes: those of x86-64, and of AArch64 where small ones have 4 KiB.
const LARGE_PAGE_BYTES: usize = 1 << 21;

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
    /// are zero and writes to all of them. From 2 MiB on it begins with a large page, and asks for these.
    pub fn zeroed(len: usize) -> Self {
        let alignment = if len < LARGE_PAGE_BYTES { ALIGNMENT_BYTES } else { LARGE_PAGE_BYTES };
        let bytes = vec![0_u8; len.next_multiple_of(ALIGNMENT_BYTES) + alignment - 1];
        let start = bytes.as_ptr().align_offset(alignment);
        #[cfg(target_os = "linux")]
        advise_large_pages(&bytes[start..][..len]);
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

/// Asks for large pages where memory that nothing has touched yet is made of whole ones: what walks over megabytes then
/// finds its pages without looking them up one by one. Systems may not give them.
#[cfg(target_os = "linux")]
fn advise_large_pages(bytes: &[u8]) {
    let whole = bytes.len() / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    if whole > 0 {
        // SAFETY: the pages are all inside the buffer, and how large they are does not change what they hold.
        unsafe { libc::madvise(bytes.as_ptr().cast_mut().cast(), whole, libc::MADV_HUGEPAGE) };
    }
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

    /// Whether the system was advised of large pages for the memory at an address.
    #[cfg(target_os = "linux")]
    fn is_advised(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells of every mapping");
        let bounds = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        };
        let mut lines = maps.lines().skip_while(|line| !bounds(line).is_some_and(|b| b.contains(&address)));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).expect("every mapping has flags");
        flags.split_whitespace().any(|flag| flag == "hg")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_buffers_are_advised_to_have_large_pages() {
        if !std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or(false) {
            return; // The system has none.
        }
        // So large that it has a mapping of its own.
        let pages = 20;
        let buffer = AlignedBuffer::zeroed(pages * LARGE_PAGE_BYTES + LARGE_PAGE_BYTES / 2);
        let first = buffer.bytes().as_ptr().addr();
        assert!(is_advised(first) && is_advised(first + pages * LARGE_PAGE_BYTES - 1));
        assert!(!is_advised(first + pages * LARGE_PAGE_BYTES), "the page that is not full would take more memory");
    }
}
