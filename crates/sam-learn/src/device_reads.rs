//! Reads from the device in a training step, counted. Each waits for all that the device has still to compute, so they are few: the losses
//! of a batch, once its gradients are under way, and the norm of a step's gradients. A test holds the number, and that the files of a step
//! read nowhere else.
//!
//! Several ranks read their gradients, too, to add them ([`crate::ranks`]).

use std::cell::Cell;

use burn::tensor::Tensor;

thread_local! {
    static N_READS: Cell<u64> = const { Cell::new(0) };
}

/// The values of a tensor on the host; waits for the device.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    N_READS.set(N_READS.get() + 1);
    tensor.into_data().convert::<f64>().try_to_vec::<f64>().expect("converted to f64")
}

/// Reads from the device by training steps on this thread so far.
#[must_use]
pub fn n_device_reads() -> u64 {
    N_READS.get()
}
