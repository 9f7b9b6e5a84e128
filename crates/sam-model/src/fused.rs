//! Operations of our own beside burn's: functions over slices, with hand-written ways back, for burn's processor backend.
//!
//! A [`SliceOperation`] takes the contents of its tensors and gives those of one tensor; [`fused`] makes burn run it and,
//! on an autodiff device, remember the way back. Where an operation is used there is a plain form of it, too, in burn's own
//! operations: what other devices and other types of numbers compute, and what the tests compare with.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, ExtensionType, Flex, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// What an operation gives.
#[derive(Clone, Debug)]
pub struct SliceOutput {
    /// Contents of the result.
    pub values: Vec<f32>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What the way back needs beside inputs and result.
    pub kept: Vec<f32>,
}

/// What the way back starts from.
#[derive(Clone, Copy, Debug)]
pub struct WayBack<'a> {
    /// Contents of the inputs.
    pub inputs: &'a [&'a [f32]],
    /// Contents of the result; empty unless [`SliceOperation::keeps_output`].
    pub output: &'a [f32],
    /// See [`SliceOutput::kept`].
    pub kept: &'a [f32],
    /// Gradient of the result.
    pub d_output: &'a [f32],
    /// Which inputs need a gradient.
    pub wanted: &'a [bool],
}

/// A function over the contents of tensors, rows one after the other.
pub trait SliceOperation: Debug + Send + Sync + 'static {
    /// Of all inputs, in order.
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput;

    /// Gradients of all inputs, in order; those that are not wanted may be left empty.
    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>>;

    /// Whether the way back needs the result, which then lives until it is gone.
    fn keeps_output(&self) -> bool {
        false
    }
}

/// Whether [`fused`] can run on this tensor: numbers of 32 bits on the processor, and gradients only where this crate was
/// built with its feature `autodiff`.
#[must_use]
pub fn is_fusible<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    tensor.dtype() == DType::F32 && device == Device::flex() && (cfg!(feature = "autodiff") || !device.is_autodiff())
}

/// Runs an operation; all inputs must be fusible.
///
/// # Panics
/// When no operation has so many inputs.
#[must_use]
pub fn fused<const D: usize>(operation: impl SliceOperation, inputs: Vec<DispatchTensor>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::fused(Arc::new(operation), Inputs::new(inputs)))
}

/// The inputs of an operation, as burn wants their number: known when it compiles.
#[derive(ExtensionType)]
pub enum Inputs<B: Backend> {
    /// Two inputs, and so on.
    Two(FloatTensor<B>, FloatTensor<B>),
    #[expect(missing_docs, reason = "as said above")]
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    #[expect(missing_docs, reason = "as said above")]
    Four(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    #[expect(missing_docs, reason = "as said above")]
    Five(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    #[expect(missing_docs, reason = "as said above")]
    Eight(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
}

impl<B: Backend> Inputs<B> {
    fn new(tensors: Vec<FloatTensor<B>>) -> Self {
        let n = tensors.len();
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().expect("there are as many as were counted");
        match n {
            2 => Self::Two(next(), next()),
            3 => Self::Three(next(), next(), next()),
            4 => Self::Four(next(), next(), next(), next()),
            5 => Self::Five(next(), next(), next(), next(), next()),
            8 => Self::Eight(next(), next(), next(), next(), next(), next(), next(), next()),
            n => panic!("no operation has {n} inputs"),
        }
    }

    fn into_list(self) -> Vec<FloatTensor<B>> {
        match self {
            Self::Two(a, b) => vec![a, b],
            Self::Three(a, b, c) => vec![a, b, c],
            Self::Four(a, b, c, d) => vec![a, b, c, d],
            Self::Five(a, b, c, d, e) => vec![a, b, c, d, e],
            Self::Eight(a, b, c, d, e, f, g, h) => vec![a, b, c, d, e, f, g, h],
        }
    }
}

/// burn's door for operations that it does not know.
#[backend_extension(Autodiff: cfg(feature = "autodiff"), Flex)]
pub trait FusedBackend: Backend {
    /// See [`fused`].
    fn fused(operation: Arc<dyn SliceOperation>, #[extension_type] inputs: Inputs<Self>) -> FloatTensor<Self>;
}

impl FusedBackend for Flex {
    fn fused(operation: Arc<dyn SliceOperation>, inputs: Inputs<Self>) -> FloatTensor<Self> {
        run(operation.as_ref(), &contiguous(inputs.into_list())).0
    }
}

type Values = FloatTensor<Flex>;

fn contiguous(tensors: Vec<Values>) -> Vec<Values> {
    tensors.into_iter().map(|tensor| tensor.to_contiguous()).collect()
}

fn slice(tensor: &Values) -> &[f32] {
    tensor.as_slice().expect("inputs are contiguous f32 tensors")
}

fn tensor(values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> Values {
    Flex::float_from_data(TensorData::new(values, shape), &Default::default())
}

fn run(operation: &dyn SliceOperation, inputs: &[Values]) -> (Values, Vec<f32>) {
    let slices: Vec<&[f32]> = inputs.iter().map(slice).collect();
    let SliceOutput { values, shape, kept } = operation.forward(&slices);
    (tensor(values, shape), kept)
}

#[cfg(feature = "autodiff")]
mod way_back {
    use std::sync::Arc;

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Flex};

    use super::{FusedBackend, Inputs, SliceOperation, Values, WayBack, contiguous, run, slice, tensor};

    impl<C: CheckpointStrategy> FusedBackend for Autodiff<Flex, C> {
        fn fused(operation: Arc<dyn SliceOperation>, inputs: Inputs<Self>) -> FloatTensor<Self> {
            let inputs = inputs.into_list();
            match inputs.len() {
                2 => tracked::<C, 2>(operation, inputs),
                3 => tracked::<C, 3>(operation, inputs),
                4 => tracked::<C, 4>(operation, inputs),
                5 => tracked::<C, 5>(operation, inputs),
                8 => tracked::<C, 8>(operation, inputs),
                n => unreachable!("no operation has {n} inputs"),
            }
        }
    }

    fn tracked<C: CheckpointStrategy, const N: usize>(
        operation: Arc<dyn SliceOperation>,
        inputs: Vec<FloatTensor<Autodiff<Flex, C>>>,
    ) -> FloatTensor<Autodiff<Flex, C>> {
        let nodes: [_; N] = std::array::from_fn(|at| inputs[at].node());
        let inputs = contiguous(inputs.into_iter().map(|input| input.into_primitive()).collect());
        let (output, kept) = run(operation.as_ref(), &inputs);
        match FusedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let kept_output = operation.keeps_output().then(|| output.clone());
                let state = Remembered { operation, inputs, output: kept_output, kept: Arc::new(kept) };
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    #[derive(Debug)]
    struct FusedBackward;

    #[derive(Clone, Debug)]
    struct Remembered {
        operation: Arc<dyn SliceOperation>,
        inputs: Vec<Values>,
        output: Option<Values>,
        kept: Arc<Vec<f32>>,
    }

    impl<const N: usize> Backward<Flex, N> for FusedBackward {
        type State = Remembered;

        fn backward(self, ops: Ops<Remembered, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
            let d_output = grads.consume::<Flex>(&ops.node).to_contiguous();
            let Remembered { operation, inputs, output, kept } = ops.state;
            let slices: Vec<&[f32]> = inputs.iter().map(slice).collect();
            let wanted = ops.parents.each_ref().map(Option::is_some);
            let way = WayBack {
                inputs: &slices,
                output: output.as_ref().map(slice).unwrap_or_default(),
                kept: &kept,
                d_output: slice(&d_output),
                wanted: &wanted,
            };
            let d_inputs = operation.backward(way);
            assert_eq!(d_inputs.len(), N, "{operation:?} gives a gradient for each of its inputs");
            for ((parent, values), input) in ops.parents.into_iter().zip(d_inputs).zip(&inputs) {
                if let Some(parent) = parent {
                    grads.register::<Flex>(parent.id, tensor(values, input.layout().shape().clone()));
                }
            }
        }
    }
}

#[cfg(all(test, feature = "autodiff"))]
mod tests {
    use super::*;

    /// `a b + c`, element by element.
    #[derive(Debug)]
    struct MultiplyAdd;

    impl SliceOperation for MultiplyAdd {
        fn keeps_output(&self) -> bool {
            true
        }

        fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
            let values = (0..inputs[0].len()).map(|i| inputs[0][i] * inputs[1][i] + inputs[2][i]).collect();
            SliceOutput { values, shape: vec![inputs[0].len()], kept: vec![7.0] }
        }

        fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
            assert_eq!((way.kept, way.wanted), (&[7.0][..], &[true, false, true][..]));
            assert_eq!(way.output, [13.0, 23.0]);
            let times = |other: &[f32]| way.d_output.iter().zip(other).map(|(d, x)| d * x).collect();
            vec![times(way.inputs[1]), Vec::new(), way.d_output.to_vec()]
        }
    }

    #[test]
    fn gradients_go_to_those_who_want_them() {
        let device = Device::flex();
        let a = Tensor::<1>::from_floats([2.0, 3.0], &device.clone().autodiff()).require_grad();
        let b = Tensor::<1>::from_floats([4.0, 5.0], &device);
        // Not in one piece: every other number.
        let c = Tensor::<1>::from_floats([5.0, 0.0, 8.0, 0.0], &device.autodiff()).require_grad();
        let picked = c.clone().reshape([2, 2]).slice_dim(1, 0..1).reshape([2]);
        let inputs = vec![a.clone().into_dispatch(), b.into_dispatch(), picked.into_dispatch()];
        let out: Tensor<1> = fused(MultiplyAdd, inputs);
        let grads = (out * 10.0).sum().backward();
        let values = |grad: Option<Tensor<1>>| grad.expect("tracked").into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(values(a.grad(&grads)), [40.0, 50.0]);
        assert_eq!(values(c.grad(&grads)), [10.0, 0.0, 10.0, 0.0]);
    }

    #[test]
    fn other_numbers_are_not_fusible() {
        let x = Tensor::<1>::from_floats([1.0], &Device::flex());
        assert!(is_fusible(&x) && is_fusible(&Tensor::from_inner(x.clone())));
        assert!(!is_fusible(&x.cast(DType::F64)));
    }
}
