//! The record of a run: events and their observers, logs, previews, saves, the report.

mod checkpoint_files;
mod checksum;
mod events;
mod headline;
mod previews;
mod run_curves;
mod run_lock;
mod run_log;
mod run_report;
mod saved_state;
mod tensorboard;
mod validation_details;

pub use events::{DistillationTerms, Observer, RunEvent, RunStart, SegmentationTerms, StepRecord, ValidationRecord};
pub use headline::{also_parts, is_headline};
pub use run_lock::{LOCK_FILE, RunLock};
pub use run_log::RunHistory;
pub use run_report::{REPORT_FILE, RunReport, duration, rate};
pub use saved_state::{Progress, SavedState, Saves, Scores};

pub(crate) use checkpoint_files::{CheckpointFiles, CheckpointProblem};
pub(crate) use events::Observers;
pub(crate) use headline::also_name;
pub(crate) use previews::{PREVIEWS_FOLDER, draw as draw_preview, write as write_preview};
pub(crate) use run_log::{LOG_FILE, MetricsLog};
pub(crate) use tensorboard::TensorBoard;
pub(crate) use validation_details::{Details, FOLDER as VALIDATION_FOLDER, Which};

/// The best checkpoint in a run folder.
pub const BEST_FILE: &str = "best.safetensors";
/// The last checkpoint in a run folder.
pub(crate) const LAST_FILE: &str = "last.safetensors";
/// Folder of the adapters of the best checkpoint.
pub const ADAPTER_FOLDER: &str = "adapter";
/// Folder of the adapters of the last checkpoint.
pub const LAST_ADAPTER_FOLDER: &str = "adapter-last";
/// Folder of saves in a run folder.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
