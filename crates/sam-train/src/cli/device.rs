//! Where a command that predicts computes, and how exactly.

use std::io::Write;

use burn::tensor::Device;
use clap::Args;
use sam_infer::{DeviceError, DeviceName, Precision};

use crate::output::notes;
use crate::team::device_of_process;

#[derive(Debug, Args)]
pub(crate) struct DeviceArguments {
    /// Where to compute: cpu, cuda, cuda:N, vulkan or wgpu
    #[arg(long = "device", value_name = "DEVICE", default_value = "cpu", value_parser = known_device)]
    pub(crate) name: String,
    /// What matrix products multiply: f32, bf16 (8 bits; results differ by about 1 %), auto (bf16 where it is faster), or int8 (f32, but
    /// for the linear layers of a ViT image encoder, on a CPU)
    #[arg(long, value_name = "NUMBERS", default_value = "f32")]
    pub(crate) precision: Precision,
}

impl DeviceArguments {
    /// Opens the device and sets the precision of the process.
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        open_for_inference(self.name.parse()?, self.precision)
    }

    /// As [`DeviceArguments::open`], for one of several processes that work together: `cuda` is its own GPU of its machine.
    pub(crate) fn open_own(&self) -> anyhow::Result<Device> {
        open_for_inference(device_of_process(&self.name).parse()?, self.precision)
    }
}

/// A name of a device as it is typed.
fn known_device(name: &str) -> Result<String, DeviceError> {
    name.parse::<DeviceName>().map(|_| name.to_owned())
}

/// Opens a device and sets the precision of the process, which only predicts; says what was chosen.
pub(crate) fn open_for_inference(name: DeviceName, precision: Precision) -> anyhow::Result<Device> {
    let device = name.open()?;
    let in_use = precision.use_for_inference(name, &device)?;
    if let Some(note) = in_use.note {
        writeln!(notes(), "{note}")?;
    }
    Ok(device)
}
