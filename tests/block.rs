//! A transformer block of `vit_b`'s size, whole and in windows: outputs and every gradient equal the official package's.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use sam_model::weights::ParameterPath;
use sam_model::{Block, BlockConfig};

use crate::fixture::{Golden, check, device, norm, official_gradients, values};

const GRID: usize = 18;
const DIM: usize = 768;

/// Tolerances relative to the largest value; the official package in f32 is itself 1e-6 away.
const FORWARD: f32 = 1e-5;
const BACKWARD: f32 = 1e-4;

/// In PyTorch's order, which determines the seeds.
const KEYS: [&str; 14] = [
    "norm1.weight",
    "norm1.bias",
    "attn.rel_pos_h",
    "attn.rel_pos_w",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.lin1.weight",
    "mlp.lin1.bias",
    "mlp.lin2.weight",
    "mlp.lin2.bias",
];

/// The rule of `fixtures/generate_block.py`.
fn scrambled(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let value = |at: u32| {
        let mut x = (at + 1).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
        x ^= x >> 15;
        x = x.wrapping_mul(0x2C1B_3C6D);
        x ^= x >> 12;
        (f64::from(x) / f64::from(u32::MAX) * 2.0 - 1.0) as f32 * scale
    };
    (0..n as u32).map(value).collect()
}

fn kept(values: &[f32]) -> Vec<f32> {
    let n = values.len().min(200);
    (0..n).map(|i| values[i * values.len() / n]).collect()
}

#[derive(Default)]
struct Fill(ParameterPath);

impl ModuleMapper for Fill {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.0.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let key = self.0.official_key();
        let seed = KEYS.iter().position(|&known| known == key).expect("a key of the block") as u32 + 1;
        let shape = param.dims();
        let official = self.0.official_shape(&shape);
        let scale = match () {
            () if key.contains("rel_pos") => 0.3,
            () if D == 1 => 0.5,
            () => (3.0 / official[1] as f64).sqrt() as f32,
        };
        let mut values = scrambled(official.iter().product(), seed, scale);
        if key.starts_with("norm") && key.ends_with("weight") {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        let values = self.0.from_official(values, &official);
        let device = param.lazy_device();
        param.map(|_| Tensor::from_data(TensorData::new(values, shape), &device).require_grad())
    }
}

fn compare_grad(golden: &Golden, variant: &str, key: &str, grad: &[f32]) {
    let expected = golden.values(&format!("{variant}/norm/{key}"))[0];
    check(&format!("{variant}: norm of {key}"), &[norm(grad) / expected], &[1.0], BACKWARD);
    let expected = golden.values(&format!("{variant}/grad/{key}"));
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    check(&format!("{variant}: {key}"), &kept(grad), &expected, BACKWARD * largest);
}

#[test]
fn a_block_of_vit_b_equals_the_official_one() {
    let golden = Golden::open("block.safetensors");
    let device = device().autodiff();
    for (variant, window) in [("global", 0), ("window", 14)] {
        let side = if window == 0 { GRID } else { window };
        let config = BlockConfig { window, rel_pos: Some(side), ..BlockConfig::new(DIM, 12, 4 * DIM) };
        let block: Block = config.init(&device).map(&mut Fill::default());
        let shape = [1, GRID, GRID, DIM];
        let n = GRID * GRID * DIM;
        let x = Tensor::<4>::from_data(TensorData::new(scrambled(n, 100, 1.5), shape), &device).require_grad();
        let weights = Tensor::<4>::from_data(TensorData::new(scrambled(n, 101, 1.0), shape), &device);
        let out = block.forward(x.clone());
        let expected = golden.values(&format!("{variant}/out"));
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        check(variant, &kept(&values(out.clone())), &expected, FORWARD * largest);

        let grads = (out * weights).sum().backward();
        compare_grad(&golden, variant, "x", &values(x.grad(&grads).expect("tracked")));
        let grads = GradientsParams::from_grads(grads, &block);
        let (found, missing) = official_gradients(&block, &grads);
        assert!(missing.is_empty() && found.len() == KEYS.len(), "every parameter has a gradient");
        for (key, grad) in found {
            compare_grad(&golden, variant, &key, &grad);
        }
    }
}
