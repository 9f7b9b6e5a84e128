//! PyTorch checkpoints, `.pth` and `.pt`: the index of the state dict, and tensors one by one.
//!
//! `container.rs` opens the file, `pickle.rs` reads the pickle in it, and `writer.rs` writes checkpoints. The
//! meaning of the pickled calls follows `torch/_utils.py`
//! (<https://github.com/pytorch/pytorch/blob/v2.11.0/torch/_utils.py>). Differences: nothing in a pickle is executed, only
//! one dict is read and the rest is reported by name, and complex, sparse and quantised tensors are errors.
//!
//! By hand, as burn-store's reader neither reports unused entries nor bounds the memory of hostile files.

mod container;
#[cfg(test)]
mod fuzz;
mod pickle;
mod pickle_machine;
#[cfg(test)]
mod samples;
pub(super) mod writer;

use std::collections::{HashMap, HashSet, hash_map::Entry};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zip::result::ZipError;

use container::{Member, Source, Span, Storage, natural};
use pickle::{Id, Pickle, Value};

use crate::weights::state_dict::Dtype;

/// Keys under which training scripts save the state dict, in the order tried.
const WRAPPERS: [&str; 10] =
    ["model", "state_dict", "model_state_dict", "module", "model_state", "net", "params", "network", "weights", "sam"];

/// Maximum size of a tensor that is larger than its storage (`expand`), which would let a tiny file require any memory.
const MAX_EXPANDED_BYTES: u64 = 64 << 20;

/// Maximum rank of a tensor. Memos let a pickle repeat a long value many times, so everything copied out of it is bounded.
const MAX_RANK: usize = 64;

/// The index of a checkpoint's state dict; no values are loaded.
#[derive(Debug)]
pub(crate) struct PthIndex {
    path: PathBuf,
    file: Mutex<File>,
    /// Starts of the members that were compared with their checksums.
    verified: Mutex<HashSet<u64>>,
    /// Key under which the state dict was found; `None` if it is the top level.
    pub(crate) wrapper: Option<String>,
    /// In the order of the file, with unique names.
    pub(crate) tensors: Vec<PthTensor>,
    /// Other contents: entries of the state dict that are not tensors, and siblings of the wrapper.
    pub(crate) skipped: Vec<String>,
}

/// One tensor of a [`PthIndex`].
#[derive(Clone, Debug)]
pub(crate) struct PthTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// In elements; `None` if contiguous.
    strides: Option<Vec<u64>>,
    /// The part of the file to read.
    pub(crate) span: Span,
    /// The storage that it lies in.
    storage: Member,
}

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message explains its fields")]
pub enum PthError {
    #[error("{path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{path}: must be a checkpoint written by `torch.save`, got {got}")]
    NotACheckpoint { path: PathBuf, got: String },
    #[error("{path}: must be a checkpoint written by `torch.save`, got a TorchScript program; save its `state_dict()`")]
    TorchScript { path: PathBuf },
    #[error("{path}: must have at least {expected} bytes, got {got}: truncated or still downloading")]
    Truncated { path: PathBuf, expected: u64, got: u64 },
    #[error("{path}: not a whole zip ({got} bytes): truncated, still downloading or damaged: {source}")]
    Unzip { path: PathBuf, got: u64, source: ZipError },
    #[error(
        "{path}: the bytes of `{member}` do not have the checksum that was written with them: the file is damaged; copy or \
         download it again"
    )]
    Checksum { path: PathBuf, member: String },
    #[error("{path}: malformed pickle, at byte {at}: {problem}")]
    Pickle { path: PathBuf, at: usize, problem: &'static str },
    #[error(
        "{path}: its pickle asks to call `{global}`; rejected, nothing was run. If you trust the file, load it in \
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

impl PthError {
    /// Whether the file is a program instead of weights.
    pub(crate) fn is_torchscript(&self) -> bool {
        matches!(self, PthError::TorchScript { .. })
    }
}

impl PthIndex {
    /// Reads the directory of a checkpoint and finds the state dict in it.
    pub(crate) fn open(path: &Path) -> Result<Self, PthError> {
        let io = |source| PthError::Io { path: path.into(), action: "open", source };
        let file = sam_files::open_regular(path).map_err(io)?;
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
        let (file, verified) = (Mutex::new(file), Mutex::default());
        Ok(Self { path: path.into(), file, verified, wrapper, tensors, skipped })
    }

    /// The values of one tensor of this index: contiguous and little-endian.
    ///
    /// Reads only the bytes from the tensor's first to its last element, and its whole storage once, to compare it with its
    /// checksum.
    pub(crate) fn read(&self, tensor: &PthTensor) -> Result<Vec<u8>, PthError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Source { path: &self.path, file: &file, file_bytes: u64::MAX };
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !verified.contains(&tensor.storage.span.start) {
            source.verify(tensor.storage, &tensor.name)?;
            verified.insert(tensor.storage.span.start);
        }
        let bytes = source.read(tensor.span)?;
        Ok(match &tensor.strides {
            None => bytes,
            Some(strides) => gather(&bytes, &tensor.shape, strides, tensor.dtype.size()),
        })
    }
}

/// The items of a pickled dict.
type Pairs = [(Id, Id)];

/// The dict of tensors and the key that wraps it; otherwise a description of the contents.
fn find_state_dict<'a>(pickle: &'a Pickle) -> Result<(Option<String>, &'a Pairs), String> {
    let Value::Dict(top) = pickle.root() else {
        return Err(format!("a {}", kind(pickle, pickle.root())));
    };
    let all = entries(pickle, top);
    // The one with the most tensors: an optimiser or a few parameters may be under another of these keys.
    let wrapped = WRAPPERS.iter().filter_map(|wrapper| {
        let (_, id) = all.iter().find(|(key, _)| key == wrapper)?;
        match pickle.get(*id) {
            Value::Dict(dict) => Some((Some((*wrapper).to_owned()), dict.as_slice())),
            _ => None,
        }
    });
    // Of equals the first wrapper, before the top level.
    let candidates = wrapped.chain([(None, top.as_slice())]).map(|found| (tensor_count(pickle, found.1), found));
    let candidates: Vec<_> = candidates.collect();
    let best = candidates.iter().reduce(|best, other| if other.0 > best.0 { other } else { best });
    if let Some((1.., found)) = best {
        let twin = candidates
            .iter()
            .map(|(_, other)| other)
            .find(|other| other.0 != found.0 && differs_in_values_only(pickle, found.1, other.1));
        return match (&found.0, twin) {
            (Some(first), Some((Some(second), _))) => Err(format!(
                "two of them: `{first}` and `{second}` hold other values under the same names (weights and their moving \
                 average?). Save the one that is meant: `torch.save(torch.load(\"FILE\")[\"{first}\"], \"weights.pth\")`"
            )),
            _ => Ok(found.clone()),
        };
    }
    let keys = all.iter().take(20);
    let keys = keys.map(|(key, id)| format!("`{key}` (a {})", kind(pickle, pickle.get(*id))));
    Err(format!("a dict of {}: {}", all.len(), keys.collect::<Vec<_>>().join(", ")))
}

/// Whether two dicts have the same names for other tensors.
fn differs_in_values_only(pickle: &Pickle, one: &Pairs, other: &Pairs) -> bool {
    let places = |dict: &Pairs| {
        let place = |(name, id): (String, Id)| {
            let (_, [storage, offset, ..]) = rebuild_call(pickle, id)? else { return None };
            let storage = Storage::of(pickle, pickle.get(*storage))?;
            Some((name, (storage.key.to_owned(), natural(pickle, *offset))))
        };
        entries(pickle, dict).into_iter().filter_map(place).collect::<Vec<_>>()
    };
    let (one, other) = (places(one), places(other));
    let same_names = one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| one.0 == other.0);
    same_names && one != other
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

/// Keys and values; for a repeated key the last value, as in Python.
fn entries(pickle: &Pickle, dict: &Pairs) -> Vec<(String, Id)> {
    let mut entries: Vec<(String, Id)> = Vec::with_capacity(dict.len());
    let mut places = HashMap::<_, usize>::new();
    for (key, value) in dict {
        let name = match pickle.get(*key) {
            // Truncated, as no weight has such a name and a memo may repeat it.
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

/// The `torch._utils` function that would build a tensor, and its arguments; a surrounding `Parameter` is skipped.
fn rebuild_call<'a>(pickle: &'a Pickle, mut id: Id) -> Option<(&'a str, &'a [Id])> {
    // A `Parameter` holds a tensor, not a `Parameter`; this also ends on a pickle that contains itself.
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

fn naturals(pickle: &Pickle, id: Id) -> Option<Vec<u64>> {
    let items = pickle.items(id).filter(|items| items.len() <= MAX_RANK)?;
    items.iter().map(|id| natural(pickle, *id)).collect()
}

/// Finds the bytes of a tensor from the arguments of `_rebuild_tensor_v2(storage, offset, shape, strides, ..)`.
fn locate(
    pickle: &Pickle,
    name: String,
    (rebuild, args): (&str, &[Id]),
    storages: &HashMap<String, Member>,
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
    let Some(&member) = storages.get(storage.key) else {
        return Err(format!("lies in storage `{}`, which is not in the file", storage.key));
    };
    let place = member.span;
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
        // The stride of an axis of one is never used, and PyTorch writes arbitrary values there.
        *stride = if *dim == 1 { 0 } else { *stride };
        row_major &= *dim == 1 || *stride == expected;
        // Only the other axes of an empty tensor can be this long.
        expected = expected.saturating_mul(*dim);
    }
    let strides = (!row_major && logical_bytes > 0).then_some(strides);
    let shape = shape.into_iter().map(|dim| dim as usize).collect();
    Ok(PthTensor { name, dtype, shape, strides, span, storage: member })
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
        // The next index, as on an odometer.
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

#[cfg(test)]
mod tests {
    use crate::weights::pth::samples::{dict, entry, open, rejection, sample, zip_of};

    #[test]
    fn views_of_one_storage_become_separate_tensors() {
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
        let message = rejection(&zip_of(&pickle, &[&[7]]));
        assert!(message.contains("`teacher` (a dict with 1 tensors)"), "{message}");
        assert!(message.contains("`args` (a Namespace)"), "{message}");
        assert!(rejection(&zip_of(b"]K\x01a.", &[])).contains("got a list of 1"));
    }

    /// Two sets of weights in one file are ambiguous; two views of one set are not.
    #[test]
    fn wrappers_that_conflict_are_an_error() {
        let named = |wrapper: &str, tensor: Vec<u8>| {
            let length = (wrapper.len() as u32).to_le_bytes();
            [b"X", length.as_slice(), wrapper.as_bytes(), b"}(", &tensor, b"u"].concat()
        };
        let both = |offset: usize| {
            let first = named("model", entry("w", 2, 0, [&[1], &[1]], b""));
            let second = named("net", entry("w", 2, offset, [&[1], &[1]], b""));
            zip_of(&[b"\x80\x02}(", first.as_slice(), &second, b"u."].concat(), &[&[7, 8]])
        };
        let message = rejection(&both(1));
        assert!(message.contains("`model` and `net` hold other values under the same names"), "{message}");
        assert_eq!(open(&both(0)).expect("one set").wrapper.as_deref(), Some("model"));
    }

    #[test]
    fn damaged_members_are_errors() {
        let good = zip_of(&dict(&[entry("w", 6, 0, [&[6], &[1]], b"")]), &[b"weight"]);
        let damage = |find: &[u8]| {
            let mut bytes = good.clone();
            let at = bytes.windows(find.len()).position(|piece| piece == find).expect("stored as it is");
            bytes[at] ^= 1;
            open(&bytes).and_then(|index| index.read(&index.tensors[0]))
        };
        assert!(open(&good).and_then(|index| index.read(&index.tensors[0])).is_ok());
        for (find, member) in [(b"weight".as_slice(), "`w`"), (b"ByteStorage", "`data.pkl`")] {
            let message = damage(find).expect_err("damaged").to_string();
            assert!(message.contains(member) && message.contains("checksum"), "{message}");
        }
    }

    #[test]
    fn errors_explain_what_to_do() {
        let evil = zip_of(b"}X\x01\0\0\0acos\nsystem\nX\x02\0\0\0ls\x85Rs.", &[]);
        assert!(rejection(&evil).contains("`os.system`; rejected, nothing was run"));
        assert!(rejection(b"hello").contains("neither a zip nor a pickle"));
        let (_, bytes) = sample();
        assert!(rejection(&bytes[..bytes.len() - 40]).contains("still downloading"));
        assert!(rejection(&zip_of(b"N.", &[])).contains("got a None"));
        // Method 8, deflate, in every header of the zip's directory.
        let mut packed = bytes.clone();
        for at in 0..packed.len() - 4 {
            if packed[at..].starts_with(b"PK\x01\x02") {
                packed[at + 10] = 8;
            }
        }
        assert!(rejection(&packed).contains("is compressed"));
        let one = |shape: &[usize], strides: &[usize], offset, len| {
            rejection(&zip_of(&dict(&[entry("w", len, offset, [shape, strides], b"")]), &[&[7]]))
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
        assert!(rejection(&lost).contains("storage `0`, which is not in the file"));
    }
}
