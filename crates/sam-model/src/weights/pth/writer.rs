//! Writes PyTorch checkpoints.
//!
//! Only the zip container is written, byte for byte the same for the same tensors, each aligned to 64 bytes as by PyTorch,
//! so `torch.load(path, weights_only=True, mmap=True)` works.

use std::io::{Seek, Write};
use std::path::Path;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::PthError;
use super::container::STORAGES;
use crate::weights::state_dict::Dtype;

/// `kFieldAlignment` of `inline_container.h`: where storages begin, for vector loads out of a memory map.
const ALIGNMENT: u16 = 64;

/// One tensor to write, without its values.
#[derive(Clone, Debug)]
pub(crate) struct PthEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
}

/// Writes a checkpoint with one dict, name to tensor, under the key `wrapper` of another dict if given, as in
/// `{"model": ..}`. `bytes_of` returns the values of each entry in turn (row-major, little-endian), so one tensor is in
/// memory at a time. `path` is only for messages.
pub(crate) fn write_pth<E: From<PthError>>(
    path: &Path,
    file: impl Write + Seek,
    wrapper: Option<&str>,
    entries: &[PthEntry],
    mut bytes_of: impl FnMut(&PthEntry) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let mut zip = ZipWriter::new(file);
    let mut member = |name: &str, bytes: &[u8]| -> Result<(), ZipError> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(bytes.len() as u64 >= u64::from(u32::MAX))
            .with_alignment(ALIGNMENT);
        zip.start_file(format!("archive/{name}"), options)?;
        Ok(zip.write_all(bytes)?)
    };
    let failed = |source| PthError::Write { path: path.into(), source };
    member("data.pkl", &pickle_of(wrapper, entries)).map_err(failed)?;
    member("byteorder", b"little").map_err(failed)?;
    for (key, entry) in entries.iter().enumerate() {
        let bytes = bytes_of(entry)?;
        let expected = entry.shape.iter().product::<usize>() * entry.dtype.size();
        assert_eq!(bytes.len(), expected, "bytes of `{}`, {:?}", entry.name, entry.shape);
        member(&format!("data/{key}"), &bytes).map_err(failed)?;
    }
    member("version", b"3\n").map_err(failed)?;
    zip.finish().map_err(failed)?;
    Ok(())
}

/// The pickle of an `OrderedDict` of tensors, tensor `i` over the whole of storage `i`. No memo: it is optional.
fn pickle_of(wrapper: Option<&str>, entries: &[PthEntry]) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    if let Some(wrapper) = wrapper {
        out.extend(b"}"); // An empty dict; SETITEM at the end puts ours into it.
        push_text(&mut out, wrapper);
    }
    out.extend(b"ccollections\nOrderedDict\n)R(");
    for (key, entry) in entries.iter().enumerate() {
        let class = STORAGES.iter().find(|(.., dtype)| *dtype == Some(entry.dtype));
        let (class, ..) = class.expect("every dtype has a storage class");
        let mut strides = vec![1; entry.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * entry.shape[axis].max(1);
        }
        push_text(&mut out, entry.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        push_text(&mut out, "storage");
        out.extend(format!("ctorch\n{class}\n").bytes());
        push_text(&mut out, &key.to_string());
        push_text(&mut out, "cpu");
        push_ints(&mut out, &[entry.shape.iter().product()]);
        out.extend(b"tQK\0("); // BINPERSID of that tuple, and offset 0.
        push_ints(&mut out, entry.shape);
        out.extend(b"t(");
        push_ints(&mut out, &strides);
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR"); // No gradient, no hooks.
    }
    out.extend(if wrapper.is_some() { &b"us."[..] } else { b"u." });
    out
}

/// BINUNICODE
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

/// BININT, or LONG1 for what does not fit in it.
pub(crate) fn push_ints(out: &mut Vec<u8>, ints: &[usize]) {
    for int in ints {
        match i32::try_from(*int) {
            Ok(int) => {
                out.push(b'J');
                out.extend(int.to_le_bytes());
            }
            Err(_) => {
                out.extend(b"\x8a\x08");
                out.extend((*int as u64).to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::pth::samples::{open, sample, values};

    #[test]
    fn written_checkpoints_are_readable() {
        let (entries, bytes) = sample();
        assert_eq!(bytes, sample().1, "the same tensors are the same file");
        let index = open(&bytes).expect("valid");
        assert_eq!((index.wrapper.as_deref(), index.tensors.len()), (None, entries.len()));
        for (entry, tensor) in entries.iter().zip(&index.tensors) {
            assert_eq!((entry.name, entry.dtype, entry.shape), (&*tensor.name, tensor.dtype, &*tensor.shape));
            assert_eq!(tensor.span.start % u64::from(ALIGNMENT), 0);
            assert_eq!(index.read(tensor).expect("read"), values(entry));
        }
    }
}
