//! Contractions as blocked products of matrices over micro-kernels.

mod blocking;
mod driver;
mod factor;
mod library;
mod pack;
mod plan;
mod turning;

pub(crate) use driver::{contract, pack_shared};
pub(crate) use plan::{ContractionPlan, Layout, WorkSpace};
