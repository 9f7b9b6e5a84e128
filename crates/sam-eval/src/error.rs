//! The error type of the crate: names the file, image, object or metric, the expectation, and the value found.

use sam_data::loader::SampleError;
use sam_image::ImageError;

/// The error of a model behind [`crate::Segmenter`]; wrapped by [`EvalError::Segmenter`].
pub type SegmenterError = Box<dyn std::error::Error + Send + Sync>;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// An object without a pixel to click on.
    #[error(
        "image {image}, object {object_id}: must have at least one pixel that is not ignored, got a mask that is {what}; \
         check the data set"
    )]
    EmptyObject {
        /// The image's name.
        image: String,
        /// The object's id.
        object_id: u64,
        /// "empty" or "wholly ignored".
        what: &'static str,
    },

    /// A mask whose size is not its image's.
    #[error(
        "image {image}: {what} must be of the image's size, {} x {} (height x width), got {} x {}",
        expected_hw[0], expected_hw[1], got_hw[0], got_hw[1]
    )]
    Size {
        /// The image's name.
        image: String,
        /// The mask.
        what: String,
        /// Size of the image.
        expected_hw: [usize; 2],
        /// Size of the mask.
        got_hw: [usize; 2],
    },

    /// A duplicate id or name.
    #[error("{what} must occur once, got it again")]
    Duplicate {
        /// The duplicate, with its ids.
        what: String,
    },

    /// The segmenter failed.
    #[error("image {image}: the segmenter failed: {source}")]
    Segmenter {
        /// The image (the first of several).
        image: String,
        /// The segmenter's reason.
        source: SegmenterError,
    },

    /// The segmenter violated the contract of [`crate::Segmenter`].
    #[error("image {image}: the segmenter must return {expected}, got {got}")]
    Answer {
        /// The image's name.
        image: String,
        /// The expectation.
        expected: String,
        /// The value found.
        got: String,
    },

    /// JSON of another format.
    #[error("{name}: must be {expected}: {source}")]
    Json {
        /// The path or name, as given by the caller.
        name: String,
        /// The expected format.
        expected: &'static str,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },

    /// A well-formed JSON file with inconsistent content.
    #[error("{name}: {what} must be {expected}, got {got}")]
    Content {
        /// The path or name, as given by the caller.
        name: String,
        /// The part of the file.
        what: String,
        /// The expectation.
        expected: String,
        /// The value found.
        got: String,
    },

    /// An invalid mask in a file.
    #[error("{name}: {what}: {source}")]
    Mask {
        /// The path or name, as given by the caller.
        name: String,
        /// The part of the file.
        what: String,
        /// The reason.
        source: ImageError,
    },

    /// Masks that could not be compared.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// A mean over no objects.
    #[error("{metric} must be computed from at least one object, got none")]
    Nothing {
        /// The metric.
        metric: String,
    },

    /// A record without the round that a metric needs.
    #[error(
        "{metric} needs {needed}, got {got} for image {image}, object {object_id}; run the protocol with more clicks, \
         and without an early stop for mIoU"
    )]
    TooFewRounds {
        /// The metric.
        metric: String,
        /// The rounds that it needs.
        needed: String,
        /// The rounds of the record.
        got: String,
        /// The image's name.
        image: String,
        /// The object's id.
        object_id: u64,
    },

    /// Two evaluations of different objects.
    #[error("both evaluations must be of the same images and objects to be compared in pairs, got {difference}")]
    Unpaired {
        /// The first thing that differs.
        difference: String,
    },

    /// A metric that was not computed or does not exist.
    #[error("metric {name} must be one that was computed, got none of this name; {hint}")]
    UnknownMetric {
        /// The requested name.
        name: String,
        /// The nearest names.
        hint: String,
    },

    /// A setting that is out of range or has no effect.
    #[error("{key} must be {expected}, got {got}")]
    Option {
        /// The setting.
        key: &'static str,
        /// The expectation.
        expected: String,
        /// The value found.
        got: String,
    },

    /// A data set without texts, where texts are the prompts.
    #[error(
        "data set {data_set}: must have {expected}, got none for any of its objects; `data check` shows what it has"
    )]
    NoTexts {
        /// The data set's name.
        data_set: String,
        /// "captions", "class names" or either.
        expected: &'static str,
    },

    /// A sample that cannot be read.
    #[error("data set {data_set}, sample {index} (from 0): {source}")]
    Sample {
        /// The data set's name.
        data_set: String,
        /// Index of the sample.
        index: usize,
        /// The reader's reason, with the file.
        source: SampleError,
    },

    /// A detection that is not a valid prompt for its image.
    #[error("{name}: detection {at} (from 0), image {image_id}: {problem}")]
    Detection {
        /// The path or name, as given by the caller.
        name: String,
        /// Index of the detection.
        at: usize,
        /// Id of its image.
        image_id: String,
        /// The violation.
        problem: String,
    },

    /// An image of a report that could not be encoded.
    #[error("image {image}: cannot be encoded for the report: {source}")]
    Encode {
        /// The image's name.
        image: String,
        /// The encoder's reason.
        source: SegmenterError,
    },

    /// The evaluation was interrupted.
    #[error("the evaluation was interrupted after {n_images} of {of_images} images; partial results are not reported")]
    Interrupted {
        /// Completed images.
        n_images: usize,
        /// All images.
        of_images: usize,
    },
}

impl EvalError {
    pub(crate) fn option(key: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Option { key, expected: expected.into(), got: got.to_string() }
    }

    /// Whether the input or the settings are at fault, and not the model or an interruption.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Segmenter { .. } | Self::Answer { .. } | Self::Encode { .. } | Self::Interrupted { .. })
    }
}
