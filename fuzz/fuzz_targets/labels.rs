//! Label images (PNG or TIFF of any depth) beside a good photograph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam_data::{Source, SourceOptions};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("images")).expect("a folder");
    std::fs::create_dir_all(at("masks")).expect("a folder");
    let extension = if bytes.starts_with(b"\x89PNG") { "png" } else { "tif" };
    std::fs::write(at("images/a.png"), include_bytes!("../../tests/fixtures/data/binary/x.png")).expect("written");
    std::fs::write(at("masks").join(format!("a.{extension}")), bytes).expect("written");
    if let Ok(source) = Source::open(folder.path(), &SourceOptions::default()) {
        for index in 0..source.len() {
            let _ = source.sample(index);
        }
    }
});
