//! Memory goes back to the system when the process asks for it. A test binary of its own: it looks at the whole process.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use gradc_codegen::process::{keep_heap_small, release_unused_memory};

/// Resident memory of this process of one kind, KiB.
fn resident_kib(kind: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of every process");
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).expect("it has resident memory");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Frees a block, after which the C library keeps blocks of this size on its heap, where they are resident when freed.
fn raise_limit_of_own_pages() {
    drop(std::hint::black_box(vec![1_u8; 16 << 20]));
}

// One test: both look at the resident memory of the process.
#[test]
fn memory_without_use_is_returned() {
    raise_limit_of_own_pages();
    keep_heap_small();
    let block = std::hint::black_box(vec![1_u8; 8 << 20]);
    let filled_kib = resident_kib("RssAnon");
    drop(block);
    let freed_kib = resident_kib("RssAnon");
    assert!(
        freed_kib + (7 << 10) < filled_kib,
        "{filled_kib} KiB before, {freed_kib} KiB after a block of 8 MiB is freed"
    );

    let before_kib = resident_kib("RssFile");
    release_unused_memory();
    let after_kib = resident_kib("RssFile");
    assert!(after_kib + 256 < before_kib, "{before_kib} KiB of code before, {after_kib} KiB after");
}
