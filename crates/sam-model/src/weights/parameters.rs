//! A burn module as a list of tensors under the official keys, and back.
//!
//! burn stores a linear layer's weight as `[in, out]` and calls a norm's parameters `gamma` and `beta`; PyTorch has
//! `[out, in]`, `weight` and `bias`. The difference is confined to this file: everything outside sees PyTorch's names and
//! shapes.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use sam_files::Fingerprint;

use super::error::WeightsError;
use super::layout::{MODULE_TO_OFFICIAL, translate};

/// The position of a traversal of a module.
#[derive(Clone, Debug, Default)]
pub struct ParameterPath {
    names: Vec<String>,
    containers: Vec<String>,
}

impl ParameterPath {
    /// Enters a field; to be called from `enter_module`.
    pub fn enter(&mut self, name: &str, container_type: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    /// Leaves a field; to be called from `exit_module`.
    pub fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// The official key of the current parameter; of a factor of an adapter that of its layer, with PEFT's ending.
    pub fn official_key(&self) -> String {
        let mut path = self.names.join(".");
        if self.container() == "Struct:LayerNorm" {
            path = path.replace(".gamma", ".weight").replace(".beta", ".bias");
        }
        if self.is_factor() {
            path =
                path.replace(".weight.lora.lora_a", ".lora_A.weight").replace(".weight.lora.lora_b", ".lora_B.weight");
        }
        translate(MODULE_TO_OFFICIAL, &path).unwrap_or(path)
    }

    /// Whether the current parameter is the weight of a linear layer.
    pub(crate) fn is_linear_weight(&self) -> bool {
        self.container() == "Struct:Linear" && self.names.last().is_some_and(|name| name == "weight")
    }

    /// Whether the current parameter is a factor of a low-rank adapter.
    pub(crate) fn is_factor(&self) -> bool {
        self.container() == "Struct:LowRankAdapter"
    }

    /// The current parameter's shape in a checkpoint.
    pub fn official_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if self.is_transposed() {
            shape.reverse();
        }
        shape
    }

    /// Converts values from a checkpoint's order to burn's.
    pub fn from_official(&self, values: Vec<f32>, official_shape: &[usize]) -> Vec<f32> {
        if self.is_transposed() { transpose(&values, official_shape[0], official_shape[1]) } else { values }
    }

    /// Converts values of burn's `shape` from burn's order to a checkpoint's.
    pub fn to_official(&self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        if self.is_transposed() { transpose(&values, shape[0], shape[1]) } else { values }
    }

    fn container(&self) -> &str {
        self.containers.last().map(String::as_str).unwrap_or_default()
    }

    fn is_transposed(&self) -> bool {
        self.is_linear_weight() || self.is_factor()
    }
}

/// Values of a tensor as f32, whatever its float type on the device.
///
/// # Shapes
/// - `tensor`: any; values are row-major
///
/// # Panics
/// When the device fails while reading.
pub fn host_values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().try_to_vec::<f32>().expect("f32 data holds f32 values")
}

/// The official key of a parameter whose module path is `path`, without norms.
pub(crate) fn official_key(path: &str) -> String {
    translate(MODULE_TO_OFFICIAL, path).unwrap_or_else(|| path.to_owned())
}

/// A row-major matrix, transposed.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut transposed = vec![0f32; values.len()];
    for (row, line) in values.chunks_exact(columns).enumerate() {
        for (column, &value) in line.iter().enumerate() {
            transposed[column * rows + row] = value;
        }
    }
    transposed
}

/// A parameter of a module; its values are read from the device on demand.
pub struct NamedTensor {
    /// Official key.
    pub key: String,
    /// Shape in a checkpoint.
    pub shape: Vec<usize>,
    values: Box<dyn Fn() -> Vec<f32>>,
}

impl NamedTensor {
    /// Values in a checkpoint's order.
    pub fn values(&self) -> Vec<f32> {
        (self.values)()
    }

    /// A tensor with given values, as after a resize.
    pub fn replaced(key: String, shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { key, shape, values: Box::new(move || values.clone()) }
    }
}

/// Keys and shapes of all parameters, in the module's order; no values are read.
pub fn parameter_shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut lister = Lister { path: ParameterPath::default(), shapes: Vec::new() };
    module.visit(&mut lister);
    lister.shapes
}

/// All parameters, in the module's order.
pub fn named_tensors<M: Module>(module: &M) -> Vec<NamedTensor> {
    let mut collector = Collector { path: ParameterPath::default(), tensors: Vec::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// A hash of every weight with its key: equal for the same weights in any layout and number type of a file. Reads all of them on
/// the host.
pub fn fingerprint<M: Module>(module: &M) -> u64 {
    let mut hash = Fingerprint::new(0);
    for tensor in named_tensors(module) {
        hash.add_bytes(tensor.key.as_bytes());
        tensor.values().iter().for_each(|value| hash.add_word(u64::from(value.to_bits())));
    }
    hash.value()
}

/// Fills the parameters for which `read` has values, as `dtype` on their device; the others are unchanged.
///
/// `read` takes a key and returns values in a checkpoint's order; the shapes must have been compared before.
pub fn fill_parameters<M: Module>(
    module: M,
    dtype: FloatDType,
    read: impl FnMut(&str) -> Result<Option<Vec<f32>>, WeightsError>,
) -> Result<M, WeightsError> {
    let mut filler = Filler { path: ParameterPath::default(), dtype, read, error: None };
    let module = module.map(&mut filler);
    match filler.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

struct Lister {
    path: ParameterPath,
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = self.path.official_shape(param.lazy_shape().as_slice());
        self.shapes.push((self.path.official_key(), shape));
    }
}

struct Collector {
    path: ParameterPath,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims();
        let path = self.path.clone();
        let values = move || path.to_official(host_values(&tensor), &shape);
        self.tensors.push(NamedTensor {
            key: self.path.official_key(),
            shape: self.path.official_shape(&shape),
            values: Box::new(values),
        });
    }
}

struct Filler<F> {
    path: ParameterPath,
    dtype: FloatDType,
    read: F,
    error: Option<WeightsError>,
}

impl<F: FnMut(&str) -> Result<Option<Vec<f32>>, WeightsError>> ModuleMapper for Filler<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape();
        match (self.read)(&self.path.official_key()) {
            Ok(Some(values)) => {
                let official_shape = self.path.official_shape(shape.as_slice());
                let values = self.path.from_official(values, &official_shape);
                let data = TensorData::new(values, shape);
                let tensor = Tensor::from_data(data, (&param.lazy_device(), DType::from(self.dtype)));
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Ok(None) => param,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SamConfig, Variant};
    use burn::tensor::Device;

    #[test]
    fn vit_b_has_the_314_official_tensors() {
        let sam = SamConfig::published(Variant::VitB).init(&Device::flex()).expect("sizes fit");
        let shapes = parameter_shapes(&sam);
        assert_eq!(shapes.len(), 314);
        let shape = |key: &str| shapes.iter().find(|(k, _)| k == key).map(|(_, shape)| shape.clone());
        assert_eq!(shape("image_encoder.blocks.0.attn.qkv.weight"), Some(vec![2304, 768]));
        assert_eq!(shape("image_encoder.blocks.0.norm1.weight"), Some(vec![768]));
        assert_eq!(shape("image_encoder.blocks.2.attn.rel_pos_w"), Some(vec![127, 64]));
        assert_eq!(shape("image_encoder.neck.2.weight"), Some(vec![256, 256, 3, 3]));
        assert_eq!(shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"), Some(vec![2, 128]));
        assert_eq!(shape("prompt_encoder.mask_downscaling.6.weight"), Some(vec![256, 16, 1, 1]));
        assert_eq!(shape("mask_decoder.output_upscaling.3.weight"), Some(vec![64, 32, 2, 2]));
        assert_eq!(shape("mask_decoder.output_hypernetworks_mlps.3.layers.2.weight"), Some(vec![32, 256]));
    }

    #[test]
    fn transposing_twice_is_the_identity() {
        let values: Vec<f32> = (0..6).map(|value| value as f32).collect();
        assert_eq!(transpose(&values, 2, 3), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(transpose(&transpose(&values, 2, 3), 3, 2), values);
    }
}
