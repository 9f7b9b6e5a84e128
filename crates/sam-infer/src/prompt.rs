//! Prompts in pixels of the original image, validated before they reach the model.

use sam_image::{Mask, ModelFrame};
use sam_model::{ObjectPrompt, SamConfig, TextVector};

/// The prompt of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Clicks: position `[x, y]`, and whether the point is on the object (positive) or not (negative).
    pub points_xy_px: Vec<([f32; 2], bool)>,
    /// Upper left and lower right corner.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// Logits of an earlier mask at the decoder's resolution ([`crate::Prediction::mask_logits`]), row-major.
    pub mask_logits: Option<Vec<f32>>,
    /// What a text or an image crop says: a vector of the CLIP that the model was trained with.
    pub text: Option<TextVector>,
}

/// An invalid prompt.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PromptError {
    /// No point, box, mask or text.
    #[error("no prompt: give at least a point, a box, a mask or a text")]
    Empty,
    /// A point outside the image.
    #[error("point {point:?} must lie in the image, which is {width} px wide and {height} px high", point = [.x, .y])]
    PointOutside {
        /// The point's x.
        x: f32,
        /// The point's y.
        y: f32,
        /// Image width.
        width: usize,
        /// Image height.
        height: usize,
    },
    /// A box with swapped corners or without area.
    #[error("box {0:?} must be X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")]
    BoxCorners([f32; 4]),
    /// A box that does not overlap the image, or extends beyond it by more than the image's size.
    #[error(
        "box {corners:?} must overlap the image, which is {width} px wide and {height} px high, and extend no further \
         beyond it than that"
    )]
    BoxOutside {
        /// The corners.
        corners: [f32; 4],
        /// Image width.
        width: usize,
        /// Image height.
        height: usize,
    },
    /// A mask prompt whose size is not the decoder's.
    #[error("a mask prompt must hold {side} x {side} logits for this model, got {got} values")]
    MaskSize {
        /// Side length of the decoder's masks.
        side: usize,
        /// Number of values.
        got: usize,
    },
    /// A mask prompt with NaN or infinite logits.
    #[error("a mask prompt must hold finite logits, got {0}")]
    MaskNotFinite(f32),
    /// A text for a model that takes none.
    #[error("this model takes no texts: its checkpoint has no text prompt")]
    TakesNoText,
    /// A vector of another CLIP.
    #[error("a text must be a vector of {expected} values for this model, got {got}: is it of another CLIP?")]
    TextWidth {
        /// The model's width.
        expected: usize,
        /// That of the vector.
        got: usize,
    },
    /// Another CLIP than that of the training.
    #[error(
        "this checkpoint's texts are those of CLIP {expected}, with vectors of {expected_width}; this is CLIP {got}, with vectors \
         of {got_width}"
    )]
    OtherClip {
        /// Fingerprint of the CLIP of the training.
        expected: String,
        /// Width of its vectors.
        expected_width: usize,
        /// Fingerprint of the other.
        got: String,
        /// Width of its vectors.
        got_width: usize,
    },
    /// A text vector with NaN or infinite values.
    #[error("a text's vector must hold finite values, got {0}")]
    TextNotFinite(f32),
}

impl Prompt {
    /// Whether a text is all there is, which is as ambiguous as a single click.
    #[must_use]
    pub fn is_text_alone(&self) -> bool {
        self.text.is_some() && self.points_xy_px.is_empty() && self.box_xyxy_px.is_none() && self.mask_logits.is_none()
    }

    /// Validates the prompt against its image and maps it to the model's frame.
    pub fn to_model(&self, frame: &ModelFrame, config: &SamConfig) -> Result<ObjectPrompt, PromptError> {
        let [height, width] = frame.original_hw;
        let low_res_side = config.low_res_side();
        let has_geometry = !self.points_xy_px.is_empty() || self.box_xyxy_px.is_some() || self.mask_logits.is_some();
        if !has_geometry && self.text.is_none() {
            return Err(PromptError::Empty);
        }
        for &([x, y], _) in &self.points_xy_px {
            let inside = |value: f32, size: usize| value >= 0.0 && value < size as f32;
            if !(inside(x, width) && inside(y, height)) {
                return Err(PromptError::PointOutside { x, y, width, height });
            }
        }
        if let Some(corners @ [x0, y0, x1, y1]) = self.box_xyxy_px {
            // Written so that NaN fails, too.
            if !(x0 < x1 && y0 < y1 && corners.iter().all(|corner| corner.is_finite())) {
                return Err(PromptError::BoxCorners(corners));
            }
            let (wide, high) = (width as f32, height as f32);
            let is_outside = x1 <= 0.0 || y1 <= 0.0 || x0 >= wide || y0 >= high;
            if is_outside || x0 < -wide || y0 < -high || x1 > 2.0 * wide || y1 > 2.0 * high {
                return Err(PromptError::BoxOutside { corners, width, height });
            }
        }
        if let Some(mask) = &self.mask_logits {
            if mask.len() != low_res_side * low_res_side {
                return Err(PromptError::MaskSize { side: low_res_side, got: mask.len() });
            }
            if let Some(&value) = mask.iter().find(|value| !value.is_finite()) {
                return Err(PromptError::MaskNotFinite(value));
            }
        }
        if let Some(text) = &self.text {
            check_text(text, config)?;
        }
        Ok(ObjectPrompt {
            points_xy_px: self.points_xy_px.iter().map(|&(xy, on)| (frame.point_to_model(xy), on)).collect(),
            box_xyxy_px: self.box_xyxy_px.map(|corners| frame.box_to_model(corners)),
            mask_logits: self.mask_logits.clone(),
            text: self.text.clone(),
        })
    }
}

fn check_text(text: &TextVector, config: &SamConfig) -> Result<(), PromptError> {
    let expected = config.text.as_ref().ok_or(PromptError::TakesNoText)?.width;
    match (text.values.len(), text.values.iter().find(|value| !value.is_finite())) {
        (got, _) if got != expected => Err(PromptError::TextWidth { expected, got }),
        (_, Some(&value)) => Err(PromptError::TextNotFinite(value)),
        _ => Ok(()),
    }
}

/// Logits of a mask prompt inside and outside of a mask, which is certain of every pixel.
const CERTAIN_LOGIT: f32 = 10.0;

/// A mask in the image's size as the logits of a mask prompt at the decoder's resolution.
///
/// The decoder was trained on its own logits and never on masks of 0 and 1. A pixel of the result has the log-odds of the
/// fraction of it that the mask covers, limited to ±10; the padding of the model's square is outside.
///
/// # Panics
///
/// When the mask does not have the size of the frame's image.
#[must_use]
pub fn mask_as_logits(mask: &Mask, frame: &ModelFrame, low_res_side: usize) -> Vec<f32> {
    assert_eq!(mask.size_hw(), frame.original_hw, "a mask prompt has the size of its image");
    let [down, across] = [0, 1].map(|axis| cells(frame, axis, low_res_side));
    let [_, width] = frame.original_hw;
    let mut logits = vec![-CERTAIN_LOGIT; low_res_side * low_res_side];
    for (logits, rows) in logits.chunks_exact_mut(low_res_side).zip(&down) {
        for (logit, columns) in logits.iter_mut().zip(&across) {
            let (mut covered, mut all) = (0.0, 0.0);
            for &(row, high) in rows {
                let pixels = &mask.pixels()[row * width..][..width];
                for &(column, wide) in columns {
                    all += high * wide;
                    covered += if pixels[column] { high * wide } else { 0.0 };
                }
            }
            if all > 0.0 {
                let share = covered / all;
                *logit = ((share / (1.0 - share)).ln() as f32).clamp(-CERTAIN_LOGIT, CERTAIN_LOGIT);
            }
        }
    }
    logits
}

/// For each cell of the decoder's grid along an axis, the image's pixels in it with the part of each, in pixels.
fn cells(frame: &ModelFrame, axis: usize, low_res_side: usize) -> Vec<Vec<(usize, f64)>> {
    let (original, resized) = (frame.original_hw[axis] as f64, frame.resized_hw[axis] as f64);
    let cell = frame.side_px as f64 / low_res_side as f64 * original / resized;
    let pixels = |at: usize| {
        let (from, to) = (at as f64 * cell, ((at + 1) as f64 * cell).min(original));
        let inside = from.floor() as usize..to.max(0.0).ceil() as usize;
        let part = |pixel: usize| ((pixel + 1) as f64).min(to) - (pixel as f64).max(from);
        inside.map(|pixel| (pixel, part(pixel))).filter(|(_, part)| *part > 0.0).collect()
    };
    (0..low_res_side).map(pixels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_model::{Modality, TextPromptConfig, Variant};

    /// Of a model whose masks have 4 x 4 logits.
    fn config() -> SamConfig {
        let mut config = SamConfig::published(Variant::VitB);
        config.image_encoder.set_image_size(16);
        config
    }

    #[test]
    fn invalid_prompts_are_rejected() {
        let frame = ModelFrame::new([50, 100], 64);
        let mut config = config();
        let check = |prompt: Prompt| prompt.to_model(&frame, &config).expect_err("invalid").to_string();
        let point = |x, y| Prompt { points_xy_px: vec![([x, y], true)], ..Prompt::default() };
        let boxed = |corners| Prompt { box_xyxy_px: Some(corners), ..Prompt::default() };
        assert!(check(Prompt::default()).contains("no prompt"));
        for outside in [point(100.0, 10.0), point(-1.0, 10.0), point(3.0, 50.0), point(f32::NAN, 1.0)] {
            assert!(check(outside).contains("100 px wide and 50 px high"));
        }
        for swapped in [boxed([9.0, 0.0, 1.0, 5.0]), boxed([1.0, 5.0, 9.0, 5.0]), boxed([f32::NAN, 0.0, 1.0, 1.0])] {
            assert!(check(swapped).contains("X0 < X1"));
        }
        for outside in [[100.0, 0.0, 120.0, 5.0], [-3e38, -3e38, 3e38, 3e38], [0.0, 0.0, 50.0, 101.0]] {
            assert!(check(boxed(outside)).contains("overlap"), "{outside:?}");
        }
        let masked = |logits| Prompt { mask_logits: Some(logits), ..Prompt::default() };
        assert!(check(masked(vec![0.0; 15])).contains("4 x 4"));
        assert!(check(masked([vec![0.0; 15], vec![f32::NAN]].concat())).contains("NaN"));
        let text = |values: &[f32]| Prompt {
            text: Some(TextVector { values: values.into(), modality: Modality::Text }),
            ..Prompt::default()
        };
        assert!(check(text(&[1.0, 0.0])).contains("takes no texts"));
        config.text = Some(TextPromptConfig { width: 2, clip: String::new() });
        let check = |prompt: Prompt| prompt.to_model(&frame, &config).expect_err("invalid").to_string();
        assert!(check(text(&[1.0])).contains("2 values for this model, got 1"));
        assert!(check(text(&[1.0, f32::NAN])).contains("NaN"));
        assert!(text(&[1.0, 0.0]).to_model(&frame, &config).is_ok());
    }

    #[test]
    fn coordinates_are_mapped_to_the_model_frame() {
        let frame = ModelFrame::new([50, 100], 64);
        let prompt = Prompt {
            points_xy_px: vec![([50.0, 25.0], false)],
            box_xyxy_px: Some([0.0, 0.0, 100.0, 50.0]),
            ..Prompt::default()
        };
        let object = prompt.to_model(&frame, &config()).expect("fine");
        assert_eq!(object.points_xy_px, [([32.0, 16.0], false)]);
        assert_eq!(object.box_xyxy_px, Some([0.0, 0.0, 64.0, 32.0]));
    }

    #[test]
    fn a_mask_becomes_logits_in_the_models_frame() {
        // 50 x 100 to 32 x 64 in a square of 64: the lower half of the decoder's 8 x 8 grid is padding.
        let frame = ModelFrame::new([50, 100], 64);
        let mask = Mask::from_fn([50, 100], |_, column| column < 50);
        let logits = mask_as_logits(&mask, &frame, 8);
        for (at, &logit) in logits.iter().enumerate() {
            let is_inside = at / 8 < 4 && at % 8 < 4;
            assert_eq!(logit, if is_inside { 10.0 } else { -10.0 }, "cell {at}");
        }
        // Half of a cell is undecided.
        let half = mask_as_logits(&Mask::from_fn([64, 64], |row, _| row < 4), &ModelFrame::new([64, 64], 64), 8);
        assert!(half[..8].iter().all(|logit| logit.abs() < 1e-6) && half[8..].iter().all(|&logit| logit == -10.0));
        // Upscaled again, it is the mask, as the decoder's own logits would be.
        for size_hw in [[64, 64], [37, 61], [200, 90]] {
            let frame = ModelFrame::new(size_hw, 64);
            let disc = Mask::from_fn(size_hw, |row, column| {
                let distance = (row as f64 - size_hw[0] as f64 / 2.0).hypot(column as f64 - size_hw[1] as f64 / 2.0);
                distance < size_hw[0].min(size_hw[1]) as f64 / 3.0
            });
            let again = sam_image::upscale_mask(&mask_as_logits(&disc, &frame, 32), 32, &frame, 0.0);
            let iou = sam_image::mask_iou(&disc, &again).expect("one size");
            assert!(iou > 0.93, "{size_hw:?}: {iou}");
        }
    }
}
