//! IDX, the format of MNIST: magic `00 00 type rank`, big-endian u32 extents, big-endian elements.

use super::stated_type;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::DType;

/// Whether the file starts as IDX files do.
pub(super) fn is_idx(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, kind, rank, ..] if dtype(*kind).is_some() && *rank > 0)
}

fn dtype(kind: u8) -> Option<DType> {
    match kind {
        0x08 => Some(DType::U8),
        0x0C => Some(DType::I32),
        0x0D => Some(DType::F32),
        0x0E => Some(DType::F64),
        _ => None,
    }
}

/// The tensor in an IDX file.
pub(super) fn read_idx(bytes: &[u8]) -> Result<HostTensor, Diagnostic> {
    let truncated = |expected: usize| {
        Diagnostic::new("truncated-file", "the IDX file is cut off")
            .expected(format!("{expected} bytes"))
            .found(format!("{} bytes", bytes.len()))
    };
    let (kind, rank) = (bytes[2], bytes[3] as usize);
    let dtype = dtype(kind)
        .ok_or_else(|| Diagnostic::new("data-dtype", "unknown IDX element type").found(format!("{kind:#04x}")))?;
    let header = 4 + 4 * rank;
    let extents = bytes.get(4..header).ok_or_else(|| truncated(header))?;
    let shape = extents.as_chunks::<4>().0.iter().map(|w| u32::from_be_bytes(*w) as usize).collect();
    let ty = stated_type(dtype, shape)?;
    let end = header + ty.size_bytes();
    let data = bytes.get(header..end).ok_or_else(|| truncated(end))?;
    let native = data.chunks(dtype.size_bytes()).flat_map(|word| word.iter().rev().copied()).collect();
    HostTensor::new(ty, native).map_err(|e| Diagnostic::from_type_error("data-shape", e, Default::default()))
}
