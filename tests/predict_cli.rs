//! `sam-train predict` on several images through the real program: prompts from files, every format, bad input.

use sam_data::{Source, SourceOptions};
use sam_image::decode_rgb;
use serde_json::Value;

use crate::cli::{Run, fixture, texts};
use crate::fixture::path;

/// Pictures in `in` with boxes and points of three objects of two classes.
fn with_prompts() -> Run {
    let run = Run::new();
    std::fs::create_dir_all(run.path("in")).expect("made");
    for picture in ["wide", "middle"] {
        let name = format!("{picture}.png");
        std::fs::copy(path(&format!("automatic/{name}")), run.path(&format!("in/{name}"))).expect("copied");
    }
    let json = r#"[{"image": "middle.png", "points": [[40, 30]], "label": "disc"},
        {"image": "middle.png", "box": [10, 10, 50, 40], "label": "box"},
        {"image": "wide.png", "points": [[20, 20], [3, 3, 0]], "box": [8, 8, 40, 30], "label": "disc"}]"#;
    let csv = "image,label,object,x,y,positive,x0,y0,x1,y1\nmiddle.png,disc,,40,30,,,,,\nmiddle.png,box,,,,,10,10,50,40\n\
               wide.png,disc,1,20,20,,8,8,40,30\nwide.png,,1,3,3,0,,,,\n";
    std::fs::write(run.path("in/prompts.json"), json).expect("written");
    std::fs::write(run.path("prompts.csv"), csv).expect("written");
    run
}

fn predict<'a>(weights: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["predict", "--checkpoint", weights], more].concat()
}

fn json(run: &Run, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(run.path(name)).expect("there")).expect("JSON")
}

#[test]
fn prompts_of_many_images_give_masks_in_every_format() {
    let run = with_prompts();
    let weights = fixture("automatic/weights.safetensors");
    let from_json = ["--prompts", "in/prompts.json", "--multimask"];
    let text = run.ok(&predict(&weights, &[&from_json[..], &["--out", "json", "--format", "json"]].concat()));
    assert!(text.contains("3 objects in 2 of 2 images"), "{text}");
    let objects = json(&run, "json/predictions.json");
    let objects = objects.as_array().expect("a list");
    assert_eq!(objects.iter().map(|object| object["object"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
    assert_eq!(objects[2]["points"], serde_json::json!([[20.0, 20.0, 1.0], [3.0, 3.0, 0.0]]));

    // The same prompts as CSV, and the masks as a data set.
    let from_csv = ["--prompts", "prompts.csv", "--images", "in", "--multimask", "--out", "coco", "--format", "coco"];
    run.ok(&predict(&weights, &from_csv));
    let coco = json(&run, "coco/instances.json");
    let annotations = coco["annotations"].as_array().expect("a list");
    for (annotation, object) in annotations.iter().zip(objects) {
        assert_eq!(annotation["segmentation"], object["segmentation"]);
        assert_eq!(annotation["score"], object["predicted_iou"]);
    }
    let names = coco["categories"].as_array().expect("a list").iter().map(|category| category["name"].as_str());
    assert!(names.eq([Some("box"), Some("disc")]));
    let options = SourceOptions { images: Some(run.path("in")), ..SourceOptions::default() };
    let source = Source::open(&run.path("coco/instances.json"), &options).expect("a data set");
    assert_eq!((source.len(), source.classes().len()), (2, 2));
    // Its boxes are prompts in turn.
    let again = ["--prompts", "coco/instances.json", "--images", "in", "--out", "png"];
    assert!(run.ok(&predict(&weights, &again)).contains("3 objects in 2"));
    for name in ["masks/middle.png/0.png", "masks/middle.png/1.png", "masks/wide.png/0.png", "overlays/wide.png.png"] {
        assert!(run.path(&format!("png/{name}")).is_file(), "{name}");
    }
    // A class has one colour in all images.
    let colours = |name: &str| {
        let classes = decode_rgb(&run.path(name)).expect("an image");
        classes
            .pixels()
            .map(|pixel| pixel.0)
            .filter(|pixel| *pixel != [0; 3])
            .collect::<std::collections::BTreeSet<_>>()
    };
    let (middle, wide) = (colours("png/classes/middle.png.png"), colours("png/classes/wide.png.png"));
    assert!(
        middle.len() <= 2 && wide.len() == 1 && wide.is_subset(&[sam_image::mask_colour_rgb(1)].into()),
        "{middle:?}"
    );

    // One mask of many images is the mask of one.
    run.ok(&predict(&weights, &["--image", "in/middle.png", "--point", "40,30", "--multimask", "--out", "single"]));
    let size = [72, 96];
    let counts = objects[0]["segmentation"]["counts"].as_str().expect("run lengths");
    let mask = sam_image::Rle::from_coco_string(size, counts.as_bytes()).expect("valid").to_mask();
    let differs = |index: usize| {
        let single = decode_rgb(&run.path(&format!("single/mask_{index}.png"))).expect("an image");
        single.pixels().zip(mask.pixels()).filter(|(pixel, set)| (pixel[0] > 0) != **set).count()
    };
    assert!((0..3).any(|index| differs(index) <= 2), "{} {} {}", differs(0), differs(1), differs(2));
}

#[test]
fn one_prompt_for_several_images_and_what_is_wrong() {
    let run = with_prompts();
    let weights = fixture("automatic/weights.safetensors");
    let both = ["--image", "in/wide.png", "in/middle.png", "--point", "20,20", "--out", "out"];
    assert!(run.ok(&predict(&weights, &both)).contains("2 objects in 2 of 2 images"));
    assert!(!run.path("out/classes").exists(), "there are no classes");
    run.refused(&predict(&weights, &both), &["is from an earlier call", "--force"]);
    run.ok(&predict(&weights, &[&both[..], &["--force"]].concat()));
    run.refused(&predict(&weights, &["--image", "in/wide.png", "in/middle.png", "--out", "b"]), &["no prompt"]);
    run.refused(&predict(&weights, &[&both[..], &["--logits", "l"]].concat()), &["--logits is for a single image"]);
    run.refused(&predict(&weights, &["--prompts", "gone.csv", "--out", "b"]), &["gone.csv"]);
    run.refused(&predict(&weights, &["--out", "b"]), &["--image", "required"]);
    std::fs::write(run.path("wrong.csv"), "x,y\n1,2\n").expect("written");
    run.refused(&predict(&weights, &["--prompts", "wrong.csv", "--out", "b"]), &["wrong.csv", "`image` among them"]);

    // What is wrong with an image or an object is said, and the rest is done.
    std::fs::write(run.path("in/some.csv"), "image,x,y\nwide.png,9,9\nwide.png,900,9\ngone.png,1,1\nmiddle.png,9,9\n")
        .expect("written");
    let output = run.sam_train(&predict(&weights, &["--prompts", "in/some.csv", "--out", "some", "--format", "json"]));
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(out.contains("2 objects in 2 of 3 images"), "{out}");
    for part in ["wide.png, object 1: point [900.0, 9.0]", "gone.png", "2 images or prompts could not be used"] {
        assert!(err.contains(part), "must say `{part}`:\n{err}");
    }
    assert_eq!(json(&run, "some/predictions.json").as_array().map(Vec::len), Some(2));
}
