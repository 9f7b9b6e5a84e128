//! Reading, checking, splitting and converting data sets, on files written as the real tools write them
//! (`tests/fixtures/data`, made by its `generate.py`) and on files that are wrong in every way seen in the wild.

mod conversions;
mod failures;
mod formats;
mod hostile;

use std::path::{Path, PathBuf};

use sam_data::{Source, SourceOptions};

/// The committed data set of this name.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/data").join(name)
}

fn open(path: &Path) -> Source {
    Source::open(path, &SourceOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A copy that a test may spoil.
fn copy_of(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_tree(&fixture(name), folder.path());
    folder
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Replaces text in a file; it must occur.
fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).expect("a text file");
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).expect("written");
}
