//! A configuration with every default: what `--check` prints, and what runs as the original does.

use std::collections::BTreeMap;

use super::{Reader, Section};
use crate::config::document::{Content, Node};
use crate::config::shape::KnownKey;

impl Reader<'_> {
    /// The typed keys with their values, and every other key that has an effect with its default, as a configuration.
    pub(crate) fn resolved(&self) -> String {
        let known = self.known.borrow();
        let unused = self.unused.borrow();
        let is_unused = |path: &str| unused.iter().any(|key| is_at_or_in(path, key));
        // A section that stands for a word unless it is typed.
        let is_word = |section: &str| {
            let (parent, key) = section.rsplit_once('.').unwrap_or(("", section));
            let default = known.get(parent).and_then(|keys| keys.get(key));
            default.is_some_and(|known| !known.default.is_empty()) && self.document.table(section).is_none()
        };
        let mut text = String::new();
        for (section, keys) in known.iter() {
            if is_unused(section) || is_word(section) || section.contains('[') {
                continue;
            }
            let line = |(key, KnownKey { default, .. }): (&String, &KnownKey)| {
                let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
                match self.document.node(&path) {
                    Some(node) if node.table().is_some() && known.contains_key(&path) => None,
                    Some(node) => Some(format!("{} = {}\n", quoted_key(key), toml_of(node))),
                    None if default.is_empty() || is_unused(&path) => None,
                    None => Some(format!("{} = {default}\n", quoted_key(key))),
                }
            };
            let lines: String = keys.iter().filter_map(line).collect();
            if lines.is_empty() {
                continue;
            }
            if !section.is_empty() {
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.push_str(&lines);
        }
        text
    }
}

impl Section<'_> {
    /// Shows the default of a key whose getter has none.
    pub(crate) fn defaults_to(&self, key: &str, default: &str) {
        self.know(key, default, Vec::new());
    }

    /// Says that these keys have no effect in this configuration; they are then not among the resolved ones.
    pub(crate) fn unused(&self, keys: &[&str]) {
        self.reader.unused.borrow_mut().extend(keys.iter().map(|key| self.path_of(key)));
    }
}

fn is_at_or_in(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn quoted_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { key.to_owned() } else { toml::Value::from(key).to_string() }
}

/// On one line; sections inside are inline tables.
fn toml_of(node: &Node) -> String {
    match &node.content {
        Content::Text(text) => toml::Value::from(text.as_str()).to_string(),
        Content::Integer(Some(number)) => number.to_string(),
        Content::Integer(None) | Content::Float(_) | Content::Time => node.shown.clone(),
        Content::Flag(flag) => flag.to_string(),
        Content::List(list) => format!("[{}]", list.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
        Content::Table(table) => inline(table),
    }
}

fn inline(table: &BTreeMap<String, Node>) -> String {
    let entries = table.iter().map(|(key, node)| format!("{} = {}", quoted_key(key), toml_of(node)));
    format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
}
