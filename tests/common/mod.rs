//! What the end-to-end tests share.

use std::path::PathBuf;

/// A folder of the reference material that lies beside the project, or `None` after saying loudly that it is absent.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    let root = std::env::var_os("GRADC_SHARED").map_or(beside, PathBuf::from);
    let path = root.join(folder);
    if !path.exists() {
        eprintln!("SKIPPED: {folder} is not there; set GRADC_SHARED to the folder that has it");
        return None;
    }
    Some(path)
}
