//! Checkpoints: zip or legacy `.pth` and `.safetensors`, recognised by content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam_model::weights::{Checkpoint, StateDict};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let extension = if bytes.first() == Some(&0x80) || bytes.starts_with(b"PK") { "pth" } else { "safetensors" };
    let file = folder.path().join(format!("fuzzed.{extension}"));
    std::fs::write(&file, bytes).expect("written");
    if let Ok(dict) = StateDict::open(&file) {
        for key in dict.tensors.keys().take(4) {
            let _ = dict.read_bytes(key);
        }
    }
    let _ = Checkpoint::open(&file);
});
