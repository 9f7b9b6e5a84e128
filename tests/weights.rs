//! Every published layout, read and written, strictly in both directions.

use std::collections::BTreeMap;
use std::path::Path;

use sam_model::init::initialise;
use sam_model::weights::{
    Checkpoint, Dtype, ExportFormat, ExportOptions, Hints, ImageSizePolicy, Layout, LoadOptions, StateDict,
    WeightsError, export, recognise_sam, resize_absolute, resize_relative,
};
use sam_model::{SamConfig, Variant};

use crate::fixture::{Golden, check, cpu, f32_of, path, tiny, vit_config};

/// All weights of a checkpoint under official keys.
fn official_weights(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let (sam, _) = Checkpoint::open(path).expect("a checkpoint").load(&cpu()).expect("it fits");
    weights_of(&sam)
}

fn weights_of(sam: &sam_model::Sam) -> BTreeMap<String, Vec<f32>> {
    sam_model::weights::named_tensors(sam).into_iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect()
}

fn tiny_config() -> SamConfig {
    Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture").config
}

#[test]
fn sizes_are_recognised_from_the_tensors() {
    let config = tiny_config();
    let encoder = config.image_encoder.vit().expect("a plain ViT");
    assert_eq!((encoder.image_size, encoder.patch_size, encoder.window_size), (64, 8, 3));
    assert_eq!((encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.mlp_dim), (24, 4, 2, 96));
    assert_eq!((encoder.out_chans, encoder.global_attn_indexes.as_slice()), (32, &[1usize, 3][..]));
    let decoder = &config.mask_decoder;
    assert_eq!((decoder.transformer_dim, decoder.depth, decoder.num_heads), (32, 2, 8));
    assert_eq!((decoder.mlp_dim, decoder.cross_dim, decoder.num_multimask_outputs), (64, 16, 3));
    for file in ["tiny_sam.pth", "tiny_sam_wrapped_f16.pth", "tiny_hf"] {
        assert_eq!(Checkpoint::open(&path(file)).expect("a committed fixture").config, config, "{file}");
    }
}

#[test]
fn published_sizes_are_recognised_too() {
    // Shapes suffice, from an uninitialised model: a vit_l is recognised without its 1.2 GB of weights.
    for variant in Variant::ALL {
        let config = SamConfig::published(variant);
        let sam = config.init(&cpu()).expect("published sizes fit");
        let shapes = sam_model::weights::parameter_shapes(&sam);
        let tensors = shapes
            .into_iter()
            .map(|(key, shape)| (key, sam_model::weights::TensorInfo { dtype: Dtype::F32, shape }))
            .collect();
        assert_eq!(recognise_sam(&tensors, &Hints::default()), Ok(config));
    }
}

#[test]
fn every_container_holds_the_same_weights() {
    let expected = official_weights(&path("tiny_sam.safetensors"));
    assert_eq!(expected.len(), 202);
    assert_eq!(official_weights(&path("tiny_sam.pth")), expected, "pth");
    assert_eq!(official_weights(&path("tiny_hf")), expected, "Hugging Face");
    // f16 under `model`, beside an optimiser: rounded once, then exact.
    let wrapped = official_weights(&path("tiny_sam_wrapped_f16.pth"));
    for (key, values) in &expected {
        let rounded: Vec<f32> = values.iter().map(|&value| half::f16::from_f32(value).to_f32()).collect();
        assert_eq!(wrapped[key], rounded, "{key}");
    }
    // Parts of the model in rarer containers.
    for (file, round) in
        [("tiny_sam_bf16.safetensors", true), ("tiny_sam_legacy.pth", false), ("tiny_sam_strided.pth", false)]
    {
        let dict = StateDict::open(&path(file)).expect("a committed fixture");
        assert!(dict.tensors.len() >= 17, "{file}");
        for key in dict.tensors.keys() {
            let expected: Vec<f32> = expected[key]
                .iter()
                .map(|&value| if round { half::bf16::from_f32(value).to_f32() } else { value })
                .collect();
            assert_eq!(dict.read_f32(key).expect("readable"), expected, "{file}: {key}");
        }
    }
}

#[test]
fn exports_read_back_equal() {
    let (sam, config) = (tiny(&cpu()), tiny_config());
    let expected = weights_of(&sam);
    let folder = tempfile::tempdir().expect("a folder");
    for (format, name) in
        [(ExportFormat::Safetensors, "a.safetensors"), (ExportFormat::Pth, "a.pth"), (ExportFormat::HuggingFace, "a")]
    {
        let out = folder.path().join(name);
        let options = f32_of(format, ImageSizePolicy::Keep);
        let report = export(&sam, options, &out).expect("written");
        assert_eq!((report.tensors, report.image_size), (202, 64));
        assert_eq!(official_weights(&out), expected, "{name}");
        assert_eq!(Checkpoint::open(&out).expect("ours").config, config, "{name}");
        for dtype in [Dtype::F16, Dtype::BF16] {
            export(&sam, ExportOptions { dtype, ..options }, &out).expect("replaced");
            let dict = Checkpoint::open(&out).expect("ours").dict;
            assert!(dict.tensors.values().all(|info| info.dtype == dtype), "{name}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listed").collect();
    assert_eq!(left.len(), 3, "no temporary files stay: {left:?}");
}

/// The Hugging Face folder has the keys and the configuration that `save_pretrained` writes.
#[test]
fn the_hugging_face_folder_matches_the_packages_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("hf");
    export(&tiny(&cpu()), f32_of(ExportFormat::HuggingFace, ImageSizePolicy::Keep), &out).expect("written");
    let (ours, theirs) = (StateDict::open(&out).expect("ours"), StateDict::open(&path("tiny_hf")).expect("theirs"));
    assert_eq!(ours.tensors, theirs.tensors);
    assert_eq!(ours.metadata.get("format").map(String::as_str), Some("pt"), "transformers asks for it");
    let json = |path: &Path| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
    };
    for file in ["config.json", "preprocessor_config.json"] {
        let (ours, theirs) = (json(&out.join(file)), json(&path("tiny_hf").join(file)));
        assert_contained(file, &ours, &theirs);
    }
}

/// Common fields must be equal, and ours must have all that determine the model.
fn assert_contained(at: &str, ours: &serde_json::Value, theirs: &serde_json::Value) {
    match (ours, theirs) {
        (serde_json::Value::Object(ours), serde_json::Value::Object(theirs)) => {
            for (key, value) in theirs {
                match ours.get(key) {
                    Some(ours) => assert_contained(&format!("{at}.{key}"), ours, value),
                    // Bookkeeping of the library, and a field of SamVisionConfig that is never used.
                    None => assert!(
                        ["transformers_version", "tie_word_embeddings", "scale"].contains(&key.as_str()),
                        "{at}.{key} is missing"
                    ),
                }
            }
        }
        (serde_json::Value::Number(ours), serde_json::Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().expect("finite"), theirs.as_f64().expect("finite"));
            assert!((ours - theirs).abs() <= 1e-12, "{at}: {ours} is not {theirs}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

#[test]
fn position_tables_are_resized_back_to_1024() {
    let (sam, config) = (tiny(&cpu()), tiny_config());
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.safetensors");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Published);
    let report = export(&sam, options, &out).expect("written");
    assert_eq!((report.image_size, report.resized.len()), (1024, 5), "positions and two global blocks");
    let written = Checkpoint::open(&out).expect("ours");
    assert_eq!(written.config.image_encoder.image_size(), 1024);
    assert_eq!(written.config.image_encoder.vit().expect("a plain ViT").window_size, 3, "a window does not grow");
    // And back, into a model of the old size: resized tables are close to the originals, the rest is equal.
    let options = LoadOptions { config, ..written.default_options() };
    let (back, report) = written.load_with(&options, &cpu()).expect("resized");
    assert_eq!(report.resized.len(), 5);
    let (before, after) = (weights_of(&sam), weights_of(&back));
    for (key, values) in &before {
        if report.resized.iter().any(|table| table.key == *key) {
            check(key, &after[key], values, 0.5);
        } else {
            assert_eq!(&after[key], values, "{key}");
        }
    }
}

#[test]
fn tables_are_resized_as_pytorch_does() {
    let golden = Golden::open("tiny_mae_golden.safetensors");
    let weights = official_weights(&path("tiny_sam.safetensors"));
    let resized = resize_absolute(&weights["image_encoder.pos_embed"], [8, 8], [16, 16], 24);
    check("absolute", &resized, &golden.values("pos_embed_16"), 1e-6);
    let resized = resize_relative(&weights["image_encoder.blocks.1.attn.rel_pos_h"], 15, 31, 12);
    check("relative", &resized, &golden.values("rel_pos_31"), 1e-6);
}

#[test]
fn an_autoencoder_initialises_an_encoder() {
    let checkpoint = Checkpoint::open(&path("tiny_mae.pth")).expect("a committed fixture");
    assert_eq!((checkpoint.layout, checkpoint.is_segmenter()), (Layout::Mae, false));
    let rejected = checkpoint.load(&cpu()).expect_err("an encoder only").to_string();
    assert!(rejected.contains("encoder only"), "{rejected}");

    let config = tiny_config();
    let options = LoadOptions { config: config.clone(), seed: 5, ..checkpoint.default_options() };
    let (sam, report) = checkpoint.load_with(&options, &cpu()).expect("it fits");
    let weights = weights_of(&sam);
    let golden = Golden::open("tiny_mae_golden.safetensors");
    check("positions", &weights["image_encoder.pos_embed"], &golden.values("pos_embed_8x8"), 1e-6);
    let qkv = checkpoint.dict.read_f32("blocks.2.attn.qkv.weight").expect("readable");
    assert_eq!(weights["image_encoder.blocks.2.attn.qkv.weight"], qkv);
    let lin1 = checkpoint.dict.read_f32("blocks.0.mlp.fc1.bias").expect("readable");
    assert_eq!(weights["image_encoder.blocks.0.mlp.lin1.bias"], lin1);

    // 12 tensors per block, patch embedding and positions; the rest of the model is initialised from the seed.
    assert_eq!(report.used, 4 * 12 + 3);
    assert_eq!(report.used + report.fresh.len(), 202);
    assert!(report.fresh.iter().any(|key| key == "image_encoder.blocks.0.attn.rel_pos_h"));
    assert!(report.dropped.iter().any(|(key, _)| key == "cls_token"));
    let drawn = weights_of(&initialise(config.init(&cpu()).expect("fits"), 5));
    for key in &report.fresh {
        assert_eq!(weights[key], drawn[key], "{key}");
    }
}

#[test]
fn extra_missing_and_misshapen_tensors_are_all_listed() {
    let source = StateDict::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = source
        .tensors
        .iter()
        .map(|(key, info)| (key.clone(), (info.shape.clone(), source.read_bytes(key).expect("readable"))))
        .collect();
    let moved = tensors.remove("mask_decoder.iou_token.weight").expect("there");
    tensors.insert("mask_decoder.iou_tokn.weight".into(), moved.clone());
    tensors.insert("mask_decoder.leftover.weight".into(), moved);
    tensors.remove("image_encoder.blocks.2.attn.proj.bias");
    tensors.insert("image_encoder.blocks.2.norm1.weight".into(), (vec![25], vec![0; 100]));
    // The model is still recognised, or the error names the missing tensor.
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.safetensors");
    write_safetensors(&tensors, &broken);
    let error = Checkpoint::open(&broken).and_then(|checkpoint| checkpoint.load(&cpu())).expect_err("broken");
    assert!(matches!(error, WeightsError::UnknownLayout { .. }), "{error}");
    // With the nearest key, which is the misspelt one.
    for part in ["`mask_decoder.iou_token.weight`", "nearest: `mask_decoder.iou_tokn.weight` [1, 32]"] {
        assert!(error.to_string().contains(part), "{error}");
    }

    let restored = tensors["mask_decoder.iou_tokn.weight"].clone();
    tensors.insert("mask_decoder.iou_token.weight".into(), restored);
    write_safetensors(&tensors, &broken);
    let error = Checkpoint::open(&broken).and_then(|checkpoint| checkpoint.load(&cpu())).expect_err("broken");
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing.len(), 1);
    assert_eq!(mismatch.missing[0].0, "image_encoder.blocks.2.attn.proj.bias");
    assert_eq!(mismatch.extra.len(), 2);
    assert_eq!(mismatch.wrong_shape, [("image_encoder.blocks.2.norm1.weight".into(), vec![24], vec![25])]);
    for part in ["iou_tokn", "[25]", "[24]", "a custom SAM at 64 px"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Weights of one size in a model of another, as when the wrong variant is given.
#[test]
fn a_model_of_another_size_is_rejected() {
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut options = checkpoint.default_options();
    let vit = vit_config(&mut options.config);
    (vit.depth, vit.mlp_dim) = (5, 48);
    let error = checkpoint.load_with(&options, &cpu()).expect_err("another size");
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing.len(), 14, "a whole block is missing");
    assert_eq!(mismatch.wrong_shape.len(), 3 * 4, "three tensors in each of four MLPs have another shape");
}

/// A window as large as the grid: the tables do not determine the global blocks, the file's metadata does.
#[test]
fn windows_as_large_as_the_grid_survive() {
    let mut config = tiny_config();
    vit_config(&mut config).window_size = 8;
    config.mask_decoder.num_heads = 4;
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 2);
    let folder = tempfile::tempdir().expect("a folder");
    for (format, name) in [(ExportFormat::Safetensors, "a.safetensors"), (ExportFormat::HuggingFace, "hf")] {
        let out = folder.path().join(name);
        export(&sam, f32_of(format, ImageSizePolicy::Keep), &out).expect("written");
        assert_eq!(Checkpoint::open(&out).expect("ours").config, config, "{name}");
        let big = folder.path().join(format!("big-{name}"));
        let report = export(&sam, f32_of(format, ImageSizePolicy::Published), &big).expect("written");
        assert_eq!(report.resized.len(), 5, "windowed tables stay as long as their window");
        let written = Checkpoint::open(&big).expect("ours").config.image_encoder;
        let written = written.vit().expect("a plain ViT");
        assert_eq!((written.image_size, written.window_size), (1024, 8));
        assert_eq!(written.global_attn_indexes, [1, 3]);
    }
    // A .pth cannot store the number of heads, and its readers assume eight.
    let error = export(&sam, f32_of(ExportFormat::Pth, ImageSizePolicy::Keep), &folder.path().join("a.pth"));
    assert!(error.expect_err("four heads").to_string().contains("4 heads"));
}

#[test]
fn nan_and_infinite_weights_are_neither_read_nor_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let poison = |value: f32| {
        let tensors = StateDict::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
            .tensors
            .iter()
            .map(|(key, info)| (key.clone(), (info.shape.clone(), tensors.read_bytes(key).expect("readable"))))
            .collect();
        let weight = tensors.get_mut("image_encoder.neck.0.weight").expect("there");
        weight.1[..4].copy_from_slice(&value.to_le_bytes());
        let file = folder.path().join("poisoned.safetensors");
        write_safetensors(&tensors, &file);
        Checkpoint::open(&file).and_then(|checkpoint| checkpoint.load(&cpu()))
    };
    for value in [f32::NAN, f32::INFINITY] {
        let error = poison(value).expect_err("no weight").to_string();
        assert!(error.contains("image_encoder.neck.0.weight") && error.contains("poisoned"), "{error}");
    }
    let (sam, _) = poison(1e6).expect("large, but a number");
    let out = folder.path().join("half.safetensors");
    let options = ExportOptions { dtype: Dtype::F16, ..f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep) };
    let error = export(&sam, options, &out).expect_err("too large for f16").to_string();
    assert!(error.contains("1000000") && error.contains("bf16") && !out.exists(), "{error}");
    export(&sam, ExportOptions { dtype: Dtype::BF16, ..options }, &out).expect("bf16 has the range");
}

#[test]
fn parameters_have_the_requested_type() {
    use burn::tensor::{DType, FloatDType};
    let checkpoint = Checkpoint::open(&path("tiny_sam_wrapped_f16.pth")).expect("a committed fixture");
    let dtype_of = |sam: &sam_model::Sam| sam.mask_decoder.iou_token.weight.val().dtype();
    let (sam, _) = checkpoint.load(&cpu()).expect("it fits");
    assert_eq!(dtype_of(&sam), DType::F32, "f32 whatever the file holds");
    let options = LoadOptions { dtype: FloatDType::BF16, ..checkpoint.default_options() };
    let (sam, _) = checkpoint.load_with(&options, &cpu()).expect("it fits");
    assert_eq!(dtype_of(&sam), DType::BF16);
}

#[test]
fn a_misspelt_key_is_paired_with_the_right_one() {
    let source = StateDict::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let tensors = source.tensors.iter().map(|(key, info)| {
        let bytes = source.read_bytes(key).expect("readable");
        (key.replace("cross_attn_token_to_image.q_proj", "cross_attn_token_to_img.q_proj"), (info.shape.clone(), bytes))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.safetensors");
    write_safetensors(&tensors.collect(), &broken);
    let error = Checkpoint::open(&broken).and_then(|checkpoint| checkpoint.load(&cpu())).expect_err("misspelt");
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    for (key, _, nearest) in &mismatch.missing {
        assert_eq!(nearest.as_deref(), Some(key.replace("token_to_image", "token_to_img").as_str()));
    }
}

/// The tiny model's tensors by other names.
fn tiny_named(name: impl Fn(&str) -> String) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let source = StateDict::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let tensors = source.tensors.iter();
    tensors.map(|(key, info)| (name(key), (info.shape.clone(), source.read_bytes(key).expect("readable")))).collect()
}

/// What `DistributedDataParallel`, `torch.compile`, Lightning and trainers put in front of the names.
#[test]
fn prefixes_of_training_programs_are_removed_and_said() {
    let expected = official_weights(&path("tiny_sam.safetensors"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrapped.safetensors");
    for (before, said) in [
        ("module.", "`module.`"),
        ("_orig_mod.", "`_orig_mod.`"),
        ("module._orig_mod.", "`module.` and `_orig_mod.`"),
        ("model.", "`model.`"),
        ("sam.", "`sam.`"),
        ("model.module.sam.", "`module.` and `model.sam.`"),
    ] {
        write_safetensors(&tiny_named(|key| format!("{before}{key}")), &file);
        let (sam, report) = Checkpoint::open(&file).expect(before).load(&cpu()).expect(before);
        assert_eq!(weights_of(&sam), expected, "{before}");
        assert_eq!(report.notes, [format!("the names of the tensors are read without {said}")]);
    }
    // One module that was compiled.
    let compiled = |key: &str| key.replace("image_encoder.", "image_encoder._orig_mod.");
    write_safetensors(&tiny_named(compiled), &file);
    assert_eq!(official_weights(&file), expected);
    let error = |tensors: BTreeMap<_, _>| {
        write_safetensors(&tensors, &file);
        Checkpoint::open(&file).expect_err("not one model").to_string()
    };
    let mut both = tiny_named(|key| format!("module.{key}"));
    both.extend(tiny_named(str::to_owned));
    let message = error(both);
    assert!(message.contains("holds two tensors for `image_encoder."), "{message}");
    let mut beside = tiny_named(|key| format!("model.{key}"));
    beside.insert("loss.weight".to_owned(), (vec![1], vec![0; 4]));
    let message = error(beside);
    assert!(message.contains("those under `model.` are known"), "{message}");
    let decoder = tiny_named(str::to_owned).into_iter().filter(|(key, _)| key.starts_with("mask_decoder.")).collect();
    let message = error(decoder);
    assert!(message.contains("no known layout") && message.contains("`mask_decoder."), "{message}");
}

#[test]
fn what_is_beside_the_weights_is_reported() {
    let (_, report) = Checkpoint::open(&path("tiny_sam_wrapped_f16.pth")).expect("fine").load(&cpu()).expect("fine");
    assert!(report.notes.join("; ").contains("(beside `model`)"), "{:?}", report.notes);
}

#[test]
fn shards_are_read_and_must_agree_with_their_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let config = std::fs::read(path("tiny_hf").join("config.json")).expect("a committed fixture");
    std::fs::write(at("config.json"), config).expect("written");
    let source = StateDict::open(&path("tiny_hf")).expect("a committed fixture");
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    let mut map = BTreeMap::new();
    let name = |shard: usize| format!("model-0000{}-of-00002.safetensors", shard + 1);
    for (at, (key, info)) in source.tensors.iter().enumerate() {
        shards[at % 2].insert(key.clone(), (info.shape.clone(), source.read_bytes(key).expect("readable")));
        map.insert(key.clone(), name(at % 2));
    }
    for (shard, tensors) in shards.iter().enumerate() {
        write_safetensors(tensors, &at(&name(shard)));
    }
    let index = at("model.safetensors.index.json");
    let write_index = |map: &BTreeMap<String, String>| {
        std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).expect("written");
    };
    write_index(&map);
    let expected = official_weights(&path("tiny_hf"));
    assert_eq!(official_weights(folder.path()), expected, "by its folder");
    assert_eq!(official_weights(&index), expected, "by its index");

    let error = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut map = map.clone();
        change(&mut map);
        write_index(&map);
        Checkpoint::open(folder.path()).expect_err("no agreement").to_string()
    };
    let some = map.keys().next().expect("a tensor").clone();
    for (message, expected) in [
        (error(&|map| drop(map.insert("extra".to_owned(), name(0)))), "tensor `extra` is not in its shard"),
        (error(&|map| drop(map.remove(&some))), "the index does not say that tensor"),
        (
            error(&|map| drop(map.insert(some.clone(), "../x.safetensors".to_owned()))),
            "must be a file beside the index",
        ),
        (error(&|map| drop(map.insert(some.clone(), "model-3.safetensors".to_owned()))), "does not exist"),
        (error(&|map| map.clear()), "an index without shards"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

pub(crate) fn write_safetensors(tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>, path: &Path) {
    let views = tensors.iter().map(|(key, (shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (key.as_str(), view.expect("bytes fit the shape"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}
