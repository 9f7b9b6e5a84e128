//! Adapters that a file or folder holds, under official keys, whatever program wrote them; and their use on a network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::FloatDType;

use super::adapter::{AdaptedColumns, AdapterShape, attach, linear_layers};
use super::{peft, samed};
use crate::sam::Sam;
use crate::weights::{
    Mismatch, StateDict, TensorInfo, WeightsError, describe, fill_parameters, finite, nearest_key, parameter_shapes,
    require_fit,
};

/// The program whose layout a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterFormat {
    /// The folder of Hugging Face PEFT.
    Peft,
    /// The `.pth` of SAMed (<https://github.com/hitachinsk/SAMed>).
    SamEd,
}

impl AdapterFormat {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "PEFT (LoRA)",
            Self::SamEd => "SAMed (LoRA of queries and values)",
        }
    }
}

/// The factors of one layer, in PyTorch's order.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerFactors {
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
    /// Rows of `a`.
    pub rank: usize,
    /// Columns of `a`.
    pub inputs: usize,
    /// Rows of `b`.
    pub outputs: usize,
    /// Factor on `b a`.
    pub scale: f64,
}

/// Low-rank adapters on disk.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    /// The folder, or the file.
    pub path: PathBuf,
    /// The layout.
    pub format: AdapterFormat,
    /// The base checkpoint, where it is named.
    pub base: Option<String>,
    /// Of each adapted layer, by its official key without `.weight`.
    pub layers: BTreeMap<String, LayerFactors>,
    /// Tensors that were trained whole, by official key: shape and values.
    pub whole: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl AdapterFile {
    /// Whether this is the folder of an adapter, and not a checkpoint.
    pub fn is_folder_of(path: &Path) -> bool {
        path.join(peft::CONFIG).is_file()
    }

    /// Whether a file of tensors holds adapters, and no checkpoint.
    pub fn is_file_of(dict: &StateDict) -> bool {
        samed::is_samed(dict)
    }

    /// Reads a folder of PEFT or a file of SAMed.
    ///
    /// # Errors
    ///
    /// When it is neither, is damaged, or holds what is not plain LoRA of linear layers.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if Self::is_folder_of(path) {
            return peft::read(path);
        }
        let is_folder = std::fs::metadata(path).map_err(|source| io(path, source))?.is_dir();
        if is_folder {
            return Err(problem(
                path,
                format!("expected a folder with {} and {}, or a .pth of SAMed", peft::CONFIG, peft::WEIGHTS),
            ));
        }
        let dict = StateDict::open(path)?;
        match Self::is_file_of(&dict) {
            true => samed::read(dict),
            false => Err(problem(
                path,
                "this file holds no adapter; expected the folder of PEFT that a training wrote (adapter), or a .pth of SAMed"
                    .to_owned(),
            )),
        }
    }

    /// Number of values of the adapters and of the tensors trained whole.
    pub fn n_values(&self) -> (usize, usize) {
        let adapters = self.layers.values().map(|factors| factors.a.len() + factors.b.len()).sum();
        (adapters, self.whole.values().map(|(_, values)| values.len()).sum())
    }

    /// Ranks and scales that occur, as text.
    pub fn describe(&self) -> String {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for factors in self.layers.values() {
            *kinds.entry(format!("rank {}, scale {}", factors.rank, factors.scale)).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} x {kind}")).collect();
        kinds.join("; ")
    }

    /// Fills the tensors that were trained whole, and compares the adapters with the layers.
    ///
    /// # Errors
    ///
    /// When the network has another size: an adapter belongs to one base model.
    pub fn fill(&self, sam: Sam) -> Result<Sam, WeightsError> {
        self.check(&sam)?;
        fill_parameters(sam, FloatDType::F32, |key| Ok(self.whole.get(key).map(|(_, values)| values.clone())))
    }

    /// The network with the adapters merged into its weights.
    ///
    /// # Errors
    ///
    /// As [`AdapterFile::fill`].
    pub fn merge_into(&self, sam: Sam) -> Result<Sam, WeightsError> {
        Ok(self.attach_to(sam)?.materialize())
    }

    /// The network with the adapters beside its weights, without dropout.
    ///
    /// # Errors
    ///
    /// As [`AdapterFile::fill`].
    pub fn attach_to(&self, sam: Sam) -> Result<Sam, WeightsError> {
        let shape_of = |name: &str| {
            self.layers.get(name).map(|factors| AdapterShape {
                rank: factors.rank,
                alpha: factors.scale * factors.rank as f64,
                dropout: 0.0,
                columns: AdaptedColumns::All,
            })
        };
        attach(self.fill(sam)?, 0, &shape_of, &|name| self.layers.get(name).cloned())
    }

    fn check(&self, sam: &Sam) -> Result<(), WeightsError> {
        let mut mismatch = Mismatch::default();
        let layers = linear_layers(sam);
        let unfilled: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
        for (name, factors) in &self.layers {
            let got = vec![factors.outputs, factors.inputs];
            match layers.iter().find(|layer| layer.name == *name) {
                None => {
                    mismatch.extra.push((name.clone(), got, nearest_key(name, unfilled.iter().map(String::as_str))))
                }
                Some(layer) if [layer.outputs, layer.inputs] == got[..] => {}
                Some(layer) => mismatch.wrong_shape.push((name.clone(), vec![layer.outputs, layer.inputs], got)),
            }
        }
        let shapes: BTreeMap<String, Vec<usize>> = parameter_shapes(sam).into_iter().collect();
        for (key, (shape, _)) in &self.whole {
            match shapes.get(key) {
                None => mismatch.extra.push((key.clone(), shape.clone(), None)),
                Some(expected) if expected == shape => {}
                Some(expected) => mismatch.wrong_shape.push((key.clone(), expected.clone(), shape.clone())),
            }
        }
        require_fit(mismatch, &self.path, || format!("the base model, {}", describe(sam.config())))
    }
}

/// Values of a tensor as f32, all finite.
pub(super) fn values_of(dict: &StateDict, key: &str) -> Result<Vec<f32>, WeightsError> {
    finite(dict.read_f32(key)?, &dict.path, key)
}

/// Rows and columns of a factor.
pub(super) fn matrix(dict: &StateDict, key: &str) -> Result<(usize, usize), WeightsError> {
    let TensorInfo { shape, .. } = dict
        .tensors
        .get(key)
        .ok_or_else(|| problem(&dict.path, format!("`{key}` is missing beside the other factor of its layer")))?;
    match shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(problem(
            &dict.path,
            format!("`{key}` has shape {shape:?}; only adapters of linear layers, with two axes, are supported"),
        )),
    }
}

pub(super) fn problem(path: &Path, what: String) -> WeightsError {
    WeightsError::Adapter { path: path.to_owned(), what }
}

pub(super) fn io(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_owned(), source }
}
