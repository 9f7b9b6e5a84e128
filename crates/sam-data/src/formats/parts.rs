//! Parts of a data set whose labels are gone: images lie in the folder of a part, and nothing says what is on them. The other
//! parts can be read, so without this nobody would notice.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::Listing;
use crate::formats::files::{Folder, MAX_DEPTH, any_file, is_image, split_name};

/// The part that is published without labels by design, for competitions.
const WITHOUT_BY_DESIGN: &str = "test";

/// What is known of the parts of a data set.
pub(crate) struct Parts<'a> {
    /// Parts that have labels.
    pub(crate) labelled: Vec<&'a str>,
    /// The only part that is read, if one was asked for.
    pub(crate) wanted: Option<&'a str>,
    /// Where labels were looked for: "a folder such as masks or labels beside it".
    pub(crate) labels: &'a str,
}

impl Parts<'_> {
    /// Reports every part below `root` that holds images and has no labels, while another part has some: an error, or a note for
    /// a part that is often published so.
    pub(crate) fn report(&self, root: &Path, listing: &mut Listing) -> Result<(), DataError> {
        if self.labelled.is_empty() {
            return Ok(());
        }
        for (folder, part) in folders_of_parts(root)? {
            let is_other = self.wanted.is_some_and(|wanted| wanted != part);
            if is_other || self.labelled.contains(&part) {
                continue;
            }
            let shown = folder.display();
            if part == WITHOUT_BY_DESIGN {
                listing.notes.push(format!("the part {part} has images and no labels, and is not read: {shown}"));
                continue;
            }
            let labelled = self.labelled.join(", ");
            let detail =
                format!("the part {part} has images but {}, unlike {labelled}; its images are not read", self.labels);
            listing.findings.push(Finding::new(ProblemKind::ImageUnpaired, shown.to_string(), detail));
        }
        Ok(())
    }
}

/// The folders `train`, `val` or `test` below a folder that hold images at any depth.
fn folders_of_parts(root: &Path) -> Result<Vec<(PathBuf, &'static str)>, DataError> {
    let mut found = Vec::new();
    for child in Folder::list(root)?.folders {
        let Some(part) = split_name(&child) else { continue };
        let at = root.join(&child);
        if any_file(&at, MAX_DEPTH, &|name| is_image(name))? {
            found.push((at, part));
        }
    }
    Ok(found)
}
