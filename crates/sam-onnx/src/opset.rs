//! The version of the operators that a graph is made of.

use crate::error::OnnxError;

/// A version of ONNX's operators that the graphs can be written in.
///
/// 17 is the default: the first with `LayerNormalization`, which ONNX Runtime knows since 1.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opset(i64);

impl Default for Opset {
    fn default() -> Self {
        Self(17)
    }
}

impl Opset {
    /// The oldest: `Squeeze` and `Split` take their axes as inputs, `DequantizeLinear` has an axis.
    pub const OLDEST: i64 = 13;
    /// The newest whose changes are known.
    pub const NEWEST: i64 = 21;

    /// # Errors
    ///
    /// When the version is not one of 13 to 21.
    pub fn new(version: i64) -> Result<Self, OnnxError> {
        if (Self::OLDEST..=Self::NEWEST).contains(&version) {
            return Ok(Self(version));
        }
        let what = format!("opset must be {} to {}, got {version}", Self::OLDEST, Self::NEWEST);
        Err(OnnxError::Unsupported(what))
    }

    /// The number.
    pub fn version(self) -> i64 {
        self.0
    }

    /// The version of the file format that the release of ONNX with this opset writes (`docs/Versioning.md` of ONNX).
    pub(crate) fn ir_version(self) -> i64 {
        match self.0 {
            ..=14 => 7,
            15..=18 => 8,
            19..=20 => 9,
            _ => 10,
        }
    }

    pub(crate) fn has_layer_normalization(self) -> bool {
        self.0 >= 17
    }

    pub(crate) fn has_gelu(self) -> bool {
        self.0 >= 20
    }

    /// Whether `ReduceMax` takes its axes as an input instead of an attribute.
    pub(crate) fn reduces_by_input(self) -> bool {
        self.0 >= 18
    }
}
