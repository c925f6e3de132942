//! `docs/diagnostics.md` lists the codes of all diagnostics, no more and no fewer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Calls whose first argument is a code.
const CONSTRUCTORS: [&str; 3] = ["Diagnostic::new(", "Fault::new(", "from_type_error("];

/// Texts with hyphens that are no codes.
const NO_CODES: [&str; 3] = ["kebab-case", "x86-64-v2", "x86-64-v3"];

fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/diagnostics.md")).expect("the list is there");
    let code = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_string());
    text.lines().filter_map(code).collect()
}

/// Product code of all crates, without its tests.
fn sources() -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["src", "ir/src", "frontend/src", "passes/src", "codegen/src"] {
        collect(&Path::new(ROOT).join(folder), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("a readable folder").path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        if path.is_dir() {
            collect(&path, files);
        } else if !matches!(stem.as_deref(), Some("tests" | "laws" | "testing")) {
            let text = fs::read_to_string(&path).expect("sources are text");
            let product = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"]
                .iter()
                .filter_map(|tests| text.find(tests))
                .min()
                .map_or(text.as_str(), |at| &text[..at]);
            files.push(product.to_string());
        }
    }
}

/// Texts between two quotes with what stands before and after them.
fn quoted(source: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let quotes: Vec<usize> = source.match_indices('"').map(|(at, _)| at).collect();
    let pairs: Vec<(usize, usize)> = quotes.windows(2).map(|q| (q[0], q[1])).collect();
    pairs.into_iter().map(|(from, to)| (&source[..from], &source[from + 1..to], &source[to + 1..]))
}

fn is_kebab(text: &str) -> bool {
    text.split('-').all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

/// Codes have hyphens, or stand where a code must stand; names of rewrite rules have a colon behind them.
fn is_code(before: &str, text: &str, after: &str) -> bool {
    let constructed = || CONSTRUCTORS.iter().any(|c| before.trim_end().ends_with(c));
    let hyphenated = || text.contains('-') && !after.starts_with(':') && !NO_CODES.contains(&text);
    is_kebab(text) && (constructed() || hyphenated())
}

#[test]
fn every_code_is_documented() {
    let documented = documented();
    let sources = sources();
    let codes: BTreeSet<&str> =
        sources.iter().flat_map(|s| quoted(s)).filter(|(b, t, a)| is_code(b, t, a)).map(|(_, text, _)| text).collect();
    assert!(codes.len() > 100, "only {} codes were found", codes.len());
    let missing: Vec<_> = codes.iter().filter(|c| !documented.contains(**c)).collect();
    assert!(missing.is_empty(), "not in docs/diagnostics.md: {missing:?}");
}

#[test]
fn every_documented_code_is_used() {
    let sources = sources();
    let unused: Vec<_> =
        documented().into_iter().filter(|c| !sources.iter().any(|s| s.contains(&format!("\"{c}\"")))).collect();
    assert!(unused.is_empty(), "in docs/diagnostics.md, but in no source: {unused:?}");
}
