//! The error for a file that is something else than its name says.

use std::path::Path;

use sam_files::foreign_file;

use crate::error::DataError;

/// An error for a file of another kind, recognised by its first bytes; `expected` is what it should be.
pub(crate) fn check(bytes: &[u8], name: &Path, expected: &str) -> Result<(), DataError> {
    let Some(foreign) = foreign_file(bytes) else { return Ok(()) };
    Err(DataError::Content {
        path: name.to_path_buf(),
        what: "the file".to_owned(),
        expected: expected.to_owned(),
        got: foreign.what.to_owned(),
        fix: foreign.fix.to_owned(),
    })
}
