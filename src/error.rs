//! Errors of a running session.

use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};

/// Why a call of a session failed. Nothing was updated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// An input is missing, unknown, of the wrong type, or holds an index out of range.
    #[error("{0}")]
    Input(Diagnostic),
    /// A checked value (the loss) is not finite; parameters, buffers and state are as before the call.
    #[error("{}", non_finite(.output, .origin, .loc))]
    NonFinite {
        /// Name of the checked output.
        output: String,
        /// What made it so, if it could be found.
        origin: Option<Origin>,
        /// Where that comes from.
        loc: Loc,
    },
    /// A checkpoint cannot be read or written.
    #[error("{0}")]
    Checkpoint(Diagnostic),
}

/// What a value that is not finite comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The first op, by name, with a result that is not finite although its operands are.
    Op(String),
    /// An input of the call, by name, that is not finite itself.
    Input(String),
    /// A tensor of the session, by name, that is not finite itself: loaded so, or updated to it.
    Stored(String),
}

impl SessionError {
    /// The error as a diagnostic.
    pub fn into_diagnostic(self) -> Diagnostic {
        let message = self.to_string();
        match self {
            SessionError::Input(diagnostic) | SessionError::Checkpoint(diagnostic) => diagnostic,
            SessionError::NonFinite { loc, origin, .. } => {
                Diagnostic::new("non-finite", message).at(loc).help(help(&origin))
            }
        }
    }
}

impl From<Diagnostics> for SessionError {
    fn from(mut diagnostics: Diagnostics) -> Self {
        SessionError::Input(if diagnostics.0.is_empty() {
            Diagnostic::new("session", "unknown error")
        } else {
            diagnostics.0.remove(0)
        })
    }
}

fn non_finite(output: &str, origin: &Option<Origin>, loc: &Loc) -> String {
    match origin {
        Some(Origin::Op(op)) => format!("`{output}` is not finite; first made by `{op}` at {loc}"),
        Some(Origin::Input(name) | Origin::Stored(name)) => {
            format!("`{output}` is not finite, for `{name}` has values that are not")
        }
        None => format!("`{output}` is not finite"),
    }
}

fn help(origin: &Option<Origin>) -> &'static str {
    match origin {
        Some(Origin::Input(_)) => "take the rows with NaN or infinite values out of the data",
        _ => "lower the learning rate, or clip gradients (`clip_norm`)",
    }
}
