//! Memory of the process as a whole, which only who owns the process should decide on: the command does.

/// Blocks from this size on have pages of their own, bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES_BYTES: std::ffi::c_int = 1 << 16;

/// Lets every block of more than 64 KiB have pages of its own, which are the system's again as soon as it is freed, and
/// all others come from one heap. To be called before there are threads.
///
/// The C library raises this limit each time a larger block is freed, so weights would lie between what a compilation
/// keeps, and stay resident when they have moved to a session; and it gives threads heaps of their own, though those of
/// a step allocate nothing.
pub fn keep_heap_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets numbers that later allocations look at.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back to the system what the process has freed, and the pages of code and constants of the program and its
/// libraries, of which those come back that are run or read again.
///
/// What a compilation frees lies between what stays, so the C library keeps most of it until it is asked. The code of a
/// compiler is several times what a step of a small model takes.
pub fn release_unused_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it frees nothing that is in use and may be called any time.
        unsafe { libc::malloc_trim(0) };
        // SAFETY: the function keeps to what is asked of it: it returns, and loads no library.
        unsafe { libc::dl_iterate_phdr(Some(release_program_pages), std::ptr::null_mut()) };
    }
}

/// Forgets the pages of those segments of a loaded program or library that are never written.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" fn release_program_pages(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut std::ffi::c_void,
) -> std::ffi::c_int {
    // SAFETY: the caller passes a description that is valid for the call, with so many program headers.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // SAFETY: it reads a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let start = (base + header.p_vaddr).next_multiple_of(page_bytes);
        let end = (base + header.p_vaddr + header.p_filesz) / page_bytes * page_bytes;
        if start < end {
            // SAFETY: these whole pages are mapped from a file, or by the kernel for its own functions, and have never
            // been written, as their segment is not writable; they are mapped again when they are touched.
            unsafe { libc::madvise(start as *mut std::ffi::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}
