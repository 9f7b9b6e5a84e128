//! `sam-train bench`: what a step of a training or pre-training takes on this machine, phase by phase, beside what its matrix products
//! could do.

mod peak;
mod work;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use burn::tensor::{Device, FloatDType};
use sam_learn::{Phase, Profile, ProfiledStep};
use sam_model::{bf16_products, bf16_speedup};
use serde::Serialize;

use crate::build;
use crate::cli::BenchArguments;
use crate::config::{Document, Paths, Plan};
use crate::failure::{BadInput, Failure};
use crate::machine::Machine;
use crate::output::output;
use crate::train;

pub(crate) use work::Work;

/// A full step of `vit_b`.
const DEFAULT: &str = r#"
task = "train"
[run]
dir = "bench"
[model]
init = "scratch"
variant = "vit_b"
image_size = 1024
[data]
images_per_step = 1
objects_per_step = 8
min_object_px = 1
validation = "none"
[data.synth]
seed = 1
n_scenes = 64
side_px_min = 256
side_px_max = 256
n_shapes_min = 10
n_shapes_max = 12
[prompts]
preset = "sam"
[schedule]
steps = 1000
[log]
previews = 0
"#;

/// What is measured, with what it is measured on.
pub(crate) struct Benched {
    /// What the step is of.
    pub(crate) what: String,
    pub(crate) device: Device,
    pub(crate) device_name: String,
    pub(crate) profile: Profile,
    pub(crate) work: Work,
    /// Shards of a batch that are computed side by side.
    pub(crate) shards: usize,
}

/// The numbers, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    machine: Machine,
    device: String,
    step_of: String,
    parameters: usize,
    learned_parameters: usize,
    /// Medians over the steps.
    step_s: f64,
    step_s_min: f64,
    step_s_max: f64,
    steps: usize,
    images: f64,
    objects: f64,
    images_per_s: f64,
    /// Of the process, physical.
    peak_memory_mib: f64,
    /// Of a device that reports it, during one step: all live tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_in_use_mib: Option<f64>,
    /// And what it has given to this process, with what freed tensors left for the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_reserved_mib: Option<f64>,
    /// Matrix products of 2048 x 2048.
    matmul_gflops: f64,
    /// What they multiply.
    matmul_of: &'static str,
    /// With one thread, on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    matmul_gflops_one_thread: Option<f64>,
    /// Rate of products of bf16 by that of f32, on a CPU that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    bf16_speedup: Option<f64>,
    /// What the products of the step multiply.
    precision: &'static str,
    phases: Vec<PhaseReport>,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    phase: &'static str,
    /// Median.
    seconds: f64,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflop: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    /// Of `matmul_gflops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_peak: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let mut sets = arguments.set.clone();
    sets.extend(arguments.device.iter().map(|device| format!("run.device=\"{device}\"")));
    let document = match &arguments.config {
        Some(config) => Document::load(config, &sets).bad_input()?,
        None => Document::parse("the built-in configuration", PathBuf::new(), DEFAULT, &sets).bad_input()?,
    };
    let plan = Plan::read(&document, Paths::MustExist).bad_input()?;
    let benched = match &plan {
        Plan::Train(plan) => train::profile(plan, arguments.steps)?,
        Plan::Pretrain(plan) => train::pretrain::profile(plan, arguments.steps)?,
        Plan::Evaluate(_) | Plan::Probe(_) => {
            return Err(anyhow!("bench measures the steps of a training or pre-training; this configuration has none"))
                .bad_input();
        }
    };
    let report = report(&benched)?;
    print(&report)?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        sam_files::write_atomically(path, text.as_bytes()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn report(benched: &Benched) -> Result<Report, Failure> {
    let Benched { what, device, device_name, profile, work, shards } = benched;
    let Profile { parts, steps, peak_bytes, device_memory } = profile;
    let inner = device.clone().inner();
    let is_cpu = device_name == "cpu";
    // On the CPU, kernels of our own multiply bf16, beside which burn's products are those of f32.
    let (dtype, products) =
        if bf16_products() && !is_cpu { (FloatDType::BF16, "bf16") } else { (FloatDType::F32, "f32") };
    let matmul_gflops = peak::matmul_flops(&inner, dtype)? / 1e9;
    let matmul_gflops_one_thread = if is_cpu {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().context("a thread")?;
        Some(one.install(|| peak::matmul_flops(&inner, dtype))? / 1e9)
    } else {
        None
    };
    let step_s = median(steps.iter().map(|step| step.seconds));
    let seconds_of = |phase: Phase| {
        // Shards take their time side by side.
        let side_by_side = match phase {
            Phase::Data | Phase::Clip | Phase::Optimiser | Phase::Average => 1.0,
            _ => *shards as f64,
        };
        median(steps.iter().map(|step| step.phases[phase as usize] / side_by_side))
    };
    let mut phases: Vec<PhaseReport> = Phase::ALL
        .into_iter()
        .map(|phase| {
            let seconds = seconds_of(phase);
            let gflop = steps.iter().map(|step| work.of(phase, step)).collect::<Option<Vec<f64>>>();
            let gflop = gflop.map(|flop| median(flop.into_iter()) / 1e9).filter(|&gflop| gflop > 0.0 && seconds > 0.0);
            let gflops = gflop.map(|gflop| gflop / seconds);
            let share_of_peak = gflops.map(|gflops| gflops / matmul_gflops);
            PhaseReport { phase: phase.name(), seconds, share: seconds / step_s, gflop, gflops, share_of_peak }
        })
        .collect();
    let rest = (step_s - phases.iter().map(|phase| phase.seconds).sum::<f64>()).max(0.0);
    let other = PhaseReport {
        phase: "other",
        seconds: rest,
        share: rest / step_s,
        gflop: None,
        gflops: None,
        share_of_peak: None,
    };
    phases.push(other);
    let mean = |count: fn(&ProfiledStep) -> usize| {
        steps.iter().map(|step| count(step) as f64).sum::<f64>() / steps.len().max(1) as f64
    };
    let images = mean(|step| step.n_images);
    Ok(Report {
        version: build::VERSION,
        machine: Machine::look(),
        device: device_name.clone(),
        step_of: what.clone(),
        parameters: parts.iter().map(|part| part.all).sum(),
        learned_parameters: parts.iter().map(|part| part.learned).sum(),
        step_s,
        step_s_min: steps.iter().map(|step| step.seconds).fold(f64::INFINITY, f64::min),
        step_s_max: steps.iter().map(|step| step.seconds).fold(0.0, f64::max),
        steps: steps.len(),
        images,
        objects: mean(|step| step.n_objects),
        images_per_s: images / step_s,
        peak_memory_mib: mib(*peak_bytes),
        device_in_use_mib: device_memory.map(|memory| mib(memory.in_use)),
        device_reserved_mib: device_memory.map(|memory| mib(memory.reserved)),
        matmul_gflops,
        matmul_of: products,
        matmul_gflops_one_thread,
        bf16_speedup: if is_cpu { bf16_speedup() } else { None },
        precision: if bf16_products() { "bf16" } else { "f32" },
        phases,
    })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print(report: &Report) -> std::io::Result<()> {
    let mut out = output();
    let Report { machine, device, step_of, step_s, step_s_min, step_s_max, steps, images, objects, .. } = report;
    writeln!(out, "machine: {}, {} threads, {}", machine.processor, machine.threads, machine.simd)?;
    let one = report.matmul_gflops_one_thread.map_or(String::new(), |one| format!(" ({one:.0} with one thread)"));
    let bf16 = report.bf16_speedup.map_or(String::new(), |speedup| format!(", of bf16 {speedup:.2} times that"));
    writeln!(
        out,
        "device: {device}; matrix products of {}: {:.0} GFLOP/s{one}{bf16}",
        report.matmul_of, report.matmul_gflops
    )?;
    let precision = report.precision;
    writeln!(out, "step of: {step_of}; {images:.1} images, {objects:.1} objects, products of {precision}")?;
    let learned = report.learned_parameters as f64 / 1e6;
    writeln!(out, "parameters: {:.1} M, of which {learned:.1} M learn", report.parameters as f64 / 1e6)?;
    let of_process = if report.device_in_use_mib.is_some() { " of this process" } else { "" };
    writeln!(
        out,
        "step: {step_s:.3} s (median of {steps}, {step_s_min:.3} to {step_s_max:.3}), {:.3} images/s, {:.0} MiB at most{of_process}",
        report.images_per_s, report.peak_memory_mib
    )?;
    if let (Some(in_use), Some(reserved)) = (report.device_in_use_mib, report.device_reserved_mib) {
        writeln!(out, "memory on {device}: {in_use:.0} MiB of tensors at most, {reserved:.0} MiB reserved")?;
    }
    writeln!(out)?;
    writeln!(out, "{:<18}{:>10}{:>8}{:>11}{:>11}{:>9}", "phase", "seconds", "share", "GFLOP", "GFLOP/s", "of peak")?;
    for phase in report.phases.iter().filter(|phase| phase.seconds > 0.0) {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let share = phase.share_of_peak.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        writeln!(
            out,
            "{:<18}{:>10.4}{:>6.1} %{:>11}{:>11}{share:>9}",
            phase.phase,
            phase.seconds,
            100.0 * phase.share,
            number(phase.gflop),
            number(phase.gflops),
        )?;
    }
    Ok(())
}
