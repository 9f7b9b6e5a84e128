//! Kernels over slices as burn operations with gradients, on burn's CPU backend.
//!
//! A [`SliceOperation`] maps the contents of its `N` input tensors to those of one output tensor; [`fused`] runs it through
//! burn and, on an autodiff device, records its backward pass. Wherever an operation is used there is a plain form of it in
//! burn's own operations, which other devices and other data types compute, and which the tests compare with.

#![cfg_attr(not(feature = "autodiff"), expect(dead_code, reason = "backward passes are never run"))]

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, ExtensionType, Flex,
    backend_extension,
};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Result of an operation.
#[derive(Clone, Debug)]
pub(crate) struct SliceOutput {
    /// Contents of the output.
    pub(crate) values: Vec<f32>,
    /// Shape of the output.
    pub(crate) shape: Vec<usize>,
    /// Saved for the backward pass, beside inputs and output.
    pub(crate) saved: Vec<f32>,
}

impl SliceOutput {
    /// An output whose backward pass needs nothing but the inputs.
    pub(crate) fn new(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> Self {
        Self { values, shape: shape.into(), saved: Vec::new() }
    }
}

/// Inputs of a backward pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackwardInputs<'a, const N: usize> {
    /// Contents of the operation's inputs.
    pub(crate) inputs: [&'a [f32]; N],
    /// Contents of the output; empty unless [`SliceOperation::saves_output`].
    pub(crate) output: &'a [f32],
    /// See [`SliceOutput::saved`].
    pub(crate) saved: &'a [f32],
    /// Gradient of the output.
    pub(crate) d_output: &'a [f32],
    /// Whether each input needs a gradient.
    pub(crate) needs_grad: [bool; N],
}

/// A function over the row-major contents of `N` tensors.
pub(crate) trait SliceOperation<const N: usize>: Debug + Send + Sync + 'static {
    /// Computes the output.
    fn forward(&self, inputs: [&[f32]; N]) -> SliceOutput;

    /// Gradients of the inputs; those that are not needed may be left empty.
    fn backward(&self, pass: BackwardInputs<'_, N>) -> [Vec<f32>; N];

    /// Whether the backward pass needs the output.
    fn saves_output(&self) -> bool {
        false
    }
}

/// Whether [`fused`] can run on this tensor: f32 on the CPU, and with gradients only where this crate was built with its
/// feature `autodiff`.
pub(super) fn is_fusible<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    tensor.dtype() == DType::F32 && device == Device::flex() && (cfg!(feature = "autodiff") || !device.is_autodiff())
}

/// The contents of a fusible tensor, row-major and alone in their storage. A tensor that is so already is not copied: with a
/// second owner, its storage would be copied once more when it is written to.
pub(super) fn contiguous_f32<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    let tensor = tensor.try_into_primitive::<Flex>().expect("the tensor is fusible");
    let is_whole = tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
    if tensor.is_contiguous() && is_whole { tensor } else { tensor.to_contiguous() }
}

/// Runs an operation; all inputs must be fusible.
pub(super) fn fused<const N: usize, const D: usize>(
    operation: impl SliceOperation<N>,
    inputs: [DispatchTensor; N],
) -> Tensor<D> {
    let inputs = Inputs(inputs.into());
    Tensor::from_dispatch(<Dispatch as FusedBackend>::fused::<N>(Arc::new(operation), inputs))
}

/// The inputs of an operation. Not an array, as burn's extension types have no parameter beside the backend; hence the
/// implementation by hand, which the derive macro has only for a fixed number of fields.
struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor { kind: map_kind(BackendTensor::Float(tensor)), autodiff };
        Inputs(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(target.0.into_iter().map(|tensor| unwrap_kind(tensor).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let start = DispatchAutodiffContext::Disabled;
        target.0.iter().fold(start, |context, tensor| context.merge(tensor.autodiff))
    }
}

/// burn's extension point for operations that it does not know.
#[backend_extension(Autodiff: cfg(feature = "autodiff"), Flex)]
trait FusedBackend: Backend {
    /// See [`fused`].
    fn fused<const N: usize>(
        operation: Arc<dyn SliceOperation<N>>,
        #[extension_type] inputs: Inputs<Self>,
    ) -> FloatTensor<Self>;
}

impl FusedBackend for Flex {
    fn fused<const N: usize>(operation: Arc<dyn SliceOperation<N>>, inputs: Inputs<Self>) -> FloatTensor<Self> {
        run(operation.as_ref(), &contiguous(inputs.0)).0
    }
}

type Values = FloatTensor<Flex>;

fn contiguous<const N: usize>(tensors: impl IntoIterator<Item = Values>) -> [Values; N] {
    let tensors: Vec<Values> = tensors.into_iter().map(|tensor| tensor.to_contiguous()).collect();
    tensors.try_into().unwrap_or_else(|_| unreachable!("an operation has {N} inputs"))
}

fn slice(tensor: &Values) -> &[f32] {
    tensor.as_slice().expect("inputs are contiguous f32 tensors")
}

fn tensor(values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> Values {
    Flex::float_from_data(TensorData::new(values, shape), &Default::default())
}

fn run<const N: usize>(operation: &dyn SliceOperation<N>, inputs: &[Values; N]) -> (Values, Vec<f32>) {
    let SliceOutput { values, shape, saved } = operation.forward(inputs.each_ref().map(slice));
    (tensor(values, shape), saved)
}

#[cfg(feature = "autodiff")]
mod backward {
    use std::sync::Arc;

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Flex};

    use super::{BackwardInputs, FusedBackend, Inputs, SliceOperation, Values, contiguous, run, slice, tensor};

    impl<C: CheckpointStrategy> FusedBackend for Autodiff<Flex, C> {
        fn fused<const N: usize>(operation: Arc<dyn SliceOperation<N>>, inputs: Inputs<Self>) -> FloatTensor<Self> {
            let inputs = inputs.0;
            let nodes: [_; N] = std::array::from_fn(|at| inputs[at].node());
            let inputs = contiguous(inputs.into_iter().map(|input| input.into_primitive()));
            let (output, saved) = run(operation.as_ref(), &inputs);
            match FusedBackward.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prepared) => {
                    let saved_output = operation.saves_output().then(|| output.clone());
                    let state = SavedState { operation, inputs, output: saved_output, saved: Arc::new(saved) };
                    prepared.finish(state, output)
                }
                OpsKind::UnTracked(prepared) => prepared.finish(output),
            }
        }
    }

    #[derive(Debug)]
    struct FusedBackward;

    #[derive(Clone, Debug)]
    struct SavedState<const N: usize> {
        operation: Arc<dyn SliceOperation<N>>,
        inputs: [Values; N],
        output: Option<Values>,
        saved: Arc<Vec<f32>>,
    }

    impl<const N: usize> Backward<Flex, N> for FusedBackward {
        type State = SavedState<N>;

        fn backward(self, ops: Ops<SavedState<N>, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
            let d_output = grads.consume::<Flex>(&ops.node).to_contiguous();
            let SavedState { operation, inputs, output, saved } = ops.state;
            let d_inputs = operation.backward(BackwardInputs {
                inputs: inputs.each_ref().map(slice),
                output: output.as_ref().map(slice).unwrap_or_default(),
                saved: &saved,
                d_output: slice(&d_output),
                needs_grad: ops.parents.each_ref().map(Option::is_some),
            });
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

    /// `a b + c`, elementwise.
    #[derive(Debug)]
    struct MultiplyAdd;

    impl SliceOperation<3> for MultiplyAdd {
        fn saves_output(&self) -> bool {
            true
        }

        fn forward(&self, [a, b, c]: [&[f32]; 3]) -> SliceOutput {
            let values = (0..a.len()).map(|i| a[i] * b[i] + c[i]).collect();
            SliceOutput { values, shape: vec![a.len()], saved: vec![7.0] }
        }

        fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
            assert_eq!((pass.saved, pass.needs_grad), (&[7.0][..], [true, false, true]));
            assert_eq!(pass.output, [13.0, 23.0]);
            let times = |other: &[f32]| pass.d_output.iter().zip(other).map(|(d, x)| d * x).collect();
            [times(pass.inputs[1]), Vec::new(), pass.d_output.to_vec()]
        }
    }

    #[test]
    fn gradients_reach_the_inputs_that_need_them() {
        let device = Device::flex();
        let a = Tensor::<1>::from_floats([2.0, 3.0], &device.clone().autodiff()).require_grad();
        let b = Tensor::<1>::from_floats([4.0, 5.0], &device);
        // Not contiguous: every other element.
        let c = Tensor::<1>::from_floats([5.0, 0.0, 8.0, 0.0], &device.autodiff()).require_grad();
        let picked = c.clone().reshape([2, 2]).slice_dim(1, 0..1).reshape([2]);
        let inputs = [a.clone().into_dispatch(), b.into_dispatch(), picked.into_dispatch()];
        let out: Tensor<1> = fused(MultiplyAdd, inputs);
        let grads = (out * 10.0).sum().backward();
        let values = |grad: Option<Tensor<1>>| grad.expect("tracked").into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(values(a.grad(&grads)), [40.0, 50.0]);
        assert_eq!(values(c.grad(&grads)), [10.0, 0.0, 10.0, 0.0]);
    }

    #[test]
    fn only_f32_is_fusible() {
        let x = Tensor::<1>::from_floats([1.0], &Device::flex());
        assert!(is_fusible(&x) && is_fusible(&Tensor::from_inner(x.clone())));
        assert!(!is_fusible(&x.cast(DType::F64)));
    }
}
