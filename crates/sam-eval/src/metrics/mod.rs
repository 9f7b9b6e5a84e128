//! Metrics over records and detections, their confidence intervals, and the results tree that holds them.

pub(crate) mod average_precision;
pub(crate) mod bootstrap;
pub(crate) mod calibration;
pub(crate) mod classification;
pub(crate) mod click_metrics;
pub(crate) mod coco_ap;
pub(crate) mod coco_json;
pub(crate) mod comparison;
pub(crate) mod lvis_ap;
pub(crate) mod metric;
mod numpy_mean;
pub(crate) mod proposal_recall;
pub(crate) mod results;
pub(crate) mod text_metrics;
