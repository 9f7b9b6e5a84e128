//! Committed fixtures (see `fixtures/README.md`) and the ways to compare with them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use sam_infer::DeviceName;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, ExportOptions, ImageSizePolicy, ParameterPath, StateDict, TextExport,
};
use sam_model::{MaskPrompts, Prompts, Sam, SamConfig, SparsePrompts, Vit, VitConfig};

/// Decoder masks and full-size logits. The official package itself, run in f32, is within 6e-5 of these f64 results; sums
/// in another order cost about as much again.
pub(crate) const LOGITS: f32 = 1e-4;

/// Modules of a few layers and values of order one: a few units in the last place of an f32 sum.
pub(crate) const MODULE: f32 = 1e-5;

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

pub(crate) fn cpu() -> Device {
    Device::flex()
}

/// The device on which the numbers are tested: `SAM_TRAIN_TEST_DEVICE`, by default the CPU. See `gpu.sh`.
pub(crate) fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let name = std::env::var("SAM_TRAIN_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        let name: DeviceName = name.parse().expect("SAM_TRAIN_TEST_DEVICE is a device");
        name.open().expect("SAM_TRAIN_TEST_DEVICE can be opened")
    };
    DEVICE.get_or_init(open).clone()
}

/// Whether the same computation gives the same bits: on the CPU. A GPU's kernels are chosen by measurement, and when they are first
/// measured, or chosen otherwise in another process, sums have another order.
pub(crate) fn repeats_to_the_bit() -> bool {
    device() == cpu()
}

/// Asserts that two checkpoints are equal: to the bit where computations repeat, else to what a few steps of AdamW make of rounding,
/// which may flip the sign of a gradient near zero.
pub(crate) fn assert_same_weights(one: &Path, other: &Path) {
    let bytes = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if bytes(one) == bytes(other) {
        return;
    }
    assert!(!repeats_to_the_bit(), "{} and {} differ", one.display(), other.display());
    let [one, other] = [one, other].map(|path| StateDict::open(path).expect("a checkpoint"));
    let (mut n, mut sum) = (0, 0f64);
    for key in one.tensors.keys() {
        let [one, other] = [&one, &other].map(|dict| dict.read_f32(key).expect("f32"));
        n += one.len();
        sum += one.iter().zip(&other).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
    }
    assert!(sum <= 1e-4 * n as f64, "weights differ by {} in the mean", sum / n as f64);
}

/// Full precision, with a text prompt in a file beside.
pub(crate) fn f32_of(format: ExportFormat, image_size: ImageSizePolicy) -> ExportOptions {
    ExportOptions { format, dtype: Dtype::F32, image_size, text: TextExport::Beside }
}

/// A file of named reference tensors.
pub(crate) struct Golden(StateDict);

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self(StateDict::open(&path(name)).expect("a committed fixture"))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.tensors.contains_key(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.tensors.keys().map(String::as_str)
    }

    pub(crate) fn values(&self, key: &str) -> Vec<f32> {
        assert!(self.has(key), "the fixture has no `{key}`");
        self.0.read_f32(key).expect("a readable fixture")
    }

    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        self.0.read_bytes(key).expect("a readable fixture")
    }

    pub(crate) fn shape(&self, key: &str) -> Vec<usize> {
        self.0.tensors[key].shape.clone()
    }

    pub(crate) fn tensor<const D: usize>(&self, key: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values(key), self.shape(key)), device)
    }

    /// The prompts of a case as tensors, as the reference had them.
    pub(crate) fn prompts(&self, case: &str, device: &Device) -> Prompts {
        let name = |part: &str| format!("case/{case}/{part}");
        let (mut coords, mut labels): (Vec<Tensor<3>>, Vec<Tensor<2>>) = (Vec::new(), Vec::new());
        let mut objects = 1;
        if self.has(&name("point_coords")) {
            let points = self.tensor::<3>(&name("point_coords"), device);
            objects = points.dims()[0];
            coords.push(points);
            labels.push(self.tensor::<2>(&name("point_labels"), device));
        }
        if self.has(&name("boxes")) {
            let corners = self.tensor::<2>(&name("boxes"), device);
            objects = corners.dims()[0];
            coords.push(corners.reshape([objects, 2, 2]));
            labels.push(Tensor::<2>::from_data([[2.0, 3.0]], device).expand([objects, 2]));
        } else if !coords.is_empty() {
            coords.push(Tensor::zeros([objects, 1, 2], device));
            labels.push(Tensor::full([objects, 1], -1.0, device));
        }
        let masks = self
            .has(&name("mask_inputs"))
            .then(|| MaskPrompts { logits: self.tensor::<4>(&name("mask_inputs"), device), present: None });
        let sparse = (!coords.is_empty()).then(|| SparsePrompts {
            coords_xy_px: Tensor::cat(coords, 1),
            labels: Tensor::cat(labels, 1).int(),
            absent: None,
        });
        Prompts { sparse, masks, text: None, objects }
    }
}

/// The tiny model of the fixtures.
pub(crate) fn tiny(device: &Device) -> Sam {
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    checkpoint.load(device).expect("it fits").0
}

/// The sizes of a plain ViT, to change them.
pub(crate) fn vit_config(config: &mut SamConfig) -> &mut VitConfig {
    config.image_encoder.vit_mut().expect("a plain ViT")
}

/// The plain ViT of a model.
pub(crate) fn vit(sam: &Sam) -> &Vit {
    sam.image_encoder.vit().expect("a plain ViT")
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("f32")
}

/// Largest absolute difference; the lengths must be equal.
pub(crate) fn max_abs_diff(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len(), "as many values");
    got.iter().zip(expected).fold(0.0, |max, (got, expected)| {
        let diff = (got - expected).abs();
        // NaN must not pass.
        if diff > max || diff.is_nan() { diff } else { max }
    })
}

pub(crate) fn check(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    let diff = max_abs_diff(got, expected);
    assert!(diff <= tolerance, "{what}: off by {diff:e}, allowed {tolerance:e}");
}

/// Gradients under official keys and in official layout, and the keys of parameters that have none.
pub(crate) fn official_gradients(
    module: &impl Module,
    grads: &GradientsParams,
) -> (Vec<(String, Vec<f32>)>, Vec<String>) {
    let mut lister = Lister { path: ParameterPath::default(), grads, found: Vec::new(), missing: Vec::new() };
    module.visit(&mut lister);
    (lister.found, lister.missing)
}

struct Lister<'a> {
    path: ParameterPath,
    grads: &'a GradientsParams,
    found: Vec<(String, Vec<f32>)>,
    missing: Vec<String>,
}

impl ModuleVisitor for Lister<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.path.official_key();
        match self.grads.get::<D>(param.id) {
            Some(grad) => {
                let shape = grad.dims();
                self.found.push((key, self.path.to_official(values(grad), &shape)));
            }
            None => self.missing.push(key),
        }
    }
}

pub(crate) fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
}
