//! PyTorch checkpoints, `.pth` and `.pt`: the state dict in one is listed, read tensor by tensor, and written.
//!
//! Two containers, both read: the zip that `torch.save` writes since 1.6 (`<root>/data.pkl`, one stored member
//! `<root>/data/<key>` per storage), and the stream before it (five pickles, then the storages one behind the other).
//! The layouts follow `torch/serialization.py` and `caffe2/serialize/inline_container.cc`
//! (<https://github.com/pytorch/pytorch/blob/v2.11.0/torch/serialization.py>), the meaning of the pickled calls
//! `torch/_utils.py`. What differs: nothing in a pickle is run (see `pickle.rs`), only one dict is read and the
//! rest is reported by name, checksums are not verified (PyTorch lets writers leave them out), and complex, sparse,
//! quantised, big-endian and TorchScript files are errors.
//!
//! Only the zip is written, byte for byte the same for the same tensors, each at a multiple of 64 bytes as PyTorch
//! places them, so `torch.load(path, weights_only=True, mmap=True)` takes it.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::pickle::{Id, Pickle, PickleError, Value};
use super::state_dict::Dtype;

/// Keys under which training scripts keep the state dict, in the order tried.
const WRAPPERS: [&str; 7] = ["model", "state_dict", "model_state_dict", "module", "model_state", "net", "params"];

/// Bound on a pickle; that of a ViT-H checkpoint with its optimiser has 0.2 MB.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Bound on a tensor that is larger than its storage (`expand`), which would let a tiny file ask for any memory.
const MAX_EXPANDED_BYTES: u64 = 64 << 20;

/// Bounds on the axes of a tensor, and on the key of a storage (a number of up to 20 digits). A memo lets a pickle say
/// one long thing many times, so what is copied out of it has a bound.
const MAX_RANK: usize = 64;
const MAX_KEY_BYTES: usize = 64;

/// `torch.serialization.MAGIC_NUMBER` and `PROTOCOL_VERSION`, which open a stream.
const STREAM_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const STREAM_PROTOCOL: i64 = 1001;

const BIG_ENDIAN: &str = "the file of a big-endian machine: `torch.save` it on a little-endian one";

/// `kFieldAlignment` of `inline_container.h`: where storages begin, for vector loads out of a memory map.
const ALIGNMENT: u16 = 64;

/// Storage classes of `torch`, bytes per element, and our name for the element where it has one.
const STORAGES: [(&str, u64, Option<Dtype>); 18] = [
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

/// The state dict of a checkpoint: where everything lies, nothing loaded.
#[derive(Debug)]
pub(crate) struct PthIndex {
    path: PathBuf,
    file: Mutex<File>,
    /// Key under which the state dict was found; `None` if it is the top level.
    pub(crate) wrapper: Option<String>,
    /// In the order of the file, each name once.
    pub(crate) tensors: Vec<PthTensor>,
    /// What the file holds besides: entries of the state dict that are not tensors, and neighbours of the wrapper.
    pub(crate) skipped: Vec<String>,
}

/// One tensor of a [`PthIndex`].
#[derive(Clone, Debug)]
pub(crate) struct PthTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// In elements; `None` for row-major without gaps.
    strides: Option<Vec<u64>>,
    /// What of the file to read.
    span: Span,
}

/// One tensor to write, without its values.
#[derive(Clone, Debug)]
pub(crate) struct PthEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
}

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum PthError {
    #[error("{path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{path}: must be a checkpoint written by `torch.save`, got {got}")]
    NotACheckpoint { path: PathBuf, got: String },
    #[error("{path}: must have at least {expected} bytes, got {got}: truncated or still downloading")]
    Truncated { path: PathBuf, expected: u64, got: u64 },
    #[error("{path}: not a whole zip ({got} bytes): truncated, still downloading or damaged: {source}")]
    Unzip { path: PathBuf, got: u64, source: ZipError },
    #[error("{path}: malformed pickle, at byte {at}: {problem}")]
    Pickle { path: PathBuf, at: usize, problem: &'static str },
    #[error(
        "{path}: its pickle asks to call `{global}`; refused, nothing was run. If you trust the file, load it in \
         PyTorch and save only the weights: `torch.save(model.state_dict(), \"weights.pth\")`"
    )]
    CodeInPickle { path: PathBuf, global: String },
    #[error("{path}: must hold a dict of tensors, at the top or under one of {WRAPPERS:?}; got {got}")]
    NoStateDict { path: PathBuf, got: String },
    #[error("{path}: tensor `{tensor}` {problem}")]
    Tensor { path: PathBuf, tensor: String, problem: String },
    #[error("{path}: cannot write: {source}")]
    Write { path: PathBuf, source: ZipError },
}

impl PthIndex {
    /// Reads the directory of a checkpoint and finds the state dict in it.
    pub(crate) fn open(path: &Path) -> Result<Self, PthError> {
        let io = |source| PthError::Io { path: path.into(), action: "open", source };
        let file = File::open(path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        let source = Source { path, file: &file, file_bytes };
        let head = source.read(Span::new(0, file_bytes.min(4)))?;
        let contents = match head.as_slice() {
            [b'P', b'K', 3, 4, ..] => source.open_zip()?,
            [0x80, ..] => source.open_stream()?,
            _ => return Err(source.not_a_checkpoint("neither a zip nor a pickle")),
        };
        let pickle = source.unpickle(&contents.pickle, 0)?;
        let (wrapper, dict) =
            find_state_dict(&pickle).map_err(|got| PthError::NoStateDict { path: path.into(), got })?;
        let (mut tensors, mut skipped) = (Vec::new(), Vec::new());
        for (name, id) in entries(&pickle, dict) {
            let Some(call) = rebuild_call(&pickle, id) else {
                skipped.push(name);
                continue;
            };
            let tensor = locate(&pickle, name.clone(), call, &contents.storages);
            tensors.push(tensor.map_err(|problem| PthError::Tensor { path: path.into(), tensor: name, problem })?);
        }
        if let (Some(wrapper), Value::Dict(top)) = (&wrapper, pickle.root()) {
            let beside = entries(&pickle, top).into_iter().map(|(key, _)| key).filter(|key| key != wrapper);
            skipped.extend(beside.map(|key| format!("{key} (beside `{wrapper}`)")));
        }
        Ok(Self { path: path.into(), file: Mutex::new(file), wrapper, tensors, skipped })
    }

    /// The values of one tensor of this index: row-major, without gaps, little endian.
    ///
    /// Reads what lies between the tensor's first and last element, no more.
    pub(crate) fn read(&self, tensor: &PthTensor) -> Result<Vec<u8>, PthError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Source { path: &self.path, file: &file, file_bytes: u64::MAX };
        let bytes = source.read(tensor.span)?;
        Ok(match &tensor.strides {
            None => bytes,
            Some(strides) => gather(&bytes, &tensor.shape, strides, tensor.dtype.size()),
        })
    }
}

/// Writes a checkpoint that holds one dict, name to tensor. `bytes_of` is asked for the values of each entry in turn
/// (row-major, little endian), so one tensor is in memory at a time. `path` is only for messages.
pub(crate) fn write_pth<E: From<PthError>>(
    path: &Path,
    file: impl Write + Seek,
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
    member("data.pkl", &pickle_of(entries)).map_err(failed)?;
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

/// A piece of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    start: u64,
    bytes: u64,
}

impl Span {
    fn new(start: u64, bytes: u64) -> Self {
        Self { start, bytes }
    }
}

/// Either container, opened: the pickle, and the storages by key.
struct Contents {
    pickle: Vec<u8>,
    storages: HashMap<String, Span>,
}

/// The file, and what errors must say of it.
struct Source<'a> {
    path: &'a Path,
    file: &'a File,
    file_bytes: u64,
}

impl Source<'_> {
    fn open_zip(&self) -> Result<Contents, PthError> {
        let unzip = |source| PthError::Unzip { path: self.path.into(), got: self.file_bytes, source };
        let mut archive = ZipArchive::new(BufReader::new(self.file)).map_err(unzip)?;
        let mut members = BTreeMap::new();
        for index in 0..archive.len() {
            let member = archive.by_index_raw(index).map_err(unzip)?;
            // PyTorch's names are UTF-8 without the flag that says so.
            let name = String::from_utf8_lossy(member.name_raw()).into_owned();
            let plain = member.compression() == CompressionMethod::Stored && !member.encrypted();
            let span = Span::new(member.data_start().unwrap_or(u64::MAX), member.size());
            members.insert(name, (plain, span));
        }
        let roots = members.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let roots = roots.filter(|root| root.is_empty() || root.ends_with('/'));
        let Some(root) = roots.min_by_key(|root| root.len()) else {
            return Err(self.not_a_checkpoint("a zip without `data.pkl`"));
        };
        let find = |name: &str| match members.get_key_value(&format!("{root}{name}")) {
            None => Ok(None),
            Some((_, (true, span))) => self.inside(*span).map(Some),
            Some((member, _)) => Err(self.not_a_checkpoint(format!(
                "a zip whose member `{member}` is compressed or encrypted: `torch.save` it again"
            ))),
        };
        if find("constants.pkl")?.is_some() {
            return Err(self.not_a_checkpoint("a TorchScript program; save its `state_dict()`"));
        }
        if let Some(span) = find("byteorder")?
            && self.read(Span::new(span.start, span.bytes.min(6)))? != b"little"
        {
            return Err(self.not_a_checkpoint(BIG_ENDIAN));
        }
        let pickle = match find("data.pkl")? {
            Some(span) if span.bytes <= MAX_PICKLE_BYTES => self.read(span)?,
            _ => return Err(self.not_a_checkpoint("a pickle larger than that of any checkpoint")),
        };
        let mut storages = HashMap::new();
        let folder = format!("{root}data/");
        for key in members.keys().filter_map(|name| name.strip_prefix(&folder)) {
            if let Some(span) = find(&format!("data/{key}"))? {
                storages.insert(key.to_owned(), span);
            }
        }
        Ok(Contents { pickle, storages })
    }

    /// The format before PyTorch 1.6: pickles of a magic number, a version, the machine, the object and the keys of its
    /// storages; then each storage as a count of elements and the elements.
    fn open_stream(&self) -> Result<Contents, PthError> {
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
                return Err(self.malformed(keys_at, "the list of storages names one that nothing uses"));
            };
            let count = self.read(self.inside(Span::new(start, 8))?)?;
            let count = count.iter().rev().fold(0, |count, byte| count << 8 | u64::from(*byte));
            let bytes = count.saturating_mul(*element_bytes);
            let span = self.inside(Span::new(start + 8, bytes))?;
            start = span.start + span.bytes;
            storages.insert((*key).to_owned(), span);
        }
        Ok(Contents { pickle: head[object_at..keys_at].to_vec(), storages })
    }

    fn unpickle<'p>(&self, bytes: &'p [u8], begin: usize) -> Result<Pickle<'p>, PthError> {
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

    fn read(&self, span: Span) -> Result<Vec<u8>, PthError> {
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

    fn not_a_checkpoint(&self, got: impl Into<String>) -> PthError {
        PthError::NotACheckpoint { path: self.path.into(), got: got.into() }
    }
}

/// The items of a pickled dict.
type Pairs = [(Id, Id)];

/// The dict of tensors, and the key it lies under; or what is there instead.
fn find_state_dict<'a>(pickle: &'a Pickle) -> Result<(Option<String>, &'a Pairs), String> {
    let Value::Dict(top) = pickle.root() else {
        return Err(format!("a {}", kind(pickle, pickle.root())));
    };
    let all = entries(pickle, top);
    for wrapper in WRAPPERS {
        if let Some((_, id)) = all.iter().find(|(key, _)| key == wrapper)
            && let Value::Dict(dict) = pickle.get(*id)
            && tensor_count(pickle, dict) > 0
        {
            return Ok((Some(wrapper.into()), dict));
        }
    }
    if tensor_count(pickle, top) > 0 {
        return Ok((None, top));
    }
    let keys = all.iter().take(20);
    let keys = keys.map(|(key, id)| format!("`{key}` (a {})", kind(pickle, pickle.get(*id))));
    Err(format!("a dict of {}: {}", all.len(), keys.collect::<Vec<_>>().join(", ")))
}

fn kind(pickle: &Pickle, value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        Value::Bool(_) | Value::Int(_) | Value::Long(_) | Value::Float(_) => "number".into(),
        Value::Str(_) | Value::Bytes(_) => "string".into(),
        Value::Tuple(items) | Value::List(items) => format!("list of {}", items.len()),
        Value::Dict(dict) => format!("dict with {} tensors", tensor_count(pickle, dict)),
        Value::Call { callee, .. } => match pickle.global(*callee) {
            Some(("torch._utils", _)) => "tensor".into(),
            Some((_, name)) => name.into(),
            None => "call".into(),
        },
        Value::Global { .. } => "class".into(),
        Value::Persistent(_) => "storage".into(),
    }
}

fn tensor_count(pickle: &Pickle, dict: &Pairs) -> usize {
    dict.iter().filter(|(_, id)| rebuild_call(pickle, *id).is_some()).count()
}

/// Keys and values; of a key that comes twice the last value, as in Python.
fn entries(pickle: &Pickle, dict: &Pairs) -> Vec<(String, Id)> {
    let mut entries: Vec<(String, Id)> = Vec::with_capacity(dict.len());
    let mut places = HashMap::<_, usize>::new();
    for (key, value) in dict {
        let name = match pickle.get(*key) {
            // Cut, as no weight has such a name and a memo may repeat it.
            Value::Str(name) => format!("{name:.999}"),
            Value::Int(name) => name.to_string(),
            _ => "<neither text nor number>".into(),
        };
        match places.entry(name.clone()) {
            Entry::Occupied(place) => entries[*place.get()].1 = *value,
            Entry::Vacant(place) => {
                place.insert(entries.len());
                entries.push((name, *value));
            }
        }
    }
    entries
}

/// The `torch._utils` function that would make a tensor, and its arguments; `Parameter`s around it are looked through.
fn rebuild_call<'a>(pickle: &'a Pickle, mut id: Id) -> Option<(&'a str, &'a [Id])> {
    // A `Parameter` holds a tensor, not a `Parameter`; a pickle that contains itself must end too.
    for _ in 0..4 {
        let (mut callee, mut args) = pickle.call(id)?;
        // (function, class, arguments, attributes): a tensor that has attributes in Python.
        if callee == ("torch._tensor", "_rebuild_from_type_v2") {
            callee = pickle.global(*args.first()?)?;
            args = pickle.items(*args.get(2)?)?;
        }
        match callee {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter") => id = *args.first()?,
            ("torch._utils", rebuild) => return Some((rebuild, args)),
            _ => return None,
        }
    }
    None
}

/// What a persistent id says of a storage.
struct Storage<'p> {
    key: &'p str,
    class: &'p str,
    element_bytes: u64,
    dtype: Option<Dtype>,
    /// The elements of it that are meant: all, unless it is a view of another one (only in streams).
    begin: u64,
    len: u64,
}

impl<'p> Storage<'p> {
    /// From `('storage', class, key, location, len)`, in streams with `None` or `(key of the view, begin, len)` behind.
    fn of(pickle: &Pickle<'p>, value: &Value<'p>) -> Option<Self> {
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

fn natural(pickle: &Pickle, id: Id) -> Option<u64> {
    u64::try_from(pickle.int(id)?).ok()
}

fn naturals(pickle: &Pickle, id: Id) -> Option<Vec<u64>> {
    let items = pickle.items(id).filter(|items| items.len() <= MAX_RANK)?;
    items.iter().map(|id| natural(pickle, *id)).collect()
}

/// Finds the bytes of a tensor from the arguments of `_rebuild_tensor_v2(storage, offset, shape, strides, ..)`.
fn locate(
    pickle: &Pickle,
    name: String,
    (rebuild, args): (&str, &[Id]),
    storages: &HashMap<String, Span>,
) -> Result<PthTensor, String> {
    if rebuild != "_rebuild_tensor" && rebuild != "_rebuild_tensor_v2" {
        return Err(format!(
            "must be a plain dense tensor, got one made by {rebuild:?} (sparse, quantised, or of a new type): \
             convert it in PyTorch first"
        ));
    }
    let parts = || {
        let [storage, offset, shape, strides, ..] = args else {
            return None;
        };
        let storage = Storage::of(pickle, pickle.get(*storage))?;
        let offset = natural(pickle, *offset)?;
        Some((storage, offset, naturals(pickle, *shape)?, naturals(pickle, *strides)?))
    };
    let Some((storage, offset, shape, mut strides)) = parts() else {
        return Err("is described by arguments that PyTorch does not write".into());
    };
    // The seventh argument: bits that say "negate", "conjugate" when read.
    if let Some(Value::Dict(bits)) = args.get(6).map(|id| pickle.get(*id))
        && !bits.is_empty()
    {
        return Err("is a lazy view: call `.resolve_neg().resolve_conj()` on it first".into());
    }
    let Some(dtype) = storage.dtype else {
        return Err(format!("must have elements of a real type, got a `{}`", storage.class));
    };
    let Some(place) = storages.get(storage.key) else {
        return Err(format!("lies in storage `{}`, which the file lacks", storage.key));
    };
    // Elements from the first to the last one, if they lie in the storage and the storage in the file.
    let extent = || {
        let stored_bytes = storage.begin.checked_add(storage.len)?.checked_mul(storage.element_bytes)?;
        let extent = extent(&shape, &strides)?;
        (offset.checked_add(extent)? <= storage.len && stored_bytes <= place.bytes).then_some(extent)
    };
    let logical_bytes = shape.iter().try_fold(storage.element_bytes, |len, dim| len.checked_mul(*dim));
    let (Some(extent), Some(logical_bytes)) = (extent(), logical_bytes) else {
        return Err(format!(
            "must lie inside of its storage, got shape {shape:?} with strides {strides:?} from element {offset} on, \
             {} elements, {} bytes",
            storage.len, place.bytes
        ));
    };
    let skipped_bytes = (storage.begin + offset) * storage.element_bytes;
    let span = Span::new(place.start + skipped_bytes, extent * storage.element_bytes);
    if logical_bytes > span.bytes.max(MAX_EXPANDED_BYTES) {
        return Err(format!("repeats {} bytes into {logical_bytes}: save a `.contiguous()` of it", span.bytes));
    }
    let mut row_major = true;
    let mut expected = 1;
    for (stride, dim) in strides.iter_mut().zip(&shape).rev() {
        // The stride of an axis of one is never taken, and PyTorch writes anything there.
        *stride = if *dim == 1 { 0 } else { *stride };
        row_major &= *dim == 1 || *stride == expected;
        // Only the other axes of an empty tensor can be that long.
        expected = expected.saturating_mul(*dim);
    }
    let strides = (!row_major && logical_bytes > 0).then_some(strides);
    let shape = shape.into_iter().map(|dim| dim as usize).collect();
    Ok(PthTensor { name, dtype, shape, strides, span })
}

/// Elements from the first to the last of a tensor; `None` beyond 64 bits.
fn extent(shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.len() != strides.len() {
        return None;
    }
    if shape.contains(&0) {
        return Some(0);
    }
    let steps = shape.iter().zip(strides).map(|(dim, stride)| (dim - 1).checked_mul(*stride));
    steps.into_iter().try_fold(1u64, |extent, step| extent.checked_add(step?))
}

/// The elements of a strided tensor in row-major order. No axis is empty, and all elements lie in `bytes`.
fn gather(bytes: &[u8], shape: &[usize], strides: &[u64], size: usize) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(shape.iter().product::<usize>() * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    loop {
        gathered.extend_from_slice(&bytes[at * size..][..size]);
        // The next index, as an odometer turns.
        let mut axis = shape.len();
        loop {
            let Some(turned) = axis.checked_sub(1) else {
                return gathered;
            };
            axis = turned;
            index[axis] += 1;
            at += strides[axis] as usize;
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] as usize * shape[axis];
            index[axis] = 0;
        }
    }
}

/// The pickle of an `OrderedDict` of tensors, tensor `i` over the whole of storage `i`. No memo: it is optional.
fn pickle_of(entries: &[PthEntry]) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
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
    out.extend(b"u.");
    out
}

/// BINUNICODE
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

/// BININT, or LONG1 for what does not fit in it.
fn push_ints(out: &mut Vec<u8>, ints: &[usize]) {
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
    use std::io::Cursor;

    /// Bytes of a checkpoint in a file, opened.
    fn open(bytes: &[u8]) -> Result<PthIndex, PthError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        PthIndex::open(file.path())
    }

    fn refusal(bytes: &[u8]) -> String {
        open(bytes).expect_err("must be refused").to_string()
    }

    /// The zip of a pickle and its storages.
    fn zip_of(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
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

    /// The same as before PyTorch 1.6.
    fn stream_of(pickle: &[u8], storages: &[(usize, &[u8])]) -> Vec<u8> {
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
    fn entry(name: &str, len: usize, offset: usize, axes: [&[usize]; 2], view: &[u8]) -> Vec<u8> {
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

    fn dict(entries: &[Vec<u8>]) -> Vec<u8> {
        [b"\x80\x02}(", entries.concat().as_slice(), b"u."].concat()
    }

    fn sample() -> (Vec<PthEntry<'static>>, Vec<u8>) {
        let entries = vec![
            PthEntry { name: "scalar", dtype: Dtype::F32, shape: &[] },
            PthEntry { name: "empty", dtype: Dtype::BF16, shape: &[0, 3] },
            PthEntry { name: "encoder.é.weight", dtype: Dtype::F16, shape: &[2, 3] },
            PthEntry { name: "ids", dtype: Dtype::I64, shape: &[2, 1] },
        ];
        let mut file = Cursor::new(Vec::new());
        write_pth::<PthError>(Path::new("x"), &mut file, &entries, |entry| Ok(values(entry))).expect("written");
        (entries, file.into_inner())
    }

    fn values(entry: &PthEntry) -> Vec<u8> {
        let len = entry.shape.iter().product::<usize>() * entry.dtype.size();
        (0..len).map(|byte| byte as u8 ^ entry.name.len() as u8).collect()
    }

    #[test]
    fn what_is_written_is_read() {
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

    #[test]
    fn views_of_one_storage_become_tensors_of_their_own() {
        let pickle = dict(&[
            entry("transposed", 6, 0, [&[3, 2], &[1, 3]], b""),
            entry("column", 6, 1, [&[2, 1], &[3, 77]], b""),
            entry("expanded", 6, 5, [&[2, 2], &[0, 0]], b""),
            entry("tail", 6, 4, [&[2], &[1]], b""),
        ]);
        let index = open(&zip_of(&pickle, &[&[0, 1, 2, 3, 4, 5]])).expect("valid");
        let read = |at: usize| index.read(&index.tensors[at]).expect("read");
        assert_eq!(read(0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(read(1), [1, 4]);
        assert_eq!(read(2), [5, 5, 5, 5]);
        assert_eq!(read(3), [4, 5]);
        assert_eq!((index.tensors[3].span.bytes, &index.tensors[3].strides), (2, &None));
    }

    #[test]
    fn streams_are_read_with_their_views() {
        let view = b"(X\x01\0\0\x009K\x02K\x03t";
        let pickle = dict(&[entry("whole", 6, 0, [&[2, 3], &[3, 1]], b"N"), entry("view", 6, 1, [&[2], &[1]], view)]);
        let bytes = stream_of(&pickle, &[(6, &[0, 1, 2, 3, 4, 5])]);
        let index = open(&bytes).expect("valid");
        assert_eq!(index.read(&index.tensors[0]).expect("read"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(index.read(&index.tensors[1]).expect("read"), [3, 4]);
        assert!(refusal(&bytes[..bytes.len() - 1]).contains("truncated"));
        assert!(refusal(&bytes[..60]).contains("truncated"));
        let swapped = bytes.iter().map(|byte| if *byte == 0x88 { 0x89 } else { *byte });
        assert!(refusal(&swapped.collect::<Vec<_>>()).contains("big-endian"));
        assert!(refusal(b"\x80\x02}.").contains("did not write"));
    }

    #[test]
    fn the_state_dict_is_found_under_its_wrapper() {
        let tensor = entry("w", 1, 0, [&[1], &[1]], b"");
        let inner = [b"}(", tensor.as_slice(), b"X\x01\0\0\0nNu"].concat();
        // `args` is an `argparse.Namespace` with state, as in MAE's checkpoints.
        let args = b"X\x04\0\0\0argscargparse\nNamespace\n)\x81}X\x02\0\0\0lrK\x01sbX\x05\0\0\0epochK\x03";
        let pickle = [b"}(", args.as_slice(), b"X\x05\0\0\0model", &inner, b"u."].concat();
        let index = open(&zip_of(&pickle, &[&[7]])).expect("valid");
        assert_eq!(index.wrapper.as_deref(), Some("model"));
        assert_eq!(index.tensors[0].name, "w");
        assert_eq!(index.skipped, ["n", "args (beside `model`)", "epoch (beside `model`)"]);
        let pickle = [b"}(", args.as_slice(), b"X\x07\0\0\0teacher", &inner, b"u."].concat();
        let message = refusal(&zip_of(&pickle, &[&[7]]));
        assert!(message.contains("`teacher` (a dict with 1 tensors)"), "{message}");
        assert!(message.contains("`args` (a Namespace)"), "{message}");
        assert!(refusal(&zip_of(b"]K\x01a.", &[])).contains("got a list of 1"));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let evil = zip_of(b"}X\x01\0\0\0acos\nsystem\nX\x02\0\0\0ls\x85Rs.", &[]);
        assert!(refusal(&evil).contains("`os.system`; refused, nothing was run"));
        assert!(refusal(b"hello").contains("neither a zip nor a pickle"));
        let (_, bytes) = sample();
        assert!(refusal(&bytes[..bytes.len() - 40]).contains("still downloading"));
        assert!(refusal(&zip_of(b"N.", &[])).contains("got a None"));
        // Method 8, deflate, in every header of the zip's directory.
        let mut packed = bytes.clone();
        for at in 0..packed.len() - 4 {
            if packed[at..].starts_with(b"PK\x01\x02") {
                packed[at + 10] = 8;
            }
        }
        assert!(refusal(&packed).contains("is compressed"));
        let one = |shape: &[usize], strides: &[usize], offset, len| {
            refusal(&zip_of(&dict(&[entry("w", len, offset, [shape, strides], b"")]), &[&[7]]))
        };
        const HUGE: usize = i64::MAX as usize;
        for message in [
            one(&[2], &[1], 0, 1),
            one(&[1], &[1], 1, 1),
            one(&[1], &[1], 0, 2),
            one(&[HUGE, HUGE], &[HUGE, HUGE], 0, 1),
            one(&[1], &[1], HUGE, HUGE),
            one(&[1, 1], &[1], 0, 1),
        ] {
            assert!(message.contains("tensor `w` must lie inside of its storage"), "{message}");
        }
        assert!(one(&[1 << 40], &[0], 0, 1).contains("contiguous"));
        let lost = zip_of(&dict(&[entry("w", 1, 0, [&[1], &[1]], b"")]), &[]);
        assert!(refusal(&lost).contains("storage `0`, which the file lacks"));
    }

    /// Damage at every byte is an error or other values, never a panic or a long wait.
    #[test]
    fn damage_is_survived() {
        let pickle = dict(&[entry("w", 6, 0, [&[3, 2], &[1, 3]], b"")]);
        let stream = stream_of(&pickle, &[(6, &[0, 1, 2, 3, 4, 5])]);
        for bytes in [zip_of(&pickle, &[&[0, 1, 2, 3, 4, 5]]), stream] {
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                for value in [0, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(16)] {
                    damaged[at] = value;
                    if let Ok(index) = open(&damaged) {
                        index.tensors.iter().for_each(|tensor| drop(index.read(tensor)));
                    }
                }
                drop(open(&bytes[..at]));
            }
        }
    }
}
