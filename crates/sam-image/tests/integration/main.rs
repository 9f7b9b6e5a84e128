//! Against the Python packages: every expectation comes from a script in `../fixtures`, run once and committed.
//! And against themselves: what must hold for any input is in `properties`.

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
