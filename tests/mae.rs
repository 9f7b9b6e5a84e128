//! The masked autoencoder: its results equal PyTorch's (`fixtures/mae/`), its masking is exact, its files are in the
//! published format, and a segmenter can be initialised from them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::Device;
use sam_model::init::{initialise, initialise_mae};
use sam_model::masking_noise;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, LoadOptions, MaeCheckpoint, MaeExportOptions, MaeParts, StateDict, export_mae,
    resize_absolute,
};
use sam_model::{MaeConfig, MaeTarget, MaskedAutoencoder, RandomMasking, SamConfig, Variant};

use crate::fixture::{Golden, MODULE, check, device, official_gradients, path, values, vit, vit_config};

/// Relative to the largest gradient of a tensor: f32 sums against f64 ones.
const GRADIENT: f32 = 1e-5;

const RATIO: f64 = 0.75;

/// The model of the fixture; its image is not square, which a `.pth` cannot store.
fn golden_model(device: &Device) -> MaskedAutoencoder {
    let config = MaeConfig {
        image_size_hw: [24, 32],
        patch_size: 8,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        mlp_dim: 64,
        decoder_embed_dim: 12,
        decoder_depth: 1,
        decoder_num_heads: 3,
        decoder_mlp_dim: 48,
    };
    let dict = StateDict::open(&path("mae/weights.pth")).expect("a committed fixture");
    let mae = config.init(device).expect("sizes fit");
    let shapes = sam_model::weights::parameter_shapes(&mae);
    assert_eq!(shapes.len(), dict.tensors.len(), "every tensor of the file has its place");
    sam_model::weights::fill_parameters(mae, burn::tensor::FloatDType::F32, |key| dict.read_f32(key).map(Some))
        .expect("it fits")
}

fn golden_masking(golden: &Golden) -> RandomMasking {
    let noise: Vec<Vec<f32>> = golden.values("noise").chunks(12).map(<[f32]>::to_vec).collect();
    RandomMasking::from_noise(&noise, RATIO)
}

fn weights_of(mae: &MaskedAutoencoder) -> BTreeMap<String, Vec<f32>> {
    let tensors = sam_model::weights::named_tensors(mae);
    tensors.into_iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect()
}

#[test]
fn every_output_equals_the_reference() {
    let golden = Golden::open("mae/golden.safetensors");
    let mae = golden_model(&device());
    let images = golden.tensor::<4>("images", &device());
    let masking = golden_masking(&golden);
    let kept: Vec<f32> = masking.visible().flatten().map(|&patch| patch as f32).collect();
    assert_eq!(kept, golden.values("kept"));
    let patches = mae.patchify(images.clone());
    check("latent", &values(mae.encode_visible(patches.clone(), &masking)), &golden.values("latent"), MODULE);
    check("predictions", &values(mae.predictions(patches, &masking)), &golden.values("predictions"), MODULE);
    check("features", &values(mae.features(images.clone())), &golden.values("features"), MODULE);

    // Visible patches are the original, removed ones are the decoder's.
    let result = mae.reconstruct(images.clone(), &masking, MaeTarget::Pixels);
    let (painted, removed) = (values(mae.patchify(result.predicted)), golden.values("removed"));
    check("painted", &painted, &golden.values("predictions"), MODULE);
    let completed = values(mae.patchify(result.completed));
    let (seen, painted) = (values(mae.patchify(images)), golden.values("predictions"));
    for (patch, removed) in removed.iter().enumerate() {
        let values = patch * 192..(patch + 1) * 192;
        let expected = if *removed == 1.0 { &painted } else { &seen };
        check("completed", &completed[values.clone()], &expected[values], MODULE);
    }
}

#[test]
fn loss_and_every_gradient_equal_the_reference() {
    let golden = Golden::open("mae/golden.safetensors");
    let device = device().autodiff();
    for (name, target) in [("pixels", MaeTarget::Pixels), ("normalised", MaeTarget::NormalisedPixels)] {
        let mae = golden_model(&device);
        let loss = mae.loss(golden.tensor::<4>("images", &device), &golden_masking(&golden), target);
        check(name, &values(loss.clone()), &golden.values(&format!("{name}/loss")), MODULE);
        let gradients = loss.backward();
        let (found, missing) = official_gradients(&mae, &GradientsParams::from_grads(gradients, &mae));
        assert_eq!(missing, ["pos_embed", "decoder_pos_embed"], "they are constants");
        let all = golden.keys().filter(|key| key.starts_with(&format!("{name}/grad/"))).count();
        assert_eq!(found.len(), all, "all parameters");
        for (key, gradient) in found {
            let expected = golden.values(&format!("{name}/grad/{key}"));
            let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
            // Key biases have a gradient of zero in exact arithmetic, hence the absolute part.
            check(&key, &gradient, &expected, GRADIENT * largest + 1e-6);
        }
    }
}

#[test]
fn masking_removes_the_right_number_evenly_and_per_image() {
    const N_PATCHES: usize = 64;
    const DRAWS: u64 = 4000;
    let masking = RandomMasking::draw(7, &(0..DRAWS).collect::<Vec<_>>(), N_PATCHES, RATIO);
    let mut removals = [0u32; N_PATCHES];
    let mut sets = std::collections::BTreeSet::new();
    for (kept, removed) in masking.visible().zip(masking.removed()) {
        assert_eq!((kept.len(), removed.len()), (16, 48), "a quarter stays, exactly");
        let mut all: Vec<usize> = kept.iter().chain(removed).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..N_PATCHES).collect::<Vec<_>>(), "each patch once");
        removed.iter().for_each(|&patch| removals[patch] += 1);
        sets.insert(kept.to_vec());
    }
    assert_eq!(sets.len(), DRAWS as usize, "every image is masked in its own way");
    // Chi-square of 63 degrees of freedom, each cell's variance smaller by what is fixed in a draw (p (1 - p) for p);
    // its 0.999 quantile is 103.4.
    let expected = DRAWS as f64 * RATIO;
    let scale = expected * (1.0 - RATIO) * N_PATCHES as f64 / (N_PATCHES - 1) as f64;
    let chi_square: f64 = removals.iter().map(|&count| (f64::from(count) - expected).powi(2) / scale).sum();
    assert!(chi_square < 103.4, "chi-square {chi_square}");

    // A draw is a function of the seed and of its index alone.
    let noise = masking_noise(7, 3, N_PATCHES);
    let alone = RandomMasking::from_noise(&[noise], RATIO);
    assert_eq!(alone.visible().next(), masking.visible().nth(3));
    assert_ne!(masking_noise(8, 3, N_PATCHES), masking_noise(7, 3, N_PATCHES));
}

#[test]
fn a_file_of_the_published_format_round_trips() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = MaeCheckpoint::open(&path("tiny_mae.pth")).expect("a committed fixture");
    let config = &checkpoint.config;
    assert_eq!((config.image_size_hw, config.patch_size, config.embed_dim, config.depth), ([32, 32], 8, 24, 4));
    assert_eq!((config.decoder_embed_dim, config.decoder_depth), (8, 1));
    let (mae, report) = checkpoint.load(0, &device()).expect("it fits");
    assert_eq!((report.used, report.fresh.len(), report.dropped.len()), (checkpoint.dict.tensors.len(), 0, 0));
    for format in [ExportFormat::Pth, ExportFormat::Safetensors] {
        let file = folder.path().join("whole");
        let options = MaeExportOptions { format, dtype: Dtype::F16, parts: MaeParts::Whole };
        export_mae(&mae, options, &file).expect("written");
        let dict = StateDict::open(&file).expect("readable");
        assert_eq!(dict.tensors, checkpoint.dict.tensors, "{format:?}: keys, shapes and types");
        assert_eq!(dict.wrapper.as_deref(), (format == ExportFormat::Pth).then_some("model"), "{format:?}");
        for key in dict.tensors.keys() {
            assert_eq!(dict.read_bytes(key).ok(), checkpoint.dict.read_bytes(key).ok(), "{format:?}: {key}");
        }
    }

    // Without the decoder, as released for fine-tuning. It loads again, with a fresh decoder.
    let file = folder.path().join("encoder.pth");
    let options = MaeExportOptions { format: ExportFormat::Pth, dtype: Dtype::F32, parts: MaeParts::Encoder };
    let written = export_mae(&mae, options, &file).expect("written");
    assert_eq!(written.tensors, 4 + 4 * 12 + 2);
    let again = MaeCheckpoint::open(&file).expect("recognised");
    assert!(!again.has_decoder && again.config.decoder_depth == 8, "the published decoder is what is missing");
    let (loaded, report) = again.load_with(config, 3, &device()).expect("it fits");
    let (before, after) = (weights_of(&mae), weights_of(&loaded));
    assert!(report.fresh.iter().all(|key| key.starts_with("decoder_") || key == "mask_token"), "{:?}", report.fresh);
    let fresh = weights_of(&initialise_mae(config.init(&device()).expect("fits"), 3));
    for (key, values) in &after {
        let expected = if report.fresh.contains(key) { &fresh[key] } else { &before[key] };
        assert_eq!(values, expected, "{key}");
    }
}

#[test]
fn our_own_files_store_heads_and_grid() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mae.safetensors");
    let mae = golden_model(&device());
    let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Whole };
    export_mae(&mae, options, &file).expect("written");
    let checkpoint = MaeCheckpoint::open(&file).expect("recognised");
    assert_eq!(&checkpoint.config, mae.config());
    let (loaded, report) = checkpoint.load(0, &device()).expect("it fits");
    assert_eq!((report.assumed.len(), weights_of(&loaded)), (0, weights_of(&mae)));

    // At another image size the fixed positions are computed anew.
    let larger = MaeConfig { image_size_hw: [40, 40], ..checkpoint.config.clone() };
    let (larger, report) = checkpoint.load_with(&larger, 0, &device()).expect("it fits");
    assert_eq!(report.fresh, ["pos_embed", "decoder_pos_embed"]);
    assert_eq!(larger.pos_embed.val().dims(), [1, 26, 16]);

    // Not square and without metadata: an error.
    let refused = MaeCheckpoint::open(&path("mae/weights.pth")).expect_err("12 patches are no square").to_string();
    assert!(refused.contains("pos_embed") && refused.contains("13 positions"), "{refused}");
}

/// From pre-training to segmenter: common tensors are loaded, positions are resized, the rest is fresh.
#[test]
fn a_segmenter_is_initialised_from_our_own_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mae.safetensors");
    let mae = golden_model(&device());
    let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Encoder };
    export_mae(&mae, options, &file).expect("written");
    let checkpoint = Checkpoint::open(&file).expect("recognised");
    let mut config = sam_of(&checkpoint);
    let options = LoadOptions { config: config.clone(), seed: 2, ..checkpoint.default_options() };
    let (sam, report) = checkpoint.load_with(&options, &device()).expect("it fits");
    assert_eq!(report.used, 2 * 12 + 3, "two blocks, patch embedding, positions");
    assert_eq!(report.resized.len(), 1);
    assert!(report.assumed.is_empty(), "{:?}", report.assumed);
    assert_eq!(
        report.dropped.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["cls_token", "norm.bias", "norm.weight"]
    );
    let table = &weights_of(&mae)["pos_embed"][16..];
    let positions = values(vit(&sam).pos_embed.val());
    check("positions", &positions, &resize_absolute(table, [3, 4], [8, 8], 16), MODULE);
    let fresh = initialise(config.init(&device()).expect("fits"), 2);
    assert_eq!(values(vit(&sam).neck.conv1.weight.val()), values(vit(&fresh).neck.conv1.weight.val()));
    assert!(report.fresh.iter().any(|key| key == "image_encoder.blocks.1.attn.rel_pos_w"));

    // Errors name other heads, another patch size, another depth.
    let refusal = |config: &SamConfig, parts: &[&str]| {
        let options = LoadOptions { config: config.clone(), ..checkpoint.default_options() };
        let error = checkpoint.load_with(&options, &device()).expect_err("does not fit").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    vit_config(&mut config).num_heads = 4;
    refusal(&config, &["2 attention heads", "has 4"]);
    config = sam_of(&checkpoint);
    vit_config(&mut config).patch_size = 16;
    config.image_encoder.set_image_size(128);
    refusal(&config, &["patch_embed.proj.weight", "[16, 3, 16, 16]", "[16, 3, 8, 8]"]);
    config = sam_of(&checkpoint);
    let vit = vit_config(&mut config);
    (vit.depth, vit.global_attn_indexes) = (1, vec![0]);
    refusal(&config, &["blocks.1.attn.qkv.weight"]);
}

/// A small segmenter of 64 px for a file's encoder.
fn sam_of(checkpoint: &Checkpoint) -> SamConfig {
    let mut config = checkpoint.config.clone();
    let vit = vit_config(&mut config);
    (vit.image_size, vit.out_chans, vit.global_attn_indexes) = (64, 32, vec![1]);
    config.prompt_encoder.embed_dim = 32;
    let decoder = &mut config.mask_decoder;
    (decoder.transformer_dim, decoder.mlp_dim, decoder.cross_dim, decoder.iou_head_hidden_dim) = (32, 64, 16, 32);
    config
}

#[test]
fn published_sizes_are_recognised_from_the_tensors() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &Path, config: &MaeConfig| {
        let mae = config.init(&device()).expect("sizes fit");
        let options = MaeExportOptions { format: ExportFormat::Pth, dtype: Dtype::BF16, parts: MaeParts::Whole };
        export_mae(&mae, options, path).expect("written");
    };
    // One block of each suffices; the heads of the whole model are then not determined.
    let file = folder.path().join("mae.pth");
    let config = MaeConfig { depth: 1, decoder_depth: 1, ..MaeConfig::published(Variant::VitB) };
    write(&file, &config);
    assert_eq!(MaeCheckpoint::open(&file).expect("recognised").config, config);
}
