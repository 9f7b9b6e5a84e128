//! What is wrong with a configuration: everything at once, each with its place.

use std::fmt;

/// Where something was typed. The order is the one in which problems are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Nowhere in particular, as for a section that is missing.
    File,
    /// A line of the file, from 1.
    Line(usize),
    /// A `--set`, by its index.
    Override(usize),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// With its sections, `schedule.steps`; empty for what belongs to no key.
    pub(crate) key: String,
    /// The sentence, without the place.
    pub(crate) message: String,
}

/// All that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// One line each, with the place in front.
    lines: Vec<String>,
}

impl ConfigError {
    /// Orders problems as they stand in the file, those of the command line last.
    pub(crate) fn new(file: &str, overrides: &[String], mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        let lines = problems.into_iter().map(|problem| match problem.place {
            Place::File => format!("{file}: {}", problem.message),
            Place::Line(line) => format!("{file}:{line}: {}", problem.message),
            Place::Override(index) => {
                let typed = overrides.get(index).map_or("", String::as_str);
                format!("--set {typed}: {}", problem.message)
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
        write!(f, "{} things are wrong with the configuration", self.lines.len())?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for ConfigError {}
