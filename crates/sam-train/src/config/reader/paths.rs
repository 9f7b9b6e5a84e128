//! Paths of input files and folders.

use std::path::{Path, PathBuf};

use sam_data::{has_cloud, is_cloud};

use super::{Expected, Section, Shape};
use crate::config::document::Node;
use crate::published;

/// Whether input files and folders must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    /// They must: the plan is about to be run.
    MustExist,
    /// They need not: only the text is of interest.
    MayBeMissing,
}

impl Section<'_> {
    /// An input file or folder as an absolute path. It is relative to the working folder as on any command line, or else to
    /// the folder of the configuration.
    pub(crate) fn input_path_if_given(&self, key: &str) -> Option<PathBuf> {
        self.local_path_if_given(key).map(|path| absolute(&path))
    }

    /// As [`Section::input_path_if_given`], but as typed where that is the working folder's: results then name it so.
    pub(crate) fn local_path_if_given(&self, key: &str) -> Option<PathBuf> {
        let typed = PathBuf::from(self.text_if_given(key)?);
        self.node(key).map(|node| self.find(typed, node, key))
    }

    /// One path or a list of them, as [`Section::local_path_if_given`]; empty when the key is missing.
    pub(crate) fn local_paths(&self, key: &str) -> Vec<PathBuf> {
        let shapes = vec![Shape::Text, Shape::list(Shape::Text)];
        if self.node(key).and_then(Node::list).is_none() {
            self.know(key, "", shapes);
            return self.local_path_if_given(key).into_iter().collect();
        }
        let paths = self.list(key, Expected { default: "", words: "a path or a list of paths", shapes }, |node| {
            let path = self.element(node, key, "a path", |node| node.text().map(PathBuf::from))?;
            Some(self.find(path, node, key))
        });
        paths.unwrap_or_default()
    }

    fn find(&self, typed: PathBuf, node: &Node, key: &str) -> PathBuf {
        if is_cloud(&typed) && CLOUD_KEYS.contains(&key) {
            // It is looked for when the data is opened.
            if !has_cloud() && self.reader.paths == Paths::MustExist {
                let hint = "this program was built without cloud support; build with --features cloud";
                self.reject(node, key, "a file or folder on disk", hint);
            }
            return typed;
        }
        let beside = self.reader.document.folder.join(&typed);
        if typed.exists() || (!beside.exists() && self.reader.paths == Paths::MayBeMissing) {
            return typed;
        }
        if beside.exists() {
            return beside;
        }
        let [here, beside] = [absolute(&typed), absolute(&beside)];
        let tried = if here == beside { String::new() } else { format!(" nor {}", beside.display()) };
        let mut hint = format!("there is no {}{tried}", here.display());
        if let Some(published) = published::meant_by(&typed).filter(|_| matches!(key, "checkpoint" | "mae")) {
            hint += &format!("; {}", published.advice());
        }
        self.reject(node, key, "a file or folder that exists", &hint);
        typed
    }
}

/// The keys of data sets, which may be addresses.
const CLOUD_KEYS: [&str; 3] = ["train", "validation", "path"];

/// Without following links; the path need not exist. An address stays what it is.
fn absolute(path: &Path) -> PathBuf {
    if is_cloud(path) {
        return path.to_path_buf();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
