//! Files of masks and the pictures beside them, as `auto`, `predict` and `eval` write them.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use sam_files::write_atomically_with;
use sam_image::{ImageError, Rle};
use serde::{Deserialize, Serialize};

/// Longer sides of overlays are reduced to it: they are for looking at.
pub(crate) const OVERLAY_LONGEST_PX: usize = 2048;

/// COCO's compressed run lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Segmentation {
    /// `[height, width]`.
    pub(crate) size: [usize; 2],
    pub(crate) counts: String,
}

impl Segmentation {
    pub(crate) fn of(rle: &Rle) -> Self {
        Self { size: rle.size_hw(), counts: rle.to_coco_string() }
    }
}

/// Only what stays below a folder, with `/`: names in shards and in files of prompts are from others.
pub(crate) fn harmless(path: &Path) -> String {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A path whose folder exists.
pub(crate) fn with_folder(path: PathBuf) -> anyhow::Result<PathBuf> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    Ok(path)
}

/// Writes a picture as a whole, and its folder before.
pub(crate) fn write_image(path: PathBuf, save: impl FnOnce(&Path) -> Result<(), ImageError>) -> anyhow::Result<()> {
    let path = with_folder(path)?;
    let io = |error: std::io::Error| anyhow!(error).context(format!("writing {}", path.display()));
    write_atomically_with(&path, io, |temporary| Ok(save(temporary)?)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_their_folder() {
        assert_eq!(harmless(Path::new("/etc/../a/b.png")), "etc/a/b.png");
    }
}
