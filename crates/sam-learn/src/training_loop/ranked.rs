//! What several ranks of a run tell each other, beside their gradients.

use sam_data::loader::Turns;
use sam_model::weights::fingerprint;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::LearnError;
use crate::ranks::{Ranks, Statement, agree, gather, gather_results};
use crate::record::Progress;
use crate::task::{BatchReport, Task};

/// Checks that all ranks continue from the same step and weights.
pub(super) fn check<T: Task>(ranks: &dyn Ranks, task: &T, progress: &Progress) -> Result<(), LearnError> {
    if ranks.n() == 1 {
        return Ok(());
    }
    let weights = format!("{:016x}", fingerprint(task.network()));
    let own = vec![Statement::new("the step", progress.step), Statement::new("a hash of the weights", weights)];
    match agree(ranks, &own)? {
        None => Ok(()),
        Some(difference) => Err(LearnError::RanksDiffer { difference }),
    }
}

/// What rank 0 has.
pub(super) fn of_first<V: Serialize + DeserializeOwned>(ranks: &dyn Ranks, own: V) -> Result<V, LearnError> {
    if ranks.n() == 1 {
        return Ok(own);
    }
    // Rank 0 takes what the others read, too, so that all have the same bits.
    Ok(gather(ranks, &own)?.into_iter().next().unwrap_or(own))
}

/// The batches of each step that this rank takes.
pub(super) fn turns(ranks: &dyn Ranks, accumulation: usize) -> Result<Turns, LearnError> {
    let n = ranks.n();
    match accumulation.is_multiple_of(n) {
        true => Ok(Turns::of_rank(ranks.rank(), n, accumulation)),
        false => Err(LearnError::BatchesOfRanks { accumulation, n_ranks: n }),
    }
}

/// The reports of all ranks in the order of their batches, and whether any rank is asked to stop.
pub(super) fn reports(
    ranks: &dyn Ranks,
    own: Result<Vec<BatchReport>, LearnError>,
    is_asked_to_stop: bool,
) -> Result<(Vec<BatchReport>, bool), LearnError> {
    let of_ranks = gather_results(ranks, own.map(|reports| (reports, is_asked_to_stop)))?;
    let is_any_asked = of_ranks.iter().any(|(_, is_asked)| *is_asked);
    Ok((of_ranks.into_iter().flat_map(|(reports, _)| reports).collect(), is_any_asked))
}
