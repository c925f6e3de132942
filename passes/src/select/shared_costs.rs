//! Costs that fall due once, whichever of those who need them train.

use super::ParameterSet;
use serde::Serialize;
use std::collections::BTreeMap;

/// Costs by who needs what they pay for.
///
/// A set of parameters costs the sum over all entries that one of its members needs: on a chain of layers what each
/// update needs for itself, and the gradient's way to the deepest.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedCosts(BTreeMap<ParameterSet, u64>);

/// What training one parameter costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attributed {
    /// What only it needs.
    pub own: u64,
    /// What it shares with parameters that cost more when they train alone, and with none that costs less: on a chain,
    /// the gradient's way to it from the parameter before. All `own` and `path` add up to the cost of all parameters.
    pub path: u64,
    /// The cost if nothing else trains.
    pub alone: u64,
}

impl SharedCosts {
    /// Adds a cost that falls due if one of the parameters trains; what nobody needs costs nothing.
    pub fn add(&mut self, needed_by: &ParameterSet, cost: u64) {
        if cost > 0 && !needed_by.is_clear() {
            *self.0.entry(needed_by.clone()).or_default() += cost;
        }
    }

    /// Cost of training these parameters.
    pub fn of(&self, parameters: &ParameterSet) -> u64 {
        self.0.iter().filter(|(needed_by, _)| !needed_by.is_disjoint(parameters)).map(|(_, cost)| cost).sum()
    }

    /// Cost of training all parameters.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The cost of each of the first `count` parameters.
    pub fn attribute(&self, count: usize) -> Vec<Attributed> {
        let mut of_each = vec![Attributed::default(); count];
        for (needed_by, cost) in &self.0 {
            needed_by.ones().for_each(|parameter| of_each[parameter].alone += cost);
        }
        for (needed_by, cost) in &self.0 {
            let first = needed_by.ones().min_by_key(|&parameter| (of_each[parameter].alone, parameter));
            let Some(first) = first else { continue };
            let is_own = needed_by.count_ones(..) == 1;
            *if is_own { &mut of_each[first].own } else { &mut of_each[first].path } += cost;
        }
        of_each
    }

    /// Each cost and who needs it, in a fixed order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ParameterSet, u64)> {
        self.0.iter().map(|(needed_by, &cost)| (needed_by, cost))
    }
}
