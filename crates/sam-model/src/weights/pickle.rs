//! Python pickles as plain data: the opcodes that `torch.save` writes, read and never run.
//!
//! A pickle is a program for a small stack machine whose `REDUCE` calls any Python function it names, so loading one
//! with Python runs its author's code. Here a call is only a note, [`Value::Call`], and only for the names of
//! [`PASSIVE`]; those of [`DICTS`] and [`LISTS`] make containers, and asking to call anything else is
//! [`PickleError::Code`]. To merely name something is harmless and allowed: it stays a [`Value::Global`].
//!
//! The opcodes are those of CPython's `Lib/pickletools.py`
//! (<https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>), protocols 2 to 5, with the few of 0 and 1 that
//! they still use. What differs: no out-of-band buffers, no extension registry, no text memo, a Python 2 `str` is text
//! where it is UTF-8, and the state that `BUILD` hands to an object is dropped. Values lie in one flat list and name
//! each other by [`Id`], so a pickle that contains itself is no danger, nor is a deep one; text is borrowed from the
//! input. Memory is linear in the input, and bounded by [`MAX_VALUES`].

use std::collections::HashMap;

/// Bound on the values of one pickle. That of a ViT-H checkpoint with its optimiser has under 100,000.
const MAX_VALUES: usize = 1 << 23;

/// Calls that make a dict or a list: the items that follow must land in it.
const DICTS: &str = "collections.OrderedDict collections.defaultdict collections.Counter builtins.dict
    pytorch_lightning.utilities.parsing.AttributeDict
    lightning_fabric.utilities.data.AttributeDict lightning.fabric.utilities.data.AttributeDict";
const LISTS: &str = "collections.deque builtins.list builtins.set builtins.frozenset";

/// Calls kept as a note: PyTorch's own list for `weights_only` (`torch/_weights_only_unpickler.py`),
/// and the values without behaviour that training scripts leave beside the weights.
const PASSIVE: &str = "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2
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

/// Place of a value in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

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
    /// Every kind of dict, in the order of the file; a key may come twice.
    Dict(Vec<(Id, Id)>),
    /// A name, `module.name`, that nothing was done with.
    Global {
        module: &'p str,
        name: &'p str,
    },
    /// An allowed call that was not made. `callee` is a `Global`, `args` a tuple.
    Call {
        callee: Id,
        args: Id,
    },
    /// What the writer keeps outside of the pickle: a storage, in a checkpoint.
    Persistent(Id),
}

/// A pickle, read.
#[derive(Debug)]
pub(crate) struct Pickle<'p> {
    values: Vec<Value<'p>>,
    root: Id,
    /// Bytes up to and with `STOP`; several may follow each other in a file.
    pub(crate) byte_len: usize,
}

/// Why bytes are not an acceptable pickle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("at byte {at}: {problem}")]
    Malformed { at: usize, problem: &'static str },
    #[error("the pickle asks to call `{global}`")]
    Code { global: String },
}

impl<'p> Pickle<'p> {
    /// Reads the pickle that `bytes` begins with.
    pub(crate) fn read(bytes: &'p [u8]) -> Result<Self, PickleError> {
        let mut machine = Machine { bytes, ..Machine::default() };
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

    /// Every value, whether the root leads to it or not.
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

    /// What a call would have called, and its arguments.
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

/// The root once `STOP` is reached.
type Step = Result<Option<Id>, Stop>;

/// Why the machine stops before `STOP`.
enum Stop {
    Malformed(&'static str),
    Code(String),
}

const SHORT_INPUT: Stop = Stop::Malformed("the pickle ends before its STOP: is the file truncated?");
const SHORT_STACK: Stop = Stop::Malformed("takes more values than there are");

/// The stack machine, at byte `at`.
#[derive(Default)]
struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    values: Vec<Value<'p>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'p> Machine<'p> {
    /// One opcode; the root value at `STOP`.
    fn step(&mut self) -> Step {
        let opcode = self.take(1)?[0];
        let value = match opcode {
            b'.' => return self.pop().map(Some), // STOP
            // Opcodes that push no new value.
            0x80 => return self.take(1).map(|_| None), // PROTO
            0x95 => return self.take(8).map(|_| None), // FRAME: the end of the writer's buffer
            b'(' => return self.mark(),
            b'0' => return self.pop_or_unmark(),
            b'1' => return self.pop_mark().map(|_| None), // POP_MARK
            b'2' => return self.top().map(|top| self.again(top)), // DUP
            b'q' => return self.uint(1).and_then(|slot| self.memoise(slot)), // BINPUT
            b'r' => return self.uint(4).and_then(|slot| self.memoise(slot)), // LONG_BINPUT
            0x94 => return self.memoise(self.memo.len() as u64), // MEMOIZE
            b'h' => return self.uint(1).and_then(|slot| self.recall(slot)), // BINGET
            b'j' => return self.uint(4).and_then(|slot| self.recall(slot)), // LONG_BINGET
            b'a' => return self.pop().and_then(|item| self.extend_list(vec![item])), // APPEND
            b'e' | 0x90 => return self.pop_mark().and_then(|items| self.extend_list(items)), // APPENDS, ADDITEMS
            b's' => return self.pop_some(2).and_then(|items| self.extend_dict(&items)), // SETITEM
            b'u' => return self.pop_mark().and_then(|items| self.extend_dict(&items)), // SETITEMS
            b'b' => return self.build(),
            b'R' | 0x81 => return self.pop_some(2).and_then(|of| self.call(of[0], of[1])), // REDUCE, NEWOBJ
            // NEWOBJ_EX: no call that is kept takes keywords.
            0x92 => return self.pop_some(3).and_then(|of| self.call(of[0], of[1])),
            b'o' => return self.pop_mark().and_then(|items| self.call_marked(items)), // OBJ
            b'i' => return self.inst(),
            // Constants and numbers.
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int((self.uint(4)? as i32).into()), // BININT
            b'K' => Value::Int(self.uint(1)? as i64),          // BININT1
            b'M' => Value::Int(self.uint(2)? as i64),          // BININT2
            0x8a => long(self.sized(1)?),                      // LONG1
            0x8b => long(self.sized(4)?),                      // LONG4
            b'G' => Value::Float(f64::from_bits(self.uint(8)?.swap_bytes())), // BINFLOAT
            b'I' => int_or_bool(self.line()?)?,                // INT
            b'L' => Value::Int(parse(self.line()?.trim_end_matches('L'))?), // LONG
            b'F' => Value::Float(parse(self.line()?)?),        // FLOAT
            // Text and bytes: SHORT_BINUNICODE, BINUNICODE, BINUNICODE8.
            0x8c => Value::Str(utf8(self.sized(1)?)?),
            b'X' => Value::Str(utf8(self.sized(4)?)?),
            0x8d => Value::Str(utf8(self.sized(8)?)?),
            // SHORT_BINSTRING, BINSTRING: `str` of Python 2, in which it wrote the keys.
            b'U' => python2_str(self.sized(1)?),
            b'T' => python2_str(self.sized(4)?),
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => Value::Bytes(self.sized(1)?),
            b'B' => Value::Bytes(self.sized(4)?),
            0x8e | 0x96 => Value::Bytes(self.sized(8)?),
            // Containers.
            b']' | 0x8f => Value::List(Vec::new()),       // EMPTY_LIST, EMPTY_SET
            b'}' => Value::Dict(Vec::new()),              // EMPTY_DICT
            b')' => Value::Tuple(Vec::new()),             // EMPTY_TUPLE
            b'l' | 0x91 => Value::List(self.pop_mark()?), // LIST, FROZENSET
            b'd' => Value::Dict(pairs(&self.pop_mark()?)?), // DICT
            b't' => Value::Tuple(self.pop_mark()?),       // TUPLE
            0x85..=0x87 => Value::Tuple(self.pop_some(usize::from(opcode - 0x84))?), // TUPLE1, 2, 3
            // Names and references.
            b'c' => self.global_line()?, // GLOBAL
            0x93 => self.stack_global()?,
            b'Q' => Value::Persistent(self.pop()?), // BINPERSID
            _ => return Err(Stop::Malformed("not an opcode that `torch.save` writes")),
        };
        let id = self.add(value)?;
        Ok(self.again(id))
    }

    /// POP: also how a pickler takes back a MARK.
    fn pop_or_unmark(&mut self) -> Step {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(None);
        }
        self.pop().map(|_| None)
    }

    fn mark(&mut self) -> Step {
        self.marks.push(self.stack.len());
        Ok(None)
    }

    fn memoise(&mut self, slot: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(None)
    }

    fn recall(&mut self, slot: u64) -> Step {
        let id = self.memo.get(&slot).copied();
        let id = id.ok_or(Stop::Malformed("asks for a memo that was not made"))?;
        Ok(self.again(id))
    }

    fn again(&mut self, id: Id) -> Option<Id> {
        self.stack.push(id);
        None
    }

    /// BUILD: sets attributes, of which nothing here has any.
    fn build(&mut self) -> Step {
        let target = self.pop_some(2)?[0];
        match self.value(target) {
            Value::Call { .. } | Value::Dict(_) | Value::List(_) => Ok(self.again(target)),
            _ => Err(Stop::Malformed("sets attributes of a value that has none")),
        }
    }

    fn global_line(&mut self) -> Result<Value<'p>, Stop> {
        let (module, name) = (self.line()?, self.line()?);
        Ok(Value::Global { module, name })
    }

    fn stack_global(&mut self) -> Result<Value<'p>, Stop> {
        let of = self.pop_some(2)?;
        match (self.value(of[0]), self.value(of[1])) {
            (Value::Str(module), Value::Str(name)) => Ok(Value::Global { module, name }),
            _ => Err(Stop::Malformed("names a global with something that is not text")),
        }
    }

    /// INST, of protocol 0.
    fn inst(&mut self) -> Step {
        let mut items = self.pop_mark()?;
        let callee = self.global_line()?;
        items.insert(0, self.add(callee)?);
        self.call_marked(items)
    }

    fn call_marked(&mut self, mut items: Vec<Id>) -> Step {
        if items.is_empty() {
            return Err(SHORT_STACK);
        }
        let callee = items.remove(0);
        let args = self.add(Value::Tuple(items))?;
        self.call(callee, args)
    }

    /// Notes a call, or refuses it.
    fn call(&mut self, callee: Id, args: Id) -> Step {
        let global = match self.value(callee) {
            // Cut: a real name is shorter, and this one may be of any length.
            Value::Global { module, name } => match *module {
                "__builtin__" => format!("builtins.{name:.99}"), // Its name in Python 2, and in protocol 2.
                module => format!("{module:.99}.{name:.99}"),
            },
            Value::Persistent(_) => "a class stored in the file, as of a whole model".into(),
            _ => "a value that the pickle computes".into(),
        };
        let Value::Tuple(arguments) = self.value(args) else {
            return Err(Stop::Malformed("calls with arguments that are not a tuple"));
        };
        let first = arguments.first().copied();
        let is_in = |list: &str| list.split_whitespace().any(|allowed| allowed == global);
        let id = if is_in(PASSIVE) {
            self.add(Value::Call { callee, args })?
        } else if is_in(DICTS) {
            self.container(first, Value::Dict(Vec::new()))?
        } else if is_in(LISTS) {
            self.container(first, Value::List(Vec::new()))?
        } else {
            // Escaped, since the file's control characters have no business in a terminal.
            return Err(Stop::Code(global.escape_debug().to_string()));
        };
        Ok(self.again(id))
    }

    /// A container from what its constructor got: `OrderedDict()`, `defaultdict(list)`, `Counter({..})`, `set([..])`.
    /// The given container itself will do, as nothing else refers to it.
    fn container(&mut self, first: Option<Id>, empty: Value<'p>) -> Result<Id, Stop> {
        match (&empty, first.map(|id| (id, self.value(id)))) {
            (_, None) | (Value::Dict(_), Some((_, Value::Global { .. } | Value::None))) => self.add(empty),
            (Value::Dict(_), Some((id, Value::Dict(_)))) | (Value::List(_), Some((id, Value::List(_)))) => Ok(id),
            _ => Err(Stop::Malformed("makes a container of something that is not one")),
        }
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Step {
        let top = self.top()?;
        match &mut self.values[top.0 as usize] {
            Value::List(list) => list.extend(items),
            _ => return Err(Stop::Malformed("appends to a value that is not a list")),
        }
        Ok(None)
    }

    fn extend_dict(&mut self, items: &[Id]) -> Step {
        let top = self.top()?;
        match &mut self.values[top.0 as usize] {
            Value::Dict(dict) => dict.extend(pairs(items)?),
            _ => {
                return Err(Stop::Malformed("sets an item of a value that is not a dict"));
            }
        }
        Ok(None)
    }

    fn value(&self, id: Id) -> &Value<'p> {
        &self.values[id.0 as usize]
    }

    fn add(&mut self, value: Value<'p>) -> Result<Id, Stop> {
        if self.values.len() >= MAX_VALUES {
            return Err(Stop::Malformed("more values than any checkpoint has"));
        }
        self.values.push(value);
        Ok(Id(self.values.len() as u32 - 1))
    }

    /// The value on top, which may not lie under an open mark.
    fn top(&self) -> Result<Id, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or(SHORT_STACK)
    }

    fn pop(&mut self) -> Result<Id, Stop> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The `count` values on top, the lowest first.
    fn pop_some(&mut self, count: usize) -> Result<Vec<Id>, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() - floor < count {
            return Err(SHORT_STACK);
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Stop> {
        let height = self.marks.pop().ok_or(Stop::Malformed("there is no mark"))?;
        Ok(self.stack.split_off(height))
    }

    fn take(&mut self, len: usize) -> Result<&'p [u8], Stop> {
        let taken = self.bytes[self.at..].get(..len).ok_or(SHORT_INPUT)?;
        self.at += len;
        Ok(taken)
    }

    /// A little-endian number of `width` bytes.
    fn uint(&mut self, width: usize) -> Result<u64, Stop> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// Bytes behind their length, itself of `width` bytes.
    fn sized(&mut self, width: usize) -> Result<&'p [u8], Stop> {
        let len = usize::try_from(self.uint(width)?).map_err(|_| SHORT_INPUT)?;
        self.take(len)
    }

    fn line(&mut self) -> Result<&'p str, Stop> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or(SHORT_INPUT)?;
        self.at += len + 1;
        utf8(&rest[..len])
    }
}

/// A two's complement number of any length, little endian.
fn long(bytes: &[u8]) -> Value<'_> {
    let sign = bytes.last().map_or(0, |byte| if byte & 0x80 == 0 { 0 } else { 0xff });
    let mut wide = [sign; 8];
    match wide.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Value::Long(bytes),
    }
    Value::Int(i64::from_le_bytes(wide))
}

fn int_or_bool(text: &str) -> Result<Value<'_>, Stop> {
    Ok(match text {
        "00" => Value::Bool(false),
        "01" => Value::Bool(true),
        _ => Value::Int(parse(text)?),
    })
}

fn python2_str(bytes: &[u8]) -> Value<'_> {
    str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str)
}

fn utf8(bytes: &[u8]) -> Result<&str, Stop> {
    str::from_utf8(bytes).map_err(|_| Stop::Malformed("text is not UTF-8"))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Stop> {
    text.parse().map_err(|_| Stop::Malformed("not a number"))
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Stop> {
    let (pairs, rest) = items.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err(Stop::Malformed("a key without a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> String {
        match Pickle::read(bytes) {
            Err(PickleError::Code { global }) => global,
            other => panic!("expected a refusal, got {other:?}"),
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
    fn calls_are_refused_by_name() {
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
        // A name alone runs nothing, in Python neither.
        assert_eq!(show(b"cos\nsystem\n."), r#"Global { module: "os", name: "system" }"#);
    }

    #[test]
    fn malformed_pickles_say_why() {
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
