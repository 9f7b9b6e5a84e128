//! Checkpoints for tests, built byte by byte.

use std::io::{Cursor, Write};
use std::path::Path;

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::container::STREAM_MAGIC;
use super::writer::{PthEntry, push_ints, push_text, write_pth};
use super::{PthError, PthIndex};
use crate::weights::state_dict::Dtype;

/// Opens a checkpoint of these bytes.
pub(crate) fn open(bytes: &[u8]) -> Result<PthIndex, PthError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("written");
    PthIndex::open(file.path())
}

pub(crate) fn rejection(bytes: &[u8]) -> String {
    open(bytes).expect_err("must be rejected").to_string()
}

/// The zip of a pickle and its storages.
pub(crate) fn zip_of(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut member = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).expect("started");
        zip.write_all(bytes).expect("written");
    };
    member("x/data.pkl".into(), pickle);
    for (key, bytes) in storages.iter().enumerate() {
        member(format!("x/data/{key}"), bytes);
    }
    zip.finish().expect("finished").into_inner()
}

/// The stream of a pickle and its storages, as before PyTorch 1.6.
pub(crate) fn stream_of(pickle: &[u8], storages: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = [b"\x80\x02\x8a\x0a", STREAM_MAGIC.as_slice(), b".M\xe9\x03."].concat();
    bytes.extend(b"}(X\x0d\0\0\0little_endian\x88u.");
    bytes.extend(pickle);
    bytes.extend(b"](");
    (0..storages.len()).for_each(|key| push_text(&mut bytes, &key.to_string()));
    bytes.extend(b"e.");
    for (count, storage) in storages {
        bytes.extend((*count as u64).to_le_bytes());
        bytes.extend(*storage);
    }
    bytes
}

/// A dict entry: a view of storage 0, of `len` bytes; `view` is a sixth item of the persistent id.
pub(crate) fn entry(name: &str, len: usize, offset: usize, axes: [&[usize]; 2], view: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_text(&mut out, name);
    out.extend(b"ctorch._utils\n_rebuild_tensor\n((");
    push_text(&mut out, "storage");
    out.extend(b"ctorch\nByteStorage\nX\x01\0\0\x000X\x06\0\0\0cuda:0");
    push_ints(&mut out, &[len]);
    out.extend(view);
    out.extend(b"tQ");
    push_ints(&mut out, &[offset]);
    for axis in axes {
        out.push(b'(');
        push_ints(&mut out, axis);
        out.push(b't');
    }
    out.extend(b"tR");
    out
}

pub(crate) fn dict(entries: &[Vec<u8>]) -> Vec<u8> {
    [b"\x80\x02}(", entries.concat().as_slice(), b"u."].concat()
}

pub(crate) fn sample() -> (Vec<PthEntry<'static>>, Vec<u8>) {
    let entries = vec![
        PthEntry { name: "scalar", dtype: Dtype::F32, shape: &[] },
        PthEntry { name: "empty", dtype: Dtype::BF16, shape: &[0, 3] },
        PthEntry { name: "encoder.é.weight", dtype: Dtype::F16, shape: &[2, 3] },
        PthEntry { name: "ids", dtype: Dtype::I64, shape: &[2, 1] },
    ];
    let mut file = Cursor::new(Vec::new());
    write_pth::<PthError>(Path::new("x"), &mut file, None, &entries, |entry| Ok(values(entry))).expect("written");
    (entries, file.into_inner())
}

pub(crate) fn values(entry: &PthEntry) -> Vec<u8> {
    let len = entry.shape.iter().product::<usize>() * entry.dtype.size();
    (0..len).map(|byte| byte as u8 ^ entry.name.len() as u8).collect()
}
