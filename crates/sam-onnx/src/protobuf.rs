//! The wire format of protocol buffers, as far as the nine messages of ONNX need it.
//!
//! By hand, because the weights are streamed into the file: with a library a whole model of some gigabytes would exist twice
//! in memory. Field numbers are those of `onnx.proto` (IR 3 and later).

/// The kind of a field on the wire.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Length = 2,
    Fixed32 = 5,
}

/// An encoded message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// A field of type `int32`, `int64` or an enum.
    pub(crate) fn int(&mut self, field: u32, value: i64) {
        self.key(field, Wire::Varint);
        // Negative numbers are encoded as their two's complement in 64 bits.
        self.varint(value as u64);
    }

    /// A repeated field of integers, one entry each, as ONNX's own schema has them.
    pub(crate) fn ints(&mut self, field: u32, values: &[i64]) {
        values.iter().for_each(|&value| self.int(field, value));
    }

    pub(crate) fn float(&mut self, field: u32, value: f32) {
        self.key(field, Wire::Fixed32);
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, field: u32, text: &str) {
        self.data(field, text.as_bytes());
    }

    pub(crate) fn message(&mut self, field: u32, message: &Message) {
        self.data(field, &message.0);
    }

    pub(crate) fn data(&mut self, field: u32, data: &[u8]) {
        self.begin(field, data.len() as u64);
        self.0.extend(data);
    }

    /// The beginning of a field whose `length` bytes follow.
    pub(crate) fn begin(&mut self, field: u32, length: u64) {
        self.key(field, Wire::Length);
        self.varint(length);
    }

    /// Appends the fields of another message.
    pub(crate) fn append(&mut self, other: &Message) {
        self.0.extend(&other.0);
    }

    fn key(&mut self, field: u32, wire: Wire) {
        self.varint(u64::from(field) << 3 | wire as u64);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the encoding's documentation (protobuf.dev/programming-guides/encoding).
    #[test]
    fn equals_the_documented_examples() {
        let mut message = Message::new();
        message.int(1, 150);
        assert_eq!(message.bytes(), [0x08, 0x96, 0x01]);
        let mut message = Message::new();
        message.text(2, "testing");
        assert_eq!(message.bytes(), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        let mut inner = Message::new();
        inner.int(1, 150);
        let mut message = Message::new();
        message.message(3, &inner);
        assert_eq!(message.bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn negative_numbers_have_ten_bytes_and_floats_four() {
        let mut message = Message::new();
        message.int(3, -1);
        assert_eq!(message.bytes(), [&[0x18][..], &[0xff; 9], &[0x01]].concat());
        let mut message = Message::new();
        message.float(2, 1.5);
        assert_eq!(message.bytes(), [&[0x15][..], &1.5f32.to_le_bytes()].concat());
    }
}
