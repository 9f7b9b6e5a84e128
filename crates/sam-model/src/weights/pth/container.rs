//! The containers of PyTorch checkpoints: where in the file the pickle and the storages lie.
//!
//! Two containers, both read: the zip that `torch.save` writes since 1.6 (`<root>/data.pkl`, one stored member
//! `<root>/data/<key>` per storage), and the older stream (five pickles, then the storages one after another).
//! The layouts follow `torch/serialization.py` and `caffe2/serialize/inline_container.cc`
//! (<https://github.com/pytorch/pytorch/blob/v2.11.0/torch/serialization.py>). Differences: the checksums of a zip are
//! verified, where they were written (`set_crc32_options` lets writers omit them), and big-endian and TorchScript files are
//! errors.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::PthError;
use super::pickle::{Id, Pickle, PickleError, Value};
use crate::weights::state_dict::Dtype;

/// Maximum size of a pickle; that of a ViT-H checkpoint with its optimiser has 0.2 MB.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Maximum length of a storage's key (a number of up to 20 digits). Memos let a pickle repeat a long value many times, so
/// everything copied out of it is bounded.
const MAX_KEY_BYTES: usize = 64;

/// Bytes in memory while a member is compared with its checksum.
const VERIFIED_AT_ONCE: usize = 1 << 18;

/// `torch.serialization.MAGIC_NUMBER` and `PROTOCOL_VERSION`, which open a stream.
pub(crate) const STREAM_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const STREAM_PROTOCOL: i64 = 1001;

const BIG_ENDIAN: &str = "the file of a big-endian machine: `torch.save` it on a little-endian one";

/// Storage classes of `torch`, bytes per element, and our name for the element where it has one.
pub(crate) const STORAGES: [(&str, u64, Option<Dtype>); 18] = [
    ("DoubleStorage", 8, Some(Dtype::F64)),
    ("FloatStorage", 4, Some(Dtype::F32)),
    ("HalfStorage", 2, Some(Dtype::F16)),
    ("BFloat16Storage", 2, Some(Dtype::BF16)),
    ("LongStorage", 8, Some(Dtype::I64)),
    ("IntStorage", 4, Some(Dtype::I32)),
    ("ShortStorage", 2, Some(Dtype::I16)),
    ("CharStorage", 1, Some(Dtype::I8)),
    ("ByteStorage", 1, Some(Dtype::U8)),
    ("BoolStorage", 1, Some(Dtype::Bool)),
    ("ComplexDoubleStorage", 16, None),
    ("ComplexFloatStorage", 8, None),
    ("QInt8Storage", 1, None),
    ("QUInt8Storage", 1, None),
    ("QInt32Storage", 4, None),
    ("QUInt4x2Storage", 1, None),
    ("QUInt2x4Storage", 1, None),
    ("UntypedStorage", 1, None),
];

/// A piece of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

impl Span {
    pub(crate) fn new(start: u64, bytes: u64) -> Self {
        Self { start, bytes }
    }
}

/// A member of the file, with its checksum where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) span: Span,
    pub(crate) crc32: Option<u32>,
}

/// An opened container: the pickle, and the storages by key.
pub(crate) struct Contents {
    pub(crate) pickle: Vec<u8>,
    pub(crate) storages: HashMap<String, Member>,
}

/// The file, with its path for errors.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) file: &'a File,
    pub(crate) file_bytes: u64,
}

impl Source<'_> {
    pub(crate) fn open_zip(&self) -> Result<Contents, PthError> {
        let unzip = |source| PthError::Unzip { path: self.path.into(), got: self.file_bytes, source };
        let mut archive = ZipArchive::new(BufReader::new(self.file)).map_err(unzip)?;
        let mut members = BTreeMap::new();
        for index in 0..archive.len() {
            let member = archive.by_index_raw(index).map_err(unzip)?;
            // PyTorch's names are UTF-8 without the flag for it.
            let name = String::from_utf8_lossy(member.name_raw()).into_owned();
            let plain = member.compression() == CompressionMethod::Stored && !member.encrypted();
            let span = Span::new(member.data_start().unwrap_or(u64::MAX), member.size());
            // PyTorch writes 0 when checksums are turned off.
            let crc32 = Some(member.crc32()).filter(|&crc32| crc32 != 0);
            members.insert(name, (plain, Member { span, crc32 }));
        }
        let roots = members.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let roots = roots.filter(|root| root.is_empty() || root.ends_with('/'));
        let Some(root) = roots.min_by_key(|root| root.len()) else {
            return Err(
                self.not_a_checkpoint("a zip without `data.pkl`: an archive to unpack first, or of another program")
            );
        };
        let find = |name: &str| match members.get_key_value(&format!("{root}{name}")) {
            None => Ok(None),
            Some((_, (true, member))) => self.inside(member.span).map(|_| Some(*member)),
            Some((member, _)) => Err(self.not_a_checkpoint(format!(
                "a zip whose member `{member}` is compressed or encrypted: `torch.save` it again"
            ))),
        };
        if find("constants.pkl")?.is_some() {
            return Err(PthError::TorchScript { path: self.path.into() });
        }
        if let Some(Member { span, .. }) = find("byteorder")?
            && self.read(Span::new(span.start, span.bytes.min(6)))? != b"little"
        {
            return Err(self.not_a_checkpoint(BIG_ENDIAN));
        }
        let pickle = match find("data.pkl")? {
            Some(member) if member.span.bytes <= MAX_PICKLE_BYTES => {
                self.verify(member, "data.pkl")?;
                self.read(member.span)?
            }
            _ => return Err(self.not_a_checkpoint("a pickle larger than that of any checkpoint")),
        };
        let mut storages = HashMap::new();
        let folder = format!("{root}data/");
        for key in members.keys().filter_map(|name| name.strip_prefix(&folder)) {
            if let Some(member) = find(&format!("data/{key}"))? {
                storages.insert(key.to_owned(), member);
            }
        }
        Ok(Contents { pickle, storages })
    }

    /// The format before PyTorch 1.6: pickles of a magic number, a version, the machine, the object and the keys of its
    /// storages; then each storage as a count of elements and the elements.
    pub(crate) fn open_stream(&self) -> Result<Contents, PthError> {
        let head = self.read(Span::new(0, self.file_bytes.min(MAX_PICKLE_BYTES)))?;
        let mut at = 0;
        let mut next = || {
            let pickle = self.unpickle(&head, at)?;
            let begin = at;
            at += pickle.byte_len;
            Ok::<_, PthError>((pickle, begin))
        };
        if next()?.0.root() != &Value::Long(&STREAM_MAGIC) || next()?.0.root() != &Value::Int(STREAM_PROTOCOL) {
            return Err(self.not_a_checkpoint("a pickle that `torch.save` did not write"));
        }
        let (machine, _) = next()?;
        let big_endian = |(key, value): &(Id, Id)| {
            machine.str(*key) == Some("little_endian") && machine.get(*value) == &Value::Bool(false)
        };
        if matches!(machine.root(), Value::Dict(pairs) if pairs.iter().any(big_endian)) {
            return Err(self.not_a_checkpoint(BIG_ENDIAN));
        }
        let ((object, object_at), (keys, keys_at)) = (next()?, next()?);
        let stored: HashMap<_, _> = object
            .values()
            .iter()
            .filter_map(|value| Storage::of(&object, value))
            .map(|storage| (storage.key, storage.element_bytes))
            .collect();
        let Value::List(keys_in_order) = keys.root() else {
            return Err(self.malformed(keys_at, "the list of storages is not a list"));
        };
        let mut start = at as u64;
        let mut storages = HashMap::new();
        for key in keys_in_order {
            let Some((key, element_bytes)) = keys.str(*key).and_then(|key| stored.get_key_value(key)) else {
                return Err(self.malformed(keys_at, "the list of storages names an unused one"));
            };
            let count = self.read(self.inside(Span::new(start, 8))?)?;
            let count = count.iter().rev().fold(0, |count, byte| count << 8 | u64::from(*byte));
            let bytes = count.saturating_mul(*element_bytes);
            let span = self.inside(Span::new(start + 8, bytes))?;
            start = span.start + span.bytes;
            storages.insert((*key).to_owned(), Member { span, crc32: None });
        }
        Ok(Contents { pickle: head[object_at..keys_at].to_vec(), storages })
    }

    pub(crate) fn unpickle<'p>(&self, bytes: &'p [u8], begin: usize) -> Result<Pickle<'p>, PthError> {
        Pickle::read(&bytes[begin..]).map_err(|error| match error {
            PickleError::Malformed { at, problem } => self.malformed(begin + at, problem),
            PickleError::Code { global } => PthError::CodeInPickle { path: self.path.into(), global },
        })
    }

    /// `span`, if the file is long enough for it.
    fn inside(&self, span: Span) -> Result<Span, PthError> {
        let expected = span.start.saturating_add(span.bytes);
        if expected <= self.file_bytes {
            return Ok(span);
        }
        Err(PthError::Truncated { path: self.path.into(), expected, got: self.file_bytes })
    }

    /// Compares a member with its checksum, if it has one.
    pub(crate) fn verify(&self, member: Member, name: &str) -> Result<(), PthError> {
        let Some(expected) = member.crc32 else { return Ok(()) };
        let failed = |source| PthError::Io { path: self.path.into(), action: "read", source };
        let mut file = self.file;
        file.seek(SeekFrom::Start(member.span.start)).map_err(failed)?;
        let mut rest = file.take(member.span.bytes);
        let mut hasher = crc32fast::Hasher::new();
        let mut piece = vec![0; VERIFIED_AT_ONCE];
        loop {
            match rest.read(&mut piece).map_err(failed)? {
                0 => break,
                n => hasher.update(&piece[..n]),
            }
        }
        match hasher.finalize() == expected {
            true => Ok(()),
            false => Err(PthError::Checksum { path: self.path.into(), member: name.to_owned() }),
        }
    }

    pub(crate) fn read(&self, span: Span) -> Result<Vec<u8>, PthError> {
        let mut bytes = vec![0; span.bytes as usize];
        let mut file = self.file;
        file.seek(SeekFrom::Start(span.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| PthError::Io { path: self.path.into(), action: "read", source })?;
        Ok(bytes)
    }

    fn malformed(&self, at: usize, problem: &'static str) -> PthError {
        let path = self.path.into();
        PthError::Pickle { path, at, problem }
    }

    pub(crate) fn not_a_checkpoint(&self, got: impl Into<String>) -> PthError {
        PthError::NotACheckpoint { path: self.path.into(), got: got.into() }
    }
}

/// A storage as described by a persistent id.
pub(crate) struct Storage<'p> {
    pub(crate) key: &'p str,
    pub(crate) class: &'p str,
    pub(crate) element_bytes: u64,
    pub(crate) dtype: Option<Dtype>,
    /// The range of elements: all, unless it is a view of another storage (only in streams).
    pub(crate) begin: u64,
    pub(crate) len: u64,
}

impl<'p> Storage<'p> {
    /// From `('storage', class, key, location, len)`, in streams followed by `None` or `(key of the view, begin, len)`.
    pub(crate) fn of(pickle: &Pickle<'p>, value: &Value<'p>) -> Option<Self> {
        let Value::Persistent(reference) = value else {
            return None;
        };
        let [tag, class, key, _location, len, view @ ..] = pickle.items(*reference)? else {
            return None;
        };
        let (_, class) = pickle.global(*class)?;
        let &(_, element_bytes, dtype) = STORAGES.iter().find(|(name, ..)| *name == class)?;
        if pickle.str(*tag)? != "storage" {
            return None;
        }
        let (mut begin, mut len) = (0, natural(pickle, *len)?);
        if let [view] = view
            && let Some([_, view_begin, view_len]) = pickle.items(*view)
        {
            (begin, len) = (natural(pickle, *view_begin)?, natural(pickle, *view_len)?);
        }
        Some(Self {
            key: pickle.str(*key).filter(|key| key.len() <= MAX_KEY_BYTES)?,
            class,
            element_bytes,
            dtype,
            begin,
            len,
        })
    }
}

pub(crate) fn natural(pickle: &Pickle, id: Id) -> Option<u64> {
    u64::try_from(pickle.int(id)?).ok()
}

#[cfg(test)]
mod tests {
    use crate::weights::pth::samples::{dict, entry, open, rejection, stream_of};

    #[test]
    fn streams_are_read_with_their_views() {
        let view = b"(X\x01\0\0\x009K\x02K\x03t";
        let pickle = dict(&[entry("whole", 6, 0, [&[2, 3], &[3, 1]], b"N"), entry("view", 6, 1, [&[2], &[1]], view)]);
        let bytes = stream_of(&pickle, &[(6, &[0, 1, 2, 3, 4, 5])]);
        let index = open(&bytes).expect("valid");
        assert_eq!(index.read(&index.tensors[0]).expect("read"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(index.read(&index.tensors[1]).expect("read"), [3, 4]);
        assert!(rejection(&bytes[..bytes.len() - 1]).contains("truncated"));
        assert!(rejection(&bytes[..60]).contains("truncated"));
        let swapped = bytes.iter().map(|byte| if *byte == 0x88 { 0x89 } else { *byte });
        assert!(rejection(&swapped.collect::<Vec<_>>()).contains("big-endian"));
        assert!(rejection(b"\x80\x02}.").contains("did not write"));
    }
}
