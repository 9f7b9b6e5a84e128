//! Vectors of texts, images and masks equal those of `transformers` and `open_clip` (`fixtures/clip.py`), in both layouts of
//! files; the small CLIP of the synthetic scenes knows what it is asked.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use sam_data::loader::Samples;
use sam_data::synth::{COLOUR_NAMES, SynthOptions, SynthScenes, class_names};
use sam_image::{Mask, RgbImage, Rle};
use sam_infer::clip::{Background, Clip, ClipError, ClipTexts, MaskCrop};
use sam_model::clip::{ClipCheckpoint, ClipModel, Tokenizer};

use crate::fixture::{Golden, check, cpu, path, values};

/// Vectors of unit length; the reference computes them in f64.
const VECTOR: f32 = 1e-5;

/// A pixel in a thousand differs by a grey level from Pillow's.
const THROUGH_PIXELS: f32 = 2e-3;

const TEXTS: [&str; 4] = ["a wheel", "the", "in the other hand", "a photo of a cat"];

fn golden() -> Golden {
    Golden::open("clip/golden.safetensors")
}

fn load(name: &str) -> (ClipModel, Tokenizer) {
    let checkpoint = ClipCheckpoint::open(&path(name)).expect("a committed fixture");
    let (model, _, report) = checkpoint.load(&cpu()).expect("it fits");
    assert_eq!(report.dropped.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["logit_scale"]);
    assert!(report.assumed.is_empty(), "{report:?}");
    (model, checkpoint.tokenizer)
}

fn unit(vectors: Tensor<2>) -> Vec<f32> {
    let lengths = vectors.clone().powf_scalar(2.0).sum_dim(1).sqrt();
    values(vectors / lengths)
}

fn photo(golden: &Golden, name: &str) -> RgbImage {
    let shape = golden.shape(name);
    RgbImage::from_raw(shape[1] as u32, shape[0] as u32, golden.bytes(name)).expect("its pixels")
}

#[test]
fn both_towers_equal_the_references_in_both_layouts() {
    let golden = golden();
    let pixels = golden.tensor::<4>("pixels", &cpu());
    for name in ["clip/hf", "clip/open_clip", "clip/open_clip/open_clip_model.safetensors"] {
        let (model, tokenizer) = load(name);
        for (at, text) in TEXTS.iter().enumerate() {
            let tokens = tokenizer.encode(text).expect("short");
            let expected = &golden.values("quick_gelu/texts")[at * 24..][..24];
            check(text, &unit(model.text.forward(&[&tokens])), expected, VECTOR);
        }
        let got = unit(model.visual.forward(pixels.clone(), None));
        check(name, &got, &golden.values("quick_gelu/images"), VECTOR);
    }
}

#[test]
fn exact_gelu_is_taken_from_the_configuration() {
    let golden = golden();
    for (folder, file, quick, exact) in [
        ("clip/hf", "config.json", "\"quick_gelu\"", "\"gelu\""),
        ("clip/open_clip", "open_clip_config.json", "\"quick_gelu\": true", "\"quick_gelu\": false"),
    ] {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(path(folder)).expect("a fixture").flatten() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
        }
        let text = std::fs::read_to_string(copy.path().join(file)).expect("a text");
        assert!(text.contains(quick));
        std::fs::write(copy.path().join(file), text.replace(quick, exact)).expect("written");
        let checkpoint = ClipCheckpoint::open(copy.path()).expect("a CLIP");
        let (model, fingerprint, _) = checkpoint.load(&cpu()).expect("it fits");
        let images = unit(model.visual.forward(golden.tensor::<4>("pixels", &cpu()), None));
        check(folder, &images, &golden.values("gelu/images"), VECTOR);
        let tokens = checkpoint.tokenizer.encode(TEXTS[0]).expect("short");
        check(folder, &unit(model.text.forward(&[&tokens])), &golden.values("gelu/texts")[..24], VECTOR);
        let quick = Clip::open(&path(folder), &cpu()).expect("a CLIP");
        assert_ne!(quick.fingerprint(), fingerprint, "another activation is another CLIP");
    }
}

#[test]
fn an_output_token_that_sees_some_patches_equals_the_plain_restatement() {
    let (golden, (model, _)) = (golden(), load("clip/hf"));
    let seen: Vec<bool> = golden.bytes("seen").iter().map(|&seen| seen == 1).collect();
    let rows: Vec<&[bool]> = seen.chunks_exact(16).collect();
    let got = unit(model.visual.forward(golden.tensor::<4>("pixels", &cpu()), Some(&rows)));
    check("seen", &got, &golden.values("seen/images"), VECTOR);
}

/// Another device has no kernels of ours: f64 takes the same plain forms on the CPU.
#[test]
fn the_plain_forms_give_the_same_vectors() {
    use burn::tensor::{DType, FloatDType};
    use sam_model::weights::{fill_parameters, named_tensors};
    let (golden, (model, tokenizer)) = (golden(), load("clip/hf"));
    let weights: std::collections::BTreeMap<_, _> =
        named_tensors(&model).into_iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect();
    let wide = fill_parameters(model, FloatDType::F64, |key| Ok(weights.get(key).cloned())).expect("nothing is read");
    let seen: Vec<bool> = golden.bytes("seen").iter().map(|&seen| seen == 1).collect();
    let rows: Vec<&[bool]> = seen.chunks_exact(16).collect();
    let pixels = golden.tensor::<4>("pixels", &cpu()).cast(DType::F64);
    let narrow = |vectors: Tensor<2>| unit(vectors.cast(DType::F32));
    check("images", &narrow(wide.visual.forward(pixels.clone(), None)), &golden.values("quick_gelu/images"), VECTOR);
    check("seen", &narrow(wide.visual.forward(pixels, Some(&rows))), &golden.values("seen/images"), VECTOR);
    let tokens = tokenizer.encode(TEXTS[0]).expect("short");
    check("text", &narrow(wide.text.forward(&[&tokens])), &golden.values("quick_gelu/texts")[..24], VECTOR);
}

#[test]
fn texts_of_many_lengths_in_one_call_keep_their_order() {
    let (golden, clip) = (golden(), Clip::open(&path("clip/hf"), &cpu()).expect("a committed fixture"));
    assert_eq!((clip.width(), clip.side_px(), clip.patch_px()), (24, 32, 8));
    let many: Vec<&str> = TEXTS.iter().copied().cycle().take(150).collect();
    let vectors = clip.texts(&many).expect("short");
    for (at, vector) in vectors.iter().enumerate() {
        check(many[at], vector, &golden.values("quick_gelu/texts")[at % 4 * 24..][..24], VECTOR);
    }
    assert!(clip.texts(&[] as &[&str]).expect("none").is_empty());
    // The text tower alone is the same CLIP.
    let alone = ClipTexts::open(&path("clip/hf"), &cpu()).expect("a committed fixture");
    assert_eq!((alone.fingerprint(), alone.texts(&many).expect("short")), (clip.fingerprint(), vectors));
    let mixed = [" ", "a wheel", &"long ".repeat(80), "the"];
    let error = clip.texts(&mixed).expect_err("empty");
    assert!(matches!(error, ClipError::Text(_)), "{error}");
    // One that has no vector costs the others nothing.
    let usable = clip.usable_texts(&mixed);
    assert_eq!(usable.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, true]);
    assert_eq!(usable.into_iter().flatten().collect::<Vec<_>>(), clip.texts(&["a wheel", "the"]).expect("short"));
}

#[test]
fn whole_images_are_prepared_as_torchvision_does() {
    let (golden, clip) = (golden(), Clip::open(&path("clip/open_clip"), &cpu()).expect("a committed fixture"));
    let photos = [photo(&golden, "photo/0"), photo(&golden, "photo/1")];
    let vectors = clip.images(&photos.iter().collect::<Vec<_>>()).concat();
    check("images", &vectors, &golden.values("quick_gelu/images"), THROUGH_PIXELS);
    assert!(clip.images(&[]).is_empty() && clip.crops(&[]).is_empty());
}

#[test]
fn crops_of_masks_equal_pillows() {
    let golden = golden();
    let image = photo(&golden, "photo/0");
    let clip = Clip::open(&path("clip/hf"), &cpu()).expect("a committed fixture");
    let mut crops = Vec::new();
    for case in 0..6 {
        let pixels: Vec<bool> = golden.bytes(&format!("crop/{case}/mask")).iter().map(|&pixel| pixel == 1).collect();
        let mask = Rle::from_mask(&Mask::from_fn([45, 60], |row, column| pixels[row * 60 + column]));
        let background = if case % 2 == 1 { Background::Zeroed } else { Background::Kept };
        let crop = MaskCrop::new(&image, &mask, [1.0, 1.25, 2.0][case % 3], background, 32, 8);
        let expected = golden.bytes(&format!("crop/{case}/image"));
        let differ = crop.image().as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        assert!(differ.clone().all(|levels| levels <= 1), "case {case}");
        assert!(differ.filter(|&levels| levels > 0).count() < 40, "case {case}");
        let patches: Vec<u8> = crop.patches().iter().map(|&patch| u8::from(patch)).collect();
        assert_eq!(patches, golden.bytes(&format!("crop/{case}/patches")), "case {case}");
        crops.push(crop);
    }
    // A batch gives what each crop gives alone, and the mask counts.
    let together = clip.crops(&crops);
    for (crop, vector) in crops.iter().zip(&together) {
        check("alone", &clip.crops(std::slice::from_ref(crop)).concat(), vector, VECTOR);
        let whole = clip.images(&[crop.image()]).concat();
        let is_all = crop.patches().iter().all(|&patch| patch);
        let differs = whole.iter().zip(vector).any(|(a, b)| (a - b).abs() > 1e-3);
        assert_eq!(differs, !is_all, "an unmasked vector is another one, unless every patch is seen");
    }
}

/// Crops of the synthetic scenes, and the words that are true of each; scenes that the small CLIP was not trained on.
fn crops_of_scenes(clip: &Clip) -> (Vec<MaskCrop>, Vec<Vec<String>>) {
    let options = SynthOptions { side_px_min: 96, side_px_max: 192, ..SynthOptions::default() };
    let scenes = SynthScenes { seed: 4217, first_index: 50_000, n_scenes: 60, options };
    let (mut crops, mut said) = (Vec::new(), Vec::new());
    for at in 0..scenes.n_samples() {
        let sample = scenes.sample(at).expect("a scene");
        for object in sample.objects.iter().filter(|object| object.mask.area_px() >= 144) {
            let scale = 1.0 + (crops.len() % 5) as f64 / 4.0;
            let background = if crops.len() % 2 == 0 { Background::Kept } else { Background::Zeroed };
            crops.push(MaskCrop::new(&sample.image, &object.mask, scale, background, clip.side_px(), clip.patch_px()));
            said.push(object.captions[0].split(' ').map(str::to_owned).collect());
        }
    }
    (crops, said)
}

/// Of crops of the same kind (for kinds: of any) that differ in an attribute, the share in which the text finds the right one.
fn found(clip: &Clip, vectors: &[Vec<f32>], said: &[Vec<String>], names: &[&str]) -> f64 {
    let kinds = class_names();
    let kind_of = |at: usize| said[at].last().expect("a caption ends with the kind").as_str();
    let value_of = |at: usize| names.iter().find(|name| said[at].iter().any(|word| word == *name)).copied();
    let is_kind = kinds.iter().any(|kind| kind == names[0]);
    let (mut right, mut tries) = (0, 0);
    for at in 0..said.len() {
        let Some(value) = value_of(at) else { continue };
        // One crop of each other value, the next after this one.
        let mut candidates = BTreeMap::from([(Some(value), at)]);
        for other in (at + 1..said.len()).chain(0..at).filter(|&other| is_kind || kind_of(other) == kind_of(at)) {
            candidates.entry(value_of(other)).or_insert(other);
        }
        let text = if is_kind { format!("a {value}") } else { format!("a {value} {}", kind_of(at)) };
        let text = clip.texts(&[text]).expect("short").remove(0);
        let cosine = |at: usize| vectors[at].iter().zip(&text).map(|(a, b)| a * b).sum::<f32>();
        let best = candidates.values().copied().max_by(|&a, &b| cosine(a).total_cmp(&cosine(b)));
        right += usize::from(best == Some(at));
        tries += usize::from(candidates.len() > 1);
    }
    f64::from(right as u32) / f64::from(tries as u32)
}

/// Shares of kinds and of colours that the small CLIP must find.
const FOUND: [f64; 2] = [0.65, 0.65];

/// As `fixtures/clip_synth.py` says of itself, with the crops and the output token that sees the mask only, as training has them.
#[test]
fn the_small_clip_finds_what_a_text_says() {
    let clip = Clip::open(&path("clip_synth"), &cpu()).expect("a committed fixture");
    let (crops, said) = crops_of_scenes(&clip);
    let vectors = clip.crops(&crops);
    let kinds = class_names();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let shares = [&kinds[..], &COLOUR_NAMES].map(|names| found(&clip, &vectors, &said, names));
    for (share, expected) in shares.into_iter().zip(FOUND) {
        assert!(share >= expected, "found {shares:?}, expected at least {FOUND:?}");
    }
}
