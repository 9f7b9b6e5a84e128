//! Texts in the annotator, through the real server: a text as prompt and clicks that refine it, what is kept of it, bad texts, and
//! models that take texts or do not. CLIP and model have random weights.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use sam_infer::cache::CacheDtype;
use sam_infer::clip::Clip;
use sam_infer::{MaskOutput, Modality, Prediction, Predictor, Prompt, TextVector};
use sam_model::TextPromptConfig;
use sam_model::weights::{Checkpoint, ExportFormat, ImageSizePolicy, LoadOptions, export};
use serde_json::{Value, json};

use crate::annotate_cli::Served;
use crate::cli::{Run, fixture};
use crate::fixture::f32_of;

/// A model that takes texts, and whose masks are others for other texts: its projection is large. As a file of its official part, and
/// one of its text prompt beside it.
fn write_model(to: &Path) {
    let (device, path) = (Device::flex(), fixture("tiny_sam.safetensors"));
    let clip = Clip::open(Path::new(&fixture("clip/hf")), &device).expect("a CLIP");
    let checkpoint = Checkpoint::open(Path::new(&path)).expect("a committed fixture");
    let mut options = LoadOptions { seed: 4, ..checkpoint.default_options() };
    let fingerprint = format!("{:016x}", clip.fingerprint());
    options.config.text = Some(TextPromptConfig { width: clip.width(), clip: fingerprint });
    let (mut sam, _) = checkpoint.load_with(&options, &device).expect("it fits");
    let text = sam.prompt_encoder.text_prompt.as_mut().expect("asked for");
    text.projection.weight = text.projection.weight.clone().map(|weight| weight * 40.0);
    export(&sam, f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep), to).expect("written");
}

/// A project of two photographs whose model takes texts, with their CLIP in its settings.
pub(crate) fn text_project() -> Run {
    let run = Run::new();
    write_model(&run.path("model.safetensors"));
    std::fs::create_dir_all(run.path("photos/day 1")).expect("made");
    for name in ["photos/a.png", "photos/day 1/b.png"] {
        std::fs::copy(fixture("preprocess/photo.png"), run.path(name)).expect("copied");
    }
    let clip = fixture("clip/hf");
    let init = [
        "annotate",
        "init",
        "--images",
        "photos",
        "--checkpoint",
        "model.safetensors",
        "--clip",
        &clip,
        "--out",
        "project",
    ];
    run.ok(&init);
    run
}

/// What is asked of the first image.
fn ask(server: &Served, prompt: &Value, more: &Value) -> (u16, Value) {
    let image = server.get("/api/project").1["images"][0]["id"].clone();
    let mut body = json!({"image": image, "tab": "tab-00001", "number": 1, "prompt": prompt});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    server.post("/api/predict", &body)
}

fn scores(answer: &Value) -> Vec<f64> {
    let candidates = answer["candidates"].as_array().unwrap_or_else(|| panic!("{answer}"));
    candidates.iter().map(|candidate| candidate["predicted_iou"].as_f64().expect("a number")).collect()
}

fn near(got: &[f64], expected: &Prediction) {
    let expected = &expected.iou_predictions;
    let is_near = got.iter().zip(expected).all(|(got, expected)| (got - f64::from(*expected)).abs() < 1e-3);
    assert!(got.len() == expected.len() && is_near, "{got:?} {expected:?}");
}

#[test]
fn a_text_is_a_prompt_that_clicks_refine() {
    let run = text_project();
    let settings = std::fs::read_to_string(run.path("project/engine.toml")).expect("written");
    assert!(settings.contains("clip = \"/"), "{settings}");
    let server = Served::start(&run.path("project"), 0);
    assert_eq!(server.get("/api/project").1["takes_texts"], true);
    let (status, ring) = ask(&server, &json!({"text": "a red ring"}), &json!({}));
    assert_eq!(status, 200, "{ring}");
    let click = json!([[100.5, 80.5, 1]]);
    let both = json!({"text": "a red ring", "points": click});
    let refined = [0, 1].map(|choice| ask(&server, &both, &json!({"choice": choice})).1);

    // The definition: three masks for the text; then text, click and the mask that was chosen.
    let device = Device::flex();
    let predictor = Predictor::from_checkpoint(&run.path("model.safetensors"), &device).expect("a model").0;
    let clip = Clip::open(Path::new(&fixture("clip/hf")), &device).expect("a CLIP");
    let vector = clip.texts(&["a red ring"]).expect("a vector").concat();
    let text = Some(TextVector { values: vector.into(), modality: Modality::Text });
    let image = sam_image::decode_rgb(&run.path("photos/a.png")).expect("an image");
    let cache = predictor.open_cache(&run.path("project/embeddings"), CacheDtype::F16).expect("a cache");
    let embedding = predictor.embed_with(&cache, &image).expect("an embedding");
    let predict = |prompt: &Prompt, output| predictor.predict(&embedding, prompt, output).expect("valid");
    let alone = predict(&Prompt { text: text.clone(), ..Prompt::default() }, MaskOutput::Multi);
    near(&scores(&ring), &alone);
    for (choice, answer) in refined.iter().enumerate() {
        let prompt = Prompt {
            points_xy_px: vec![([100.5, 80.5], true)],
            mask_logits: Some(alone.mask_logits(choice)),
            text: text.clone(),
            ..Prompt::default()
        };
        near(&scores(answer), &predict(&prompt, MaskOutput::Single));
    }
    assert_ne!(scores(&refined[0]), scores(&refined[1]), "the mask that was chosen is part of the prompt");
    // The text is part of every prompt, and with a box it is not ambiguous.
    let other = ask(&server, &json!({"text": "two stars"}), &json!({})).1;
    assert_ne!(scores(&other), scores(&ring));
    assert_eq!(ask(&server, &json!({"text": "a red ring"}), &json!({})).1["candidates"], ring["candidates"]);
    assert_ne!(scores(&ask(&server, &json!({"points": click}), &json!({})).1).len(), 1);
    let boxed = ask(&server, &json!({"text": "a red ring", "box": [20, 20, 120, 90]}), &json!({})).1;
    assert_eq!(scores(&boxed).len(), 1);
    assert_ne!(scores(&boxed), scores(&ask(&server, &json!({"box": [20, 20, 120, 90]}), &json!({})).1));
    bad_texts_are_refused(&server);
    what_was_typed_is_kept(&run, &server, &refined[1]);
    let start = Instant::now();
    for _ in 0..20 {
        ask(&server, &json!({"text": "a red ring"}), &json!({}));
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3 / 20.0;
    let _ =
        writeln!(std::io::stderr(), "a text whose vector is known, with the look at the project: {milliseconds:.1} ms");
}

fn bad_texts_are_refused(server: &Served) {
    let long = "star ".repeat(100);
    let endless = "s".repeat(1001);
    for (text, words) in [("", "1 to 1000"), (" \n", "say what to look for"), (&long, "token"), (&endless, "1001")] {
        let (status, answer) = ask(server, &json!({"text": text}), &json!({}));
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(words), "{text:.20}: {status} {answer}");
    }
    assert_eq!(ask(server, &json!({"text": 3}), &json!({})).0, 400);
    assert_eq!(ask(server, &json!({"text": null, "points": []}), &json!({})).0, 400, "no prompt at all");
}

fn what_was_typed_is_kept(run: &Run, server: &Served, answer: &Value) {
    let image = server.get("/api/project").1["images"][0]["id"].clone();
    let typed = "<b>a \"red\" ring</b>";
    let mask = |text: &str| {
        json!({
            "uuid": "mask-0001", "segmentation": {"size": [157, 211], "counts": "PPf0"}, "source": "assisted",
            "prompts": {"points": [[100.5, 80.5, 1]], "text": text}, "seconds": 2.5, "model": answer["model"],
        })
    };
    let add = |op: &str, mask: &Value| {
        let change = json!({"kind": "add", "mask": mask});
        server.post("/api/operations", &json!({"op": op, "image": image, "base": 0, "change": change}))
    };
    let mut painted = mask(typed);
    let bitmap = sam_image::Mask::from_fn([157, 211], |row, column| row < 20 && column < 30);
    painted["segmentation"]["counts"] = json!(sam_image::Rle::from_mask(&bitmap).to_coco_string());
    let mut endless = painted.clone();
    endless["prompts"]["text"] = json!("s".repeat(1001));
    assert_eq!(add("op-000001", &endless).0, 400);
    let (status, applied) = add("op-000002", &painted);
    assert_eq!(status, 200, "{applied}");
    let file: Value =
        serde_json::from_slice(&std::fs::read(run.path("project/annotations/a.json")).expect("there")).expect("JSON");
    assert_eq!(file["annotations"][0]["prompts"]["text"], typed);
    let journal = std::fs::read_to_string(run.path("project/journal.jsonl")).expect("there");
    assert!(journal.contains("\"texts\":1"), "{journal}");
    assert!(run.ok(&["data", "check", "project"]).contains("objects  1"));
}

/// What a server says on standard error until it listens.
fn said(run: &Run, more: &[&str]) -> (Served, String) {
    let path = run.path("said.txt");
    let server = Served::start_with(&run.path("project"), 0, more, File::create(&path).expect("made").into());
    (server, std::fs::read_to_string(path).expect("written"))
}

#[test]
fn a_model_without_texts_has_no_field_and_the_server_says_why() {
    let run = text_project();
    let project = run.path("project");
    let (server, words) = said(&run, &[]);
    assert!(words.contains("texts: the page has a field for them"), "{words}");

    // A round puts a model in use that takes none, then one that does.
    std::fs::create_dir_all(project.join("rounds/0001")).expect("made");
    let copy = |from: &str, to: &str| std::fs::copy(from, project.join("rounds/0001").join(to)).expect("copied");
    let use_model = |round: u32, file: &str| {
        let text = json!({"round": round, "checkpoint": format!("rounds/0001/{file}")}).to_string();
        std::fs::write(project.join("model.json"), text).expect("written");
    };
    let takes_texts = |name: &str| -> bool {
        let start = Instant::now();
        loop {
            let pulse = server.get("/api/pulse").1;
            if pulse["model_name"] == name {
                return pulse["takes_texts"] == true;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{pulse}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    copy(&fixture("tiny_sam.safetensors"), "plain.safetensors");
    use_model(1, "plain.safetensors");
    assert!(!takes_texts("round 1"));
    let (status, answer) = ask(&server, &json!({"text": "a ring"}), &json!({}));
    assert!(status == 400 && answer["error"].as_str().is_some_and(|e| e.contains("takes no texts")), "{answer}");
    assert_eq!(ask(&server, &json!({"points": [[9, 9, 1]]}), &json!({})).0, 200, "clicks are answered as before");
    for name in ["model.safetensors", "model.text.safetensors"] {
        copy(run.path(name).to_str().expect("UTF-8"), name);
    }
    use_model(2, "model.safetensors");
    assert!(takes_texts("round 2"));
    assert_eq!(ask(&server, &json!({"text": "a ring"}), &json!({})).0, 200);
    drop(server);
    let said_later = std::fs::read_to_string(run.path("said.txt")).expect("there");
    assert!(said_later.contains("no field for texts: this model takes no texts"), "{said_later}");

    // At the start: a model without texts; no CLIP at all; another CLIP; what is no CLIP.
    use_model(1, "plain.safetensors");
    let (server, words) = said(&run, &[]);
    assert!(words.contains("no field for texts: this model takes no texts"), "{words}");
    drop(server);
    use_model(2, "model.safetensors");
    let settings = std::fs::read_to_string(project.join("engine.toml")).expect("there");
    let without: String = settings.lines().filter(|line| !line.starts_with("clip")).flat_map(|l| [l, "\n"]).collect();
    std::fs::write(project.join("engine.toml"), without).expect("written");
    let (server, words) = said(&run, &[]);
    assert!(words.contains("no field for texts: texts need the CLIP"), "{words}");
    assert_eq!(server.get("/api/project").1["takes_texts"], false);
    let (status, answer) = ask(&server, &json!({"text": "a ring"}), &json!({}));
    assert!(status == 400 && answer["error"].as_str().is_some_and(|e| e.contains("need the CLIP")), "{answer}");
    drop(server);
    let (server, _) = said(&run, &["--clip", &fixture("clip/open_clip")]);
    assert_eq!(server.get("/api/project").1["takes_texts"], true, "the same CLIP in another layout");
    drop(server);
    run.refused(&["annotate", "project", "--no-browser", "--clip", "nowhere"], &["--clip nowhere"]);
    let sam = fixture("tiny_sam.safetensors");
    let init = [
        "annotate",
        "init",
        "--images",
        "photos",
        "--checkpoint",
        "model.safetensors",
        "--clip",
        &sam,
        "--out",
        "other",
    ];
    run.refused(&init, &["--clip", "tiny_sam"]);
    assert!(!run.path("other").exists());
}

/// Who has no CLIP and no model with texts hears nothing of them.
#[test]
fn without_texts_nothing_is_said() {
    let run = crate::annotate_cli::project("cat");
    let (server, words) = said(&run, &[]);
    assert!(!words.contains("texts"), "{words}");
    assert_eq!(server.get("/api/pulse").1["takes_texts"], false);
    let settings = std::fs::read_to_string(run.path("project/engine.toml")).expect("written");
    assert!(!settings.contains("clip"), "{settings}");
}
