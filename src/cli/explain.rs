//! `gradc explain`.

use super::Failure;
use super::common::{CodeArguments, ModelArguments};
use clap::Args;
use gradc::budget::ParameterCost;
use gradc::{CompiledStep, Diagnostic, Diagnostics, Stage};
use gradc_frontend::replace::replace;
use gradc_ir::graph::Graph;
use gradc_ir::text;
use gradc_passes::egraph::explain::{OptimizeReport, Rewrite, RuleTotals, WindowReport};
use gradc_passes::egraph::rules::all_rules;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    code: CodeArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only this window of every entry, counted from 1
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Only rewrites by this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only the totals of every rule
    #[arg(long)]
    summary: bool,
    /// Draw the graph before and after, side by side; with --window that window
    #[arg(long, value_name = "FILE.svg")]
    graph: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    check_names(&arguments)?;
    let mut options = arguments.code.options()?;
    options.explain = true;
    options.emit = if arguments.graph.is_some() { vec![Stage::Train, Stage::Optimized] } else { vec![] };
    let step = arguments.model.compile(&options)?;
    if step.report().rewrites.is_empty() {
        let message = "a package was optimized when it was made and does not say how";
        return Err(Diagnostic::new("no-stage", message).help("explain the model it was made from").into());
    }
    check_window(&arguments, &step)?;
    let wrong = wrong_rewrites(&step)?;
    if arguments.json {
        print_json(&arguments, &step, &arguments.model.parameter_costs(&arguments.code.options()?)?);
    } else {
        print_text(&arguments, &step);
    }
    if let Some(path) = &arguments.graph {
        write(path, &picture(&arguments, &step)?)?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(Diagnostics(wrong).into()) }
}

/// The rule asked for is one of the rules, the picture asked for an SVG.
fn check_names(arguments: &Arguments) -> Result<(), Diagnostic> {
    if let Some(rule) = &arguments.rule {
        let rules: Vec<&str> = all_rules().iter().map(|rule| rule.name).collect();
        if !rules.contains(&rule.as_str()) {
            let message = "there is no such rule";
            return Err(Diagnostic::new("usage", message).expected(rules.join(", ")).found(rule));
        }
    }
    match &arguments.graph {
        Some(path) if path.extension().is_none_or(|e| e != "svg") => Err(Diagnostic::new("usage", "--graph draws SVG")
            .expected("a name that ends in .svg")
            .found(path.display())),
        _ => Ok(()),
    }
}

/// Some entry has the window asked for.
fn check_window(arguments: &Arguments, step: &CompiledStep) -> Result<(), Diagnostic> {
    let most = step.report().told().iter().map(|(_, report)| report.windows.len()).max().unwrap_or(0);
    match arguments.window {
        Some(number) if number == 0 || number > most => Err(no_window(most, number)),
        _ => Ok(()),
    }
}

fn no_window(most: usize, asked: usize) -> Diagnostic {
    Diagnostic::new("usage", "there is no such window").expected(format!("1 to {most}")).found(asked)
}

fn print_text(arguments: &Arguments, step: &CompiledStep) {
    for (graph, loops) in step.report().rolls.iter().filter(|(_, loops)| !loops.is_empty()) {
        println!("loops of {graph}:\n{loops}");
    }
    for (name, report) in step.report().told() {
        println!("{name}: {report}");
        RuleTotals::of(report).iter().for_each(|totals| println!("  {totals}"));
        for (pass, what) in step.report().passes.iter().filter(|p| p.entry == name).map(|p| (p.pass, &p.what)) {
            println!("  {pass}: {what}");
        }
        for (number, window) in windows(arguments, report).filter(|_| !arguments.summary) {
            println!("\nwindow {number} at {window}");
            // what was solved before is told where it was solved
            if !window.stamped || arguments.window.is_some() {
                rewrites(arguments, window).for_each(|(k, rewrite)| print!("{k:>4}. {rewrite}"));
            }
        }
        println!();
    }
}

fn print_json(arguments: &Arguments, step: &CompiledStep, costs: &[ParameterCost]) {
    let entry = |(entry, report): (String, &OptimizeReport)| {
        let window = |(number, window): (usize, &WindowReport)| {
            let mut window = window.clone();
            let kept = rewrites(arguments, &window).map(|(_, rewrite)| rewrite.clone()).collect();
            window.rewrites = kept;
            serde_json::json!({ "number": number, "window": window })
        };
        let windows: Vec<serde_json::Value> = windows(arguments, report).map(window).collect();
        let passes = step.report().passes.iter().filter(|p| p.entry == entry);
        let passes: serde_json::Map<_, _> = passes.map(|p| (p.pass.to_string(), p.what.clone().into())).collect();
        let (before, after) = (&report.before, &report.after);
        let rules = RuleTotals::of(report);
        let what = serde_json::json!({
            "before": before, "after": after, "rules": rules, "passes": passes, "windows": windows
        });
        (entry, what)
    };
    let mut told: serde_json::Map<_, _> = step.report().told().into_iter().map(entry).collect();
    let loops = step.report().rolls.iter().map(|(graph, loops)| (graph.to_string(), serde_json::json!(loops)));
    told.insert("loops".into(), loops.collect::<serde_json::Map<_, _>>().into());
    let report = step.report();
    told.insert("parameters".into(), serde_json::json!({ "training": report.parameters, "costs": costs }));
    told.insert("selection".into(), serde_json::json!(report.selection));
    println!("{}", serde_json::Value::Object(told));
}

/// The windows asked for, with their numbers.
fn windows<'a>(
    arguments: &'a Arguments,
    report: &'a OptimizeReport,
) -> impl Iterator<Item = (usize, &'a WindowReport)> + use<'a> {
    let numbered = report.windows.iter().enumerate().map(|(k, window)| (k + 1, window));
    numbered.filter(|(number, _)| arguments.window.is_none_or(|asked| asked == *number))
}

/// The rewrites asked for, with their numbers.
fn rewrites<'a>(
    arguments: &'a Arguments,
    window: &'a WindowReport,
) -> impl Iterator<Item = (usize, &'a Rewrite)> + use<'a> {
    let numbered = window.rewrites.iter().enumerate().map(|(k, rewrite)| (k + 1, rewrite));
    numbered.filter(|(_, rewrite)| arguments.rule.is_none() || arguments.rule.as_deref() == rewrite.rule)
}

/// Rewrites whose replay failed, with their programs written to the folder `GRADC_DUMP` names or the current one.
fn wrong_rewrites(step: &CompiledStep) -> Result<Vec<Diagnostic>, Failure> {
    let folder = std::env::var_os("GRADC_DUMP").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut wrong = Vec::new();
    for (name, report) in step.report().told() {
        for (number, window) in report.windows.iter().enumerate().filter(|(_, window)| !window.stamped) {
            for (k, rewrite) in window.rewrites.iter().enumerate() {
                let Some(programs) = &rewrite.disagreeing else { continue };
                let path = folder.join(format!("{}.window{}.rewrite{}.gir", name.replace(' ', "_"), number + 1, k + 1));
                dump(&path, programs)?;
                wrong.push(rewrite.bug().help(format!("the programs before and after are in {}", path.display())));
            }
        }
    }
    Ok(wrong)
}

fn dump(path: &Path, [before, after]: &[Graph; 2]) -> Result<(), Failure> {
    write(path, &format!("; before\n{}\n; after\n{}", text::print(before), text::print(after)))
}

fn write(path: &Path, content: &str) -> Result<(), Failure> {
    let unwritable = |e: std::io::Error| Diagnostic::new("unwritable-file", e.to_string()).in_file(path.display());
    Ok(replace(path, content.as_bytes()).map_err(unwritable)?)
}

/// The first entry, or its window asked for, before and after.
fn picture(arguments: &Arguments, step: &CompiledStep) -> Result<String, Failure> {
    let [before, after] = match arguments.window {
        Some(number) => {
            let (_, report) = &step.report().rewrites[0];
            let window = report.windows.get(number.wrapping_sub(1));
            window.and_then(|w| w.programs.clone()).ok_or_else(|| no_window(report.windows.len(), number))?
        }
        None => [stage(step, Stage::Train)?, stage(step, Stage::Optimized)?],
    };
    Ok(text::svg_beside(&[("before", &before), ("after", &after)]))
}

fn stage(step: &CompiledStep, wanted: Stage) -> Result<Graph, Failure> {
    let text = step.report().texts.iter().find(|(stage, ..)| *stage == wanted);
    let (.., text) = text.expect("every entry passes through this stage, which was asked for");
    Ok(text::parse(text)?)
}
