//! The embeddings of an evaluation, kept on disk: several checkpoints with the same encoder share them.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::anyhow;
use sam_data::loader::{ErrorPolicy, LoaderOptions, Samples, Subset};
use sam_eval::EvalSet;
use sam_infer::cache::{EmbeddingCache, entry_bytes};
use sam_learn::embeddings::{EmbeddingNeeds, FrozenEmbeddings};
use sam_model::Sam;

use crate::config::cache::EvaluateCachePlan;
use crate::disk::size;
use crate::embeddings::{Filling, Surroundings};
use crate::failure::{BadInput, Failure};

/// Computes the embeddings that are missing.
pub(super) fn fill(
    plan: &EvaluateCachePlan,
    sam: &Sam,
    sets: &[EvalSet],
    say: &dyn Fn(&str),
) -> Result<Arc<EmbeddingCache>, Failure> {
    let config = &sam.config().image_encoder;
    let n_images: usize = sets.iter().map(|set| set.indices.len()).sum();
    let n_bytes = n_images as u64 * entry_bytes(config, plan.dtype);
    if n_bytes > plan.max_bytes() {
        let needed = size(n_bytes);
        return Err(anyhow!(
            "cache.max_gib must be large enough for the embeddings of {n_images} images, {needed}, got {}; raise it, or \
             evaluate without --cache",
            plan.max_gib
        ))
        .bad_input();
    }
    let cache = EmbeddingCache::open(&plan.dir, &sam.image_encoder, config, plan.dtype)?;
    // Nothing is drawn: all images are held-out ones.
    let samples: Arc<dyn Samples> = match sets.first() {
        Some(set) => Arc::new(Subset { samples: Arc::clone(&set.samples), indices: Vec::new() }),
        None => return Ok(Arc::new(cache)),
    };
    let loader = LoaderOptions { on_error: ErrorPolicy::Stop, ..LoaderOptions::default() };
    let embeddings = FrozenEmbeddings::open(cache, Arc::clone(&samples))?;
    let needs = EmbeddingNeeds { samples: &samples, loader: &loader, draws: 0..0, held_out: sets.to_vec() };
    let surroundings = Surroundings { say, is_stopped: &|| false };
    let max_bytes = plan.max_bytes();
    let filling = Filling { embeddings: &embeddings, needs, max_bytes, rank_of: (0, 1), surroundings: &surroundings };
    let (ControlFlow::Continue(_) | ControlFlow::Break(_)) = filling.run(sam)?;
    Ok(Arc::clone(embeddings.cache()))
}
