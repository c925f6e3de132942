//! Reading JSON files whose format is a Rust type: the type's JSON Schema finds everything wrong at once.
//!
//! The schema is the one that is published, so what is documented is what is checked.

mod check;

use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::types::{DType, TypeError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

/// Reads `T` from JSON text, or says everything that is wrong with it, each with the path of the field.
pub(crate) fn read<T: DeserializeOwned + JsonSchema>(text: &[u8]) -> Result<T, Diagnostics> {
    let value = serde_json::from_slice(text)
        .map_err(|e| Diagnostic::new("invalid-json", format!("the file is not valid JSON: {e}")))?;
    let problems = check::check(&value, schema_for!(T).as_value());
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    serde_path_to_error::deserialize(value)
        .map_err(|e| at(&e.path().to_string(), "wrong-type", e.inner().to_string()).into())
}

/// A diagnostic about the field at `path`, such as `optimizer.betas[1]`.
pub(crate) fn at(path: &str, code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(code, message).at(Loc { layer: path.into(), ..Loc::default() })
}

/// The same problems, in a file.
pub(crate) fn in_file(all: Diagnostics, file: &Path) -> Diagnostics {
    Diagnostics(all.0.into_iter().map(|d| d.in_file(file.display())).collect())
}

/// The candidate that a mistyped `name` most likely means, as a piece of advice.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let scored = candidates.into_iter().map(|c| (edit_distance(name, c), c));
    let (_, best) = scored.filter(|(distance, c)| 2 * distance <= c.len().max(name.len())).min()?;
    Some(format!("did you mean `{best}`?"))
}

/// Fewest insertions, deletions and replacements of bytes that make `a` into `b` (Levenshtein, 1966).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A dtype as JSON files write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DTypeName(pub DType);

impl TryFrom<String> for DTypeName {
    type Error = TypeError;

    fn try_from(name: String) -> Result<Self, TypeError> {
        name.parse().map(DTypeName)
    }
}

impl From<DTypeName> for String {
    fn from(dtype: DTypeName) -> String {
        dtype.0.name().into()
    }
}

impl JsonSchema for DTypeName {
    fn schema_name() -> Cow<'static, str> {
        "DType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Element type.", "type": "string", "enum": DType::ALL.map(DType::name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schemas in `schema/` are the ones that are checked; `GRADC_WRITE_SCHEMAS=1` writes them anew.
    #[test]
    fn published_schemas_are_current() {
        let published =
            [("model", schema_for!(crate::import::json::ModelFile)), ("recipe", schema_for!(crate::recipe::Recipe))];
        for (name, schema) in published {
            check::keywords::assert_understood(schema.as_value());
            let path = format!("{}/../schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if std::env::var_os("GRADC_WRITE_SCHEMAS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path} is out of date");
        }
    }

    #[test]
    fn near_names_are_suggested() {
        let names = ["momentum", "lr", "weight_decay"];
        assert_eq!(did_you_mean("momentun", names).as_deref(), Some("did you mean `momentum`?"));
        assert_eq!(did_you_mean("wait_decay", names).as_deref(), Some("did you mean `weight_decay`?"));
        assert_eq!(did_you_mean("xyz", names), None);
    }
}
