//! SA-1B: one JSON file per image, in folders or inside `.tar` shards that are read in place.
//!
//! Source: the data set's README and `scripts/amg.py` of segment_anything. There are two variants: the dict with
//! `image` and `annotations`, and the bare list written by `amg.py --convert-to-rle` (no `image`, no ids). SA-1B has no
//! classes; a key of our own, `class` (text or null), beside the mask holds one in annotation projects and conversions.
//!
//! Differences from the reference: the file's boxes are not read (they come from inclusive indices and are one pixel
//! short); run lengths must fill the image.
//!
//! Eleven million images are listed once: a stem costs its bytes plus eight, a member of a shard 28 bytes more. Beyond
//! that, only the listing of one folder or shard is held. Their files are not read before they are needed: a few, spread
//! evenly, tell whether there are classes, and only then all are read for their names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use crate::cloud::{CloudShards, is_cloud};
use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files::{self, Folder};
use crate::formats::names::Names;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::sa1b_json::{classes_in, read_json};
use crate::formats::tar_members::{self, TarMember, damaged};
use crate::formats::{Annotated, FormatReader, Listing};
use crate::shard_order::ShardOrder;
use crate::source_options::SourceOptions;

/// Files that tell whether there are classes. The files of a data set have one author, so a small sample suffices; a class in a
/// file of a data set that seemed to have none is an error of that file.
const FILES_PROBED: usize = 256;

/// As [`FILES_PROBED`], where each file is a request.
const FILES_PROBED_IN_CLOUD: usize = 32;

/// Folders and archives of pairs.
#[derive(Debug, Default)]
pub(crate) struct Sa1b {
    shards: Vec<Shard>,
    /// Index of the first image of each shard.
    starts: Vec<usize>,
    /// Names of images within their shard.
    names: Names,
    /// Byte ranges of archive members; empty for folders.
    members: Vec<Member>,
    /// The archives, where they are in the cloud.
    cloud: Option<Cloud>,
    classes: Vec<String>,
}

/// Archives in the cloud. All shards are such, then.
#[derive(Debug)]
struct Cloud {
    archives: Arc<CloudShards>,
    /// Which of them each shard is: not all, where a part of a split is read.
    wanted: Vec<usize>,
    order: Arc<ShardOrder>,
}

#[derive(Debug)]
struct Shard {
    /// The folder of images, or the archive.
    path: PathBuf,
    /// Folder of the JSON files, if not beside the images.
    jsons: Option<PathBuf>,
    /// Prefix of names.
    prefix: String,
    split: Option<&'static str>,
    /// Index of its first member, for an archive.
    first_member: Option<usize>,
}

/// An image and its JSON inside an archive.
#[derive(Clone, Copy, Debug)]
struct Member {
    image_at: u64,
    json_at: u64,
    image_len: u32,
    json_len: u32,
}

impl Sa1b {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        if is_cloud(path) {
            return Self::open_cloud(path, options, listing);
        }
        let mut all = Self::default();
        if path.is_file() && files::has_extension(&path.to_string_lossy(), "tar") {
            all.add_archive(path, String::new(), None, listing)?;
        } else if path.is_file() {
            // A single JSON stands for its folder.
            all.add_folder(path.parent().unwrap_or(Path::new("")), None, String::new(), None, listing)?;
        } else if let pairs = files::folder_pairs(path)?
            && !pairs.is_empty()
        {
            let is_one = pairs.len() == 1;
            for pair in pairs {
                let split = pair.split.as_deref().and_then(files::split_name);
                if options.split.is_none() || options.split.as_deref() == split {
                    let prefix = split.filter(|_| !is_one).map_or(String::new(), |split| format!("{split}/"));
                    all.add_folder(&pair.images, Some(pair.labels), prefix, split, listing)?;
                }
            }
        } else {
            all.add_tree(path, "", options, listing, 3)?;
        }
        all.starts.push(all.names.len());
        all.classes = all.find_classes(options);
        Ok(all)
    }

    /// Opens shards in the cloud, under the names that a copy on disk would have.
    fn open_cloud(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let archives = CloudShards::open(path, options)?;
        let is_one = path.to_str().is_some_and(|path| files::has_extension(path.trim_end_matches('/'), "tar"));
        let split_of = |shard: &usize| match is_one {
            true => None,
            false => archives.name(*shard).split('/').find_map(files::split_name),
        };
        let is_wanted = |shard: &usize| options.split.is_none() || options.split.as_deref() == split_of(shard);
        let wanted: Vec<usize> = (0..archives.len()).filter(is_wanted).collect();
        let mut all = Self::default();
        archives.each_members(&wanted, |shard, members| {
            let prefix = if is_one { String::new() } else { format!("{}/", files::stem(archives.name(shard))) };
            all.add_members(Path::new(&archives.address(shard)), members, prefix, split_of(&shard), listing)
        })?;
        all.starts.push(all.names.len());
        if all.names.len() == 0 {
            return Ok(all);
        }
        let pooled = archives.pooled(all.names.len());
        listing.notes.push(archives.note(pooled));
        let order = Arc::new(ShardOrder::new(all.starts.windows(2).map(|ends| ends[1] - ends[0]), pooled));
        all.cloud = Some(Cloud { archives: Arc::new(archives), wanted, order });
        all.classes = all.classes_in_cloud(path, options)?;
        Ok(all)
    }

    /// Those of the options: files in the cloud are not all read for their classes.
    fn classes_in_cloud(&self, path: &Path, options: &SourceOptions) -> Result<Vec<String>, DataError> {
        let (n, probed) = (self.len(), self.len().min(FILES_PROBED_IN_CLOUD));
        let read = |at: usize| self.read_file(at * n / probed).map(|bytes| classes_in(&bytes));
        let found: Vec<_> = (0..probed).into_par_iter().map(read).collect();
        let mut classes = BTreeSet::new();
        for found in found {
            match found {
                Ok(found) => classes.extend(found),
                Err(error) if error.is_outage() => return Err(error),
                // Reported when its image is read.
                Err(_) => {}
            }
        }
        match classes.into_iter().find(|class| !options.classes.contains(class)) {
            None => Ok(options.classes.clone()),
            Some(class) => Err(DataError::Option {
                key: "data.classes",
                expected: format!("all classes of {}, as its files are not all read for them", path.display()),
                got: format!("none called \"{class}\""),
            }),
        }
    }

    /// Those of the options, then the others in the order of their names. Files that cannot be read are reported when their
    /// images are.
    fn find_classes(&self, options: &SourceOptions) -> Vec<String> {
        let classes_of = |index: usize| -> BTreeSet<String> {
            self.read_file(index).map(|bytes| classes_in(&bytes)).unwrap_or_default()
        };
        let n = self.len();
        let probed = n.min(FILES_PROBED);
        let is_there = (0..probed).into_par_iter().any(|at| !classes_of(at * n / probed).is_empty());
        let mut classes = options.classes.clone();
        if is_there {
            let found = (0..n).into_par_iter().map(classes_of).reduce(BTreeSet::new, |mut all, some| {
                all.extend(some);
                all
            });
            classes.extend(found.into_iter().filter(|class| !options.classes.contains(class)));
        }
        classes
    }

    /// The bytes of an image's JSON, within the limit of text files.
    fn read_file(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let place = self.json_place(index);
        sam_files::require_at_most(place.n_bytes()?, sam_files::MAX_TEXT_BYTES)
            .map_err(|error| DataError::io(Path::new(&place.name()), error))?;
        place.read()
    }

    /// Adds folders of pairs and archives, recursively.
    fn add_tree(
        &mut self,
        root: &Path,
        below: &str,
        options: &SourceOptions,
        listing: &mut Listing,
        depth: usize,
    ) -> Result<(), DataError> {
        let at = root.join(below);
        let folder = Folder::list(&at)?;
        let split = below.split('/').find_map(files::split_name);
        let is_wanted = options.split.is_none() || options.split.as_deref() == split;
        let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
        if is_wanted && folder.with_extension("json").next().is_some() {
            self.add_listed(&at, None, prefix.clone(), split, &folder.files, &folder.files, listing);
        }
        for tar in folder.with_extension("tar") {
            let split = split.or_else(|| files::split_name(tar));
            if options.split.is_none() || options.split.as_deref() == split {
                self.add_archive(&at.join(tar), format!("{prefix}{}/", files::stem(tar)), split, listing)?;
            }
        }
        let folders = folder.folders;
        drop(folder.files);
        for child in folders {
            if depth > 0 {
                self.add_tree(root, &format!("{prefix}{child}"), options, listing, depth - 1)?;
            }
        }
        Ok(())
    }

    fn add_folder(
        &mut self,
        images: &Path,
        jsons: Option<PathBuf>,
        prefix: String,
        split: Option<&'static str>,
        listing: &mut Listing,
    ) -> Result<(), DataError> {
        let image_files = files::list_files(images)?;
        let json_files = match &jsons {
            Some(folder) => files::list_files(folder)?,
            None => image_files.clone(),
        };
        self.add_listed(images, jsons, prefix, split, &image_files, &json_files, listing);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one private call with what was just listed")]
    fn add_listed(
        &mut self,
        images: &Path,
        jsons: Option<PathBuf>,
        prefix: String,
        split: Option<&'static str>,
        image_files: &[String],
        json_files: &[String],
        listing: &mut Listing,
    ) {
        let entry = |name: &String| TarMember { name: name.clone(), at: 0, len: 0 };
        let image_entries = image_files.iter().filter(|name| files::is_image(name)).map(entry).collect();
        let json_entries = json_files.iter().filter(|name| files::has_extension(name, "json")).map(entry).collect();
        let shown = images.display().to_string();
        self.starts.push(self.names.len());
        self.shards.push(Shard { path: images.to_path_buf(), jsons, prefix, split, first_member: None });
        for (image, _) in paired(image_entries, json_entries, &shown, &mut listing.findings) {
            self.names.push(&image.name);
        }
    }

    /// Reads the headers of an archive once; its contents stay in place.
    fn add_archive(
        &mut self,
        path: &Path,
        prefix: String,
        split: Option<&'static str>,
        listing: &mut Listing,
    ) -> Result<(), DataError> {
        self.add_members(path, tar_members::list(path)?, prefix, split, listing)
    }

    fn add_members(
        &mut self,
        path: &Path,
        members: Vec<TarMember>,
        prefix: String,
        split: Option<&'static str>,
        listing: &mut Listing,
    ) -> Result<(), DataError> {
        let (mut images, mut jsons) = (Vec::new(), Vec::new());
        for member in members {
            if files::is_image(&member.name) {
                images.push(member);
            } else if files::has_extension(&member.name, "json") {
                jsons.push(member);
            }
        }
        if images.is_empty() {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "an SA-1B shard".to_owned(),
                expected: "a plain .tar of images with a .json each".to_owned(),
                got: "no image".to_owned(),
                fix: "unpack .gz first: compressed archives cannot be read in place".to_owned(),
            });
        }
        self.starts.push(self.names.len());
        self.shards.push(Shard {
            path: path.to_path_buf(),
            jsons: None,
            prefix,
            split,
            first_member: Some(self.members.len()),
        });
        let shown = path.display().to_string();
        for (image, json) in paired(images, jsons, &shown, &mut listing.findings) {
            let len = |entry: &TarMember| {
                u32::try_from(entry.len).map_err(|_| damaged(path, &format!("{} of {} bytes", entry.name, entry.len)))
            };
            self.members.push(Member {
                image_at: image.at,
                json_at: json.at,
                image_len: len(&image)?,
                json_len: len(&json)?,
            });
            self.names.push(&image.name);
        }
        Ok(())
    }

    fn shard_of(&self, index: usize) -> usize {
        assert!(index < self.len(), "image {index} of {}", self.len());
        self.starts.partition_point(|&start| start <= index) - 1
    }

    fn locate(&self, index: usize) -> (&Shard, usize) {
        let shard = self.shard_of(index);
        (&self.shards[shard], index - self.starts[shard])
    }

    /// A member of the archive of an image.
    fn within(&self, index: usize, archive: &Path, member: String, at: u64, len: u32) -> FilePlace {
        let len = u64::from(len);
        match &self.cloud {
            Some(cloud) => {
                let shard = cloud.wanted[self.shard_of(index)];
                FilePlace::Cloud { shards: Arc::clone(&cloud.archives), shard, member, at, len }
            }
            None => FilePlace::Within { archive: archive.to_path_buf(), member, at, len },
        }
    }

    fn json_place(&self, index: usize) -> FilePlace {
        let (shard, at) = self.locate(index);
        let name = format!("{}.json", files::stem(self.names.get(index)));
        match shard.first_member {
            Some(first) => {
                let member = self.members[first + at];
                self.within(index, &shard.path, name, member.json_at, member.json_len)
            }
            None => FilePlace::Path(shard.jsons.as_ref().unwrap_or(&shard.path).join(name)),
        }
    }
}

impl FormatReader for Sa1b {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn name(&self, index: usize) -> String {
        format!("{}{}", self.locate(index).0.prefix, self.names.get(index))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.locate(index).0.split
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let (shard, at) = self.locate(index);
        let name = self.names.get(index);
        Ok(match shard.first_member {
            Some(first) => {
                let member = self.members[first + at];
                self.within(index, &shard.path, name.to_owned(), member.image_at, member.image_len)
            }
            None => FilePlace::Path(shard.path.join(name)),
        })
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        match self.json_place(index) {
            FilePlace::Path(path) => vec![path],
            FilePlace::Within { .. } | FilePlace::Cloud { .. } | FilePlace::Memory { .. } => Vec::new(),
        }
    }

    fn shard_order(&self) -> Option<Arc<ShardOrder>> {
        self.cloud.as_ref().map(|cloud| Arc::clone(&cloud.order))
    }

    fn announce(&self, now: &[usize], next: &[usize]) {
        if let Some(cloud) = &self.cloud {
            let archives =
                |images: &[usize]| Vec::from_iter(images.iter().map(|&image| cloud.wanted[self.shard_of(image)]));
            cloud.archives.announce(&archives(now), &archives(next));
        }
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let bytes = self.read_file(index)?;
        Ok(read_json(&bytes, &self.json_place(index).name(), header.upright_hw(), &self.classes))
    }
}

/// Pairs images with the JSON of their stem; both lists are sorted by name.
fn paired(
    images: Vec<TarMember>,
    jsons: Vec<TarMember>,
    shown: &str,
    findings: &mut Vec<Finding>,
) -> Vec<(TarMember, TarMember)> {
    let mut jsons: std::collections::BTreeMap<String, TarMember> =
        jsons.into_iter().map(|json| (files::stem(&json.name).to_owned(), json)).collect();
    let mut pairs: Vec<(TarMember, TarMember)> = Vec::with_capacity(images.len());
    for image in images {
        match jsons.remove(files::stem(&image.name)) {
            Some(json) => pairs.push((image, json)),
            None if pairs.last().is_some_and(|(last, _)| files::stem(&last.name) == files::stem(&image.name)) => {
                let place = format!("{shown}, {}", image.name);
                findings.push(Finding::new(ProblemKind::ImageListedTwice, place, "another image has the same stem"));
            }
            None => {
                let detail = format!("there is no {}.json beside it", files::stem(&image.name));
                findings.push(Finding::new(ProblemKind::ImageUnpaired, format!("{shown}, {}", image.name), detail));
            }
        }
    }
    for json in jsons.into_values() {
        findings.push(Finding::new(
            ProblemKind::LabelUnpaired,
            format!("{shown}, {}", json.name),
            "there is no image with its stem beside it",
        ));
    }
    pairs
}
