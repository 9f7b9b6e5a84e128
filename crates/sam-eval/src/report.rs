//! An evaluation for people: `report.md` and one `report.html` that needs nothing but itself.
//!
//! Both are rendered from the same tables (`report_tables`); the page adds curves, histograms and the galleries. Everything
//! is a pure function of what is given, so a report of the same results is the same file.

use crate::comparison::ComparisonRow;
use crate::error::EvalError;
use crate::gate::Verdict;
use crate::results::Results;
use crate::{report_html, report_markdown};

/// A model of the report.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// As in tables and legends, such as the checkpoint's file name.
    pub name: &'a str,
    /// Its evaluation.
    pub results: &'a Results,
}

/// Pictures under a heading.
#[derive(Clone, Debug)]
pub struct Gallery {
    /// Such as "Worst at click 1".
    pub title: String,
    /// In order.
    pub items: Vec<GalleryItem>,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct GalleryItem {
    /// Below it.
    pub caption: String,
    /// "data:image/png;base64,..": the page carries it.
    pub data_uri: String,
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
        Ok(report_markdown::render(self))
    }

    /// The content of `report.html`.
    ///
    /// # Errors
    ///
    /// When there is no model, the comparison is of others, or a picture is not inline.
    pub fn html(&self) -> Result<String, EvalError> {
        self.check()?;
        Ok(report_html::render(self))
    }

    fn check(&self) -> Result<(), EvalError> {
        let refuse =
            |key, expected: &str, got: String| Err(EvalError::Option { key, expected: expected.to_owned(), got });
        let n = self.models.len();
        if n == 0 {
            return refuse("models", "at least one", "none".to_owned());
        }
        if let Some(row) = self.comparison.iter().find(|row| row.intervals.len() != n || row.differences.len() + 1 != n)
        {
            let got = format!("{} of {}", row.intervals.len(), row.metric);
            return refuse("comparison", &format!("an interval for each of {n} models"), got);
        }
        let mut items = self.galleries.iter().flat_map(|gallery| &gallery.items);
        match items.find(|item| !is_inline_picture(&item.data_uri)) {
            Some(item) => {
                let got = item.data_uri.chars().take(40).collect();
                refuse("data_uri", "an inline picture (data:image/png;base64,..)", got)
            }
            None => Ok(()),
        }
    }
}

fn is_inline_picture(uri: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let content =
        ["png", "jpeg", "webp"].iter().find_map(|kind| uri.strip_prefix(&format!("data:image/{kind};base64,")));
    content.is_some_and(|content| !content.is_empty() && content.bytes().all(is_base64))
}
