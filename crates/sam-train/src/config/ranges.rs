//! Numbers within a range, and ranges in words.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use super::document::{Content, Node};

/// Numbers above 0.
pub(crate) const POSITIVE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Unbounded);

/// Fractions above 0, 1 included.
pub(crate) const SHARE_ABOVE_0: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));

/// Fractions with something left on both sides.
pub(crate) const BETWEEN_0_AND_1: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Excluded(1.0));

/// Threads and batches ahead; a larger number is a typing error.
pub(crate) const WORKERS: RangeInclusive<usize> = 0..=1024;

/// Sizes of images that a model can have; its own check says more once the patch size is known. At 4096 px, a global attention
/// has 65,536 tokens.
pub(crate) const IMAGE_SIZES: RangeInclusive<usize> = 16..=4096;

/// Limits of the pixels of an image.
pub(crate) const MAX_PIXELS: RangeInclusive<u64> = 1..=sam_image::MAX_PIXELS;

/// The integers of a plan.
pub(crate) trait Integer: Copy + PartialOrd + Display + TryFrom<i64> + TryInto<i64> {}

impl<T: Copy + PartialOrd + Display + TryFrom<i64> + TryInto<i64>> Integer for T {}

/// The value, if it is a number in the range.
pub(crate) fn float_of(node: &Node, range: &impl RangeBounds<f64>) -> Option<f64> {
    node.number().filter(|value| range.contains(value))
}

/// The value, if it is a whole number in the range. A float without a fraction counts, so that `9e4` steps can be
/// typed.
pub(crate) fn integer_of<T: Integer>(node: &Node, range: &impl RangeBounds<T>) -> Option<T> {
    /// Above this, floats have gaps.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let value = match node.content {
        Content::Integer(value) => value?,
        Content::Float(value) if value.fract() == 0.0 && value.abs() <= EXACT => value as i64,
        _ => return None,
    };
    T::try_from(value).ok().filter(|value| range.contains(value))
}

/// "a whole number from 1 to 9".
pub(crate) fn in_range<T: Display>(what: &str, range: &impl RangeBounds<T>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Unbounded, Bound::Unbounded) => what.to_owned(),
        (Bound::Included(low), Bound::Unbounded) => format!("{what} of at least {low}"),
        (Bound::Excluded(low), Bound::Unbounded) => format!("{what} above {low}"),
        (Bound::Included(low), Bound::Included(high)) => format!("{what} from {low} to {high}"),
        (Bound::Included(low), Bound::Excluded(high)) => format!("{what} from {low} to below {high}"),
        (Bound::Excluded(low), Bound::Included(high)) => format!("{what} above {low} and at most {high}"),
        (Bound::Excluded(low), Bound::Excluded(high)) => format!("{what} above {low} and below {high}"),
        (Bound::Unbounded, Bound::Included(high)) => format!("{what} of at most {high}"),
        (Bound::Unbounded, Bound::Excluded(high)) => format!("{what} below {high}"),
    }
}
