//! A configuration, and the plan of a run that is resumed.
#![no_main]
// Only the readers of the program's modules are called.
#![allow(dead_code, unused_imports)]

use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/sam-train/src/config/mod.rs"]
mod config;

#[path = "../../crates/sam-train/src/cli/format.rs"]
mod format;

mod cli {
    pub(crate) use crate::format::FormatArgument;
}

use config::{Document, Paths, Plan};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(document) = Document::parse("fuzzed.toml", PathBuf::new(), text, &[])
        && let Ok(plan) = Plan::read(&document, Paths::MayBeMissing)
    {
        let printed = plan.to_toml().expect("a plan that was read fits into TOML");
        assert!(!printed.is_empty());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plan.toml");
    std::fs::write(&file, text).expect("written");
    let _ = Plan::resumed(&file, Path::new("run"), &[]);
});
