//! Contractions as blocked products of matrices over micro-kernels.

mod driver;
mod pack;
mod plan;

pub(crate) use driver::contract;
pub(crate) use plan::ContractionPlan;
