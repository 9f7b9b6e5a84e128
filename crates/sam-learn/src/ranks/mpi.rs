//! Ranks that are processes of MPI, on one machine or on many.
//!
//! One thread makes all calls of MPI, with blocking operations; the run waits for it beside. So a run that is asked to stop while
//! another rank does not come can still save and end: an operation of MPI itself cannot be given up.
//!
//! Source: the MPI standard 4.1, sections 6.6 to 6.8 and 11.2, <https://www.mpi-forum.org/docs/>.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::train::Interrupter;
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::{RankError, Ranks};

/// How often a rank that waits looks whether the run is asked to stop.
const LOOK: Duration = Duration::from_millis(20);

/// How long a rank that is asked to stop waits for the others. `mpirun` of OpenMPI kills what has not ended a second after its
/// signal.
const GRACE: Duration = Duration::from_millis(300);

/// This process among those that `mpirun` or `srun` started.
pub struct MpiRank {
    rank: usize,
    n: usize,
    interrupter: Interrupter,
    line: Mutex<Line>,
}

/// To the thread that calls MPI.
struct Line {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
    /// An operation was given up, and the thread waits in it for ever.
    is_given_up: bool,
}

enum Request {
    Gather(Vec<u8>),
    Exchange(Vec<Vec<f32>>),
    /// All ranks have come to their end.
    Finish,
    /// Ends all ranks.
    Abort,
}

enum Answer {
    Began { rank: usize, n: usize },
    Bytes(Vec<Vec<u8>>),
    Values(Vec<Vec<f32>>),
    Finished,
}

impl MpiRank {
    /// Joins the other processes.
    ///
    /// # Arguments
    /// - `interrupter`: of the run
    ///
    /// # Errors
    ///
    /// When MPI does not start.
    pub fn join(interrupter: &Interrupter) -> Result<Self, RankError> {
        let (requests, of_run) = channel();
        let (to_run, answers) = channel();
        let failed = |reason: String| RankError::NoMpi { reason };
        let thread = std::thread::Builder::new().name("mpi".to_owned()).spawn(move || serve(&of_run, &to_run));
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        let Ok(Answer::Began { rank, n }) = answers.recv() else {
            return Err(failed("MPI_Init_thread failed, or MPI has begun before".to_owned()));
        };
        let line = Mutex::new(Line { requests, answers, thread: Some(thread), is_given_up: false });
        Ok(Self { rank, n, interrupter: interrupter.clone(), line })
    }

    /// Ends this rank in order; all must come. One that is dropped without ends all others.
    pub fn finish(&self) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if ask(self, &mut line, Request::Finish).is_ok() {
            drop(line.thread.take().map(JoinHandle::join));
        }
    }

    fn call(&self, request: Request) -> Result<Answer, RankError> {
        ask(self, &mut self.line.lock().unwrap_or_else(PoisonError::into_inner), request)
    }

    fn lost(&self) -> RankError {
        RankError::Lost { rank: self.rank, n: self.n, reason: "its thread for MPI ended".to_owned() }
    }
}

/// Waits for an answer; when the run is asked to stop, only as long as others may take that stop as well.
fn ask(rank: &MpiRank, line: &mut Line, request: Request) -> Result<Answer, RankError> {
    let stopped = RankError::Stopped { rank: rank.rank };
    if line.is_given_up {
        return Err(stopped);
    }
    line.requests.send(request).map_err(|_| rank.lost())?;
    let mut asked_to_stop: Option<Instant> = None;
    loop {
        match line.answers.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => return Err(rank.lost()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if rank.interrupter.should_stop() && asked_to_stop.get_or_insert_with(Instant::now).elapsed() > GRACE {
            line.is_given_up = true;
            return Err(stopped);
        }
    }
}

impl Ranks for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn n(&self) -> usize {
        self.n
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError> {
        match self.call(Request::Gather(bytes))? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => Err(self.lost()),
        }
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, RankError> {
        assert_eq!(parts.len(), self.n, "a part for each rank");
        match self.call(Request::Exchange(parts))? {
            Answer::Values(values) => Ok(values),
            _ => Err(self.lost()),
        }
    }
}

impl Drop for MpiRank {
    /// The others would wait for ever.
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        if line.thread.is_some() && !line.is_given_up && line.requests.send(Request::Abort).is_ok() {
            // It ends this process, too.
            drop(line.thread.take().map(JoinHandle::join));
        }
    }
}

impl std::fmt::Debug for MpiRank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MpiRank").field("rank", &self.rank).field("n", &self.n).finish_non_exhaustive()
    }
}

/// The thread that calls MPI.
fn serve(requests: &Receiver<Request>, answers: &Sender<Answer>) {
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Serialized) else { return };
    let world = universe.world();
    let began = Answer::Began { rank: world.rank() as usize, n: world.size() as usize };
    let mut is_heard = answers.send(began).is_ok();
    while is_heard {
        let answer = match requests.recv() {
            Ok(Request::Gather(bytes)) => Answer::Bytes(gather_all(&world, &bytes)),
            Ok(Request::Exchange(parts)) => Answer::Values(exchange_all(&world, &parts)),
            Ok(Request::Finish) => {
                world.barrier();
                drop(universe);
                // Nobody waits after a barrier that was given up.
                drop(answers.send(Answer::Finished));
                return;
            }
            Ok(Request::Abort) | Err(_) => break,
        };
        is_heard = answers.send(answer).is_ok();
    }
    world.abort(1);
}

/// Counts are 32-bit numbers in MPI.
fn count(n: usize) -> i32 {
    i32::try_from(n).expect("fewer than 2^31 values at once")
}

/// Where each part begins, and the sum of all.
fn places(counts: &[i32]) -> (Vec<i32>, usize) {
    let mut at = 0_usize;
    let places = counts.iter().map(|&n| (count(at), at += n as usize).0).collect();
    (places, at)
}

fn split<T: Clone>(values: &[T], counts: &[i32], places: &[i32]) -> Vec<Vec<T>> {
    counts.iter().zip(places).map(|(&n, &at)| values[at as usize..][..n as usize].to_vec()).collect()
}

fn gather_all(world: &SimpleCommunicator, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut counts = vec![0_i32; world.size() as usize];
    world.all_gather_into(&count(bytes.len()), &mut counts[..]);
    let (places, n) = places(&counts);
    let mut all = vec![0_u8; n];
    world.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut all[..], &counts[..], &places[..]));
    split(&all, &counts, &places)
}

fn exchange_all(world: &SimpleCommunicator, parts: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let sent: Vec<i32> = parts.iter().map(|part| count(part.len())).collect();
    let mut received = vec![0_i32; sent.len()];
    world.all_to_all_into(&sent[..], &mut received[..]);
    let (from, (to, n)) = (places(&sent).0, places(&received));
    let mut values = vec![0_f32; n];
    world.all_to_all_varcount_into(
        &Partition::new(&parts.concat()[..], &sent[..], &from[..]),
        &mut PartitionMut::new(&mut values[..], &received[..], &to[..]),
    );
    split(&values, &received, &to)
}
