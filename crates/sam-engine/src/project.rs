//! The project folder.
//!
//! ```text
//! engine.toml       where images and checkpoint are, classes, size of the cache
//! lock              held by the process that works in the folder
//! images/           links to the annotated images
//! annotations/      one JSON per annotated image: the truth
//! journal.jsonl     what was done when
//! model.json        the model in use, once a round has made a better one
//! rounds/           data, training, evaluation and decision of every round
//! review.json       a sample of automatic masks, and what a person said of them
//! embeddings/, proposals/   caches
//! session.token     the secret of the page's address
//! ```
//!
//! Only annotated images are linked, so the folder is a data set of exactly those: an image without a file in `annotations/`
//! has not been looked at, which is something else than an image without objects.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sam_data::random::RandomStream;
use sam_files::{MAX_TEXT_BYTES, read_text, write_atomically};
use serde::{Deserialize, Serialize};

use crate::annotation::AnnotationFile;
use crate::error::EngineError;
use crate::images::{ImageList, stem};
use crate::rounds::{read_json, write_json};

/// Its file says that a folder is a project.
const SETTINGS_FILE: &str = "engine.toml";
const LOCK_FILE: &str = "lock";
const MODEL_FILE: &str = "model.json";
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
    /// The CLIP of the model's texts: objects can be found by what they are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
    /// Names of classes; none: masks have no class.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Embeddings beyond this size are removed, those used longest ago first.
    #[serde(default = "default_embeddings_gib")]
    pub embeddings_gib: f64,
    /// The part of the images whose masks measure models and are never learned from. Which images they are follows from their
    /// names, for ever: a larger part adds images, which earlier models may have learned from.
    #[serde(default = "default_validation_share")]
    pub validation_share: f64,
    /// What is kept together, so that no model is measured on what it has nearly seen.
    #[serde(default)]
    pub validation_by: SplitBy,
    /// How models are retrained.
    #[serde(default)]
    pub round: RoundSettings,
}

/// What is wholly for validation or wholly to learn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// Every image for itself.
    #[default]
    Image,
    /// The images of a folder: frames of a video, slices of a patient. Images without a folder are for themselves.
    Folder,
}

/// `[round]` of `engine.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundSettings {
    /// Fewer masks in validation images say too little about a model.
    pub min_validation_masks: usize,
    /// Fewer images, likewise.
    pub min_validation_images: usize,
    /// The largest drop of a metric that a better mean of one click may cost, as a fraction.
    pub max_drop: f64,
    /// What learns.
    pub learns: Learns,
    /// Keys of the training's configuration, each as `key=value`.
    pub set: Vec<String>,
}

/// What learns in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learns {
    /// The mask decoder, on the embeddings that are there: minutes on a laptop, and all embeddings stay.
    #[default]
    Decoder,
    /// Every weight: for many masks, images unlike those of the checkpoint, and a GPU. Embeddings are computed anew.
    Everything,
}

impl Default for RoundSettings {
    fn default() -> Self {
        Self {
            min_validation_masks: 20,
            min_validation_images: 3,
            max_drop: 0.02,
            learns: Learns::Decoder,
            set: Vec::new(),
        }
    }
}

fn default_embeddings_gib() -> f64 {
    20.0
}

fn default_validation_share() -> f64 {
    0.2
}

impl Settings {
    /// Those of a new project.
    #[must_use]
    pub fn new(images: PathBuf, checkpoint: PathBuf, classes: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            images,
            checkpoint,
            clip: None,
            classes,
            embeddings_gib: default_embeddings_gib(),
            validation_share: default_validation_share(),
            validation_by: SplitBy::Image,
            round: RoundSettings::default(),
        }
    }

    fn check(&self, path: &Path) -> Result<(), EngineError> {
        let problem = |problem: String| Err(EngineError::Project { path: path.to_owned(), problem });
        if self.format != FORMAT {
            return problem(format!("`format` must be {FORMAT}, got {}; use the version that made it", self.format));
        }
        if !(self.embeddings_gib >= 0.0 && self.embeddings_gib <= 1e6) {
            return problem(format!("`embeddings_gib` must be 0 to 1000000, got {}", self.embeddings_gib));
        }
        if !(self.validation_share > 0.0 && self.validation_share < 1.0) {
            return problem(format!("`validation_share` must be between 0 and 1, got {}", self.validation_share));
        }
        if !(self.round.max_drop >= 0.0 && self.round.max_drop <= 1.0) {
            return problem(format!("`round.max_drop` must be 0 to 1, got {}", self.round.max_drop));
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

/// The model in use once a round has made a better one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInUse {
    /// The round that made it.
    pub round: u32,
    /// Relative to the project.
    pub checkpoint: PathBuf,
}

impl ModelInUse {
    /// That of the project in this folder; `None`: that of `engine.toml`.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn read(project: &Path) -> Result<Option<Self>, EngineError> {
        read_json(&project.join(MODEL_FILE))
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("round {}", self.round)
    }
}

/// An open project.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
    settings: Settings,
    images: ImageList,
    /// `None`: it is only read, and another process may work in it.
    lock: Option<File>,
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
        write_settings(&folder.join(SETTINGS_FILE), settings)?;
        Self::open(folder)
    }

    /// Opens a project and locks it until it is dropped.
    ///
    /// # Errors
    ///
    /// When it is no project, another process works in it, or its images are gone.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let settings = Self::read_settings(folder)?;
        let lock = lock(&folder.join(LOCK_FILE))?;
        Self::with(folder, settings, Some(lock))
    }

    /// Opens a project to read it, while another process may work in it.
    ///
    /// # Errors
    ///
    /// When it is no project, or its images are gone.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        Self::with(folder, Self::read_settings(folder)?, None)
    }

    /// The checkpoint in use of the project in this folder; `None` when it is no project.
    ///
    /// # Errors
    ///
    /// When a file of the project is damaged.
    pub fn checkpoint_of(folder: &Path) -> Result<Option<PathBuf>, EngineError> {
        if !folder.join(SETTINGS_FILE).is_file() {
            return Ok(None);
        }
        let settings = Self::read_settings(folder)?;
        let in_use = ModelInUse::read(folder)?.map_or(settings.checkpoint, |model| model.checkpoint);
        Ok(Some(folder.join(in_use)))
    }

    /// Reads `engine.toml`.
    fn read_settings(folder: &Path) -> Result<Settings, EngineError> {
        let path = folder.join(SETTINGS_FILE);
        if !path.is_file() {
            let problem = format!("must be a project, got a folder without {SETTINGS_FILE}; make one first");
            return Err(EngineError::Project { path: folder.to_owned(), problem });
        }
        let text = read_text(&path, MAX_TEXT_BYTES).map_err(EngineError::io(&path))?;
        let settings: Settings =
            toml::from_str(&text).map_err(|source| EngineError::Settings { path: path.clone(), source })?;
        settings.check(&path)?;
        Ok(settings)
    }

    fn with(folder: &Path, settings: Settings, lock: Option<File>) -> Result<Self, EngineError> {
        // Paths that somebody has made relative are seen from the project, which then can be moved together with them.
        let images = ImageList::open(&folder.join(&settings.images))?;
        let folder = folder.canonicalize().map_err(EngineError::io(folder))?;
        Ok(Self { folder, settings, images, lock })
    }

    /// Whether this process may change it.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Adds a class, which is there from now on.
    ///
    /// # Errors
    ///
    /// When its name is empty, too long or there already; or when `engine.toml` cannot be written.
    pub fn add_class(&mut self, name: &str) -> Result<(), EngineError> {
        let mut settings = self.settings.clone();
        settings.classes.push(name.to_owned());
        let path = self.folder.join(SETTINGS_FILE);
        settings.check(&path).map_err(|error| EngineError::Invalid(error.to_string()))?;
        write_settings(&path, &settings)?;
        self.settings = settings;
        Ok(())
    }

    /// Whether the masks of an image measure models: by the hash of its name, so for ever.
    #[must_use]
    pub fn is_validation(&self, index: usize) -> bool {
        let name = self.images.name(index);
        let together = match self.settings.validation_by {
            SplitBy::Image => name,
            SplitBy::Folder => name.rsplit_once('/').map_or(name, |(folder, _)| folder),
        };
        let place = RandomStream::named(0, &[b"validation", together.as_bytes()]).unit();
        place < self.settings.validation_share
    }

    /// The model that a round has put in use; `None`: that of `engine.toml`.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn model_in_use(&self) -> Result<Option<ModelInUse>, EngineError> {
        ModelInUse::read(&self.folder)
    }

    /// The annotations of an image; `None` when nobody has worked on it.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn annotations(&self, index: usize) -> Result<Option<AnnotationFile>, EngineError> {
        AnnotationFile::read(&self.annotation_path(index))
    }

    /// Puts the model of a round in use.
    ///
    /// # Errors
    ///
    /// When its file cannot be written; the one in use then stays.
    pub fn use_model(&self, model: &ModelInUse) -> Result<(), EngineError> {
        write_json(&self.folder.join(MODEL_FILE), model)
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

    /// The checkpoint that the project began with, or the folder of a run.
    #[must_use]
    pub fn first_checkpoint(&self) -> PathBuf {
        self.folder.join(&self.settings.checkpoint)
    }

    /// The CLIP of the model's texts.
    #[must_use]
    pub fn clip(&self) -> Option<PathBuf> {
        self.settings.clip.as_ref().map(|clip| self.folder.join(clip))
    }

    /// The checkpoint in use, and what people call it.
    ///
    /// # Errors
    ///
    /// When the file that names it is damaged.
    pub fn checkpoint(&self) -> Result<(PathBuf, String), EngineError> {
        Ok(match self.model_in_use()? {
            Some(model) => (self.folder.join(&model.checkpoint), model.name()),
            None => (self.first_checkpoint(), "the first model".to_owned()),
        })
    }

    /// The annotation file of an image, which exists once somebody has worked on it.
    pub(crate) fn annotation_path(&self, index: usize) -> PathBuf {
        self.folder.join("annotations").join(format!("{}.json", stem(self.images.name(index))))
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &ImageList {
        &self.images
    }
}

fn write_settings(path: &Path, settings: &Settings) -> Result<(), EngineError> {
    let text = toml::to_string(settings).map_err(|error| EngineError::Project {
        path: path.to_owned(),
        problem: format!("a path is no text: {error}"),
    })?;
    write_atomically(path, text).map(drop).map_err(EngineError::io(path))
}

/// Takes a lock. The operating system's lock ends with its process, however that ends: there are no stale ones.
pub(crate) fn lock(path: &Path) -> Result<File, EngineError> {
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = options.map_err(EngineError::io(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only part of the message.
            let _ = file.read_to_string(&mut holder);
            let folder = path.parent().unwrap_or(path).to_owned();
            return Err(EngineError::InUse { folder, holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(EngineError::Io { path: path.to_owned(), source }),
    }
    let mut write = || -> std::io::Result<()> {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("process {}\n", std::process::id()).as_bytes())
    };
    write().map_err(EngineError::io(path))?;
    Ok(file)
}
