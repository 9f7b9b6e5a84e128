//! What drop path and dropout draw in training.
//!
//! burn has one random generator per process, from which ranks and shards that train side by side would draw in any order. Here every
//! thread has a stream of its own: a training loop starts it anew before each step, and the draws are a function of that seed alone.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use burn::nn::Dropout;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

thread_local! {
    static STREAM: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

/// Starts the draws of drop path and dropout anew, for what this thread computes from here on.
pub fn seed_dropout(seed: u64) {
    STREAM.set(StdRng::seed_from_u64(seed));
}

/// Dropout as burn has it (zero, or `1 / (1 - p)` times the value), with draws of this thread.
pub(crate) fn dropout<const D: usize>(layer: &Dropout, x: Tensor<D>) -> Tensor<D> {
    if layer.prob == 0.0 || !layer.training.is_enabled() || !x.device().is_autodiff() {
        return x;
    }
    let factors = kept(x.dims(), 1.0 - layer.prob, &x.device()).cast(x.dtype());
    x * factors
}

/// Factors of what is kept with probability `keep`: `1 / keep`, or else zero.
pub(crate) fn kept<const D: usize>(shape: [usize; D], keep: f64, device: &Device) -> Tensor<D> {
    /// Factors of one seed on the CPU.
    const SEEDED: usize = 1 << 14;
    /// From this many on, another device draws by itself; fewer are quicker to send.
    const MANY: usize = 1 << 14;
    let n: usize = shape.iter().product();
    if n >= MANY && *device != Device::flex() {
        // Its generator is one for all threads, too.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(next_u64());
        return Tensor::random(shape, Distribution::Bernoulli(keep), device) / keep;
    }
    let seeds: Vec<u64> = (0..n.div_ceil(SEEDED)).map(|_| next_u64()).collect();
    let (limit, factor) = ((keep * 2f64.powi(32)) as u64, (1.0 / keep) as f32);
    let mut factors = vec![0f32; n];
    factors.par_chunks_mut(SEEDED).zip(seeds).for_each(|(factors, seed)| {
        let mut stream = StdRng::seed_from_u64(seed);
        factors.iter_mut().for_each(|kept| *kept = if u64::from(stream.next_u32()) < limit { factor } else { 0.0 });
    });
    Tensor::from_data(TensorData::new(factors, shape), device)
}

fn next_u64() -> u64 {
    STREAM.with_borrow_mut(Rng::next_u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw<const D: usize>(shape: [usize; D]) -> Vec<f32> {
        kept(shape, 0.7, &Device::flex()).into_data().try_to_vec::<f32>().expect("f32")
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        seed_dropout(3);
        let first = [draw([5]), draw([5])];
        assert_ne!(first[0], first[1]);
        let others = std::thread::spawn(|| {
            seed_dropout(3);
            [draw([5]), draw([5])]
        });
        seed_dropout(3);
        assert_eq!([draw([5]), draw([5])], first);
        assert_eq!(others.join().expect("no panic"), first);
        seed_dropout(4);
        assert_ne!([draw([5]), draw([5])], first);
    }

    #[test]
    fn as_many_are_kept_as_asked_for() {
        seed_dropout(0);
        let n = 100_000;
        let factors = draw([n / 10, 10]);
        let n_kept = factors.iter().filter(|&&factor| factor != 0.0).count();
        assert!(factors.iter().all(|&factor| factor == 0.0 || factor == 1.0 / 0.7), "the mean is kept");
        // Four standard deviations of a binomial.
        assert!((n_kept as f64 - 0.7 * n as f64).abs() < 4.0 * (n as f64 * 0.21).sqrt(), "{n_kept} of {n}");
    }
}
