//! The number types in which weights are stored. The graphs compute in f32: a weight that is stored otherwise has one node
//! behind it that converts it.
//!
//! | stored as | converted by | error of a weight |
//! |---|---|---|
//! | f16 | `Cast` | half a unit in the 11th bit |
//! | int8, one scale per output channel | `DequantizeLinear` | half of 1/127 of the channel's largest weight |
//!
//! What depends on the tensor:
//!
//! | tensor | in an f16 model | in an int8 model |
//! |---|---|---|
//! | matrices of linear layers | f16 | int8 |
//! | kernels of convolutions; position tables, which have no output channels | f16 | f16 |
//! | kernels with a batch norm folded into them | f32 | f16 |
//! | biases, norms, tokens, frequencies of positions: small and sensitive | f32 | f32 |
//!
//! Convolutions stand at both ends of a ViT and all over a TinyViT, hold a hundredth or a sixth of the weights, and make most of
//! the error. With random weights as the official classes draw them, the embedding (standard deviation 1) is off by, root mean
//! square (measured in PyTorch with weights rounded in this way):
//!
//! | | vit_b | TinyViT-5M |
//! |---|---|---|
//! | all f16; as here | 5.2e-4; 5.2e-4 | 3.2e-3; 2.3e-4 |
//! | all int8; as here | 9.2e-3; 6.2e-3 | 6.3e-2; 5.0e-3 |

use half::f16;

/// The number type of the written weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// As they are.
    #[default]
    F32,
    /// Half the size.
    F16,
    /// A quarter of the size.
    Int8,
}

impl WeightType {
    /// The name, as in the metadata of a graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// Weights with fewer elements stay f32: their conversion would cost more than it saves.
const SMALLEST_CONVERTED: usize = 1024;

/// The largest weight of a channel is this many steps from zero.
const STEPS: f32 = 127.0;

/// What a tensor is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Multiplied with tokens; `channels` is the axis of the output channels in a checkpoint.
    Matrix { channels: usize },
    /// Convolved with a map.
    Kernel,
    /// The same, with a batch norm in it.
    FoldedKernel,
    /// Added to activations.
    Table,
    /// Small, or sensitive to rounding.
    Exact,
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F16,
    Int8 { channels: usize },
}

impl Stored {
    pub(crate) fn of(weights: WeightType, role: Role, shape: &[usize]) -> Self {
        if shape.iter().product::<usize>() < SMALLEST_CONVERTED {
            return Self::F32;
        }
        match (weights, role) {
            (WeightType::F32, _) | (_, Role::Exact) | (WeightType::F16, Role::FoldedKernel) => Self::F32,
            (WeightType::Int8, Role::Matrix { channels }) => Self::Int8 { channels },
            (WeightType::F16 | WeightType::Int8, _) => Self::F16,
        }
    }

    /// What a reader of the file computes with; infinite where the type is too small.
    pub(crate) fn rounded(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match self {
            Self::F32 => values,
            Self::F16 => values.into_iter().map(|value| f16::from_f32(value).to_f32()).collect(),
            Self::Int8 { channels } => {
                let scales = scales(&values, shape, channels);
                let (steps, channel) = (steps(&values, shape, channels, &scales), channel_of(shape, channels));
                let scaled = |(at, step): (usize, i8)| f32::from(step) * scales[channel(at)];
                steps.into_iter().enumerate().map(scaled).collect()
            }
        }
    }
}

/// The channel of the value at a flat index.
fn channel_of(shape: &[usize], axis: usize) -> impl Fn(usize) -> usize {
    let (inner, channels) = (shape[axis + 1..].iter().product::<usize>(), shape[axis]);
    move |at| at / inner % channels
}

/// The step of each channel, so that its largest weight is 127 steps from zero.
///
/// # Shapes
/// - `values`: `shape`
/// - returns `[shape[axis]]`
pub(crate) fn scales(values: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let (mut largest, channel) = (vec![0f32; shape[axis]], channel_of(shape, axis));
    for (at, value) in values.iter().enumerate() {
        let largest = &mut largest[channel(at)];
        *largest = largest.max(value.abs());
    }
    // A channel of zeros has no scale of its own, and 0 divides nothing. Nor does a scale below the smallest normal number.
    largest.into_iter().map(|largest| (largest / STEPS).max(f32::MIN_POSITIVE)).collect()
}

/// Weights in steps of their channel.
///
/// # Shapes
/// - `values`: `shape`
/// - returns the same
pub(crate) fn steps(values: &[f32], shape: &[usize], axis: usize, scales: &[f32]) -> Vec<i8> {
    let channel = channel_of(shape, axis);
    let step = |(at, value): (usize, &f32)| (value / scales[channel(at)]).round().clamp(-STEPS, STEPS) as i8;
    values.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_is_within_half_a_step_of_its_own_channel() {
        let shape = [3, 4, 200];
        let value = |at: usize| ((at as f32) * 0.731).sin() * [1.0, 100.0, 1e-3, 0.0][at / 200 % 4];
        let values: Vec<f32> = (0..2400).map(value).collect();
        let rounded = Stored::Int8 { channels: 1 }.rounded(values.clone(), &shape);
        let scales = scales(&values, &shape, 1);
        for (at, (value, rounded)) in values.iter().zip(&rounded).enumerate() {
            let step = scales[at / 200 % 4];
            assert!((value - rounded).abs() <= step * 0.5001, "{at}: {value} became {rounded}, a step is {step}");
        }
        // The largest of each channel is exact up to one rounding of an f32.
        let largest = |values: &[f32]| values.iter().fold(0f32, |max, value| max.max(value.abs()));
        assert!((largest(&values) - largest(&rounded)).abs() < 1e-5);
        assert!(rounded.chunks(200).skip(3).step_by(4).all(|zeros| zeros.iter().all(|&value| value == 0.0)));
    }

    #[test]
    fn small_and_sensitive_tensors_stay_as_they_are() {
        let matrix = Role::Matrix { channels: 0 };
        for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
            assert_eq!(Stored::of(weights, Role::Exact, &[1 << 20]), Stored::F32);
            assert_eq!(Stored::of(weights, matrix, &[10, 10]), Stored::F32);
        }
        let large = |weights, role| Stored::of(weights, role, &[64, 64]);
        assert_eq!(large(WeightType::Int8, matrix), Stored::Int8 { channels: 0 });
        for role in [Role::Table, Role::Kernel, Role::FoldedKernel] {
            assert_eq!(large(WeightType::Int8, role), Stored::F16);
        }
        for role in [matrix, Role::Table, Role::Kernel] {
            assert_eq!(large(WeightType::F16, role), Stored::F16);
        }
        assert_eq!(large(WeightType::F16, Role::FoldedKernel), Stored::F32);
    }
}
