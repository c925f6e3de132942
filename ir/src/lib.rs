//! The intermediate representation of gradc: types, ops, graphs, their text, verifier and reference semantics.
//!
//! Depends on no other gradc crate. Invariants: graphs are append-only in topological order; shapes are
//! static; ops are pure; an op is known elsewhere only through [`op::OpDef`] and [`lower::Lowering`].

#![forbid(unsafe_code)]

pub mod attr;
pub mod band;
pub mod builder;
pub mod diagnostic;
pub mod graph;
pub mod interpret;
pub mod interpret_lowered;
pub mod kernel;
pub mod layout;
pub mod lower;
pub mod op;
pub mod ops;
pub mod part;
pub mod plan;
pub mod region;
pub mod sample;
pub mod scalar;
pub mod target;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;
pub mod visit;
