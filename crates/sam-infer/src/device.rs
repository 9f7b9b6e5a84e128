//! Compute devices by name; burn's default device is never used.
//!
//! A program built with GPU features also runs on a machine without a GPU; a requested device that is missing is an error.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// A device name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU, through burn's Flex backend; in every build.
    #[default]
    Cpu,
    /// An NVIDIA GPU by index; in builds with the feature `cuda`.
    Cuda(usize),
    /// A GPU through Vulkan; in builds with the feature `vulkan`.
    Vulkan,
}

/// Why a device is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device name.
    #[error("device must be `cpu`, `cuda`, `cuda:N` or `vulkan`, got `{0}`")]
    Unknown(String),
    /// The build lacks the backend.
    #[error("device `{device}` is not in this build; build with `cargo build --release --features {feature}`")]
    NotBuilt {
        /// The requested device.
        device: DeviceName,
        /// The cargo feature that enables it.
        feature: &'static str,
    },
    /// The machine lacks the device.
    #[error("device `{device}` is not on this machine: {reason}; use `cpu`, or install the driver")]
    Absent {
        /// The requested device.
        device: DeviceName,
        /// The backend's reason.
        reason: String,
    },
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => write!(f, "cpu"),
            DeviceName::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceName::Vulkan => write!(f, "vulkan"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(name.to_owned());
        match name {
            "cpu" => Ok(DeviceName::Cpu),
            "cuda" => Ok(DeviceName::Cuda(0)),
            "vulkan" => Ok(DeviceName::Vulkan),
            _ => {
                let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(DeviceName::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl DeviceName {
    /// Opens the device and runs a small computation on it, so that a missing driver shows here and not mid-run.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            DeviceName::Cpu => Ok(Device::flex()),
            DeviceName::Cuda(index) => open_cuda(self, index),
            DeviceName::Vulkan => open_vulkan(self),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(name: DeviceName, index: usize) -> Result<Device, DeviceError> {
    probe(name, move || Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(device: DeviceName, _index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device, feature: "cuda" })
}

#[cfg(feature = "vulkan")]
fn open_vulkan(name: DeviceName) -> Result<Device, DeviceError> {
    probe(name, || Device::vulkan(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "vulkan"))]
fn open_vulkan(device: DeviceName) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device, feature: "vulkan" })
}

/// GPU backends panic when their driver is missing, so the probe runs on a thread of its own.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn probe(name: DeviceName, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device, DeviceError> {
    let probing = std::thread::Builder::new().name("device-probe".into()).spawn(move || {
        let device = open();
        let sum = burn::tensor::Tensor::<1>::ones([8], &device).sum().into_scalar::<f32>();
        (device, sum)
    });
    let absent = |reason: String| DeviceError::Absent { device: name, reason };
    match probing.map_err(|error| absent(error.to_string()))?.join() {
        Ok((device, sum)) if sum == 8.0 => Ok(device),
        Ok((_, sum)) => Err(absent(format!("the sum of eight ones came out as {sum}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(absent(text.unwrap_or_else(|| "its driver could not be started".into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "cuda:3", "vulkan"] {
            assert_eq!(name.parse::<DeviceName>().map(|device| device.to_string()).as_deref(), Ok(name));
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["gpu", "cuda:x", ""] {
            assert_eq!(name.parse::<DeviceName>(), Err(DeviceError::Unknown(name.into())));
        }
    }
}
