//! Files that are replaced atomically, fingerprints that tell contents apart, and files that are something else than their
//! name says.
//!
//! The lowest crate of the workspace: it knows bytes and paths only. Everything that a run, an evaluation or an export
//! leaves on disk is written through it, so a crash leaves the old file or the new one and never half of either.

mod atomic;
mod fingerprint;
mod foreign;

pub use atomic::{
    UNFINISHED_PREFIX, sweep_unfinished, write_atomically, write_atomically_with, write_folder_atomically,
    write_unsynced,
};
pub use fingerprint::Fingerprint;
pub use foreign::{FOREIGN_HEAD_BYTES, ForeignFile, foreign_file};
