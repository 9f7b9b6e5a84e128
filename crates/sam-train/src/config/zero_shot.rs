//! `[proposals]` and `[edges]` of `task = "evaluate"`: the zero-shot evaluations that stand on automatic masks.

use std::path::PathBuf;

use sam_eval::{EdgeOptions, EdgeSuppression, EdgeTolerance, ProposalOptions, Ranking};
use sam_infer::automatic::MasksPerPoint;
use serde::Serialize;

use super::evaluate::ProtocolKind;
use super::ranges::SHARE_ABOVE_0;
use super::reader::Section;

/// Object proposals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProposalsPlan {
    /// Points along each side of the image.
    pub(crate) points_per_side: usize,
    /// Points in one call of the decoder.
    pub(crate) points_per_batch: usize,
    /// Masks per point.
    pub(crate) masks_per_point: MasksPerPoint,
    /// IoU of boxes above which masks are duplicates.
    pub(crate) box_nms: f64,
    /// What ranks them.
    pub(crate) ranking: Ranking,
    /// Limits on proposals per image.
    pub(crate) max_dets: Vec<usize>,
}

/// Edges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EdgesPlan {
    /// A folder of edge maps that are scored as they are, without a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maps: Option<PathBuf>,
    /// How they are made, unless they are given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<EdgesMadePlan>,
    /// The largest distance of a match, as a fraction of the diagonal.
    pub(crate) tolerance: f64,
}

/// How edges are made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EdgesMadePlan {
    /// Points along each side of the image.
    pub(crate) points_per_side: usize,
    /// Points in one call of the decoder.
    pub(crate) points_per_batch: usize,
    /// IoU of boxes above which masks are duplicates.
    pub(crate) box_nms: f64,
    /// The rule by which edge pixels are suppressed.
    pub(crate) suppression: EdgeSuppression,
}

/// Points along a side; more masks than 3 x 256 x 256 fit no memory.
const POINTS_PER_SIDE: std::ops::RangeInclusive<usize> = 1..=256;

impl ProposalsPlan {
    pub(super) fn read(top: &Section<'_>, kind: ProtocolKind) -> Option<Self> {
        let is_used = kind == ProtocolKind::Proposals;
        top.only_if(is_used, "protocol", &["proposals"], "protocol.kind = \"proposals\"");
        let section = top.section("proposals");
        let default = ProposalOptions::default();
        let masks = [("three", MasksPerPoint::Three), ("one", MasksPerPoint::One)];
        let rankings = [
            ("mean", Ranking::Mean),
            ("predicted_iou", Ranking::PredictedIou),
            ("stability", Ranking::Stability),
            ("random", Ranking::Random),
        ];
        let plan = Self {
            points_per_side: section.integer("points_per_side", default.points_per_side, POINTS_PER_SIDE),
            points_per_batch: section.integer("points_per_batch", default.points_per_batch, 1..),
            masks_per_point: section.choice("masks_per_point", default.masks_per_point, &masks),
            box_nms: section.float("box_nms", default.box_nms, SHARE_ABOVE_0),
            ranking: section.choice("ranking", default.ranking, &rankings),
            max_dets: section.integers_if_given("max_dets", 1..).unwrap_or_else(|| vec![10, 100, 1000]),
        };
        is_used.then_some(plan)
    }

    pub(crate) fn options(&self) -> ProposalOptions {
        let &Self { points_per_side, points_per_batch, masks_per_point, box_nms, ranking, .. } = self;
        ProposalOptions { points_per_side, points_per_batch, masks_per_point, box_nms, ranking }
    }
}

impl EdgesPlan {
    pub(super) fn read(top: &Section<'_>, kind: ProtocolKind) -> Option<Self> {
        let is_used = kind == ProtocolKind::Edges;
        top.only_if(is_used, "protocol", &["edges"], "protocol.kind = \"edges\"");
        let section = top.section("edges");
        let default = EdgeOptions::default();
        let suppressions = EdgeSuppression::ALL.map(|rule| (rule.name(), rule));
        let maps = section.local_path_if_given("maps");
        let made = EdgesMadePlan {
            points_per_side: section.integer("points_per_side", default.points_per_side, POINTS_PER_SIDE),
            points_per_batch: section.integer("points_per_batch", default.points_per_batch, 1..),
            box_nms: section.float("box_nms", default.box_nms, SHARE_ABOVE_0),
            suppression: section.choice("suppression", default.suppression, &suppressions),
        };
        let keys = ["points_per_side", "points_per_batch", "box_nms", "suppression"];
        section.only_if(!section.is_given("maps"), "maps", &keys, "edges that a checkpoint makes, not with edges.maps");
        let tolerance = section.float("tolerance", EdgeTolerance::default().0, SHARE_ABOVE_0);
        let made = maps.is_none().then_some(made);
        is_used.then_some(Self { maps, made, tolerance })
    }
}

impl EdgesMadePlan {
    pub(crate) fn options(&self) -> EdgeOptions {
        let &Self { points_per_side, points_per_batch, box_nms, suppression } = self;
        EdgeOptions { points_per_side, points_per_batch, box_nms, suppression }
    }
}
