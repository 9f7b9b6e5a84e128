//! A graph under construction: names are unique, nodes stand after what they read, constants are kept once.
//!
//! Names of values begin with the place in the network, which is also the beginning of the official keys of the weights there:
//! `image_encoder.blocks.0.attn/MatMul`. The same network gives the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use half::f16;
use sam_model::Sam;
use sam_model::weights::{NamedTensor, named_tensors};

use crate::error::OnnxError;
use crate::opset::Opset;
use crate::protobuf::Message;
use crate::storage::{Role, Stored, WeightType, scales, steps};

/// A tensor of the graph, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value(String);

impl Value {
    /// An optional input that is not given.
    pub(crate) fn none() -> Self {
        Self(String::new())
    }
}

/// Number types, with their numbers in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataType {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    I64 = 7,
    F16 = 10,
}

impl DataType {
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// An attribute of a node.
pub(crate) enum Attribute<'a> {
    Int(&'static str, i64),
    Ints(&'static str, &'a [i64]),
    Float(&'static str, f32),
    Text(&'static str, &'static str),
}

/// A dimension of an input or output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dimension {
    Fixed(usize),
    Dynamic(&'static str),
}

/// A constant tensor; its bytes are made when they are written.
pub(crate) struct Initializer {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Box<dyn Fn() -> Vec<u8>>,
}

impl Initializer {
    pub(crate) fn n_bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.data_type.bytes()
    }
}

/// The weights of a network by official key.
pub(crate) struct Weights {
    tensors: BTreeMap<String, Rc<NamedTensor>>,
    kind: WeightType,
}

impl Weights {
    pub(crate) fn new(sam: &Sam, kind: WeightType) -> Self {
        let tensors = named_tensors(sam).into_iter().map(|tensor| (tensor.key.clone(), Rc::new(tensor))).collect();
        Self { tensors, kind }
    }
}

/// A weight in the order in which a graph needs it.
pub(crate) struct Arrangement {
    /// The shape in the graph.
    pub(crate) shape: Vec<usize>,
    /// The axis of the output channels in the graph.
    pub(crate) channels: usize,
    /// From a checkpoint's order to the graph's.
    pub(crate) arrange: Box<dyn Fn(Vec<f32>) -> Vec<f32>>,
}

/// A graph that is complete.
pub(crate) struct Finished {
    pub(crate) name: &'static str,
    /// Field 1 of a `GraphProto`, for every node.
    pub(crate) nodes: Message,
    pub(crate) n_nodes: usize,
    pub(crate) initializers: Vec<Initializer>,
    /// Fields 11 and 12 of a `GraphProto`.
    pub(crate) inputs_and_outputs: Message,
    /// How each weight of the network is stored, by official key.
    pub(crate) stored: BTreeMap<String, Stored>,
}

/// A graph under construction.
pub(crate) struct Graph<'a> {
    pub(crate) opset: Opset,
    weights: &'a Weights,
    scope: Vec<String>,
    names: HashMap<String, usize>,
    nodes: Message,
    n_nodes: usize,
    initializers: Vec<Initializer>,
    constants: BTreeMap<(DataType, Vec<usize>, Vec<u8>), Value>,
    inputs: Message,
    outputs: Message,
    /// The weights that are already there, by official key.
    made: BTreeMap<String, Value>,
    stored: BTreeMap<String, Stored>,
    error: Option<OnnxError>,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(weights: &'a Weights, opset: Opset) -> Self {
        Self {
            opset,
            weights,
            scope: Vec::new(),
            names: HashMap::new(),
            nodes: Message::new(),
            n_nodes: 0,
            initializers: Vec::new(),
            constants: BTreeMap::new(),
            inputs: Message::new(),
            outputs: Message::new(),
            made: BTreeMap::new(),
            stored: BTreeMap::new(),
            error: None,
        }
    }

    /// # Errors
    ///
    /// When a weight is not finite in the type in which it is stored.
    pub(crate) fn finish(self, name: &'static str) -> Result<Finished, OnnxError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut inputs_and_outputs = self.inputs;
        inputs_and_outputs.append(&self.outputs);
        Ok(Finished {
            name,
            nodes: self.nodes,
            n_nodes: self.n_nodes,
            initializers: self.initializers,
            inputs_and_outputs,
            stored: self.stored,
        })
    }

    /// Builds a part of the network; its names and keys begin with `part`.
    pub(crate) fn within<T>(&mut self, part: impl Into<String>, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scope.push(part.into());
        let built = build(self);
        self.scope.pop();
        built
    }

    pub(crate) fn input(&mut self, name: &'static str, shape: &[Dimension]) -> Value {
        self.names.insert(name.to_owned(), 1);
        self.inputs.message(11, &value_info(name, DataType::F32, shape));
        Value(name.to_owned())
    }

    pub(crate) fn output(&mut self, value: &Value, name: &'static str, data_type: DataType, shape: &[Dimension]) {
        let named = Value(self.unique(name.to_owned()));
        assert_eq!(named.0, name, "an output has a name of its own");
        self.write_node("Identity", &[value], std::slice::from_ref(&named), &[]);
        self.outputs.message(12, &value_info(name, data_type, shape));
    }

    /// A node with one output.
    pub(crate) fn node(&mut self, op: &'static str, inputs: &[&Value], attributes: &[Attribute<'_>]) -> Value {
        let output = self.place(op);
        self.write_node(op, inputs, std::slice::from_ref(&output), attributes);
        output
    }

    /// A node with `N` outputs.
    pub(crate) fn nodes<const N: usize>(
        &mut self,
        op: &'static str,
        inputs: &[&Value],
        attributes: &[Attribute<'_>],
    ) -> [Value; N] {
        let outputs = [(); N].map(|()| self.place(op));
        self.write_node(op, inputs, &outputs, attributes);
        outputs
    }

    fn write_node(&mut self, op: &str, inputs: &[&Value], outputs: &[Value], attributes: &[Attribute<'_>]) {
        let mut node = Message::new();
        inputs.iter().for_each(|input| node.text(1, &input.0));
        outputs.iter().for_each(|output| node.text(2, &output.0));
        node.text(3, &outputs[0].0);
        node.text(4, op);
        attributes.iter().for_each(|attribute| node.message(5, &attribute_message(attribute)));
        self.nodes.message(1, &node);
        self.n_nodes += 1;
    }

    /// A constant of whole numbers, one-dimensional.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant("integers", DataType::I64, vec![values.len()], data)
    }

    /// A constant whole number without axes.
    pub(crate) fn integer(&mut self, value: i64) -> Value {
        self.constant("integer", DataType::I64, vec![], value.to_le_bytes().to_vec())
    }

    /// A constant number.
    pub(crate) fn number(&mut self, value: f32) -> Value {
        self.constant("number", DataType::F32, vec![], value.to_le_bytes().to_vec())
    }

    /// A constant of f32.
    ///
    /// # Shapes
    /// - `values`: `shape`
    pub(crate) fn floats(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) -> Value {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "as many values as {shape:?} has");
        self.constant(name, DataType::F32, shape, bytes_of(values))
    }

    fn constant(&mut self, name: &str, data_type: DataType, shape: Vec<usize>, data: Vec<u8>) -> Value {
        let key = (data_type, shape, data);
        if let Some(value) = self.constants.get(&key) {
            return value.clone();
        }
        let value = Value(self.unique(format!("constants/{name}")));
        let (data_type, shape, data) = key.clone();
        let data = Box::new(move || data.clone());
        self.initializers.push(Initializer { name: value.0.clone(), data_type, shape, data });
        self.constants.insert(key, value.clone());
        value
    }

    /// The official key of a tensor of the current part.
    fn key(&self, name: &str) -> String {
        self.scope.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    fn tensor(&self, key: &str) -> Rc<NamedTensor> {
        self.weights.tensors.get(key).unwrap_or_else(|| panic!("the network has no tensor `{key}`")).clone()
    }

    /// Whether the current part has this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.tensors.contains_key(&self.key(name))
    }

    /// The shape of a tensor of the current part, in a checkpoint.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(&self.key(name)).shape.clone()
    }

    /// The values of a small tensor of the current part, to be a part of a constant.
    pub(crate) fn values(&mut self, name: &str) -> Vec<f32> {
        let key = self.key(name);
        let values = self.tensor(&key).values();
        self.require_finite(&key, &values, &values);
        self.stored.insert(key, Stored::F32);
        values
    }

    /// A weight of the current part, in the type in which weights are stored, and converted to f32 by a node.
    pub(crate) fn weight(&mut self, name: &str, role: Role, arrangement: Arrangement) -> Value {
        let key = self.key(name);
        if let Some(value) = self.made.get(&key) {
            return value.clone();
        }
        let value = self.make_weight(&key, role, arrangement);
        self.made.insert(key, value.clone());
        value
    }

    fn make_weight(&mut self, key: &str, role: Role, arrangement: Arrangement) -> Value {
        let Arrangement { shape, channels, arrange } = arrangement;
        let tensor = self.tensor(key);
        let values = tensor.values();
        // By the size in the graph: tables of positions are small in a checkpoint and large in a graph.
        let stored = Stored::of(self.weights.kind, role, &shape);
        // Int8 follows from f32, which it is as finite as.
        match stored {
            Stored::F16 => self.require_finite(key, &stored.rounded(values.clone(), &tensor.shape), &values),
            Stored::F32 | Stored::Int8 { .. } => self.require_finite(key, &values, &values),
        }
        self.stored.insert(key.to_owned(), stored);
        let written = Value(self.unique(key.to_owned()));
        let ordered = move || arrange(tensor.values());
        match stored {
            Stored::F32 => {
                self.initialize(&written, DataType::F32, shape, Box::new(move || bytes_of(&ordered())));
                written
            }
            Stored::F16 => {
                let half = |value: f32| f16::from_f32(value).to_le_bytes();
                let data = Box::new(move || ordered().into_iter().flat_map(half).collect());
                self.initialize(&written, DataType::F16, shape, data);
                self.node("Cast", &[&written], &[Attribute::Int("to", DataType::F32 as i64)])
            }
            Stored::Int8 { .. } => {
                let scales = scales(&ordered(), &shape, channels);
                let scale = self.floats(&format!("{key}.scale"), vec![shape[channels]], &scales);
                let data = {
                    let shape = shape.clone();
                    move || steps(&ordered(), &shape, channels, &scales).into_iter().map(|step| step as u8).collect()
                };
                self.initialize(&written, DataType::I8, shape, Box::new(data));
                self.node("DequantizeLinear", &[&written, &scale], &[Attribute::Int("axis", channels as i64)])
            }
        }
    }

    fn initialize(&mut self, value: &Value, data_type: DataType, shape: Vec<usize>, data: Box<dyn Fn() -> Vec<u8>>) {
        self.initializers.push(Initializer { name: value.0.clone(), data_type, shape, data });
    }

    /// Remembers the first value that is not finite where it is stored.
    fn require_finite(&mut self, key: &str, stored: &[f32], values: &[f32]) {
        let lost = stored.iter().zip(values).find(|(stored, _)| !stored.is_finite());
        if let (Some((_, &value)), None) = (lost, &self.error) {
            let is_folded = key.ends_with(".c.weight") || key.ends_with(".bn.bias");
            let hint = match value.is_finite() {
                true => " in f16; store the weights as f32",
                false if is_folded => "; a batch norm is folded into it, whose weights and statistics count, too",
                false => "",
            };
            self.error = Some(OnnxError::NotFinite { key: key.to_owned(), value, hint });
        }
    }

    /// A name for a result at the current place.
    fn place(&mut self, op: &str) -> Value {
        let scope = self.scope.join(".");
        Value(self.unique(if scope.is_empty() { op.to_owned() } else { format!("{scope}/{op}") }))
    }

    fn unique(&mut self, name: String) -> String {
        let times = self.names.entry(name.clone()).or_insert(0);
        *times += 1;
        if *times == 1 { name } else { format!("{name}_{times}") }
    }
}

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A `ValueInfoProto`.
fn value_info(name: &str, data_type: DataType, shape: &[Dimension]) -> Message {
    let mut dimensions = Message::new();
    for dimension in shape {
        let mut message = Message::new();
        match *dimension {
            Dimension::Fixed(size) => message.int(1, size as i64),
            Dimension::Dynamic(name) => message.text(2, name),
        }
        dimensions.message(1, &message);
    }
    let mut tensor = Message::new();
    tensor.int(1, data_type as i64);
    tensor.message(2, &dimensions);
    let mut kind = Message::new();
    kind.message(1, &tensor);
    let mut info = Message::new();
    info.text(1, name);
    info.message(2, &kind);
    info
}

/// An `AttributeProto`; its type is mandatory.
fn attribute_message(attribute: &Attribute<'_>) -> Message {
    let mut message = Message::new();
    let kind = match *attribute {
        Attribute::Float(name, value) => {
            message.text(1, name);
            message.float(2, value);
            1
        }
        Attribute::Int(name, value) => {
            message.text(1, name);
            message.int(3, value);
            2
        }
        Attribute::Text(name, value) => {
            message.text(1, name);
            message.text(4, value);
            3
        }
        Attribute::Ints(name, values) => {
            message.text(1, name);
            message.ints(8, values);
            7
        }
    };
    message.int(20, kind);
    message
}
