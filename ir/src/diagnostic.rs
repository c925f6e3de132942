//! What a user is told when something is wrong: code, place, expected, found, what to do.

use crate::types::TypeError;
use std::fmt;

/// Where a node or an error comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loc {
    /// Source file (model file or the user's own program), empty when unknown.
    pub file: String,
    /// Line in `file`, 1-based; 0 when unknown.
    pub line: u32,
    /// Path of the layer, as the model names it: `blocks.3.attn.qkv`.
    pub layer: String,
    /// Op as the source calls it: `aten.linear.default`, `Gemm`, …
    pub source_op: String,
    /// Whether the node was made by differentiating the node at this place.
    pub backward: bool,
}

impl Loc {
    /// The place of the backward computation of this node.
    pub fn to_backward(&self) -> Loc {
        Loc { backward: true, ..self.clone() }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Loc::default()
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (self.file.as_str(), self.line) {
            ("", 0) => {}
            ("", line) => parts.push(format!("line {line}")),
            (file, 0) => parts.push(file.into()),
            (file, line) => parts.push(format!("{file}:{line}")),
        }
        if !self.layer.is_empty() {
            parts.push(format!("`{}`", self.layer));
        }
        if !self.source_op.is_empty() {
            parts.push(format!("({})", self.source_op));
        }
        if self.backward {
            parts.push("backward".into());
        }
        f.write_str(&parts.join(" "))
    }
}

/// One problem, told completely.
///
/// `code` is stable and kebab-case (`unknown-op`, `shape-mismatch`); scripts and the documentation refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable kebab-case code.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where.
    pub loc: Loc,
    /// What would have been accepted.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic with only a code and a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { code, message: message.into(), loc: Loc::default(), expected: None, found: None, help: None }
    }

    /// A type error at a place.
    pub fn from_type_error(code: &'static str, error: TypeError, loc: Loc) -> Self {
        Diagnostic { code, message: error.message, loc, expected: error.expected, found: error.found, help: None }
    }

    /// Sets the place.
    pub fn at(mut self, loc: Loc) -> Self {
        self.loc = loc;
        self
    }

    /// Sets the place to a file.
    pub fn in_file(mut self, file: impl fmt::Display) -> Self {
        self.loc.file = file.to_string();
        self
    }

    /// Adds what would have been accepted.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self
    }

    /// Adds what was there.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if !self.loc.is_unknown() {
            write!(f, "\n  --> {}", self.loc)?;
        }
        for (label, value) in [("expected", &self.expected), ("   found", &self.found), ("    help", &self.help)] {
            if let Some(value) = value {
                write!(f, "\n  {label}: {value}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// Everything found wrong at once; never empty when returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Diagnostics(vec![one])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(Diagnostic::to_string).collect();
        f.write_str(&all.join("\n"))
    }
}

impl std::error::Error for Diagnostics {}

/// The known word that a misspelt one was probably meant to be.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let distances = known.iter().map(|k| (strsim::damerau_levenshtein(word, k), *k));
    distances.min().filter(|&(distance, k)| distance <= k.len().div_ceil(3)).map(|(_, k)| k)
}
