//! The text format `.gir`: what every stage prints and parses back equal.

mod dot;
mod json;
mod lexer;
mod parse;
mod plan;
mod print;
mod svg;
pub use dot::dot;
pub use json::json;
pub use parse::parse;
pub use plan::{parse_plan, parse_schedule, print_plan, print_schedule};
pub use print::{print, write_op};
pub use svg::{svg, svg_beside};
