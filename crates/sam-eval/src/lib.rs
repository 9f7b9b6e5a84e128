//! Protocols and metrics over any predictor: a model comes in through [`Segmenter`], ours as [`PredictorSegmenter`].
//!
//! - **All of it.** [`evaluate()`] plays protocols over the samples of data sets and gives [`Results`]; a training run's
//!   validation calls the same.
//! - **Clicks.** [`run_interactive`] plays the simulated annotator of the field on the objects of some images and gives
//!   one [`ObjectRecord`] each: the IoU after every prompt. From the records alone come [`ClickMetrics`] (mIoU@k, oracle,
//!   NoC, failures) of any group, and the [`Calibration`] of the predicted IoU.
//! - **AP and AR.** [`evaluate_coco`] and [`evaluate_lvis`] give the arrays that `pycocotools` and `lvis` give, to the
//!   last bit, from the same JSON files.
//! - **Classes.** [`Questions`] says how often a classifier of frozen features is right, and whether another is better.
//! - **Afterwards.** [`Results`] is what is written and read again, [`mod@bootstrap`] says how sure one can be of a number or
//!   of a difference, [`mod@gate`] turns numbers into pass or fail, [`Report`] shows them to people and to CI.
//!
//! Nothing here depends on the size of a batch, the number of threads or the order of the images.

mod error;

pub mod average_precision;
mod axis;
pub mod bootstrap;
pub mod box_prompts;
pub mod calibration;
pub mod chart;
pub mod classification;
pub mod click_metrics;
pub mod clicks;
pub mod coco_ap;
pub mod coco_json;
pub mod comparison;
pub mod eval_set;
pub mod evaluate;
pub mod gallery;
pub mod gate;
pub mod interactive;
pub mod junit;
pub mod lvis_ap;
pub mod metric;
mod numpy_mean;
pub mod object_record;
pub mod page;
pub mod predictor;
pub mod report;
mod report_charts;
mod report_tables;
pub mod results;
pub mod segmenter;
pub mod trial;

pub use average_precision::{AreaRange, IouKind, PrecisionRecall};
pub use bootstrap::{Bootstrap, Interval, Pairing};
pub use box_prompts::{BoxPrompts, mask_metrics, segment_boxes};
pub use calibration::Calibration;
pub use classification::{ClassScores, Questions};
pub use click_metrics::{ClickMetrics, ClickMetricsConfig};
pub use clicks::{Click, Clicker};
pub use coco_ap::{Categories, CocoConfig, evaluate_coco};
pub use coco_json::{Detection, Detections, Segmentation, Truth};
pub use comparison::{ComparisonRow, compare};
pub use error::EvalError;
pub use eval_set::{EvalImage, EvalImages, EvalSet, read_images};
pub use evaluate::{EvalProgress, EvalProtocol, Evaluation, evaluate, metric_names};
pub use gallery::Extremes;
pub use gate::{Gate, GateCheck, GateConfig, Verdict};
pub use interactive::{ImageTask, Outcome, Target, run_interactive};
pub use lvis_ap::{Frequency, LvisResult, evaluate_lvis};
pub use metric::{Better, Metric, Metrics, Unit};
pub use object_record::{ObjectRecord, Round, RoundPrompt, SizeBucket};
pub use page::{Gallery, GalleryItem, Page, Section, Table};
pub use predictor::PredictorSegmenter;
pub use report::{Model, Report};
pub use results::{DataSetResults, Results, Run};
pub use segmenter::{Candidate, MaskSelection, Prompt, Segmenter, SegmenterError, most_confident};
pub use trial::{Boundary, FirstClick, FirstMasks, MaskFeedback, Protocol, Start};
