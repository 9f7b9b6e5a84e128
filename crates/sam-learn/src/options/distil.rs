//! Distillation: what a student takes from its teacher.

use serde::{Deserialize, Serialize};

/// What a student learns from a teacher, another segmenter with an embedding of the same shape. First the teacher's
/// embeddings alone, without prompts (Zhang 2023, MobileSAM, arXiv 2306.14289 §3.2), then the teacher's masks, with prompts
/// in the loop (Zhou 2023, EdgeSAM, arXiv 2312.06660 §3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilOptions {
    /// Steps from the first on in which the student learns embeddings alone; the others have prompts and masks.
    pub embedding_steps: u64,
    /// Weight of the embedding loss beside that of the masks; embeddings alone have the weight 1.
    pub embedding_weight: f64,
    /// Probability that an object's target is the teacher's mask and not its own. A teacher's mask that covers less than half
    /// of the object is never one.
    pub teacher_share: f64,
}

impl DistilOptions {
    /// Half of the steps for embeddings, and masks of the teacher alone.
    #[must_use]
    pub fn new(steps: u64) -> Self {
        Self { embedding_steps: steps / 2, embedding_weight: 1.0, teacher_share: 1.0 }
    }
}

/// Name of a validation metric: the mean squared error of the embeddings.
pub const EMBEDDING_MSE: &str = "embedding_mse";

/// Name of a validation metric: the mean cosine of the angle between a cell's vectors.
pub const EMBEDDING_COSINE: &str = "embedding_cosine";
