//! Evaluation reports for people: `report.md`, and one self-contained `report.html`.
//!
//! Both are the same [`Page`] of tables, charts and galleries; Markdown shows only the tables.

mod axis;
pub mod chart;
mod charts;
pub(crate) mod content;
pub(crate) mod gallery;
pub(crate) mod gate;
pub(crate) mod junit;
pub(crate) mod page;
mod tables;
mod text_tables;

use crate::error::EvalError;
use crate::report::charts::charts;
use crate::report::content::Report;
use crate::report::page::{Page, Section};
use crate::report::tables::{findings, tables};

impl Report<'_> {
    /// The content of `report.md`.
    ///
    /// # Errors
    ///
    /// When there is no model, or the comparison has other models.
    pub fn markdown(&self) -> Result<String, EvalError> {
        self.check()?;
        Ok(self.page().markdown())
    }

    /// The content of `report.html`.
    ///
    /// # Errors
    ///
    /// When there is no model, the comparison has other models, or an image is not inline.
    pub fn html(&self) -> Result<String, EvalError> {
        self.check()?;
        self.page().html()
    }

    /// Where the models fail, as a part of another page: charts, worst and best objects, confidence, sizes, classes,
    /// calibration.
    ///
    /// # Errors
    ///
    /// When there is no model, or the comparison has other models.
    pub fn findings(&self) -> Result<Vec<Section>, EvalError> {
        self.check()?;
        let (tables, charts) = (findings(self), charts(self));
        let mut sections: Vec<Section> = self.galleries.iter().cloned().map(Section::Gallery).collect();
        sections.extend(tables.into_iter().map(Section::Table));
        if !charts.is_empty() {
            sections.push(Section::Charts { title: "IoU and its prediction on validation data".to_owned(), charts });
        }
        Ok(sections)
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
        sections.extend(self.tables.iter().cloned().map(Section::Table));
        sections.extend(details.into_iter().map(Section::Table));
        Page { title: self.title.to_owned(), sections }
    }
}
