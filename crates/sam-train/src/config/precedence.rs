//! The command line wins: a key that `--set` gives replaces the keys of the file that exclude it, and says so.

use super::document::{Content, Document, Node, Table};
use super::problems::Place;

/// Alternatives, each a group of keys; those of two groups exclude each other in every task that has them.
const ALTERNATIVES: [&[&[&str]]; 6] = [
    &[&["data.train"], &["data.synth"]],
    // The options of validation data go with it.
    &[
        &["data.validation", "data.validation_options"],
        &["data.split"],
        &["data.validation_synth"],
        &["data.split_file"],
        &["data.hold_out"],
    ],
    &[&["data.split.file"], &["data.split.val", "data.split.test", "data.split.seed", "data.split.group"]],
    &[&["model.variant"], &["model.sizes"]],
    &[&["model.image_size"], &["model.image_size_hw"]],
    &[&["optimiser.lr"], &["optimiser.base_lr"]],
];

impl Document {
    /// Removes the keys of the file that keys of the command line exclude; a note for each.
    pub(super) fn prefer_overrides(&mut self) {
        for groups in ALTERNATIVES {
            let overriding = |group: &&&[&str]| group.iter().find_map(|key| override_in(self.node(key)?));
            let Some((winner, by)) = groups.iter().find_map(|group| Some((*group, overriding(&group)?))) else {
                continue;
            };
            let losers: Vec<&str> =
                groups.iter().filter(|group| **group != winner).flat_map(|group| group.iter().copied()).collect();
            for key in losers {
                // Two options that exclude each other are an error.
                if self.node(key).is_some_and(|node| override_in(node).is_none()) {
                    self.replace(key, by);
                }
            }
        }
    }

    /// A word of the file in the place of a section that an option is about to make.
    pub(super) fn make_way(&mut self, path: &[&str], by: usize) {
        const WORD_OR_SECTION: &str = "data.split";
        let is_below = path.join(".").strip_prefix(WORD_OR_SECTION).is_some_and(|rest| rest.starts_with('.'));
        let is_word = |node: &Node| matches!((&node.content, node.place), (Content::Text(_), Place::Line(_)));
        if is_below && self.node(WORD_OR_SECTION).is_some_and(is_word) {
            self.replace(WORD_OR_SECTION, by);
        }
    }

    fn replace(&mut self, key: &str, by: usize) {
        let line = match self.node(key).map(|node| node.place) {
            Some(Place::Line(line)) => format!("{}:{line}", self.file),
            _ => self.file.clone(),
        };
        let option = self.overrides.get(by).map_or("", |option| &option.typed);
        self.notes.push(format!("{key} ({line}) is replaced by {option}"));
        remove(&mut self.root, key);
    }
}

/// The option that gave a value, or something in it.
fn override_in(node: &Node) -> Option<usize> {
    match (node.place, &node.content) {
        (Place::Override(index), _) => Some(index),
        (_, Content::Table(table)) => table.values().find_map(override_in),
        (_, Content::List(list)) => list.iter().find_map(override_in),
        _ => None,
    }
}

fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((section, rest)) => {
            if let Some(Node { content: Content::Table(inner), .. }) = table.get_mut(section) {
                remove(inner, rest);
            }
        }
    }
}
