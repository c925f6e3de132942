//! Files of an exported program: entries of a `.pt2` archive, files of an unzipped one, or nothing but the graph.

use crate::zip::Zip;
use gradc_ir::diagnostic::Diagnostic;
use rawzip::FileReader;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where an archive keeps its program.
const PROGRAM: &str = "models/model.json";

/// What lies beside a program.
pub struct Archive {
    place: Place,
}

enum Place {
    /// An archive in memory, and what stands before the names of its entries, with its slash.
    Zip(Zip<Vec<u8>>, String),
    /// An archive in a file, likewise.
    ZipFile(Zip<FileReader>, String),
    /// The top folder of an unzipped archive.
    Folder(PathBuf),
    /// Only the program is there.
    Nothing,
}

impl Archive {
    /// The archive a file is or belongs to, and the program's JSON.
    pub fn open(path: &Path, bytes: Vec<u8>) -> Result<(Archive, Vec<u8>), Diagnostic> {
        if bytes.starts_with(b"PK") {
            let zip = Zip::of_bytes(bytes)?;
            let top = top_folder(zip.names())?;
            return Archive { place: Place::Zip(zip, top) }.with_program();
        }
        let root = path.parent().and_then(Path::parent).filter(|root| root.join("data/weights").is_dir());
        let place = root.map_or(Place::Nothing, |root| Place::Folder(root.to_path_buf()));
        Ok((Archive { place }, bytes))
    }

    /// An archive in a file, of which the weights are read one by one, and the program's JSON.
    pub fn open_file(file: File) -> Result<(Archive, Vec<u8>), Diagnostic> {
        let zip = Zip::of_file(file)?;
        let top = top_folder(zip.names())?;
        Archive { place: Place::ZipFile(zip, top) }.with_program()
    }

    fn with_program(self) -> Result<(Archive, Vec<u8>), Diagnostic> {
        self.check_byte_order()?;
        let program = self.read(PROGRAM)?.ok_or_else(|| {
            Diagnostic::new("missing-entry", format!("the archive has no `{PROGRAM}`"))
                .help("save the program with torch.export.save; AOTInductor packages cannot be trained")
        })?;
        Ok((self, program))
    }

    /// Whether weights belong to the program.
    pub fn has_weights(&self) -> bool {
        !matches!(self.place, Place::Nothing)
    }

    /// Bytes of an entry, `None` when there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
        match &self.place {
            Place::Nothing => Ok(None),
            Place::Folder(root) => read_file(root, name),
            Place::Zip(zip, top) => zip.read(&format!("{top}{name}")),
            Place::ZipFile(zip, top) => zip.read(&format!("{top}{name}")),
        }
    }

    fn check_byte_order(&self) -> Result<(), Diagnostic> {
        match self.read("byteorder")? {
            Some(order) if order.trim_ascii() != b"little" => {
                Err(Diagnostic::new("unsupported-byte-order", "the archive's tensors are not little-endian")
                    .expected("little")
                    .found(String::from_utf8_lossy(&order)))
            }
            _ => Ok(()),
        }
    }
}

/// What stands before `models/model.json` in the names of an archive, with its slash.
fn top_folder<'a>(names: impl Iterator<Item = &'a str>) -> Result<String, Diagnostic> {
    let tops: Vec<&str> =
        names.filter_map(|n| n.strip_suffix(PROGRAM)).filter(|top| top.is_empty() || top.ends_with('/')).collect();
    match tops[..] {
        [] => Ok(String::new()),
        [top] => Ok(top.to_string()),
        _ => Err(Diagnostic::new("ambiguous-archive", "the archive has several programs").found(tops.join(", "))),
    }
}

fn read_file(root: &Path, name: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
    let path = root.join(name);
    // Names come from JSON: nothing outside the folder is read.
    let inside = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !inside || !path.is_file() {
        return Ok(None);
    }
    crate::import::read(&path).map(Some)
}
