//! Contractions with windowed factors: as products of matrices whose rows are found through tables.

mod cost;
mod driver;
mod epilogue;
mod factor;
mod padding;
mod plan;
mod roles;
mod tiles;

pub(crate) use driver::contract_rows;
pub(crate) use epilogue::finishing_kernel;
pub(crate) use padding::Padding;
pub(crate) use plan::IndirectPlan;
