//! What matrix products multiply: f32, or bf16 where the device has it; in the image encoder, for inference, 8 bits where the CPU has it.
//!
//! A setting of the process ([`sam_model::set_bf16_products`], [`sam_model::set_int8_encoder`]), as the precision of products is in
//! PyTorch.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, FloatDType};
use sam_model::{bf16_products, bf16_speedup, has_int8_products, int8_encoder, set_bf16_products, set_int8_encoder};
use serde::{Deserialize, Serialize};

use crate::device::{DeviceError, DeviceName};

/// How much faster bf16 must be before `auto` gives up exactness for it.
const WORTHWHILE_SPEEDUP: f64 = 1.15;

/// The factors of matrix products; sums, softmax, norms, positions and weights are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits: the numbers of the official package.
    #[default]
    F32,
    /// 8 bits of f32's range.
    Bf16,
    /// The linear layers of a ViT image encoder in 8 bits, of inputs by row and of weights by column, everything else in f32; for
    /// inference, on a CPU.
    Int8,
    /// For inference, bf16 where it is faster; for training, f32.
    Auto,
}

impl Precision {
    /// All with their names.
    pub const NAMES: [(&'static str, Precision); 4] =
        [("f32", Precision::F32), ("bf16", Precision::Bf16), ("int8", Precision::Int8), ("auto", Precision::Auto)];
    /// Those that training knows.
    pub const OF_TRAINING: [(&'static str, Precision); 3] =
        [("f32", Precision::F32), ("bf16", Precision::Bf16), ("auto", Precision::Auto)];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Precision::NAMES.iter().find(|(_, precision)| precision == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Precision::NAMES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, precision)| *precision)
            .ok_or_else(|| "precision must be `f32`, `bf16`, `int8` or `auto`".to_owned())
    }
}

/// What a process computes in from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecisionInUse {
    /// What was chosen: not `auto`.
    pub precision: Precision,
    /// What is worth saying: another precision than asked for, or the reason of the choice.
    pub note: Option<String>,
}

impl PrecisionInUse {
    fn f32(note: Option<String>) -> Self {
        Self { precision: Precision::F32, note }
    }

    fn int8(is_there: bool) -> Self {
        if is_there {
            return Self { precision: Precision::Int8, note: None };
        }
        Self::f32(Some("precision: f32, as this processor has no int8 products (AVX-512 VNNI)".to_owned()))
    }
}

impl Precision {
    /// What this process computes in.
    #[must_use]
    pub fn in_use() -> Self {
        match (int8_encoder(), bf16_products()) {
            (true, _) => Self::Int8,
            (false, true) => Self::Bf16,
            (false, false) => Self::F32,
        }
    }

    /// Sets the precision of this process, which predicts on `device`. To be called before anything is computed.
    ///
    /// # Errors
    ///
    /// When bf16 is asked of a GPU that does not know it, or int8 of any. A CPU that does not know it goes on in f32, with a note.
    pub fn use_for_inference(self, name: DeviceName, device: &Device) -> Result<PrecisionInUse, DeviceError> {
        self.use_on(name, device, true)
    }

    /// As [`Precision::use_for_inference`], for a process that trains: `auto` is f32.
    ///
    /// # Errors
    ///
    /// As for inference, and when int8 is asked.
    pub fn use_for_training(self, name: DeviceName, device: &Device) -> Result<PrecisionInUse, DeviceError> {
        self.use_on(name, device, false)
    }

    fn use_on(self, name: DeviceName, device: &Device, is_inference: bool) -> Result<PrecisionInUse, DeviceError> {
        let in_use = match (self, name) {
            (Precision::F32, _) => PrecisionInUse::f32(None),
            (Precision::Auto, _) if !is_inference => PrecisionInUse::f32(None),
            (Precision::Int8, _) if !is_inference => return Err(DeviceError::NoTrainingInInt8),
            (Precision::Int8, DeviceName::Cpu) => PrecisionInUse::int8(has_int8_products()),
            (Precision::Int8, _) => return Err(DeviceError::NoInt8 { device: name }),
            (_, DeviceName::Cpu) => self.on_cpu(bf16_speedup()),
            (Precision::Bf16 | Precision::Auto, _) => match (device.supports_dtype(FloatDType::BF16), self) {
                (true, _) => PrecisionInUse { precision: Precision::Bf16, note: None },
                (false, Precision::Auto) => {
                    PrecisionInUse::f32(Some(format!("precision: f32 (device `{name}` has no bf16)")))
                }
                (false, _) => return Err(DeviceError::NoBf16 { device: name }),
            },
        };
        set_bf16_products(in_use.precision == Precision::Bf16);
        set_int8_encoder(in_use.precision == Precision::Int8);
        Ok(in_use)
    }

    /// `speedup`: of bf16 products over those of f32 on this processor, if it has any.
    fn on_cpu(self, speedup: Option<f64>) -> PrecisionInUse {
        match (self, speedup) {
            (Precision::F32 | Precision::Int8, _) => PrecisionInUse::f32(None),
            (Precision::Bf16, None) => PrecisionInUse::f32(Some(
                "precision: f32, as this processor has no bf16 products (AVX-512 BF16)".to_owned(),
            )),
            (Precision::Auto, None) => PrecisionInUse::f32(None),
            (Precision::Bf16, Some(speedup)) => {
                let is_slow = speedup < 1.0;
                let note =
                    format!("precision: bf16, though its products run at {speedup:.1} times the speed of f32 here");
                PrecisionInUse { precision: Precision::Bf16, note: is_slow.then_some(note) }
            }
            (Precision::Auto, Some(speedup)) if speedup < WORTHWHILE_SPEEDUP => PrecisionInUse::f32(Some(format!(
                "precision: f32 (products of bf16 run at {speedup:.1} times its speed here)"
            ))),
            (Precision::Auto, Some(speedup)) => PrecisionInUse {
                precision: Precision::Bf16,
                note: Some(format!("precision: bf16 (its products run at {speedup:.1} times the speed of f32 here)")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, precision) in Precision::NAMES {
            assert_eq!((name.parse(), precision.to_string().as_str()), (Ok(precision), name));
        }
        assert!("fp16".parse::<Precision>().is_err());
    }

    #[test]
    fn auto_takes_bf16_where_it_is_faster_and_bf16_says_where_it_is_not() {
        let chosen = |precision: Precision, speedup| {
            let in_use = precision.on_cpu(speedup);
            (in_use.precision == Precision::Bf16, in_use.note.is_some())
        };
        assert_eq!(chosen(Precision::F32, Some(2.0)), (false, false));
        assert_eq!(chosen(Precision::Auto, None), (false, false));
        assert_eq!(chosen(Precision::Auto, Some(0.5)), (false, true));
        assert_eq!(chosen(Precision::Auto, Some(1.9)), (true, true));
        assert_eq!(chosen(Precision::Bf16, None), (false, true));
        assert_eq!(chosen(Precision::Bf16, Some(0.5)), (true, true));
        assert_eq!(chosen(Precision::Bf16, Some(1.9)), (true, false));
    }

    #[test]
    fn int8_is_never_chosen_its_absence_is_said_and_nothing_trains_in_it() {
        assert_eq!(PrecisionInUse::int8(true), PrecisionInUse { precision: Precision::Int8, note: None });
        let absent = PrecisionInUse::int8(false);
        assert!(absent.precision == Precision::F32 && absent.note.is_some());
        assert_ne!(Precision::Auto.on_cpu(None).precision, Precision::Int8);
        let refused =
            Precision::Int8.use_for_training(DeviceName::Cpu, &Device::flex()).expect_err("it is for inference");
        assert!(refused.to_string().contains("int8 is for inference"), "{refused}");
        assert_ne!(Precision::in_use(), Precision::Int8);
    }
}
