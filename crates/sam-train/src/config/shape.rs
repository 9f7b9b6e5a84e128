//! What the reader asks of a key: the values that it may have and its default. Reading records it, so that the JSON Schema of
//! a configuration (`schema.rs`) says what the reader does.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use super::limits;
use super::ranges::Integer;

/// The values that a key may have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer {
        /// The smallest.
        smallest: Option<i64>,
        /// The largest.
        largest: i64,
    },
    /// A number.
    Number {
        /// Where the range begins.
        low: Bound<f64>,
        /// Where it ends.
        high: Bound<f64>,
    },
    /// A text; a path or a rule that the schema cannot say.
    Text,
    /// One of a few words.
    Words(Vec<String>),
    /// A list, of this many values if that is fixed.
    List(Box<Shape>, Option<usize>),
    /// A table of exactly these keys, which is no section.
    Table(Vec<(&'static str, Shape)>),
    /// A section; its keys are recorded under its path.
    Section,
}

/// A key that the reader knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KnownKey {
    /// As it would be typed; empty without a default.
    pub(crate) default: String,
    /// The values that it may have, if any of these.
    pub(crate) shapes: Vec<Shape>,
}

/// The keys that were read, by section.
pub(crate) type KnownKeys = BTreeMap<String, BTreeMap<String, KnownKey>>;

impl Shape {
    /// Whole numbers of a key in a range.
    pub(crate) fn integer<T: Integer>(key: &str, range: &impl RangeBounds<T>) -> Self {
        let number = |number: &T| (*number).try_into().ok();
        let of_type = if T::try_from(-1).is_ok() { None } else { Some(0) };
        let smallest = match range.start_bound() {
            Bound::Included(low) => number(low),
            Bound::Excluded(low) => number(low).map(|low| low + 1),
            Bound::Unbounded => of_type,
        };
        let highest = match range.end_bound() {
            Bound::Included(high) => number(high),
            Bound::Excluded(high) => number(high).map(|high| high - 1),
            Bound::Unbounded => None,
        };
        let largest = limits::largest(key);
        Self::Integer { smallest, largest: highest.map_or(largest, |highest| highest.min(largest)) }
    }

    /// Numbers of a key in a range.
    pub(crate) fn number(key: &str, range: &impl RangeBounds<f64>) -> Self {
        let (low, high) = (range.start_bound().cloned(), range.end_bound().cloned());
        let largest = limits::largest_float(key);
        let high = match high {
            // What is below infinity needs no words.
            Bound::Unbounded if largest < f64::from(f32::MAX) => Bound::Included(largest),
            Bound::Included(end) | Bound::Excluded(end) if end > largest => Bound::Included(largest),
            high => high,
        };
        Self::Number { low, high }
    }

    /// These words.
    pub(crate) fn words<T>(choices: &[(&str, T)]) -> Self {
        Self::Words(choices.iter().map(|(word, _)| (*word).to_owned()).collect())
    }

    /// These words.
    pub(crate) fn of_words(words: &[&str]) -> Self {
        Self::Words(words.iter().map(|&word| word.to_owned()).collect())
    }

    /// A list of any length.
    pub(crate) fn list(of: Shape) -> Self {
        Self::List(Box::new(of), None)
    }
}

impl KnownKey {
    /// Adds what one more getter asked; the first default counts.
    pub(crate) fn add(&mut self, default: impl Display, shapes: Vec<Shape>) {
        if self.default.is_empty() {
            self.default = default.to_string();
        }
        for shape in shapes {
            if !self.shapes.contains(&shape) {
                self.shapes.push(shape);
            }
        }
    }
}
