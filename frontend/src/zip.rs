//! Zip archives: entries by name, stored or deflated, each checked against its checksum as it is read.

use gradc_ir::diagnostic::Diagnostic;
use rawzip::{
    CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder, ZipLocator,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Most bytes an entry may have when it is decompressed: 2^38.
const MAX_ENTRY_BYTES: u64 = 1 << 38;

/// An archive in memory or in a file, of which no more is read than what is asked for.
pub(crate) struct Zip<R> {
    archive: ZipArchive<R>,
    size_bytes: u64,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    at: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
}

fn invalid(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new("invalid-zip", format!("the archive is damaged: {error}"))
}

impl<T: AsRef<[u8]> + ReaderAt> Zip<T> {
    /// The archive that some bytes are.
    pub fn of_bytes(bytes: T) -> Result<Self, Diagnostic> {
        let size_bytes = bytes.as_ref().len() as u64;
        Self::open(bytes, size_bytes)
    }
}

impl Zip<FileReader> {
    /// The archive that a file is.
    pub fn of_file(file: File) -> Result<Self, Diagnostic> {
        let size_bytes = file.metadata().map_err(invalid)?.len();
        Self::open(FileReader::from(file), size_bytes)
    }
}

impl<R: ReaderAt> Zip<R> {
    /// Reads the directory of an archive of so many bytes; two entries of one name are refused.
    fn open(reader: R, size_bytes: u64) -> Result<Self, Diagnostic> {
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipLocator::new().locate_in_reader(reader, &mut buffer, size_bytes);
        let archive = archive.map_err(|(_, error)| invalid(error))?;
        let mut entries = BTreeMap::new();
        let mut directory = archive.entries(&mut buffer);
        while let Some(entry) = directory.next_entry().map_err(invalid)? {
            let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
            let found = Entry { at: entry.wayfinder(), method: entry.compression_method() };
            if entries.insert(name.clone(), found).is_some() {
                return Err(Diagnostic::new("duplicate-entry", format!("the archive has two entries `{name}`")));
            }
        }
        Ok(Zip { archive, size_bytes, entries })
    }

    /// Names of the entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Bytes of an entry, `None` when there is none of that name.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
        self.entries.get(name).map(|entry| self.read_entry(name, entry)).transpose()
    }

    fn read_entry(&self, name: &str, entry: &Entry) -> Result<Vec<u8>, Diagnostic> {
        let size = entry.at.uncompressed_size_hint();
        if size > MAX_ENTRY_BYTES {
            return Err(Diagnostic::new("entry-too-large", format!("entry `{name}` is too large"))
                .expected(format!("at most {MAX_ENTRY_BYTES} bytes"))
                .found(format!("{size} bytes")));
        }
        let found = self.archive.get_entry(entry.at).map_err(invalid)?;
        let data: Box<dyn Read> = match entry.method {
            CompressionMethod::STORE => Box::new(found.reader()),
            CompressionMethod::DEFLATE => Box::new(flate2::read::DeflateDecoder::new(found.reader())),
            other => return Err(unsupported(name, other)),
        };
        // An entry that is stored is no larger than the archive; what is decompressed grows as it comes.
        let mut bytes = Vec::with_capacity(size.min(self.size_bytes) as usize);
        // One byte more than promised is enough for the verifier to see that there is too much.
        let read = found.verifying_reader(data.take(size + 1)).read_to_end(&mut bytes);
        read.map_err(|e| Diagnostic::new("invalid-zip", format!("entry `{name}` cannot be read: {e}")))?;
        Ok(bytes)
    }
}

fn unsupported(name: &str, method: CompressionMethod) -> Diagnostic {
    Diagnostic::new("unsupported-compression", format!("entry `{name}` is compressed"))
        .expected("stored or deflated entries")
        .found(format!("compression method {}", method.as_u16()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// An archive of deflated entries.
    pub(crate) fn deflated(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut output = Vec::new();
        let mut archive = rawzip::ZipArchiveWriter::new(&mut output);
        for (name, data) in entries {
            let (mut entry, config) =
                archive.new_file(name).compression_method(CompressionMethod::DEFLATE).start().unwrap();
            let mut writer =
                config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default()));
            writer.write_all(data).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
        archive.finish().unwrap();
        output
    }

    #[test]
    fn entries_are_read_by_name() {
        let zip = Zip::of_bytes(deflated(&[("b", b"second"), ("a/c", &[7; 1000])])).unwrap();
        assert_eq!(zip.names().collect::<Vec<_>>(), ["a/c", "b"]);
        assert_eq!(zip.read("b").unwrap().unwrap(), b"second");
        assert_eq!(zip.read("a/c").unwrap().unwrap(), [7; 1000]);
        assert_eq!(zip.read("c").unwrap(), None);
    }

    /// A file gives what its bytes give.
    #[test]
    fn entries_are_read_from_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&deflated(&[("b", b"second"), ("a", &[7; 100_000])])).unwrap();
        let zip = Zip::of_file(file).unwrap();
        assert_eq!(zip.read("b").unwrap().unwrap(), b"second");
        assert_eq!(zip.read("a").unwrap().unwrap(), [7; 100_000]);
        assert_eq!(zip.read("c").unwrap(), None);
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let code = Zip::of_bytes(deflated(&[("a", b"1"), ("a", b"2")])).err().map(|d| d.code);
        assert_eq!(code, Some("duplicate-entry"));
    }

    /// Whichever byte is damaged: another content is never returned.
    #[test]
    fn damage_is_noticed() {
        let whole = deflated(&[("a", b"some text, some text, some text")]);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let read = Zip::of_bytes(bytes).and_then(|zip| zip.read("a"));
            assert!(!matches!(&read, Ok(Some(data)) if data != b"some text, some text, some text"), "byte {at}");
        }
    }

    #[test]
    fn truncated_archives_are_refused() {
        let whole = deflated(&[("a", b"text")]);
        for length in 0..whole.len() {
            assert!(Zip::of_bytes(&whole[..length]).is_err(), "the first {length} bytes");
        }
    }
}
