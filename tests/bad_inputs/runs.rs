//! Runs that go on where they cannot, or write where they cannot.

use crate::files::{cut, data, model};
use crate::{Case, TRAIN, all_told, files, gradc};
use std::path::Path;
use std::process::Command;

const RESUME: &str = "train m.json --recipe r.json --data d.safetensors --epochs 2 --out run --quiet --resume";

#[test]
fn resumption() {
    let renamed = String::from_utf8_lossy(&model(|_| {})).replace("\"w\"", "\"weight\"");
    let cases = [
        Case::new("no checkpoint", RESUME),
        Case::new("checkpoint of another seed", format!("{RESUME} --seed 7")).after(TRAIN),
        Case::new("checkpoint of another model", RESUME.replace("m.json", "other.json"))
            .file("other.json", renamed)
            .after(TRAIN),
        Case::new("checkpoint of another recipe", RESUME.replace("r.json", "other.json"))
            .file("other.json", files::recipe(|r| r["optimizer"] = serde_json::json!({"kind": "adam"})))
            .after(TRAIN),
        Case::new("checkpoint of another validation set", format!("{RESUME} --validation 0.25")).after(TRAIN),
        Case::new("other rows held out", format!("{RESUME} --validation-tail 4"))
            .after("train m.json --recipe r.json --data d.safetensors --validation 0.5 --epochs 1 --out run --quiet"),
        Case::new("another batch size within an epoch", format!("{RESUME} --batch 4"))
            .after("train m.json --recipe r.json --data d.safetensors --steps 1 --out run --quiet"),
        Case::new("weights instead of a checkpoint", RESUME.replace("run", ".")).file("checkpoint.safetensors", data()),
        Case::new("truncated checkpoint", RESUME.replace("run", ".")).file("checkpoint.safetensors", cut(&data(), 90)),
        Case::new("folder that is a file", TRAIN.replace("run", "m.json")),
        Case::new("folder within a file", TRAIN.replace("run", "m.json/run")),
    ];
    insta::assert_snapshot!(all_told(&cases));
}

/// A file system of 64 KiB; `None` where mounting is not permitted.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|o| o.status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status();
        assert!(unmounted.is_ok_and(|s| s.success()), "{} is still mounted", self.0.display());
    }
}

/// A checkpoint that does not fit leaves the old one, from which the run goes on once there is room.
#[test]
fn full_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("run");
    let Some(mounted) = SmallDisk::mount(&disk) else {
        eprintln!("SKIPPED: a full disk cannot be tested where mounting is not permitted");
        return;
    };
    for (name, content) in [("m.json", model(|_| {})), ("r.json", files::recipe(|_| {})), ("d.safetensors", data())] {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    assert_eq!(gradc(folder.path(), TRAIN), (Some(0), String::new()));
    let checkpoint = |run: &Path| std::fs::read(run.join("checkpoint.safetensors")).expect("a checkpoint");
    let before = checkpoint(&disk);
    std::fs::write(disk.join("filler"), vec![0; 1 << 17]).expect_err("the disk is smaller");
    let (code, told) = gradc(folder.path(), RESUME);
    assert_eq!(code, Some(2), "{told}");
    insta::assert_snapshot!(told);
    assert!(checkpoint(&disk) == before, "the old checkpoint is gone");
    std::fs::remove_file(disk.join("filler")).expect("the filler");
    assert_eq!(gradc(folder.path(), RESUME), (Some(0), String::new()));
    let elsewhere = TRAIN.replace("run", "whole").replace("--epochs 1", "--epochs 2");
    assert_eq!(gradc(folder.path(), &elsewhere), (Some(0), String::new()));
    assert!(
        checkpoint(&disk) == checkpoint(&folder.path().join("whole")),
        "the run went on as if nothing had happened"
    );
    drop(mounted);
}
