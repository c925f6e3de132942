//! What every family of rewrite rules wins: each model with all of them, with one left out, with a greedy rewriter
//! instead of equality saturation, and with none.
//!
//! ```text
//! cargo run --example ablation -- [--seconds S] [MODEL …] > docs/ablation.md
//! ```
//!
//! Models are those of `tests/cases/models`, and the reference models where the folder that
//! `GRADC_SHARED` names (default `../shared`) has them, with their own recipes and with those of `examples/recipes`,
//! which train parts. FLOPs and bytes are the optimizer's estimates for the training
//! step, the peak is the planned one with nothing made again in spare time, the time is the shortest of a step on one thread.

use gradc::bench::{measure, random_inputs};
use gradc::entries::EntryKind;
use gradc::{ImportOptions, Model, Options, Recipe, TensorView, compile, import};
use gradc_passes::egraph::Strategy;
use gradc_passes::egraph::rules::{Family, NumericClass};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a family must win on some model to stay.
const LEAST_GAIN: f64 = 0.05;

const REFERENCE: [&str; 10] = [
    "mlp_digits",
    "mlp_mnist",
    "lenet",
    "resnet8",
    "mobilenetv2_tiny",
    "mobilenetv2_sparse",
    "gpt_tiny",
    "lora_mlp",
    "char_lstm",
    "ista_denoiser",
];

/// Recipes of `examples/recipes` for reference models: `MODEL.SCHEME`.
const PARTS: [&str; 2] = ["gpt_tiny.s2ft", "mobilenetv2_tiny.mcunet"];

/// A name with the files of model and recipe.
type Case = (String, [PathBuf; 2]);

/// FLOPs, bytes moved, planned peak in bytes, shortest step in µs.
type Figures = [f64; 4];

/// Leading figures that are the same in every run and no trade against another.
const EXACT: usize = 2;

const FIGURES: [&str; 4] = ["FLOPs", "bytes moved", "planned peak, bytes", "step, µs"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut seconds = 0.3;
    if let Some(at) = arguments.iter().position(|a| a == "--seconds") {
        seconds = arguments.get(at + 1).ok_or("--seconds needs a number")?.parse()?;
        arguments.drain(at..at + 2);
    }
    let mut rows = Vec::new();
    for (name, files) in cases().into_iter().filter(|(name, _)| arguments.is_empty() || arguments.contains(name)) {
        eprintln!("{name}");
        let recipe = Recipe::from_file(&files[1])?;
        let options = ImportOptions { batch_norm: recipe.batch_norm, ..ImportOptions::default() };
        let model = import(&files[0], &options)?;
        let figures = variants().into_iter().map(|(_, options)| figures(&model, &recipe, &options, seconds));
        rows.push((name, figures.collect::<Result<Vec<Figures>, _>>()?));
    }
    print(&rows);
    Ok(())
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundled = root.join("tests/cases/models");
    let files = std::fs::read_dir(&bundled).into_iter().flatten().flatten();
    let names = files.filter_map(|f| Some(f.file_name().to_str()?.strip_suffix(".recipe.json")?.to_string()));
    let files_of = |name: &str| [".json", ".recipe.json"].map(|end| bundled.join(format!("{name}{end}")));
    let mut cases: Vec<Case> = names.map(|name| (name.clone(), files_of(&name))).collect();
    cases.sort();
    let shared = std::env::var_os("GRADC_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let folder = |name: &str| shared.join("reference/models").join(name);
    cases.extend(REFERENCE.map(|name| (name.to_string(), ["model.pt2", "recipe.json"].map(|f| folder(name).join(f)))));
    cases.extend(PARTS.map(|case| {
        let model = case.split('.').next().unwrap_or(case);
        (case.to_string(), [folder(model).join("model.pt2"), root.join(format!("examples/recipes/{case}.json"))])
    }));
    cases.retain(|(_, files)| files.iter().all(|f| f.exists()));
    cases
}

/// Everything first, then each family left out, greedy, nothing.
fn variants() -> Vec<(String, Options)> {
    let all = Options { threads: 1, spare_time: false, fp: NumericClass::Reassociation, ..Options::default() };
    let mut variants = vec![("all".to_string(), all.clone())];
    for family in Family::ALL {
        let families = Family::ALL.into_iter().filter(|f| *f != family).collect();
        variants.push((format!("no {}", family_name(family)), Options { families, ..all.clone() }));
    }
    variants.push(("greedy".into(), Options { strategy: Strategy::Greedy, ..all.clone() }));
    variants.push(("none".into(), Options { families: [].into(), ..all }));
    variants
}

fn family_name(family: Family) -> String {
    format!("{family:?}").to_lowercase()
}

fn figures(model: &Model, recipe: &Recipe, options: &Options, seconds: f64) -> Result<Figures, Box<dyn Error>> {
    let step = compile(model, Some(recipe), options)?;
    let (_, rewrites) = step.report().rewrites.first().ok_or("no training step")?;
    let cost = rewrites.after.cost;
    let inputs = random_inputs(step.entry(EntryKind::Step).ok_or("no training step")?, 0);
    let views: Vec<(&str, TensorView)> = inputs.iter().map(|(name, t)| (name.as_str(), TensorView::from(t))).collect();
    let measured = measure(step.into_session()?, &views, Duration::from_secs_f64(seconds), 1)?;
    Ok([cost.flops, cost.bytes, measured.planned_peak_bytes as f64, measured.min_us])
}

fn print(rows: &[(String, Vec<Figures>)]) {
    let names: Vec<String> = variants().into_iter().map(|(name, _)| name).collect();
    println!("# What the families of rewrite rules win\n");
    println!("Made by `cargo run --example ablation > docs/ablation.md`, which says what is compared.");
    println!("`all` saturates with every family and `--fp reassoc`; the columns after it show by how much a figure");
    println!("is above that with one family left out, with greedy rewriting instead, and without any rewriting.");
    for (k, figure) in FIGURES.iter().enumerate() {
        println!("\n## {figure}\n\n| model | {} |", names.join(" | "));
        println!("|---|{}", "---|".repeat(names.len()));
        for (model, figures) in rows {
            let others = figures[1..].iter().map(|f| relative(f[k], figures[0][k]));
            println!("| {model} | {} | {} |", number(figures[0][k]), others.collect::<Vec<_>>().join(" | "));
        }
    }
    println!("\n## Verdict\n\nA family has earned its place if some model wins at least {:.0} %", 100.0 * LEAST_GAIN);
    println!(
        "of FLOPs or bytes by it: what is lost without it. These are exact; times move by tens of percent while the\nmachine does other work.\n"
    );
    println!("| without | most is lost | at least {:.0} % |\n|---|---|---|", 100.0 * LEAST_GAIN);
    for (variant, name) in names.iter().enumerate().skip(1) {
        let gains = rows.iter().flat_map(|(model, figures)| {
            (0..EXACT).map(move |k| (1.0 - figures[0][k] / figures[variant][k], model, FIGURES[k]))
        });
        let best = gains.max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((gain, model, figure)) = best else { continue };
        let stays = if gain >= LEAST_GAIN { "yes" } else { "no" };
        println!("| {name} | {:.1} % of {figure} on {model} | {stays} |", 100.0 * gain);
    }
}

fn number(value: f64) -> String {
    if value >= 1e5 { format!("{value:.3e}") } else { format!("{value:.1}") }
}

fn relative(value: f64, to: f64) -> String {
    if value == to { "=".into() } else { format!("{:+.1} %", 100.0 * (value / to - 1.0)) }
}
