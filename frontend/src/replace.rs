//! Files that are replaced whole: whatever happens, a reader finds the old one or the new one.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that takes the place of another when it is finished.
///
/// Until then it is `.<name>.<random>.tmp` in the same folder, locked by whoever writes it. What a killed process has
/// left of such files is removed when the same file is written again.
pub struct Replacement {
    path: PathBuf,
    file: NamedTempFile,
}

impl Replacement {
    /// An empty file to take the place of `path`; fails where the folder does not take it, or where there is something
    /// that is no file, such as a device.
    pub fn of(path: &Path) -> Result<Self> {
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::new(ErrorKind::InvalidInput, "not a file"));
        }
        let name = path.file_name().ok_or_else(|| Error::from(ErrorKind::IsADirectory))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = format!(".{}.", name.to_string_lossy());
        remove_leftovers(folder, &prefix);
        let file = temporary_file(folder, &prefix)?;
        // A file system without locks cannot tell a leftover from a file that is being written, and keeps both.
        let _ = file.as_file().try_lock();
        Ok(Replacement { path: path.to_path_buf(), file })
    }

    /// Where to write.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Path of what is being written.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Takes the place of the other file, in one rename.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(self.path)?;
        Ok(())
    }
}

/// Writes a file whole.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut replacement = Replacement::of(path)?;
    replacement.file().write_all(content)?;
    replacement.finish()
}

const SUFFIX: &str = ".tmp";

/// A new file that others may read as they may any file the user writes.
fn temporary_file(folder: &Path, prefix: &str) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Removes files that nobody writes any more. What cannot be removed does no harm.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let middle = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(SUFFIX));
        if middle.is_some_and(|m| !m.contains('.')) && is_abandoned(&entry.path()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a lock can be had, which ends with the process that holds it.
fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.svg");
        replace(&path, b"old").expect("it can be written");
        let mut half = Replacement::of(&path).expect("it can be begun");
        half.file().write_all(b"ne").expect("it can be written");
        drop(half);
        assert_eq!(std::fs::read(&path).expect("it is there"), b"old");
        replace(&path, b"new").expect("it can be written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"new");
        assert_eq!(names(folder.path()), ["a.svg"]);
    }

    #[test]
    fn only_what_nobody_writes_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.svg");
        let writing = Replacement::of(&path).expect("it can be begun");
        let live = writing.temporary_path().file_name().expect("a name").to_string_lossy().into_owned();
        for name in [".a.svg.Qx81zP.tmp", ".a.svg.b.Qx81zP.tmp", ".b.svg.Qx81zP.tmp"] {
            std::fs::write(folder.path().join(name), "left by a killed process").expect("it can be written");
        }
        replace(&path, b"new").expect("it can be written");
        let mut expected = [live.as_str(), ".a.svg.b.Qx81zP.tmp", ".b.svg.Qx81zP.tmp", "a.svg"].map(String::from);
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn a_folder_is_not_replaced() {
        assert!(replace(Path::new("/"), b"").is_err());
        let folder = tempfile::tempdir().expect("a folder");
        assert!(replace(&folder.path().join("absent/a.svg"), b"").is_err());
        assert!(replace(folder.path(), b"").is_err());
    }
}
