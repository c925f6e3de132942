//! Importers, recipes and builders for layers and losses.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod data;
pub mod import;
pub mod layers;
pub mod losses;
pub mod model;
pub mod recipe;
pub mod replace;
mod schema;
pub mod weights;
mod zip;
