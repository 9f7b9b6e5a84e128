//! The report of a run, rewritten at each save so that it exists however the run ends.

use std::io::Write;

use sam_learn::LearnError;
use sam_learn::record::{Observer, REPORT_FILE, RunEvent, RunReport};

use super::run_folder::RunFolder;
use crate::output::output;

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
        let texts = self.folder.texts().into_iter().map(|(title, text)| (title.to_owned(), text)).collect();
        let report = RunReport { title: self.name.clone(), about: about(&self.folder.environment()), texts };
        report.write(self.folder.path())
    }

    /// Prints its path.
    pub(super) fn print_path(&self) -> std::io::Result<()> {
        writeln!(output(), "report:          {}", self.folder.path().join(REPORT_FILE).display())
    }
}

/// Writes it after a save.
impl Observer for ReportWriter {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        if matches!(event, RunEvent::Saved { .. }) { self.write() } else { Ok(()) }
    }
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

/// Of the calendar, in UTC. Days to dates by Howard Hinnant, "chrono-compatible low-level date algorithms": the year begins
/// in March, so that leap days come last.
fn date_and_time(unix_s: u64) -> String {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let (days, seconds) = (unix_s / 86_400 + DAYS_TO_1970, unix_s % 86_400);
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
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
