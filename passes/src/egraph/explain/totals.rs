//! What every rule did altogether.

use super::OptimizeReport;
use crate::egraph::rules::{Family, NumericClass};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The rewrites by one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleTotals {
    /// Name of the rule; `None` for rewrites that could not be told apart.
    pub rule: Option<&'static str>,
    /// Its family.
    pub family: Option<Family>,
    /// The most its rewrites may have changed.
    pub class: NumericClass,
    /// Number of rewrites.
    pub rewrites: usize,
    /// Those of them that only made the match of a later one possible.
    pub enabling: usize,
    /// Change in scalar operations.
    pub delta_flops: f64,
    /// Change in bytes moved.
    pub delta_bytes: f64,
}

impl RuleTotals {
    /// The totals of every rule that was used, by name.
    pub fn of(report: &OptimizeReport) -> Vec<RuleTotals> {
        let mut by_rule: BTreeMap<Option<&'static str>, RuleTotals> = BTreeMap::new();
        for rewrite in report.windows.iter().flat_map(|window| &window.rewrites) {
            let totals = by_rule.entry(rewrite.rule).or_insert_with(|| RuleTotals {
                rule: rewrite.rule,
                family: rewrite.family,
                class: rewrite.class,
                rewrites: 0,
                enabling: 0,
                delta_flops: 0.0,
                delta_bytes: 0.0,
            });
            totals.rewrites += 1;
            totals.enabling += usize::from(rewrite.enabling);
            totals.delta_flops += rewrite.delta_flops;
            totals.delta_bytes += rewrite.delta_bytes;
        }
        by_rule.into_values().collect()
    }
}

impl fmt::Display for RuleTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule.unwrap_or(super::UNTOLD);
        write!(
            f,
            "{rule:30} {:13} {:5} × ({} to let another match) {:>+14.0} flops {:>+14.0} bytes",
            self.class, self.rewrites, self.enabling, self.delta_flops, self.delta_bytes
        )
    }
}
