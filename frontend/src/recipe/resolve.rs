//! A recipe against a model: the names it means.

use super::part::union;
use super::{Column, Recipe, Trainable};
use crate::model::Model;
use crate::schema::{at, did_you_mean};
use globset::{GlobBuilder, GlobMatcher};
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::{OutputKind, Role};
use gradc_ir::part::Part;
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

/// What trains of each parameter that does, by the name of its tensor in the model.
///
/// # Errors
/// Every entry that is malformed, matches nothing or does not fit what it matches; or nothing trains.
pub fn trainable_set(recipe: &Recipe, model: &Model) -> Result<BTreeMap<String, Option<Part>>, Diagnostics> {
    let names = parameter_names(model);
    refuse_lost(recipe, model)?;
    let Some(entries) = &recipe.trainable else {
        let own: BTreeSet<&str> = names.into_values().filter(|name| !model.frozen.contains(*name)).collect();
        return not_empty(own.into_iter().map(|name| (name.to_string(), None)).collect());
    };
    let (mut chosen, mut problems) = (BTreeMap::new(), Vec::new());
    for (k, entry) in entries.iter().enumerate() {
        if let Err(problem) = choose(entry, model, &names, &mut chosen) {
            problems.push(Diagnostic { loc: at(&format!("trainable[{k}]"), "", "").loc, ..problem });
        }
    }
    if problems.is_empty() { not_empty(chosen) } else { Err(Diagnostics(problems)) }
}

/// Fails when the recipe names, or means by naming nothing, parameters that the file does not hold.
fn refuse_lost(recipe: &Recipe, model: &Model) -> Result<(), Diagnostics> {
    // What is no pattern is told later, with its place.
    let globs = |entries: &Vec<Trainable>| entries.iter().filter_map(|entry| fnmatch(entry.pattern()).ok()).collect();
    let globs: Option<Vec<GlobMatcher>> = recipe.trainable.as_ref().map(globs);
    let is_named = |name: &str| globs.as_ref().is_none_or(|globs| globs.iter().any(|g| g.is_match(name)));
    let lost = model.lost.iter().map(String::as_str).filter(|name| is_named(name));
    let named: BTreeMap<&str, &str> = lost.map(|name| (name, name)).collect();
    if named.is_empty() {
        return Ok(());
    }
    let message = "the exporter made constants of parameters, or one of several equal ones, so they cannot train";
    Err(at("trainable", "lost-parameters", message)
        .found(shortened(&named))
        .help("export with `optimize=False`, or by the older exporter with `do_constant_folding=False`; or name others")
        .into())
}

fn not_empty(chosen: BTreeMap<String, Option<Part>>) -> Result<BTreeMap<String, Option<Part>>, Diagnostics> {
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    Err(at("trainable", "nothing-to-train", "no parameter trains").expected("at least one parameter").into())
}

/// Every name of every parameter, to the name of its tensor.
pub(super) fn parameter_names(model: &Model) -> BTreeMap<&str, &str> {
    let own =
        model.train.inputs().iter().filter(|i| i.role == Role::Parameter).map(|i| (i.name.as_str(), i.name.as_str()));
    let own: BTreeMap<&str, &str> = own.collect();
    let tied = model.aliases.iter().filter(|(_, name)| own.contains_key(name.as_str()));
    own.clone().into_iter().chain(tied.map(|(other, name)| (other.as_str(), name.as_str()))).collect()
}

/// Adds what an entry names to what trains.
fn choose(
    entry: &Trainable,
    model: &Model,
    names: &BTreeMap<&str, &str>,
    chosen: &mut BTreeMap<String, Option<Part>>,
) -> Result<(), Diagnostic> {
    for name in matching(entry.pattern(), names)? {
        let shape = shape_of(model, name);
        let part = match entry {
            Trainable::Glob(_) => None,
            Trainable::Part(part) => part.part(name, shape)?,
        };
        let both = match chosen.remove(name) {
            None => part,
            Some(before) => union(before, part, shape).ok_or_else(|| conflict(name))?,
        };
        chosen.insert(name.to_string(), both);
    }
    Ok(())
}

fn conflict(name: &str) -> Diagnostic {
    Diagnostic::new("conflicting-parts", format!("another entry names something else of `{name}`"))
        .expected("all of a parameter, or indices of one of its axes")
        .help("parts of different axes do not unite to a part, and what trains as a whole has none")
}

fn shape_of<'a>(model: &'a Model, name: &str) -> &'a [usize] {
    let (_, input) = model.train.input_named(name).expect("the name is a parameter's");
    &model.train.ty(input.value).shape
}

/// The tensors of the parameters that a pattern names, each once.
pub(super) fn matching<'a>(pattern: &str, names: &BTreeMap<&'a str, &'a str>) -> Result<BTreeSet<&'a str>, Diagnostic> {
    let glob = fnmatch(pattern)?;
    let found: BTreeSet<&str> = names.iter().filter(|(name, _)| glob.is_match(name)).map(|(_, own)| *own).collect();
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
pub(super) fn fnmatch(pattern: &str) -> Result<GlobMatcher, Diagnostic> {
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
        let parameters: Vec<(&str, &[usize])> = parameters.iter().map(|&name| (name, &[1][..])).collect();
        shaped_model(&parameters, inputs, outputs)
    }

    fn shaped_model(parameters: &[(&str, &[usize])], inputs: &[&str], outputs: &[&str]) -> Model {
        let mut b = Builder::new("test");
        for (name, shape) in parameters {
            b.parameter(name, TensorType::f32(*shape)).unwrap();
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
            lost: BTreeSet::new(),
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
            let expected: BTreeMap<String, _> = expected.iter().map(|&k| (NAMES[k].to_string(), None)).collect();
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
        assert!(!default.contains_key("fc.bias") && default.len() == 4, "{default:?}");
        assert!(
            trainable_set(&training(r#"["*"]"#), &model).unwrap().contains_key("fc.bias"),
            "a pattern overrules the file"
        );
        assert_eq!(
            trainable_set(&training(r#"["head.*"]"#), &model).unwrap(),
            BTreeMap::from([("fc.weight".to_string(), None)])
        );
    }

    #[test]
    fn parameters_that_an_exporter_lost_do_not_train_in_silence() {
        let mut model = model(&NAMES, &["x"], &["y"]);
        model.lost.insert("head.weight".into());
        let code = |globs: &str| trainable_set(&training(globs), &model).map_err(|found| found.0[0].code).err();
        let all = recipe(r#"{"loss": {"kind": "mse", "prediction": "y"}, "optimizer": {"kind": "sgd"}}"#);
        assert_eq!(trainable_set(&all, &model).unwrap_err().0[0].code, "lost-parameters");
        assert_eq!(code(r#"["*.weight"]"#), Some("lost-parameters"));
        assert_eq!(code(r#"["fc.*", "*.bias"]"#), None, "what is named is there");
    }

    /// Parameters and what trains of them, or places and codes of problems.
    type Parts = Result<Vec<(String, String)>, Vec<(String, &'static str)>>;

    /// What trains of parameters `a.w` [8, 6] and `b.w` [12, 6, 3].
    fn parts(entries: &str) -> Parts {
        let model = shaped_model(&[("a.w", &[8, 6]), ("b.w", &[12, 6, 3])], &["x"], &["y"]);
        let label = |part: Option<Part>| part.map_or("whole".into(), |part| part.to_string());
        let found = trainable_set(&training(entries), &model);
        found
            .map(|set| set.into_iter().map(|(name, part)| (name, label(part))).collect())
            .map_err(|all| all.0.into_iter().map(|d| (d.loc.layer, d.code)).collect())
    }

    #[test]
    fn entries_name_parts() {
        let part = |param: &str, rest: &str| format!(r#"{{"param": "{param}", {rest}}}"#);
        type Expected = &'static [(&'static str, &'static str)];
        let cases: [(Vec<String>, Expected); 9] = [
            (vec![part("a.w", r#""axis": 1, "keep": "2..5""#)], &[("a.w", "[:,2..5]")]),
            (vec![part("a.w", r#""axis": 0, "keep": [7, 3, 4]"#)], &[("a.w", "[3..5+7]")]),
            (vec![part("*.w", r#""axis": 0, "keep": "1/8""#)], &[("a.w", "[0]"), ("b.w", "[0]")]),
            (vec![part("*.w", r#""axis": 0, "keep": "1/3""#)], &[("a.w", "[0..2]"), ("b.w", "[0..4]")]),
            (vec![part("b.w", r#""axis": 0, "groups": 4, "keep": [1, 3]"#)], &[("b.w", "[3..6+9..12]")]),
            (vec![part("b.w", r#""axis": 2, "keep": "0..3""#)], &[("b.w", "whole")]),
            (
                vec![part("a.w", r#""axis": 0, "keep": "0..2""#), part("a.w", r#""axis": 0, "keep": [1, 6]"#)],
                &[("a.w", "[0..2+6]")],
            ),
            (
                vec![part("a.w", r#""axis": 0, "keep": "0..5""#), part("a.w", r#""axis": 0, "keep": "4..8""#)],
                &[("a.w", "whole")],
            ),
            (vec![r#""a.*""#.into(), part("b.w", r#""axis": 1, "keep": [0]"#)], &[("a.w", "whole"), ("b.w", "[:,0]")]),
        ];
        for (entries, expected) in cases {
            let expected: Vec<(String, String)> =
                expected.iter().map(|(name, part)| (name.to_string(), part.to_string())).collect();
            assert_eq!(parts(&format!("[{}]", entries.join(", "))), Ok(expected), "{entries:?}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_told() {
        let cases = [
            (r#"{"param": "a.w", "axis": 2, "keep": "0..1"}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "keep": "0..7"}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "keep": "9..12"}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "keep": [2, 6]}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "groups": 4, "keep": [0]}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "groups": 12, "keep": [0]}"#, "part-range"),
            (r#"{"param": "a.w", "axis": 1, "groups": 3, "keep": "0..4"}"#, "part-range"),
            (r#"{"param": "c.w", "axis": 1, "keep": "0..1"}"#, "unmatched-pattern"),
            (r#""*", {"param": "a.w", "axis": 1, "keep": "0..1"}"#, "conflicting-parts"),
            (
                r#"{"param": "a.w", "axis": 0, "keep": "0..1"}, {"param": "*.w", "axis": 1, "keep": "0..1"}"#,
                "conflicting-parts",
            ),
        ];
        for (entries, code) in cases {
            let found = parts(&format!("[{entries}]")).unwrap_err();
            assert_eq!(found.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [code], "{entries}");
        }
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
