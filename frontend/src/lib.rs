//! Importers, recipes and builders for layers and losses.

#![forbid(unsafe_code)]

pub mod import;
pub mod layers;
pub mod losses;
pub mod model;
pub mod recipe;
pub(crate) mod schema;
