//! Ranks that are threads of one process, one for each of its devices.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::train::Interrupter;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{RankError, Ranks};
use crate::error::LearnError;

/// How often a rank that waits looks whether the run is asked to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Ranks of one process; each is moved to the thread that is that rank. One that is dropped while the others wait is lost.
///
/// # Arguments
/// - `interrupter`: of the run
#[must_use]
pub fn thread_ranks(n: usize, interrupter: &Interrupter) -> Vec<ThreadRank> {
    let meeting = Arc::new(Meeting { state: Mutex::new(State::new(n)), changed: Condvar::new() });
    let rank = |rank| ThreadRank { rank, n, meeting: Arc::clone(&meeting), interrupter: interrupter.clone() };
    (0..n).map(rank).collect()
}

/// Runs each piece of work on a thread of its own, as a rank with its part of the compute threads, and returns what rank 0 found.
///
/// # Errors
///
/// That of the rank that failed first of its own accord.
///
/// # Panics
///
/// When one of them panics.
pub(crate) fn on_threads<T: Send, W: FnOnce(Arc<dyn Ranks>) -> Result<T, LearnError> + Send>(
    work: Vec<W>,
    interrupter: &Interrupter,
) -> Result<T, LearnError> {
    let n = work.len();
    let n_threads = (rayon::current_num_threads() / n.max(1)).max(1);
    let pools: Result<Vec<ThreadPool>, _> =
        (0..n).map(|_| ThreadPoolBuilder::new().num_threads(n_threads).build()).collect();
    let pools = pools.map_err(|error| LearnError::NoThreads { n_shards: n, reason: error.to_string() })?;
    let results: Vec<Result<T, LearnError>> = std::thread::scope(|scope| {
        let ranks = thread_ranks(n, interrupter).into_iter().zip(&pools);
        let threads: Vec<_> = work
            .into_iter()
            .zip(ranks)
            .map(|(work, (rank, pool))| scope.spawn(move || pool.install(|| work(Arc::new(rank)))))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut of_first = None;
    let mut left_alone = None;
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(result) if rank == 0 => of_first = Some(result),
            Ok(_) => {}
            // It failed because another one did.
            Err(error @ (LearnError::Ranks(_) | LearnError::OtherRank { .. })) => {
                left_alone.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (left_alone, of_first) {
        (None, Some(result)) => Ok(result),
        (Some(error), _) => Err(error),
        (None, None) => Err(LearnError::Internal { what: "no rank ran" }),
    }
}

/// A thread of several.
pub struct ThreadRank {
    rank: usize,
    n: usize,
    meeting: Arc<Meeting>,
    interrupter: Interrupter,
}

/// Where the threads leave what they give. A round ends when all have taken what it holds.
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    round: u64,
    given: Vec<Option<Given>>,
    /// Ranks that have not taken what this round holds.
    n_taking: usize,
    /// The first rank that ended.
    left: Option<usize>,
}

#[derive(Clone)]
enum Given {
    Bytes(Arc<Vec<u8>>),
    Values(Arc<Vec<Vec<f32>>>),
}

impl State {
    fn new(n: usize) -> Self {
        Self { round: 0, given: vec![None; n], n_taking: n, left: None }
    }
}

impl ThreadRank {
    /// What all ranks give in this round.
    fn meet(&self, own: Given) -> Result<Vec<Given>, RankError> {
        let mut state = self.lock();
        let round = state.round;
        state.given[self.rank] = Some(own);
        self.meeting.changed.notify_all();
        state = self.wait_until(state, |state| state.given.iter().all(Option::is_some))?;
        let given = state.given.iter().flatten().cloned().collect();
        state.n_taking -= 1;
        if state.n_taking == 0 {
            *state = State { round: round + 1, left: state.left, ..State::new(self.n) };
            self.meeting.changed.notify_all();
        }
        // Nobody gives anything to the next round before all have taken what this one holds.
        drop(self.wait_until(state, |state| state.round > round)?);
        Ok(given)
    }

    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        is_there: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, RankError> {
        while !is_there(&state) {
            match state.left {
                // Whoever stops leaves, too.
                Some(_) if self.interrupter.should_stop() => return Err(RankError::Stopped { rank: self.rank }),
                Some(rank) => {
                    let reason = "it ended before the others".to_owned();
                    return Err(RankError::Lost { rank, n: self.n, reason });
                }
                None => {}
            }
            (state, _) = self.meeting.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ranks for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn n(&self) -> usize {
        self.n
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError> {
        let given = self.meet(Given::Bytes(Arc::new(bytes)))?;
        given
            .into_iter()
            .enumerate()
            .map(|(rank, given)| match given {
                Given::Bytes(bytes) => Ok(Arc::unwrap_or_clone(bytes)),
                Given::Values(_) => Err(self.out_of_step(rank)),
            })
            .collect()
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, RankError> {
        assert_eq!(parts.len(), self.n, "a part for each rank");
        let given = self.meet(Given::Values(Arc::new(parts)))?;
        given
            .into_iter()
            .enumerate()
            .map(|(rank, given)| match given {
                Given::Values(parts) => Ok(parts[self.rank].clone()),
                Given::Bytes(_) => Err(self.out_of_step(rank)),
            })
            .collect()
    }
}

impl ThreadRank {
    fn out_of_step(&self, rank: usize) -> RankError {
        RankError::Unreadable { rank, reason: format!("it is not at the same operation as rank {}", self.rank) }
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        self.lock().left.get_or_insert(self.rank);
        self.meeting.changed.notify_all();
    }
}

impl std::fmt::Debug for ThreadRank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadRank").field("rank", &self.rank).field("n", &self.n).finish_non_exhaustive()
    }
}
