//! "Did you mean": the nearest word, and the section that a key belongs in.

use super::document::Document;
use super::problems::Problem;
use super::shape::KnownKeys;

/// What other programs call a key, with its name here, which is too short to be similar.
const FULL_NAMES: [(&str, &str); 1] = [("learning_rate", "lr")];

/// The most similar word, if any is similar enough to be meant.
pub(crate) fn nearest<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    words.filter_map(|word| Some((distance(&typed, word)?, word))).min().map(|(_, word)| word)
}

/// "a, b or c".
pub(crate) fn one_of(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match &words[..] {
        [] => String::new(),
        [one] => one.clone(),
        [several @ .., last] => format!("{} or {last}", several.join(", ")),
    }
}

/// The keys of the document that nothing has read, of sections that were.
pub(crate) fn unknown_keys(document: &Document, known: &KnownKeys) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (section, keys) in known {
        for (key, node) in document.table(section).into_iter().flatten() {
            if keys.contains_key(key) {
                continue;
            }
            let place_of_key = if section.is_empty() { "at the top".to_owned() } else { format!("in [{section}]") };
            let what = if node.table().is_some() { "section" } else { "key" };
            let meant = suggestion(section, key, known);
            let message = format!("there is no {what} `{key}` {place_of_key}; {meant}");
            problems.push(Problem { place: node.place, key: join(section, key), message });
        }
    }
    problems
}

fn suggestion(section: &str, key: &str, known: &KnownKeys) -> String {
    // The section next to the top comes first: `seed` is that of the run.
    let mut others: Vec<&String> = known.keys().filter(|&other| other != section).collect();
    others.sort_by_key(|other| (other.matches('.').count(), other.as_str()));
    let quoted = |section: &str, key: &str| {
        let path = join(section, key);
        let default = &known[section][key].default;
        match (known.contains_key(&path), default.is_empty()) {
            (true, _) => format!("the section [{path}]"),
            (_, true) => format!("`{key}`"),
            (_, false) => format!("`{key}` (default {default})"),
        }
    };
    let in_section = |section: &str, found: &str| match (section.is_empty(), known.contains_key(&join(section, found)))
    {
        (true, _) | (_, true) => quoted(section, found),
        (false, false) => format!("{} in [{section}]", quoted(section, found)),
    };
    let keys_of = |section: &str| known[section].keys().map(String::as_str);
    if let Some((_, short)) = FULL_NAMES.iter().find(|(full, _)| *full == key) {
        if known[section].contains_key(*short) {
            return format!("did you mean {}?", quoted(section, short));
        }
        if let Some(other) = others.iter().find(|other| known[other.as_str()].contains_key(*short)) {
            return format!("did you mean {}?", in_section(other, short));
        }
    }
    if let Some(other) = others.iter().find(|other| known[other.as_str()].contains_key(key)) {
        return match other.as_str() {
            "" => format!("`{key}` belongs at the top, before the first section"),
            other => format!("`{key}` belongs in [{other}]"),
        };
    }
    if let Some(found) = nearest(key, keys_of(section)) {
        return format!("did you mean {}?", quoted(section, found));
    }
    let elsewhere = others.iter().find_map(|other| Some((other, nearest(key, keys_of(other))?)));
    if let Some((other, found)) = elsewhere {
        return format!("did you mean {}?", in_section(other, found));
    }
    let all: Vec<String> = keys_of(section).map(|key| format!("`{key}`")).collect();
    format!("it takes {}", all.join(", "))
}

/// The distance of two words, if one may be meant by the other: slips first, then prefixes.
fn distance(typed: &str, word: &str) -> Option<(Likeness, usize)> {
    /// One edit in three letters is a slip; more is another word.
    const LETTERS_PER_EDIT: usize = 3;
    let (shorter, longer) = (typed.len().min(word.len()), typed.len().max(word.len()));
    let edits = strsim::damerau_levenshtein(typed, word);
    if edits <= (longer / LETTERS_PER_EDIT).max(1) {
        return Some((Likeness::Slip, edits));
    }
    let is_beginning = word.starts_with(typed) || typed.starts_with(word);
    (is_beginning && shorter >= LETTERS_PER_EDIT).then_some((Likeness::Beginning, longer - shorter))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    Slip,
    Beginning,
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_prefixes_are_meant_other_words_are_not() {
        let words = ["lr", "weight_decay", "layer_decay", "warmup_steps", "constant", "multi_step"];
        for (typed, expected) in [
            ("Lr", Some("lr")),
            ("weigth_decay", Some("weight_decay")),
            ("weight-decay", Some("weight_decay")),
            ("layerdecay", Some("layer_decay")),
            ("warmup", Some("warmup_steps")),
            ("constant_rate", Some("constant")),
            ("multistep", Some("multi_step")),
            ("momentum", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, words.into_iter()), expected, "{typed}");
        }
        assert_eq!(one_of(["a", "b", "c"].map(str::to_owned).into_iter()), "a, b or c");
    }
}
