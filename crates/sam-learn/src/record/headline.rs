//! Which metrics of a validation are shown: those over all objects, then those of data that is validated beside the run's own
//! (`also:NAME/metric`). Those of subsets, such as `small/miou_1`, are in the log alone.

use super::saved_state::Scores;

const ALSO: &str = "also:";

/// The full name of a metric of a data set that is validated beside the run's own.
pub(crate) fn also_name(data_set: &str, metric: &str) -> String {
    format!("{ALSO}{data_set}/{metric}")
}

/// The data set and the metric of such a name.
#[must_use]
pub fn also_parts(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(ALSO)?.split_once('/')
}

/// Whether a metric of this name is shown.
#[must_use]
pub fn is_headline(name: &str) -> bool {
    !name.contains('/') || also_parts(name).is_some()
}

impl Scores {
    /// The metrics that are shown, by name: those of the run's own data first.
    #[must_use]
    pub fn headlines(&self) -> Vec<(&str, f64)> {
        let all = self.metrics.iter().map(|(name, &value)| (name.as_str(), value));
        let mut shown: Vec<(&str, f64)> = all.filter(|(name, _)| is_headline(name)).collect();
        shown.sort_by_key(|(name, _)| also_parts(name).is_some());
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_not_shown_and_other_data_comes_last() {
        let names = [also_name("photos", "miou_1"), "miou_1".to_owned(), "small/miou_1".to_owned()];
        let scores = Scores { step: 1, metrics: names.into_iter().map(|name| (name, 0.5)).collect() };
        let shown: Vec<&str> = scores.headlines().into_iter().map(|(name, _)| name).collect();
        assert_eq!(shown, ["miou_1", "also:photos/miou_1"]);
        assert_eq!(also_parts(shown[1]), Some(("photos", "miou_1")));
        assert_eq!(also_parts("photos/miou_1"), None);
    }
}
