//! Ranks: the processes or threads that train one network together, each on its share of the batches of a step.
//!
//! Every rank holds the whole network. Their gradients are summed pairwise in the order of the ranks, so every one of them makes the
//! same optimiser step, and one rank alone makes it, too, to the bit where the ranks' numbers of batches are powers of two; rank 0
//! alone writes. All operations here are collective: each rank calls them in the same order.

mod agreement;
mod gradients;
#[cfg(feature = "mpi")]
mod mpi;
mod threads;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::LearnError;
use crate::pairwise::PairwiseSum;

pub use agreement::{Statement, agree};
pub(crate) use gradients::sum_gradients;
#[cfg(feature = "mpi")]
pub use mpi::MpiRank;
pub(crate) use threads::on_threads;
pub use threads::{ThreadRank, thread_ranks};

/// One of several ranks, as the others see it.
pub trait Ranks: Send + Sync + Debug {
    /// Index of this rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn n(&self) -> usize;

    /// The bytes that every rank gives, in the order of the ranks.
    ///
    /// # Errors
    ///
    /// When a rank is lost, or the run is asked to stop and the others do not come.
    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError>;

    /// Gives the nth part to rank n, and returns the parts that every rank has for this one, in the order of the ranks.
    ///
    /// # Errors
    ///
    /// As [`Ranks::gather`].
    ///
    /// # Panics
    ///
    /// When there is not one part for each rank.
    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, RankError>;
}

/// Why ranks do not work together any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// A rank ended, with an error or killed.
    #[error("rank {rank} of {n} is lost: {reason}")]
    Lost {
        /// Index of the rank.
        rank: usize,
        /// Number of ranks.
        n: usize,
        /// Why, as far as it is known.
        reason: String,
    },
    /// MPI does not start.
    #[error("MPI cannot be used: {reason}")]
    NoMpi {
        /// Why, as far as it is known.
        reason: String,
    },
    /// The run is asked to stop, and not all ranks came.
    #[error("the run was asked to stop while rank {rank} waited for the others")]
    Stopped {
        /// Index of the rank that waited.
        rank: usize,
    },
    /// Ranks sent something that this one cannot read: they are not of the same version.
    #[error("rank {rank} sent what cannot be read ({reason}): all ranks must run the same build of the program")]
    Unreadable {
        /// Index of the rank that sent it.
        rank: usize,
        /// Why it cannot be read.
        reason: String,
    },
}

/// A single rank.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn n(&self) -> usize {
        1
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError> {
        Ok(vec![bytes])
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, RankError> {
        Ok(parts)
    }
}

/// What every rank says, in the order of the ranks.
///
/// # Errors
///
/// As [`Ranks::gather`].
pub fn gather<T: Serialize + DeserializeOwned>(ranks: &dyn Ranks, own: &T) -> Result<Vec<T>, RankError> {
    gather_as(ranks, own)
}

/// As [`gather`], of something that is written as a `T`.
fn gather_as<S: Serialize, T: DeserializeOwned>(ranks: &dyn Ranks, own: &S) -> Result<Vec<T>, RankError> {
    let unreadable = |rank: usize, error: &serde_json::Error| RankError::Unreadable { rank, reason: error.to_string() };
    let own = serde_json::to_vec(own).map_err(|error| unreadable(ranks.rank(), &error))?;
    let read =
        |(rank, bytes): (usize, Vec<u8>)| serde_json::from_slice(&bytes).map_err(|error| unreadable(rank, &error));
    ranks.gather(own)?.into_iter().enumerate().map(read).collect()
}

/// What every rank computed, in the order of the ranks. An error of one is an error of all.
///
/// # Errors
///
/// That of this rank, or of another one, or as [`Ranks::gather`].
pub(crate) fn gather_results<T: Serialize + DeserializeOwned>(
    ranks: &dyn Ranks,
    own: Result<T, LearnError>,
) -> Result<Vec<T>, LearnError> {
    if ranks.n() == 1 {
        return Ok(vec![own?]);
    }
    let said: Result<&T, String> = own.as_ref().map_err(ToString::to_string);
    let gathered = gather_as::<_, Result<T, String>>(ranks, &said);
    // The own error says more.
    own?;
    let of_rank =
        |(rank, result): (usize, Result<T, String>)| result.map_err(|reason| LearnError::OtherRank { rank, reason });
    gathered?.into_iter().enumerate().map(of_rank).collect()
}

/// What every rank found in its part of a validation, in the order of the ranks; `own` is `None` when the run is asked to stop
/// meanwhile.
///
/// # Errors
///
/// As [`gather_results`], and [`LearnError::ValidationStopped`] when any rank was asked to stop.
pub(crate) fn gather_parts<T: Serialize + DeserializeOwned>(
    ranks: &dyn Ranks,
    own: Result<Option<T>, LearnError>,
) -> Result<Vec<T>, LearnError> {
    let parts: Option<Vec<T>> = gather_results(ranks, own)?.into_iter().collect();
    parts.ok_or(LearnError::ValidationStopped)
}

/// Sums values over the ranks, element by element and pairwise in the order of the ranks: every rank gets the same bits. Each rank
/// sums one part of them, so that the traffic does not grow with the number of ranks: about twice the values, in and out.
pub(crate) fn sum(ranks: &dyn Ranks, values: Vec<f32>) -> Result<Vec<f32>, RankError> {
    let n = ranks.n();
    if n == 1 {
        return Ok(values);
    }
    let n_values = values.len();
    let parts: Vec<Vec<f32>> =
        (0..n).map(|rank| values[rank * n_values / n..(rank + 1) * n_values / n].to_vec()).collect();
    drop(values);
    let plus = |mut sum: Vec<f32>, part: Vec<f32>| {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        sum
    };
    let mut sum = PairwiseSum::new();
    ranks.exchange(parts)?.into_iter().for_each(|part| sum.add(part, plus));
    let sum = sum.finish(plus).unwrap_or_default();
    Ok(ranks.exchange(vec![sum; n])?.concat())
}

#[cfg(test)]
mod tests;
