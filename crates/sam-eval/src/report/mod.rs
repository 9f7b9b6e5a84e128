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

use crate::error::EvalError;
use crate::report::charts::charts;
use crate::report::content::Report;
use crate::report::page::{Page, Section};
use crate::report::tables::tables;

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
