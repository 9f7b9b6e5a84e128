//! The options of a command as a configuration: each is the value of a key, so that both are read by one reader and checked
//! alike. Messages name the option as it was typed.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::document::{Content, Document, Node, Override, Table};
use super::plan::Task;
use super::problems::Place;

/// A configuration that is built from options.
#[derive(Debug)]
pub(crate) struct Options {
    document: Document,
}

impl Options {
    /// `command` stands for the file in messages.
    pub(crate) fn of(command: &str) -> Self {
        let (file, folder) = (command.to_owned(), PathBuf::new());
        Self { document: Document { file, folder, overrides: Vec::new(), notes: Vec::new(), root: Table::new() } }
    }

    /// The same for a command that runs a task.
    pub(crate) fn of_task(command: &str, task: Task) -> Self {
        let mut options = Self::of(command);
        options.flag(command, "task", true, task.name());
        options
    }

    /// An option whose value is text.
    pub(crate) fn text(&mut self, option: &str, key: &str, text: Option<impl Display>) {
        if let Some(text) = text.map(|text| text.to_string()) {
            let place = self.place(format!("{option} {text}"), key);
            self.insert(key, Node::new(place, Content::Text(text)));
        }
    }

    /// An option whose value is any TOML; other values are text.
    pub(crate) fn value(&mut self, option: &str, key: &str, value: Option<impl Display>) {
        if let Some(value) = value.map(|value| value.to_string()) {
            let place = self.place(format!("{option} {value}"), key);
            self.insert(key, Node::from_option(&value, place));
        }
    }

    /// An option without a value, which stands for this one.
    pub(crate) fn flag(&mut self, option: &str, key: &str, is_given: bool, value: &str) {
        if is_given {
            let place = self.place(option.to_owned(), key);
            self.insert(key, Node::from_option(value, place));
        }
    }

    /// An option that may be repeated.
    pub(crate) fn paths(&mut self, option: &str, key: &str, paths: &[PathBuf]) {
        let nodes: Vec<Node> = paths.iter().map(|path| self.path(option, key, path)).collect();
        if let Some(first) = nodes.first() {
            self.insert(key, Node { content: Content::List(nodes.clone()), ..first.clone() });
        }
    }

    /// An option with several texts.
    pub(crate) fn texts(&mut self, option: &str, key: &str, texts: &[String]) {
        let mut node =
            |text: &String| Node::new(self.place(format!("{option} \"{text}\""), key), Content::Text(text.clone()));
        let nodes: Vec<Node> = texts.iter().map(&mut node).collect();
        if let Some(first) = nodes.first() {
            self.insert(key, Node { content: Content::List(nodes.clone()), ..first.clone() });
        }
    }

    /// An option that makes one more of the section, which then is a list, for each time that it is given.
    pub(crate) fn sections(&mut self, option: &str, section: &str, key: &str, paths: &[PathBuf]) {
        let common = self.document.table(section).cloned().unwrap_or_default();
        let with_path = |path: &PathBuf| {
            let node = self.path(option, &format!("{section}.{key}"), path);
            let mut table = common.clone();
            let place = node.place;
            table.insert(key.to_owned(), node);
            Node::new(place, Content::Table(table))
        };
        let nodes: Vec<Node> = paths.iter().map(with_path).collect();
        match &nodes[..] {
            [] => {}
            [one] => self.insert(section, one.clone()),
            [first, ..] => self.insert(section, Node { content: Content::List(nodes.clone()), ..first.clone() }),
        }
    }

    /// A number under a free key of a section, such as a bound of `[gate]`.
    pub(crate) fn number(&mut self, option: &str, section: &str, key: &str, number: f64) {
        let place = self.place(option.to_owned(), section);
        let node = Node { place, content: Content::Float(number), shown: number.to_string() };
        // Sections are ours, so nothing is in the way.
        let _ = self.document.insert(&[section, key], node);
    }

    pub(crate) fn into_document(self) -> Document {
        self.document
    }

    fn path(&mut self, option: &str, key: &str, path: &Path) -> Node {
        let place = self.place(format!("{option} {}", path.display()), key);
        Node::new(place, Content::Text(path.display().to_string()))
    }

    fn place(&mut self, typed: String, key: &str) -> Place {
        self.document.overrides.push(Override { typed, key: key.to_owned() });
        Place::Override(self.document.overrides.len() - 1)
    }

    fn insert(&mut self, key: &str, node: Node) {
        let path: Vec<&str> = key.split('.').collect();
        // Sections are ours, so nothing is in the way.
        let _ = self.document.insert(&path, node);
    }
}
