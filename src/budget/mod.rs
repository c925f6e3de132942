//! Which parameters train under a recipe's budget: what each costs, what each is worth, and the best set that holds it.

mod attribution;
mod importance;
mod selection;
mod selector;

pub use attribution::ParameterCost;
pub use importance::Importances;
pub use selection::{Limited, Selection};
pub use selector::{Selector, parameter_costs};
