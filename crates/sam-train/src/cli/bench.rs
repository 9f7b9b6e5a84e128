//! The arguments of `sam-train bench`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Without --config it is a full training step of vit_b at 1024 px, from scratch, on one synthetic image with 8 objects; \
                  --set changes that, too. Nothing is written but the JSON.\n\nExamples:\n  sam-train bench --set model.variant=vit_l\n  \
                  sam-train bench --set 'optimiser.freeze=[\"image_encoder\"]'\n  sam-train bench --config finetune.toml --device cuda --json bench.json"
)]
pub(crate) struct BenchArguments {
    /// Measure the step of this training or pre-training
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the configuration; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where it computes: cpu, cuda, cuda:N, vulkan or wgpu
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Steps that are measured, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = super::number(1..=1000))]
    pub(crate) steps: usize,
    /// Also write the numbers here
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
