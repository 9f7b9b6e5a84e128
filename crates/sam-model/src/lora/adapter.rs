//! The adapter of one linear layer, and attaching adapters to a network.
//!
//! An adapter is a reparameterisation of the layer's weight in burn's sense: its factors are parameters of the network like
//! any other (optimiser, moving average, records), and `Module::materialize` merges them. Where a layer is applied, the two
//! products stand beside it (`ops/linear.rs`); an operation that needs the whole weight gets the adapted one.
//!
//! Letters: `I` inputs and `O` outputs of the layer, `R` rank of its adapter.

use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Tensor, TensorData};

use super::file::LayerFactors;
use crate::init::uniform_values;
use crate::ops::dropout::kept;
use crate::ops::products::linear as linear_product;
use crate::weights::{ParameterPath, WeightsError, official_key, transpose};

/// The columns of a layer that its adapter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptedColumns {
    /// All of them, by one pair of factors.
    All,
    /// Those of queries, keys and values of a layer that computes all three, each with factors of its own (SAMed).
    Thirds([bool; 3]),
}

impl AdaptedColumns {
    /// Pairs of factors.
    fn n_pairs(self) -> usize {
        match self {
            Self::All => 1,
            Self::Thirds(adapted) => adapted.into_iter().filter(|&is_adapted| is_adapted).count(),
        }
    }

    /// Indices of the adapted thirds.
    fn thirds(adapted: [bool; 3]) -> impl Iterator<Item = usize> {
        (0..3).filter(move |&third| adapted[third])
    }
}

/// The shape of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterShape {
    /// Rank of a pair of factors.
    pub rank: usize,
    /// Scaling numerator: the product counts `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of the adapter is dropped in training.
    pub dropout: f64,
    /// What is adapted.
    pub columns: AdaptedColumns,
}

/// An adapter, beside the weight of a linear layer.
#[derive(Module, Debug)]
pub struct LowRankAdapter {
    /// `[I, R]`, LoRA's `A` transposed; of several pairs of factors one after the other.
    pub lora_a: Param<Tensor<2>>,
    /// `[R, O]`, LoRA's `B` transposed; of queries, keys and values `[R, O / 3]`, the rows of each pair for its own third.
    pub lora_b: Param<Tensor<2>>,
    scale: f64,
    dropout: f64,
    #[module(skip)]
    columns: AdaptedColumns,
}

impl Reparameterization for LowRankAdapter {
    const NAME: &'static str = "lora";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let delta = self.lora_a.val().matmul(self.up()).mul_scalar(self.scale);
        base.clone() + delta.reshape(base.shape())
    }
}

impl LowRankAdapter {
    /// Factor on the product.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `B` over all outputs of the layer, zero outside of what is adapted.
    ///
    /// # Shapes
    /// - returns `[R, O]`
    pub fn up(&self) -> Tensor<2> {
        let factor = self.lora_b.val();
        let AdaptedColumns::Thirds(adapted) = self.columns else { return factor };
        let [total, width] = factor.dims();
        let rank = total / self.columns.n_pairs();
        let rows = AdaptedColumns::thirds(adapted).enumerate().map(|(pair, third)| {
            let own = factor.clone().slice_dim(0, pair * rank..(pair + 1) * rank);
            let zeros = |n: usize| Tensor::<2>::zeros([rank, n * width], &factor.device());
            let blocks = [zeros(third), own, zeros(2 - third)];
            Tensor::cat(blocks.into_iter().filter(|block| block.dims()[1] > 0).collect(), 1)
        });
        Tensor::cat(rows.collect(), 0)
    }

    /// Whether inputs are dropped: in training only.
    pub(crate) fn drops<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.dropout > 0.0 && x.device().is_autodiff()
    }

    /// What the adapter adds to the layer's output.
    ///
    /// # Shapes
    /// - `x`: `[.., I]`
    /// - returns `[.., O]`
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = if self.drops(&x) {
            let factors = kept(x.dims(), 1.0 - self.dropout, &x.device()).cast(x.dtype());
            x * factors
        } else {
            x
        };
        linear_product(linear_product(x, self.lora_a.val(), None), self.up(), None).mul_scalar(self.scale)
    }
}

/// A linear layer of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearLayer {
    /// Official key of its parameters, without `.weight`.
    pub name: String,
    /// `I`.
    pub inputs: usize,
    /// `O`.
    pub outputs: usize,
    /// Whether it has an adapter.
    pub is_adapted: bool,
}

/// All linear layers, in the network's order.
pub fn linear_layers<M: Module>(module: &M) -> Vec<LinearLayer> {
    let mut lister = LayerLister { path: ParameterPath::default(), layers: Vec::new() };
    module.visit(&mut lister);
    lister.layers
}

/// Whether any layer has an adapter.
pub fn has_adapters<M: Module>(module: &M) -> bool {
    linear_layers(module).iter().any(|layer| layer.is_adapted)
}

/// Puts adapters beside linear layers and freezes their weights.
///
/// `A` starts uniform within `1 / sqrt(I)` (PyTorch's `kaiming_uniform_(a=sqrt(5))`) and `B` at zero, so the network computes
/// what it computed before; each `A` is a function of `seed` and of the layer's name alone. Factors that a file has are
/// taken from `start`.
///
/// # Errors
///
/// When the factors of `start` have values outside of what is adapted, or another rank or scale than the shape.
pub fn attach<M: Module>(
    module: M,
    seed: u64,
    shape_of: &dyn Fn(&str) -> Option<AdapterShape>,
    start: &dyn Fn(&str) -> Option<LayerFactors>,
) -> Result<M, WeightsError> {
    let layers = linear_layers(&module);
    let mut problem = None;
    let attacher = Attacher { seed, layers: &layers, shape_of, start, problem: &mut problem };
    let module = module.apply_reparameterization(attacher);
    match problem {
        Some(problem) => Err(problem),
        None => Ok(module),
    }
}

struct LayerLister {
    path: ParameterPath,
    layers: Vec<LinearLayer>,
}

impl ModuleVisitor for LayerLister {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.path.is_factor() {
            // The factors come right after the weight that they stand beside.
            if let Some(layer) = self.layers.last_mut() {
                layer.is_adapted = true;
            }
        } else if self.path.is_linear_weight() {
            let key = self.path.official_key();
            let shape = param.lazy_shape();
            let name = key.strip_suffix(".weight").unwrap_or(&key).to_owned();
            self.layers.push(LinearLayer { name, inputs: shape[0], outputs: shape[1], is_adapted: false });
        }
    }
}

struct Attacher<'a> {
    seed: u64,
    layers: &'a [LinearLayer],
    shape_of: &'a dyn Fn(&str) -> Option<AdapterShape>,
    start: &'a dyn Fn(&str) -> Option<LayerFactors>,
    problem: &'a mut Option<WeightsError>,
}

impl Reparameterizer for Attacher<'_> {
    type Reparam = LowRankAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRankAdapter>) {
        let key = official_key(path);
        let name = key.strip_suffix(".weight").unwrap_or_default();
        let Some(layer) = self.layers.iter().find(|layer| layer.name == name) else { return (param, None) };
        let Some(shape) = (self.shape_of)(name) else { return (param, None) };
        match Factors::new(layer, shape, self.seed, (self.start)(name)) {
            Ok(factors) => {
                let adapter = factors.into_adapter(layer, shape, &param.lazy_device());
                (param.set_require_grad(false), Some(adapter))
            }
            Err(problem) => {
                self.problem.get_or_insert(problem);
                (param, None)
            }
        }
    }
}

/// Values of an adapter in burn's order.
struct Factors {
    down: Vec<f32>,
    up: Vec<f32>,
}

impl Factors {
    fn new(
        layer: &LinearLayer,
        shape: AdapterShape,
        seed: u64,
        start: Option<LayerFactors>,
    ) -> Result<Self, WeightsError> {
        let total = shape.rank * shape.columns.n_pairs();
        let Some(start) = start else {
            let bound = 1.0 / (layer.inputs as f32).sqrt();
            let official = uniform_values(bound, total * layer.inputs, seed, &format!("{}.lora_A.weight", layer.name));
            let down = transpose(&official, total, layer.inputs);
            return Ok(Self { down, up: vec![0f32; total * Self::width(layer, shape.columns)] });
        };
        let wrong = |what: String| WeightsError::Unsupported(format!("the adapter of {}: {what}", layer.name));
        let scale = shape.alpha / shape.rank as f64;
        if start.rank != total || (start.scale - scale).abs() > 1e-6 * scale.abs() {
            return Err(wrong(format!(
                "it has rank {} and scale {}, the training asks for rank {total} and scale {scale}",
                start.rank, start.scale
            )));
        }
        let down = transpose(&start.a, total, layer.inputs);
        let up = transpose(&start.b, layer.outputs, total);
        let AdaptedColumns::Thirds(adapted) = shape.columns else { return Ok(Self { down, up }) };
        let width = layer.outputs / 3;
        let mut own = Vec::with_capacity(total * width);
        for (pair, third) in AdaptedColumns::thirds(adapted).enumerate() {
            for row in up.chunks_exact(layer.outputs).skip(pair * shape.rank).take(shape.rank) {
                let columns = third * width..(third + 1) * width;
                let is_outside = |(at, value): (usize, &f32)| *value != 0.0 && !columns.contains(&at);
                if row.iter().enumerate().any(is_outside) {
                    return Err(wrong(
                        "its factors are not apart for queries, keys and values; adapt the whole layer by its key, \
                         image_encoder.blocks.*.attn.qkv"
                            .to_owned(),
                    ));
                }
                own.extend_from_slice(&row[columns]);
            }
        }
        Ok(Self { down, up: own })
    }

    fn width(layer: &LinearLayer, columns: AdaptedColumns) -> usize {
        match columns {
            AdaptedColumns::All => layer.outputs,
            AdaptedColumns::Thirds(_) => layer.outputs / 3,
        }
    }

    fn into_adapter(self, layer: &LinearLayer, shape: AdapterShape, device: &burn::tensor::Device) -> LowRankAdapter {
        let total = shape.rank * shape.columns.n_pairs();
        let width = Self::width(layer, shape.columns);
        let factor = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::<2>::from_data(TensorData::new(values, shape), device))
        };
        LowRankAdapter {
            lora_a: factor(self.down, [layer.inputs, total]),
            lora_b: factor(self.up, [total, width]),
            scale: shape.alpha / shape.rank as f64,
            dropout: shape.dropout,
            columns: shape.columns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::ModuleMapper;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tolerance};

    use crate::ops::linear::linear;
    use crate::testing::Random;

    fn on<const D: usize>(device: &Device, x: Tensor<D>) -> Tensor<D> {
        Tensor::from_data(x.into_data(), device)
    }

    fn layer(random: &mut Random, device: &Device) -> Vec<Linear> {
        let mut layer = LinearConfig::new(5, 6).init(device);
        layer.weight = Param::from_tensor(on(device, random.uniform([5, 6])));
        layer.bias = Some(Param::from_tensor(on(device, random.uniform([6]))));
        vec![layer]
    }

    fn adapted(layers: Vec<Linear>, columns: AdaptedColumns) -> Vec<Linear> {
        let shape = AdapterShape { rank: 2, alpha: 3.0, dropout: 0.0, columns };
        attach(layers, 7, &|_| Some(shape), &|_| None).expect("it fits")
    }

    impl ModuleMapper for Random {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let learns = param.is_require_grad();
            param.map(|x| on(&x.device(), self.normal(x.dims(), 1.0)).set_require_grad(learns))
        }
    }

    fn with_random_factors(random: &mut Random, layers: Vec<Linear>) -> Vec<Linear> {
        layers.map(random)
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_a_trained_one_equals_the_merged_layer() {
        let mut random = Random::new(1);
        let x = random.uniform([2, 3, 5]);
        let base = layer(&mut random, &Device::flex());
        for columns in [AdaptedColumns::All, AdaptedColumns::Thirds([true, false, true])] {
            let fresh = adapted(base.clone(), columns);
            assert!(has_adapters(&fresh) && !has_adapters(&base));
            linear(&fresh[0], x.clone()).into_data().assert_eq(&linear(&base[0], x.clone()).into_data(), true);

            let trained = with_random_factors(&mut random, fresh);
            let merged = trained.clone().materialize();
            assert!(!has_adapters(&merged));
            let expected = linear(&merged[0], x.clone());
            linear(&trained[0], x.clone())
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
            let adapter = trained[0].weight.reparameterization::<LowRankAdapter>().expect("adapted");
            let beside =
                burn::tensor::module::linear(x.clone(), trained[0].weight.base(), None) + adapter.forward(x.clone());
            let expected = burn::tensor::module::linear(x.clone(), merged[0].weight.val(), None);
            beside.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
        }
    }

    /// The kernel's gradients are those of the adapted weight, in burn's own operations.
    #[test]
    fn gradients_reach_the_factors_and_not_the_frozen_weight() {
        let device = Device::flex().autodiff();
        let mut random = Random::new(2);
        let x = Tensor::from_inner(random.uniform([2, 3, 5])).require_grad();
        let columns = AdaptedColumns::Thirds([true, false, true]);
        let layers = adapted(layer(&mut random, &device), columns);
        let trained = with_random_factors(&mut random, layers);
        let weights = Tensor::from_inner(random.uniform([2, 3, 6]));
        let bias = trained[0].bias.as_ref().expect("a bias").val();
        let by_kernel = (linear(&trained[0], x.clone()) * weights.clone()).sum().backward();
        let by_weight =
            (burn::tensor::module::linear(x.clone(), trained[0].weight.val(), Some(bias)) * weights).sum().backward();
        let adapter = trained[0].weight.reparameterization::<LowRankAdapter>().expect("adapted");
        for factor in [&adapter.lora_a, &adapter.lora_b] {
            let got = factor.val().grad(&by_kernel).expect("it learns").into_data();
            let expected = factor.val().grad(&by_weight).expect("it learns").into_data();
            got.assert_approx_eq::<f32>(&expected, Tolerance::default());
        }
        let d_x = x.grad(&by_kernel).expect("tracked").into_data();
        d_x.assert_approx_eq::<f32>(&x.grad(&by_weight).expect("tracked").into_data(), Tolerance::default());
        assert!(trained[0].weight.base().grad(&by_kernel).is_none(), "the weight is frozen");
    }

    #[test]
    fn inputs_are_dropped_in_training_only() {
        let device = Device::flex();
        let shape = AdapterShape { rank: 2, alpha: 2.0, dropout: 0.5, columns: AdaptedColumns::All };
        let mut random = Random::new(3);
        let layers = layer(&mut random, &device.clone().autodiff());
        let attached = attach(layers, 7, &|_| Some(shape), &|_| None).expect("it fits");
        let trained = with_random_factors(&mut random, attached);
        let x = Tensor::<2>::ones([64, 5], &device.clone().autodiff());
        let rows = |y: Tensor<2>| y.into_data().try_to_vec::<f32>().expect("f32");
        let y = rows(linear(&trained[0], x.clone()));
        assert!(y.chunks(6).any(|row| row != &y[..6]), "rows with different inputs dropped differ");
        let valid = trained.valid();
        let y = rows(linear(&valid[0], x.inner()));
        assert!(y.chunks(6).all(|row| row == &y[..6]), "nothing is dropped");
    }
}
