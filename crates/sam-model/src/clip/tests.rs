//! Tokens against the reference's, and what any text and any file may do.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use super::*;
use crate::weights::{StateDict, WeightsError, write_f32_tensors};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");

fn inner(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    match tokenizer.encode(text) {
        Ok(tokens) => tokens[1..tokens.len() - 1].to_vec(),
        Err(TokenizerError::Empty) => Vec::new(),
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn tokens_equal_the_references() {
    let text = std::fs::read_to_string(format!("{FIXTURES}/clip/tokens.json")).expect("a committed fixture");
    let cases: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let small = |folder: &str| {
        ClipCheckpoint::open(format!("{FIXTURES}/clip/{folder}").as_ref()).expect("a committed fixture").tokenizer
    };
    for (name, tokenizer) in [("openai", Tokenizer::openai()), ("small", small("hf")), ("small", small("open_clip"))] {
        let cases = cases[name].as_array().expect("a list");
        assert!(cases.len() >= 4);
        for case in cases {
            let text = case[0].as_str().expect("a text");
            let mut expected: Vec<u32> = serde_json::from_value(case[1].clone()).expect("numbers");
            // A text that names the end token ends there.
            if let Some(end) = expected.iter().position(|&token| token == tokenizer.end()) {
                expected.truncate(end);
            }
            assert_eq!(inner(&tokenizer, text), expected, "{name}: {text}");
        }
    }
}

#[test]
fn empty_and_long_texts_are_errors_that_say_so() {
    let tokenizer = Tokenizer::openai();
    for text in ["", "  \t\n", "\u{0}", "&nbsp;"] {
        assert_eq!(tokenizer.encode(text), Err(TokenizerError::Empty), "{text:?}");
    }
    assert_eq!(tokenizer.encode(&"wheel ".repeat(75)).map(|tokens| tokens.len()), Ok(77));
    let error = tokenizer.encode(&"wheel ".repeat(78)).expect_err("too long").to_string();
    assert!(error.contains("80 tokens") && error.contains("at most 77") && error.contains("`wheel wheel"), "{error}");
    let error = tokenizer.encode("\u{1b}[31m").expect("short");
    assert!(!error.is_empty());
    // A word without spaces is no reason to compute for hours.
    let word: String =
        (0..200_000u32).map(|at| char::from(b'a' + (at.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    assert!(matches!(tokenizer.encode(&word), Err(TokenizerError::TooLong { tokens, .. }) if tokens > 20_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_has_tokens_of_the_vocabulary_or_an_error(text in "\\PC{0,40}|[ -~]{0,60}|(&#?x?[0-9a-z]{0,9};?|\u{fe0f}|\u{301}){0,9}") {
        thread_local!(static TOKENIZER: Tokenizer = Tokenizer::openai());
        TOKENIZER.with(|tokenizer| match tokenizer.encode(&text) {
            Ok(tokens) => {
                assert!(tokens.len() <= 77 && tokens[0] == 49406 && tokens.last() == Some(&49407), "{tokens:?}");
                assert!(tokens.iter().all(|&token| token < 49408));
            }
            Err(TokenizerError::Empty) => {}
            Err(TokenizerError::TooLong { tokens, .. }) => assert!(tokens > 77),
        });
    }
}

#[test]
fn published_sizes_have_the_published_number_of_elements() {
    use burn::module::Module;
    let tower = |dim, depth, num_heads| (dim, depth, num_heads, 4 * dim);
    let (text, image) = (tower(768, 12, 12), tower(1024, 24, 16));
    let config = ClipConfig {
        width: 768,
        text: TextTowerConfig {
            vocabulary: 49408,
            context: 77,
            dim: text.0,
            depth: text.1,
            num_heads: text.2,
            mlp_dim: text.3,
            activation: crate::Activation::QuickGelu,
            norm_eps: config::CLIP_LAYER_NORM_EPS,
        },
        image: ImageTowerConfig {
            side_px: 336,
            patch_px: 14,
            dim: image.0,
            depth: image.1,
            num_heads: image.2,
            mlp_dim: image.3,
            activation: crate::Activation::QuickGelu,
            norm_eps: config::CLIP_LAYER_NORM_EPS,
            mean: config::OPENAI_MEAN,
            std: config::OPENAI_STD,
        },
    };
    let model = config.init(&burn::tensor::Device::flex()).expect("sizes fit");
    // beyond the temperature, which is no part of the towers
    assert_eq!((model.text.num_params(), model.visual.num_params()), (123_650_304, 304_293_888));
    assert_eq!(crate::weights::parameter_shapes(&model).len(), 445);
}

/// A copy of a fixture folder, to be damaged.
fn copy_of(folder: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(format!("{FIXTURES}/clip/{folder}")).expect("a fixture").flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    copy
}

fn replace(folder: &tempfile::TempDir, file: &str, from: &str, to: &str) {
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).expect("a text");
    assert!(text.contains(from), "{file} has {from}");
    std::fs::write(path, text.replace(from, to)).expect("written");
}

fn rejection(path: &Path) -> String {
    let report = ClipCheckpoint::open(path).and_then(|checkpoint| checkpoint.report());
    report.expect_err("must be rejected").to_string()
}

#[test]
fn files_beside_the_weights_that_do_not_fit_are_errors() {
    for (of, file, from, to, expected) in [
        (
            "hf",
            "config.json",
            "\"quick_gelu\"",
            "\"gelu_new\"",
            "hidden_act must be `quick_gelu` or `gelu`, got `gelu_new`",
        ),
        ("hf", "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "5 heads of the text tower"),
        ("hf", "config.json", "\"eos_token_id\": 613", "\"eos_token_id\": 7", "eos_token_id is 7, the end token"),
        ("hf", "config.json", "{", "", "config.json is damaged"),
        ("hf", "preprocessor_config.json", "\"resample\": 3", "\"resample\": 2", "resample must be 3 (bicubic), got 2"),
        ("hf", "merges.txt", "i n\n", "i\n", "a line must be two symbols, got `i`"),
        ("hf", "merges.txt", "i n\n", "i nonsense\n", "the symbol `nonsense` has no id"),
        ("hf", "vocab.json", "<|endoftext|>", "<end>", "the symbol `<|endoftext|>` has no id"),
        ("hf", "vocab.json", ": 613", ": 614", "text tower has 614 tokens; the vocab.json beside it has 615"),
        ("open_clip", "tokenizer.json", "_suffix\": \"</w>\"", "_suffix\": \"@\"", "words end with `</w>`"),
        ("open_clip", "open_clip_config.json", "\"bicubic\"", "\"bilinear\"", "interpolation must be `bicubic`"),
        (
            "open_clip",
            "open_clip_config.json",
            "\"heads\": 4",
            "\"act_kwargs\": {}",
            "text_cfg.act_kwargs is not supported",
        ),
    ] {
        let folder = copy_of(of);
        replace(&folder, file, from, to);
        let error = rejection(folder.path());
        assert!(error.contains(expected), "{file}, {to}: {error}");
        let folder = folder.path().to_string_lossy();
        assert!(error.contains(&*folder), "{file}, {to}: {error}");
    }
}

#[test]
fn what_is_not_determined_is_said() {
    let folder = copy_of("hf");
    std::fs::remove_file(folder.path().join("config.json")).expect("removed");
    let alone = ClipCheckpoint::open(folder.path()).expect("sizes are in the tensors");
    let assumed = alone.report().expect("it fits").assumed.join("\n");
    assert!(assumed.contains("1 attention heads in the text tower") && assumed.contains("QuickGELU"), "{assumed}");
    std::fs::remove_file(folder.path().join("vocab.json")).expect("removed");
    let error = rejection(folder.path());
    assert!(error.contains("has 614 tokens") && error.contains("49408"), "{error}");
}

#[test]
fn strange_tensors_are_named() {
    let dict = StateDict::open(format!("{FIXTURES}/clip/open_clip/open_clip_model.safetensors").as_ref());
    let dict = dict.expect("a fixture");
    let folder = copy_of("open_clip");
    let path = folder.path().join("open_clip_model.safetensors");
    type Change = fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>);
    let cases: [(Change, &str); 6] = [
        (
            |tensors| tensors.retain(|(key, ..)| key != "visual.ln_pre.bias"),
            "1 missing from the file:\n    `visual.ln_pre.bias` [32]",
        ),
        (|tensors| tensors.push(("ln_extra.weight".into(), vec![1], vec![0.0])), "`ln_extra.weight` [1]"),
        (
            |tensors| {
                let tensor = tensors.iter_mut().find(|(key, ..)| key == "ln_final.bias").expect("there");
                (tensor.1, tensor.2) = (vec![31], vec![0.0; 31]);
            },
            "`ln_final.bias`: expected [32], got [31]",
        ),
        (|tensors| tensors.retain(|(key, ..)| key.starts_with("visual.")), "a CLIP's image tower alone"),
        (
            |tensors| tensors.push(("logit_bias".into(), vec![1], vec![0.0])),
            "a SigLIP checkpoint, which is not supported",
        ),
        (
            |tensors| {
                let tensor = tensors.iter_mut().find(|(key, ..)| key == "visual.positional_embedding").expect("there");
                (tensor.1, tensor.2) = (vec![16, 32], vec![0.0; 16 * 32]);
            },
            "`visual.positional_embedding` must be a class token's and those of a square of patches, got 16 positions",
        ),
    ];
    for (change, expected) in cases {
        let mut tensors: Vec<_> = dict
            .tensors
            .iter()
            .map(|(key, info)| (key.clone(), info.shape.clone(), dict.read_f32(key).expect("floats")))
            .collect();
        change(&mut tensors);
        let tensors: Vec<_> =
            tensors.iter().map(|(key, shape, values)| (key.as_str(), shape.as_slice(), values.as_slice())).collect();
        write_f32_tensors(&path, &tensors, HashMap::new()).expect("written");
        let error = rejection(folder.path());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_segmenter_is_no_clip_and_a_clip_no_segmenter() {
    for name in ["tiny_sam.safetensors", "tiny_hf", "tiny_sam_wrapped_f16.pth"] {
        let error = rejection(format!("{FIXTURES}/{name}").as_ref());
        assert!(error.contains("a segmenter (SAM), not a CLIP"), "{error}");
    }
    assert!(rejection(format!("{FIXTURES}/tiny_mae.pth").as_ref()).contains("a masked autoencoder, not a CLIP"));
    for name in ["clip/hf", "clip/open_clip/open_clip_model.safetensors"] {
        let error = crate::weights::Checkpoint::open(format!("{FIXTURES}/{name}").as_ref()).expect_err("no segmenter");
        assert!(
            matches!(error, WeightsError::UnknownLayout { .. }) && error.to_string().contains("a CLIP, which"),
            "{error}"
        );
    }
}

#[test]
fn a_program_of_openais_is_rejected_with_the_file_to_take() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ViT-L-14-336px.pt");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).expect("created"));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for member in ["x/data.pkl", "x/constants.pkl", "x/code/__torch__.py"] {
        zip.start_file(member, options).expect("started");
        zip.write_all(b"\x80\x02}.").expect("written");
    }
    zip.finish().expect("finished");
    let error = rejection(&path);
    for part in ["TorchScript", "openai/clip-vit-large-patch14-336", "open_clip_model.safetensors", "336px.pt"] {
        assert!(error.contains(part), "{error}");
    }
}

/// What people train with open_clip is named `module.`; what they publish may be in half precision.
#[test]
fn prefixes_are_removed_and_said() {
    let dict = StateDict::open(format!("{FIXTURES}/clip/open_clip/open_clip_model.safetensors").as_ref());
    let dict = dict.expect("a fixture");
    let folder = copy_of("open_clip");
    let path = folder.path().join("open_clip_model.safetensors");
    let tensors: Vec<_> = dict
        .tensors
        .iter()
        .map(|(key, info)| (format!("module.{key}"), &info.shape, dict.read_f32(key).expect("floats")))
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(key, shape, values)| (key.as_str(), shape.as_slice(), values.as_slice())).collect();
    write_f32_tensors(&path, &tensors, HashMap::new()).expect("written");
    let device = burn::tensor::Device::flex();
    let load =
        |path: &Path| ClipCheckpoint::open(path).and_then(|checkpoint| checkpoint.load(&device)).expect("it fits");
    let (_, fingerprint, report) = load(&path);
    assert!(report.notes.iter().any(|note| note.contains("`module.`")), "{report:?}");
    assert_eq!((report.used, report.dropped.len()), (61, 1));
    // The same CLIP has one fingerprint, in any layout and under any prefix.
    for name in ["hf", "open_clip"] {
        assert_eq!(load(format!("{FIXTURES}/clip/{name}").as_ref()).1, fingerprint, "{name}");
    }
}
