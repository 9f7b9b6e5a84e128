//! Prompts of all objects of a call as tensors, in the reference's order of tokens.
//!
//! Shapes: `O` objects, `N` sparse tokens of the longest prompt, `G` grid size of the embedding.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::text::{TextPrompts, TextVector};

/// The kind of a sparse token, with the codes of the reference and of its ONNX export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// No token: the object's prompt is shorter than the longest one.
    Absent = -2,
    /// The padding token that the reference appends when there are points but no box.
    NotAPoint = -1,
    /// A point on the background.
    Negative = 0,
    /// A point on the object.
    Positive = 1,
    /// Upper left corner of a box.
    BoxTopLeft = 2,
    /// Lower right corner of a box.
    BoxBottomRight = 3,
}

/// The prompt of one object, in pixels of the padded `S x S` input of the model.
#[derive(Clone, Debug, Default)]
pub struct ObjectPrompt {
    /// Clicks: position, and whether it is on the object.
    pub points_xy_px: Vec<([f32; 2], bool)>,
    /// Upper left and lower right corner.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// Logits of a previous mask, row-major, `4G x 4G`.
    pub mask_logits: Option<Vec<f32>>,
    /// What a text or an image crop says, as a vector of CLIP.
    pub text: Option<TextVector>,
}

/// The prompts of all objects of a call.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// Points and box corners; `None` when no object has any.
    pub sparse: Option<SparsePrompts>,
    /// Mask prompts; `None` when no object has one.
    pub masks: Option<MaskPrompts>,
    /// Vectors of CLIP; `None` when no object has one.
    pub text: Option<TextPrompts>,
    /// `O`.
    pub objects: usize,
}

/// Points and box corners of all objects.
#[derive(Clone, Debug)]
pub struct SparsePrompts {
    /// `[O, N, 2]`, x then y, pixels of the model's input; the half-pixel shift is added by the encoder.
    pub coords_xy_px: Tensor<3>,
    /// `[O, N]`, codes of [`TokenKind`].
    pub labels: Tensor<2, Int>,
    /// `[O, N]`, row-major, `true` where the label is [`TokenKind::Absent`]; `None` when it is nowhere.
    pub absent: Option<Vec<bool>>,
}

/// Mask logits of all objects.
#[derive(Clone, Debug)]
pub struct MaskPrompts {
    /// `[O, 1, 4G, 4G]`; the values of objects without a mask are ignored.
    pub logits: Tensor<4>,
    /// `[O]`, whether each object has one; `None` when all do.
    pub present: Option<Tensor<1, Bool>>,
}

impl Prompts {
    /// The prompts of a range of objects.
    pub fn part(&self, objects: Range<usize>) -> Self {
        let rows = |logits: &Tensor<4>| logits.clone().slice_dim(0, objects.clone());
        Self {
            sparse: self.sparse.as_ref().map(|sparse| SparsePrompts {
                coords_xy_px: sparse.coords_xy_px.clone().slice_dim(0, objects.clone()),
                labels: sparse.labels.clone().slice_dim(0, objects.clone()),
                absent: sparse.absent.as_ref().map(|absent| {
                    let [_, tokens] = sparse.labels.dims();
                    absent[objects.start * tokens..objects.end * tokens].to_vec()
                }),
            }),
            masks: self.masks.as_ref().map(|masks| MaskPrompts {
                logits: rows(&masks.logits),
                present: masks.present.as_ref().map(|present| present.clone().slice_dim(0, objects.clone())),
            }),
            text: self.text.as_ref().and_then(|text| text.part(objects.clone())),
            objects: objects.len(),
        }
    }

    /// Prompts from the host, in the reference's order: points, the padding token if there are points but no box, box
    /// corners.
    ///
    /// # Shapes
    /// - returns `sparse`: `[O, N, 2]` and `[O, N]`, `masks`: `[O, 1, mask_size, mask_size]`
    ///
    /// # Panics
    /// When `objects` is empty, a mask does not have `mask_size * mask_size` logits, or texts have vectors of different
    /// widths.
    pub fn from_objects(objects: &[ObjectPrompt], mask_size: usize, device: &Device) -> Self {
        assert!(!objects.is_empty(), "at least one object must be prompted");
        let tokens: Vec<Vec<([f32; 2], TokenKind)>> = objects.iter().map(sparse_tokens).collect();
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let sparse = (longest > 0).then(|| {
            let padded = || {
                tokens.iter().flat_map(|tokens| {
                    let missing = longest - tokens.len();
                    tokens.iter().copied().chain(std::iter::repeat_n(([0.0; 2], TokenKind::Absent), missing))
                })
            };
            let coords: Vec<f32> = padded().flat_map(|(xy, _)| xy).collect();
            let labels: Vec<i64> = padded().map(|(_, label)| label as i64).collect();
            let absent: Vec<bool> = padded().map(|(_, label)| label == TokenKind::Absent).collect();
            SparsePrompts {
                coords_xy_px: Tensor::from_data(TensorData::new(coords, [objects.len(), longest, 2]), device),
                labels: Tensor::from_data(TensorData::new(labels, [objects.len(), longest]), device),
                absent: absent.contains(&true).then_some(absent),
            }
        });
        let vectors: Vec<Option<TextVector>> = objects.iter().map(|object| object.text.clone()).collect();
        let text = TextPrompts::from_vectors(&vectors, device);
        Self { sparse, masks: mask_prompts(objects, mask_size, device), text, objects: objects.len() }
    }
}

fn sparse_tokens(object: &ObjectPrompt) -> Vec<([f32; 2], TokenKind)> {
    let label = |positive| if positive { TokenKind::Positive } else { TokenKind::Negative };
    let mut tokens: Vec<_> = object.points_xy_px.iter().map(|&(xy, positive)| (xy, label(positive))).collect();
    match object.box_xyxy_px {
        Some([x0, y0, x1, y1]) => {
            tokens.extend([([x0, y0], TokenKind::BoxTopLeft), ([x1, y1], TokenKind::BoxBottomRight)]);
        }
        None if !tokens.is_empty() => tokens.push(([0.0; 2], TokenKind::NotAPoint)),
        None => {}
    }
    tokens
}

fn mask_prompts(objects: &[ObjectPrompt], mask_size: usize, device: &Device) -> Option<MaskPrompts> {
    let have = objects.iter().filter(|object| object.mask_logits.is_some()).count();
    if have == 0 {
        return None;
    }
    let mut logits = Vec::with_capacity(objects.len() * mask_size * mask_size);
    for object in objects {
        match &object.mask_logits {
            Some(mask) => {
                assert_eq!(mask.len(), mask_size * mask_size, "a mask prompt must be {mask_size}x{mask_size}");
                logits.extend_from_slice(mask);
            }
            None => logits.resize(logits.len() + mask_size * mask_size, 0.0),
        }
    }
    let present = (have < objects.len()).then(|| {
        let present: Vec<bool> = objects.iter().map(|object| object.mask_logits.is_some()).collect();
        Tensor::from_data(TensorData::new(present, [objects.len()]), device)
    });
    let logits = Tensor::from_data(TensorData::new(logits, [objects.len(), 1, mask_size, mask_size]), device);
    Some(MaskPrompts { logits, present })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_the_reference_order() {
        let mut object = ObjectPrompt { points_xy_px: vec![([1.0, 2.0], true)], ..Default::default() };
        let labels = |object: &ObjectPrompt| sparse_tokens(object).iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(&object), [TokenKind::Positive, TokenKind::NotAPoint]);
        object.box_xyxy_px = Some([0.0, 0.0, 4.0, 4.0]);
        assert_eq!(labels(&object), [TokenKind::Positive, TokenKind::BoxTopLeft, TokenKind::BoxBottomRight]);
        assert!(labels(&ObjectPrompt::default()).is_empty());
    }

    #[test]
    fn only_unequal_prompts_have_absent_tokens() {
        let point = ObjectPrompt { points_xy_px: vec![([1.0, 2.0], true)], ..Default::default() };
        let boxed = ObjectPrompt { box_xyxy_px: Some([0.0, 0.0, 4.0, 4.0]), ..Default::default() };
        let both = ObjectPrompt { points_xy_px: point.points_xy_px.clone(), ..boxed.clone() };
        let absent = |objects: &[ObjectPrompt]| {
            Prompts::from_objects(objects, 8, &Device::flex()).sparse.map(|sparse| sparse.absent)
        };
        assert_eq!(absent(&[point.clone(), boxed.clone()]), Some(None));
        assert_eq!(absent(&[point, both]), Some(Some(vec![false, false, true, false, false, false])));
        assert_eq!(absent(&[ObjectPrompt { mask_logits: Some(vec![0.0; 64]), ..Default::default() }]), None);
    }
}
