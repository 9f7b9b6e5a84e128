//! The parameters of a model under their official keys.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_model::weights::ParameterPath;

use super::learning::is_factor;

/// A parameter by name.
#[derive(Clone, Debug)]
pub(super) struct NamedParameter {
    pub(super) key: String,
    pub(super) id: ParamId,
    pub(super) shape: Vec<usize>,
    pub(super) learns: bool,
}

/// The size of a part of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// As official keys begin, such as `mask_decoder`; all low-rank adapters are one part, `adapters`.
    pub part: String,
    /// Number of its parameters.
    pub all: usize,
    /// Those that learn.
    pub learned: usize,
}

/// Key of the random frequencies of the position encoding, which are drawn once and never learn.
const POSITION_FREQUENCIES: &str = "positional_encoding_gaussian_matrix";

/// The part of all low-rank adapters.
const ADAPTERS: &str = "adapters";

/// The sizes of a network's parts, in the network's order.
pub(crate) fn part_sizes<M: Module>(model: &M) -> Vec<PartSize> {
    let mut parts: Vec<PartSize> = Vec::new();
    for NamedParameter { key, shape, learns, .. } in parameters(model) {
        // Constants and statistics of the network, which the official package does not count either.
        if key.ends_with(POSITION_FREQUENCIES) || is_statistic(&key) {
            continue;
        }
        let name = if is_factor(&key) { ADAPTERS } else { key.split('.').next().unwrap_or_default() };
        let n: usize = shape.iter().product();
        let at = parts.iter().position(|part| part.part == name).unwrap_or_else(|| {
            parts.push(PartSize { part: name.to_owned(), all: 0, learned: 0 });
            parts.len() - 1
        });
        parts[at].all += n;
        parts[at].learned += if learns { n } else { 0 };
    }
    parts
}

/// All float parameters, in the module's order.
pub(super) fn parameters<M: Module>(model: &M) -> Vec<NamedParameter> {
    let mut lister = Lister { path: ParameterPath::default(), parameters: Vec::new() };
    model.visit(&mut lister);
    lister.parameters
}

/// The ends of the keys of batch norms' statistics, which follow the data and have no gradient.
const STATISTICS: [&str; 2] = [".running_mean", ".running_var"];

/// Whether a key is that of a batch norm's statistics.
fn is_statistic(key: &str) -> bool {
    STATISTICS.iter().any(|end| key.ends_with(end))
}

/// The values of the parameters that learn, without autodiff, by id; with the `statistics` of batch norms or without.
pub(super) fn learned_values<M: Module>(model: &M, statistics: bool) -> GradientsParams {
    let mut copier = Copier { path: ParameterPath::default(), values: GradientsParams::new(), statistics };
    model.visit(&mut copier);
    copier.values
}

/// Freezes the parameters whose keys do not satisfy `learns`.
pub(super) fn set_learning<M: Module>(model: M, learns: impl Fn(&str) -> bool) -> M {
    model.map(&mut Freezer { path: ParameterPath::default(), learns })
}

struct Lister {
    path: ParameterPath,
    parameters: Vec<NamedParameter>,
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameters.push(NamedParameter {
            key: self.path.official_key(),
            id: param.id,
            shape: self.path.official_shape(param.lazy_shape().as_slice()),
            learns: param.is_require_grad(),
        });
    }
}

struct Copier {
    path: ParameterPath,
    values: GradientsParams,
    statistics: bool,
}

impl ModuleVisitor for Copier {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() || (self.statistics && is_statistic(&self.path.official_key())) {
            self.values.register(param.id, param.val().inner());
        }
    }
}

struct Freezer<F> {
    path: ParameterPath,
    learns: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Freezer<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Buffers never learn.
        if param.is_require_grad() && !(self.learns)(&self.path.official_key()) {
            return param.set_require_grad(false);
        }
        param
    }
}
