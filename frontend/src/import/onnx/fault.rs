//! Why a node cannot be imported, before its place is known.

use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::op::EvalError;
use gradc_ir::types::TypeError;

/// A problem inside one node; the walk adds the node's name and place.
#[derive(Clone, Debug)]
pub struct Fault {
    code: &'static str,
    error: TypeError,
    help: Option<String>,
}

impl Fault {
    /// A fault with a stable code.
    pub fn new(code: &'static str, error: TypeError) -> Self {
        Fault { code, error, help: None }
    }

    /// Something the operator allows and gradc does not.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Fault::new("unsupported", TypeError::new(message))
    }

    /// Adds what would have been accepted.
    pub fn expected(mut self, expected: impl std::fmt::Display) -> Self {
        self.error = self.error.expected(expected);
        self
    }

    /// Adds what was there.
    pub fn found(mut self, found: impl std::fmt::Display) -> Self {
        self.error = self.error.found(found);
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The diagnostic at a node.
    pub fn at(self, node: &str, loc: Loc) -> Diagnostic {
        let error = TypeError { message: format!("node `{node}`: {}", self.error.message), ..self.error };
        Diagnostic { help: self.help, ..Diagnostic::from_type_error(self.code, error, loc) }
    }
}

impl From<TypeError> for Fault {
    fn from(error: TypeError) -> Self {
        Fault::new("invalid-operands", error)
    }
}

impl From<EvalError> for Fault {
    fn from(error: EvalError) -> Self {
        Fault::new("invalid-operands", TypeError::new(error.0))
    }
}
