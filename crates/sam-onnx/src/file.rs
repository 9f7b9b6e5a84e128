//! A graph as a file: a `ModelProto` whose weights are streamed into it, or into a second file beside it where the first would
//! pass the limit of protocol buffers.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::OnnxError;
use crate::graph::{Finished, Initializer};
use crate::opset::Opset;
use crate::protobuf::Message;

/// Largest size of a message of protocol buffers: its readers count in 32 bits with a sign.
pub const PROTOBUF_LIMIT: u64 = i32::MAX as u64;

/// Offsets in the second file are multiples of this, so that it can be mapped into memory.
const ALIGNMENT: u64 = 4096;

/// Smaller tensors stay in the first file: shapes must be known without the second.
const SMALLEST_EXTERNAL: u64 = 1024;

/// What stands in a file around its graph.
pub(crate) struct Surroundings<'a> {
    pub(crate) opset: Opset,
    pub(crate) metadata: &'a [(String, String)],
    /// A larger file has its weights in a second one.
    pub(crate) external_above: u64,
}

/// Sizes of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) model: u64,
    /// Of the second file.
    pub(crate) data: Option<u64>,
}

/// The file with the weights of `path`, where they are not in it.
pub(crate) fn data_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".data");
    name.into()
}

/// Writes a graph.
///
/// # Errors
///
/// When a file cannot be written.
pub(crate) fn write_model(graph: &Finished, around: &Surroundings<'_>, path: &Path) -> Result<Sizes, OnnxError> {
    let inline = Layout::new(graph, around, path, false);
    let is_external = inline.file_length() > around.external_above;
    let layout = if is_external { Layout::new(graph, around, path, true) } else { inline };
    layout.write(path).map_err(|source| OnnxError::io(path, source))?;
    let data = data_beside(path);
    let data = match is_external {
        true => Some(write_data(graph, &data).map_err(|source| OnnxError::io(&data, source))?),
        false => None,
    };
    Ok(Sizes { model: layout.file_length(), data })
}

/// The parts of a file in their order; all but the weights are in memory.
struct Layout<'a> {
    head: Message,
    graph: &'a Finished,
    /// Fields of each `TensorProto` without its data, and whether the data follows.
    tensors: Vec<(Message, bool)>,
    tail: Message,
}

impl<'a> Layout<'a> {
    fn new(graph: &'a Finished, around: &Surroundings<'_>, path: &Path, is_external: bool) -> Self {
        let mut head = Message::new();
        head.int(1, around.opset.ir_version());
        head.text(2, "sam-train");
        head.text(3, env!("CARGO_PKG_VERSION"));
        let mut tail = Message::new();
        let mut opset = Message::new();
        opset.text(1, "");
        opset.int(2, around.opset.version());
        tail.message(8, &opset);
        around.metadata.iter().for_each(|(key, value)| tail.message(14, &entry(key, value)));
        let location =
            data_beside(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut offset = 0;
        let tensors = graph.initializers.iter().map(|tensor| {
            let mut message = tensor_message(tensor);
            if !is_external || tensor.n_bytes() < SMALLEST_EXTERNAL {
                return (message, true);
            }
            let length = tensor.n_bytes();
            for (key, value) in
                [("location", location.clone()), ("offset", offset.to_string()), ("length", length.to_string())]
            {
                message.message(13, &entry(key, &value));
            }
            message.int(14, 1);
            offset += length.next_multiple_of(ALIGNMENT);
            (message, false)
        });
        Self { head, graph, tensors: tensors.collect(), tail }
    }

    fn file_length(&self) -> u64 {
        self.head.len() + field_length(self.graph_length()) + self.tail.len()
    }

    fn graph_length(&self) -> u64 {
        let tensors: u64 = self.graph.initializers.iter().zip(&self.tensors).map(tensor_length).map(field_length).sum();
        self.graph.nodes.len() + self.name().len() + tensors + self.graph.inputs_and_outputs.len()
    }

    fn name(&self) -> Message {
        let mut name = Message::new();
        name.text(2, self.graph.name);
        name
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(self.head.bytes())?;
        file.write_all(beginning(7, self.graph_length()).bytes())?;
        file.write_all(self.graph.nodes.bytes())?;
        file.write_all(self.name().bytes())?;
        for (initializer, tensor) in self.graph.initializers.iter().zip(&self.tensors) {
            let (fields, is_inline) = tensor;
            file.write_all(beginning(5, tensor_length((initializer, tensor))).bytes())?;
            file.write_all(fields.bytes())?;
            if *is_inline {
                let data = (initializer.data)();
                assert_eq!(data.len() as u64, initializer.n_bytes(), "the bytes of `{}`", initializer.name);
                file.write_all(beginning(9, data.len() as u64).bytes())?;
                file.write_all(&data)?;
            }
        }
        file.write_all(self.graph.inputs_and_outputs.bytes())?;
        file.write_all(self.tail.bytes())?;
        file.flush()
    }
}

/// Writes the second file; returns its size.
fn write_data(graph: &Finished, path: &Path) -> std::io::Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut length = 0;
    for tensor in graph.initializers.iter().filter(|tensor| tensor.n_bytes() >= SMALLEST_EXTERNAL) {
        let data = (tensor.data)();
        let padding = tensor.n_bytes().next_multiple_of(ALIGNMENT) - tensor.n_bytes();
        file.write_all(&data)?;
        file.write_all(&vec![0; padding as usize])?;
        length += tensor.n_bytes() + padding;
    }
    file.flush()?;
    Ok(length)
}

/// A `TensorProto` without its data.
fn tensor_message(tensor: &Initializer) -> Message {
    let mut message = Message::new();
    let shape: Vec<i64> = tensor.shape.iter().map(|&size| size as i64).collect();
    message.ints(1, &shape);
    message.int(2, tensor.data_type as i64);
    message.text(8, &tensor.name);
    message
}

fn tensor_length((initializer, (fields, is_inline)): (&Initializer, &(Message, bool))) -> u64 {
    fields.len() + if *is_inline { field_length(initializer.n_bytes()) } else { 0 }
}

/// A `StringStringEntryProto`.
fn entry(key: &str, value: &str) -> Message {
    let mut message = Message::new();
    message.text(1, key);
    message.text(2, value);
    message
}

fn beginning(field: u32, length: u64) -> Message {
    let mut message = Message::new();
    message.begin(field, length);
    message
}

/// The length of a field with its key; all fields here have numbers below 16, whose key is one byte.
fn field_length(length: u64) -> u64 {
    beginning(1, length).len() + length
}
