//! Evaluation: protocols and metrics for any promptable segmenter, implemented as [`Segmenter`]; the project's own is
//! [`PredictorSegmenter`].
//!
//! - **Data sets.** [`evaluate()`] runs protocols over the samples of data sets and returns [`Results`]; the validation of a
//!   training run calls it too.
//! - **Clicks.** [`run_interactive`] simulates the annotator on the objects of some images and returns one
//!   [`ObjectRecord`] each: the IoU after every prompt. [`ClickMetrics`] (mIoU@k, oracle, NoC, failures) of any group, and
//!   the [`Calibration`] of the predicted IoU, are computed from the records alone.
//! - **Texts.** With a [`TextProtocol`], every text of an image is a prompt, alone and with one click; [`TextRecord`]s hold
//!   what it found. The vectors come from whoever knows a CLIP.
//! - **AP and AR.** [`evaluate_coco`] and [`evaluate_lvis`] equal `pycocotools` and `lvis` to the last bit, on the same JSON
//!   files.
//! - **Proposals and edges.** [`ProposalRecall`] measures masks without prompts, [`MaskEdges`] turns them into edge maps, and
//!   [`count_edges`] with [`EdgeScores`] is the benchmark of BSDS500.
//! - **Classification.** [`LabelledObjects`] scores and compares classifiers on frozen features.
//! - **Reporting.** [`Bootstrap`] configures confidence intervals, [`Gate`] turns metrics into pass or fail, and [`Report`]
//!   renders results for people and CI.
//!
//! Results depend neither on the batch size, nor on the number of threads, nor on the order of the images.
//!
//! A scripted segmenter under the click protocol:
//!
//! ```
//! use sam_eval::{
//!     Candidate, ImageTask, MaskSelection, Prompt, Protocol, Segmenter, SegmenterError, Target, run_interactive,
//! };
//! use sam_image::{Mask, RgbImage, Rle};
//!
//! /// Segments the left half of every image.
//! struct LeftHalf;
//!
//! impl Segmenter for LeftHalf {
//!     type Embedding = [usize; 2];
//!     type Logits = ();
//!
//!     fn embed(&self, image: &RgbImage) -> Result<[usize; 2], SegmenterError> {
//!         Ok([image.height() as usize, image.width() as usize])
//!     }
//!
//!     fn segment(
//!         &self,
//!         embeddings: &[&[usize; 2]],
//!         prompts: &[(usize, Prompt<'_, ()>)],
//!         _selection: MaskSelection,
//!     ) -> Result<Vec<Vec<Candidate<()>>>, SegmenterError> {
//!         let left_half = |size_hw: [usize; 2]| Mask::from_fn(size_hw, |_, column| column < size_hw[1] / 2);
//!         let answer = |&(image, _): &(usize, Prompt<'_, ()>)| {
//!             vec![Candidate { mask: left_half(*embeddings[image]), predicted_iou: 1.0, logits: () }]
//!         };
//!         Ok(prompts.iter().map(answer).collect())
//!     }
//! }
//!
//! let image = RgbImage::new(8, 4);
//! // The object is the left quarter, so the segmenter's IoU is 1/2 after every click.
//! let mask = Rle::from_mask(&Mask::from_fn([4, 8], |_, column| column < 2));
//! let objects = [Target { id: 1, mask: &mask, class: None }];
//! let task = ImageTask { data_set: "demo", name: "a.png", image: &image, objects: &objects, ignore: None };
//!
//! let outcomes = run_interactive(&LeftHalf, &Protocol { n_clicks: 3, ..Protocol::default() }, &[task])?;
//! let ious: Vec<f64> = outcomes[0].record.rounds.iter().map(|round| round.iou).collect();
//! assert_eq!(ious, [0.5, 0.5, 0.5]);
//! # Ok::<(), sam_eval::EvalError>(())
//! ```

mod box_prompts;
mod data_texts;
mod edges;
mod error;
mod eval_set;
mod evaluate;
mod metrics;
mod proposals;
mod protocol;
mod report;

pub use box_prompts::{BoxPrompts, mask_metrics, segment_boxes};
pub use data_texts::{DataTexts, PromptVectors, TextKind, TextSource, mean_direction};
pub use edges::{
    EdgeCounts, EdgeMap, EdgeOptions, EdgeScores, EdgeSuppression, EdgeTolerance, MaskEdge, MaskEdges, N_THRESHOLDS,
    ThresholdCounts, count_edges, edge_map, edge_metrics, thin,
};
pub use error::{EvalError, SegmenterError};
pub use eval_set::{EvalImage, EvalImages, EvalSet, read_images};
pub use evaluate::{
    EvalProgress, EvalProtocol, EvalProtocols, Evaluation, EvaluationPart, evaluate, metric_names, text_metric_names,
};
pub use metrics::average_precision::{AreaRange, IouKind, N_IOU, N_RECALL, PrecisionRecall, Select};
pub use metrics::bootstrap::{Bootstrap, FEWEST_IMAGES, Interval};
pub use metrics::calibration::{Calibration, CalibrationBin};
pub use metrics::classification::{ClassScores, LabelledObjects};
pub use metrics::click_metrics::{ClickMetrics, ClickMetricsConfig, NOC_CAP};
pub use metrics::coco_ap::{CocoConfig, evaluate_coco};
pub use metrics::coco_json::{
    Categories, CocoAnnotation, CocoCategory, CocoImage, Counts, Detection, Detections, GroundTruth, Segmentation,
};
pub use metrics::comparison::{ComparisonRow, DataSetInterval, compare, data_set_intervals};
pub use metrics::lvis_ap::{Frequency, LvisResult, evaluate_lvis};
pub use metrics::metric::{Better, Metric, Metrics, Unit};
pub use metrics::proposal_recall::{Proposal, ProposalRecall, ProposalTarget, ProposalTruth, proposal_targets};
pub use metrics::results::{DataSetResults, Results, Run};
pub use proposals::{ProposalOptions, Ranking, propose};
pub use protocol::clicks::{Click, Clicker, tight_box_xyxy_px};
pub use protocol::interactive::run_interactive;
pub use protocol::object_record::{ObjectRecord, Round, RoundPrompt, SizeBucket};
pub use protocol::predictor::PredictorSegmenter;
pub use protocol::segmenter::{Candidate, MaskSelection, Prompt, Segmenter};
pub use protocol::settings::{Boundary, FirstClick, FirstMasks, MaskFeedback, Protocol, Start};
pub use protocol::task::{ImageTask, Outcome, Target};
pub use protocol::text::TextProtocol;
pub use protocol::text_record::{TextCounts, TextRecord, TextRun, TextSettings};
pub use report::chart;
pub use report::content::{Model, Report};
pub use report::gallery::{Extremes, galleries, gallery_item, jpeg_data_uri};
pub use report::gate::{Gate, GateCheck, GateConfig, Verdict};
pub use report::junit::junit_xml;
pub use report::page::{Gallery, GalleryItem, Page, Section, Table};
