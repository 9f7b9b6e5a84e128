//! The folder of `auto`: what it was made with, which images are finished, one run at a time.
//!
//! `auto.json` says what made the masks; another checkpoint, or other options, would mix with them and is refused. A line of
//! `finished.jsonl` is written once everything of an image is on disk, so an interrupted run resumes with the others. Both
//! record the *signature* of the masks, a hash of the weights and of every option that changes a mask.
//!
//! Of several ranks, rank 0 opens the folder and shares it: rank K writes its lines to `finished-K.jsonl`, which rank 0 adds to its own
//! at the end, or the next run when it begins, in whatever number of ranks. All hold one lock, so no other run begins while a rank lives.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use sam_files::{Fingerprint, remove_if_there, sweep_unfinished, write_atomically};
use sam_infer::automatic::{Floors, Options, Removed, Seen, Thresholds};
use serde::{Deserialize, Serialize};

use super::texts::TextDescription;
use crate::build;

pub(crate) const ANNOTATIONS: &str = "annotations";
pub(crate) const OVERLAYS: &str = "overlays";
pub(crate) const CANDIDATES: &str = "candidates";
pub(crate) const LABELS: &str = "labels";
pub(crate) const MASKS: &str = "masks";
/// All masks with their vectors, where texts choose among them.
pub(crate) const SCORED: &str = "scored";
pub(crate) const COCO_FILE: &str = "instances.json";
const DESCRIPTION: &str = "auto.json";
const FINISHED: &str = "finished.jsonl";
/// Before the index of a rank.
const FINISHED_OF_RANK: &str = "finished-";
const LINES: &str = ".jsonl";
const LOCK: &str = "auto.lock";
/// Of what ranks recognise the folder by.
const MAX_TOKEN_BYTES: u64 = 256;

/// What masks are made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The version of this program.
    pub(crate) program: String,
    pub(crate) checkpoint: PathBuf,
    /// Hash of all weights, adapters merged.
    pub(crate) weights: String,
    pub(crate) intensity: String,
    /// What matrix products multiply, where that is not f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) products: Option<String>,
    pub(crate) options: Options,
    pub(crate) thresholds: Thresholds,
    pub(crate) no_overlap: bool,
    /// Texts that choose among the masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) texts: Option<TextDescription>,
}

impl Description {
    pub(crate) fn version() -> String {
        build::VERSION.to_owned()
    }

    /// Of everything that changes a candidate. Floors only leave candidates out, and a batch is a matter of memory.
    pub(crate) fn network_signature(&self) -> String {
        let floors = Floors { predicted_iou: 0.0, stability: 0.0 };
        let options = Options { floors, points_per_batch: 1, ..self.options.clone() };
        signature(&match &self.products {
            None => serde_json::json!([self.weights, self.intensity, options]),
            Some(products) => serde_json::json!([self.weights, self.intensity, options, products]),
        })
    }

    /// Of everything that changes which masks are found, before texts choose among them and overlaps are removed.
    pub(crate) fn found_signature(&self) -> String {
        signature(&serde_json::json!([self.network_signature(), self.thresholds]))
    }

    /// Of everything that changes a mask, or what is said of it.
    pub(crate) fn mask_signature(&self) -> String {
        let network = self.network_signature();
        signature(&match &self.texts {
            None => serde_json::json!([network, self.thresholds, self.no_overlap]),
            Some(texts) => serde_json::json!([network, self.thresholds, self.no_overlap, texts]),
        })
    }
}

fn signature(of: &serde_json::Value) -> String {
    let mut hash = Fingerprint::new(0);
    hash.add_bytes(of.to_string().as_bytes());
    format!("{:016x}", hash.value())
}

/// A line of `finished.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) name: String,
    /// Size of the image's file, where it is one.
    pub(crate) bytes: Option<u64>,
    pub(crate) signature: String,
    pub(crate) masks: usize,
    pub(crate) removed: Removed,
    pub(crate) seen: Seen,
    /// The best score of all masks with the texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best_text_score: Option<f32>,
    /// Masks by the text that describes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) of_texts: Vec<usize>,
}

/// The folder, locked.
pub(crate) struct OutFolder {
    root: PathBuf,
    description: Description,
    finished: HashMap<String, Finished>,
    log: File,
    lock: File,
}

impl OutFolder {
    /// Opens or makes the folder.
    ///
    /// # Errors
    ///
    /// When it holds other files, or masks of another checkpoint or other options, unless they may be replaced; when another
    /// process writes to it.
    pub(crate) fn open(root: &Path, description: Description, force: bool) -> anyhow::Result<Self> {
        let earlier = read_description(root)?;
        let is_used = root.is_dir() && std::fs::read_dir(root)?.next().is_some();
        if root.exists() && !root.is_dir() {
            bail!("--out {} is a file; it must be a folder", root.display());
        }
        if is_used && earlier.is_none() && !root.join(LOCK).exists() && !force {
            bail!(
                "--out {} holds other files; choose another folder, or use --force to write into this one",
                root.display()
            );
        }
        std::fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let lock = lock(root)?;
        sweep_unfinished(root);
        if let Some(earlier) = &earlier {
            replace_earlier(root, earlier, &description, force)?;
        }
        let text = serde_json::to_string_pretty(&description)?;
        let path = root.join(DESCRIPTION);
        write_atomically(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        let signature = description.mask_signature();
        let mut finished = read_finished(&root.join(FINISHED), &signature)?;
        for log in logs_of_ranks(root)? {
            finished.extend(read_finished(&log, &signature)?);
        }
        // Written anew, so that a line that was cut off is not continued.
        write_finished(root, &finished)?;
        let log = open_log(&root.join(FINISHED))?;
        Ok(Self { root: root.to_owned(), description, finished, log, lock })
    }

    /// Opens the folder to the other ranks; returns what they recognise it by.
    pub(crate) fn share(&mut self) -> anyhow::Result<String> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = format!("{}-{}", std::process::id(), since_epoch.as_nanos());
        let path = self.root.join(LOCK);
        let mut write = || -> std::io::Result<()> {
            self.lock.set_len(0)?;
            self.lock.rewind()?;
            self.lock.write_all(token.as_bytes())?;
            self.lock.sync_all()?;
            self.lock.unlock()
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        locked(self.lock.try_lock_shared(), &self.root)?;
        Ok(token)
    }

    /// The folder that rank 0 shares, for another rank.
    ///
    /// # Errors
    ///
    /// When this rank has another folder under its name.
    pub(crate) fn follow(root: &Path, description: Description, rank: usize, token: &str) -> anyhow::Result<Self> {
        let another = || {
            anyhow!(
                "--out {} of rank {rank} is not the folder that rank 0 has opened; it must be on a disk that all machines share",
                root.display()
            )
        };
        let path = root.join(LOCK);
        let lock = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(another()),
            file => file.with_context(|| format!("opening {}", path.display()))?,
        };
        let mut found = String::new();
        let read = (&lock).take(MAX_TOKEN_BYTES).read_to_string(&mut found);
        read.with_context(|| format!("reading {}", path.display()))?;
        if found != token {
            return Err(another());
        }
        locked(lock.try_lock_shared(), root)?;
        let log = open_log(&root.join(format!("{FINISHED_OF_RANK}{rank}{LINES}")))?;
        Ok(Self { root: root.to_owned(), description, finished: HashMap::new(), log, lock })
    }

    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// The record of an image whose masks are there.
    pub(crate) fn finished(&self, name: &str, stem: &str, bytes: Option<u64>) -> Option<&Finished> {
        let finished = self.finished.get(name).filter(|finished| finished.bytes == bytes)?;
        self.path(ANNOTATIONS, stem, "json").is_file().then_some(finished)
    }

    /// Where something of an image is kept.
    pub(crate) fn path(&self, folder: &str, stem: &str, extension: &str) -> PathBuf {
        let name = if extension.is_empty() { stem.to_owned() } else { format!("{stem}.{extension}") };
        self.root.join(folder).join(name)
    }

    /// A file of all images.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Notes on disk that everything of an image is there.
    pub(crate) fn finish(&mut self, finished: &Finished) -> anyhow::Result<()> {
        let line = serde_json::to_string(finished)? + "\n";
        let written = self.log.write_all(line.as_bytes()).and_then(|()| self.log.sync_data());
        written.with_context(|| format!("writing the list of finished images in {}", self.root.display()))
    }

    /// Adds what this rank and the others have finished; all have ended.
    pub(crate) fn add(&mut self, finished: Vec<Finished>) -> anyhow::Result<()> {
        self.finished.extend(finished.into_iter().map(|line| (line.name.clone(), line)));
        match logs_of_ranks(&self.root)?.is_empty() {
            true => Ok(()),
            false => write_finished(&self.root, &self.finished),
        }
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

/// The lines that ranks other than the first have written.
fn logs_of_ranks(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(root).with_context(|| format!("reading {}", root.display()))? {
        let name = entry?.file_name();
        let rank = name.to_str().and_then(|name| name.strip_prefix(FINISHED_OF_RANK)?.strip_suffix(LINES));
        if rank.is_some_and(|rank| rank.parse::<usize>().is_ok()) {
            logs.push(root.join(name));
        }
    }
    Ok(logs)
}

/// Writes `finished.jsonl`, and removes what ranks have written beside it.
fn write_finished(root: &Path, finished: &HashMap<String, Finished>) -> anyhow::Result<()> {
    let mut lines = String::new();
    let mut names: Vec<&String> = finished.keys().collect();
    names.sort();
    for name in names {
        lines.push_str(&serde_json::to_string(&finished[name])?);
        lines.push('\n');
    }
    let path = root.join(FINISHED);
    write_atomically(&path, lines).with_context(|| format!("writing {}", path.display()))?;
    for log in logs_of_ranks(root)? {
        remove_if_there(&log).with_context(|| format!("removing {}", log.display()))?;
    }
    Ok(())
}

fn read_description(root: &Path) -> anyhow::Result<Option<Description>> {
    let path = root.join(DESCRIPTION);
    if !path.exists() {
        return Ok(None);
    }
    let text = sam_data::read_text(&path, sam_files::MAX_TEXT_BYTES)?;
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).with_context(|| {
        format!("{} is damaged or of another version; choose another --out, or remove the folder", path.display())
    })
}

/// Refuses a folder with masks of another kind, or removes them.
fn replace_earlier(root: &Path, earlier: &Description, now: &Description, force: bool) -> anyhow::Result<()> {
    if earlier.network_signature() != now.network_signature() {
        if !force {
            let what = match earlier.weights == now.weights {
                true => "was made with other options (points, crops, stability offset or intensity)".to_owned(),
                false => format!("is from another checkpoint ({})", earlier.checkpoint.display()),
            };
            bail!("{} {what}; choose another --out, or use --force to replace its masks", root.display());
        }
        for name in [ANNOTATIONS, OVERLAYS, CANDIDATES, SCORED, LABELS, MASKS] {
            remove(&root.join(name), |path| std::fs::remove_dir_all(path))?;
        }
        for name in [COCO_FILE, FINISHED] {
            remove(&root.join(name), |path| std::fs::remove_file(path))?;
        }
    } else if earlier.mask_signature() != now.mask_signature() && !force {
        let has_found = root.join(SCORED).is_dir() && earlier.found_signature() == now.found_signature();
        if has_found || root.join(CANDIDATES).is_dir() {
            return Ok(());
        }
        let what = match earlier.found_signature() == now.found_signature() && earlier.no_overlap == now.no_overlap {
            true => "without texts",
            false => "with other thresholds",
        };
        bail!(
            "{} was made {what}, and without --candidates, which keep the network's part; choose another --out, or use --force to \
             make all masks again",
            root.display()
        );
    }
    Ok(())
}

fn remove(path: &Path, remove: impl Fn(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    if path.exists() { remove(path).with_context(|| format!("removing {}", path.display())) } else { Ok(()) }
}

/// Lines with this signature; a line that was cut off is ignored, and the last of several counts.
fn read_finished(path: &Path, signature: &str) -> anyhow::Result<HashMap<String, Finished>> {
    let text = match sam_files::read_regular(path, sam_files::MAX_FILE_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(anyhow!(error).context(format!("reading {}", path.display()))),
    };
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Finished>(line).ok());
    Ok(lines.filter(|line| line.signature == signature).map(|line| (line.name.clone(), line)).collect())
}

/// The lock ends with its process, however that ends.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    locked(file.try_lock(), root)?;
    Ok(file)
}

fn locked(result: Result<(), TryLockError>, root: &Path) -> anyhow::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("another process writes to {}; wait for it, or stop it", root.display()),
        Err(TryLockError::Error(error)) => {
            Err(anyhow!(error).context(format!("locking {}", root.join(LOCK).display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(points_per_side: usize, stability: f64) -> Description {
        let thresholds = Thresholds { stability, ..Thresholds::default() };
        Description {
            program: Description::version(),
            checkpoint: PathBuf::from("a.safetensors"),
            weights: "1".to_owned(),
            intensity: "as_is".to_owned(),
            products: None,
            options: Options { points_per_side, floors: thresholds.floors(), ..Options::default() },
            thresholds,
            no_overlap: false,
            texts: None,
        }
    }

    fn finished(name: &str, description: &Description) -> Finished {
        Finished {
            name: name.to_owned(),
            bytes: Some(3),
            signature: description.mask_signature(),
            masks: 2,
            removed: Removed::default(),
            seen: Seen::default(),
            best_text_score: None,
            of_texts: Vec::new(),
        }
    }

    #[test]
    fn ranks_share_a_folder_and_one_process_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("out");
        let now = description(8, 0.9);
        let mut first = OutFolder::open(&root, now.clone(), false).expect("new");
        let refused = |result: anyhow::Result<OutFolder>| result.err().expect("refused").to_string();
        let elsewhere = folder.path().join("other");
        let error = refused(OutFolder::follow(&elsewhere, now.clone(), 1, "1-2"));
        assert!(error.contains("of rank 1 is not the folder that rank 0 has opened"), "{error}");
        let token = first.share().expect("shared");
        let error = refused(OutFolder::follow(&root, now.clone(), 2, "1-2"));
        assert!(error.contains("must be on a disk that all machines share"), "{error}");
        let mut others =
            [1, 2].map(|rank| OutFolder::follow(&root, now.clone(), rank, &token).expect("it is the same folder"));
        first.finish(&finished("a.png", &now)).expect("written");
        others[0].finish(&finished("b.png", &now)).expect("written");
        others[1].finish(&finished("c.png", &now)).expect("written");
        std::fs::create_dir_all(root.join(ANNOTATIONS)).expect("made");
        for stem in ["a", "b", "c"] {
            std::fs::write(root.join(format!("annotations/{stem}.json")), "{}").expect("written");
        }
        // Rank 0 is killed, and another rank still lives.
        drop(first);
        let [second, third] = others;
        drop(third);
        assert!(refused(OutFolder::open(&root, now.clone(), false)).contains("another process"));
        drop(second);
        let names = |root: &Path| {
            let entries = std::fs::read_dir(root).expect("a folder").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert!(names(&root).contains(&"finished-2.jsonl".to_owned()), "{:?}", names(&root));
        let mut out = OutFolder::open(&root, now.clone(), false).expect("again");
        for stem in ["a", "b", "c"] {
            assert!(out.finished(&format!("{stem}.png"), stem, Some(3)).is_some(), "{stem}");
        }
        assert_eq!(names(&root), [ANNOTATIONS, DESCRIPTION, LOCK, FINISHED]);
        // Nothing of the ranks is lost when what they did is added at the end.
        out.add(vec![finished("d.png", &now)]).expect("added");
        drop(out);
        assert_eq!(std::fs::read_to_string(root.join(FINISHED)).expect("there").lines().count(), 3, "each by its rank");
    }

    #[test]
    fn finished_images_are_known_again_and_torn_lines_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("out");
        let now = description(8, 0.9);
        let mut out = OutFolder::open(&root, now.clone(), false).expect("new");
        let error = OutFolder::open(&root, now.clone(), false).err().expect("locked").to_string();
        assert!(error.contains("another process"), "{error}");
        out.finish(&finished("a.png", &now)).expect("written");
        drop(out);
        std::fs::create_dir_all(root.join(ANNOTATIONS)).expect("made");
        std::fs::write(root.join("annotations/a.json"), "{}").expect("written");
        let mut log = std::fs::read_to_string(root.join(FINISHED)).expect("there");
        let torn = serde_json::to_string(&finished("b.png", &now)).expect("text");
        log.push_str(&torn[..torn.len() / 2]);
        std::fs::write(root.join(FINISHED), log).expect("written");

        let out = OutFolder::open(&root, now.clone(), false).expect("again");
        assert!(out.finished("a.png", "a", Some(3)).is_some());
        assert!(out.finished("a.png", "a", Some(4)).is_none(), "the image changed");
        assert!(out.finished("a.png", "gone", Some(3)).is_none() && out.finished("b.png", "b", Some(3)).is_none());
        drop(out);

        let refused =
            |now: &Description| OutFolder::open(&root, now.clone(), false).err().expect("refused").to_string();
        assert!(refused(&description(9, 0.9)).contains("other options"));
        assert!(refused(&description(8, 0.8)).contains("with other thresholds, and without --candidates"));
        let of_texts = |clip: &str, texts: &[&str], min_score: f64| Description {
            texts: Some(TextDescription {
                clip: clip.to_owned(),
                texts: texts.iter().map(|&text| text.to_owned()).collect(),
                min_score,
            }),
            ..now.clone()
        };
        assert!(refused(&of_texts("c", &["a"], 0.2)).contains("without texts, and without --candidates"));
        let other = Description { weights: "2".to_owned(), ..now.clone() };
        assert!(refused(&other).contains("another checkpoint (a.safetensors)"));
        // Masks with vectors can take any text, threshold and CLIP, but not other masks.
        std::fs::create_dir_all(root.join(SCORED)).expect("made");
        for other in [of_texts("c", &["a"], 0.2), of_texts("c", &["b"], 0.3), of_texts("d", &["b"], 0.3), now.clone()] {
            OutFolder::open(&root, other, false).expect("the masks are there");
        }
        assert!(refused(&description(8, 0.8)).contains("other thresholds"));
        drop(OutFolder::open(&root, other, true).expect("forced"));
        assert!(!root.join(SCORED).exists());
        assert!(!root.join("annotations").exists());

        std::fs::create_dir_all(root.join(CANDIDATES)).expect("made");
        let other = Description { weights: "2".to_owned(), ..description(8, 0.8) };
        OutFolder::open(&root, other, false).expect("candidates can take other thresholds");
    }
}
