//! Writes `.safetensors` files tensor by tensor (<https://github.com/huggingface/safetensors#format>).
//!
//! By hand, because the crate's own writer goes through a temporary file that only its owner may read; this one leaves
//! name and mode to the caller.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use super::state_dict::{Dtype, bytes_from_floats};

/// A tensor to write, without its values.
#[derive(Clone, Debug)]
pub(super) struct TensorHeader {
    /// Its key.
    pub key: String,
    /// F32, F16 or BF16; I64 of counters.
    pub dtype: Dtype,
    /// Its axes.
    pub shape: Vec<usize>,
}

/// Writes a file of f32 tensors in memory, given as key, shape and values.
pub fn write_f32_tensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: HashMap<String, String>,
) -> io::Result<()> {
    let headers: Vec<TensorHeader> = tensors
        .iter()
        .map(|(key, shape, _)| TensorHeader { key: (*key).to_owned(), dtype: Dtype::F32, shape: shape.to_vec() })
        .collect();
    write_tensors(path, &headers, metadata, |at| bytes_from_floats(Dtype::F32, tensors[at].2))
}

/// Writes a file; the bytes of the tensors are requested one by one, so that one tensor is in memory at a time.
///
/// # Panics
/// When a type is none of F32, F16, BF16 and I64, or the bytes do not fill the shape.
pub(super) fn write_tensors(
    path: &Path,
    tensors: &[TensorHeader],
    metadata: HashMap<String, String>,
    bytes_of: impl Fn(usize) -> Vec<u8>,
) -> io::Result<()> {
    let mut end = 0;
    let infos = tensors
        .iter()
        .map(|tensor| {
            let start = end;
            end += tensor.shape.iter().product::<usize>() * tensor.dtype.size();
            let info = TensorInfo {
                dtype: safetensors_dtype(tensor.dtype),
                shape: tensor.shape.clone(),
                data_offsets: (start, end),
            };
            (tensor.key.clone(), info)
        })
        .collect();
    let header = Metadata::new(Some(metadata), infos).map_err(io::Error::other)?;
    // A JSON value sorts its keys, so that equal models result in equal files.
    let header = serde_json::to_value(&header).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header).map_err(io::Error::other)?;
    // Eight bytes of length come first; the data starts at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (at, tensor) in tensors.iter().enumerate() {
        let bytes = bytes_of(at);
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        assert_eq!(bytes.len(), expected, "the bytes of `{}` must fill {:?}", tensor.key, tensor.shape);
        file.write_all(&bytes)?;
    }
    file.flush()
}

fn safetensors_dtype(dtype: Dtype) -> safetensors::Dtype {
    match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::BF16 => safetensors::Dtype::BF16,
        Dtype::I64 => safetensors::Dtype::I64,
        other => panic!("weights are written as F32, F16 or BF16, not as {other:?}"),
    }
}
