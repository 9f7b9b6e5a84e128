//! Comparison with the Python packages (expectations come from scripts in `../fixtures`), hand-computed results of scripted
//! segmenters, and invalid input.

mod average_precision;
mod bad_input;
mod clicks;
mod proposals;
mod protocols;
mod reports;
mod scripted;
mod texts;

use std::path::PathBuf;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
