//! The text format `.gir`: what every stage prints and parses back equal.

mod print;
pub use print::{print, write_op};
