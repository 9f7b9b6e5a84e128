//! The stack machine of pickles, without side effects: it creates values and calls nothing.

use std::collections::HashMap;

use super::pickle::{DICTS, Id, LISTS, MAX_VALUES, PASSIVE, Value};

/// The root once `STOP` is reached.
pub(crate) type Step = Result<Option<Id>, Stop>;

/// Why the machine stops before `STOP`.
pub(crate) enum Stop {
    Malformed(&'static str),
    Code(String),
}

const SHORT_INPUT: Stop = Stop::Malformed("the pickle ends before its STOP: is the file truncated?");
const SHORT_STACK: Stop = Stop::Malformed("takes more values than there are");

/// The stack machine, at byte `at`.
#[derive(Default)]
pub(crate) struct Machine<'p> {
    bytes: &'p [u8],
    pub(crate) at: usize,
    pub(crate) values: Vec<Value<'p>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open MARK.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'p> Machine<'p> {
    pub(crate) fn new(bytes: &'p [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// One opcode; the root value at `STOP`.
    pub(crate) fn step(&mut self) -> Step {
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
            // NEWOBJ_EX: no recorded call takes keywords.
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

    /// POP, with which a pickler also removes a MARK.
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

    /// BUILD: sets attributes, which no value here has.
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

    /// Records a call, or rejects it.
    fn call(&mut self, callee: Id, args: Id) -> Step {
        let global = match self.value(callee) {
            // Truncated: real names are shorter, and this one may have any length.
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
            // Escaped, so that the file's control characters do not reach a terminal.
            return Err(Stop::Code(global.escape_debug().to_string()));
        };
        Ok(self.again(id))
    }

    /// A container from the arguments of its constructor: `OrderedDict()`, `defaultdict(list)`, `Counter({..})`, `set([..])`.
    /// The given container itself is reused, as nothing else refers to it.
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

    /// The value on top, which must not be below an open mark.
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

    /// Bytes preceded by their length of `width` bytes.
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
