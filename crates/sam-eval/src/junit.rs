//! JUnit XML: each bound of the gate as a test case, as GitHub, GitLab and Jenkins show them.

use crate::chart::escape;
use crate::gate::Verdict;

/// The content of `junit.xml`. `suite` names the evaluation; `seconds` is how long it took.
#[must_use]
pub fn junit_xml(suite: &str, verdict: &Verdict, seconds: f64) -> String {
    let (n_checks, n_misses) = (verdict.checks.len(), verdict.misses().count());
    let suite = escape(suite);
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites tests=\"{n_checks}\" failures=\"{n_misses}\" time=\"{seconds:.3}\">\n\
         \x20 <testsuite name=\"{suite}\" tests=\"{n_checks}\" failures=\"{n_misses}\" errors=\"0\" skipped=\"0\" time=\"{seconds:.3}\">\n"
    );
    for check in &verdict.checks {
        // A metric may be bounded by number and by baseline: two cases need two names.
        let by = if check.baseline.is_some() { " (baseline)" } else { "" };
        let name = format!("{}{by}", escape(&check.metric));
        if check.is_met() {
            xml.push_str(&format!("    <testcase classname=\"{suite}\" name=\"{name}\" time=\"0\"/>\n"));
        } else {
            let message = escape(&check.to_string());
            xml.push_str(&format!(
                "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"0\">\n      \
                 <failure type=\"gate\" message=\"{message}\">{message}</failure>\n    </testcase>\n"
            ));
        }
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}
