//! The processes that `mpirun` or `srun` started as one training, or to segment the images of one folder.

use std::sync::Arc;

use anyhow::{Result, bail};
use burn::train::Interrupter;
use sam_learn::ranks::{Alone, Ranks};

/// This process and those that work with it.
pub(crate) struct Team {
    pub(crate) ranks: Arc<dyn Ranks>,
    /// Of the run.
    pub(crate) interrupter: Interrupter,
    #[cfg(feature = "mpi")]
    mpi: Option<Arc<sam_learn::ranks::MpiRank>>,
}

/// How many processes were started, and which of them this is, as the launchers of OpenMPI, MPICH and Slurm say it: the names of
/// their variables, of the index among all, among those of this machine, and the number.
const LAUNCHERS: [[&str; 3]; 3] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"],
    ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"],
];

/// One of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Launched {
    rank: usize,
    /// Index on its machine.
    local_rank: usize,
    n: usize,
}

impl Launched {
    fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse().ok();
        LAUNCHERS.into_iter().find_map(|[rank, local_rank, n]| {
            let (rank, n) = (number(rank)?, number(n)?);
            (n > 1).then(|| Self { rank, local_rank: number(local_rank).unwrap_or(rank), n })
        })
    }
}

fn launched() -> Option<Launched> {
    Launched::of_environment(|name| std::env::var(name).ok())
}

/// The device of this process for a device of the plan: where several processes of a machine have CUDA, each takes its own.
pub(crate) fn device_of_process(device: &str) -> String {
    match launched() {
        Some(Launched { local_rank, .. }) if device == "cuda" => format!("cuda:{local_rank}"),
        _ => device.to_owned(),
    }
}

/// Before a line of this process, where there are several; nothing for the first.
pub(crate) fn prefix() -> String {
    match launched() {
        Some(Launched { rank, .. }) if rank > 0 => format!("rank {rank}: "),
        _ => String::new(),
    }
}

impl Team {
    /// A process by itself.
    pub(crate) fn alone() -> Self {
        Self {
            ranks: Arc::new(Alone),
            interrupter: Interrupter::new(),
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }

    /// A rank that is a thread.
    #[cfg(test)]
    pub(crate) fn of_threads(ranks: Arc<dyn Ranks>, interrupter: &Interrupter) -> Self {
        Self {
            ranks,
            interrupter: interrupter.clone(),
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }

    /// Joins the processes that were started with this one, where there are any.
    ///
    /// # Errors
    ///
    /// When there are some and this build has no MPI, or MPI does not start.
    pub(crate) fn join() -> Result<Self> {
        match launched() {
            None => Ok(Self::alone()),
            Some(launched) => Self::joined(launched),
        }
    }

    #[cfg(feature = "mpi")]
    fn joined(launched: Launched) -> Result<Self> {
        let interrupter = Interrupter::new();
        let mpi = Arc::new(sam_learn::ranks::MpiRank::join(&interrupter)?);
        if mpi.n() != launched.n {
            bail!(
                "the launcher started {} processes, and MPI sees {}: it is of another MPI than the one that this program was \
                 built with",
                launched.n,
                mpi.n()
            );
        }
        let ranks: Arc<dyn Ranks> = Arc::clone(&mpi) as Arc<dyn Ranks>;
        Ok(Self { ranks, interrupter, mpi: Some(mpi) })
    }

    #[cfg(not(feature = "mpi"))]
    fn joined(Launched { n, .. }: Launched) -> Result<Self> {
        bail!(
            "{n} processes were started, and this build has no MPI, so each would work by itself; build with `cargo build \
             --release --features mpi`, or start one"
        )
    }

    /// Whether this process writes.
    pub(crate) fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// The end, to which all come. Without it, dropping a team ends the other processes.
    pub(crate) fn finish(&self) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            mpi.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_say_which_process_this_is() {
        let of = |variables: &[(&str, &str)]| {
            Launched::of_environment(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let open_mpi =
            [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "8")];
        assert_eq!(of(&open_mpi), Some(Launched { rank: 5, local_rank: 1, n: 8 }));
        assert_eq!(of(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), Some(Launched { rank: 1, local_rank: 1, n: 2 }));
        // A job of one process, and a shell in a job.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")]), None);
        assert_eq!(of(&[("SLURM_JOB_ID", "7")]), None);
    }
}
