//! Typed values from a configuration; all errors are reported together.
//!
//! A getter returns the value of a key or its default. For a wrong value it records what was expected and what came, and
//! returns the default, so that reading continues. It also records the key as known: a key that nothing has read by the
//! end is an error. Every key is therefore read whatever the others are, and rules between keys come afterwards
//! ([`Reader::check`]); they say nothing about a key whose value is already known to be wrong.

mod paths;
mod resolved;

pub(crate) use paths::Paths;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeBounds;

use super::document::{Content, Document, Node};
use super::limits;
use super::problems::{ConfigError, Place, Problem};
use super::ranges::{Integer, float_of, in_range, integer_of};
use super::shape::{KnownKeys, Shape};
use super::suggestion::{self, one_of};

/// Turns an optional number off.
const NONE: &str = "none";

/// A configuration that is being read.
#[derive(Debug)]
pub(crate) struct Reader<'d> {
    document: &'d Document,
    paths: Paths,
    known: RefCell<KnownKeys>,
    /// Keys without effect, because of the values of others.
    unused: RefCell<Vec<String>>,
    /// The values of sections with free keys.
    free: RefCell<BTreeMap<String, Shape>>,
    problems: RefCell<Vec<Problem>>,
}

/// What a key that has no getter of its own may be.
pub(crate) struct Expected<'a> {
    /// As it would be typed; empty without a default.
    pub(crate) default: &'a str,
    /// For messages: "must be ..".
    pub(crate) words: &'a str,
    /// For the schema: any of these.
    pub(crate) shapes: Vec<Shape>,
}

/// Everything that reading a document asked for.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) keys: KnownKeys,
    pub(crate) free: BTreeMap<String, Shape>,
}

/// A section that is being read; a missing one has every default.
#[derive(Clone, Debug)]
pub(crate) struct Section<'r> {
    reader: &'r Reader<'r>,
    /// With its parent sections, `data.augmentation`.
    path: String,
}

impl<'d> Reader<'d> {
    pub(crate) fn new(document: &'d Document, paths: Paths) -> Self {
        let (known, unused, free) = (RefCell::new(KnownKeys::new()), RefCell::default(), RefCell::default());
        Self { document, paths, known, unused, free, problems: RefCell::default() }
    }

    /// The top, as a section.
    pub(crate) fn top(&self) -> Section<'_> {
        self.known.borrow_mut().entry(String::new()).or_default();
        Section { reader: self, path: String::new() }
    }

    /// A rule between keys, reported as "`keys[0]` must be `expected`".
    pub(crate) fn check(&self, holds: bool, keys: &[&str], expected: &str, got: impl Display) {
        if let (false, Some(key)) = (holds, keys.first()) {
            self.object(keys, format!("{key} must be {expected}, got {got}"));
        }
    }

    /// Reports a conflict between keys, at the place of the first or of the option that changed one; unless one of them is
    /// wrong already.
    pub(crate) fn object(&self, keys: &[&str], message: String) {
        if keys.iter().any(|key| self.is_wrong(key)) {
            return;
        }
        let places = || keys.iter().map(|key| self.document.place(key));
        let by_override = places().filter(|place| matches!(place, Place::Override(_))).max();
        let place = by_override.or_else(|| places().next()).unwrap_or(Place::File);
        self.report(place, keys.first().copied().unwrap_or_default(), message);
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// With all problems, and all keys that nothing has read.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let unknown = suggestion::unknown_keys(self.document, &self.known.borrow());
        self.problems.borrow_mut().extend(unknown);
        self.finish_part()
    }

    /// Ends the reading of a part of the document; other keys are ignored.
    ///
    /// # Errors
    ///
    /// With all problems.
    pub(crate) fn finish_part(&self) -> Result<(), ConfigError> {
        let problems = self.problems.take();
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::new(&self.document.file, &self.document.overrides, problems))
    }

    /// Ends the reading without a plan: what was asked for is of interest, and not the values.
    pub(crate) fn into_recorded(self) -> Recorded {
        Recorded { keys: self.known.into_inner(), free: self.free.into_inner() }
    }

    /// Whether the value of this key, or anything in it, is already known to be wrong.
    fn is_wrong(&self, key: &str) -> bool {
        let within = |problem: &Problem| {
            problem.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.problems.borrow().iter().any(within)
    }

    fn report(&self, place: Place, key: &str, message: String) {
        self.problems.borrow_mut().push(Problem { place, key: key.to_owned(), message });
    }
}

impl<'r> Section<'r> {
    /// A section in this one.
    pub(crate) fn section(&self, key: &str) -> Section<'r> {
        self.know(key, "", vec![Shape::Section]);
        if let Some(node) = self.node(key).filter(|node| node.table().is_none()) {
            self.reject(node, key, "a section", "");
        }
        self.section_at(self.path_of(key))
    }

    /// The sections of a key that may be one section or, as `[[key]]`, a list of them.
    pub(crate) fn sections(&self, key: &str) -> Vec<Section<'r>> {
        self.know(key, "", vec![Shape::Section, Shape::list(Shape::Section)]);
        match self.node(key).and_then(Node::list) {
            Some(list) => {
                (0..list.len()).map(|index| self.section_at(format!("{}[{index}]", self.path_of(key)))).collect()
            }
            None => vec![self.section(key)],
        }
    }

    fn section_at(&self, path: String) -> Section<'r> {
        self.reader.known.borrow_mut().entry(path.clone()).or_default();
        Section { reader: self.reader, path }
    }

    /// The keys that were typed, of a section with free ones, whose values are of this shape.
    pub(crate) fn free_keys(&self, shape: Shape) -> Vec<String> {
        self.reader.free.borrow_mut().insert(self.path.clone(), shape);
        let table = self.reader.document.table(&self.path);
        table.into_iter().flat_map(|table| table.keys().cloned()).collect()
    }

    /// Reports the key of an earlier version, and every key in it, by what replaces it.
    pub(crate) fn replaced(&self, old_key: &str, replacement: impl Fn(&str) -> String) {
        let Some(node) = self.node(old_key) else { return };
        self.know(old_key, "", Vec::new());
        let path = self.path_of(old_key);
        let report = |path: &str, key: &str, node: &Node| {
            let message = format!("unknown key `{path}`; it is {} now", replacement(key));
            self.reader.report(node.place, path, message);
        };
        match node.table() {
            Some(table) => table.iter().for_each(|(key, node)| report(&format!("{path}.{key}"), key, node)),
            None => report(&path, old_key, node),
        }
    }

    /// Whether a key was typed.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Whether a key that may also be a word was typed as a section.
    pub(crate) fn is_section(&self, key: &str) -> bool {
        self.node(key).is_some_and(|node| node.table().is_some())
    }

    /// The name of a key with its sections.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Rejects keys that have no effect because `decider` does not have the value that they need (`holds`).
    pub(crate) fn only_if(&self, holds: bool, decider: &str, keys: &[&str], use_of: &str) {
        if holds {
            return;
        }
        self.unused(keys);
        if self.reader.is_wrong(&self.path_of(decider)) {
            return;
        }
        for key in keys {
            if let Some(node) = self.node(key) {
                let path = self.path_of(key);
                self.reader.report(node.place, &path, format!("{path} is only used with {use_of}; remove it"));
            }
        }
    }

    /// A required value: when it is missing, that is reported and `stand_in` returned.
    pub(crate) fn required<T>(&self, key: &str, what: &str, value: Option<T>, stand_in: T) -> T {
        let path = self.path_of(key);
        if !self.is_given(key) {
            self.reader.report(self.reader.document.place(&path), &path, format!("{path} must be given: {what}"));
        }
        value.unwrap_or(stand_in)
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        let expected = Expected { default: &default.to_string(), words: "true or false", shapes: vec![Shape::Flag] };
        self.read(key, expected, |node| match node.content {
            Content::Flag(flag) => Some(flag),
            _ => None,
        })
        .unwrap_or(default)
    }

    pub(crate) fn float(&self, key: &str, default: f64, range: impl RangeBounds<f64>) -> f64 {
        self.read_float(key, &default.to_string(), &range).unwrap_or(default)
    }

    pub(crate) fn float_if_given(&self, key: &str, range: impl RangeBounds<f64>) -> Option<f64> {
        self.read_float(key, "", &range)
    }

    fn read_float(&self, key: &str, default: &str, range: &impl RangeBounds<f64>) -> Option<f64> {
        let words = in_range("a number", range);
        let expected = Expected { default, words: &words, shapes: vec![Shape::number(key, range)] };
        self.read(key, expected, |node| float_of(node, range)).and_then(|value| self.limited_float(key, value))
    }

    /// A number, or "none".
    pub(crate) fn float_or_none(&self, key: &str, default: Option<f64>, range: impl RangeBounds<f64>) -> Option<f64> {
        let shown = default.map_or(format!("\"{NONE}\""), |default| default.to_string());
        let words = format!("{}, or \"{NONE}\"", in_range("a number", &range));
        let shapes = vec![Shape::number(key, &range), Shape::of_words(&[NONE])];
        let read = |node: &Node| match node.text() {
            Some(NONE) => Some(None),
            _ => float_of(node, &range).map(Some),
        };
        let value = self.read(key, Expected { default: &shown, words: &words, shapes }, read);
        match value {
            Some(Some(value)) => self.limited_float(key, value).map_or(default, Some),
            Some(None) => None,
            None => default,
        }
    }

    pub(crate) fn integer<T: Integer>(&self, key: &str, default: T, range: impl RangeBounds<T>) -> T {
        self.read_integer(key, &default.to_string(), &range).unwrap_or(default)
    }

    pub(crate) fn integer_if_given<T: Integer>(&self, key: &str, range: impl RangeBounds<T>) -> Option<T> {
        self.read_integer(key, "", &range)
    }

    fn read_integer<T: Integer>(&self, key: &str, default: &str, range: &impl RangeBounds<T>) -> Option<T> {
        let words = in_range("a whole number", range);
        let expected = Expected { default, words: &words, shapes: vec![Shape::integer(key, range)] };
        self.read(key, expected, |node| integer_of(node, range)).and_then(|value| self.limited(key, value))
    }

    /// The value, unless it is above the limit of the key.
    fn limited<T: Integer>(&self, key: &str, value: T) -> Option<T> {
        let largest = limits::largest(key);
        if T::try_from(largest).map_or(true, |largest| value <= largest) {
            return Some(value);
        }
        self.reject_above(key, &format!("a whole number of at most {largest}"));
        None
    }

    /// As [`Section::limited`].
    fn limited_float(&self, key: &str, value: f64) -> Option<f64> {
        let largest = limits::largest_float(key);
        if value.abs() <= largest {
            return Some(value);
        }
        self.reject_above(key, &format!("a number of {}", limits::at_most(largest)));
        None
    }

    fn reject_above(&self, key: &str, expected: &str) {
        if let Some(node) = self.node(key) {
            self.reject(node, key, expected, "");
        }
    }

    pub(crate) fn text_if_given(&self, key: &str) -> Option<String> {
        let text = |node: &Node| node.text().filter(|text| !text.is_empty()).map(str::to_owned);
        let expected = Expected { default: "", words: "a text that is not empty", shapes: vec![Shape::Text] };
        self.read(key, expected, text)
    }

    /// A text that `rule` accepts; else it returns what was expected.
    pub(crate) fn text_with(&self, key: &str, default: &str, rule: impl Fn(&str) -> Option<String>) -> String {
        self.know(key, &format!("\"{default}\""), vec![Shape::Text]);
        let Some(node) = self.node(key) else { return default.to_owned() };
        match node.text().map(|text| (text, rule(text))) {
            Some((text, None)) => return text.to_owned(),
            Some((_, Some(expected))) => self.reject(node, key, &expected, ""),
            None => self.reject(node, key, "a text", ""),
        }
        default.to_owned()
    }

    /// One of a few words, with their values.
    pub(crate) fn choice<T: Clone + PartialEq>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let shown =
            choices.iter().find(|(_, value)| *value == default).map_or(String::new(), |(w, _)| format!("\"{w}\""));
        self.know(key, &shown, vec![Shape::words(choices)]);
        self.choice_if_given(key, choices).unwrap_or(default)
    }

    pub(crate) fn choice_if_given<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        self.know(key, "", vec![Shape::words(choices)]);
        let node = self.node(key)?;
        let found = chosen(node, choices);
        if found.is_none() {
            self.reject_word(node, key, choices);
        }
        found
    }

    /// A key that is one of a few words, or else a section: the word, if it is one.
    pub(crate) fn word_or_section<T: Clone>(
        &self,
        key: &str,
        expected: Expected<'_>,
        words: &[(&str, T)],
    ) -> Option<T> {
        self.know(key, expected.default, vec![Shape::words(words)]);
        let node = self.node(key).filter(|node| node.table().is_none())?;
        let found = chosen(node, words);
        if found.is_none() {
            self.reject(node, key, expected.words, "");
        }
        found
    }

    /// A list of a few words.
    pub(crate) fn choices<T: Clone>(&self, key: &str, default: &str, choices: &[(&str, T)]) -> Option<Vec<T>> {
        let of_words = Shape::words(choices);
        let shapes = vec![Shape::list(of_words)];
        self.list(key, Expected { default, words: "a list of words", shapes }, |node| {
            let found = chosen(node, choices);
            if found.is_none() {
                self.reject_word(node, key, choices);
            }
            found
        })
    }

    pub(crate) fn integers_if_given<T: Integer>(&self, key: &str, range: impl RangeBounds<T>) -> Option<Vec<T>> {
        let each = in_range("a whole number", &range);
        let shapes = vec![Shape::list(Shape::integer(key, &range))];
        let expected = Expected { default: "", words: "a list of whole numbers", shapes };
        let values =
            self.list(key, expected, |node| self.element(node, key, &each, |node| integer_of(node, &range)))?;
        values.into_iter().map(|value| self.limited(key, value)).collect()
    }

    /// A list of exactly so many whole numbers.
    pub(crate) fn integers<T: Integer, const N: usize>(
        &self,
        key: &str,
        default: [T; N],
        range: impl RangeBounds<T>,
    ) -> [T; N] {
        let each = in_range("a whole number", &range);
        let words = format!("a list of {N} values, each {each}");
        let shown = format!("[{}]", default.map(|value| value.to_string()).join(", "));
        let shapes = vec![Shape::List(Box::new(Shape::integer(key, &range)), Some(N))];
        let values = self.read(key, Expected { default: &shown, words: &words, shapes }, |node| {
            let values: Option<Vec<T>> = node.list()?.iter().map(|value| integer_of(value, &range)).collect();
            <[T; N]>::try_from(values?).ok()
        });
        let is_limited = |values: &[T; N]| values.iter().all(|&value| self.limited(key, value).is_some());
        values.filter(is_limited).unwrap_or(default)
    }

    /// A list of texts that `rule` accepts; else it returns what was expected.
    pub(crate) fn texts_if_given(&self, key: &str, rule: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
        let shapes = vec![Shape::list(Shape::Text)];
        self.list(key, Expected { default: "[]", words: "a list of texts", shapes }, |node| {
            let Some(text) = node.text() else {
                self.reject(node, key, "a list of texts", "");
                return None;
            };
            match rule(text) {
                Some(expected) => {
                    self.reject(node, key, &expected, "");
                    None
                }
                None => Some(text.to_owned()),
            }
        })
    }

    /// Two numbers.
    pub(crate) fn float_pair_if_given(&self, key: &str, range: impl RangeBounds<f64>) -> Option<[f64; 2]> {
        let words = in_range("two numbers, each", &range);
        let shapes = vec![Shape::List(Box::new(Shape::number(key, &range)), Some(2))];
        self.read(key, Expected { default: "", words: &words, shapes }, |node| match &node.content {
            Content::List(list) => match &list[..] {
                [a, b] => Some([float_of(a, &range)?, float_of(b, &range)?]),
                _ => None,
            },
            _ => None,
        })
        .filter(|pair| pair.iter().all(|&value| self.limited_float(key, value).is_some()))
    }

    /// A smaller and a larger number.
    pub(crate) fn float_range_if_given(&self, key: &str, range: impl RangeBounds<f64>) -> Option<[f64; 2]> {
        let pair = self.float_pair_if_given(key, range);
        if let (Some([low, high]), Some(node)) = (pair.filter(|[low, high]| low > high), self.node(key)) {
            self.reject(node, key, "two numbers, the smaller one first", &format!("did you mean [{high}, {low}]?"));
        }
        pair
    }

    /// Any value that `read` accepts.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        expected: Expected<'_>,
        read: impl FnOnce(&Node) -> Option<T>,
    ) -> Option<T> {
        self.know(key, expected.default, expected.shapes);
        let node = self.node(key)?;
        let value = read(node);
        if value.is_none() {
            self.reject(node, key, expected.words, "");
        }
        value
    }

    /// `None` when there is no list, or `each` has rejected an element.
    fn list<T>(&self, key: &str, expected: Expected<'_>, each: impl Fn(&Node) -> Option<T>) -> Option<Vec<T>> {
        self.know(key, expected.default, expected.shapes);
        let node = self.node(key)?;
        let Content::List(elements) = &node.content else {
            self.reject(node, key, expected.words, "");
            return None;
        };
        // Not `collect` into an `Option`: that would stop at the first wrong element, and all of them are reported.
        let values: Vec<Option<T>> = elements.iter().map(each).collect();
        values.into_iter().collect()
    }

    fn element<T>(&self, node: &Node, key: &str, expected: &str, read: impl Fn(&Node) -> Option<T>) -> Option<T> {
        let value = read(node);
        if value.is_none() {
            self.reject(node, key, &format!("a list, each {expected}"), "");
        }
        value
    }

    fn reject_word<T>(&self, node: &Node, key: &str, choices: &[(&str, T)]) {
        let words = || choices.iter().map(|(word, _)| *word);
        let nearest = node.text().and_then(|text| suggestion::nearest(text, words()));
        let hint = nearest.map_or(String::new(), |word| format!("did you mean \"{word}\"?"));
        self.reject(node, key, &one_of(words().map(|word| format!("\"{word}\""))), &hint);
    }

    fn reject(&self, node: &Node, key: &str, expected: &str, hint: &str) {
        let path = self.path_of(key);
        let separator = if hint.is_empty() { "" } else { "; " };
        let message = format!("{path} must be {expected}, got {}{separator}{hint}", node.shown);
        self.reader.report(node.place, &path, message);
    }

    fn node(&self, key: &str) -> Option<&'r Node> {
        self.reader.document.table(&self.path)?.get(key)
    }

    fn know(&self, key: &str, default: &str, shapes: Vec<Shape>) {
        let mut known = self.reader.known.borrow_mut();
        known.entry(self.path.clone()).or_default().entry(key.to_owned()).or_default().add(default, shapes);
    }
}

fn chosen<T: Clone>(node: &Node, choices: &[(&str, T)]) -> Option<T> {
    let text = node.text()?;
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone())
}
