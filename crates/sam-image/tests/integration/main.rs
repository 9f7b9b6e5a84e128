//! Comparison with the Python packages (expectations come from scripts in `../fixtures`), and properties of arbitrary input.

mod decode;
mod masks;
mod overlay;
mod properties;
mod resize;
mod shapes;

use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
