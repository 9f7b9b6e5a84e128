//! The one error type of the crate: which file, image, object or metric, what was expected, what came.

use sam_data::loader::SampleError;
use sam_image::ImageError;

use crate::segmenter::SegmenterError;

/// Why something could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// An object that cannot be clicked on and has no IoU.
    #[error(
        "image {image}, object {object_id}: must have at least one pixel that counts, got a mask that is {what}; \
         `sam-train data check` lists such objects"
    )]
    EmptyObject {
        /// The image's name.
        image: String,
        /// The object's id.
        object_id: u64,
        /// "empty" or "wholly ignored".
        what: &'static str,
    },

    /// Masks, images and annotations that do not belong together.
    #[error(
        "image {image}: {what} must be of the image's size, {} x {} (height x width), got {} x {}",
        expected_hw[0], expected_hw[1], got_hw[0], got_hw[1]
    )]
    Size {
        /// The image's name.
        image: String,
        /// What has the other size.
        what: String,
        /// Of the image.
        expected_hw: [usize; 2],
        /// What came.
        got_hw: [usize; 2],
    },

    /// The same thing twice: every number after it would be of something else.
    #[error("{what} must occur once, got it again")]
    Duplicate {
        /// The thing, with its ids.
        what: String,
    },

    /// The model behind the trait failed.
    #[error("image {image}: the segmenter failed: {source}")]
    Segmenter {
        /// The image that was on its table (the first of several).
        image: String,
        /// Its own reason.
        source: SegmenterError,
    },

    /// The model behind the trait broke the contract.
    #[error("image {image}: the segmenter must give {expected}, got {got}")]
    Answer {
        /// The image's name.
        image: String,
        /// The rule.
        expected: String,
        /// What came.
        got: String,
    },

    /// JSON that is not what it should be.
    #[error("{name}: must be {expected}: {source}")]
    Json {
        /// The path or whatever the caller called it.
        name: String,
        /// The format.
        expected: &'static str,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },

    /// A well-formed JSON file whose content does not hold together.
    #[error("{name}: {what} must be {expected}, got {got}")]
    Content {
        /// The path or whatever the caller called it.
        name: String,
        /// The part of it.
        what: String,
        /// The rule.
        expected: String,
        /// What came.
        got: String,
    },

    /// A mask in a file that is none.
    #[error("{name}: {what}: {source}")]
    Mask {
        /// The path or whatever the caller called it.
        name: String,
        /// The part of it.
        what: String,
        /// The reason.
        source: ImageError,
    },

    /// Pixels that could not be compared.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// A mean of nothing.
    #[error("{metric} must be computed from at least one object, got none")]
    Nothing {
        /// The metric.
        metric: String,
    },

    /// Records that lack a prompt which a metric asks for.
    #[error(
        "{metric} needs {needed}, got {got} for image {image}, object {object_id}; run the protocol with more clicks, \
         and without an early stop for mIoU"
    )]
    TooFewRounds {
        /// The metric.
        metric: String,
        /// What it needs.
        needed: String,
        /// What there is.
        got: String,
        /// The image's name.
        image: String,
        /// The object's id.
        object_id: u64,
    },

    /// Two evaluations that are not of the same objects.
    #[error("both evaluations must be of the same images and objects to be compared in pairs, got {difference}")]
    Unpaired {
        /// The first thing that differs.
        difference: String,
    },

    /// A metric that was not computed, or that does not exist.
    #[error("metric {name} must be one that was computed, got none of this name; {hint}")]
    UnknownMetric {
        /// What was asked for.
        name: String,
        /// The nearest names that there are.
        hint: String,
    },

    /// A setting out of range or without effect.
    #[error("{key} must be {expected}, got {got}")]
    Option {
        /// The key as it is typed in a config.
        key: &'static str,
        /// The rule.
        expected: String,
        /// What came.
        got: String,
    },

    /// A sample that cannot be read.
    #[error("data set {data_set}, sample {index} (from 0): {source}")]
    Sample {
        /// The data set's name.
        data_set: String,
        /// Which of its samples.
        index: usize,
        /// The reader's reason, with the file.
        source: SampleError,
    },

    /// A prompt that means nothing in its image.
    #[error("{name}: detection {at} (from 0), image {image_id}: {problem}")]
    Detection {
        /// The path or whatever the caller called it.
        name: String,
        /// Which detection.
        at: usize,
        /// Its image.
        image_id: u64,
        /// What is wrong with it.
        problem: String,
    },

    /// A picture of a report that could not be encoded.
    #[error("image {image}: cannot be encoded for the report: {source}")]
    Picture {
        /// The image's name.
        image: String,
        /// The encoder's reason.
        source: SegmenterError,
    },

    /// Somebody wanted it to end.
    #[error("the evaluation was stopped after {n_images} of {of_images} images; there are no results of a part")]
    Interrupted {
        /// Images that were through.
        n_images: usize,
        /// All images.
        of_images: usize,
    },
}

impl EvalError {
    /// Whether what came in is to be mended, or else the model or somebody's patience failed.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Segmenter { .. } | Self::Answer { .. } | Self::Picture { .. } | Self::Interrupted { .. })
    }
}
