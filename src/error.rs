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
    #[error("{}", non_finite(.output, .op, .loc))]
    NonFinite {
        /// Name of the checked output.
        output: String,
        /// First op with a result that is not finite although its operands are, if it could be found.
        op: Option<String>,
        /// Where that op comes from.
        loc: Loc,
    },
    /// A checkpoint cannot be read or written.
    #[error("{0}")]
    Checkpoint(Diagnostic),
}

impl SessionError {
    /// The error as a diagnostic.
    pub fn into_diagnostic(self) -> Diagnostic {
        let message = self.to_string();
        match self {
            SessionError::Input(diagnostic) | SessionError::Checkpoint(diagnostic) => diagnostic,
            SessionError::NonFinite { loc, .. } => Diagnostic::new("non-finite", message)
                .at(loc)
                .help("lower the learning rate, or clip gradients (`clip_norm`)"),
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

fn non_finite(output: &str, op: &Option<String>, loc: &Loc) -> String {
    match op {
        Some(op) => format!("`{output}` is not finite; first made by `{op}` at {loc}"),
        None => format!("`{output}` is not finite"),
    }
}
