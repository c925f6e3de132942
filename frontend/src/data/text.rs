//! Text as characters: ids by sorted order of the distinct characters, cut into windows with next-character targets.

use super::read_bytes;
use gradc_ir::diagnostic::Diagnostic;
use std::collections::BTreeSet;
use std::path::Path;

/// A text as character ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The distinct characters; the id of a character is its position.
    pub vocabulary: Vec<char>,
    /// The text as ids.
    pub ids: Vec<i64>,
}

/// Reads a UTF-8 text file, also gzipped.
pub fn read_text(path: &Path) -> Result<Text, Diagnostic> {
    let bytes = read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let message = format!("the text is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        Diagnostic::new("text-encoding", message).in_file(path.display())
    })?;
    Ok(Text::new(&text))
}

impl Text {
    /// Ids of a text's characters.
    pub fn new(text: &str) -> Self {
        let vocabulary: Vec<char> = text.chars().collect::<BTreeSet<_>>().into_iter().collect();
        let ids =
            text.chars().map(|c| vocabulary.binary_search(&c).expect("every character is in the vocabulary") as i64);
        Text { ids: ids.collect(), vocabulary }
    }
}
