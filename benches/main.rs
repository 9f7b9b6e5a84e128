//! The project's one bench binary, on the real model: `cargo bench --bench main [-- FILTER]`.
//!
//! Each measurement runs in a process of its own, so that its peak memory is its own; the median of several runs is
//! printed. `benches/pytorch.py` measures the official package the same way, by hand.

mod automatic; // the masks of everything in a photograph
mod loader; // samples from disk to batches
mod training; // whole steps

use std::process::Command;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use sam_learn::options::Activations;
use sam_model::init::{initialise, initialise_mae};
use sam_model::{
    EncodedImages, MaeConfig, MaeTarget, MaskOutput, MaskedAutoencoder, ObjectPrompt, Prompts, RandomMasking, Sam,
    SamConfig, Variant, set_int8_encoder,
};

/// As in the program, which keeps freed memory; here the environment of the child processes sets it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Set in the child process: the name of the measurement.
const CHILD: &str = "SAM_TRAIN_BENCH";

struct Bench {
    name: &'static str,
    runs: usize,
    run: fn(usize) -> Vec<f64>,
}

const BENCHES: [Bench; 27] = [
    Bench { name: "loader", runs: 5, run: loader::loader },
    Bench { name: "loader_full_masks", runs: 5, run: loader::loader_full_masks },
    Bench { name: "vit_b/initialise", runs: 1, run: initialised },
    Bench { name: "vit_b/encoder", runs: 3, run: encoder },
    Bench { name: "vit_b/encoder_int8", runs: 3, run: encoder_int8 },
    Bench { name: "vit_b/block_global", runs: 5, run: |runs| block(0, false, runs) },
    Bench { name: "vit_b/block_global_back", runs: 3, run: |runs| block(0, true, runs) },
    Bench { name: "vit_b/block_window", runs: 5, run: |runs| block(14, false, runs) },
    Bench { name: "vit_b/block_window_back", runs: 3, run: |runs| block(14, true, runs) },
    Bench { name: "mobile/encoder", runs: 7, run: |runs| mobile_encoder(false, runs) },
    Bench { name: "mobile/encoder_back", runs: 3, run: |runs| mobile_encoder(true, runs) },
    Bench {
        name: "mobile/train_step",
        runs: 3,
        run: |runs| training::whole_step(Variant::Mobile, runs, Activations::Keep),
    },
    Bench { name: "mobile/automatic_16", runs: 1, run: |runs| automatic::network(Variant::Mobile, 16, runs) },
    Bench { name: "mae_vit_b/encoder_whole", runs: 3, run: |runs| mae_encoder(Seen::Whole, runs) },
    Bench { name: "mae_vit_b/encoder_visible", runs: 5, run: |runs| mae_encoder(Seen::Quarter, runs) },
    Bench { name: "mae_vit_b/train_step", runs: 3, run: mae_step },
    Bench { name: "vit_b/decode_1", runs: 9, run: |runs| decode(1, runs) },
    Bench { name: "vit_b/decode_64", runs: 5, run: |runs| decode(64, runs) },
    Bench { name: "training/decoder", runs: 1, run: training::decoder_step },
    Bench { name: "training/whole", runs: 2, run: |runs| training::whole_step(Variant::VitB, runs, Activations::Keep) },
    Bench {
        name: "training/whole_recomputed",
        runs: 2,
        run: |runs| training::whole_step(Variant::VitB, runs, Activations::Recompute),
    },
    Bench { name: "training/small", runs: 9, run: training::small_step },
    Bench { name: "automatic/network", runs: 1, run: |runs| automatic::network(Variant::VitB, 32, runs) },
    Bench { name: "automatic/network_16", runs: 1, run: |runs| automatic::network(Variant::VitB, 16, runs) },
    Bench { name: "automatic/after_network", runs: 5, run: automatic::after_network },
    Bench { name: "automatic/whole", runs: 1, run: automatic::whole },
    Bench { name: "automatic/thresholds", runs: 5, run: automatic::thresholds },
];

fn main() {
    if let Ok(name) = std::env::var(CHILD) {
        let bench = BENCHES.iter().find(|bench| bench.name == name).expect("a bench of this binary");
        report(bench.name, (bench.run)(bench.runs));
        return;
    }
    // Cargo passes `--bench`; everything else filters by name.
    let filter: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let this = std::env::current_exe().expect("the path of this binary");
    for bench in BENCHES.iter().filter(|bench| filter.iter().all(|part| bench.name.contains(part.as_str()))) {
        let status = Command::new(&this)
            .env("MIMALLOC_PURGE_DELAY", "60000")
            .env(CHILD, bench.name)
            .status()
            .expect("a child process");
        assert!(status.success(), "{} failed", bench.name);
    }
}

fn report(name: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let spread = format!("{:.3} to {:.3}", seconds[0], seconds[seconds.len() - 1]);
    let line = format!("{name:26} median {median:8.3} s  ({spread} s, {} runs)  {}", seconds.len(), peak_memory());
    std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes()).expect("standard output");
}

/// Peak resident memory of this process, where the system reports it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or_else(|| "peak memory unknown".into(), |kib| format!("peak {:.0} MiB", kib / 1024.0))
}

fn time(runs: usize, mut run: impl FnMut()) -> Vec<f64> {
    run(); // warm caches and thread pool
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect()
}

fn vit_b() -> Sam {
    let config = SamConfig::published(Variant::VitB);
    initialise(config.init(&Device::flex()).expect("published sizes fit"), 0)
}

fn initialised(runs: usize) -> Vec<f64> {
    time(runs, || drop(vit_b()))
}

fn encoder_int8(runs: usize) -> Vec<f64> {
    set_int8_encoder(true);
    encoder(runs)
}

fn encoder(runs: usize) -> Vec<f64> {
    let sam = vit_b();
    let image = Tensor::<4>::random([1, 3, 1024, 1024], Distribution::Normal(0.0, 1.0), &Device::flex());
    time(runs, || drop(sam.encode(image.clone()).into_data()))
}

/// TinyViT-5M over an image of 1024 px; optionally with gradients of all parameters.
fn mobile_encoder(with_gradients: bool, runs: usize) -> Vec<f64> {
    let device = if with_gradients { Device::flex().autodiff() } else { Device::flex() };
    let sam = initialise(SamConfig::published(Variant::Mobile).init(&device).expect("published sizes fit"), 0);
    let image = Tensor::<4>::random([1, 3, 1024, 1024], Distribution::Normal(0.0, 1.0), &device);
    time(runs, || {
        let embedding = sam.encode(image.clone());
        if with_gradients {
            let grads = embedding.sum().backward();
            drop(burn::optim::GradientsParams::from_grads(grads, &sam));
        } else {
            drop(embedding.into_data());
        }
    })
}

/// One block of the encoder over 64 x 64 tokens, whole or in windows; optionally with gradients of all parameters.
fn block(window: usize, with_gradients: bool, runs: usize) -> Vec<f64> {
    let device = if with_gradients { Device::flex().autodiff() } else { Device::flex() };
    let sam = initialise(SamConfig::published(Variant::VitB).init(&device).expect("published sizes fit"), 0);
    let index = if window == 0 { 2 } else { 0 };
    let block = &sam.image_encoder.vit().expect("a plain ViT").blocks[index];
    let x = Tensor::<4>::random([1, 64, 64, 768], Distribution::Normal(0.0, 1.0), &device);
    let x = if with_gradients { x.require_grad() } else { x };
    time(runs, || {
        let y = block.forward(x.clone());
        if with_gradients {
            let grads = y.sum().backward();
            drop((x.grad(&grads), burn::optim::GradientsParams::from_grads(grads, block)));
        } else {
            drop(y.into_data());
        }
    })
}

fn decode(objects: usize, runs: usize) -> Vec<f64> {
    let (sam, device) = (vit_b(), Device::flex());
    let embedding = Tensor::<4>::random([1, 256, 64, 64], Distribution::Normal(0.0, 1.0), &device);
    let positions = sam.image_positions();
    let click = |object: usize| ObjectPrompt {
        points_xy_px: vec![([(object * 37 % 1024) as f32, (object * 91 % 1024) as f32], true)],
        ..ObjectPrompt::default()
    };
    let objects: Vec<ObjectPrompt> = (0..objects).map(click).collect();
    time(runs, || {
        let prompts = Prompts::from_objects(&objects, 256, &device);
        let image_of_object = vec![0; objects.len()];
        let images = EncodedImages { embeddings: embedding.clone(), positions: positions.clone() };
        let decoded = sam.decode_at(images, &image_of_object, &prompts, MaskOutput::Multi);
        drop((decoded.low_res_logits.into_data(), decoded.iou_predictions.into_data()));
    })
}

/// The patches that the autoencoder's encoder sees.
enum Seen {
    Whole,
    Quarter,
}

/// Images of a measurement of the autoencoder.
const MAE_IMAGES: usize = 8;

fn mae(device: &Device) -> (MaskedAutoencoder, Tensor<4>, RandomMasking) {
    let config = MaeConfig::published(Variant::VitB);
    let mae = initialise_mae(config.init(device).expect("published sizes fit"), 0);
    let images = Tensor::random([MAE_IMAGES, 3, 224, 224], Distribution::Normal(0.0, 1.0), device);
    let masking = RandomMasking::draw(0, &[0, 1, 2, 3, 4, 5, 6, 7], config.n_patches(), 0.75);
    (mae, images, masking)
}

/// The encoder of ViT-B over eight images of 224 px, whole or a quarter of their patches.
fn mae_encoder(seen: Seen, runs: usize) -> Vec<f64> {
    let (mae, images, masking) = mae(&Device::flex());
    let run = || match seen {
        Seen::Whole => mae.features(images.clone()),
        Seen::Quarter => mae.encode_visible(mae.patchify(images.clone()), &masking),
    };
    (0..=runs).map(|_| timed(|| run().into_data())).skip(1).collect()
}

/// Loss and gradients of eight images.
fn mae_step(runs: usize) -> Vec<f64> {
    let (mae, images, masking) = mae(&Device::flex().autodiff());
    let run = || {
        let loss = mae.loss(images.clone(), &masking, MaeTarget::NormalisedPixels);
        let grads = loss.clone().backward();
        mae.cls_token.val().grad(&grads).expect("a gradient").into_data()
    };
    (0..=runs).map(|_| timed(run)).skip(1).collect()
}

fn timed<T>(work: impl Fn() -> T) -> f64 {
    let began = Instant::now();
    std::hint::black_box(work());
    began.elapsed().as_secs_f64()
}
