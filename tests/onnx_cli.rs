//! `sam-train export --format onnx` through the real program: files, what is printed, files for annotators, bad input.

use rten::Model;
use sam_model::init::initialise;
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, TextExport, export};
use sam_model::{SamConfig, TextPromptConfig, Variant};

use crate::cli::{Run, fixture, texts};
use crate::fixture::{cpu, f32_of, tiny};

/// Arguments of an export of the tiny model at its own size.
fn arguments<'a>(checkpoint: &'a str, out: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let base = ["export", "--checkpoint", checkpoint, "--format", "onnx", "--keep-image-size", "--out", out];
    [&base, options].concat()
}

fn files(run: &Run, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(run.path(folder)).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn both_graphs_are_written_and_replaced_on_request() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.pth");
    let text = run.ok(&arguments(&checkpoint, "graphs", &[]));
    for part in ["encoder.onnx (", "decoder.onnx (", "nodes", "checked both graphs by running them at 64 px", "within"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(files(&run, "graphs"), ["decoder.onnx", "encoder.onnx"]);
    run.refused(&arguments(&checkpoint, "graphs", &[]), &["exists", "--force"]);

    // What an earlier export left behind is replaced, what is not ours stays.
    run.ok(&arguments(&checkpoint, "graphs", &["--force", "--external-above", "1000"]));
    std::fs::write(run.path("graphs/notes.txt"), "mine").expect("written");
    assert!(run.path("graphs/encoder.onnx.data").exists());
    let text = run.ok(&arguments(&checkpoint, "graphs", &["--force", "--weights", "int8", "--opset", "13"]));
    assert!(text.contains("int8 weights change the embedding by"), "{text}");
    assert_eq!(files(&run, "graphs"), ["decoder.onnx", "encoder.onnx", "notes.txt"]);
    assert_eq!(files(&run, "."), ["graphs"], "nothing is left beside it");

    // Names and shapes of the contract.
    let decoder = Model::load_file(run.path("graphs/decoder.onnx")).expect("a graph");
    let names: Vec<_> =
        decoder.input_ids().iter().map(|&id| decoder.node_info(id).and_then(|node| node.name())).collect();
    let contract = ["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"];
    assert_eq!(names, contract.map(Some));
    let names: Vec<_> =
        decoder.output_ids().iter().map(|&id| decoder.node_info(id).and_then(|node| node.name())).collect();
    assert_eq!(names, ["masks", "iou_predictions", "low_res_masks"].map(Some));
}

#[test]
fn adapters_are_merged_and_an_encoder_alone_needs_a_seed() {
    let run = Run::new();
    let base = fixture("tiny_sam.safetensors");
    run.ok(&arguments(&base, "plain", &[]));
    let adapter = fixture("lora/peft");
    let text = run.ok(&arguments(&base, "adapted", &["--adapter", &adapter]));
    assert!(text.contains("merged"), "{text}");
    let read = |folder: &str| std::fs::read(run.path(folder).join("encoder.onnx")).expect("there");
    assert_ne!(read("plain"), read("adapted"));

    let mae = fixture("tiny_mae.pth");
    run.refused(&arguments(&mae, "mae", &[]), &["encoder only", "--fresh-seed"]);
    assert!(!run.path("mae").exists());
}

#[test]
fn a_text_prompt_is_left_out_and_said() {
    let run = Run::new();
    let mut config = tiny(&cpu()).config().clone();
    config.text = Some(TextPromptConfig { clip: "0123456789abcdef".into(), width: 8 });
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 1);
    let options = ExportOptions {
        format: ExportFormat::Safetensors,
        dtype: Dtype::F32,
        image_size: ImageSizePolicy::Keep,
        text: TextExport::Merged,
    };
    export(&sam, options, &run.path("texts.safetensors")).expect("written");
    let output = run.sam_train(&arguments("texts.safetensors", "graphs", &[]));
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains("the text prompt is left out"), "{err}");
    run.refused(&arguments("texts.safetensors", "b", &["--merge-text"]), &["--merge-text", "no input for texts"]);
}

/// A graph of the quickstart's model in 1024 px, for which other formats resize it, would attend among 65536 cells at once.
#[test]
fn a_graph_has_the_size_of_its_model_and_fits_into_memory() {
    let run = Run::new();
    let base = ["export", "--format", "onnx"];
    let text = run.ok(&[&base[..], &["--checkpoint", &fixture("tiny_sam.pth"), "--out", "graphs"]].concat());
    assert!(text.contains("running them at 64 px") && !text.contains("resized"), "{text}");

    let mut config = SamConfig::published(Variant::VitB);
    let vit = crate::fixture::vit_config(&mut config);
    (vit.image_size, vit.patch_size, vit.embed_dim, vit.depth, vit.num_heads, vit.mlp_dim) = (2048, 4, 8, 1, 1, 8);
    vit.global_attn_indexes = vec![0];
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 1);
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep);
    export(&sam, options, &run.path("large.safetensors")).expect("written");
    let arguments = [&base[..], &["--checkpoint", "large.safetensors", "--out", "large"]].concat();
    run.refused(&arguments, &["2048 px", "512 x 512 cells", "available", "smaller image size"]);
    assert!(!run.path("large").exists());

    let mut config = SamConfig::published(Variant::Mobile);
    let tiny = config.image_encoder.tiny_vit_mut().expect("a TinyViT");
    (tiny.image_size, tiny.embed_dims, tiny.depths) = (1 << 15, [2, 4, 4, 4], [1; 4]);
    (tiny.num_heads, tiny.window_sizes) = ([2; 3], [64; 3]);
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 1);
    export(&sam, options, &run.path("light.safetensors")).expect("written");
    let arguments = [&base[..], &["--checkpoint", "light.safetensors", "--out", "large"]].concat();
    run.refused(&arguments, &["32768 px", "its maps grow with the image", "available", "smaller image size"]);
    assert!(!run.path("large").exists());
}

/// The smallest model with which the annotators work: they fix the image, the grid and the embedding.
fn for_annotators(run: &Run) {
    let mut config = SamConfig::published(Variant::VitB);
    let vit = crate::fixture::vit_config(&mut config);
    (vit.embed_dim, vit.depth, vit.num_heads, vit.mlp_dim, vit.global_attn_indexes) = (8, 1, 1, 8, vec![]);
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 1);
    let options = f32_of(ExportFormat::Safetensors, ImageSizePolicy::Keep);
    export(&sam, options, &run.path("my cells.safetensors")).expect("written");
}

#[test]
fn annotators_get_their_files() {
    let run = Run::new();
    for_annotators(&run);
    let checkpoint = "my cells.safetensors";
    let text = run.ok(&arguments(checkpoint, "anylabeling", &["--annotator", "x-anylabeling"]));
    assert!(text.contains("config.yaml"), "{text}");
    assert_eq!(files(&run, "anylabeling"), ["config.yaml", "decoder.onnx", "encoder.onnx"]);
    let config = std::fs::read_to_string(run.path("anylabeling/config.yaml")).expect("there");
    for line in [
        "type: segment_anything",
        "name: sam-train-my-cells",
        "display_name: \"my cells\"",
        "encoder_model_path: encoder.onnx",
        "decoder_model_path: decoder.onnx",
        "input_size: 1024",
    ] {
        assert!(config.lines().any(|found| found == line), "{line} in\n{config}");
    }
    // Of one mask, from pixels.
    let encoder = Model::load_file(run.path("anylabeling/encoder.onnx")).expect("a graph");
    assert!(encoder.node_id("input_image").is_ok());

    let text = run.ok(&arguments(checkpoint, "cvat", &["--annotator", "cvat", "--weights", "f16"]));
    assert!(text.contains("function.yaml") && text.contains("model_handler.py"), "{text}");
    assert_eq!(files(&run, "cvat"), ["decoder.onnx", "encoder.onnx", "function.yaml", "main.py", "model_handler.py"]);
    let function = std::fs::read_to_string(run.path("cvat/function.yaml")).expect("there");
    assert!(function.contains("name: pth-facebookresearch-sam-vit-h") && function.contains("name: \"my cells\""));
    let decoder = Model::load_file(run.path("cvat/decoder.onnx")).expect("a graph");
    assert!(["xtl", "ytl", "xbr", "ybr"].iter().all(|name| decoder.node_id(name).is_ok()));
    // Those of the other annotator go with the next export.
    run.ok(&arguments(checkpoint, "cvat", &["--annotator", "x-anylabeling", "--force"]));
    assert_eq!(files(&run, "cvat"), ["config.yaml", "decoder.onnx", "encoder.onnx"]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let run = Run::new();
    let checkpoint = fixture("tiny_sam.safetensors");
    for (options, parts) in [
        (&["--opset", "12"][..], &["--opset", "13"][..]),
        (&["--opset", "22"], &["--opset", "21"]),
        (&["--weights", "bf16"], &["--weights", "int8"]),
        (&["--dtype", "f16"], &["--dtype", "--weights"]),
        (&["--annotator", "cvat"], &["CVAT's page", "1024 px", "this one has 64 px"]),
        (&["--annotator", "x-anylabeling"], &["X-AnyLabeling", "1024 px", "this one has 64 px"]),
        (&["--annotator", "x-anylabeling", "--cvat"], &["X-AnyLabeling", "one mask in the size of the image"]),
        (&["--annotator", "labelme"], &["x-anylabeling", "cvat"]),
        (&["--fresh-seed", "1"], &["MAE"]),
    ] {
        run.refused(&arguments(&checkpoint, "graphs", options), parts);
    }
    for option in [
        &["--single-mask"][..],
        &["--preprocess"],
        &["--cvat"],
        &["--weights", "f16"],
        &["--opset", "17"],
        &["--annotator", "cvat"],
    ] {
        let base = ["export", "--checkpoint", &checkpoint, "--format", "pth", "--out", "a.pth"];
        run.refused(&[&base, option].concat(), &[option[0], "is for --format onnx", "pth"]);
    }
    std::fs::write(run.path("file"), "").expect("written");
    run.refused(&arguments(&checkpoint, "file", &["--force"]), &["is a file"]);
    run.refused(&arguments(&checkpoint, "no/such/folder", &[]), &["create it first"]);
    run.refused(&arguments("gone.pth", "graphs", &[]), &["gone.pth"]);
    assert_eq!(files(&run, "."), ["file"]);
}
