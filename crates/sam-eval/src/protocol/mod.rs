//! Interactive protocols, in which a simulated annotator prompts a segmenter round by round, and texts as prompts.

pub(crate) mod clicks;
pub(crate) mod interactive;
pub(crate) mod object_record;
pub(crate) mod predictor;
pub(crate) mod segmenter;
pub(crate) mod settings;
pub(crate) mod task;
pub(crate) mod text;
pub(crate) mod text_record;
mod trial;
