//! Low-rank adapters: outputs and gradients equal PEFT's and SAMed's (`fixtures/generate_lora.py`); runs resume to the bit;
//! the real program trains, merges, predicts and continues, and what it writes is what it validated.

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_learn::options::{Activations, LoraOptions};
use sam_model::lora::{AdapterFile, AdapterFormat};
use sam_model::weights::{Checkpoint, StateDict};
use sam_model::{MaskOutput, Sam};
use serde_json::Value;

use crate::cli::{Run, fixture};
use crate::fixture::{
    Golden, LOGITS, assert_same_weights, check, device, max_abs_diff, norm, official_gradients, path,
    repeats_to_the_bit, tiny, values,
};
use crate::train_cli::{SMALL, read, with_config};
use crate::training_runs::{Setting, assert_same_lines, bytes, folder, run_in_shards, small_sam};

/// Relative to a gradient's norm, as for the network without adapters.
const RELATIVE: f32 = 1e-3;

struct Answer {
    embeddings: Tensor<4>,
    masks: Tensor<4>,
    ious: Tensor<2>,
}

fn answer(sam: &Sam) -> Answer {
    let (tiny, device) = (Golden::open("tiny_golden.safetensors"), sam.device());
    let embeddings = sam.encode(tiny.tensor::<4>("input_image", &device));
    let decoded = sam.decode(embeddings.clone(), &[0], &tiny.prompts("points", &device), MaskOutput::Multi);
    Answer { embeddings, masks: decoded.low_res_logits, ious: decoded.iou_predictions }
}

fn peft() -> AdapterFile {
    AdapterFile::open(&path("lora/peft")).expect("a committed fixture")
}

#[test]
fn adapters_of_peft_give_what_peft_gives_beside_the_weights_and_merged() {
    let (golden, file) = (Golden::open("lora/golden.safetensors"), peft());
    assert_eq!((file.format, file.base.as_deref(), file.layers.len()), (AdapterFormat::Peft, Some("tiny_hf"), 7));
    let q_proj = &file.layers["mask_decoder.transformer.layers.0.cross_attn_image_to_token.q_proj"];
    assert_eq!((q_proj.rank, q_proj.scale), (2, 2.5), "alpha_pattern and rank_pattern");
    for sam in [file.attach_to(tiny(&device())).expect("it fits"), file.merge_into(tiny(&device())).expect("it fits")] {
        let Answer { embeddings, masks, ious } = answer(&sam);
        check("embeddings", &values(embeddings), &golden.values("image_embeddings"), LOGITS);
        check("masks", &values(masks), &golden.values("pred_masks"), LOGITS);
        check("scores", &values(ious), &golden.values("iou_scores"), LOGITS);
    }
    let before = values(answer(&tiny(&device())).masks);
    assert!(max_abs_diff(&before, &golden.values("pred_masks")) > 0.1, "the adapters matter");
}

#[test]
fn gradients_of_the_factors_equal_pytorchs() {
    let (golden, device) = (Golden::open("lora/golden.safetensors"), device().autodiff());
    let sam = peft().attach_to(tiny(&device)).expect("it fits");
    let Answer { embeddings, masks, ious } = answer(&sam);
    let loss = (embeddings * golden.tensor::<4>("weight/embeddings", &device)).sum()
        + (masks * golden.tensor::<4>("weight/masks", &device)).sum()
        + (ious * golden.tensor::<2>("weight/iou", &device)).sum();
    let expected = golden.values("loss")[0];
    let got = loss.clone().into_scalar::<f32>();
    assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "loss {got}, expected {expected}");
    let grads = GradientsParams::from_grads(loss.backward(), &sam);
    let (found, without) = official_gradients(&sam, &grads);
    let mut n = 0;
    for (key, gradient) in found.into_iter().filter(|(key, _)| key.contains(".lora_")) {
        let theirs = key.replace("image_encoder.blocks", "vision_encoder.layers");
        let expected = golden.values(&format!("grad/base_model.model.{theirs}"));
        check(&key, &gradient, &expected, RELATIVE * norm(&expected));
        n += 1;
    }
    assert_eq!(n, 14, "two factors of seven layers");
    for layer in peft().layers.keys() {
        assert!(without.contains(&format!("{layer}.weight")), "the weight of {layer} is frozen");
    }
}

#[test]
fn files_of_samed_are_read() {
    let (golden, file) = (Golden::open("lora/golden.safetensors"), AdapterFile::open(&path("lora/samed.pth")));
    let file = file.expect("a committed fixture");
    assert_eq!((file.format, file.layers.len(), file.whole.len()), (AdapterFormat::SamEd, 4, 137));
    let sam = file.merge_into(tiny(&device())).expect("it fits");
    check("embeddings", &values(answer(&sam).embeddings), &golden.values("samed/image_embeddings"), LOGITS);
}

fn lora(dropout: f64) -> LoraOptions {
    let targets = ["q", "v", "proj"].map(str::to_owned).to_vec();
    LoraOptions { rank: 2, alpha: 4.0, dropout, targets, base: "base.safetensors".to_owned() }
}

fn setting(steps: u64, dropout: f64) -> Setting {
    let mut setting = Setting::new(steps);
    setting.options.lora = Some(lora(dropout));
    setting
}

/// With a moving average, layer decay, drop path and dropout of the adapters, and with recomputed activations.
#[test]
fn adapted_runs_resume_to_the_bit() {
    for activations in [Activations::Keep, Activations::Recompute] {
        let (whole, resumed) = (folder(), folder());
        let setting = |stop_after| {
            let mut setting = setting(6, 0.1);
            setting.stop_after = stop_after;
            setting.options.run.activations = activations;
            setting
        };
        setting(None).run(whole.path()).expect("it runs");
        setting(Some(3)).run(resumed.path()).expect("it stops");
        setting(None).run(resumed.path()).expect("it resumes");
        assert_same_lines(whole.path(), resumed.path());
        for name in ["best.safetensors", "last.safetensors", "adapter/adapter_model.safetensors"] {
            assert_same_weights(&whole.path().join(name), &resumed.path().join(name));
        }
    }
}

/// The export is the base with the adapters: nothing else of the encoder changes, and merging the folder gives the export.
#[test]
fn the_checkpoint_is_the_base_model_with_the_adapter_folder_merged() {
    let run = folder();
    let mut setting = setting(4, 0.0);
    setting.options.lora.as_mut().expect("given").targets.push("mask_decoder.transformer.*.q_proj".to_owned());
    setting.run(run.path()).expect("it runs");
    let base = small_sam(32, 16, 16);
    let last = StateDict::open(&run.path().join("last.safetensors")).expect("written");
    for tensor in sam_model::weights::named_tensors(&base) {
        let is_same = last.read_f32(&tensor.key).expect("f32") == tensor.values();
        let is_adapted = tensor.key.ends_with("attn.qkv.weight") || tensor.key.ends_with("attn.proj.weight");
        let learns = !tensor.key.starts_with("image_encoder.") || is_adapted;
        assert!(is_same || learns, "{} is frozen", tensor.key);
        assert!(!is_same || !is_adapted, "{} has an adapter that learned", tensor.key);
        // Keys are neither queries nor values.
        if tensor.key.ends_with("attn.qkv.weight") {
            let (got, before) = (last.read_f32(&tensor.key).expect("f32"), tensor.values());
            let third = got.len() / 3;
            assert!(got[third..2 * third] == before[third..2 * third], "keys are not adapted");
        }
    }
    let folder = AdapterFile::open(&run.path().join("adapter-last")).expect("written");
    let merged = folder.merge_into(base).expect("it fits");
    for tensor in sam_model::weights::named_tensors(&merged) {
        check(&tensor.key, &tensor.values(), &last.read_f32(&tensor.key).expect("f32"), 1e-6);
    }
}

#[test]
fn shards_add_up_and_drop_repeatably() {
    let (one, two) = (folder(), folder());
    run_in_shards(one.path(), 1, Some(lora(0.0))).expect("it runs");
    run_in_shards(two.path(), 2, Some(lora(0.0))).expect("it runs");
    let [one, two] =
        [one.path(), two.path()].map(|path| AdapterFile::open(&path.join("adapter-last")).expect("written").layers);
    for (name, factors) in one {
        check(&name, &factors.a, &two[&name].a, 1e-4);
    }
    let dropped = [(); 2].map(|()| {
        let run = folder();
        run_in_shards(run.path(), 2, Some(lora(0.1))).expect("it runs");
        bytes(run.path(), "last.safetensors")
    });
    assert!(!repeats_to_the_bit() || dropped[0] == dropped[1], "equal seeds, equal draws");
}

/// A configuration that adapts the tiny checkpoint on synthetic scenes.
fn adapting(lora: &str) -> Run {
    let sizes = &SMALL[SMALL.find("[model]").expect("there")..SMALL.find("[data]").expect("there")];
    let run = with_config(&SMALL.replace(sizes, &format!("[model]\ncheckpoint = \"base.safetensors\"\n{lora}")));
    std::fs::copy(path("tiny_sam.safetensors"), run.path("base.safetensors")).expect("copied");
    run
}

fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let dict = StateDict::open(path).expect("written");
    dict.tensors.keys().map(|key| (key.clone(), dict.read_f32(key).expect("f32"))).collect()
}

fn assert_close(one: &Path, other: &Path, tolerance: f32) {
    let (one, other) = (tensors(one), tensors(other));
    assert_eq!(one.len(), other.len());
    for ((key, one), (_, other)) in one.iter().zip(&other) {
        check(key, one, other, tolerance);
    }
}

#[test]
fn the_program_adapts_merges_predicts_and_continues() {
    let run = adapting("[lora]\nrank = 2\ntargets = [\"q\", \"v\", \"mlp\"]\n");
    let out = run.ok(&["--config", "train.toml", "--plain"]);
    for part in ["learns ", "(adapters, ", "; frozen: image_encoder", "its adapters:    "] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let config = read(&run, "run/adapter/adapter_config.json");
    for part in ["\"LORA\"", "vision_encoder.layers.0.attn.qkv", "base.safetensors", "\"mask_decoder\""] {
        assert!(config.contains(part), "{part}: {config}");
    }
    let out = run.ok(&["inspect", "run/adapter"]);
    assert!(out.contains("8 x rank 2, scale 1; 4 x rank 4, scale 1") && out.contains("PEFT"), "{out}");

    // Merged by hand it is the best checkpoint.
    let export =
        ["export", "--checkpoint", "base.safetensors", "--format", "safetensors", "--keep-image-size", "--out"];
    run.ok(&[&export[..], &["merged.safetensors", "--adapter", "run/adapter"]].concat());
    assert_close(&run.path("merged.safetensors"), &run.path("run/best.safetensors"), 1e-6);
    let photo = fixture("preprocess/photo.png");
    let predict = ["predict", "--image", &photo, "--point", "90,60", "--checkpoint"];
    run.ok(&[&predict[..], &["run/best.safetensors", "--out", "a", "--logits", "a.st"]].concat());
    run.ok(&[&predict[..], &["base.safetensors", "--adapter", "run", "--out", "b", "--logits", "b.st"]].concat());
    assert_close(&run.path("a.st"), &run.path("b.st"), 1e-5);

    // An evaluation of the base model with the adapters is that of the checkpoint.
    run.ok(&["data", "synth", "--out", "scenes", "--train", "2", "--val", "2", "--seed", "3"]);
    let eval = ["eval", "--data", "scenes", "--protocol", "box", "--checkpoint"];
    run.ok(&[&eval[..], &["base.safetensors", "--adapter", "run", "--out", "eval-a"]].concat());
    run.ok(&[&eval[..], &["run/best.safetensors", "--out", "eval-b"]].concat());
    run.ok(&[&eval[..], &["base.safetensors", "--out", "eval-c"]].concat());
    let scores = ["eval-a", "eval-b", "eval-c"].map(|name| {
        let results: Value = serde_json::from_str(&read(&run, &format!("{name}/results.json"))).expect("JSON");
        results["metrics"]["miou_box"]["value"].as_f64().expect("measured")
    });
    assert!((scores[0] - scores[1]).abs() < 1e-4 && scores[0] != scores[2], "{scores:?}");
    assert!(read(&run, "eval-a/results.json").contains("\"adapter\""), "the results say what was merged");
    let two = ["run/best.safetensors", "--checkpoint", "base.safetensors", "--adapter", "run"];
    run.refused(&[&eval[..], &two[..]].concat(), &["--adapter run", "one checkpoint"]);

    // Goes on from the adapters, or from the merged weights without any.
    let continued = ["--config", "train.toml", "--plain", "--set", "model.adapter=run/adapter", "--set"];
    let out = run.ok(&[&continued[..], &["run.dir=more"]].concat());
    assert!(out.contains("adapters of 12 layers") && out.contains("are continued"), "{out}");
    let [before, more] = ["run", "more"].map(|name| AdapterFile::open(&run.path(name).join("adapter-last")));
    assert_ne!(before.expect("written").layers, more.expect("written").layers);
    let out = run.ok(&["--resume", "more", "--plain", "--set", "schedule.steps=6"]);
    assert!(out.contains("step 6/6"), "{out}");
    run.refused(&[&continued[..], &["run.dir=x", "--set", "lora.rank=3"]].concat(), &["rank 4", "rank 6"]);
    run.refused(&[&continued[..], &["run.dir=x", "--set", "lora.targets=[\"q\"]"]].concat(), &["lora.targets"]);
    assert!(!run.path("x").exists(), "nothing was written");
    let config = read(&run, "train.toml").replace("[lora]\nrank = 2\ntargets = [\"q\", \"v\", \"mlp\"]\n", "");
    std::fs::write(run.path("plain.toml"), config).expect("written");
    let merged = ["--config", "plain.toml", "--plain", "--set", "model.adapter=run", "--set", "run.dir=merged"];
    let out = run.ok(&merged);
    assert!(out.contains("are merged") && !run.path("merged/adapter").exists(), "{out}");
}

#[test]
fn the_program_reads_what_others_write_and_refuses_what_is_not_plain_lora() {
    let run = Run::new();
    let base = fixture("tiny_sam.safetensors");
    let export = ["export", "--checkpoint", &base, "--format", "safetensors", "--keep-image-size", "--out"];
    for adapter in ["lora/peft", "lora/samed.pth"] {
        let out = run.ok(&["inspect", &fixture(adapter)]);
        assert!(out.contains("LoRA") && out.contains("--adapter"), "{out}");
        let out = run.ok(&[&export[..], &["m.safetensors", "--force", "--adapter", &fixture(adapter)]].concat());
        assert!(out.contains("merged "), "{out}");
        let merged = Checkpoint::open(&run.path("m.safetensors")).expect("written").load(&device()).expect("it fits").0;
        let file = AdapterFile::open(&path(adapter)).expect("a fixture");
        let expected = answer(&file.attach_to(tiny(&device())).expect("it fits"));
        check(adapter, &values(answer(&merged).masks), &values(expected.masks), 1e-4);
    }

    let folder = run.path("changed");
    std::fs::create_dir(&folder).expect("made");
    std::fs::copy(path("lora/peft/adapter_model.safetensors"), folder.join("adapter_model.safetensors"))
        .expect("copied");
    let config = std::fs::read_to_string(path("lora/peft/adapter_config.json")).expect("a fixture");
    let refused = |from: &str, to: &str, parts: &[&str]| {
        assert!(config.contains(from), "{from}");
        std::fs::write(folder.join("adapter_config.json"), config.replace(from, to)).expect("written");
        run.refused(&["inspect", "changed"], parts);
    };
    for name in ["use_dora", "lora_bias", "fan_in_fan_out"] {
        refused(&format!("\"{name}\": false"), &format!("\"{name}\": true"), &[name, "plain LoRA"]);
    }
    refused("\"layer_replication\": null", "\"layer_replication\": [[0, 4]]", &["layer_replication"]);
    refused("\"LORA\"", "\"IA3\"", &["IA3", "LORA"]);
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", &["pissa", "base weights"]);
    refused("{", "[", &["damaged"]);
    // Of another model.
    std::fs::write(folder.join("adapter_config.json"), &config).expect("written");
    let other = run.sam_train(&["inspect", &fixture("tiny_mae.pth")]);
    assert!(other.status.success());
    run.refused(
        &[&export[..], &["x.safetensors", "--adapter", &fixture("tiny_sam.pth")]].concat(),
        &["holds no adapter", "PEFT"],
    );
    run.refused(&[&export[..], &["x.safetensors", "--adapter", "nowhere"]].concat(), &["nowhere"]);
}

#[test]
fn slips_in_lora_and_patterns_are_errors_before_anything_is_written() {
    let run = adapting("[lora]\n");
    let refused = |sets: &[&str], parts: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["--config", "train.toml", "--plain"].into_iter().chain(sets).collect();
        run.refused(&arguments, parts);
        assert!(!run.path("run").exists(), "nothing was written");
    };
    refused(&["lora.targets=[\"que\"]"], &["lora.targets", "\"q\""]);
    refused(&["lora.targets=[\"mask_decoder.transformer.*.q_prj\"]"], &["q_prj", "q_proj", "lora.targets"]);
    refused(&["lora.rank=0"], &["lora.rank"]);
    refused(&["lora.rank=100"], &["lora.rank", "at most 24"]);
    refused(&["lora.dropout=0.1", "lora.targets=[\"q\",\"mask_decoder\"]"], &["dropout", "lora.targets"]);
    refused(&["optimiser.learn=[\"image_encoder\"]"], &["beside adapters", "optimiser.learn"]);
    refused(&["optimiser.learn=[\"*.bais\"]"], &["*.bais", ".bias", "optimiser.learn"]);
    refused(&["optimiser.learn=[\"mask_decoder\"]", "optimiser.freeze=[\"prompt_encoder\"]"], &["optimiser.freeze"]);
    refused(&["model.init=scratch"], &["lora"]);
}

/// BitFit and its kin: what matches learns, and nothing else.
#[test]
fn only_what_matches_learns() {
    let run = adapting("");
    let out = run.ok(&[
        "--config",
        "train.toml",
        "--plain",
        "--set",
        "optimiser.learn=[\"*.bias\", \"*norm*\"]",
        "--set",
        "optimiser.freeze=[\"image_encoder.neck\"]",
    ]);
    assert!(out.contains("learns ") && out.contains(" of image_encoder, "), "{out}");
    let [before, after] = ["base.safetensors", "run/last.safetensors"].map(|name| tensors(&run.path(name)));
    let mut n_changed = 0;
    for ((key, before), (_, after)) in before.iter().zip(&after) {
        let learns = (key.ends_with(".bias") || key.contains("norm")) && !key.starts_with("image_encoder.neck");
        assert!(before == after || learns, "{key} is frozen");
        n_changed += usize::from(before != after);
    }
    assert!(n_changed > 40, "{n_changed} tensors changed");
}
