//! The images of `auto`: files, folders, shards and patterns, each with the name under which its masks are written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use sam_data::loader::Samples;
use sam_data::{ImageTree, SourceOptions, read_image_file};
use sam_image::RgbImage;

use crate::mask_files::harmless;

/// One image.
pub(crate) struct Input {
    /// Relative to its folder, with `/`.
    pub(crate) name: String,
    /// The name without extension, or with it where two images differ by nothing else.
    pub(crate) stem: String,
    place: Place,
}

enum Place {
    File(PathBuf),
    InTree { tree: Arc<ImageTree>, index: usize, path: PathBuf },
}

impl Input {
    pub(crate) fn read(&self, options: &SourceOptions) -> anyhow::Result<RgbImage> {
        match &self.place {
            Place::File(path) => Ok(read_image_file(path, options)?),
            Place::InTree { tree, index, .. } => match tree.sample(*index) {
                Ok(sample) => Ok(sample.image),
                Err(error) => Err(anyhow!("{error}")),
            },
        }
    }

    /// Size of its file, by which a changed image is recognised; `None` inside of a shard.
    pub(crate) fn n_bytes(&self) -> Option<u64> {
        let (Place::File(path) | Place::InTree { path, .. }) = &self.place;
        path.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len())
    }

    fn path(&self) -> &Path {
        let (Place::File(path) | Place::InTree { path, .. }) = &self.place;
        path
    }
}

/// Lists the images of all arguments, in their order. Those inside of `out` are earlier results and do not count.
pub(crate) fn list(arguments: &[PathBuf], out: &Path, options: &SourceOptions) -> anyhow::Result<Vec<Input>> {
    let out = std::fs::canonicalize(out).ok();
    let mut inputs = Vec::new();
    let mut files = HashSet::new();
    for argument in arguments {
        for path in expanded(argument)? {
            if path.is_dir() || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar")) {
                inputs.extend(of_tree(&path, options)?);
            } else if files.insert(path.clone()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                inputs.push(Input { name, stem: String::new(), place: Place::File(path) });
            }
        }
    }
    inputs.retain(|input| {
        let is_result = |out: &PathBuf| std::fs::canonicalize(input.path()).is_ok_and(|path| path.starts_with(out));
        !out.as_ref().is_some_and(is_result)
    });
    if inputs.is_empty() {
        bail!("there is no image in {}", shown(arguments));
    }
    name_apart(&mut inputs)?;
    Ok(inputs)
}

fn shown(arguments: &[PathBuf]) -> String {
    arguments.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A path itself, or the paths that a pattern matches. A file whose name looks like a pattern is itself.
fn expanded(argument: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = argument.to_string_lossy();
    if argument.exists() || !text.contains(['*', '?', '[']) {
        // That it is missing is the error of whoever reads it, unless there is nothing else to read.
        if !argument.exists() {
            bail!("{}: there is no such file or folder", argument.display());
        }
        return Ok(vec![argument.to_owned()]);
    }
    let matches = glob::glob(&text).with_context(|| format!("{text} is not a pattern"))?;
    let mut paths = matches.collect::<Result<Vec<_>, _>>().with_context(|| format!("listing {text}"))?;
    paths.sort();
    if paths.is_empty() {
        bail!("no file matches {text}");
    }
    Ok(paths)
}

fn of_tree(root: &Path, options: &SourceOptions) -> anyhow::Result<Vec<Input>> {
    let tree = Arc::new(ImageTree::open(root, options)?);
    let input = |index| {
        let name = tree.name(index).to_owned();
        let path = root.join(&name);
        Input { name, stem: String::new(), place: Place::InTree { tree: Arc::clone(&tree), index, path } }
    };
    Ok((0..tree.len()).map(input).collect())
}

/// Gives every image a name and a stem of its own.
fn name_apart(inputs: &mut [Input]) -> anyhow::Result<()> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for input in inputs.iter_mut() {
        input.name = harmless(Path::new(&input.name));
        *counts.entry(input.name.clone()).or_default() += 1;
    }
    for input in inputs.iter_mut().filter(|input| counts[&input.name] > 1) {
        input.name = harmless(input.path());
    }
    let mut seen: BTreeMap<&str, &Path> = BTreeMap::new();
    for input in inputs.iter() {
        if let Some(other) = seen.insert(&input.name, input.path()) {
            bail!("{} and {} have the same name; give them one at a time", other.display(), input.path().display());
        }
    }
    let stem = |name: &str| {
        let without = Path::new(name).with_extension("");
        without.to_string_lossy().replace('\\', "/")
    };
    let mut stems: HashMap<String, usize> = HashMap::new();
    inputs.iter().for_each(|input| *stems.entry(stem(&input.name)).or_default() += 1);
    let folders: HashSet<String> = inputs.iter().flat_map(|input| folders_of(&input.name)).collect();
    for input in inputs {
        let short = stem(&input.name);
        // Nor may the masks of an image take the folder of others.
        input.stem = if stems[&short] > 1 || folders.contains(&short) { input.name.clone() } else { short };
    }
    Ok(())
}

/// All folders above a name.
fn folders_of(name: &str) -> Vec<String> {
    name.match_indices('/').map(|(at, _)| name[..at].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str], folder: &Path) -> anyhow::Result<Vec<[String; 2]>> {
        let arguments: Vec<PathBuf> = arguments.iter().map(|argument| folder.join(argument)).collect();
        let inputs = list(&arguments, &folder.join("out"), &SourceOptions::default())?;
        Ok(inputs.into_iter().map(|input| [input.name, input.stem]).collect())
    }

    #[test]
    fn files_folders_and_patterns_have_names_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["a/deep", "b", "out/overlays"] {
            std::fs::create_dir_all(at(name)).expect("made");
        }
        for name in ["a/1.png", "a/deep/2.jpg", "a/deep.png", "a/1.jpg", "b/1.png", "b/[x].png", "out/overlays/1.png"] {
            std::fs::write(at(name), "").expect("written");
        }
        let pair = |name: &str, stem: &str| [name.to_owned(), stem.to_owned()];
        let of = |arguments: &[&str]| names(arguments, folder.path()).expect("listed");
        assert_eq!(
            of(&["a"]),
            [
                pair("1.jpg", "1.jpg"),
                pair("1.png", "1.png"),
                pair("deep.png", "deep.png"),
                pair("deep/2.jpg", "deep/2")
            ]
        );
        assert_eq!(of(&["a/1.png", "a/1.png", "b/[x].png"]), [pair("1.png", "1"), pair("[x].png", "[x]")]);
        assert_eq!(of(&["*/1.png"]).len(), 2, "equal names become paths");
        assert!(of(&["*/1.png"])[0][0].ends_with("a/1.png"));
        // Earlier results are no input.
        assert_eq!(of(&["."]).len(), 6);
        for (wrong, words) in [("c", "no such file"), ("*.gif", "no file matches"), ("out", "no image")] {
            let error = names(&[wrong], folder.path()).expect_err("nothing").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
