//! Python pickles as plain data: the opcodes that `torch.save` writes, interpreted without executing anything.
//!
//! A pickle is a program for a small stack machine whose `REDUCE` calls any Python function it names, so loading one
//! with Python runs its author's code. Here a call is only recorded, as [`Value::Call`], and only for the names of
//! [`PASSIVE`]; those of [`DICTS`] and [`LISTS`] create containers, and any other call is [`PickleError::Code`]. A name
//! that is not called is harmless and allowed: it becomes a [`Value::Global`].
//!
//! The opcodes are those of CPython's `Lib/pickletools.py`
//! (<https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>), protocols 2 to 5, with the few of 0 and 1 that
//! they still use. Differences: no out-of-band buffers, no extension registry, no text memo, a Python 2 `str` is text
//! where it is UTF-8, and the state that `BUILD` sets on an object is dropped. Values are in one flat list and refer
//! to each other by [`Id`], so a pickle that contains itself is safe, and so is a deep one; text is borrowed from the
//! input. Memory is linear in the input, and bounded by [`MAX_VALUES`].

use super::pickle_machine::{Machine, Stop};

/// Maximum number of values of one pickle. That of a ViT-H checkpoint with its optimiser has under 100,000.
pub(crate) const MAX_VALUES: usize = 1 << 23;

/// Calls that create a dict or a list, to which the following items are added.
pub(crate) const DICTS: &str = "collections.OrderedDict collections.defaultdict collections.Counter builtins.dict
    pytorch_lightning.utilities.parsing.AttributeDict
    lightning_fabric.utilities.data.AttributeDict lightning.fabric.utilities.data.AttributeDict";
pub(crate) const LISTS: &str = "collections.deque builtins.list builtins.set builtins.frozenset";

/// Calls that are recorded: PyTorch's own list for `weights_only` (`torch/_weights_only_unpickler.py`),
/// and the values without behaviour that training scripts leave beside the weights.
pub(crate) const PASSIVE: &str = "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2
    torch._utils._rebuild_tensor_v3 torch._utils._rebuild_parameter
    torch._utils._rebuild_parameter_with_state torch._utils._rebuild_qtensor
    torch._utils._rebuild_sparse_tensor torch._utils._rebuild_nested_tensor
    torch._utils._rebuild_meta_tensor_no_storage torch._utils._rebuild_wrapper_subclass
    torch._utils._rebuild_device_tensor_from_numpy
    torch._utils._rebuild_device_tensor_from_cpu_tensor torch._tensor._rebuild_from_type_v2
    torch.nn.parameter.Parameter torch.Size torch.device torch.serialization._get_layout
    torch.torch_version.TorchVersion argparse.Namespace types.SimpleNamespace
    numpy.dtype numpy.ndarray numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct
    numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer _codecs.encode
    builtins.bytes builtins.bytearray builtins.complex builtins.range builtins.xrange builtins.slice
    datetime.date datetime.datetime datetime.time datetime.timedelta
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath
    pathlib._local.Path pathlib._local.PosixPath pathlib._local.WindowsPath
    pathlib._local.PurePosixPath";

/// Index of a value in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u32);

/// One Python value.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'p> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`: two's complement, little endian.
    Long(&'p [u8]),
    Float(f64),
    Str(&'p str),
    Bytes(&'p [u8]),
    Tuple(Vec<Id>),
    /// Lists, sets and deques.
    List(Vec<Id>),
    /// Any kind of dict, in the order of the file; keys may repeat.
    Dict(Vec<(Id, Id)>),
    /// A name, `module.name`, that is not called.
    Global {
        module: &'p str,
        name: &'p str,
    },
    /// An allowed call, not executed. `callee` is a `Global`, `args` a tuple.
    Call {
        callee: Id,
        args: Id,
    },
    /// An object stored outside of the pickle: a storage, in a checkpoint.
    Persistent(Id),
}

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'p> {
    values: Vec<Value<'p>>,
    root: Id,
    /// Bytes up to and including `STOP`; a file may have several pickles in a row.
    pub(crate) byte_len: usize,
}

/// Why a pickle is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("at byte {at}: {problem}")]
    Malformed { at: usize, problem: &'static str },
    #[error("the pickle asks to call `{global}`")]
    Code { global: String },
}

impl<'p> Pickle<'p> {
    /// Reads the pickle at the start of `bytes`.
    pub(crate) fn read(bytes: &'p [u8]) -> Result<Self, PickleError> {
        let mut machine = Machine::new(bytes);
        loop {
            let at = machine.at;
            let error = match machine.step() {
                Ok(None) => continue,
                Ok(Some(root)) => {
                    let Machine { values, at: byte_len, .. } = machine;
                    return Ok(Self { values, root, byte_len });
                }
                Err(error) => error,
            };
            return Err(match error {
                Stop::Malformed(problem) => PickleError::Malformed { at, problem },
                Stop::Code(global) => PickleError::Code { global },
            });
        }
    }

    pub(crate) fn root(&self) -> &Value<'p> {
        self.get(self.root)
    }

    pub(crate) fn get(&self, id: Id) -> &Value<'p> {
        &self.values[id.0 as usize]
    }

    /// All values, reachable from the root or not.
    pub(crate) fn values(&self) -> &[Value<'p>] {
        &self.values
    }

    pub(crate) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub(crate) fn str(&self, id: Id) -> Option<&'p str> {
        match self.get(id) {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Module and name of a global.
    pub(crate) fn global(&self, id: Id) -> Option<(&'p str, &'p str)> {
        match self.get(id) {
            Value::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The items of a tuple, a list or a `torch.Size`.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        let id = match self.call(id) {
            Some((("torch", "Size"), [items])) => *items,
            Some((("torch", "Size"), none)) => return Some(none),
            _ => id,
        };
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Callee and arguments of a call.
    pub(crate) fn call(&self, id: Id) -> Option<((&'p str, &'p str), &[Id])> {
        match self.get(id) {
            Value::Call { callee, args } => match self.get(*args) {
                Value::Tuple(args) => Some((self.global(*callee)?, args)),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> String {
        match Pickle::read(bytes) {
            Err(PickleError::Code { global }) => global,
            other => panic!("expected a rejected call, got {other:?}"),
        }
    }

    fn problem(bytes: &[u8]) -> &'static str {
        match Pickle::read(bytes) {
            Err(PickleError::Malformed { problem, .. }) => problem,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    /// A value as text, two levels deep.
    fn show(bytes: &[u8]) -> String {
        let pickle = Pickle::read(bytes).expect("valid");
        let items = |ids: &[Id]| ids.iter().map(|id| format!("{:?}", pickle.get(*id))).collect::<Vec<_>>().join(" ");
        match pickle.root() {
            Value::Tuple(ids) | Value::List(ids) => items(ids),
            Value::Dict(pairs) => pairs.iter().map(|(k, v)| items(&[*k, *v])).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn scalars() {
        let bytes =
            b"\x80\x02(K\xffM\x01\x02J\xfe\xff\xff\xff\x8a\x01\x80\x8a\x00\x8b\x02\0\0\0\x01\x02I-7\nI01\nL8L\nt.";
        assert_eq!(show(bytes), "Int(255) Int(513) Int(-2) Int(-128) Int(0) Int(513) Int(-7) Bool(true) Int(8)");
        let bytes = b"(G\x3f\xf8\0\0\0\0\0\0F2.5\nN\x88\x89X\x02\0\0\0ab\x8c\x01cU\x01dU\x01\xe9C\x01et.";
        let expected = r#"Float(1.5) Float(2.5) None Bool(true) Bool(false) Str("ab") Str("c") Str("d") Bytes([233]) Bytes([101])"#;
        assert_eq!(show(bytes), expected);
        // The magic number that opens a legacy checkpoint does not fit in 64 bits.
        assert_eq!(show(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), "Long([108, 252, 156, 70, 249, 32, 106, 168, 80, 25])");
    }

    #[test]
    fn containers_fill_after_they_were_memoised() {
        // d = {}; memo 0 = d; d["a"] = d[..]; the tuple holds the memo twice, then the dict is the root.
        let bytes = b"\x80\x02}q\0(X\x01\0\0\0aK\x01u0h\0.";
        assert_eq!(show(bytes), r#"Str("a") Int(1)"#);
        let bytes = b"\x80\x02ccollections\nOrderedDict\n)R(K\x01K\x02u}b.";
        assert_eq!(show(bytes), "Int(1) Int(2)");
        assert_eq!(show(b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85RK\x01K\x02s."), "Int(1) Int(2)");
        assert_eq!(show(b"cbuiltins\nset\n](K\x01K\x02e\x85R."), "Int(1) Int(2)");
        assert_eq!(show(b"ctorch\nSize\n(K\x01K\x02t\x85R.").split(' ').next(), Some("Call"));
    }

    #[test]
    fn a_list_may_hold_itself() {
        let pickle = Pickle::read(b"]q\0h\0a.").expect("valid");
        assert_eq!(pickle.root(), &Value::List(vec![pickle.root]));
        let deep = [vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
        assert!(Pickle::read(&deep).is_ok());
    }

    #[test]
    fn calls_are_rejected_by_name() {
        assert_eq!(code(b"cos\nsystem\n(X\x02\0\0\0lstR."), "os.system");
        assert_eq!(code(b"\x8c\x02os\x8c\x06system\x93)R."), "os.system");
        assert_eq!(code(b"cmy.model\nNet\n)\x81}b."), "my.model.Net");
        assert_eq!(code(b"cmy.model\nNet\n)}\x92."), "my.model.Net");
        assert_eq!(code(b"(ios\nsystem\n."), "os.system");
        assert_eq!(code(b"(cos\nsystem\no."), "os.system");
        assert_eq!(code(b"ctorch.storage\n_load_from_bytes\n)R."), "torch.storage._load_from_bytes");
        assert_eq!(code(b"ctorch\nSize\n)R)R."), "a value that the pickle computes");
        assert!(code(b"K\x01Q)\x81.").contains("a whole model"));
        assert_eq!(code(b"c\x1b[2J\nx\n)R."), "\\u{1b}[2J.x");
        // A name alone executes nothing, in Python neither.
        assert_eq!(show(b"cos\nsystem\n."), r#"Global { module: "os", name: "system" }"#);
    }

    #[test]
    fn malformed_pickles_are_explained() {
        assert_eq!(problem(b"0."), "takes more values than there are");
        assert_eq!(problem(b"K\x01(0\x850."), "takes more values than there are");
        assert_eq!(problem(b"K\x01((0\x85."), "takes more values than there are");
        assert_eq!(problem(b"t."), "there is no mark");
        assert_eq!(problem(b"}(K\x01u."), "a key without a value");
        assert_eq!(problem(b"K\x01K\x01a."), "appends to a value that is not a list");
        assert_eq!(problem(b"h\x05."), "asks for a memo that was not made");
        assert_eq!(problem(b"\x82\x01."), "not an opcode that `torch.save` writes");
        for cut in
            [&b""[..], b"\x80\x02", b"X\xff\xff\xff\xffab", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"cos", b"J\0"]
        {
            assert!(problem(cut).contains("truncated"), "{cut:?}");
        }
    }
}
