//! What goes wrong inside one node, before its place is known.

use gradc_ir::diagnostic::{Diagnostic, Loc};
use gradc_ir::types::TypeError;

/// A problem with a node: a diagnostic without its place.
#[derive(Debug)]
pub struct Fault {
    code: &'static str,
    error: TypeError,
    help: Option<&'static str>,
}

impl Fault {
    /// A problem with a stable code.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Fault { code, error: TypeError::new(message), help: None }
    }

    /// Adds what would have been accepted.
    pub fn expected(self, expected: impl std::fmt::Display) -> Self {
        Fault { error: self.error.expected(expected), ..self }
    }

    /// Adds what was there.
    pub fn found(self, found: impl std::fmt::Display) -> Self {
        Fault { error: self.error.found(found), ..self }
    }

    /// Adds what to do.
    pub fn help(self, help: &'static str) -> Self {
        Fault { help: Some(help), ..self }
    }

    /// The complete diagnostic of node `name`.
    pub fn at(self, name: &str, loc: Loc) -> Diagnostic {
        let mut diagnostic = Diagnostic::from_type_error(self.code, self.error, loc);
        diagnostic.message = format!("node `{name}`: {}", diagnostic.message);
        diagnostic.help = self.help.map(str::to_string);
        diagnostic
    }
}

impl From<TypeError> for Fault {
    fn from(error: TypeError) -> Self {
        Fault { code: "invalid-operands", error, help: None }
    }
}

/// Why a node is not built.
#[derive(Debug)]
pub enum Stop {
    /// An operand's node failed before, which has been reported.
    OperandFailed,
    /// A problem of its own.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}
