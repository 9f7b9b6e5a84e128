//! Ids of images, categories and annotations in COCO files: integers by the format, and text in some exports.
//!
//! Text that is an integer equals the integer, so that `"17"` and `17` are one image, whichever file writes which. The type
//! in which an id was written is kept, and written again.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An id in a COCO file. Compared by value: `17` and `"17"` are equal, `"017"` is another id.
#[derive(Clone, Debug)]
pub struct CocoId {
    value: Value,
    is_text: bool,
}

/// Integers before text, as in no file that both are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    /// Covers signed and unsigned integers of 64 bits.
    Integer(i128),
    Text(Arc<str>),
}

impl CocoId {
    /// Most ids are plain digits, and parsing them takes most of the time of opening a file.
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        match std::str::from_utf8(raw).ok()?.parse::<i64>() {
            Ok(number) => Some(number.into()),
            Err(_) => serde_json::from_slice(raw).ok(),
        }
    }

    /// The integer, if it is one and not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match &self.value {
            Value::Integer(integer) => u64::try_from(*integer).ok(),
            Value::Text(_) => None,
        }
    }

    /// Whether it was written as text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.is_text
    }
}

impl From<i64> for CocoId {
    fn from(integer: i64) -> Self {
        Self { value: Value::Integer(integer.into()), is_text: false }
    }
}

impl From<u64> for CocoId {
    fn from(integer: u64) -> Self {
        Self { value: Value::Integer(integer.into()), is_text: false }
    }
}

impl From<&str> for CocoId {
    fn from(text: &str) -> Self {
        // "007" is not 7: only text that an integer would be written as is one.
        let integer = text.parse::<i128>().ok().filter(|integer| integer.to_string() == text);
        Self { value: integer.map_or_else(|| Value::Text(text.into()), Value::Integer), is_text: true }
    }
}

impl PartialEq for CocoId {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for CocoId {}

impl Hash for CocoId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl PartialOrd for CocoId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CocoId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value.cmp(&other.value)
    }
}

impl std::fmt::Display for CocoId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Value::Integer(integer) => integer.fmt(f),
            Value::Text(text) => text.fmt(f),
        }
    }
}

impl Serialize for CocoId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Integer(integer) if !self.is_text => serializer.serialize_i128(*integer),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for CocoId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = CocoId;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an id, which is an integer or text")
            }

            fn visit_i64<E>(self, integer: i64) -> Result<CocoId, E> {
                Ok(integer.into())
            }

            fn visit_u64<E>(self, integer: u64) -> Result<CocoId, E> {
                Ok(integer.into())
            }

            /// pandas writes integers as 17.0.
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<CocoId, E> {
                /// Above it, not every integer is a float of its own.
                const EXACT: f64 = 9e15;
                match number.fract() == 0.0 && number.abs() < EXACT {
                    true => Ok((number as i64).into()),
                    false => Err(E::invalid_value(serde::de::Unexpected::Float(number), &self)),
                }
            }

            fn visit_str<E>(self, text: &str) -> Result<CocoId, E> {
                Ok(text.into())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The JSON types of the ids in one list.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdTypes {
    has_integers: bool,
    has_text: bool,
}

impl IdTypes {
    /// Notes the type of an id.
    pub fn note(&mut self, id: &CocoId) {
        self.has_text |= id.is_text;
        self.has_integers |= !id.is_text;
    }

    /// Whether an id is text in one list and an integer in the other.
    #[must_use]
    pub fn differ(self, other: Self) -> bool {
        self.has_text && other.has_integers || self.has_integers && other.has_text
    }
}

impl<'a> FromIterator<&'a CocoId> for IdTypes {
    fn from_iter<I: IntoIterator<Item = &'a CocoId>>(ids: I) -> Self {
        let mut types = Self::default();
        ids.into_iter().for_each(|id| types.note(id));
        types
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_by_value_and_written_as_they_were() {
        let id = |json: &str| serde_json::from_str::<CocoId>(json).expect(json);
        assert_eq!(id("17"), id("\"17\""));
        assert_eq!(id("17"), id("17.0"));
        assert_ne!(id("\"017\""), id("17"));
        assert_ne!(id("18446744073709551615"), id("-1"));
        for json in ["17", "\"17\"", "\"017\"", "-1", "18446744073709551615", "\"frame-1\""] {
            assert_eq!(serde_json::to_string(&id(json)).expect("written"), json);
            assert_eq!(CocoId::parse(json.as_bytes()), Some(id(json)));
        }
        for json in ["1.5", "true", "null", "[1]", "1e300"] {
            assert!(serde_json::from_str::<CocoId>(json).is_err(), "{json}");
        }
    }
}
