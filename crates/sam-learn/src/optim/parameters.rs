//! The parameters of a model under their official keys.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_model::weights::ParameterPath;

/// A parameter by name.
#[derive(Clone, Debug)]
pub(super) struct NamedParameter {
    pub(super) key: String,
    pub(super) id: ParamId,
    pub(super) shape: Vec<usize>,
    pub(super) learns: bool,
}

/// All float parameters, in the module's order.
pub(super) fn parameters<M: Module>(model: &M) -> Vec<NamedParameter> {
    let mut lister = Lister { path: ParameterPath::default(), parameters: Vec::new() };
    model.visit(&mut lister);
    lister.parameters
}

/// The values of all parameters without autodiff, by id.
pub(super) fn plain_values<M: Module>(model: &M) -> GradientsParams {
    let mut copier = Copier { values: GradientsParams::new() };
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
    values: GradientsParams,
}

impl ModuleVisitor for Copier {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.values.register(param.id, param.val().inner());
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
