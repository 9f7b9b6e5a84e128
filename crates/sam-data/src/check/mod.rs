//! Checks a data set before training and reports all problems together.
//!
//! Every image is decoded and every mask is rasterised, on all cores. The check does not stop at the first problem; the
//! report counts each kind, shows up to five places, and names the fix. The kinds are listed in [`ProblemKind`]. The
//! result does not depend on the number of cores.

mod losses;
mod report;
mod totals;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

pub use losses::{Losses, Survey, survey};
pub use report::{CheckReport, Problem};

use crate::error::DataError;
use crate::filter::MaskFilter;
use crate::source::Source;
use crate::source_options::SourceOptions;
use totals::{Rule, Totals};

/// Smallest area at model scale when the filter has none: one pixel of SAM's mask output, which is a quarter of the input.
const TINY_AREA_MODEL_PX: f64 = 16.0;

/// Checks a data set. `progress` is called from all threads with the number of checked images and the total.
///
/// # Errors
///
/// When it cannot be opened at all. Problems inside are in the report.
pub fn check(
    path: &Path,
    options: &SourceOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<CheckReport, DataError> {
    // Objects that training would filter out are checked as well.
    let unfiltered = SourceOptions { filter: MaskFilter::default(), ..options.clone() };
    let (source, findings) = Source::open_lenient(path, &unfiltered)?;
    let rule = Rule::of(&options.filter);
    let indices: Vec<usize> = (0..source.len()).collect();
    let seen = scan(&source, &indices, &rule, progress);
    let mut all = Totals::default();
    for finding in findings {
        all.note(finding);
    }
    let mut all = all.merged(seen);
    all.note_copies(&source);
    all.note_classes(&source);
    all.note_patterns(&source);
    Ok(all.report(&source, &rule))
}

/// Reads images and their annotations, on all cores.
fn scan(source: &Source, indices: &[usize], rule: &Rule, progress: &(dyn Fn(usize, usize) + Sync)) -> Totals {
    let n_done = AtomicUsize::new(0);
    indices
        .par_iter()
        .fold(Totals::default, |mut totals, &index| {
            totals.add_image(source, index, rule);
            progress(n_done.fetch_add(1, Ordering::Relaxed) + 1, indices.len());
            totals
        })
        .reduce(Totals::default, Totals::merged)
}

impl Rule {
    fn of(filter: &MaskFilter) -> Self {
        let is_given = filter.min_area_model_px > 0.0;
        Self {
            tiny_area_model_px: if is_given { filter.min_area_model_px } else { TINY_AREA_MODEL_PX },
            model_side_px: filter.model_side_px,
        }
    }
}
