//! What of a segmenter learns: patterns over official keys, and the adapters of [`super::adapt`].

use std::collections::BTreeSet;

use sam_model::Sam;

use super::parameters::{NamedParameter, parameters, set_learning};
use super::patterns::{is_matched, nearest};
use crate::error::LearnError;
use crate::options::OptimiserOptions;

/// Marks a factor of an adapter in its key.
const FACTOR: &str = ".lora_A.weight";

/// Selects what learns: what matches `learn` (empty: everything), without what matches `freeze`. Adapters always learn, and
/// beside them the image encoder and the adapted layers are frozen.
///
/// # Errors
///
/// When a pattern matches nothing that it could change, or nothing is left to learn.
pub fn choose_learning(sam: Sam, options: &OptimiserOptions) -> Result<Sam, LearnError> {
    let all = parameters(&sam);
    let adapted: BTreeSet<String> = all.iter().filter_map(|p| Some(p.key.strip_suffix(FACTOR)?.to_owned())).collect();
    let is_beside = |key: &str| {
        let layer = key.rsplit_once('.').map_or(key, |(layer, _)| layer);
        !adapted.is_empty() && (key.starts_with("image_encoder.") || adapted.contains(layer))
    };
    // Buffers never learn; weights that an adapter has frozen already can still be named.
    let can_learn = |p: &&NamedParameter| !is_factor(&p.key) && (p.learns || is_beside(&p.key));
    let keys: Vec<&str> = all.iter().filter(can_learn).map(|p| p.key.as_str()).collect();
    for pattern in &options.learn {
        let free = || keys.iter().copied().filter(|key| !is_beside(key));
        if !free().any(|key| is_matched(key, pattern)) {
            let example = nearest(pattern, free());
            return Err(LearnError::LearnsNothing {
                pattern: pattern.clone(),
                example,
                has_adapters: !adapted.is_empty(),
            });
        }
    }
    let is_chosen = |key: &str| options.learn.is_empty() || options.learn.iter().any(|p| is_matched(key, p));
    for pattern in &options.freeze {
        let chosen = || keys.iter().copied().filter(|key| is_chosen(key));
        if !chosen().any(|key| is_matched(key, pattern)) {
            return Err(LearnError::FreezesNothing { pattern: pattern.clone(), example: nearest(pattern, chosen()) });
        }
    }
    let is_frozen = |key: &str| is_beside(key) || options.freeze.iter().any(|p| is_matched(key, p));
    let learns = |key: &str| is_factor(key) || (is_chosen(key) && !is_frozen(key));
    if adapted.is_empty() && !keys.iter().any(|key| learns(key)) {
        return Err(LearnError::NothingLearns);
    }
    Ok(set_learning(sam, learns))
}

/// Whether a key is that of a factor of an adapter.
pub(super) fn is_factor(key: &str) -> bool {
    key.contains(".lora_A.") || key.contains(".lora_B.")
}

/// True when no parameter of the image encoder learns; it then needs no gradients at all.
pub(crate) fn is_encoder_frozen(sam: &Sam) -> bool {
    !parameters(sam).iter().any(|p| p.learns && p.key.starts_with("image_encoder."))
}

/// Official keys of what learns, without adapters.
pub(crate) fn learned_keys(sam: &Sam) -> BTreeSet<String> {
    parameters(sam).into_iter().filter(|p| p.learns && !is_factor(&p.key)).map(|p| p.key).collect()
}
