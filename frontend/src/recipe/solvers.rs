//! Which entry of a recipe's `solvers` holds for which loop.

use super::resolve::fnmatch;
use super::{Recipe, Solver};
use crate::schema::at;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};

/// For the layer of each loop of a model, the first entry of `solvers` that matches it.
///
/// # Errors
/// A pattern that is none, and an entry that holds for no loop.
pub fn solvers_of<'a>(recipe: &'a Recipe, layers: &[&str]) -> Result<Vec<Option<&'a Solver>>, Diagnostics> {
    let path = |k: usize| format!("solvers[{k}].at");
    let (mut globs, mut problems) = (vec![], vec![]);
    for (k, solver) in recipe.solvers.iter().enumerate() {
        match fnmatch(&solver.at) {
            Ok(glob) => globs.push(glob),
            Err(problem) => problems.push(at(&path(k), problem.code, problem.message)),
        }
    }
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    let first: Vec<Option<usize>> = layers.iter().map(|l| globs.iter().position(|glob| glob.is_match(l))).collect();
    let unused = (0..globs.len()).filter(|&k| !first.contains(&Some(k)));
    let problems: Vec<Diagnostic> = unused.map(|k| unmatched(&path(k), &recipe.solvers[k].at, layers)).collect();
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    Ok(first.into_iter().map(|k| k.map(|k| &recipe.solvers[k])).collect())
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
        let found = solvers_of(&recipe, &["qp.inner", "denoise"]).unwrap();
        let found: Vec<&str> = found.into_iter().flatten().map(|s| s.at.as_str()).collect();
        assert_eq!(found, ["qp*", "*"]);
    }

    #[test]
    fn an_entry_that_holds_for_nothing_is_told() {
        let recipe = recipe(r#"[{"at": "*", "backward": "exact"}, {"at": "qp", "backward": "frozen"}]"#);
        for layers in [&["qp"][..], &[]] {
            let told = solvers_of(&recipe, layers).unwrap_err().0;
            let last = told.last().map(|d| (d.code, d.loc.layer.as_str()));
            assert_eq!(last, Some(("unmatched-pattern", "solvers[1].at")));
        }
    }
}
