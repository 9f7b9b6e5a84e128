//! Compute devices by name; burn's default device is never used.
//!
//! A program built with GPU features also runs on a machine without a GPU; a requested device that is missing is an error.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use sam_model::device_check::DeviceFault;

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
    /// A GPU through any graphics interface (Vulkan, Metal, DirectX), with portable shaders; in builds with the feature
    /// `wgpu`.
    Wgpu,
}

/// Why a device is not available.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device name.
    #[error("device must be `cpu`, `cuda`, `cuda:N`, `vulkan` or `wgpu`, got `{0}`")]
    Unknown(String),
    /// The build lacks the backend.
    #[error("device `{device}` is not in this build; build with `cargo build --release --features {feature}`")]
    NotBuilt {
        /// The requested device.
        device: DeviceName,
        /// The cargo features that enable it, with commas.
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
    /// The device does not know bf16.
    #[error("device `{device}` does not compute in bf16; set the precision to `f32` or `auto`, or use another device")]
    NoBf16 {
        /// The requested device.
        device: DeviceName,
    },
    /// Only CPUs encode in 8 bits.
    #[error(
        "device `{device}` does not compute in int8; set the precision to `f32`, `bf16` or `auto`, or the device to `cpu`"
    )]
    NoInt8 {
        /// The requested device.
        device: DeviceName,
    },
    /// Gradients need more than 8 bits.
    #[error("int8 is for inference; to train, set the precision to `f32`, `bf16` or `auto`")]
    NoTrainingInInt8,
    /// The self-test failed: results on the device would be wrong.
    #[error("device `{device}` is not usable: {fault}; use `cpu`, or another driver")]
    Wrong {
        /// The requested device.
        device: DeviceName,
        /// The first difference.
        fault: DeviceFault,
    },
}

/// Whether a device is the CPU.
pub(crate) fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => write!(f, "cpu"),
            DeviceName::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceName::Vulkan => write!(f, "vulkan"),
            DeviceName::Wgpu => write!(f, "wgpu"),
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
            "wgpu" => Ok(DeviceName::Wgpu),
            _ => {
                let index = name.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(DeviceName::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl DeviceName {
    /// Opens the device. Any device other than the CPU is tested first: a small network must give the CPU's results there
    /// ([`sam_model::device_check`]).
    ///
    /// # Errors
    ///
    /// When the build lacks the backend, the machine lacks the device, or the device computes wrong results.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            DeviceName::Cpu => Ok(Device::flex()),
            DeviceName::Cuda(index) => open_cuda(self, index),
            DeviceName::Vulkan => open_vulkan(self),
            DeviceName::Wgpu => open_wgpu(self),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(name: DeviceName, index: usize) -> Result<Device, DeviceError> {
    tested(name, move || Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(device: DeviceName, _index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device, feature: "cuda" })
}

#[cfg(feature = "vulkan")]
fn open_vulkan(name: DeviceName) -> Result<Device, DeviceError> {
    tested(name, || Device::vulkan(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "vulkan"))]
fn open_vulkan(device: DeviceName) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device, feature: "vulkan" })
}

#[cfg(feature = "wgpu")]
fn open_wgpu(name: DeviceName) -> Result<Device, DeviceError> {
    tested(name, || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(device: DeviceName) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { device, feature: "wgpu,autotune" })
}

#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
fn tested(device: DeviceName, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device, DeviceError> {
    crate::kernel_cache::keep_kernels();
    sam_model::device_check::check_forward(open).map_err(|fault| match fault {
        DeviceFault::Panicked(reason) => DeviceError::Absent { device, reason },
        fault @ DeviceFault::Wrong { .. } => DeviceError::Wrong { device, fault },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["cpu", "cuda:3", "vulkan", "wgpu"] {
            assert_eq!(name.parse::<DeviceName>().map(|device| device.to_string()).as_deref(), Ok(name));
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["gpu", "cuda:x", ""] {
            assert_eq!(name.parse::<DeviceName>(), Err(DeviceError::Unknown(name.into())));
        }
    }
}
