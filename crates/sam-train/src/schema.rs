//! `sam-train schema`: the JSON Schema of a configuration.

use std::io::Write;

use crate::config;
use crate::failure::Failure;
use crate::output::output;

pub(crate) fn run() -> Result<(), Failure> {
    writeln!(output(), "{}", serde_json::to_string_pretty(&config::schema())?)?;
    Ok(())
}
