//! The text format `.gir`: what every stage prints and parses back equal.

mod lexer;
mod parse;
mod print;
pub use parse::parse;
pub use print::{print, write_op};
