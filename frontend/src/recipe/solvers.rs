//! Which entry of a recipe's `solvers` holds for which loop.

use super::resolve::fnmatch;
use super::{Recipe, Solver};
use crate::schema::at;
use globset::GlobMatcher;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};

/// The entries of a recipe's `solvers`, in order.
pub struct Solvers<'a>(Vec<(GlobMatcher, &'a Solver)>);

impl<'a> Solvers<'a> {
    /// Fails for patterns that are none.
    pub fn of(recipe: &'a Recipe) -> Result<Self, Diagnostics> {
        let (mut entries, mut problems) = (vec![], vec![]);
        for (k, solver) in recipe.solvers.iter().enumerate() {
            match fnmatch(&solver.at) {
                Ok(glob) => entries.push((glob, solver)),
                Err(problem) => problems.push(at(&path(k), problem.code, problem.message)),
            }
        }
        if problems.is_empty() { Ok(Solvers(entries)) } else { Err(Diagnostics(problems)) }
    }

    /// The first entry that matches the layer of a loop.
    pub fn for_layer(&self, layer: &str) -> Option<&'a Solver> {
        self.first(layer).map(|k| self.0[k].1)
    }

    /// Fails for every entry that holds for none of the loops, given by their layers.
    pub fn check_used(&self, layers: &[&str]) -> Result<(), Diagnostics> {
        let used: Vec<usize> = layers.iter().filter_map(|layer| self.first(layer)).collect();
        let unused = self.0.iter().enumerate().filter(|(k, _)| !used.contains(k));
        let problems: Vec<Diagnostic> =
            unused.map(|(k, (_, solver))| unmatched(&path(k), &solver.at, layers)).collect();
        if problems.is_empty() { Ok(()) } else { Err(Diagnostics(problems)) }
    }

    fn first(&self, layer: &str) -> Option<usize> {
        self.0.iter().position(|(glob, _)| glob.is_match(layer))
    }
}

fn path(k: usize) -> String {
    format!("solvers[{k}].at")
}

fn unmatched(path: &str, pattern: &str, layers: &[&str]) -> Diagnostic {
    let problem = at(path, "unmatched-pattern", format!("`{pattern}` holds for no loop of the model"));
    match layers {
        [] => problem.expected("a model with loops").found("none"),
        layers => problem.expected(format!("a pattern of one of the layers {}, first of its kind", layers.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(solvers: &str) -> Recipe {
        let text = format!(
            r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "sgd"}}, "solvers": {solvers}}}"#
        );
        Recipe::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_entry_that_matches_holds() {
        let recipe = recipe(r#"[{"at": "qp*", "backward": "exact"}, {"at": "*", "backward": "frozen"}]"#);
        let solvers = Solvers::of(&recipe).unwrap();
        let found = ["qp.inner", "denoise"].map(|layer| solvers.for_layer(layer).map(|s| s.at.as_str()));
        assert_eq!(found, [Some("qp*"), Some("*")]);
        assert!(solvers.check_used(&["qp.inner", "denoise"]).is_ok());
    }

    #[test]
    fn an_entry_that_holds_for_nothing_is_told() {
        let recipe = recipe(r#"[{"at": "*", "backward": "exact"}, {"at": "qp", "backward": "frozen"}]"#);
        let solvers = Solvers::of(&recipe).unwrap();
        for layers in [&["qp"][..], &[]] {
            let told = solvers.check_used(layers).unwrap_err().0;
            let last = told.last().map(|d| (d.code, d.loc.layer.as_str()));
            assert_eq!(last, Some(("unmatched-pattern", "solvers[1].at")));
        }
    }
}
