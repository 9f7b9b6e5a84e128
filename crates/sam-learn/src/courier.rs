//! Records from burn-train's learner to our own save.
//!
//! burn's learner gives its optimiser's state only to a checkpointer, one record at a time and on other threads. These
//! checkpointers hand the records over, so that all of a save goes to the disk together, and its errors come back.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};

use crate::error::LearnError;

/// The receiving end.
pub(crate) struct Courier {
    models: Receiver<ModuleRecord>,
    optimisers: Receiver<OptimizerRecord>,
}

/// A checkpointer that hands its records over.
pub(crate) struct Sender<R>(Option<SyncSender<R>>);

/// Both ends.
pub(crate) fn courier() -> (Courier, Sender<ModuleRecord>, Sender<OptimizerRecord>) {
    let (model_sender, models) = sync_channel(1);
    let (optimiser_sender, optimisers) = sync_channel(1);
    (Courier { models, optimisers }, Sender(Some(model_sender)), Sender(Some(optimiser_sender)))
}

impl Courier {
    /// The rates are a function of the step, so their record is empty.
    pub(crate) fn ignoring_rates() -> Sender<LrSchedulerRecord> {
        Sender(None)
    }

    /// What was handed over; to be called after burn's `checkpoint`.
    pub(crate) fn receive(&self) -> Result<(ModuleRecord, OptimizerRecord), LearnError> {
        let gone = |_| LearnError::Internal { what: "a thread of burn-train ended before it handed over its record" };
        Ok((self.models.recv().map_err(gone)?, self.optimisers.recv().map_err(gone)?))
    }
}

impl<R: Checkpoint + Send> Checkpointer<R> for Sender<R> {
    fn save(&self, _epoch: usize, record: R) -> Result<(), CheckpointerError> {
        match &self.0 {
            Some(sender) => sender.send(record).map_err(|error| CheckpointerError::Unknown(error.to_string())),
            None => Ok(()),
        }
    }

    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _epoch: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown("saves are read by sam-learn itself".to_owned()))
    }
}
