//! The project folder.
//!
//! ```text
//! engine.toml       where images and checkpoint are, classes, size of the cache
//! lock              held by the process that works in the folder
//! images/           links to the annotated images
//! annotations/      one JSON per annotated image: the truth
//! journal.jsonl     what was done when
//! embeddings/       a cache
//! session.token     the secret of the page's address
//! ```
//!
//! Only annotated images are linked, so the folder is a data set of exactly those: an image without a file in `annotations/`
//! has not been looked at, which is something else than an image without objects.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sam_files::{MAX_TEXT_BYTES, read_text, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::images::ImageList;

/// Its file says that a folder is a project.
const SETTINGS_FILE: &str = "engine.toml";
const LOCK_FILE: &str = "lock";
/// The only version so far.
const FORMAT: u32 = 1;
/// The most classes, and the longest name of one.
const MAX_CLASSES: usize = 1000;
const MAX_CLASS_CHARS: usize = 100;

/// `engine.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of the folder's layout.
    pub format: u32,
    /// The folder of images, which is only read.
    pub images: PathBuf,
    /// The model that answers clicks.
    pub checkpoint: PathBuf,
    /// Names of classes; none: masks have no class.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Embeddings beyond this size are removed, those used longest ago first.
    #[serde(default = "default_embeddings_gib")]
    pub embeddings_gib: f64,
}

fn default_embeddings_gib() -> f64 {
    20.0
}

impl Settings {
    /// Those of a new project.
    #[must_use]
    pub fn new(images: PathBuf, checkpoint: PathBuf, classes: Vec<String>) -> Self {
        Self { format: FORMAT, images, checkpoint, classes, embeddings_gib: default_embeddings_gib() }
    }

    fn check(&self, path: &Path) -> Result<(), EngineError> {
        let problem = |problem: String| Err(EngineError::Project { path: path.to_owned(), problem });
        if self.format != FORMAT {
            return problem(format!("`format` must be {FORMAT}, got {}; use the version that made it", self.format));
        }
        if !(self.embeddings_gib >= 0.0 && self.embeddings_gib <= 1e6) {
            return problem(format!("`embeddings_gib` must be 0 to 1000000, got {}", self.embeddings_gib));
        }
        if self.classes.len() > MAX_CLASSES {
            return problem(format!("`classes` must be at most {MAX_CLASSES}, got {}", self.classes.len()));
        }
        for (index, class) in self.classes.iter().enumerate() {
            let length = class.chars().count();
            if class.trim() != class || length == 0 || length > MAX_CLASS_CHARS {
                return problem(format!(
                    "a class must have 1 to {MAX_CLASS_CHARS} letters and no space around it, got {class:?}"
                ));
            }
            if self.classes[..index].contains(class) {
                return problem(format!("`classes` must differ, got {class:?} twice"));
            }
        }
        Ok(())
    }
}

/// An open project: this process holds its lock.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
    settings: Settings,
    images: ImageList,
    _lock: File,
}

impl Project {
    /// Makes a project in a folder that does not exist or is empty, and opens it.
    ///
    /// # Errors
    ///
    /// When the folder is in use, lies in the folder of images, or cannot be written; or when there are no images.
    pub fn create(folder: &Path, settings: &Settings) -> Result<Self, EngineError> {
        let problem = |problem: &str| EngineError::Project { path: folder.to_owned(), problem: problem.to_owned() };
        settings.check(folder)?;
        ImageList::open(&settings.images)?;
        std::fs::create_dir_all(folder).map_err(EngineError::io(folder))?;
        let (real, images) = (folder.canonicalize(), settings.images.canonicalize());
        let real = real.map_err(EngineError::io(folder))?;
        if real.starts_with(images.map_err(EngineError::io(&settings.images))?) {
            let _ = std::fs::remove_dir(folder);
            return Err(problem(
                "a project must not lie in the folder of its images, which is only read; choose another",
            ));
        }
        if std::fs::read_dir(folder).map_err(EngineError::io(folder))?.next().is_some() {
            return Err(problem("is not empty; choose another folder for the project"));
        }
        for name in ["images", "annotations", "embeddings"] {
            std::fs::create_dir(folder.join(name)).map_err(EngineError::io(folder.join(name)))?;
        }
        let text = toml::to_string(settings).map_err(|error| problem(&format!("a path is no text: {error}")))?;
        let path = folder.join(SETTINGS_FILE);
        write_atomically(&path, text).map_err(EngineError::io(&path))?;
        Self::open(folder)
    }

    /// Opens a project and locks it until it is dropped.
    ///
    /// # Errors
    ///
    /// When it is no project, another process works in it, or its images are gone.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join(SETTINGS_FILE);
        if !path.is_file() {
            let problem = format!("must be a project, got a folder without {SETTINGS_FILE}; make one first");
            return Err(EngineError::Project { path: folder.to_owned(), problem });
        }
        let text = read_text(&path, MAX_TEXT_BYTES).map_err(EngineError::io(&path))?;
        let settings: Settings =
            toml::from_str(&text).map_err(|source| EngineError::Settings { path: path.clone(), source })?;
        settings.check(&path)?;
        let lock = lock(folder)?;
        // Paths that somebody has made relative are seen from the project, which then can be moved together with them.
        let images = ImageList::open(&folder.join(&settings.images))?;
        let folder = folder.canonicalize().map_err(EngineError::io(folder))?;
        Ok(Self { folder, settings, images, _lock: lock })
    }

    /// The project's folder, without links.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `engine.toml` says.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The checkpoint, or the folder of a run.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join(&self.settings.checkpoint)
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &ImageList {
        &self.images
    }
}

/// The operating system's lock ends with its process, however that ends: there are no stale ones.
fn lock(folder: &Path) -> Result<File, EngineError> {
    let path = folder.join(LOCK_FILE);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(EngineError::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only part of the message.
            let _ = file.read_to_string(&mut holder);
            return Err(EngineError::InUse { folder: folder.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(EngineError::Io { path, source }),
    }
    let mut write = || -> std::io::Result<()> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("process {}\n", std::process::id()).as_bytes())
    };
    write().map_err(EngineError::io(&path))?;
    Ok(file)
}
