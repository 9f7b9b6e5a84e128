//! Unlabelled images for pre-training: all images below a folder and inside its `.tar` shards.
//!
//! Every file with an image extension counts, whatever its folder is called, except hidden files. Files are listed
//! once; their headers are read on demand, so a million images cost only their names. The loader reports unreadable
//! images by name ([`crate::loader::ErrorPolicy`]).

use std::path::{Path, PathBuf};

use crate::cloud::is_cloud;
use crate::error::DataError;
use crate::formats::files;
use crate::formats::intensity::read_image;
use crate::formats::memory::MemoryBudget;
use crate::formats::names::Names;
use crate::formats::place::FilePlace;
use crate::formats::tar_members;
use crate::sample::Sample;
use crate::sample::{SampleError, Samples};
use crate::source_options::SourceOptions;

/// All images below a folder.
#[derive(Debug)]
pub struct ImageTree {
    root: PathBuf,
    names: Names,
    /// Shards, each with the index of its first member; members come after the images that are files.
    shards: Vec<Shard>,
    members: Vec<(u64, u64)>,
    n_files: usize,
    options: SourceOptions,
    memory: MemoryBudget,
}

#[derive(Debug)]
struct Shard {
    /// Relative to the root.
    path: String,
    first_member: usize,
}

impl ImageTree {
    /// Lists a folder, or a single shard. Of the options, the intensity, the channels and the limit of pixels count.
    ///
    /// # Errors
    ///
    /// When it cannot be read, a shard is damaged, or there are no images.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        if is_cloud(path) {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "a tree of images".to_owned(),
                expected: "on disk".to_owned(),
                got: "an address in the cloud".to_owned(),
                fix: "of data in the cloud, shards with a .json beside each image can be read (data.source = \"labelled\")"
                    .to_owned(),
            });
        }
        let (root, files) = match path.is_file() {
            true => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (path.parent().unwrap_or(Path::new("")).to_path_buf(), vec![name])
            }
            false => (path.to_path_buf(), files::list_files(path)?),
        };
        let mut tree = Self {
            names: files.iter().filter(|name| files::is_image(name)).cloned().collect(),
            root,
            shards: Vec::new(),
            members: Vec::new(),
            n_files: 0,
            options: options.clone(),
            memory: MemoryBudget::new(options.max_pixels),
        };
        tree.n_files = tree.names.len();
        for shard in files.iter().filter(|name| files::has_extension(name, "tar")) {
            let archive = tree.root.join(shard);
            tree.shards.push(Shard { path: shard.clone(), first_member: tree.members.len() });
            let members = tar_members::list(&archive)?;
            for member in members.iter().filter(|member| files::is_image(&member.name)) {
                tree.members.push((member.at, member.len));
                tree.names.push(&format!("{}/{}", files::stem(shard), member.name));
            }
        }
        if tree.names.len() == 0 {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "a pre-training folder".to_owned(),
                expected: "images (jpg, png, tif, bmp, webp) at any depth, or .tar shards of them".to_owned(),
                got: format!("{} files, none of them an image", files.len()),
                fix: "give the folder that contains them; unpack .zip and .gz first".to_owned(),
            });
        }
        Ok(tree)
    }

    /// Number of images; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one cannot be opened")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Path relative to the root; for a member of a shard, it starts with the shard's stem.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index)
    }

    pub(crate) fn place(&self, index: usize) -> FilePlace {
        let Some(member) = index.checked_sub(self.n_files) else {
            return FilePlace::Path(self.root.join(self.name(index)));
        };
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first_member <= member) - 1];
        let (at, len) = self.members[member];
        let name = self.name(index);
        let inside = name.strip_prefix(files::stem(&shard.path)).unwrap_or(name).trim_start_matches('/');
        FilePlace::Within { archive: self.root.join(&shard.path), member: inside.to_owned(), at, len }
    }
}

impl Samples for ImageTree {
    fn n_samples(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let (_, image) = read_image(&self.place(index), self.options.read_rule(&self.memory))?;
        Ok(Sample { name: self.name(index).to_owned(), image, objects: Vec::new(), ignore: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    fn uniform(value: u8) -> RgbImage {
        RgbImage::from_pixel(5, 4, image::Rgb([value; 3]))
    }

    #[test]
    fn files_at_any_depth_and_in_shards_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/b c")).expect("made");
        for (name, value) in [("a/b c/deep.png", 1), ("top.bmp", 2), ("shard.png", 3)] {
            uniform(value).save(at(name)).expect("written");
        }
        std::fs::write(at("a/notes.txt"), "no image").expect("written");
        std::fs::write(at(".hidden.png"), "no image").expect("written");
        std::fs::write(at("a/broken.jpg"), "no image").expect("written");
        let mut shard = tar::Builder::new(std::fs::File::create(at("a/x.tar")).expect("made"));
        shard.append_path_with_name(at("shard.png"), "in/one.png").expect("added");
        shard.append_path_with_name(at("a/notes.txt"), "notes.txt").expect("added");
        shard.append_path_with_name(at("top.bmp"), "two.bmp").expect("added");
        shard.finish().expect("written");
        std::fs::remove_file(at("shard.png")).expect("removed");

        let tree = ImageTree::open(folder.path(), &SourceOptions::default()).expect("opens");
        let names: Vec<&str> = (0..tree.len()).map(|index| tree.name(index)).collect();
        assert_eq!(names, ["a/b c/deep.png", "a/broken.jpg", "top.bmp", "a/x/in/one.png", "a/x/two.bmp"]);
        let value = |index: usize| tree.sample(index).expect("sound").image.get_pixel(0, 0)[0];
        assert_eq!([value(0), value(2), value(3), value(4)], [1, 2, 3, 2]);
        let error = tree.sample(1).expect_err("no image").to_string();
        assert!(error.contains("broken.jpg"), "{error}");

        let one = ImageTree::open(&at("a/x.tar"), &SourceOptions::default()).expect("opens");
        assert_eq!((one.len(), one.name(1)), (2, "x/two.bmp"));
        std::fs::create_dir(at("empty")).expect("made");
        let error = ImageTree::open(&at("empty"), &SourceOptions::default()).expect_err("empty").to_string();
        assert!(error.contains("empty") && error.contains("none of them an image"), "{error}");
    }
}
