//! Whether a training keeps the embeddings of its images, and filling their cache before the first step.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use burn::module::Module;
use burn::tensor::Tensor;
use sam_eval::EvalSet;
use sam_infer::cache::{EmbeddingCache, entry_bytes};
use sam_learn::embeddings::{EmbeddingNeeds, FrozenEmbeddings, Usage};
use sam_learn::task::Validation as Validated;
use sam_learn::{LearnError, freezes_encoder};
use sam_model::weights::host_values;

use crate::config::TrainPlan;
use crate::config::cache::CacheUse;
use crate::disk::size;
use crate::embeddings::{Filled, Filling, Surroundings};
use crate::train::estimate::EmbeddingCost;
use crate::train::inputs::OpenedInputs;
use crate::train::options;

/// What a run does with embeddings.
pub(super) enum Decision {
    /// The encoder runs in each step; a note says why, unless that is plain.
    EachStep { note: Option<String> },
    /// They are kept.
    Kept,
}

/// Decides whether the embeddings of a run are kept, by all of its steps: a resumed run goes on as it began.
///
/// # Errors
///
/// When they must be kept and cannot be.
pub(super) fn decide(plan: &TrainPlan, inputs: &OpenedInputs) -> anyhow::Result<Decision> {
    let cache = &plan.cache;
    let must = match cache.embeddings {
        CacheUse::Off => return Ok(Decision::EachStep { note: None }),
        CacheUse::On => true,
        CacheUse::Auto => false,
    };
    // What is wrong with the patterns is said when they are applied.
    if inputs.teacher.is_none() && !freezes_encoder(&inputs.sam, &options(plan)).unwrap_or(false) {
        if must {
            bail!(
                "cache.embeddings must be \"auto\" or \"off\" where the encoder learns, got \"on\"; \
                 optimiser.freeze = [\"image_encoder\"] freezes it"
            );
        }
        return Ok(Decision::EachStep { note: None });
    }
    let not = |why: String| Decision::EachStep { note: Some(format!("embeddings are not kept: {why}")) };
    let changing = plan.data.augmentation.beyond_flips();
    if !changing.is_empty() {
        return Ok(not(format!(
            "{} changes the images, and {} runs in each step; without, or with flips only, it runs once for each image",
            changing.join(" and "),
            if inputs.teacher.is_some() { "the teacher's encoder" } else { "the encoder" }
        )));
    }
    let bytes_of_one = entry_bytes(&inputs.embedding_sam().config().image_encoder, cache.dtype);
    let max_n = (cache.max_bytes() / bytes_of_one) as usize;
    let usage = needs(plan, inputs, 0).usage(max_n + 1);
    let Usage { n_training, n_draws, n_held_out } = usage;
    let n = n_training + n_held_out;
    if n > max_n {
        let at_least = if n_training > max_n { "at least " } else { "" };
        let why = format!(
            "the run needs {at_least}{n} of {}, {} in all, and cache.max_gib is {}",
            size(bytes_of_one),
            size(n as u64 * bytes_of_one),
            cache.max_gib
        );
        if must {
            bail!(
                "embeddings cannot be kept: {why}; raise it, use dtype = \"f16\" or fewer flips, or cache.embeddings = \"off\""
            );
        }
        return Ok(not(why));
    }
    if !must && n_draws <= n_training as u64 {
        return Ok(not(format!("the {n_draws} images that the run draws are all different")));
    }
    Ok(Decision::Kept)
}

/// What the embeddings of a new run take.
pub(super) fn cost(plan: &TrainPlan, inputs: &OpenedInputs) -> Result<EmbeddingCost, LearnError> {
    /// Faster encoders are timed once more: the first time pays for what happens once.
    const SLOW: Duration = Duration::from_secs(1);
    let sam = inputs.embedding_sam().valid();
    let side = sam.image_size();
    let time = || {
        let image = Tensor::zeros([1, 3, side, side], &sam.device());
        let began = Instant::now();
        host_values(&sam.encode(image).sum());
        began.elapsed()
    };
    let first = time();
    let encode_s = if first < SLOW { time() } else { first }.as_secs_f64();
    let needs = needs(plan, inputs, 0);
    let Usage { n_training, n_held_out, .. } = needs.usage(usize::MAX);
    let mut n_missing = n_training + n_held_out;
    let cache = &plan.cache;
    if cache.dir.is_dir() {
        let opened = EmbeddingCache::open(&cache.dir, &sam.image_encoder, &sam.config().image_encoder, cache.dtype)?;
        let embeddings = FrozenEmbeddings::open(opened, Arc::clone(&inputs.samples))?;
        if let ControlFlow::Continue(survey) = embeddings.survey(&needs, &mut |_, _| ControlFlow::Continue(()))? {
            n_missing = survey.n_missing;
        }
    }
    let n_bytes = n_missing as u64 * entry_bytes(&sam.config().image_encoder, cache.dtype);
    Ok(EmbeddingCost { n_missing, n_bytes, encode_s })
}

/// The cache of a run.
pub(super) fn open(plan: &TrainPlan, inputs: &OpenedInputs) -> Result<FrozenEmbeddings, LearnError> {
    let (sam, cache) = (inputs.embedding_sam(), &plan.cache);
    let opened = EmbeddingCache::open(&cache.dir, &sam.image_encoder, &sam.config().image_encoder, cache.dtype)?;
    FrozenEmbeddings::open(opened, Arc::clone(&inputs.samples))
}

/// Fills the cache, or the part of one of several ranks; `Break` when the run is asked to stop meanwhile.
pub(super) fn fill(
    plan: &TrainPlan,
    inputs: &OpenedInputs,
    embeddings: &FrozenEmbeddings,
    first_step: u64,
    rank_of: (usize, usize),
    surroundings: &Surroundings<'_>,
) -> Result<ControlFlow<Filled, Filled>, LearnError> {
    let needs = needs(plan, inputs, first_step);
    let filling = Filling { embeddings, needs, max_bytes: plan.cache.max_bytes(), rank_of, surroundings };
    filling.run(&inputs.embedding_sam().valid())
}

fn needs<'a>(plan: &TrainPlan, inputs: &'a OpenedInputs, first_step: u64) -> EmbeddingNeeds<'a> {
    // A teacher's masks for the other sets are predicted, and kept in memory.
    let also = |validation: &'a Validated| validation.also.iter().filter(|_| inputs.teacher.is_none());
    let sets = |validation: &'a Validated| validation.sets.iter().chain(also(validation)).cloned().collect();
    let held_out: Vec<EvalSet> = inputs.validation.as_ref().map_or_else(Vec::new, sets);
    let per_step = (plan.data.images_per_batch.get() * plan.optimiser.accumulation.max(1)) as u64;
    let draws = first_step.saturating_mul(per_step)..plan.schedule.steps.saturating_mul(per_step);
    EmbeddingNeeds { samples: &inputs.samples, loader: &inputs.loader, draws, held_out }
}
