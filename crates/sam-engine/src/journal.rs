//! The journal: a line per operation, for statistics. Masks are in the annotation files, never only here.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;

use crate::annotation::PromptRecord;
use crate::error::EngineError;
use crate::operation::{Change, NewMask, Operation};

/// Its file in the project.
pub(crate) const JOURNAL_FILE: &str = "journal.jsonl";

/// An open journal, to which lines are appended.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal; the last line of a killed process, which has no end, gets one and stays unreadable.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join(JOURNAL_FILE);
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            if file.seek(SeekFrom::End(0))? > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                }
            }
            Ok(file)
        };
        let file = open().map_err(EngineError::io(&path))?;
        Ok(Self { path, file })
    }

    /// Notes operations that are on disk, with the revisions that they have made. In one piece, a line each.
    pub(crate) fn note(&mut self, operations: &[(&Operation, u64)], name: &str) -> Result<(), EngineError> {
        let lines: String = operations.iter().map(|(operation, revision)| line(operation, name, *revision)).collect();
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(EngineError::io(&self.path))
    }
}

fn line(operation: &Operation, name: &str, revision: u64) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let mut line = json!({
        "time": (seconds * 1e3).round() / 1e3,
        "op": operation.op,
        "image": name,
        "kind": operation.change.kind(),
        "uuid": operation.change.uuid(),
        "revision": revision,
    });
    match &operation.change {
        Change::Add { mask } | Change::Replace { mask } => {
            let NewMask { source, class, seconds, prompts, .. } = mask;
            let PromptRecord { points, box_xyxy_px, strokes, text } = prompts;
            line["source"] = json!(source);
            line["class"] = json!(class);
            line["seconds"] = json!(seconds);
            line["clicks"] = json!(points.len());
            line["boxes"] = json!(u8::from(box_xyxy_px.is_some()));
            line["strokes"] = json!(strokes);
            line["texts"] = json!(u8::from(text.is_some()));
        }
        Change::State { state } => line["state"] = json!(state),
        Change::Delete { .. } | Change::Note { .. } | Change::Reject { .. } | Change::Unreject { .. } => {}
    }
    format!("{line}\n")
}

/// The ids of all operations that begin so. Lines that cannot be read, such as a torn last one, are no operations.
pub(crate) fn operations_of(folder: &Path, prefix: &str) -> Result<HashSet<String>, EngineError> {
    #[derive(Deserialize)]
    struct Line {
        op: String,
    }
    let path = folder.join(JOURNAL_FILE);
    let file = match sam_files::open_regular(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashSet::new()),
        file => file.map_err(EngineError::io(&path))?,
    };
    let mut found = HashSet::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(EngineError::io(&path))?;
        if let Ok(Line { op }) = serde_json::from_slice(&line)
            && op.starts_with(prefix)
        {
            found.insert(op);
        }
    }
    Ok(found)
}
