//! The errors of a configuration: all together, each with its place.

use std::fmt;

use super::document::Override;

/// Where something was typed. Problems are reported in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Nowhere in particular, as for a section that is missing.
    File,
    /// A line of the file, from 1.
    Line(usize),
    /// An option of the command line, by its index.
    Override(usize),
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// With its sections, `schedule.steps`; empty for what belongs to no key.
    pub(crate) key: String,
    /// The sentence, without the place.
    pub(crate) message: String,
}

/// All errors of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// One line each, with the place in front.
    lines: Vec<String>,
}

impl ConfigError {
    /// Problems in the order of the file, those of the command line last.
    pub(crate) fn new(file: &str, overrides: &[Override], mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        let lines = problems.into_iter().map(|problem| match problem.place {
            Place::File => format!("{file}: {}", problem.message),
            Place::Line(line) => format!("{file}:{line}: {}", problem.message),
            Place::Override(index) => {
                let typed = overrides.get(index).map_or("", |option| &option.typed);
                format!("{typed}: {}", problem.message)
            }
        });
        Self { lines: lines.collect() }
    }

    /// One problem that belongs to no line.
    pub(crate) fn of_file(file: &str, message: String) -> Self {
        Self::new(file, &[], vec![Problem { place: Place::File, key: String::new(), message }])
    }

    /// One line per problem.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [line] = &self.lines[..] {
            return write!(f, "{line}");
        }
        write!(f, "{} errors in the configuration", self.lines.len())?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for ConfigError {}
