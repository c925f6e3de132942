//! Which parameters train under a budget.
//!
//! Training a parameter costs what its update needs and no other does, and a share of what several updates need, above
//! all of the gradient's way from the loss to it. [`Needs`] finds by dependence what each operation serves,
//! [`SharedCosts`] adds it up, and [`best_choices`] finds the sets of parameters of most importance for every budget
//! (as GreenTrainer does on chains of layers: Huang, Yang and Gao, 2024).

mod front;
mod needs;
mod search;
mod shared_costs;

pub use needs::Needs;
pub use search::{Choice, Choices, best_choices};
pub use shared_costs::{Attributed, SharedCosts};

/// A set of parameters, by their numbers.
pub type ParameterSet = fixedbitset::FixedBitSet;
