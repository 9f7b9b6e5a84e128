//! Mutated input of every reader: bytes flipped, cut, repeated, numbers at the limits of their types.

use std::path::{Path, PathBuf};
use std::process::Command;

use sam_data::random::RandomStream;

use super::{draws, program, repetitions, report, start, wait};
use crate::cli::Run;
use crate::data_cli::datasets;
use crate::fixture::path;

/// The documented bound for a process that reads small input.
const PEAK_MIB: u64 = 2048;

/// Numbers that break what was not checked.
const EXTREMES: [&str; 12] = [
    "-1",
    "0",
    "1e308",
    "-1e308",
    "NaN",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "-9223372036854775808",
    "1e-320",
    "99999999999999999999999999",
];

/// A file, alone or within the folder that it belongs to, and the command that reads it.
struct Reader {
    /// What is copied into a fresh folder: a file, or a folder.
    copied: PathBuf,
    /// The file within the folder; empty for a file.
    below: &'static str,
    /// `@` stands for the copy.
    arguments: String,
}

/// What a program must have written before it can be read: a finished run, results, an embedding.
struct Written {
    run: Run,
}

impl Written {
    fn new() -> Self {
        let run = super::prepared();
        let ok = |arguments: String| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            let ended = super::finish(&run, &arguments);
            assert_eq!(ended.code, Some(0), "{arguments:?}\n{}", ended.text);
        };
        let (tiny, photos, photo) = (tiny(), datasets("photos"), first_image());
        ok("--config train.toml --plain".to_owned());
        ok(format!(
            "predict --checkpoint {tiny} --image {photo} --point 5,5 --out out --save-embedding embedding.safetensors \
             --logits logits.safetensors"
        ));
        ok(format!("data split {photos} --out split.json --given"));
        std::fs::write(run.path("gate.toml"), "[gate]\nmiou_1 = 0.0\n").expect("written");
        std::fs::write(run.path("detections.json"), detections()).expect("written");
        ok(format!("eval --checkpoint {tiny} --data {photos} --part val --clicks 1 --out eval --gallery 0"));
        Self { run }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.run.path(name)
    }
}

/// A box for each annotation of the validation photographs, in the form of COCO results.
fn detections() -> String {
    let text = std::fs::read_to_string(datasets("photos/annotations/instances_val.json")).expect("committed");
    let truth: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let annotations = truth["annotations"].as_array().expect("a list");
    let boxes = annotations.iter().map(|annotation| {
        serde_json::json!({
            "image_id": annotation["image_id"], "category_id": annotation["category_id"], "bbox": annotation["bbox"],
            "score": 0.5,
        })
    });
    serde_json::Value::from_iter(boxes).to_string()
}

fn tiny() -> String {
    path("tiny_sam.safetensors").display().to_string()
}

fn readers(written: &Written) -> Vec<Reader> {
    let (tiny, photo, photos) = (tiny(), first_image(), datasets("photos"));
    let val = datasets("photos/annotations/instances_val.json");
    let file = |copied: PathBuf, arguments: String| Reader { copied, below: "", arguments };
    let mut readers: Vec<Reader> = [
        "tiny_sam.safetensors",
        "tiny_sam.pth",
        "tiny_sam_legacy.pth",
        "tiny_sam_wrapped_f16.pth",
        "tiny_mae.pth",
        "tiny_sam_bf16.safetensors",
    ]
    .map(|name| file(path(name), "inspect @".to_owned()))
    .into();
    readers.push(file(PathBuf::from(&val), "data check @".to_owned()));
    for (set, below, format) in SETS {
        let copied = path("data").join(set);
        readers.push(Reader { copied, below, arguments: format!("data check @ --format {format}") });
    }
    let predict = format!("predict --checkpoint {tiny} --point 5,5 --out masks");
    let eval = format!("eval --checkpoint {tiny} --part val --clicks 1 --data");
    readers.push(file(PathBuf::from(&photo), format!("{predict} --image @")));
    readers.push(file(written.path("embedding.safetensors"), format!("{predict} --image {photo} --embedding @")));
    readers.push(file(written.path("logits.safetensors"), format!("{predict} --image {photo} --mask-input @")));
    readers.push(file(written.path("split.json"), format!("{eval} {photos} --split @")));
    readers.push(file(written.path("gate.toml"), format!("{eval} {photos} --gate @")));
    readers.push(file(written.path("eval/results.json"), format!("{eval} {photos} --baseline @ --max-drop 0.1")));
    let boxes = format!("eval --checkpoint {tiny} --data {val} --detections @");
    readers.push(file(written.path("detections.json"), boxes));
    for config in ["quickstart.toml", "finetune.toml", "evaluate.toml", "probe.toml", "pretrain-quick.toml"] {
        readers.push(file(path("../../configs").join(config), "--check --config @".to_owned()));
    }
    for (below, arguments) in [("plan.toml", "--resume @ --check"), ("metrics.jsonl", "--resume @ --plain")] {
        readers.push(Reader { copied: written.path("run"), below, arguments: arguments.to_owned() });
    }
    readers
}

/// A file of each kind in every data set format.
const SETS: [(&str, &str, &str); 14] = [
    ("cvat", "annotations/instances_default.json", "coco"),
    ("cvat", "images/default/frame_000000.jpg", "coco"),
    ("lvis", "lvis_v1_val.json", "coco"),
    ("sa1b", "sa_000000/sa_1.json", "sa1b"),
    ("sa1b_tar", "sa_000000.tar", "sa1b"),
    ("labelme", "desk.json", "labelme"),
    ("ultralytics", "labels/train/a.txt", "yolo_seg"),
    ("ultralytics", "data.yaml", "yolo_seg"),
    ("voc", "SegmentationObject/2007_000032.png", "label_images"),
    ("voc", "ImageSets/Segmentation/train.txt", "label_images"),
    ("labels_deep", "masks/cell_1.png", "label_images"),
    ("labels_deep", "masks/cell_2_masks.tif", "label_images"),
    ("labels_deep", "images/cell_1.tif", "label_images"),
    ("semantic", "val/masks/two.png", "label_images"),
];

fn first_image() -> String {
    let folder = datasets("photos/val");
    let mut names: Vec<_> = std::fs::read_dir(folder).expect("committed").flatten().map(|entry| entry.path()).collect();
    names.sort();
    names[0].display().to_string()
}

fn copy_tree(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::copy(from, to).expect("copied");
        return;
    }
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        copy_tree(&entry.path(), &to.join(entry.file_name()));
    }
}

fn mutated(bytes: &[u8], draws: &mut RandomStream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + draws.index(4) {
        if bytes.is_empty() {
            break;
        }
        // Headers decide most, so half of the mutations are near the beginning.
        let reach = if draws.index(2) == 0 { bytes.len().min(512) } else { bytes.len() };
        let at = draws.index(reach);
        match draws.index(6) {
            0 => bytes[at] ^= 1 << draws.index(8),
            1 => bytes[at] = draws.index(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + draws.index(64)).min(bytes.len());
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => drop(bytes.drain(at..(at + 1 + draws.index(16)).min(bytes.len()))),
            _ => number(&mut bytes, at, EXTREMES[draws.index(EXTREMES.len())]),
        }
    }
    bytes
}

/// Puts an extreme in the place of the next number in a text; of a file without one, four bytes become 0xFF.
fn number(bytes: &mut Vec<u8>, from: usize, extreme: &str) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    match bytes[from..].iter().position(is_digit) {
        Some(begin) if std::str::from_utf8(bytes).is_ok() => {
            let begin = from + begin;
            let end = bytes[begin..].iter().position(|byte| !is_digit(byte)).map_or(bytes.len(), |n| begin + n);
            bytes.splice(begin..end, extreme.bytes());
        }
        _ => bytes[from..].iter_mut().take(4).for_each(|byte| *byte = 0xFF),
    }
}

/// Every mutation is read, or refused with a message.
#[test]
fn mutated_input_is_read_or_refused() {
    let written = Written::new();
    let readers = readers(&written);
    let mut codes = [0; 3];
    let mut peak_mib = 0;
    for repetition in 0..repetitions(3 * readers.len()) {
        let reader = &readers[repetition % readers.len()];
        let mut draws = draws(6, repetition);
        let run = Run::new();
        let name = reader.copied.file_name().expect("a name").to_string_lossy().into_owned();
        copy_tree(&reader.copied, &run.path(&name));
        let file = if reader.below.is_empty() { run.path(&name) } else { run.path(&name).join(reader.below) };
        let original = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        std::fs::write(&file, mutated(&original, &mut draws)).expect("written");
        let arguments: Vec<&str> =
            reader.arguments.split(' ').map(|word| if word == "@" { name.as_str() } else { word }).collect();
        let log = run.path("log.txt");
        let command: Command = program(&run, &arguments);
        let ended = wait(start(command, &log), &log, None);
        let what = format!("{arguments:?} {}, repetition {repetition}", reader.below);
        ended.assert_sound(&what);
        assert!(ended.peak_mib <= PEAK_MIB, "{what} took {} MiB", ended.peak_mib);
        peak_mib = peak_mib.max(ended.peak_mib);
        codes[ended.code.unwrap_or_default() as usize] += 1;
    }
    report(&format!("{} read, {} refused, peak {peak_mib} MiB", codes[0], codes[1] + codes[2]));
}
