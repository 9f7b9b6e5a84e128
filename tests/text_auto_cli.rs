//! `sam-train auto --text` through the real program: which masks stay, what is said of them, other texts and thresholds without the
//! network, bad input. The CLIP has random weights, so scores are compared with their definition and not with what is right.

use std::path::Path;

use burn::tensor::Device;
use sam_data::{Source, SourceOptions};
use sam_image::Rle;
use sam_infer::clip::{Background, Clip, MaskCrop};
use serde_json::{Value, json};

use crate::auto_cli::{arguments, json as read, number, summary, weights, with_pictures};
use crate::cli::{Run, fixture, texts};

const STEMS: [&str; 3] = ["a", "b", "more/a"];

/// All masks of the records, with the names of their images.
fn masks(run: &Run) -> Vec<(String, Value)> {
    let of_image = |stem: &str| {
        let record = read(&run.path(&format!("out/annotations/{stem}.json")));
        let name = record["image"]["file_name"].as_str().expect("a name").to_owned();
        record["annotations"].as_array().expect("masks").iter().map(|mask| (name.clone(), mask.clone())).collect()
    };
    STEMS.iter().flat_map(|stem| -> Vec<_> { of_image(stem) }).collect()
}

fn with_texts<'a>(clip: &'a str, words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let texts = words.iter().flat_map(|word| ["--text", word]);
    ["in", "--clip", clip].into_iter().chain(texts).chain(more.iter().copied()).collect()
}

fn scores(mask: &Value) -> Vec<f64> {
    mask["text_scores"].as_array().expect("scores").iter().map(|score| score.as_f64().expect("a number")).collect()
}

/// The definition: the mean of two crops, compared with each text.
fn defined(clip: &Clip, words: &[&str], image: &Path, mask: &Value) -> Vec<f64> {
    let image = sam_image::decode_rgb(image).expect("an image");
    let size = [image.height() as usize, image.width() as usize];
    let counts = mask["segmentation"]["counts"].as_str().expect("a text");
    let rle = Rle::from_coco_string(size, counts.as_bytes()).expect("a mask");
    let crops = [Background::Kept, Background::Zeroed]
        .map(|background| MaskCrop::new(&image, &rle, 1.5, background, clip.side_px(), clip.patch_px()));
    let vectors = clip.crops(&crops);
    let mean: Vec<f64> = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| f64::from(a + b)).collect();
    let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
    let texts = clip.texts(words).expect("texts");
    texts.iter().map(|text| text.iter().zip(&mean).map(|(a, b)| f64::from(*a) * b).sum::<f64>() / length).collect()
}

#[test]
fn texts_choose_masks_and_are_moved_without_the_network() {
    let (run, path, words) = (with_pictures(), fixture("clip/hf"), ["a red ring", "two \"blue\" stars"]);
    let every_mask = {
        summary(&run, &["in"]);
        let all = masks(&run);
        std::fs::remove_dir_all(run.path("out")).expect("removed");
        all
    };
    let first = summary(&run, &with_texts(&path, &words, &["--text-min-score", "-1"]));
    assert_eq!((number(&first, "masks"), number(&first, "from_masks")), (every_mask.len() as u64, 0), "{first}");
    let all = masks(&run);
    let clip = Clip::open(Path::new(&path), &Device::flex()).expect("a CLIP");
    for ((name, mask), (_, plain)) in all.iter().zip(&every_mask) {
        let (scores, expected) = (scores(mask), defined(&clip, &words, &run.path(&format!("in/{name}")), mask));
        for (score, expected) in scores.iter().zip(&expected) {
            assert!((score - expected).abs() < 1e-3, "{scores:?} {expected:?}");
        }
        let best = usize::from(scores[1] > scores[0]);
        assert_eq!((&mask["class"], &mask["text_score"]), (&json!(words[best]), &json!(scores[best])));
        // Otherwise it is the mask of a run without texts.
        let mut mask = mask.clone();
        for key in ["class", "text_score", "text_scores"] {
            mask.as_object_mut().expect("an object").remove(key);
        }
        assert_eq!(&mask, plain);
    }
    let by_text = |all: &[(String, Value)]| words.map(|word| all.iter().filter(|(_, m)| m["class"] == word).count());
    let said = |summary: &Value| [0, 1].map(|at| summary["texts"][at]["masks"].as_u64().expect("a number") as usize);
    assert_eq!(said(&first), by_text(&all));

    // Another threshold: those below it are gone, and neither network runs.
    let mut best: Vec<f64> = all.iter().map(|(_, mask)| mask["text_score"].as_f64().expect("a number")).collect();
    best.sort_by(f64::total_cmp);
    let middle = best[best.len() / 2];
    let threshold = middle.to_string();
    let moved = summary(&run, &with_texts(&path, &words, &["--text-min-score", &threshold, "--format", "coco"]));
    let kept: Vec<_> = all.iter().filter(|(_, mask)| mask["text_score"].as_f64() >= Some(middle)).cloned().collect();
    assert!(kept.len() < all.len() && !kept.is_empty());
    let left_out = (all.len() - kept.len()) as u64;
    assert_eq!((number(&moved, "from_masks"), number(&moved["removed"], "texts")), (3, left_out), "{moved}");
    // Ids count the masks of an image that are there.
    let nameless = |all: &[(String, Value)]| -> Vec<Value> {
        let without_id = |(_, mask): &(String, Value)| {
            let mut mask = mask.clone();
            mask["id"] = json!(0);
            mask
        };
        all.iter().map(without_id).collect()
    };
    assert_eq!((nameless(&masks(&run)), said(&moved)), (nameless(&kept), by_text(&kept)));
    is_a_data_set(&run, &kept, &words);

    // Other texts, and a PNG per mask; then no texts at all.
    let other = ["a disc"];
    let output = with_texts(&path, &other, &["--text-min-score", "-1", "--format", "png"]);
    let changed = summary(&run, &output);
    assert_eq!((number(&changed, "from_masks"), number(&changed, "masks")), (3, all.len() as u64), "{changed}");
    for (name, mask) in masks(&run) {
        let expected = defined(&clip, &other, &run.path(&format!("in/{name}")), &mask);
        assert!((scores(&mask)[0] - expected[0]).abs() < 1e-3 && scores(&mask).len() == 1);
    }
    let table = std::fs::read_to_string(run.path("out/masks/a/metadata.csv")).expect("there");
    assert!(table.lines().next().is_some_and(|head| head.ends_with("crop_box_h,text,text_score")), "{table}");
    assert!(table.lines().nth(1).is_some_and(|row| row.contains(",\"a disc\",")), "{table}");
    let plain = summary(&run, &["in"]);
    assert_eq!(number(&plain, "from_masks"), 3);
    assert_eq!(masks(&run), every_mask);
    // An image that changed, and a file that is damaged, are computed again.
    std::fs::copy(run.path("in/b.png"), run.path("in/a.png")).expect("copied");
    std::fs::write(run.path("out/scored/b.json"), "{").expect("written");
    let again = summary(&run, &output);
    assert_eq!((number(&again, "from_masks"), number(&again, "finished")), (1, 3));
    a_changed_clip_compares_again(&run, &path, &other);
}

/// The COCO file has a category for each text, and both kinds of files are data sets with classes.
fn is_a_data_set(run: &Run, kept: &[(String, Value)], words: &[&str; 2]) {
    let coco = read(&run.path("out/instances.json"));
    assert_eq!(coco["categories"], json!([{"id": 1, "name": words[0]}, {"id": 2, "name": words[1]}]));
    let annotations = coco["annotations"].as_array().expect("a list");
    assert_eq!(annotations.len(), kept.len());
    for annotation in annotations {
        let id = annotation["category_id"].as_u64().expect("an id") as usize;
        let (_, mask) = kept.iter().find(|(_, mask)| mask["segmentation"] == annotation["segmentation"]).expect("it");
        assert_eq!((&mask["class"], &mask["text_score"]), (&json!(words[id - 1]), &annotation["text_score"]));
    }
    let options = SourceOptions { images: Some(run.path("in")), ..SourceOptions::default() };
    let source = Source::open(&run.path("out/instances.json"), &options).expect("a data set");
    assert_eq!(source.classes(), words);
    for stem in STEMS {
        let to = run.path(&format!("set/{stem}.json"));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        std::fs::copy(run.path(&format!("out/annotations/{stem}.json")), to).expect("copied");
        std::fs::copy(run.path(&format!("in/{stem}.png")), run.path(&format!("set/{stem}.png"))).expect("copied");
    }
    let source = Source::open(&run.path("set"), &SourceOptions::default()).expect("a data set");
    let mut classes = source.classes().to_vec();
    classes.sort();
    let mut there: Vec<&str> = kept.iter().filter_map(|(_, mask)| mask["class"].as_str()).collect();
    there.sort_unstable();
    there.dedup();
    assert_eq!(classes, there);
}

/// Another CLIP: the same masks, compared by it.
fn a_changed_clip_compares_again(run: &Run, clip: &str, words: &[&str]) {
    let before: Vec<Vec<f64>> = masks(run).iter().map(|(_, mask)| scores(mask)).collect();
    std::fs::create_dir_all(run.path("clip")).expect("made");
    for file in std::fs::read_dir(clip).expect("a folder").flatten() {
        let mut bytes = std::fs::read(file.path()).expect("read");
        if file.file_name() == "model.safetensors" {
            // The exponent's lowest bit of some numbers: twice or half of what they were.
            let start = bytes.len() - 4000;
            bytes[start..].chunks_exact_mut(4).for_each(|number| number[2] ^= 0x80);
        }
        std::fs::write(run.path("clip").join(file.file_name()), bytes).expect("written");
    }
    let other = summary(run, &with_texts("clip", words, &["--text-min-score", "-1"]));
    assert_eq!(number(&other, "from_masks"), 3, "SAM does not run again");
    let after: Vec<Vec<f64>> = masks(run).iter().map(|(_, mask)| scores(mask)).collect();
    assert_eq!(after.len(), before.len());
    assert_ne!(after, before);
}

#[test]
fn masks_without_a_text_are_explained_and_overlaps_are_removed_last() {
    let (run, clip, weights) = (with_pictures(), fixture("clip/hf"), weights());
    let none = with_texts(&clip, &["a red ring"], &["--text-min-score", "1"]);
    let (out, err) = texts(&run.sam_train(&arguments(&weights, &none)));
    assert!(out.contains("3 of 3 images, 0 masks") && out.contains("that no text describes"), "{out}\n{err}");
    assert!(out.contains("0 of \"a red ring\""), "{out}");
    assert!(err.contains("no mask: a.png") && err.contains("lower --text-min-score"), "{err}");
    let all = summary(&run, &with_texts(&clip, &["a red ring"], &["--text-min-score", "-1", "--no-overlap"]));
    assert_eq!(number(&all, "from_masks"), 3);
    let covered: u64 =
        masks(&run).iter().filter(|(name, _)| name == "a.png").map(|(_, mask)| number(mask, "area")).sum();
    assert!(covered > 0 && covered <= 40 * 64, "no two masks share a pixel");
    assert!(masks(&run).iter().all(|(_, mask)| mask["class"] == "a red ring"));
}

#[test]
fn wrong_texts_are_refused() {
    let (run, clip, weights) = (with_pictures(), fixture("clip/hf"), weights());
    let refused = |more: &[&str], parts: &[&str]| run.refused(&arguments(&weights, &[&["in"], more].concat()), parts);
    refused(&["--text", "a ring"], &["--clip"]);
    refused(&["--clip", &clip], &["--text"]);
    refused(&["--text-min-score", "0.3"], &["--text"]);
    let with = |words: &[&str], more: &[&str], parts: &[&str]| {
        run.refused(&arguments(&weights, &with_texts(&clip, words, more)), parts);
    };
    with(&[" "], &[], &["--text", "empty"]);
    with(&["a ring", " a ring "], &[], &["\"a ring\" is given twice"]);
    with(&[&"star ".repeat(200)], &[], &["--text", "token"]);
    for wrong in ["1.5", "-2", "nan"] {
        with(&["a ring"], &["--text-min-score", wrong], &["--text-min-score must be -1 to 1"]);
    }
    refused(&["--clip", "nowhere", "--text", "a ring"], &["--clip nowhere"]);
    refused(&["--clip", &weights, "--text", "a ring"], &["--clip", "weights.safetensors"]);
    assert!(!run.path("out").exists(), "nothing was begun");
    // Masks that were made before without texts, and nothing else of them is left.
    summary(&run, &["in"]);
    with(&["a ring"], &[], &["without texts", "--candidates", "--force"]);
    let forced = summary(&run, &with_texts(&clip, &["a ring"], &["--force"]));
    assert_eq!((number(&forced, "from_masks"), number(&forced, "finished")), (0, 3));
}
