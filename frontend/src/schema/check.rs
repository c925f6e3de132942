//! A value against a JSON Schema, as far as schemars writes one for our types.

use super::{at, did_you_mean};
use gradc_ir::diagnostic::Diagnostic;
use serde_json::{Map, Value};

/// Everything about `value` that `schema` does not allow.
pub(super) fn check(value: &Value, schema: &Value) -> Vec<Diagnostic> {
    let mut checker = Checker { root: schema, found: vec![] };
    checker.value("", value, schema);
    checker.found
}

struct Checker<'a> {
    root: &'a Value,
    found: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn value(&mut self, path: &str, value: &Value, schema: &'a Value) {
        let schema = self.resolve(schema);
        let Some(branches) = self.branches(schema) else { return self.plain(path, value, &[schema]) };
        if let Some(branch) = self.choose(path, value, schema, &branches) {
            match value {
                Value::Object(_) => self.plain(path, value, &[schema, branch]),
                _ => self.value(path, value, branch),
            }
        }
    }

    /// Follows a reference into the definitions.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        pointer.and_then(|p| self.root.pointer(p)).unwrap_or(schema)
    }

    /// The alternatives of a schema, `None` when it has none.
    fn branches(&self, schema: &'a Value) -> Option<Vec<&'a Value>> {
        let list = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
        Some(list.iter().map(|s| self.resolve(s)).collect())
    }

    /// The alternative that `value` means: by its tag, as one of some words, or by its type.
    fn choose(&mut self, path: &str, value: &Value, schema: &'a Value, branches: &[&'a Value]) -> Option<&'a Value> {
        if let Some(tag) = branches.iter().find_map(|b| tag_of(b)) {
            return self.choose_by_tag(path, value, tag, branches);
        }
        let fits = |b: &&&Value| b.get("const").map_or_else(|| has_type(value, b), |word| word == value);
        let chosen = branches.iter().find(fits).copied();
        if chosen.is_none() {
            self.found.push(wrong(path, value, &expectation(schema, branches)));
        }
        chosen
    }

    fn choose_by_tag(&mut self, path: &str, value: &Value, tag: &str, branches: &[&'a Value]) -> Option<&'a Value> {
        let word = |b: &'a Value| b["properties"][tag]["const"].as_str().unwrap_or_default();
        let words: Vec<&str> = branches.iter().map(|b| word(b)).collect();
        let Value::Object(object) = value else {
            self.found.push(wrong(path, value, &format!("an object with `{tag}`")));
            return None;
        };
        let found = object.get(tag);
        let chosen = branches.iter().find(|b| found.and_then(Value::as_str) == Some(word(b))).copied();
        if chosen.is_none() {
            let problem = match found {
                None => at(path, "missing-field", format!("`{tag}` is missing")),
                Some(other) => wrong(&join(path, tag), other, ""),
            };
            let mut problem = problem.expected(one_of(&words));
            problem.help = found.and_then(Value::as_str).and_then(|f| did_you_mean(f, words));
            self.found.push(problem);
        }
        chosen
    }

    /// A value against keywords that stand in one or several schemas at once.
    fn plain(&mut self, path: &str, value: &Value, schemas: &[&'a Value]) {
        if let Some(schema) = schemas.iter().find(|s| !allows(value, s)) {
            return self.found.push(wrong(path, value, &expectation(schema, &[])));
        }
        match value {
            Value::Object(object) => self.object(path, object, schemas),
            Value::Array(items) => {
                for (k, item) in items.iter().enumerate() {
                    let schema = schemas.iter().find_map(|s| s.get("items"));
                    schema.into_iter().for_each(|s| self.value(&format!("{path}[{k}]"), item, s));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, path: &str, object: &Map<String, Value>, schemas: &[&'a Value]) {
        let known: Vec<(&String, &Value)> =
            schemas.iter().filter_map(|s| s.get("properties")?.as_object()).flatten().collect();
        let others = schemas.iter().find_map(|s| s.get("additionalProperties").or(s.get("unevaluatedProperties")));
        for (name, value) in object {
            let path = join(path, name);
            match (known.iter().find(|(k, _)| *k == name), others) {
                (Some((_, schema)), _) => self.value(&path, value, schema),
                (None, Some(Value::Bool(false))) => self.unknown(&path, name, &known),
                (None, Some(schema)) => self.value(&path, value, schema),
                (None, None) => {}
            }
        }
        let required = schemas.iter().filter_map(|s| s.get("required")?.as_array()).flatten().filter_map(Value::as_str);
        for name in required.filter(|name| !object.contains_key(*name)) {
            let what = known.iter().find(|(k, _)| *k == name).map(|(_, s)| self.describe(s)).unwrap_or_default();
            self.found.push(at(path, "missing-field", format!("`{name}` is missing")).expected(what));
        }
    }

    fn unknown(&mut self, path: &str, name: &str, known: &[(&String, &Value)]) {
        let names: Vec<&str> = known.iter().map(|(k, _)| k.as_str()).collect();
        let mut problem =
            at(path, "unknown-field", format!("there is no field `{name}` here")).expected(one_of(&names));
        problem.help = did_you_mean(name, names);
        self.found.push(problem);
    }

    /// What a schema accepts, in words.
    fn describe(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        expectation(schema, &self.branches(schema).unwrap_or_default())
    }
}

/// `optimizer.betas` from `optimizer` and `betas`.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn wrong(path: &str, value: &Value, expected: &str) -> Diagnostic {
    const LONGEST: usize = 60;
    let found: String = value.to_string().chars().take(LONGEST).collect();
    at(path, "wrong-value", "the value is not accepted").expected(expected).found(found)
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    quoted.join(", ")
}

/// The property that tells an alternative from the others.
fn tag_of(branch: &Value) -> Option<&str> {
    let properties = branch.get("properties")?.as_object()?;
    properties.iter().find(|(_, s)| s.get("const").is_some()).map(|(name, _)| name.as_str())
}

/// The types a schema names; empty when it names none.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

fn has_type(value: &Value, schema: &Value) -> bool {
    let types = types(schema);
    let is = |ty: &&str| match *ty {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    types.is_empty() || types.iter().any(is)
}

/// A bound on a number or a length: keyword, how it reads, and whether `found` keeps to it.
type Bound = (&'static str, &'static str, fn(f64, f64) -> bool);

const NUMBER_BOUNDS: [Bound; 4] = [
    ("minimum", "at least", |v, bound| v >= bound),
    ("exclusiveMinimum", "greater than", |v, bound| v > bound),
    ("maximum", "at most", |v, bound| v <= bound),
    ("exclusiveMaximum", "less than", |v, bound| v < bound),
];

const LENGTH_BOUNDS: [Bound; 2] =
    [("minItems", "with at least", |v, bound| v >= bound), ("maxItems", "with at most", |v, bound| v <= bound)];

/// Type, words and bounds; what is inside arrays and objects is checked apart.
fn allows(value: &Value, schema: &Value) -> bool {
    let within = |bounds: &[Bound], number: Option<f64>| {
        let keeps = |(keyword, _, holds): &Bound| {
            let bound = schema.get(keyword).and_then(Value::as_f64);
            bound.zip(number).is_none_or(|(bound, number)| holds(number, bound))
        };
        bounds.iter().all(keeps)
    };
    has_type(value, schema)
        && schema.get("const").is_none_or(|word| word == value)
        && schema.get("enum").and_then(Value::as_array).is_none_or(|words| words.contains(value))
        && within(&NUMBER_BOUNDS, value.as_f64())
        && within(&LENGTH_BOUNDS, value.as_array().map(|a| a.len() as f64))
}

/// What a schema with these alternatives accepts, in words.
fn expectation(schema: &Value, branches: &[&Value]) -> String {
    let words = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let words: Vec<&str> =
        words.chain(branches.iter().filter_map(|b| b.get("const"))).filter_map(Value::as_str).collect();
    if !words.is_empty() {
        return one_of(&words);
    }
    if !branches.is_empty() {
        return branches.iter().map(|b| expectation(b, &[])).collect::<Vec<_>>().join(", or ");
    }
    let mut parts = vec![types(schema).join(" or ")];
    for (keyword, words, _) in NUMBER_BOUNDS.iter().chain(&LENGTH_BOUNDS) {
        parts.extend(schema.get(keyword).map(|bound| format!("{words} {bound}")));
    }
    parts.join(" ")
}

#[cfg(test)]
pub(super) mod keywords {
    use serde_json::Value;

    /// Keywords that are checked, or that say nothing about a value's validity.
    const UNDERSTOOD: [&str; 23] = [
        "$defs",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "oneOf",
        "properties",
        "required",
        "title",
        "type",
        "unevaluatedProperties",
    ];

    /// Fails when a schema uses a keyword that the checker would ignore.
    pub fn assert_understood(schema: &Value) {
        let Value::Object(keywords) = schema else { return };
        for (keyword, value) in keywords {
            assert!(UNDERSTOOD.contains(&keyword.as_str()), "the checker ignores `{keyword}`");
            match (keyword.as_str(), value) {
                ("default" | "const" | "enum", _) => {}
                ("properties" | "$defs", Value::Object(named)) => named.values().for_each(assert_understood),
                (_, Value::Array(list)) => list.iter().for_each(assert_understood),
                (_, other) => assert_understood(other),
            }
        }
    }
}
