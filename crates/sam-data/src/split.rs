//! Splits of a data set into training, validation and test images.
//!
//! The part of an image is given by the data set, or follows from a hash of the image's group and the seed. The hash
//! does not depend on other images, so added files never move existing ones, and a larger fraction only adds to a part.
//! Only where a small data set leaves a part empty, the part gets the group whose hash is nearest.
//! Groups stay together: slices of one patient, frames of one video. Splits are by image, never by patch.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::random::{GOLDEN, fnv1a, mix64};
use crate::source::Source;

/// The group of an image; groups stay together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKey {
    /// Each image is its own group.
    #[default]
    Image,
    /// Images in the same folder.
    Folder,
    /// Images with the same file name up to this text: `_` keeps `patient7_slice1.png` and `patient7_slice2.png`
    /// together.
    Prefix(String),
    /// Images for which this pattern captures the same text (its first group, or the whole match).
    Regex(String),
}

/// A split by fractions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitRule {
    /// Fraction of groups for validation.
    pub val: f64,
    /// Fraction of groups for testing; may be 0.
    pub test: f64,
    /// Random seed of the split.
    pub seed: u64,
    /// The group of an image; groups stay together.
    pub group: GroupKey,
}

impl Default for SplitRule {
    fn default() -> Self {
        Self { val: 0.1, test: 0.0, seed: 0, group: GroupKey::Image }
    }
}

impl SplitRule {
    fn validate(&self) -> Result<(), DataError> {
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        if is_share(self.val) && is_share(self.test) && self.val + self.test < 1.0 {
            return Ok(());
        }
        Err(DataError::Option {
            key: "split.val and split.test",
            expected: "at least 0 and together below 1".to_owned(),
            got: format!("{} and {}", self.val, self.test),
        })
    }
}

/// The parts of a split, as ascending indices into a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Training images.
    pub train: Vec<usize>,
    /// Validation images, for selecting checkpoints.
    pub val: Vec<usize>,
    /// Test images, for the final result.
    pub test: Vec<usize>,
}

/// Where a suggested split comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitOrigin {
    /// The parts are the data set's own.
    Given,
    /// Validation images are a fraction of the training images.
    Fractions,
}

/// A split by image names, as saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitFile {
    train: Vec<String>,
    val: Vec<String>,
    #[serde(default)]
    test: Vec<String>,
}

impl Split {
    /// Returns the data set's own split.
    ///
    /// # Errors
    ///
    /// When an image is in no part, or the training part is empty.
    pub fn given(source: &Source) -> Result<Self, DataError> {
        let mut split = Self::default();
        for index in 0..source.len() {
            match source.given_split(index) {
                Some("train") => split.train.push(index),
                Some("val") => split.val.push(index),
                Some("test") => split.test.push(index),
                other => {
                    return Err(DataError::Content {
                        path: source.root().to_path_buf(),
                        what: format!("the part of {}", source.name(index)),
                        expected: "train, val or test".to_owned(),
                        got: other.unwrap_or("none").to_owned(),
                        fix: "split by fractions, or put images into folders train, val and test".to_owned(),
                    });
                }
            }
        }
        split.not_empty("train", &split.train, source.len(), source.len())?;
        Ok(split)
    }

    /// A split by fractions.
    ///
    /// # Errors
    ///
    /// When the rule is invalid, a name has no group, there are fewer groups than parts, or the data set has parts of its
    /// own: a fraction of both would train on images that are meant for validation.
    pub fn by_rule(source: &Source, rule: &SplitRule) -> Result<Self, DataError> {
        rule.validate()?;
        let parts = Parts::of(source);
        if parts.n_named() > 1 {
            return Err(DataError::OwnParts { path: source.root().to_path_buf(), parts: parts.to_string() });
        }
        let names: Vec<String> = (0..source.len()).map(|index| source.name(index)).collect();
        Self::of_names(&names, rule)
    }

    /// The split that a data set suggests: its own parts if it has images to train and to validate on; otherwise fractions
    /// of its training images (of all, if it has no parts). Images of its test part are not used.
    ///
    /// # Errors
    ///
    /// As [`Split::by_rule`].
    pub fn suggested(source: &Source, rule: &SplitRule) -> Result<(Self, SplitOrigin), DataError> {
        let Parts { train, val, test, unnamed } = Parts::of(source);
        if unnamed.is_empty() && !train.is_empty() && !val.is_empty() {
            return Ok((Self { train, val, test }, SplitOrigin::Given));
        }
        // Without images to train on, the names of the parts mean something else.
        let (pool, test) = if train.is_empty() { (Vec::from_iter(0..source.len()), Vec::new()) } else { (train, test) };
        let names: Vec<String> = pool.iter().map(|&index| source.name(index)).collect();
        let split = Self::of_names(&names, rule)?;
        let of_pool = |part: Vec<usize>| part.into_iter().map(|at| pool[at]).collect::<Vec<_>>();
        let test = if split.test.is_empty() { test } else { of_pool(split.test) };
        Ok((Self { train: of_pool(split.train), val: of_pool(split.val), test }, SplitOrigin::Fractions))
    }

    /// A split of names by fractions.
    ///
    /// # Errors
    ///
    /// When the rule is invalid, a name has no group, or there are fewer groups than parts.
    pub fn of_names(names: &[String], rule: &SplitRule) -> Result<Self, DataError> {
        rule.validate()?;
        let pattern = match &rule.group {
            GroupKey::Regex(pattern) => Some(regex_lite::Regex::new(pattern).map_err(|error| DataError::Option {
                key: "split.group.regex",
                expected: format!("a regular expression ({error})"),
                got: pattern.clone(),
            })?),
            _ => None,
        };
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let group = group_of(name, &rule.group, pattern.as_ref())?;
            groups.entry(hash(rule.seed, group)).or_default().push(index);
        }
        let mut split = Self::default();
        let ends = part_ends(&Vec::from_iter(groups.keys().copied()), rule);
        for (at, indices) in groups.values().enumerate() {
            let part = match at {
                at if at < ends[0] => &mut split.test,
                at if at < ends[1] => &mut split.val,
                _ => &mut split.train,
            };
            part.extend(indices);
        }
        for part in [&mut split.train, &mut split.val, &mut split.test] {
            part.sort_unstable();
        }
        split.not_empty("train", &split.train, names.len(), groups.len())?;
        if rule.val > 0.0 {
            split.not_empty("val", &split.val, names.len(), groups.len())?;
        }
        if rule.test > 0.0 {
            split.not_empty("test", &split.test, names.len(), groups.len())?;
        }
        Ok(split)
    }

    fn not_empty(&self, part: &str, indices: &[usize], n_images: usize, n_groups: usize) -> Result<(), DataError> {
        if indices.is_empty() {
            return Err(DataError::EmptySplit { part: part.to_owned(), n_images, n_groups });
        }
        Ok(())
    }

    /// Saves the image names of each part as JSON.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, source: &Source, path: &Path) -> Result<(), DataError> {
        let names = |indices: &[usize]| indices.iter().map(|&index| source.name(index)).collect();
        let file = SplitFile { train: names(&self.train), val: names(&self.val), test: names(&self.test) };
        let text = serde_json::to_vec_pretty(&file).map_err(|source| DataError::Json {
            path: path.to_path_buf(),
            what: "split",
            source,
        })?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error))?;
        }
        sam_files::write_atomically(path, text).map_err(|error| DataError::io(path, error))?;
        Ok(())
    }

    /// Loads a split saved by [`Split::save`]. Images in no part are added to training, so that new files are used.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or names an image that the source does not have.
    pub fn load(source: &Source, path: &Path) -> Result<Self, DataError> {
        let bytes =
            sam_files::read_regular(path, sam_files::MAX_TEXT_BYTES).map_err(|error| DataError::io(path, error))?;
        let file: SplitFile = serde_json::from_slice(&bytes).map_err(|source| DataError::Json {
            path: path.to_path_buf(),
            what: "split",
            source,
        })?;
        let mut index_of: HashMap<String, usize> = (0..source.len()).map(|index| (source.name(index), index)).collect();
        let mut split = Self::default();
        for (names, indices) in
            [(file.train, &mut split.train), (file.val, &mut split.val), (file.test, &mut split.test)]
        {
            for name in names {
                let Some(index) = index_of.remove(&name) else {
                    return Err(DataError::Content {
                        path: path.to_path_buf(),
                        what: "each name".to_owned(),
                        expected: format!("an image of {}, once", source.root().display()),
                        got: name,
                        fix: "split again, or restore the image".to_owned(),
                    });
                };
                indices.push(index);
            }
        }
        split.train.extend(index_of.into_values());
        for indices in [&mut split.train, &mut split.val, &mut split.test] {
            indices.sort_unstable();
        }
        Ok(split)
    }
}

/// Where the test part and the validation part end in the ascending hashes of all groups. A part that should have images has
/// at least one group, if there are enough.
fn part_ends(hashes: &[u64], rule: &SplitRule) -> [usize; 2] {
    // An f64 holds 53 bits.
    let share = |hash: u64| (hash >> 11) as f64 / (1u64 << 53) as f64;
    let below = |end: f64| hashes.partition_point(|&hash| share(hash) < end);
    let [at_least_test, at_least_val] = [rule.test, rule.val].map(|part| usize::from(part > 0.0));
    if hashes.len() < 1 + at_least_test + at_least_val {
        return [below(rule.test), below(rule.test + rule.val)];
    }
    let test = below(rule.test).clamp(at_least_test, hashes.len() - 1 - at_least_val);
    let val = below(rule.test + rule.val).clamp(test + at_least_val, hashes.len() - 1);
    [test, val]
}

/// The images of a data set by the part that it gives them.
#[derive(Default)]
struct Parts {
    train: Vec<usize>,
    val: Vec<usize>,
    test: Vec<usize>,
    /// In no part.
    unnamed: Vec<usize>,
}

impl Parts {
    fn of(source: &Source) -> Self {
        let mut parts = Self::default();
        for index in 0..source.len() {
            let part = match source.given_split(index) {
                Some("train") => &mut parts.train,
                Some("val") => &mut parts.val,
                Some("test") => &mut parts.test,
                _ => &mut parts.unnamed,
            };
            part.push(index);
        }
        parts
    }

    fn named(&self) -> [(&'static str, usize); 3] {
        [("train", self.train.len()), ("val", self.val.len()), ("test", self.test.len())]
    }

    fn n_named(&self) -> usize {
        self.named().iter().filter(|(_, n)| *n > 0).count()
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = self.named().into_iter().filter(|(_, n)| *n > 0);
        f.write_str(&named.map(|(name, n)| format!("{name} ({n} images)")).collect::<Vec<_>>().join(", "))
    }
}

fn group_of<'a>(name: &'a str, key: &GroupKey, pattern: Option<&regex_lite::Regex>) -> Result<&'a str, DataError> {
    let no_group = |expected: String| DataError::Option { key: "split.group", expected, got: name.to_owned() };
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    match (key, pattern) {
        (GroupKey::Image, _) => Ok(name),
        (GroupKey::Folder, _) => Ok(folder),
        (GroupKey::Prefix(end), _) => match file.find(end.as_str()) {
            Some(at) if !end.is_empty() => Ok(&name[..name.len() - file.len() + at]),
            _ => Err(no_group(format!("text that occurs in every file name, got {end:?}, which is not in this name"))),
        },
        (GroupKey::Regex(_), Some(pattern)) => {
            let captures =
                pattern.captures(name).ok_or_else(|| no_group("a pattern that matches every name".to_owned()))?;
            let group = captures.get(1).or_else(|| captures.get(0));
            Ok(group.map_or(name, |group| group.as_str()))
        }
        (GroupKey::Regex(_), None) => unreachable!("the pattern was compiled before"),
    }
}

/// A hash of seed and text; a test pins it because saved splits depend on it.
fn hash(seed: u64, text: &str) -> u64 {
    mix64(fnv1a(text.bytes()) ^ seed.wrapping_mul(GOLDEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|at| format!("s{}/p{}_{at}.png", at % 7, at / 10)).collect()
    }

    #[test]
    fn fractions_hold_and_added_files_do_not_move_others() {
        let rule = SplitRule { val: 0.2, test: 0.1, ..SplitRule::default() };
        let small = Split::of_names(&names(1000), &rule).expect("splits");
        let large = Split::of_names(&names(2000), &rule).expect("splits");
        // Three standard deviations of a binomial.
        assert!(small.val.len().abs_diff(200) < 40 && small.test.len().abs_diff(100) < 30, "{}", small.val.len());
        assert!(small.val.iter().all(|index| large.val.contains(index)));
        assert!(small.test.iter().all(|index| large.test.contains(index)));
        let other = Split::of_names(&names(1000), &SplitRule { seed: 1, ..rule }).expect("splits");
        assert_ne!(small, other);
    }

    #[test]
    fn the_hash_is_pinned() {
        assert_eq!([hash(0, "a.png"), hash(7, "a.png")], HASHES_OF_A_PNG);
    }
    /// Computed independently in Python; another value would change every saved split.
    const HASHES_OF_A_PNG: [u64; 2] = [15_056_803_862_227_643_222, 18_016_195_467_190_585_591];

    #[test]
    fn groups_stay_together() {
        let all = names(400);
        let prefix = GroupKey::Prefix("_".to_owned());
        let regex = GroupKey::Regex(r"/p(\d+)_".to_owned());
        for (group, key) in [
            (GroupKey::Folder, (|n| n.split('/').next().unwrap_or("")) as fn(&str) -> &str),
            (prefix, |n| n.split('_').next().unwrap_or("")),
            (regex, |n| n.split(['/', '_']).nth(1).unwrap_or("")),
        ] {
            let rule = SplitRule { val: 0.4, test: 0.0, seed: 3, group };
            let split = Split::of_names(&all, &rule).expect("splits");
            let keys = |indices: &[usize]| indices.iter().map(|&i| key(&all[i]).to_owned()).collect::<BTreeSet<_>>();
            assert!(keys(&split.train).is_disjoint(&keys(&split.val)), "{:?}", rule.group);
        }
        let rule = SplitRule { group: GroupKey::Regex("x(".to_owned()), ..SplitRule::default() };
        assert!(Split::of_names(&all, &rule).is_err());
        let rule = SplitRule { group: GroupKey::Prefix("#".to_owned()), ..SplitRule::default() };
        assert!(Split::of_names(&all, &rule).is_err());
    }

    #[test]
    fn no_part_of_a_small_data_set_is_empty() {
        let rule = SplitRule { val: 0.01, test: 0.01, ..SplitRule::default() };
        for n in [3, 5, 12, 40] {
            let split = Split::of_names(&names(n), &rule).expect("splits");
            assert!(!split.train.is_empty() && !split.val.is_empty() && !split.test.is_empty(), "{n}: {split:?}");
            assert_eq!(split.train.len() + split.val.len() + split.test.len(), n);
        }
        // All groups would be validated on.
        let rule = SplitRule { val: 0.999, ..SplitRule::default() };
        assert_eq!(Split::of_names(&names(4), &rule).expect("splits").train.len(), 1);
    }

    #[test]
    fn fewer_groups_than_parts_are_an_error() {
        let rule = SplitRule { val: 0.2, group: GroupKey::Folder, ..SplitRule::default() };
        let one_folder: Vec<String> = (0..3).map(|at| format!("a/{at}.png")).collect();
        let message = Split::of_names(&one_folder, &rule).expect_err("rejected").to_string();
        assert!(message.contains("got 1 in all (3 images)"), "{message}");
    }
}
