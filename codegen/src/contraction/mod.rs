//! Contractions as blocked products of matrices over micro-kernels.

mod arrange;
mod banded;
mod blocking;
mod bounds;
mod direct;
mod dots;
mod driver;
mod factor;
mod layout;
mod library;
mod outer;
mod pack;
mod parts;
mod plan;
mod turning;
mod vectors;

pub(crate) use arrange::products_first;
pub(crate) use driver::{contract, pack_shared};
pub(crate) use outer::multiplied_at_each_point;
pub(crate) use plan::{ContractionPlan, Layout, WorkSpace};
