//! A recipe against a model: the names it means.

use super::{Column, Recipe, Trainable};
use crate::model::Model;
use crate::schema::{at, did_you_mean};
use globset::{GlobBuilder, GlobMatcher};
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{OutputKind, Role};
use std::collections::{BTreeMap, BTreeSet};

/// What a recipe means in a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Output that the loss reads.
    pub prediction: String,
    /// Columns by the model's input names, and by the target's name.
    pub data: BTreeMap<String, Column>,
    /// Names that were taken for others, for the user.
    pub notes: Vec<String>,
}

/// Finds the outputs and inputs that a recipe names.
pub fn resolve(recipe: &Recipe, model: &Model) -> Result<Resolved, Diagnostics> {
    let (mut notes, mut problems, mut data) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut find = |path: &str, what: &str, name: &str, have: &[&str]| match name_or_only(what, name, have) {
        Ok((found, note)) => {
            notes.extend(note);
            Some(found.to_string())
        }
        Err(problem) => {
            problems.push(Diagnostic { loc: at(path, "", "").loc, ..problem });
            None
        }
    };
    let prediction = find("loss.prediction", "output", &recipe.loss.prediction, &outputs(model));
    for (name, column) in &recipe.data {
        let target = *name == recipe.loss.target && recipe.loss.kind.has_target();
        let found = if target { Some(name.clone()) } else { find("data", "input", name, &inputs(model)) };
        data.extend(found.map(|found| (found, column.clone())));
    }
    match prediction {
        Some(prediction) if problems.is_empty() => Ok(Resolved { prediction, data, notes }),
        _ => Err(Diagnostics(problems)),
    }
}

fn outputs(model: &Model) -> Vec<&str> {
    let results = model.train.outputs().iter().filter(|o| !matches!(o.kind, OutputKind::Update(_)));
    results.map(|o| o.name.as_str()).collect()
}

fn inputs(model: &Model) -> Vec<&str> {
    model.train.inputs().iter().filter(|i| i.role == Role::Input).map(|i| i.name.as_str()).collect()
}

/// `name` among `have`, or the only one of `have` and a note that says so: exporters rename outputs and inputs.
///
/// # Errors
/// The name is not there and does not stand for the only one.
pub fn name_or_only<'a>(what: &str, name: &'a str, have: &[&'a str]) -> Result<(&'a str, Option<String>), Diagnostic> {
    match have {
        _ if have.contains(&name) => Ok((name, None)),
        [only] => Ok((only, Some(format!("the model has no {what} `{name}`; its only {what} `{only}` is meant")))),
        _ => {
            let mut problem = Diagnostic::new("unknown-name", format!("the model has no {what} `{name}`"))
                .expected(format!("one of: {}", have.join(", ")));
            problem.help = did_you_mean(name, have.iter().copied());
            Err(problem)
        }
    }
}

/// Names of the parameters that train, as the model's tensors call them.
///
/// # Errors
/// Every pattern that is malformed or matches nothing; or nothing trains.
pub fn trainable_set(recipe: &Recipe, model: &Model) -> Result<BTreeSet<String>, Diagnostics> {
    let names = parameter_names(model);
    let Some(entries) = &recipe.trainable else {
        return not_empty(names.into_values().filter(|name| !model.frozen.contains(*name)).map(Into::into).collect());
    };
    let (mut chosen, mut problems) = (BTreeSet::new(), Vec::new());
    for (k, entry) in entries.iter().enumerate() {
        match matching(entry, &names) {
            Ok(found) => chosen.extend(found),
            Err(problem) => problems.push(Diagnostic { loc: at(&format!("trainable[{k}]"), "", "").loc, ..problem }),
        }
    }
    if problems.is_empty() { not_empty(chosen) } else { Err(Diagnostics(problems)) }
}

fn not_empty(chosen: BTreeSet<String>) -> Result<BTreeSet<String>, Diagnostics> {
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    Err(at("trainable", "nothing-to-train", "no parameter trains").expected("at least one parameter").into())
}

/// Every name of every parameter, to the name of its tensor.
fn parameter_names(model: &Model) -> BTreeMap<&str, &str> {
    let own =
        model.train.inputs().iter().filter(|i| i.role == Role::Parameter).map(|i| (i.name.as_str(), i.name.as_str()));
    let own: BTreeMap<&str, &str> = own.collect();
    let tied = model.aliases.iter().filter(|(_, name)| own.contains_key(name.as_str()));
    own.clone().into_iter().chain(tied.map(|(other, name)| (other.as_str(), name.as_str()))).collect()
}

fn matching(entry: &Trainable, names: &BTreeMap<&str, &str>) -> Result<Vec<String>, Diagnostic> {
    let Trainable::Glob(pattern) = entry else {
        return Err(Diagnostic::new("unsupported-slice", "training part of a parameter is not supported yet"));
    };
    let glob = fnmatch(pattern)?;
    let found: Vec<String> =
        names.iter().filter(|(name, _)| glob.is_match(name)).map(|(_, own)| own.to_string()).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut problem = Diagnostic::new("unmatched-pattern", format!("no parameter is called `{pattern}`"))
        .expected(format!("one of: {}", shortened(names)));
    problem.help = did_you_mean(pattern, names.keys().copied());
    Err(problem)
}

fn shortened(names: &BTreeMap<&str, &str>) -> String {
    const LISTED: usize = 20;
    let listed: Vec<&str> = names.keys().copied().take(LISTED).collect();
    let rest = names.len().saturating_sub(LISTED);
    listed.join(", ") + &if rest > 0 { format!(", and {rest} more") } else { String::new() }
}

/// A pattern of Python's fnmatch: `*` matches anything, dots included; braces and backslashes are themselves.
fn fnmatch(pattern: &str) -> Result<GlobMatcher, Diagnostic> {
    let literal_braces: String = pattern
        .chars()
        .map(|c| match c {
            '{' => "[{]".into(),
            '}' => "[}]".into(),
            other => other.to_string(),
        })
        .collect();
    let glob = GlobBuilder::new(&literal_braces).literal_separator(false).backslash_escape(false).build();
    glob.map(|g| g.compile_matcher())
        .map_err(|e| Diagnostic::new("invalid-pattern", format!("`{pattern}` is not a pattern: {}", e.kind())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::builder::Builder;
    use gradc_ir::types::TensorType;

    fn model(parameters: &[&str], inputs: &[&str], outputs: &[&str]) -> Model {
        let mut b = Builder::new("test");
        for name in parameters {
            b.parameter(name, TensorType::f32([1])).unwrap();
        }
        let inputs: Vec<_> = inputs.iter().map(|name| b.input(name, TensorType::f32([1])).unwrap()).collect();
        outputs.iter().for_each(|name| b.output(name, inputs[0], OutputKind::Result));
        let graph = b.finish();
        Model {
            name: "test".into(),
            train: graph.clone(),
            infer: graph,
            tensors: BTreeMap::new(),
            frozen: BTreeSet::new(),
            aliases: BTreeMap::new(),
            notes: vec![],
        }
    }

    fn recipe(json: &str) -> Recipe {
        Recipe::from_json(json.as_bytes()).unwrap()
    }

    fn training(globs: &str) -> Recipe {
        recipe(&format!(
            r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "sgd"}}, "trainable": {globs}}}"#
        ))
    }

    const NAMES: [&str; 5] =
        ["blocks.8.bn1.bias", "blocks.8.bn1.weight", "blocks.9.expand.weight", "fc.bias", "fc.weight"];

    #[test]
    fn patterns_match_as_in_python() {
        let model = model(&NAMES, &["x"], &["y"]);
        let cases: [(&str, &[usize]); 7] = [
            (r#"["*"]"#, &[0, 1, 2, 3, 4]),
            (r#"["fc.*"]"#, &[3, 4]),
            (r#"["*.weight"]"#, &[1, 2, 4]),
            (r#"["blocks.?.bn*.bias"]"#, &[0]),
            (r#"["blocks.[!9].*"]"#, &[0, 1]),
            (r#"["blocks.[9].*", "fc.bias"]"#, &[2, 3]),
            (r#"["fc.weight", "*.weight"]"#, &[1, 2, 4]),
        ];
        for (globs, expected) in cases {
            let expected: BTreeSet<String> = expected.iter().map(|&k| NAMES[k].to_string()).collect();
            assert_eq!(trainable_set(&training(globs), &model).unwrap(), expected, "{globs}");
        }
    }

    #[test]
    fn every_bad_pattern_is_told() {
        let model = model(&NAMES, &["x"], &["y"]);
        let found = trainable_set(&training(r#"["fc.*", "fc.wieght", "{fc,blocks}.*", "[z-a"]"#), &model).unwrap_err();
        let told: Vec<(&str, &str)> = found.0.iter().map(|d| (d.loc.layer.as_str(), d.code)).collect();
        let expected = [
            ("trainable[1]", "unmatched-pattern"),
            ("trainable[2]", "unmatched-pattern"),
            ("trainable[3]", "invalid-pattern"),
        ];
        assert_eq!(told, expected);
        assert_eq!(found.0[0].help.as_deref(), Some("did you mean `fc.weight`?"));
        let found = trainable_set(&training("[]"), &model).unwrap_err();
        assert_eq!(found.0[0].code, "nothing-to-train");
    }

    #[test]
    fn frozen_and_tied_parameters() {
        let mut model = model(&NAMES, &["x"], &["y"]);
        model.frozen.extend(["fc.bias".to_string()]);
        model.aliases.insert("head.weight".into(), "fc.weight".into());
        let all = recipe(r#"{"loss": {"kind": "mse", "prediction": "y"}, "optimizer": {"kind": "sgd"}}"#);
        let default = trainable_set(&all, &model).unwrap();
        assert!(!default.contains("fc.bias") && default.len() == 4, "{default:?}");
        assert!(
            trainable_set(&training(r#"["*"]"#), &model).unwrap().contains("fc.bias"),
            "a pattern overrules the file"
        );
        assert_eq!(
            trainable_set(&training(r#"["head.*"]"#), &model).unwrap(),
            BTreeSet::from(["fc.weight".to_string()])
        );
    }

    #[test]
    fn an_unknown_name_means_the_only_one() {
        let model = model(&["w"], &["x"], &["linear_1"]);
        let data = r#""data": {"input": {"column": "pixels"}, "target": {"column": "digit"}}"#;
        let json =
            format!(r#"{{"loss": {{"kind": "mse", "prediction": "y"}}, "optimizer": {{"kind": "sgd"}}, {data}}}"#);
        let found = resolve(&recipe(&json), &model).unwrap();
        assert_eq!(found.prediction, "linear_1");
        assert_eq!(found.data.keys().collect::<Vec<_>>(), ["target", "x"]);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
    }

    #[test]
    fn an_unknown_name_among_several_is_an_error() {
        let model = model(&["w"], &["x", "mask"], &["logits", "hidden"]);
        let data = r#""data": {"xx": {"column": "pixels"}}"#;
        let json =
            format!(r#"{{"loss": {{"kind": "mse", "prediction": "logit"}}, "optimizer": {{"kind": "sgd"}}, {data}}}"#);
        let found = resolve(&recipe(&json), &model).unwrap_err();
        assert_eq!(found.0.len(), 2);
        assert_eq!(found.0[0].help.as_deref(), Some("did you mean `logits`?"));
        assert_eq!(found.0[0].loc.layer, "loss.prediction");
    }
}
