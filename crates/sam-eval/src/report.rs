//! An evaluation for people: `report.md` and one `report.html` that needs nothing but itself.
//!
//! Both are one [`Page`] of tables (`report_tables`), charts (`report_charts`) and galleries, of which Markdown shows the
//! tables.

use crate::comparison::ComparisonRow;
use crate::error::EvalError;
use crate::gate::Verdict;
use crate::page::{Gallery, Page, Section};
use crate::report_charts::charts;
use crate::report_tables::tables;
use crate::results::Results;

/// A model of the report.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// As in tables and legends, such as the checkpoint's file name.
    pub name: &'a str,
    /// Its evaluation.
    pub results: &'a Results,
}

/// All that is shown.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The heading.
    pub title: &'a str,
    /// Side by side; the first is what the others are compared with.
    pub models: &'a [Model<'a>],
    /// Intervals and differences, of the same models in the same order.
    pub comparison: &'a [ComparisonRow],
    /// Of the gate, where there is one.
    pub verdict: Option<&'a Verdict>,
    /// Best and worst, with prompts drawn.
    pub galleries: &'a [Gallery],
}

impl Report<'_> {
    /// The content of `report.md`.
    ///
    /// # Errors
    ///
    /// When there is no model, or the comparison is of others.
    pub fn markdown(&self) -> Result<String, EvalError> {
        self.check()?;
        Ok(self.page().markdown())
    }

    /// The content of `report.html`.
    ///
    /// # Errors
    ///
    /// When there is no model, the comparison is of others, or a picture is not inline.
    pub fn html(&self) -> Result<String, EvalError> {
        self.check()?;
        self.page().html()
    }

    /// The gate and the main table come before the charts, details after them.
    fn page(&self) -> Page {
        let mut tables = tables(self);
        let after =
            tables.iter().position(|table| table.title != "Gate" && table.title != "Results").unwrap_or(tables.len());
        let details = tables.split_off(after);
        let charts = charts(self);
        let mut sections: Vec<Section> = tables.into_iter().map(Section::Table).collect();
        if !charts.is_empty() {
            sections.push(Section::Charts { title: "Curves".to_owned(), charts });
        }
        sections.extend(self.galleries.iter().cloned().map(Section::Gallery));
        sections.extend(details.into_iter().map(Section::Table));
        Page { title: self.title.to_owned(), sections }
    }

    fn check(&self) -> Result<(), EvalError> {
        let refuse =
            |key, expected: &str, got: String| Err(EvalError::Option { key, expected: expected.to_owned(), got });
        let n = self.models.len();
        if n == 0 {
            return refuse("models", "at least one", "none".to_owned());
        }
        match self.comparison.iter().find(|row| row.intervals.len() != n || row.differences.len() + 1 != n) {
            Some(row) => {
                let got = format!("{} of {}", row.intervals.len(), row.metric);
                refuse("comparison", &format!("an interval for each of {n} models"), got)
            }
            None => Ok(()),
        }
    }
}
