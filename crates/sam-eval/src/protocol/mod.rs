//! Interactive protocols: a simulated annotator prompts a segmenter round by round.

pub(crate) mod clicks;
pub(crate) mod interactive;
pub(crate) mod object_record;
pub(crate) mod predictor;
pub(crate) mod segmenter;
pub(crate) mod settings;
pub(crate) mod task;
mod trial;
