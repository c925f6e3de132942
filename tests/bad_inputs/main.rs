//! Bad input through the real command: it ends with the right exit code and a message that says what to do.
//!
//! Every group is one table and one snapshot: the command of each case and all it writes to standard error.

mod data;
mod files;
mod models;
mod programs;
mod runs;
mod usage;

#[path = "../common/mod.rs"]
mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any case takes on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(100);

const COMPILE: &str = "compile m.json --recipe r.json";
const TRAIN: &str = "train m.json --recipe r.json --data d.safetensors --epochs 1 --out run --quiet";

/// A command in a folder that has a valid model `m.json`, recipe `r.json` and data `d.safetensors`, except for `files`.
struct Case {
    title: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    /// Commands that succeed before.
    before: Vec<&'static str>,
    command: String,
    exit: i32,
}

impl Case {
    /// A command that bad input stops.
    fn new(title: &'static str, command: impl Into<String>) -> Self {
        Case { title, files: vec![], before: vec![], command: command.into(), exit: 2 }
    }

    fn file(mut self, name: &'static str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name, content.into()));
        self
    }

    fn after(mut self, command: &'static str) -> Self {
        self.before.push(command);
        self
    }

    /// A command that runs and fails.
    fn fails(mut self) -> Self {
        self.exit = 1;
        self
    }
}

/// Runs the command in a folder; its exit code and standard error.
fn gradc(folder: &Path, command: &str) -> (Option<i32>, String) {
    let log = folder.join("stderr");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gradc"))
        .args(command.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("gradc starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if start.elapsed() > TIME_LIMIT {
            child.kill().expect("a child");
            panic!("`gradc {command}` hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("a log")).into_owned();
    (status.code(), text.replace(&folder.display().to_string(), "[folder]"))
}

/// What a case writes to standard error, with its command; or what is wrong with how it ends.
fn told(case: &Case) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let valid = [("m.json", files::model(|_| {})), ("r.json", files::recipe(|_| {})), ("d.safetensors", files::data())];
    for (name, content) in valid.iter().chain(&case.files) {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    for command in &case.before {
        let (code, text) = gradc(folder.path(), command);
        assert_eq!(code, Some(0), "{}: `{command}` before it fails: {text}", case.title);
    }
    let (code, text) = gradc(folder.path(), &case.command);
    let coded = text.contains("error[") || text.contains("Usage:") || text.contains("For more information");
    if code == Some(case.exit) && !text.contains("panicked") && coded {
        return Ok(format!("## {}\n$ gradc {}\n{}\n\n", case.title, case.command, text.trim_end()));
    }
    Err(format!("{}: exit {code:?} instead of {}: {text}", case.title, case.exit))
}

/// What all cases of a group tell.
fn all_told(cases: &[Case]) -> String {
    let (told, wrong): (Vec<_>, Vec<_>) = cases.iter().map(told).partition(Result::is_ok);
    let wrong: Vec<String> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} cases end wrongly:\n{}", wrong.len(), wrong.join("\n"));
    told.into_iter().filter_map(Result::ok).collect()
}

/// Standard output on a full disk is no bug of gradc.
#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("m.json"), files::model(|_| {})).expect("a file");
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    let output = Command::new(env!("CARGO_BIN_EXE_gradc"))
        .args(["inspect", "m.json"])
        .current_dir(folder.path())
        .stdout(full)
        .output()
        .expect("gradc starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.starts_with("error[unwritable-file]: No space left on device"), "{told}");
}

/// `gradc … | head`: what is printed after the reader has left is dropped, quietly.
#[test]
fn a_reader_that_leaves_is_no_bug() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("stderr");
    std::fs::write(folder.path().join("m.json"), files::model(|_| {})).expect("a file");
    std::fs::write(folder.path().join("r.json"), files::recipe(|_| {})).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gradc"))
        .args(["inspect", "m.json", "--recipe", "r.json", "--stage", "optimized"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("gradc starts");
    drop(child.stdout.take());
    let code = child.wait().expect("a child").code();
    assert_eq!((code, std::fs::read_to_string(log).expect("a log").as_str()), (Some(0), ""));
}
