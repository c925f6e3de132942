//! Graph to graph and graph to plan: differentiation, rewriting, optimizers, scheduling, memory.
//!
//! Depends on the IR alone. Stages are functions between named types; none of them names an op, except
//! optimizers and rewrite rules, which build graphs.

#![forbid(unsafe_code)]

mod axes;
pub mod bands;
pub mod bodies;
pub mod cache_blocking;
pub mod cost;
mod cotangents;
pub mod differentiate;
pub mod egraph;
pub mod expand_regions;
pub mod fit;
pub mod layout;
pub mod loops;
pub mod memory;
pub mod micro_batch;
pub mod optimizers;
pub mod recompute;
pub mod roll;
pub mod schedule;
pub mod select;
pub mod train;
