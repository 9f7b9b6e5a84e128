//! The tables of texts as prompts: by class, by text, and which objects the masks of each class are of.

use std::collections::BTreeMap;

use crate::metrics::bootstrap::{Bootstrap, Interval, mean_interval};
use crate::metrics::comparison::image_sums;
use crate::metrics::text_metrics::{TEXT_MEASURES, TextMeasure};
use crate::protocol::text_record::{TextCounts, TextRecord, TextRun};
use crate::report::content::{Model, Report};
use crate::report::page::Table;

/// Classes of a confusion table; the rest is one row and one column.
const MOST_CLASSES: usize = 12;
/// Texts of a table.
const MOST_TEXTS: usize = 30;
/// What a mask is of that meets no object.
const NOTHING: &str = "no object";
/// All classes beyond the most frequent ones.
const OTHERS: &str = "other classes";
/// Objects that have none, and texts of objects of several.
const NO_CLASS: &str = "no class";

/// Those of all models, in reading order.
pub(crate) fn text_tables(report: &Report<'_>) -> Vec<Table> {
    let of_model = |model: &Model<'_>| {
        let Some(run) = &model.results.texts else { return Vec::new() };
        let title = |what: &str| match report.models.len() {
            1 => what.to_owned(),
            _ => format!("{}: {what}", model.name),
        };
        let records: Vec<&TextRecord> = run.records.iter().collect();
        let n_classes =
            records.iter().filter_map(|record| record.class.as_deref()).collect::<std::collections::BTreeSet<_>>();
        let mut tables = Vec::new();
        if !n_classes.is_empty() {
            let by_class = groups(&records, |record| record.class.as_deref());
            tables.push(by_group(title("Texts by class"), "class", by_class, run));
            tables.push(confusion(title("Which object the masks fit best"), &records));
        }
        tables.push(by_group(title("Texts"), "text", groups(&records, |record| Some(&record.text)), run));
        tables
    };
    report.models.iter().flat_map(of_model).collect()
}

type Group<'a> = (&'a str, Vec<&'a TextRecord>);

/// Records by name, the most frequent first.
fn groups<'a>(records: &[&'a TextRecord], name: impl Fn(&'a TextRecord) -> Option<&'a str>) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<&str, Vec<&TextRecord>> = BTreeMap::new();
    for record in records {
        if let Some(name) = name(record) {
            groups.entry(name).or_default().push(record);
        }
    }
    let mut groups: Vec<Group<'_>> = groups.into_iter().collect();
    groups.sort_by_key(|(_, records)| std::cmp::Reverse(records.len()));
    groups
}

/// One row per group, those with the lowest IoU first.
fn by_group(title: String, what: &str, mut groups: Vec<Group<'_>>, run: &TextRun) -> Table {
    let n_groups = groups.len();
    groups.truncate(MOST_TEXTS);
    let shown: Vec<(&str, TextMeasure)> =
        TEXT_MEASURES.into_iter().filter(|(_, measure)| *measure != TextMeasure::PredictedIouError).collect();
    let mean = |records: &[&TextRecord], measure: TextMeasure| -> Option<Interval> {
        let sums = image_sums(records, |record| Ok(measure.value(record))).ok()?;
        // Few draws: the limits of a row are looked at, and nothing is decided by them.
        mean_interval(&sums, &Bootstrap { n_draws: 500, ..Bootstrap::default() }).ok()
    };
    let iou = |records: &[&TextRecord]| mean(records, TextMeasure::Iou).map_or(0.0, |interval| interval.value);
    groups.sort_by(|a, b| iou(&a.1).total_cmp(&iou(&b.1)));
    let cell = |records: &[&TextRecord], measure: TextMeasure| match (mean(records, measure), measure) {
        (None, _) => "–".to_owned(),
        (Some(Interval { value, low, high, .. }), TextMeasure::Iou) => format!("{value:.3} ({low:.3} to {high:.3})"),
        (Some(interval), _) => format!("{:.3}", interval.value),
    };
    let row = |(name, records): Group<'_>| {
        let cells = shown.iter().map(|&(_, measure)| cell(&records, measure));
        [name.to_owned(), records.len().to_string()].into_iter().chain(cells).collect()
    };
    let rows = groups.into_iter().map(row).collect();
    let headings = ["mIoU", "oracle", "with a click", "recall at 0.5", "recall at 0.75", "wrong text", "listens"];
    let mut note =
        "Lowest mIoU first, with its 95 % interval over images. Wrong text: the masks of other texts of the image against the same object. Listens: \
                    the mask fits an object that the text says better than every other."
            .to_owned();
    if n_groups > MOST_TEXTS {
        note += &format!(" The {MOST_TEXTS} most frequent of {n_groups}.");
    }
    let total = |count: fn(&TextCounts) -> usize| run.left_out.values().map(count).sum::<usize>();
    match total(|counts| counts.objects_without_text) {
        0 => {}
        n => note += &format!(" {n} objects have no text and are not asked for."),
    }
    match total(|counts| counts.texts_without_vector) {
        0 => {}
        n => note += &format!(" {n} texts of images are too long for this CLIP and are left out."),
    }
    let header = [what, "prompts"].into_iter().chain(headings).map(str::to_owned).collect();
    Table { title, note, header, rows }
}

/// One row per class that was asked for, one column per class of the object that the mask fits best, in percent.
fn confusion(title: String, records: &[&TextRecord]) -> Table {
    let frequent: Vec<&str> = groups(records, |record| record.class.as_deref())
        .into_iter()
        .take(MOST_CLASSES)
        .map(|(class, _)| class)
        .collect();
    let bucket = |class: Option<&str>| match class {
        None => NO_CLASS,
        Some(class) => frequent.iter().copied().find(|known| *known == class).unwrap_or(OTHERS),
    };
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for record in records {
        let asked = bucket(record.class.as_deref());
        let found = record.found_id.map_or(NOTHING, |_| bucket(record.found_class.as_deref()));
        *counts.entry(asked).or_default().entry(found).or_default() += 1;
    }
    let order: Vec<&str> = frequent.iter().copied().chain([OTHERS, NO_CLASS]).collect();
    let columns: Vec<&str> = order.iter().copied().chain([NOTHING]).collect();
    let is_used = |column: &&str| counts.values().any(|row| row.contains_key(*column));
    let columns: Vec<&str> = columns.into_iter().filter(is_used).collect();
    let row = |asked: &&str| {
        let found = counts.get(*asked)?;
        let all: usize = found.values().sum();
        let cell = |column: &&str| match found.get(*column) {
            Some(&n) => format!("{:.0} %", 100.0 * n as f64 / all as f64),
            None => "–".to_owned(),
        };
        Some([(*asked).to_owned(), all.to_string()].into_iter().chain(columns.iter().map(cell)).collect())
    };
    let rows = order.iter().filter_map(row).collect();
    let header = ["class of the text", "texts"].into_iter().chain(columns.iter().copied()).map(str::to_owned).collect();
    let note =
        "Each mask is of the object of its image with which it has the highest IoU. A text may ask for one of several \
                objects of its class, so the diagonal alone does not say that it was the right one: see `listens`."
            .to_owned();
    Table { title, note, header, rows }
}
