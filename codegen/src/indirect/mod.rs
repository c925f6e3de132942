//! Contractions with windowed factors: as products of matrices whose rows are found through tables.

mod cost;
mod depths;
mod driver;
mod epilogue;
mod factor;
mod interleaving;
mod padding;
mod plan;
mod reach;
mod roles;
mod sliding;
mod tiles;

pub(crate) use driver::contract_rows;
pub(crate) use epilogue::finishing_kernel;
pub(crate) use factor::FactorCopy;
pub(crate) use plan::IndirectPlan;
