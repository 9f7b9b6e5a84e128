//! JUnit XML: one test case per bound of the gate, as GitHub, GitLab and Jenkins display them.
//!
//! Written with the page templates: `quick-junit` would bring nine crates (chrono and an XML parser among them) for four
//! kinds of element.

use maud::{PreEscaped, html};

use crate::report::gate::Verdict;

/// The content of `junit.xml`. `suite` names the evaluation; `seconds` is its duration.
#[must_use]
pub fn junit_xml(suite: &str, verdict: &Verdict, seconds: f64) -> String {
    let (n_checks, n_misses) = (verdict.checks.len(), verdict.misses().count());
    let suite = printable(suite);
    let time = format!("{:.3}", if seconds.is_finite() { seconds.max(0.0) } else { 0.0 });
    let xml = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
        testsuites tests=(n_checks) failures=(n_misses) time=(time) {
            testsuite name=(suite) tests=(n_checks) failures=(n_misses) errors="0" skipped="0" time=(time) {
                @for check in &verdict.checks {
                    // A metric may have both a bound and a baseline: two cases need two names.
                    @let by = if check.baseline.is_some() { " (baseline)" } else { "" };
                    testcase classname=(suite) name={ (printable(&check.metric)) (by) } time="0" {
                        @if !check.is_met() {
                            @let message = printable(&check.to_string());
                            failure type="gate" message=(message) { (message) }
                        }
                    }
                }
            }
        }
    };
    xml.into_string() + "\n"
}

/// Replaces characters that XML forbids even when escaped.
fn printable(text: &str) -> String {
    sam_files::printable(text)
        .replace(|letter: char| letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}'), "?")
}
