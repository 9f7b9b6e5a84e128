//! The `.pth` of SAMed (arXiv 2304.13785; `sam_lora_image_encoder.py::save_lora_parameters`): `w_a_000, w_b_000, ..`, of the
//! blocks in order, first of queries, then of values; scale 1; beside them prompt encoder and mask decoder under official
//! keys.

use std::collections::BTreeMap;

use super::file::{AdapterFile, AdapterFormat, LayerFactors, matrix, problem, values_of};
use crate::weights::{StateDict, WeightsError};

const FIRST: &str = "w_a_000";

pub(super) fn is_samed(dict: &StateDict) -> bool {
    dict.tensors.contains_key(FIRST)
}

pub(super) fn read(dict: StateDict) -> Result<AdapterFile, WeightsError> {
    let path = dict.path.clone();
    let count = |prefix: &str| dict.tensors.keys().filter(|key| key.starts_with(prefix)).count();
    let (n_a, n_b) = (count("w_a_"), count("w_b_"));
    if n_a != n_b || !n_a.is_multiple_of(2) {
        let what = format!("expected two pairs of factors per block, w_a_ and w_b_; got {n_a} w_a_ and {n_b} w_b_");
        return Err(problem(&path, what));
    }
    let mut layers = BTreeMap::new();
    for block in 0..n_a / 2 {
        let pair = |part: usize| Pair::read(&dict, 2 * block + part);
        let factors = fused(pair(0)?, pair(1)?).ok_or_else(|| {
            problem(&path, format!("the factors of queries and of values of block {block} have different sizes"))
        })?;
        layers.insert(format!("image_encoder.blocks.{block}.attn.qkv"), factors);
    }
    let mut whole = BTreeMap::new();
    let others = dict.tensors.iter().filter(|(key, _)| !key.starts_with("w_a_") && !key.starts_with("w_b_"));
    for (key, info) in others {
        // The network is wrapped in one whose field is `sam`.
        let official = key.strip_prefix("sam.").unwrap_or(key);
        if !official.starts_with("prompt_encoder.") && !official.starts_with("mask_decoder.") {
            return Err(problem(&path, format!("`{key}` is no tensor of SAMed's layout")));
        }
        whole.insert(official.to_owned(), (info.shape.clone(), values_of(&dict, key)?));
    }
    Ok(AdapterFile { path, format: AdapterFormat::SamEd, base: None, layers, whole })
}

struct Pair {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    inputs: usize,
    width: usize,
}

impl Pair {
    fn read(dict: &StateDict, index: usize) -> Result<Self, WeightsError> {
        let [a, b] = ["w_a_", "w_b_"].map(|prefix| format!("{prefix}{index:03}"));
        let ((rank, inputs), (width, columns)) = (matrix(dict, &a)?, matrix(dict, &b)?);
        if rank != columns {
            let what = format!("`{a}` has rank {rank}, `{b}` has {columns}");
            return Err(problem(&dict.path, what));
        }
        Ok(Self { a: values_of(dict, &a)?, b: values_of(dict, &b)?, rank, inputs, width })
    }
}

/// Both pairs as one of twice the rank, for the layer that computes queries, keys and values.
fn fused(queries: Pair, values: Pair) -> Option<LayerFactors> {
    let (rank, inputs, width) = (queries.rank, queries.inputs, queries.width);
    if (rank, inputs, width) != (values.rank, values.inputs, values.width) {
        return None;
    }
    let mut b = vec![0f32; 3 * width * 2 * rank];
    for row in 0..width {
        let at = |third: usize, pair: usize| ((third * width + row) * 2 + pair) * rank;
        b[at(0, 0)..][..rank].copy_from_slice(&queries.b[row * rank..][..rank]);
        b[at(2, 1)..][..rank].copy_from_slice(&values.b[row * rank..][..rank]);
    }
    let a = [queries.a, values.a].concat();
    Some(LayerFactors { a, b, rank: 2 * rank, inputs, outputs: 3 * width, scale: 1.0 })
}
