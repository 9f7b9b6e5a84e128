//! The content of an evaluation report.

use crate::error::EvalError;
use crate::metrics::comparison::ComparisonRow;
use crate::metrics::results::Results;
use crate::report::gate::Verdict;
use crate::report::page::{Gallery, Table};

/// An evaluated model.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Name in tables and legends.
    pub name: &'a str,
    /// The model's results.
    pub results: &'a Results,
}

/// An evaluation report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The heading.
    pub title: &'a str,
    /// The models; the first is the reference of comparisons.
    pub models: &'a [Model<'a>],
    /// Intervals and differences of the same models in the same order.
    pub comparison: &'a [ComparisonRow],
    /// Outcome of the gate, if any.
    pub verdict: Option<&'a Verdict>,
    /// Worst and best objects.
    pub galleries: &'a [Gallery],
    /// Further tables, such as what the data loses.
    pub tables: &'a [Table],
    /// The only metric in the tables by size and class, with the worst classes first; `None`: all metrics, by name.
    pub focus: Option<&'a str>,
}

impl Report<'_> {
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        let n = self.models.len();
        if n == 0 {
            return Err(EvalError::option("models", "at least one", "none"));
        }
        match self.comparison.iter().find(|row| row.intervals.len() != n || row.differences.len() + 1 != n) {
            Some(row) => {
                let got = format!("{} of {}", row.intervals.len(), row.metric);
                Err(EvalError::option("comparison", format!("an interval for each of {n} models"), got))
            }
            None => Ok(()),
        }
    }
}
