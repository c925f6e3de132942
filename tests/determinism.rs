//! Equal input gives equal output, byte for byte: in one process, in two, and on any number of threads.

mod common;

use common::{BUNDLED, batch, bundled_files, compiled, kept, step_on};
use gradc::{CompiledStep, Options, Stage};
use gradc_ir::text;
use std::path::Path;
use std::process::Command;

const STAGES: [Stage; 7] =
    [Stage::Forward, Stage::Rolled, Stage::Train, Stage::Optimized, Stage::Schedule, Stage::Memory, Stage::Clif];

fn with_texts(name: &str) -> CompiledStep {
    compiled(name, &Options { emit: STAGES.to_vec(), ..Options::default() })
}

#[test]
fn two_compilations_in_one_process_are_equal() {
    for name in BUNDLED {
        let (a, b) = (with_texts(name), with_texts(name));
        assert!(a.report().texts == b.report().texts, "{name}: a stage differs");
        assert!(!a.code().is_empty() && a.code() == b.code(), "{name}: the machine code differs");
    }
}

/// The files that a fresh process writes for every stage, by name.
fn dump(name: &str, folder: &Path) -> Vec<(String, Vec<u8>)> {
    let [model, recipe] = bundled_files(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradc"));
    let output = command.arg("compile").arg(model).arg("--recipe").arg(recipe).env("GRADC_DUMP", folder).output();
    assert!(output.expect("gradc starts").status.success(), "{name}");
    let files = std::fs::read_dir(folder).expect("the folder of the stages");
    let read = |e: std::fs::DirEntry| {
        (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).expect("a stage"))
    };
    let mut files: Vec<_> = files.map(|e| read(e.expect("an entry"))).collect();
    files.sort();
    files
}

#[test]
fn two_processes_write_equal_stages() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in BUNDLED {
        let [a, b] = ["a", "b"].map(|run| dump(name, &folder.path().join(format!("{name}.{run}"))));
        assert!(a.len() > STAGES.len(), "{name}: several entries have stages, found {}", a.len());
        assert!(a == b, "{name}: a stage differs");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for name in BUNDLED {
        let run = |threads: usize| {
            let mut session = compiled(name, &Options { threads, ..Options::default() }).session().expect("a session");
            let losses: Vec<u32> = (0..4)
                .map(|k| {
                    let inputs = batch(session.compiled(), k);
                    step_on(&mut session, &inputs).to_bits()
                })
                .collect();
            (losses, kept(&session))
        };
        let one = run(1);
        for threads in [2, 4] {
            assert!(run(threads) == one, "{name}: {threads} threads give other bits than one");
        }
    }
}

#[test]
fn every_stage_reads_back_as_printed() {
    for name in BUNDLED {
        for (stage, entry, printed) in &with_texts(name).report().texts {
            let again = match stage {
                Stage::Forward | Stage::Rolled | Stage::Train | Stage::Optimized => {
                    text::parse(printed).map(|g| text::print(&g))
                }
                Stage::Schedule => text::parse_schedule(printed).map(|s| text::print_schedule(&s)),
                Stage::Memory => text::parse_plan(printed).map(|p| text::print_plan(&p)),
                Stage::Clif => continue,
            };
            let again = again.unwrap_or_else(|e| panic!("{name}: {stage:?} of {entry}: {e}"));
            assert!(again == *printed, "{name}: {stage:?} of {entry} reads back as something else");
        }
    }
}

#[test]
fn graphs_read_back_equal() {
    for name in BUNDLED {
        let (model, _) = common::bundled(name);
        for graph in [&model.train, &model.infer] {
            assert!(text::parse(&text::print(graph)).as_ref() == Ok(graph), "{name}");
        }
    }
}
