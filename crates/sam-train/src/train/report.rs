//! The report of a run, rewritten at each save so that it exists however the run ends.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sam_learn::LearnError;
use sam_learn::record::{Observer, REPORT_FILE, RunEvent, RunReport};

use super::run_folder::RunFolder;
use crate::survey::DataLosses;

/// Writes the report of one run.
#[derive(Clone)]
pub(super) struct ReportWriter {
    folder: RunFolder,
    name: String,
}

impl ReportWriter {
    pub(super) fn new(folder: RunFolder, name: String) -> Self {
        Self { folder, name }
    }

    pub(super) fn write(&self) -> Result<(), LearnError> {
        let texts = self.folder.texts();
        let is_pretraining =
            texts.iter().any(|(_, text)| text.lines().any(|line| line.trim() == "task = \"pretrain\""));
        let usage = ("How to load the result".to_owned(), usage(self.folder.path(), is_pretraining));
        let texts = texts.into_iter().map(|(title, text)| (title.to_owned(), text));
        let texts = std::iter::once(usage).chain(texts).collect();
        let tables = self.folder.losses().iter().filter_map(DataLosses::table).collect();
        let about = about(&self.folder.environment());
        let report = RunReport { title: self.name.clone(), about, tables, texts };
        report.write(self.folder.path())
    }

    /// The page for a browser.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(REPORT_FILE)
    }
}

/// Writes it after a save.
impl Observer for ReportWriter {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        if matches!(event, RunEvent::Saved { .. }) { self.write() } else { Ok(()) }
    }
}

/// The result in this program and in those of others.
fn usage(folder: &Path, is_pretraining: bool) -> String {
    let run = folder.display();
    if is_pretraining {
        return format!(
            "Train a segmenter from it, in a configuration:\n  [model]\n  init = \"mae\"\n  mae = \"{run}\"\n\n\
             Measure its features:\n  sam-train probe --checkpoint {run} --data LABELLED\n\n\
             timm (Python), the encoder:\n  model.load_state_dict(torch.load(\"{run}/encoder.pth\"))\n"
        );
    }
    format!(
        "This program:\n  sam-train predict --checkpoint {run} --image IMAGE --point X,Y --out masks\n  \
         sam-train eval --checkpoint {run} --data DATA\n\n\
         segment_anything (Python), for vit_b, vit_l and vit_h:\n  \
         sam-train export --checkpoint {run} --format pth --out sam.pth\n  \
         from segment_anything import SamPredictor, sam_model_registry\n  \
         predictor = SamPredictor(sam_model_registry[\"vit_b\"](checkpoint=\"sam.pth\"))\n\n\
         transformers (Python):\n  sam-train export --checkpoint {run} --format huggingface --out sam-hf\n  \
         from transformers import SamModel, SamProcessor\n  model = SamModel.from_pretrained(\"sam-hf\")\n  \
         processor = SamProcessor.from_pretrained(\"sam-hf\")\n"
    )
}

/// The content of `environment.json` for people.
fn about(environment: &serde_json::Value) -> Vec<(String, String)> {
    let text = |key: &str| match &environment[key] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let command = environment["command"].as_array().map_or_else(String::new, |words| {
        words.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(" ")
    });
    let system = format!("{} on {}, {} cores", text("os"), text("architecture"), text("processors"));
    let started = environment["started_unix_s"].as_u64().map_or_else(String::new, date_and_time);
    [
        ("device", text("device")),
        ("system", system),
        ("program", format!("sam-train {}", text("program"))),
        ("started or resumed", started),
        ("command", command),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Date and time in UTC.
pub(crate) fn date_and_time(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::date_and_time;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @N`
        for (unix_s, shown) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_709_210_096, "2024-02-29 12:34 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date_and_time(unix_s), shown);
        }
    }
}
