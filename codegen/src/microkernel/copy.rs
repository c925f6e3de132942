//! Copying lines into panels, several vectors at a time.

/// `to[k][i] = from[lines[k] + i]` for `count` floats per depth, at most 48. Offsets are in elements; any alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines<'a> {
    /// What the offsets count from.
    pub from: *const f32,
    /// Where each depth begins.
    pub lines: &'a [i32],
    /// Elements of each, next to each other.
    pub count: usize,
    /// The panel.
    pub to: *mut f32,
    /// From one depth to the next in the panel.
    pub width: usize,
}

/// Copies with what any processor of the target has.
///
/// # Safety
/// The lines and their places in the panel are valid.
pub(super) unsafe fn portable(lines: &Lines) {
    // SAFETY: as promised by the caller.
    unsafe { copy(lines) }
}

/// In 256-bit vectors.
///
/// # Safety
/// As for [`portable`], and the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
pub(super) unsafe fn avx(lines: &Lines) {
    // SAFETY: as promised by the caller.
    unsafe { copy(lines) }
}

/// In 512-bit vectors.
///
/// # Safety
/// As for [`portable`], and the processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(lines: &Lines) {
    // SAFETY: as promised by the caller.
    unsafe { copy(lines) }
}

#[inline(always)]
unsafe fn copy(lines: &Lines) {
    let count = lines.count;
    // SAFETY: as promised by the caller.
    unsafe {
        match count {
            0..4 => (0..count).for_each(|i| copy_pieces::<1, 1>(lines, [i])),
            4..8 => copy_pieces::<4, 2>(lines, [0, count - 4]),
            8..16 => copy_pieces::<8, 2>(lines, [0, count - 8]),
            16 => copy_pieces::<16, 1>(lines, [0]),
            17..=32 => copy_pieces::<16, 2>(lines, [0, count - 16]),
            _ => copy_pieces::<16, 3>(lines, [0, 16, count - 16]),
        }
    }
}

/// Copies the pieces of `N` floats that begin at these places of each depth; they may overlap.
#[inline(always)]
unsafe fn copy_pieces<const N: usize, const PIECES: usize>(
    &Lines { from, lines, to, width, .. }: &Lines,
    pieces: [usize; PIECES],
) {
    for (k, &line) in lines.iter().enumerate() {
        for first in pieces {
            // SAFETY: as promised by the caller.
            unsafe {
                let piece = from.offset(line as isize).add(first).cast::<[f32; N]>();
                to.add(k * width + first).cast::<[f32; N]>().write_unaligned(piece.read_unaligned());
            }
        }
    }
}
