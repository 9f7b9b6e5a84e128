//! Masks from the `segmentation` values of COCO and SA-1B, and from polygons of any format.
//!
//! Source: pycocotools' `annToRLE` and `frPyObjects`. Differences: run lengths must fill the image and have its size,
//! polygons with fewer than three points are reported without affecting the other parts, and NaN is reported by name.

use base64::Engine;
use sam_image::{ImageError, MAX_PIXELS, Rle, polygon_to_rle};
use serde::Deserialize;

use crate::finding::{Finding, ProblemKind};

/// Tolerated distance outside the image, as a fraction of its side; annotation tools round.
const OUTSIDE_TOLERANCE: f64 = 0.01;

/// Determined by the JSON type, never by `iscrowd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentationKind {
    /// Missing, null or empty: a box or a caption.
    None,
    Polygons,
    Rle,
}

/// The mask of a `segmentation`, or a finding.
pub(crate) fn segmentation_mask(
    size_hw: [usize; 2],
    kind: SegmentationKind,
    text: &[u8],
    place: &str,
    findings: &mut Vec<Finding>,
) -> Option<Rle> {
    let result = match kind {
        SegmentationKind::Polygons => {
            parse_polygons(text).and_then(|parts| polygon_mask(size_hw, &parts, place, findings))
        }
        _ => parse_rle(size_hw, text, place, findings),
    };
    result.map_err(|(kind, detail)| findings.push(Finding::new(kind, place, detail))).ok()
}

type Wrong = (ProblemKind, String);

#[derive(Deserialize)]
#[serde(untagged)]
enum PolygonsJson {
    Parts(Vec<Vec<f64>>),
    /// One polygon without the outer list, as some scripts write it.
    Flat(Vec<f64>),
}

fn parse_polygons(text: &[u8]) -> Result<Vec<Vec<f64>>, Wrong> {
    // The common form is tried first; the untagged enum would parse into an intermediate tree.
    if let Ok(parts) = serde_json::from_slice::<Vec<Vec<f64>>>(text) {
        return Ok(parts);
    }
    match serde_json::from_slice(text) {
        Ok(PolygonsJson::Parts(parts)) => Ok(parts),
        Ok(PolygonsJson::Flat(flat)) => Ok(vec![flat]),
        Err(error) => {
            let text = String::from_utf8_lossy(text);
            // Python's json module writes these although JSON does not allow them.
            if let Some(word) = ["NaN", "Infinity", "null"].into_iter().find(|word| text.contains(word)) {
                return Err((ProblemKind::PolygonNotFinite, format!("coordinates must be finite, got {word}")));
            }
            Err((ProblemKind::AnnotationUnreadable, format!("segmentation must be lists of numbers: {error}")))
        }
    }
}

/// The union of polygons; degenerate parts are reported without affecting the others.
pub(crate) fn polygon_mask(
    size_hw: [usize; 2],
    parts: &[Vec<f64>],
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<Rle, Wrong> {
    let [height, width] = size_hw.map(|side| side as f64);
    if !parts.is_empty() && parts.iter().all(|part| part.len() == 4) {
        return Err((ProblemKind::NoMask, "four numbers are a box [x, y, width, height], not an outline".to_owned()));
    }
    let mut masks = Vec::with_capacity(parts.len());
    let mut is_outside = false;
    for part in parts {
        if part.len() < 6 {
            findings.push(Finding::new(
                ProblemKind::PolygonShort,
                place,
                format!("a polygon must have at least 3 points, got {}", part.len() / 2),
            ));
            continue;
        }
        is_outside |= part.chunks_exact(2).any(|xy| {
            let slack = OUTSIDE_TOLERANCE;
            xy[0] < -slack * width
                || xy[0] > (1.0 + slack) * width
                || xy[1] < -slack * height
                || xy[1] > (1.0 + slack) * height
        });
        masks.push(polygon_to_rle(size_hw, part).map_err(|error| {
            let kind = match error {
                ImageError::PolygonLength { .. } | ImageError::PolygonCoordinate { .. } => {
                    ProblemKind::PolygonNotFinite
                }
                _ => ProblemKind::AnnotationUnreadable,
            };
            (kind, error.to_string())
        })?);
    }
    if is_outside {
        findings.push(Finding::new(
            ProblemKind::PolygonOutside,
            place,
            format!("a polygon reaches outside the image of {height} x {width} (height x width)"),
        ));
    }
    let union = if masks.is_empty() { Rle::empty(size_hw) } else { Rle::union(&masks) };
    union.map_err(|error| (ProblemKind::AnnotationUnreadable, error.to_string()))
}

#[derive(Deserialize)]
struct RleJson<'a> {
    size: [u64; 2],
    #[serde(borrow)]
    counts: CountsJson<'a>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountsJson<'a> {
    #[serde(borrow)]
    Compressed(std::borrow::Cow<'a, str>),
    Uncompressed(Vec<u64>),
}

fn parse_rle(size_hw: [usize; 2], text: &[u8], place: &str, findings: &mut Vec<Finding>) -> Result<Rle, Wrong> {
    let unreadable = |detail: String| (ProblemKind::RleInvalid, detail);
    let json: RleJson<'_> = serde_json::from_slice(text).map_err(|error| {
        unreadable(format!("segmentation must be {{\"size\": [height, width], \"counts\": ...}}: {error}"))
    })?;
    let declared_hw = json.size.map(|side| usize::try_from(side).unwrap_or(usize::MAX));
    if declared_hw != size_hw {
        return Err(unreadable(format!(
            "its size must be that of the image, {} x {} (height x width), got {} x {}",
            size_hw[0], size_hw[1], declared_hw[0], declared_hw[1]
        )));
    }
    match json.counts {
        CountsJson::Compressed(text) => Rle::from_coco_string(size_hw, text.as_bytes()).or_else(|error| {
            let (mask, wrapping) = unwrapped(size_hw, &text).ok_or(error)?;
            let detail = format!("its run lengths are {wrapping}; they are unwrapped");
            findings.push(Finding::new(ProblemKind::RleWrapped, place, detail));
            Ok(mask)
        }),
        CountsJson::Uncompressed(counts) => {
            if let Some(at) = counts.iter().position(|&count| count > MAX_PIXELS) {
                return Err(unreadable(format!("run {at} must be at most {MAX_PIXELS}, got {}", counts[at])));
            }
            Rle::new(size_hw, &counts.iter().map(|&count| count as u32).collect::<Vec<_>>())
        }
    }
    .map_err(|error| unreadable(error.to_string()))
}

/// Run lengths that went through `str()` of Python's bytes or through base64 before they became JSON. They are read only if
/// they then fill the image exactly, which other text does not.
fn unwrapped(size_hw: [usize; 2], text: &str) -> Option<(Rle, &'static str)> {
    let inner =
        [("b'", "'"), ("b\"", "\"")].iter().find_map(|(start, end)| text.strip_prefix(start)?.strip_suffix(end));
    if let Some(inner) = inner {
        let mask = Rle::from_coco_string(size_hw, inner.replace("\\\\", "\\").as_bytes()).ok()?;
        return Some((mask, "the text of Python's bytes (b'...')"));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some((Rle::from_coco_string(size_hw, &bytes).ok()?, "in base64"))
}
