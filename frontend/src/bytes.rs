//! Sizes in bytes as people write them.

/// A number of bytes: `4096`, or with suffix K, M or G (also KiB, KB, …) for powers of 1024.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("unknown unit `{unit}`; expected K, M or G")),
    };
    let count: usize = digits.parse().map_err(|_| format!("`{text}` is not a size"))?;
    count.checked_shl(shift).filter(|n| n >> shift == count).ok_or_else(|| format!("`{text}` is too large"))
}
