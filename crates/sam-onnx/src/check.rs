//! Runs the written graphs and compares every output with our own network, on one image and two prompts.
//!
//! Where weights are rounded, the network that is compared has the same rounded weights: so the same bound holds for every
//! number type, and a wrong scale cannot hide behind what rounding costs. That cost is measured beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rten::{Model, Value};
use sam_model::ops::linear_resize_weights;
use sam_model::weights::{fill_parameters, host_values, named_tensors};
use sam_model::{MASK_THRESHOLD, MaskOutput, MaskPrompts, Prompts, Sam, SparsePrompts};

use crate::decoder::CROP_CORNERS;
use crate::encoder::EMBEDDING;
use crate::error::OnnxError;
use crate::storage::Stored;
use crate::{DECODER, ENCODER, ExportOptions, ImageInput, Masks};

/// Allowed difference of an output, relative to its largest value (at least 1): sums of up to 10^4 terms in another order. The
/// graphs of all tests are within a tenth of it.
const TOLERANCE: f32 = 1e-3;

/// What running the graphs found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checked {
    /// Largest difference of any output from the network with the same weights.
    pub difference: f32,
    /// Largest and root mean square difference of the embedding that rounding the weights makes; 0 for f32.
    pub rounding: [f32; 2],
}

/// Runs both graphs in `folder`.
///
/// # Errors
///
/// When a graph cannot be read or run, or an output differs.
pub(crate) fn check(
    sam: &Sam,
    stored: &BTreeMap<String, Stored>,
    options: &ExportOptions,
    folder: &Path,
) -> Result<Checked, OnnxError> {
    let device = sam.device();
    let image = test_image(sam.image_size());
    let normalised = || Sam::preprocess(&image.rgb, image.size_hw, sam.image_size(), &device);
    let is_rounded = stored.values().any(|&stored| stored != Stored::F32);
    let network = if is_rounded { rounded(sam, stored)? } else { sam.clone() };
    let embedding = network.encode(normalised());
    let rounding = if is_rounded { difference_of(&embedding, &sam.encode(normalised())) } else { [0.0; 2] };

    let mut worst = 0f32;
    let encoder = Written::open(folder.join(ENCODER))?;
    let pixels = match options.input {
        ImageInput::Normalised => {
            let side = sam.image_size();
            float(&[1, 3, side, side], host_values(&normalised()))
        }
        ImageInput::Pixels => {
            let [height, width] = image.size_hw;
            float(&[height, width, 3], image.rgb.iter().map(|&byte| f32::from(byte)).collect())
        }
    };
    let [found] = encoder.run(vec![(options.input.name(), pixels)], [EMBEDDING])?;
    worst = worst.max(encoder.compare(EMBEDDING, &floats(found), &host_values(&embedding))?);
    drop(encoder);

    let decoder = Written::open(folder.join(DECODER))?;
    for prompt in prompts(&network, &image) {
        worst = worst.max(check_prompt(&decoder, &network, &embedding, &prompt, options.masks)?);
    }
    Ok(Checked { difference: worst, rounding })
}

/// A network with the weights that a reader of the files computes with: those of convolutions are rounded with their norms in
/// them.
fn rounded(sam: &Sam, stored: &BTreeMap<String, Stored>) -> Result<Sam, OnnxError> {
    let folded = sam.clone().with_folded_norms();
    let tensors: BTreeMap<_, _> =
        named_tensors(&folded).into_iter().map(|tensor| (tensor.key.clone(), tensor)).collect();
    let values = |key: &str| {
        let (stored, tensor) = (stored.get(key).copied().unwrap_or(Stored::F32), &tensors[key]);
        (stored != Stored::F32).then(|| stored.rounded(tensor.values(), &tensor.shape))
    };
    Ok(fill_parameters(folded, burn::tensor::FloatDType::F32, |key| Ok(values(key)))?)
}

/// A written graph, ready to run.
struct Written {
    path: PathBuf,
    model: Model,
}

impl Written {
    fn open(path: PathBuf) -> Result<Self, OnnxError> {
        let model = Model::load_file(&path).map_err(|error| does_not_run(&path, &error))?;
        Ok(Self { path, model })
    }

    fn run<const N: usize>(&self, inputs: Vec<(&str, Value)>, outputs: [&str; N]) -> Result<[Value; N], OnnxError> {
        let node = |name: &str| self.model.node_id(name).map_err(|error| does_not_run(&self.path, &error));
        let inputs = inputs.into_iter().map(|(name, value)| Ok((node(name)?, value.into())));
        let inputs = inputs.collect::<Result<Vec<_>, OnnxError>>()?;
        let outputs = outputs.iter().map(|name| node(name)).collect::<Result<Vec<_>, OnnxError>>()?;
        let found = self.model.run(inputs, &outputs, None).map_err(|error| does_not_run(&self.path, &error))?;
        found.try_into().map_err(|_| does_not_run(&self.path, &"another number of outputs than asked for"))
    }

    /// The largest difference, if it is allowed.
    fn compare(&self, output: &str, found: &[f32], expected: &[f32]) -> Result<f32, OnnxError> {
        let allowed = allowed(expected);
        let difference = match found.len() == expected.len() {
            true => largest(found.iter().zip(expected).map(|(found, expected)| (found - expected).abs())),
            false => f32::INFINITY,
        };
        if difference <= allowed { Ok(difference) } else { Err(self.differs(output, difference, allowed)) }
    }

    fn differs(&self, output: &str, difference: f32, allowed: f32) -> OnnxError {
        OnnxError::Differs { path: self.path.clone(), output: output.to_owned(), difference, allowed }
    }
}

fn allowed(expected: &[f32]) -> f32 {
    TOLERANCE * largest(expected.iter().map(|value| value.abs())).max(1.0)
}

/// The largest of some values that are not negative; NaN if one is.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |max, value| if value > max || value.is_nan() { value } else { max })
}

fn does_not_run(path: &Path, error: &dyn std::fmt::Display) -> OnnxError {
    OnnxError::DoesNotRun { path: path.to_owned(), reason: error.to_string() }
}

/// An image with slopes, edges and texture, wider than high, in the model's input size.
struct TestImage {
    rgb: Vec<u8>,
    size_hw: [usize; 2],
}

fn test_image(side: usize) -> TestImage {
    let [height, width] = [(side * 3 / 4).max(1), side];
    let pixel = |y: usize, x: usize| {
        let (y, x) = (y as f32 / side as f32, x as f32 / side as f32);
        let is_inside = (x - 0.4).powi(2) + (y - 0.35).powi(2) < 0.05;
        let texture = 20.0 * (60.0 * x + 45.0 * y).sin();
        let shade = if is_inside { 210.0 } else { 70.0 };
        [shade + texture, 60.0 + 150.0 * x, 200.0 - 140.0 * y].map(|value| value.clamp(0.0, 255.0) as u8)
    };
    let rgb = (0..height * width).flat_map(|at| pixel(at / width, at % width)).collect();
    TestImage { rgb, size_hw: [height, width] }
}

/// A prompt as the decoder's graph takes it.
struct Prompt {
    coords: Vec<f32>,
    labels: Vec<f32>,
    mask: Option<Vec<f32>>,
    original_hw: [usize; 2],
}

/// A click, of which the best of the masks for ambiguous prompts is taken; and a box with a click and a mask, for which the
/// single one is.
fn prompts(network: &Sam, image: &TestImage) -> [Prompt; 2] {
    let side = network.image_size() as f32;
    let [height, width] = image.size_hw;
    let mask_side = network.config().low_res_side();
    let blob = |at: usize| {
        let [y, x] = [at / mask_side, at % mask_side].map(|value| value as f32 / mask_side as f32);
        6.0 - 60.0 * ((x - 0.4).powi(2) + (y - 0.35).powi(2))
    };
    let fraction = |at: f32| (at * side).floor();
    [
        Prompt {
            coords: vec![fraction(0.4), fraction(0.35), 0.0, 0.0],
            labels: vec![1.0, -1.0],
            mask: None,
            original_hw: [(height * 2).div_ceil(3), (width * 2).div_ceil(3)],
        },
        Prompt {
            coords: [0.5, 0.4, 0.15, 0.1, 0.7, 0.6].map(fraction).to_vec(),
            labels: vec![0.0, 2.0, 3.0],
            mask: Some((0..mask_side * mask_side).map(blob).collect()),
            original_hw: [width / 3 + 1, height / 4 + 1],
        },
    ]
}

/// Runs the decoder's graph on one prompt; returns the largest difference of any output.
fn check_prompt(
    decoder: &Written,
    network: &Sam,
    embedding: &Tensor<4>,
    prompt: &Prompt,
    masks: Masks,
) -> Result<f32, OnnxError> {
    let expected = expected(network, embedding, prompt, masks);
    let inputs = inputs(network, embedding, prompt);
    let names = ["masks", "iou_predictions", "low_res_masks"];
    if masks != Masks::Cropped {
        let [full, iou, low_res] = decoder.run(inputs, names)?.map(floats);
        return Ok(decoder
            .compare("masks", &full, &expected.full)?
            .max(decoder.compare("iou_predictions", &iou, &expected.iou)?)
            .max(decoder.compare("low_res_masks", &low_res, &expected.low_res)?));
    }
    let [left, top, right, bottom] = CROP_CORNERS;
    let found = decoder.run(inputs, [names[0], names[1], names[2], left, top, right, bottom])?;
    let [crop, iou, low_res, corners @ ..] = found;
    let difference = decoder.compare("iou_predictions", &floats(iou), &expected.iou)?;
    let difference = difference.max(decoder.compare("low_res_masks", &floats(low_res), &expected.low_res)?);
    let crop: Vec<u8> = crop.into_tensor().map(|crop| crop.into_data()).unwrap_or_default();
    let corners =
        corners.map(|corner| corner.into_tensor::<i32>().and_then(|corner| corner.into_data().first().copied()));
    match is_crop_of(&expected.full, prompt.original_hw, &crop, corners) {
        true => Ok(difference),
        false => Err(decoder.differs("masks", f32::INFINITY, 0.0)),
    }
}

/// What our network answers, in the shapes of the graph's outputs.
struct Expected {
    full: Vec<f32>,
    iou: Vec<f32>,
    low_res: Vec<f32>,
}

fn expected(network: &Sam, embedding: &Tensor<4>, prompt: &Prompt, masks: Masks) -> Expected {
    let device = embedding.device();
    let n_points = prompt.labels.len();
    let labels: Vec<i64> = prompt.labels.iter().map(|&label| label as i64).collect();
    let side = network.config().low_res_side();
    let prompts = Prompts {
        sparse: Some(SparsePrompts {
            coords_xy_px: Tensor::from_data(TensorData::new(prompt.coords.clone(), [1, n_points, 2]), &device),
            labels: Tensor::<2, Int>::from_data(TensorData::new(labels, [1, n_points]), &device),
            absent: None,
        }),
        masks: prompt.mask.clone().map(|mask| MaskPrompts {
            logits: Tensor::from_data(TensorData::new(mask, [1, 1, side, side]), &device),
            present: None,
        }),
        text: None,
        objects: 1,
    };
    let decoded = network.decode(embedding.clone(), &[0], &prompts, MaskOutput::All);
    let (mut low_res, mut iou) = (decoded.low_res_logits, decoded.iou_predictions);
    if masks != Masks::All {
        let best = selected(&host_values(&iou), n_points);
        low_res = low_res.narrow(1, best, 1);
        iou = iou.narrow(1, best, 1);
    }
    let full = in_image_size(low_res.clone(), network.image_size(), prompt.original_hw);
    Expected { full: host_values(&full), iou: host_values(&iou), low_res: host_values(&low_res) }
}

/// The mask that the official rule takes: the first from three points on, else the best of the others.
fn selected(iou: &[f32], n_points: usize) -> usize {
    if n_points >= 3 {
        return 0;
    }
    let best = |best: usize, other: usize| if iou[other] > iou[best] { other } else { best };
    (1..iou.len()).reduce(best).unwrap_or(0)
}

/// The reference's way to the image's size, as products with matrices.
///
/// # Shapes
/// - `low_res`: `[1, M, 4G, 4G]`
/// - returns `[1, M, H, W]`
fn in_image_size(low_res: Tensor<4>, side: usize, original_hw: [usize; 2]) -> Tensor<4> {
    let longest = original_hw[0].max(original_hw[1]) as f32;
    let [height, width] = original_hw.map(|size| (side as f32 / longest * size as f32 + 0.5).floor() as usize);
    let padded = resized(low_res, [side, side]);
    resized(padded.narrow(2, 0, height).narrow(3, 0, width), original_hw)
}

fn resized(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, _, rows, columns] = x.dims();
    let device: Device = x.device();
    let weights = |from: usize, to: usize| {
        Tensor::<4>::from_data(TensorData::new(linear_resize_weights(from, to), [1, 1, to, from]), &device)
    };
    let of_rows = weights(rows, height).matmul(x);
    of_rows.matmul(weights(columns, width).swap_dims(2, 3))
}

fn inputs(network: &Sam, embedding: &Tensor<4>, prompt: &Prompt) -> Vec<(&'static str, Value)> {
    let (n_points, side) = (prompt.labels.len(), network.config().low_res_side());
    let mask = prompt.mask.clone().unwrap_or_else(|| vec![0.0; side * side]);
    let has_mask = if prompt.mask.is_some() { 1.0 } else { 0.0 };
    vec![
        (EMBEDDING, float(&embedding.dims(), host_values(embedding))),
        ("point_coords", float(&[1, n_points, 2], prompt.coords.clone())),
        ("point_labels", float(&[1, n_points], prompt.labels.clone())),
        ("mask_input", float(&[1, 1, side, side], mask)),
        ("has_mask_input", float(&[1], vec![has_mask])),
        ("orig_im_size", float(&[2], prompt.original_hw.map(|size| size as f32).to_vec())),
    ]
}

/// Whether bytes and corners are the crop of a mask, up to pixels whose logit is within the tolerance of the threshold.
fn is_crop_of(logits: &[f32], [height, width]: [usize; 2], crop: &[u8], corners: [Option<i32>; 4]) -> bool {
    let [Some(left), Some(top), Some(right), Some(bottom)] =
        corners.map(|at| at.and_then(|at| usize::try_from(at).ok()))
    else {
        return false;
    };
    if left > right || top > bottom || right >= width || bottom >= height {
        return false;
    }
    let columns = right - left + 1;
    if crop.len() != columns * (bottom - top + 1) {
        return false;
    }
    let undecided = allowed(logits);
    (0..height * width).all(|at| {
        let (y, x) = (at / width, at % width);
        let is_inside = (top..=bottom).contains(&y) && (left..=right).contains(&x);
        let found = is_inside && crop[(y - top) * columns + x - left] == 255;
        found == (logits[at] > MASK_THRESHOLD) || logits[at].abs() <= undecided
    })
}

/// The largest and the root mean square difference.
fn difference_of(a: &Tensor<4>, b: &Tensor<4>) -> [f32; 2] {
    let (a, b) = (host_values(a), host_values(b));
    let differences = || a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    let squares: f64 = differences().map(|difference| f64::from(difference).powi(2)).sum();
    [largest(differences()), (squares / a.len().max(1) as f64).sqrt() as f32]
}

fn float(shape: &[usize], values: Vec<f32>) -> Value {
    Value::from_shape(shape, values).expect("as many values as the shape has")
}

/// The values of a tensor of f32; empty where it is of another type.
fn floats(value: Value) -> Vec<f32> {
    value.into_tensor::<f32>().map(|tensor| tensor.into_data()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sam_model::init::initialise;
    use sam_model::{SamConfig, Variant};

    use super::*;
    use crate::export;

    fn small(seed: u64) -> Sam {
        let mut config = SamConfig::published(Variant::VitB);
        let vit = config.image_encoder.vit_mut().expect("a plain ViT");
        (vit.image_size, vit.embed_dim, vit.depth, vit.num_heads) = (64, 32, 2, 2);
        (vit.mlp_dim, vit.window_size, vit.global_attn_indexes) = (64, 3, vec![1]);
        initialise(config.init(&Device::flex()).expect("sizes fit"), seed)
    }

    #[test]
    fn graphs_of_another_model_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = ExportOptions::default();
        let written = export(&small(1), &options, folder.path(), |_| {}).expect("written");
        assert!(written.checked.difference < 1e-4, "{:?}", written.checked);
        let other = check(&small(2), &BTreeMap::new(), &options, folder.path());
        assert!(matches!(&other, Err(OnnxError::Differs { output, .. }) if output == EMBEDDING), "{other:?}");

        // The same encoder with another decoder.
        let mut mixed = small(1);
        mixed.mask_decoder = small(2).mask_decoder;
        let mixed = check(&mixed, &BTreeMap::new(), &options, folder.path());
        assert!(matches!(&mixed, Err(OnnxError::Differs { output, .. }) if output != EMBEDDING), "{mixed:?}");

        // Damaged and missing files.
        let path = folder.path().join(DECODER);
        let bytes = std::fs::read(&path).expect("there");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        let damaged = check(&small(1), &BTreeMap::new(), &options, folder.path());
        assert!(matches!(damaged, Err(OnnxError::DoesNotRun { .. })), "{damaged:?}");
    }

    #[test]
    fn wrong_scales_do_not_hide_behind_rounding() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = ExportOptions { weights: crate::WeightType::Int8, ..ExportOptions::default() };
        let written = export(&small(1), &options, folder.path(), |_| {}).expect("written");
        let [largest, rms] = written.checked.rounding;
        assert!(written.checked.difference < 1e-4 && largest > 1e-4 && rms < largest, "{:?}", written.checked);
        // Against weights that are not rounded, the rounding itself is a difference.
        assert!(check(&small(1), &BTreeMap::new(), &options, folder.path()).is_err());
    }

    #[test]
    fn a_crop_has_exactly_the_mask() {
        let logits = [-1.0, -1.0, -1.0, -1.0, -1.0, 2.0, -1.0, 2.0, -1.0, -1.0, -1.0, -1.0];
        let corners = |corners: [i32; 4]| corners.map(Some);
        let is_crop = |crop: &[u8], at: [i32; 4]| is_crop_of(&logits, [3, 4], crop, corners(at));
        assert!(is_crop(&[255, 0, 255], [1, 1, 3, 1]));
        assert!(!is_crop(&[255, 255, 255], [1, 1, 3, 1]));
        assert!(!is_crop(&[255, 0], [1, 1, 2, 1]), "the last column is missing");
        assert!(!is_crop(&[255, 0, 255], [0, 1, 2, 1]), "another place");
        assert!(!is_crop(&[255, 0, 255], [1, 1, 4, 1]), "outside of the image");
        assert!(!is_crop_of(&logits, [3, 4], &[255, 0, 255], [None, Some(1), Some(3), Some(1)]));
    }
}
