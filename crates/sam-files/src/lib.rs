//! Files that are replaced atomically, files of others that are read within limits or are something else than their name
//! says, and fingerprints that tell contents apart.
//!
//! The lowest crate of the workspace: it knows bytes and paths only. Everything that a run, an evaluation or an export
//! leaves on disk is written through it, so a crash leaves the old file or the new one and never half of either.

mod atomic;
mod caches;
mod fingerprint;
mod foreign;
mod printable;
mod regular;

pub use atomic::{
    UNFINISHED_PREFIX, remove_if_there, sweep_unfinished, write_atomically, write_atomically_with,
    write_folder_atomically, write_into_folder, write_unsynced,
};
pub use caches::cache_folder;
pub use fingerprint::Fingerprint;
pub use foreign::{FOREIGN_HEAD_BYTES, ForeignFile, foreign_file};
pub use printable::printable;
pub use regular::{MAX_FILE_BYTES, MAX_TEXT_BYTES, open_regular, read_regular, read_text, require_at_most};
