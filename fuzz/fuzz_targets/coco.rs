//! A COCO file, opened and read to its last object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam_data::{Source, SourceOptions};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("instances.json");
    std::fs::write(&file, bytes).expect("written");
    if let Ok(source) = Source::open(&file, &SourceOptions::default()) {
        for index in 0..source.len() {
            let _ = source.objects(index);
        }
    }
});
