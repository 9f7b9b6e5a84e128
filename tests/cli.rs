//! The real program in a fresh folder: output, files, and errors for bad input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sam_image::decode_rgb;
use sam_model::init::initialise;
use sam_model::weights::{ExportFormat, ImageSizePolicy, StateDict, export};
use sam_model::{SamConfig, Variant};

use crate::fixture::{cpu, f32_of, path};

pub(crate) struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sam_train(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sam-train"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("the program starts")
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.sam_train(arguments);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{out}\n{err}");
        out
    }

    /// Bad input: exit code 2, a message with all `parts`, no panic.
    pub(crate) fn refused(&self, arguments: &[&str], parts: &[&str]) {
        let output = self.sam_train(arguments);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{out}\n{err}");
        assert!(!err.contains("panicked"), "{err}");
        for part in parts {
            assert!(err.contains(part), "{arguments:?} must say `{part}`:\n{err}");
        }
    }
}

pub(crate) fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn joined<'a>(base: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [base, rest].concat()
}

pub(crate) fn fixture(name: &str) -> String {
    path(name).display().to_string()
}

const PHOTO: &str = "preprocess/photo.png"; // 211 px wide, 157 px high

#[test]
fn inspect_describes_a_checkpoint() {
    let run = Run::new();
    let text = run.ok(&["inspect", &fixture("tiny_sam.safetensors")]);
    for part in ["official", "a custom SAM at 64 px", "202 x F32", "complete"] {
        assert!(text.contains(part), "{text}");
    }
    let text = run.ok(&["inspect", &fixture("tiny_sam_wrapped_f16.pth"), "--tensors"]);
    for part in ["{\"model\": ..}", "F16", "image_encoder.pos_embed", "[1, 8, 8, 24]"] {
        assert!(text.contains(part), "{text}");
    }
    let text = run.ok(&["inspect", &fixture("tiny_hf")]);
    assert!(text.contains("Hugging Face") && text.contains("complete"), "{text}");
    let text = run.ok(&["inspect", &fixture("tiny_mae.pth")]);
    for part in ["masked autoencoder", "encoder only", "cls_token: SAM has no class token", "fresh "] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn inspect_describes_a_clip() {
    let run = Run::new();
    let mut fingerprints = Vec::new();
    for (name, layout) in [("clip/hf", "Hugging Face"), ("clip/open_clip", "OpenAI")] {
        let text = run.ok(&["inspect", &fixture(name)]);
        let parts =
            ["CLIP with vectors of 24", "image: 32 px, patch 8", "16 of 614 tokens", "QuickGELU", "logit_scale:"];
        for part in parts.into_iter().chain([layout, "complete"]) {
            assert!(text.contains(part), "{part}: {text}");
        }
        fingerprints.extend(text.lines().find(|line| line.starts_with("fingerprint")).map(str::to_owned));
    }
    assert!(fingerprints.len() == 2 && fingerprints[0] == fingerprints[1], "{fingerprints:?}");
    // Where a segmenter is asked for, it is named.
    let (clip, photo) = (fixture("clip/hf"), fixture(PHOTO));
    run.refused(
        &["predict", "--checkpoint", &clip, "--image", &photo, "--point", "1,1", "--out", "out"],
        &["a CLIP, which"],
    );
}

#[test]
fn predict_writes_masks_an_overlay_and_logits() {
    let run = Run::new();
    let (checkpoint, photo) = (fixture("tiny_sam.safetensors"), fixture(PHOTO));
    let base = ["predict", "--checkpoint", &checkpoint, "--image", &photo];
    let text = run.ok(&joined(
        &base,
        &[
            "--point",
            "100,80",
            "--point",
            "20,20,0",
            "--box",
            "40,30,160.5,140",
            "--multimask",
            "--out",
            "out",
            "--logits",
            "first.safetensors",
            "--save-embedding",
            "photo.embedding",
        ],
    ));
    assert_eq!(text.matches("out/mask_").count(), 3, "{text}");
    let dict = StateDict::open(&run.path("first.safetensors")).expect("a safetensors file");
    assert_eq!(dict.tensors["low_res_logits"].shape, [3, 32, 32]);
    assert_eq!(dict.tensors["logits"].shape, [3, 157, 211]);
    assert_eq!(dict.tensors["iou_predictions"].shape, [3]);
    let logits = dict.read_f32("logits").expect("readable");
    for (index, logits) in logits.chunks(157 * 211).enumerate() {
        let mask = decode_rgb(&run.path(&format!("out/mask_{index}.png"))).expect("a PNG");
        assert_eq!(mask.dimensions(), (211, 157));
        let agree = mask.pixels().zip(logits).all(|(pixel, &logit)| pixel.0[0] == if logit > 0.0 { 255 } else { 0 });
        assert!(agree, "mask {index} is where its logits are above zero");
    }
    assert_eq!(decode_rgb(&run.path("out/overlay.png")).expect("a PNG").dimensions(), (3 * 211, 157));

    // A second call refines the first mask from the saved embedding, with the same result as from the image.
    let refine = ["--point", "100,80", "--mask-input", "first.safetensors"];
    run.ok(&joined(
        &base,
        &[&refine[..], &["--out", "a", "--logits", "a.safetensors", "--embedding", "photo.embedding"]].concat(),
    ));
    run.ok(&joined(&base, &[&refine[..], &["--out", "b", "--logits", "b.safetensors"]].concat()));
    let read = |name: &str| StateDict::open(&run.path(name)).expect("ours").read_f32("logits").expect("readable");
    assert_eq!(read("a.safetensors"), read("b.safetensors"));
    assert_ne!(read("a.safetensors"), logits[..157 * 211]);

    // Masks of an earlier call are replaced only on request.
    run.refused(&joined(&base, &["--point", "1,1", "--out", "out"]), &["mask_0.png", "--force"]);
    run.ok(&joined(&base, &["--point", "1,1", "--out", "out", "--force"]));
    assert!(!run.path("out/mask_1.png").exists(), "no mask of the earlier call remains");
}

/// `| head` stops the printing, not the work.
#[cfg(unix)]
#[test]
fn a_closed_pipe_does_not_stop_the_work() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.pth");
    let mut export = Command::new(env!("CARGO_BIN_EXE_sam-train"))
        .args(["export", "--checkpoint", &checkpoint, "--format", "safetensors", "--out", "a.safetensors"])
        .current_dir(run.folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(export.stdout.take());
    assert_eq!(export.wait().expect("it ends").code(), Some(0));
    assert!(run.ok(&["inspect", "a.safetensors"]).contains("complete"));
}

#[test]
fn nothing_is_replaced_or_lost_without_force() {
    let run = Run::new();
    let (checkpoint, photo) = (fixture("tiny_sam.safetensors"), fixture(PHOTO));
    let base = ["predict", "--checkpoint", &checkpoint, "--image", &photo, "--point", "9,9", "--out", "out"];
    run.ok(&joined(&base, &["--save-embedding", "photo.embedding"]));
    // A call that fails deletes nothing.
    run.refused(&["predict", "--checkpoint", "gone.pth", "--image", &photo, "--out", "out", "--force"], &["gone.pth"]);
    run.refused(&joined(&base[..5], &["--out", "out", "--force"]), &["no prompt"]);
    assert!(run.path("out/mask_0.png").exists() && run.path("out/overlay.png").exists());
    std::fs::write(run.path("precious"), "mine").expect("written");
    for option in ["--logits", "--save-embedding"] {
        run.refused(&joined(&base[..7], &["--out", "b", option, "precious"]), &["precious", "exists", "--force"]);
        run.refused(&joined(&base[..7], &["--out", "b", option, "no/such/folder"]), &["no/such", "create it first"]);
    }
    assert_eq!(std::fs::read_to_string(run.path("precious")).expect("there"), "mine");
    run.refused(&joined(&base[..7], &["--out", "precious", "--force"]), &["is a file"]);
    run.refused(&["export", "--checkpoint", &checkpoint, "--format", "pth", "--out", ".", "--force"], &["is a folder"]);

    // An embedding belongs to one image, not to one size.
    let other = run.path("other.png");
    let mut changed = decode_rgb(&path(PHOTO)).expect("a fixture");
    changed.put_pixel(3, 3, image::Rgb([1, 2, 3]));
    sam_image::save_rgb_png(&changed, &other).expect("written");
    let other = ["predict", "--checkpoint", &checkpoint, "--image", "other.png", "--point", "9,9", "--out", "c"];
    run.refused(&joined(&other, &["--embedding", "photo.embedding"]), &["another image"]);
}

#[test]
fn every_layout_predicts_the_same() {
    let run = Run::new();
    let photo = fixture(PHOTO);
    let mut results = Vec::new();
    for (at, file) in ["tiny_sam.safetensors", "tiny_sam.pth", "tiny_hf"].into_iter().enumerate() {
        let (out, logits) = (format!("out{at}"), format!("{at}.safetensors"));
        let checkpoint = fixture(file);
        let prompt = ["--image", &photo, "--box", "30,30,120,120", "--out", &out, "--logits", &logits];
        run.ok(&[&["predict", "--checkpoint", &checkpoint], &prompt[..]].concat());
        results.push(StateDict::open(&run.path(&logits)).expect("ours").read_f32("logits").expect("readable"));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn export_writes_each_format_and_replaces_nothing() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.pth");
    for (format, out) in [("safetensors", "a.safetensors"), ("pth", "a.pth"), ("huggingface", "hf")] {
        let arguments = ["export", "--checkpoint", &checkpoint, "--format", format, "--out", out, "--keep-image-size"];
        let text = run.ok(&arguments);
        assert!(text.contains("read back and equal") && text.contains("202 tensors"), "{text}");
        let text = run.ok(&["inspect", out]);
        assert!(text.contains("complete") && text.contains("64 px"), "{text}");
        run.refused(&arguments, &["exists", "--force"]);
        run.ok(&[&arguments[..], &["--force"]].concat());
    }
    let text = run.ok(&["export", "--checkpoint", &checkpoint, "--format", "safetensors", "--out", "b.safetensors"]);
    assert!(text.contains("1024 px") && text.contains("image_encoder.pos_embed: [1, 8, 8, 24] to [1, 128, 128, 24]"));

    let mae = fixture("tiny_mae.pth");
    let arguments = ["export", "--checkpoint", &mae, "--format", "safetensors", "--out", "c.safetensors"];
    run.refused(&arguments, &["encoder only", "--fresh-seed"]);
    let text = run.ok(&[&arguments[..], &["--fresh-seed", "1"]].concat());
    for part in ["dropped cls_token", "fresh   mask_decoder.iou_token.weight", "read back and equal"] {
        assert!(text.contains(part), "{text}");
    }
    run.refused(
        &["export", "--checkpoint", &checkpoint, "--format", "pth", "--out", "d.pth", "--fresh-seed", "1"],
        &["MAE"],
    );
}

/// A black and white mask in the image's size is a mask prompt; deep images and stacks are refused as in data sets.
#[test]
fn a_mask_image_is_a_prompt_and_deep_images_need_a_rule() {
    let run = Run::new();
    let (checkpoint, photo) = (fixture("tiny_sam.safetensors"), fixture(PHOTO));
    let mask = |x: u32, y: u32| image::Luma([255 * u8::from((60..140).contains(&x) && (40..110).contains(&y))]);
    image::GrayImage::from_fn(211, 157, mask).save(run.path("mask.png")).expect("saved");
    image::GrayImage::from_fn(157, 211, mask).save(run.path("turned.png")).expect("saved");
    image::GrayImage::from_fn(211, 157, |x, _| image::Luma([(x / 60) as u8])).save(run.path("ids.png")).expect("saved");
    let base = ["predict", "--checkpoint", &checkpoint, "--out", "out", "--force"];
    let predict = |more: &[&str]| joined(&joined(&base, &["--image", &photo]), more).join(" ");
    let arguments = predict(&["--mask-input", "mask.png"]);
    run.ok(&arguments.split(' ').collect::<Vec<_>>());
    assert!(run.path("out/mask_0.png").is_file());
    for (input, part) in [
        ("turned.png", "must have the size of the image, 157 x 211"),
        ("ids.png", "must be of one object"),
        (photo.as_str(), "a label image must be"),
        ("missing.png", "missing.png"),
    ] {
        let arguments = predict(&["--mask-input", input]);
        run.refused(&arguments.split(' ').collect::<Vec<_>>(), &[part]);
    }
    std::fs::write(run.path("notes.txt"), "x").expect("written");
    let arguments = predict(&["--mask-input", "notes.txt"]);
    run.refused(
        &arguments.split(' ').collect::<Vec<_>>(),
        &["a mask input is a file that `--logits` wrote, or a mask image"],
    );

    let deep = image::ImageBuffer::from_fn(64, 48, |x, y| image::Luma([(x * 64 + y) as u16]));
    deep.save(run.path("deep.png")).expect("saved");
    let of_deep = ["--image", "deep.png", "--point", "5,5"];
    run.refused(&joined(&base, &of_deep), &["deep.png", "would look black", "percentile"]);
    run.ok(&joined(&joined(&base, &of_deep), &["--intensity", "percentile"]));
    run.refused(&joined(&joined(&base, &of_deep), &["--intensity", "dark"]), &["--intensity", "percentile"]);
}

#[test]
fn bad_checkpoints_are_rejected() {
    let run = Run::new();
    let whole = std::fs::read(path("tiny_sam.safetensors")).expect("a committed fixture");
    let whole_pth = std::fs::read(path("tiny_sam.pth")).expect("a committed fixture");
    std::fs::write(run.path("cut.safetensors"), &whole[..whole.len() - 1000]).expect("written");
    std::fs::write(run.path("cut.pth"), &whole_pth[..whole_pth.len() / 2]).expect("written");
    std::fs::write(run.path("notes.txt"), "a list of epochs").expect("written");
    std::fs::write(run.path("empty.pth"), "").expect("written");
    run.refused(&["inspect", "cut.safetensors"], &["cut.safetensors", "truncated"]);
    run.refused(&["inspect", "cut.pth"], &["cut.pth", "truncated"]);
    run.refused(&["inspect", "notes.txt"], &["notes.txt", "not a checkpoint"]);
    run.refused(&["inspect", "empty.pth"], &["empty.pth", "empty"]);
    run.refused(&["inspect", "missing.pth"], &["missing.pth: No such file or directory (os error 2)\n"]);
    run.refused(&["inspect", "."], &["model.safetensors"]);
    run.refused(&["inspect", &fixture("malicious.pth")], &["malicious.pth", "system", "rejected"]);
    assert!(!Path::new("pwned").exists() && !run.path("pwned").exists(), "nothing was executed");
    // Part of a model, and a file with other tensors.
    run.refused(&["inspect", &fixture("tiny_sam_legacy.pth")], &["tiny_sam_legacy.pth"]);
    run.refused(&["inspect", &fixture("tiny_golden.safetensors")], &["no known layout"]);
    for (key, name) in [
        ("image_encoder.trunk.blocks.0.attn.qkv.weight", "SAM 2"),
        ("mask_decoder.hf_token.weight", "HQ-SAM"),
        ("image_encoder.layers.0.blocks.0.conv1.c.weight", "a TinyViT has 4"),
    ] {
        let tensors = [(key.to_owned(), (vec![2], vec![0; 8]))].into();
        crate::weights::write_safetensors(&tensors, &run.path("foreign.safetensors"));
        run.refused(&["inspect", "foreign.safetensors"], &[name]);
    }
}

#[test]
fn bad_images_and_prompts_are_rejected() {
    let run = Run::new();
    let (checkpoint, photo) = (fixture("tiny_sam.safetensors"), fixture(PHOTO));
    let predict = |image: &str, rest: &[&str], parts: &[&str]| {
        let base = ["predict", "--checkpoint", &checkpoint, "--image", image, "--out", "out"];
        run.refused(&[&base[..], rest].concat(), parts);
        assert!(!run.path("out").exists(), "nothing is written for bad input");
    };
    predict(&photo, &[], &["no prompt"]);
    predict(&photo, &["--point", "211,10"], &["211", "211 px wide and 157 px high"]);
    predict(&photo, &["--point", "-3,10"], &["-3", "must lie in the image"]);
    predict(&photo, &["--box", "50,10,40,60"], &["X0 < X1"]);
    predict(&photo, &["--box", "300,200,400,300"], &["overlap"]);
    predict(&photo, &["--point", "here"], &["here", "not a number"]);
    predict(&photo, &["--box", "1,2,3"], &["four numbers"]);
    predict(&photo, &["--mask-input", &checkpoint], &["low_res_logits"]);
    predict(&photo, &["--point", "1,1", "--embedding", &checkpoint], &["not an image embedding"]);
    predict(&photo, &["--point", "1,1", "--device", "cuda:x"], &["cuda:x"]);
    #[cfg(not(feature = "cuda"))]
    predict(&photo, &["--point", "1,1", "--device", "cuda"], &["not in this build", "--features cuda"]);

    std::fs::write(run.path("noise.png"), [7u8; 300]).expect("written");
    std::fs::write(run.path("cut.png"), &std::fs::read(path(PHOTO)).expect("a fixture")[..2000]).expect("written");
    let mut no_pixels = std::fs::read(path(PHOTO)).expect("a fixture");
    no_pixels[16..20].copy_from_slice(&[0; 4]); // the width in a PNG's header
    std::fs::write(run.path("zero.png"), no_pixels).expect("written");
    predict("noise.png", &["--point", "1,1"], &["noise.png"]);
    predict("cut.png", &["--point", "1,1"], &["cut.png"]);
    predict("zero.png", &["--point", "1,1"], &["zero.png"]);
    predict("gone.png", &["--point", "1,1"], &["gone.png"]);
}

/// The published size, with random weights, through the program.
#[test]
fn full_vit_b_at_1024_runs_end_to_end() {
    let run = Run::new();
    let config = SamConfig::published(Variant::VitB);
    let sam = initialise(config.init(&cpu()).expect("published sizes fit"), 1);
    let file = run.path("vit_b.safetensors");
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Published);
    export(&sam, options, &file).expect("written");
    drop(sam);
    let text = run.ok(&["inspect", "vit_b.safetensors"]);
    assert!(text.contains("vit_b at 1024 px") && text.contains("314 (314 x F32), 93735728 values"), "{text}");
    let photo = fixture(PHOTO);
    let base = ["predict", "--checkpoint", "vit_b.safetensors", "--image", &photo, "--point", "100,80", "--multimask"];
    run.ok(&joined(&base, &["--out", "out", "--logits", "logits.safetensors"]));
    let dict = StateDict::open(&run.path("logits.safetensors")).expect("a safetensors file");
    assert_eq!(dict.tensors["low_res_logits"].shape, [3, 256, 256]);
    let logits = dict.read_f32("logits").expect("readable");
    assert!(logits.len() == 3 * 157 * 211 && logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn help_is_there_for_every_command() {
    let run = Run::new();
    assert!(run.ok(&["--help"]).contains("predict"));
    for command in ["inspect", "export", "predict", "eval", "probe", "data"] {
        assert!(run.ok(&[command, "--help"]).contains("Usage"), "{command}");
    }
    for command in ["check", "preview", "convert", "split", "synth"] {
        assert!(run.ok(&["data", command, "--help"]).contains("Usage"), "data {command}");
    }
    run.refused(&["predcit"], &["predict"]);
}

#[test]
fn the_version_names_the_build() {
    let run = Run::new();
    let text = run.ok(&["--version"]);
    assert!(text.starts_with(concat!("sam-train ", env!("CARGO_PKG_VERSION"), " (")), "{text}");
    for part in ["features: ", "release", std::env::consts::ARCH] {
        assert!(text.contains(part), "{text}");
    }
    // Built from a git checkout, it has the commit first.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if root.join(".git").exists() {
        let commit = text.split(['(', ',']).nth(1).unwrap_or_default();
        assert!(commit.len() == 12 && commit.chars().all(|digit| digit.is_ascii_hexdigit()), "{text}");
    }
}

#[test]
fn the_schema_is_printed() {
    let run = Run::new();
    let schema: serde_json::Value = serde_json::from_str(&run.ok(&["schema"])).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let steps = &schema["properties"]["schedule"]["properties"]["steps"];
    assert_eq!((&steps["type"], &steps["minimum"]), (&"integer".into(), &1.into()));
}

/// Whatever command needs it.
#[test]
fn a_missing_published_checkpoint_is_an_error_that_says_where_it_is() {
    let run = Run::new();
    let url = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth";
    let photo = fixture(PHOTO);
    for arguments in [
        &["inspect", "sam_vit_b_01ec64.pth"][..],
        &["export", "--checkpoint", "weights/vit_b", "--format", "pth", "--out", "a.pth"],
        &["predict", "--checkpoint", "sam_vit_b.pth", "--image", &photo, "--point", "1,1", "--out", "masks"],
        &["eval", "--checkpoint", "sam_vit_b_01ec64.pth", "--data", "."],
    ] {
        run.refused(arguments, &[url, "375 MB"]);
    }
    run.refused(&["inspect", "facebook/sam-vit-base"], &["hf download facebook/sam-vit-base --local-dir sam-vit-base"]);
    let absent = run.sam_train(&["inspect", "runs/mine.safetensors"]);
    assert!(!texts(&absent).1.contains("http"), "nothing is published under that name: {}", texts(&absent).1);
    // A file that is not what its name says.
    std::fs::copy(fixture("tiny_sam.safetensors"), run.path("sam_vit_b_01ec64.pth")).expect("copied");
    run.refused(&["inspect", "sam_vit_b_01ec64.pth"], &["another size than the published file", url]);
    let text = run.ok(&["inspect", &fixture("tiny_sam.safetensors")]);
    assert!(text.lines().any(|line| line.starts_with("sha256 ") && line.len() == 12 + 64), "{text}");
}

#[test]
fn doctor_says_what_the_build_can_do_here() {
    let run = Run::new();
    let text = run.ok(&["doctor"]);
    for part in ["sam-train   ", "system  ", "processor", "threads, SIMD: ", " available", "device      cpu: usable"] {
        assert!(text.contains(part), "must contain {part:?}: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&run.ok(&["doctor", "--json"])).expect("JSON");
    assert_eq!(json["devices"][0], serde_json::json!({ "name": "cpu", "state": "usable" }));
    assert!(json["machine"]["memory_bytes"].as_u64() >= json["machine"]["available_bytes"].as_u64());
    assert!(json["folder"]["available_bytes"].is_u64() && json["problems"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    // A device that the build lacks is no fault; the command that adds it is said.
    if !cfg!(feature = "cuda") {
        assert!(text.contains("cuda:0: not in this build (cargo build --release --features cuda)"), "{text}");
    }

    // The home folder is not named, and nothing is left in the folder that was tried.
    let home = run.path("home");
    std::fs::create_dir_all(home.join("data")).expect("made");
    let output = Command::new(env!("CARGO_BIN_EXE_sam-train"))
        .args(["doctor", "--dir", "home/data"])
        .current_dir(run.path(""))
        .env("HOME", std::path::absolute(&home).expect("a path"))
        .output()
        .expect("the program starts");
    let text = texts(&output).0;
    assert!(text.contains(&format!("~{}data: ", std::path::MAIN_SEPARATOR)), "{text}");
    assert_eq!(std::fs::read_dir(home.join("data")).expect("listed").count(), 0);
    run.refused(&["doctor", "--dir", "gone"], &["--dir gone"]);

    // A checkpoint that is not what its name says is broken: exit code 1.
    std::fs::copy(fixture("tiny_sam.safetensors"), run.path("sam_vit_b_01ec64.pth")).expect("copied");
    let output = run.sam_train(&["doctor", "--checkpoint", "sam_vit_b_01ec64.pth"]);
    let (text, error) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(error.contains("another size than the published file") && text.contains("cpu: usable"), "{text}{error}");
    let text = run.ok(&["doctor", "--checkpoint", &fixture("tiny_sam.safetensors")]);
    assert!(text.contains("not a published file that is known here"), "{text}");
}
