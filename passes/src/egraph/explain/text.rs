//! The report as text.

use super::{OptimizeReport, Replay, Rewrite, WindowReport};
use crate::egraph::rules::NumericClass;
use crate::egraph::saturate::StopReason;
use std::fmt;

impl fmt::Display for OptimizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (&self.before, &self.after);
        write!(f, "{} -> {} nodes", a.nodes, b.nodes)?;
        write!(f, ", {:.4e} -> {:.4e} flops ({})", a.cost.flops, b.cost.flops, change(a.cost.flops, b.cost.flops))?;
        write!(f, ", {:.4e} -> {:.4e} bytes ({})", a.cost.bytes, b.cost.bytes, change(a.cost.bytes, b.cost.bytes))
    }
}

/// A relative change.
fn change(before: f64, after: f64) -> String {
    if before == after { "as before".into() } else { format!("{:+.1} %", 100.0 * (after / before - 1.0)) }
}

impl fmt::Display for WindowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamped = if self.stamped { ", solved before" } else { "" };
        write!(
            f,
            "{}: ops {} -> {}, {} e-nodes, {} iterations, {}{stamped}",
            self.place, self.nodes_before, self.nodes_after, self.e_nodes, self.iterations, self.stop
        )
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.rule.unwrap_or(super::UNTOLD);
        let direction = if self.reversed { ", right to left" } else { "" };
        let purpose = if self.enabling { ", for a later one to match" } else { "" };
        writeln!(f, "{name}{direction}{purpose} at {}", self.place)?;
        if !self.statement.is_empty() {
            writeln!(f, "      {}", self.statement)?;
        }
        let (from, to) = if self.reversed { (&self.made, &self.matched) } else { (&self.matched, &self.made) };
        from.iter().try_for_each(|node| writeln!(f, "      - {node}"))?;
        to.iter().try_for_each(|node| writeln!(f, "      + {node}"))?;
        let (flops, bytes) = (self.delta_flops, self.delta_bytes);
        writeln!(f, "      {flops:+.0} flops, {bytes:+.0} bytes; {}: {}", self.class, self.replay)
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Replay::Equal { inputs } => write!(f, "replayed on {inputs} inputs, equal bits"),
            Replay::Close { inputs, error } => write!(f, "replayed on {inputs} input, relative error {error:.1e}"),
            Replay::Differs { difference } => write!(f, "WRONG, replay differs by {difference:e}"),
            Replay::Skipped { reason } => write!(f, "not replayed, {reason}"),
        }
    }
}

impl fmt::Display for NumericClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NumericClass::Bitwise => "bitwise",
            NumericClass::Reassociation => "reassociation",
        })
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Saturated => f.write_str("saturated"),
            StopReason::IterationLimit => f.write_str("stopped by the iteration limit"),
            StopReason::NodeLimit => f.write_str("stopped by the node limit"),
            StopReason::Poisoned(reason) => write!(f, "left as it was, a rule is wrong: {reason}"),
        }
    }
}
