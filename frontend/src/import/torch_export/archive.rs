//! Files of an exported program: entries of a `.pt2` archive, files of an unzipped one, or nothing but the graph.

use gradc_ir::diagnostic::Diagnostic;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where an archive keeps its program.
const PROGRAM: &str = "models/model.json";

/// Most bytes an entry may have when it is decompressed: 2^38.
const MAX_ENTRY_BYTES: u64 = 1 << 38;

/// What lies beside a program.
pub struct Archive {
    place: Place,
}

enum Place {
    /// Entries by path below the archive's top folder.
    Zip { archive: ZipSliceArchive<Vec<u8>>, entries: BTreeMap<String, Entry> },
    /// The top folder of an unzipped archive.
    Folder(PathBuf),
    /// Only the program is there.
    Nothing,
}

struct Entry {
    at: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
}

impl Archive {
    /// The archive a file is or belongs to, and the program's JSON.
    pub fn open(path: &Path, bytes: Vec<u8>) -> Result<(Archive, Vec<u8>), Diagnostic> {
        if bytes.starts_with(b"PK") {
            let archive = Archive { place: open_zip(bytes)? };
            archive.check_byte_order()?;
            let program = archive.read(PROGRAM)?.ok_or_else(|| {
                Diagnostic::new("missing-entry", format!("the archive has no `{PROGRAM}`"))
                    .help("save the program with torch.export.save; AOTInductor packages cannot be trained")
            })?;
            return Ok((archive, program));
        }
        let root = path.parent().and_then(Path::parent).filter(|root| root.join("data/weights").is_dir());
        let place = root.map_or(Place::Nothing, |root| Place::Folder(root.to_path_buf()));
        Ok((Archive { place }, bytes))
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
            Place::Zip { archive, entries } => entries.get(name).map(|e| read_entry(archive, e, name)).transpose(),
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

fn zip_error(error: rawzip::Error) -> Diagnostic {
    Diagnostic::new("invalid-zip", format!("the archive is damaged: {error}"))
}

fn open_zip(bytes: Vec<u8>) -> Result<Place, Diagnostic> {
    let archive = ZipArchive::from_slice(bytes).map_err(zip_error)?;
    let mut all = BTreeMap::new();
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().map_err(zip_error)? {
        let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
        let found = Entry { at: entry.wayfinder(), method: entry.compression_method() };
        if all.insert(name.clone(), found).is_some() {
            return Err(Diagnostic::new("duplicate-entry", format!("the archive has two entries `{name}`")));
        }
    }
    let top = top_folder(all.keys())?;
    let entries = all.into_iter().filter_map(|(name, e)| Some((name.strip_prefix(&top)?.to_string(), e))).collect();
    Ok(Place::Zip { archive, entries })
}

/// What stands before `models/model.json` in the names of an archive, with its slash.
fn top_folder<'a>(names: impl Iterator<Item = &'a String>) -> Result<String, Diagnostic> {
    let tops: Vec<&str> =
        names.filter_map(|n| n.strip_suffix(PROGRAM)).filter(|top| top.is_empty() || top.ends_with('/')).collect();
    match tops[..] {
        [] => Ok(String::new()),
        [top] => Ok(top.to_string()),
        _ => Err(Diagnostic::new("ambiguous-archive", "the archive has several programs").found(tops.join(", "))),
    }
}

fn read_entry(archive: &ZipSliceArchive<Vec<u8>>, entry: &Entry, name: &str) -> Result<Vec<u8>, Diagnostic> {
    let size = entry.at.uncompressed_size_hint();
    if size > MAX_ENTRY_BYTES {
        return Err(Diagnostic::new("entry-too-large", format!("entry `{name}` is too large"))
            .expected(format!("at most {MAX_ENTRY_BYTES} bytes"))
            .found(format!("{size} bytes")));
    }
    let found = archive.get_entry(entry.at).map_err(zip_error)?;
    let data: Box<dyn Read> = match entry.method {
        CompressionMethod::STORE => Box::new(found.data()),
        CompressionMethod::DEFLATE => Box::new(flate2::bufread::DeflateDecoder::new(found.data())),
        other => {
            let code = other.as_u16();
            return Err(Diagnostic::new("unsupported-compression", format!("entry `{name}` is compressed"))
                .expected("stored or deflated entries")
                .found(format!("compression method {code}")));
        }
    };
    // One byte more than promised is enough for the verifier to see that there is too much.
    let mut bytes = Vec::new();
    found
        .verifying_reader(data.take(size + 1))
        .read_to_end(&mut bytes)
        .map_err(|e| Diagnostic::new("invalid-zip", format!("entry `{name}` cannot be read: {e}")))?;
    Ok(bytes)
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
