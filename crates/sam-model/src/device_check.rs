//! The self-test of a device: a small network gives the CPU's results there, forward and backward.
//!
//! A device can be wrong while every call succeeds: a software Vulkan driver returned zeros for every mask. No device other
//! than the CPU is therefore used untested.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::SamConfig;
use crate::decoder::{MaskDecoderConfig, MaskOutput};
use crate::encoder::{ImageEncoderConfig, VitConfig};
use crate::init::initialise;
use crate::prompt::{Modality, ObjectPrompt, PromptEncoderConfig, Prompts, TextPromptConfig, TextVector};
use crate::sam::Sam;

/// Largest difference of outputs, relative to the largest value. TF32 matrix products of a GPU stay below a tenth of it.
const FORWARD_TOLERANCE: f32 = 0.01;

/// Largest difference of a parameter's gradient, relative to its largest value.
#[cfg(feature = "autodiff")]
const GRADIENT_TOLERANCE: f32 = 0.05;

/// Differences below this fraction of the largest of all gradients count as zero: gradients of key biases are exactly zero
/// in exact arithmetic.
#[cfg(feature = "autodiff")]
const GRADIENT_FLOOR: f32 = 1e-3;

/// Why a device is rejected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceFault {
    /// A driver is missing or does not support an operation: GPU backends panic then.
    #[error("{0}")]
    Panicked(String),
    /// A result is not that of the CPU.
    #[error("its results are wrong: {what} differ by up to {difference} from the CPU's, which reach {scale}")]
    Wrong {
        /// The quantity.
        what: String,
        /// The largest absolute difference; infinite if values are NaN.
        difference: f32,
        /// The largest absolute value on the CPU.
        scale: f32,
    },
}

/// Opens a device and compares outputs of a small segmenter on it with those on the CPU.
///
/// # Errors
///
/// When `open` or the network panics, or when masks, embeddings or predicted IoUs differ.
pub fn check_forward(open: impl FnOnce() -> Device + Send + 'static) -> Result<Device, DeviceFault> {
    caught(move || {
        let device = open();
        let expected = outputs(&network(&Device::flex()), &Device::flex());
        let got = outputs(&network(&device), &device);
        compare_all(&expected, &got, FORWARD_TOLERANCE, 0.0)?;
        Ok(device)
    })
}

/// Compares all gradients of a small segmenter with those on the CPU.
///
/// # Arguments
/// - `device`: with or without autodiff
///
/// # Errors
///
/// When the network panics, or when the gradient of a parameter differs.
#[cfg(feature = "autodiff")]
pub fn check_backward(device: &Device) -> Result<(), DeviceFault> {
    let device = if device.is_autodiff() { device.clone() } else { device.clone().autodiff() };
    caught(move || {
        let expected = gradients(&Device::flex().autodiff());
        let largest = expected.iter().map(|(_, values)| largest(values)).fold(0.0, f32::max);
        compare_all(&expected, &gradients(&device), GRADIENT_TOLERANCE, GRADIENT_FLOOR * largest)
    })
}

/// Runs on a thread of its own, because GPU backends panic when their driver is missing.
fn caught<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, DeviceFault> + Send + 'static,
) -> Result<T, DeviceFault> {
    let thread = std::thread::Builder::new().name("device-check".into()).spawn(check);
    let thread = thread.map_err(|error| DeviceFault::Panicked(error.to_string()))?;
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(DeviceFault::Panicked(text.unwrap_or_else(|| "its driver cannot be started".into())))
    })
}

/// Values with their names.
type Named = Vec<(String, Vec<f32>)>;

fn compare_all(expected: &Named, got: &Named, tolerance: f32, floor: f32) -> Result<(), DeviceFault> {
    for ((what, expected), (_, got)) in expected.iter().zip(got) {
        let scale = largest(expected);
        let difference = match expected.len() == got.len() {
            true => largest(&expected.iter().zip(got).map(|(a, b)| a - b).collect::<Vec<_>>()),
            false => f32::INFINITY,
        };
        if difference > tolerance * scale + floor {
            return Err(DeviceFault::Wrong { what: what.clone(), difference, scale });
        }
    }
    Ok(())
}

/// The largest absolute value; infinite if one is NaN.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |so_far, value| if value.is_nan() { f32::INFINITY } else { so_far.max(value.abs()) })
}

/// All parts of a segmenter in small: windows with padding, global attention, relative positions, all heads.
fn config() -> SamConfig {
    SamConfig {
        image_encoder: ImageEncoderConfig::Vit(VitConfig {
            image_size: 64,
            patch_size: 8,
            embed_dim: 32,
            depth: 2,
            num_heads: 2,
            mlp_dim: 64,
            out_chans: 32,
            window_size: 3,
            global_attn_indexes: vec![1],
            drop_path_rate: 0.0,
        }),
        prompt_encoder: PromptEncoderConfig { embed_dim: 32, mask_in_chans: 8 },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: 32,
            depth: 2,
            num_heads: 2,
            mlp_dim: 64,
            cross_dim: 16,
            num_multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: 32,
            dropout: 0.0,
        },
        text: Some(TextPromptConfig { width: 16, clip: String::new() }),
    }
}

/// The same network on any device.
fn network(device: &Device) -> Sam {
    let sam = config().init(device).expect("the sizes fit");
    initialise(sam, 0).map(&mut Shift)
}

/// Adds small values, so that no parameter (biases, tables of relative positions) stays at its initial zero.
struct Shift;

impl ModuleMapper for Shift {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values: Vec<f32> = param.val().into_data().iter::<f32>().collect();
        let shifted = values.iter().zip(pattern(values.len(), 0.1)).map(|(value, shift)| value + shift).collect();
        let (id, device) = (param.id, param.lazy_device());
        let tensor = Tensor::from_data(TensorData::new(shifted, param.lazy_shape()), &device);
        param.transform_for_load(tensor, id)
    }
}

/// Values between `-size` and `size` that repeat nowhere soon.
fn pattern(n: usize, size: f32) -> Vec<f32> {
    (0..n).map(|index| (index as f32 * 1.618).sin() * size).collect()
}

fn patterned<const D: usize>(dims: [usize; D], size: f32, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(pattern(dims.iter().product(), size), dims), device)
}

/// Two images; the first object has clicks and a text, the second a box and a mask.
fn run(sam: &Sam, device: &Device) -> [(&'static str, Tensor<4>); 3] {
    let side = sam.image_size();
    let mask_side = sam.config().low_res_side();
    let prompts = [
        ObjectPrompt {
            points_xy_px: vec![([20.0, 30.0], true), ([50.0, 12.0], false)],
            text: Some(TextVector { values: pattern(16, 0.3).into(), modality: Modality::Text }),
            ..ObjectPrompt::default()
        },
        ObjectPrompt {
            box_xyxy_px: Some([8.0, 16.0, 40.0, 60.0]),
            mask_logits: Some(pattern(mask_side * mask_side, 8.0)),
            ..ObjectPrompt::default()
        },
    ];
    let prompts = Prompts::from_objects(&prompts, mask_side, device);
    let embeddings = sam.encode(patterned([2, 3, side, side], 2.0, device));
    let decoded = sam.decode(embeddings.clone(), &[0, 1], &prompts, MaskOutput::Multi);
    let ious = decoded.iou_predictions.unsqueeze::<4>();
    [("image embeddings", embeddings), ("mask logits", decoded.low_res_logits), ("predicted IoUs", ious)]
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn outputs(sam: &Sam, device: &Device) -> Named {
    run(sam, device).into_iter().map(|(what, tensor)| (what.to_owned(), values(tensor))).collect()
}

#[cfg(feature = "autodiff")]
fn gradients(device: &Device) -> Named {
    use burn::module::ModuleVisitor;
    use burn::optim::GradientsParams;

    use crate::weights::ParameterPath;

    struct Lister {
        path: ParameterPath,
        gradients: GradientsParams,
        found: Named,
    }

    impl ModuleVisitor for Lister {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            // Without one on the CPU too: the position frequencies.
            let gradient = self.gradients.remove::<D>(param.id).map(values).unwrap_or_default();
            self.found.push((format!("gradients of {}", self.path.official_key()), gradient));
        }
    }

    let sam = network(device);
    let loss = run(&sam, device).into_iter().fold(Tensor::<1>::zeros([1], device), |sum, (_, tensor)| {
        let weights = patterned(tensor.dims(), 1.0, device);
        sum + (tensor * weights).sum()
    });
    let gradients = GradientsParams::from_grads(loss.backward(), &sam);
    let mut lister = Lister { path: ParameterPath::default(), gradients, found: Vec::new() };
    sam.visit(&mut lister);
    lister.found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes() {
        check_forward(Device::flex).expect("equal to itself");
        #[cfg(feature = "autodiff")]
        check_backward(&Device::flex()).expect("equal to itself");
    }

    #[test]
    fn zeros_and_nan_and_other_values_are_rejected() {
        let expected = outputs(&network(&Device::flex()), &Device::flex());
        assert!(expected.iter().all(|(_, values)| largest(values) > 0.01), "nothing is trivially zero");
        let broken: [fn(f32) -> f32; 3] = [|_| 0.0, |_| f32::NAN, |value| value * 1.05];
        for (index, (what, _)) in expected.iter().enumerate() {
            for change in broken {
                let mut got = expected.clone();
                got[index].1.iter_mut().for_each(|value| *value = change(*value));
                let fault = compare_all(&expected, &got, FORWARD_TOLERANCE, 0.0).expect_err("wrong");
                assert!(fault.to_string().contains(what.as_str()), "{fault}");
            }
        }
    }

    #[cfg(feature = "autodiff")]
    #[test]
    fn every_parameter_has_a_gradient_that_counts() {
        let expected = gradients(&Device::flex().autodiff());
        let all = expected.iter().map(|(_, values)| largest(values)).fold(0.0, f32::max);
        let small: Vec<&str> = expected
            .iter()
            .filter(|(_, values)| largest(values) <= 2.0 * GRADIENT_FLOOR * all)
            .map(|(what, _)| what.as_str())
            .collect();
        assert!(small.len() * 4 < expected.len(), "zeros would pass for {small:?}");
        let zeros: Named = expected.iter().map(|(what, values)| (what.clone(), vec![0.0; values.len()])).collect();
        compare_all(&expected, &zeros, GRADIENT_TOLERANCE, GRADIENT_FLOOR * all).expect_err("zeros");
    }

    #[test]
    fn a_panic_of_a_driver_is_an_error() {
        let fault = check_forward(|| panic!("no driver")).expect_err("absent");
        assert_eq!(fault, DeviceFault::Panicked("no driver".into()));
    }
}
