//! Short, unique names for tables, folders and full names of metrics.

use std::collections::HashMap;
use std::path::PathBuf;

/// Names of checkpoints: those of the files or folders, or their paths where those are equal.
pub(crate) fn of_checkpoints(checkpoints: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        stem.map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned())
    };
    unique(checkpoints.iter().map(short).collect(), checkpoints.iter().map(|path| path.display().to_string()).collect())
}

/// The short names, or the long ones where two are equal, with numbers appended where these are equal, too.
pub(crate) fn unique(short: Vec<String>, long: Vec<String>) -> Vec<String> {
    let count = |names: &[String]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        names.iter().for_each(|name| *counts.entry(name.clone()).or_default() += 1);
        counts
    };
    let counts = count(&short);
    let names: Vec<String> =
        short.into_iter().zip(long).map(|(short, long)| if counts[&short] > 1 { long } else { short }).collect();
    let counts = count(&names);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let numbered = names.into_iter().map(|name| {
        let number = seen.entry(name.clone()).or_default();
        *number += 1;
        if counts[&name] > 1 { format!("{name} ({number})") } else { name }
    });
    numbered.collect()
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn names_are_short_where_that_is_enough() {
        let of = |names: &[[&str; 2]]| {
            let part = |at: usize| names.iter().map(|pair| pair[at].to_owned()).collect();
            unique(part(0), part(1))
        };
        assert_eq!(of(&[["a", "x/a"], ["b", "x/b"]]), ["a", "b"]);
        assert_eq!(of(&[["a", "x/a"], ["a", "y/a"], ["b", "y/b"]]), ["x/a", "y/a", "b"]);
        assert_eq!(of(&[["a", "x/a"], ["a", "x/a"]]), ["x/a (1)", "x/a (2)"]);
    }
}
