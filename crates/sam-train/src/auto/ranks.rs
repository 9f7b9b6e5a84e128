//! `auto` in several ranks, the processes that `mpirun` or `srun` started: each segments its share of the images into one folder.
//!
//! A thread of every rank meets those of the others at short intervals, whatever the rank computes meanwhile. They exchange what is
//! new: so rank 0 knows what is finished, and a rank that fails or is asked to stop ends all. A process by itself is one rank.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use sam_files::Fingerprint;
use sam_learn::ranks::{RankError, Ranks, Statement, agree, gather};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::{Description, Finished};
use super::inputs::Input;
use super::summary::Note;
use crate::cli::AutoArguments;
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::team::Team;

/// Time between two meetings. `mpirun` of OpenMPI kills what has not ended a second after its signal.
const EVERY: Duration = Duration::from_millis(100);

/// Checks that all ranks are about to do the same.
///
/// # Errors
///
/// With both values, when one is not.
pub(crate) fn check_ranks(
    team: &Team,
    arguments: &AutoArguments,
    description: &Description,
    inputs: &[Input],
) -> Result<(), Failure> {
    if team.ranks.n() == 1 {
        return Ok(());
    }
    let mut names = Fingerprint::new(0);
    for input in inputs {
        names.add_bytes(format!("{} {:?}\n", input.name, input.n_bytes()).as_bytes());
    }
    let AutoArguments { format, candidates, no_overlay, force, .. } = arguments;
    // Each has a copy of its own, perhaps.
    let alike = Description { checkpoint: Default::default(), ..description.clone() };
    let mut statements = vec![
        Statement::new("--format", format!("{format:?}").to_lowercase()),
        Statement::new("--candidates", candidates),
        Statement::new("--no-overlay", no_overlay),
        Statement::new("--force", force),
        Statement::new("the images", format!("{} (names and sizes {:016x})", inputs.len(), names.value())),
    ];
    for (key, value) in serde_json::to_value(alike)?.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(fields) => {
                statements.extend(fields.iter().map(|(field, value)| Statement::new(&format!("{key}.{field}"), value)));
            }
            None => statements.push(Statement::new(key, value)),
        }
    }
    match agree(&*team.ranks, &statements)? {
        None => Ok(()),
        Some(difference) => Err(anyhow!("{difference}")).bad_input(),
    }
}

/// What rank 0 has, which gives it.
pub(crate) fn of_first<T: Serialize + DeserializeOwned>(ranks: &dyn Ranks, own: Option<T>) -> anyhow::Result<T> {
    let first = gather(ranks, &own)?.into_iter().next().flatten();
    first.ok_or_else(|| anyhow!("rank 0 gave nothing: all ranks must run the same build of the program"))
}

/// What is done since the last meeting, or by all ranks since the beginning.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct News {
    /// Images, those that cannot be read included.
    pub(crate) n_done: usize,
    /// Those that are on disk.
    pub(crate) finished: Vec<Finished>,
    /// Those that cannot be read, with their index.
    pub(crate) unreadable: Vec<(usize, Note)>,
    /// Made from stored candidates without the network.
    pub(crate) from_candidates: usize,
    /// Made from stored masks without the network.
    pub(crate) from_masks: usize,
    /// Whether a rank is asked to stop.
    pub(crate) is_stopped: bool,
}

impl News {
    fn add(&mut self, other: Self) {
        let Self { n_done, finished, unreadable, from_candidates, from_masks, is_stopped } = other;
        self.n_done += n_done;
        self.finished.extend(finished);
        self.unreadable.extend(unreadable);
        self.from_candidates += from_candidates;
        self.from_masks += from_masks;
        self.is_stopped |= is_stopped;
    }
}

/// What a rank says at a meeting.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Word {
    news: News,
    /// Nothing more comes from it; why it failed, if it did.
    ended: Option<Result<(), String>>,
}

/// The meetings of this rank with the others.
pub(crate) struct Meetings<'a> {
    team: &'a Team,
    interruption: &'a Interruption,
    own: Mutex<Word>,
    has_ended: Condvar,
    /// Another rank failed or is asked to stop.
    is_called_off: AtomicBool,
}

impl<'a> Meetings<'a> {
    pub(crate) fn new(team: &'a Team, interruption: &'a Interruption) -> Self {
        let (own, has_ended, is_called_off) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Self { team, interruption, own, has_ended, is_called_off }
    }

    /// Whether this rank must end its work.
    pub(crate) fn is_stopped(&self) -> bool {
        self.interruption.is_requested() || self.is_called_off.load(Ordering::Relaxed)
    }

    /// Adds something to tell the others.
    pub(crate) fn tell(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.lock().news);
    }

    /// This rank has no more to do, or failed.
    pub(crate) fn end(&self, result: &anyhow::Result<()>) {
        self.end_with(result.as_ref().map(|&()| ()).map_err(|error| format!("{error:#}")));
    }

    /// Ends this rank when it panics: the thread of the meetings would wait for ever.
    pub(crate) fn guard(&self) -> impl Drop + use<'_, 'a> {
        Guard(self)
    }

    /// Meets the others until all have ended. Returns what all have done; ranks other than the first know the end alone.
    ///
    /// # Arguments
    /// - `on_done`: receives the number of images that all ranks have done
    ///
    /// # Errors
    ///
    /// When another rank fails or is lost.
    pub(crate) fn hold(&self, on_done: &mut dyn FnMut(usize)) -> anyhow::Result<News> {
        let ranks = &*self.team.ranks;
        let (mut all, mut failed) = (News::default(), None);
        loop {
            let word = self.next_word();
            if word.news.is_stopped {
                // Whoever does not come any more is not waited for.
                self.team.interrupter.stop(None);
            }
            let words = match ranks.n() {
                1 => vec![word],
                _ => match gather(ranks, &word) {
                    Ok(words) => words,
                    Err(error) => {
                        self.is_called_off.store(true, Ordering::Relaxed);
                        all.is_stopped = true;
                        return if matches!(error, RankError::Stopped { .. }) { Ok(all) } else { Err(error.into()) };
                    }
                },
            };
            let is_over = words.iter().all(|word| word.ended.is_some());
            let n_before = all.n_done;
            for (rank, Word { mut news, ended }) in words.into_iter().enumerate() {
                if let Some(Err(reason)) = ended {
                    failed.get_or_insert((rank, reason));
                }
                if ranks.rank() > 0 {
                    news = News { is_stopped: news.is_stopped, ..News::default() };
                }
                all.add(news);
            }
            if all.is_stopped || failed.is_some() {
                self.is_called_off.store(true, Ordering::Relaxed);
            }
            if all.n_done > n_before {
                on_done(all.n_done);
            }
            if is_over {
                break;
            }
        }
        // In the order of the images, whoever had them.
        all.unreadable.sort_by_key(|(index, _)| *index);
        match failed {
            None => Ok(all),
            Some((rank, reason)) => Err(anyhow!(
                "rank {rank} of {} failed: {reason}; what is finished stays, and the same command resumes with the others",
                ranks.n()
            )),
        }
    }

    /// What there is to tell after a while, or at the end.
    fn next_word(&self) -> Word {
        let mut own = self.lock();
        if own.ended.is_some() {
            // It was told, and others have not ended.
            drop(own);
            std::thread::sleep(EVERY);
            own = self.lock();
        } else {
            let waited = self.has_ended.wait_timeout_while(own, EVERY, |word| word.ended.is_none());
            (own, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let news = News { is_stopped: self.interruption.is_requested(), ..std::mem::take(&mut own.news) };
        Word { news, ended: own.ended.clone() }
    }

    fn end_with(&self, ended: Result<(), String>) {
        self.lock().ended.get_or_insert(ended);
        self.has_ended.notify_all();
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Word> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Guard<'a, 'b>(&'a Meetings<'b>);

impl Drop for Guard<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end_with(Err("it ended with a panic, or its device has no memory left".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::train::Interrupter;
    use sam_learn::ranks::thread_ranks;

    use super::*;

    type Job<'a> = &'a (dyn Fn(&Meetings<'_>) -> anyhow::Result<()> + Sync);

    /// Ranks that are threads, each with its own end, and what the meetings of all came to.
    fn meet(work: &[Job<'_>]) -> Vec<anyhow::Result<News>> {
        let interrupter = Interrupter::new();
        std::thread::scope(|scope| {
            let ranks = thread_ranks(work.len(), &interrupter).into_iter().zip(work);
            let threads: Vec<_> = ranks
                .map(|(rank, work)| {
                    let team = Team::of_threads(Arc::new(rank), &interrupter);
                    scope.spawn(move || {
                        let interruption = Interruption::of_nobody();
                        let meetings = Meetings::new(&team, &interruption);
                        std::thread::scope(|scope| {
                            let meeting = scope.spawn(|| meetings.hold(&mut |_| ()));
                            let own = work(&meetings);
                            meetings.end(&own);
                            own.and(meeting.join().expect("no panic"))
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    fn unreadable(index: usize) -> impl Fn(&Meetings<'_>) -> anyhow::Result<()> {
        move |meetings| {
            // In another meeting than that of the end.
            meetings.tell(|news| news.n_done += 1);
            std::thread::sleep(EVERY + EVERY / 2);
            meetings.tell(|news| {
                news.n_done += 1;
                news.unreadable.push((index, Note::new("a.png", "damaged")));
            });
            Ok(())
        }
    }

    #[test]
    fn the_first_rank_knows_what_all_have_done() {
        let all = meet(&[&unreadable(5), &unreadable(2), &|_| Ok(())]);
        let all: Vec<News> = all.into_iter().map(|news| news.expect("all came")).collect();
        assert_eq!((all[0].n_done, all[1].n_done), (4, 0));
        let indices: Vec<usize> = all[0].unreadable.iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [2, 5], "in the order of the images");
        assert!(!all[0].is_stopped);
    }

    #[test]
    fn a_rank_that_fails_calls_off_the_others_and_is_named() {
        let endless = |meetings: &Meetings<'_>| {
            while !meetings.is_stopped() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        let all = meet(&[&endless, &|_| Err(anyhow!("the disk is full")), &endless]);
        let errors: Vec<String> = all.into_iter().map(|news| news.expect_err("one failed").to_string()).collect();
        assert_eq!(errors[1], "the disk is full");
        for error in [&errors[0], &errors[2]] {
            assert!(error.starts_with("rank 1 of 3 failed: the disk is full; what is finished stays"), "{error}");
        }
    }

    #[test]
    fn a_panic_ends_the_meetings() {
        let interruption = Interruption::of_nobody();
        let team = Team::alone();
        let meetings = Meetings::new(&team, &interruption);
        std::thread::scope(|scope| {
            let meeting = scope.spawn(|| meetings.hold(&mut |_| ()));
            let panicked = scope.spawn(|| {
                let _guard = meetings.guard();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(panicked.join().is_err());
            assert!(meeting.join().expect("it ended").expect_err("no news").to_string().contains("panic"));
        });
    }
}
