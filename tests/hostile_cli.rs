//! Hostile input through the real program: pipes and devices in the place of every file, images that declare more than they
//! hold, and numbers that no machine holds. Each ends soon, with exit code 2 and a message.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::{ImageFormat, RgbImage};

use crate::cli::{Run, fixture, texts};
use crate::data_cli::datasets;
use crate::train_cli::SMALL;

/// Each command takes a second or two.
const HANG: Duration = Duration::from_secs(60);

/// Runs a command that must be refused; one that hangs is killed.
#[track_caller]
fn refused_soon(run: &Run, arguments: &[String], parts: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sam-train"));
    command.args(arguments).current_dir(run.path("")).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let begun = Instant::now();
    while child.try_wait().expect("a process of ours").is_none() {
        if begun.elapsed() > HANG {
            child.kill().expect("a process of ours");
            panic!("{arguments:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (out, err) = texts(&child.wait_with_output().expect("ended"));
    assert!(!err.contains("panicked"), "{arguments:?}\n{err}");
    for part in parts {
        assert!(err.contains(part), "{arguments:?} must say `{part}`:\n{out}\n{err}");
    }
}

/// Every option that names a file, as `@`.
fn commands() -> Vec<Vec<String>> {
    let (checkpoint, photos) = (fixture("tiny_sam.safetensors"), datasets("photos"));
    let (photo, json) = (fixture("preprocess/photo.png"), format!("{photos}/annotations/instances_val.json"));
    let predict = |more: &str| format!("predict --checkpoint {checkpoint} --point 9,9 --out out {more}");
    let eval = |more: &str| format!("eval --checkpoint {checkpoint} --data {photos} --part val --clicks 1 {more}");
    [
        "--config @ --check".to_owned(),
        "--config @".to_owned(),
        "--resume @".to_owned(),
        "inspect @".to_owned(),
        "export --checkpoint @ --format safetensors --out x".to_owned(),
        format!("predict --checkpoint @ --image {photo} --point 9,9 --out out"),
        predict("--image @"),
        predict(&format!("--image {photo} --embedding @")),
        predict(&format!("--image {photo} --mask-input @")),
        "data check @".to_owned(),
        "data check @ --format coco".to_owned(),
        "data check @ --format sa1b".to_owned(),
        "data check @ --format yolo_seg".to_owned(),
        "data check @ --format labelme".to_owned(),
        "data preview @ --out out".to_owned(),
        "data convert @ --to coco --out out".to_owned(),
        "data split @ --out out".to_owned(),
        "data synth --config @ --out out".to_owned(),
        eval("--split @"),
        eval("--gate @"),
        eval("--baseline @ --max-drop 0.1"),
        format!("eval --checkpoint @ --data {photos}"),
        format!("eval --checkpoint {checkpoint} --data @"),
        format!("eval --checkpoint {checkpoint} --data {json} --detections @"),
        format!("eval --data {json} --segmentations @"),
        format!("probe --checkpoint @ --data {photos}"),
        format!("probe --checkpoint {checkpoint} --data @"),
        format!("probe --checkpoint {checkpoint} --data {photos} --val @"),
        "--config small.toml --set model.init=checkpoint --set model.checkpoint=@".to_owned(),
        "--config least.toml --set data.train=@".to_owned(),
        format!("--config least.toml --set data.train={photos} --set data.validation=@"),
        format!("--config least.toml --set data.train={photos} --set data.split.file=@"),
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

#[test]
fn pipes_and_devices_in_the_place_of_any_file_are_refused() {
    let run = Run::new();
    let least = SMALL.split("[data.synth]").next().expect("a beginning");
    std::fs::write(run.path("least.toml"), format!("{least}[schedule]\nsteps = 2\n")).expect("written");
    std::fs::write(run.path("small.toml"), SMALL).expect("written");
    let pipe = run.path("pipe.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    for path in [pipe.as_path(), Path::new("/dev/zero")] {
        for command in commands() {
            let path = path.display().to_string();
            let command: Vec<String> = command.iter().map(|word| word.replace('@', &path)).collect();
            refused_soon(&run, &command, &[]);
        }
    }
    refused_soon(&run, &["inspect".to_owned(), pipe.display().to_string()], &["must be a regular file, got a pipe"]);
}

/// The largest resident memory of children of this test so far is not known for each, so they are asked in turn.
#[test]
fn an_image_that_declares_too_much_is_refused_by_predict_and_check() {
    let run = Run::new();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    RgbImage::new(16, 16).write_to(&mut jpeg, ImageFormat::Jpeg).expect("encoded");
    let mut jpeg = jpeg.into_inner();
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).expect("a start of frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[22_000u16.to_be_bytes(), 22_000u16.to_be_bytes()].concat());
    std::fs::create_dir_all(run.path("set/images")).expect("made");
    std::fs::create_dir_all(run.path("set/masks")).expect("made");
    std::fs::write(run.path("set/images/a.jpg"), &jpeg).expect("written");
    std::fs::copy(fixture("preprocess/photo.png"), run.path("set/masks/a.png")).expect("copied");
    let parts = ["a.jpg", "at most 100000000 pixels", "22000 x 22000", "max_pixels"];
    let checkpoint = fixture("tiny_sam.safetensors");
    let predict =
        ["predict", "--checkpoint", &checkpoint, "--image", "set/images/a.jpg", "--point", "5,5", "--out", "out"];
    run.refused(&predict, &parts);
    let output = run.sam_train(&["data", "check", "set", "--format", "label_images"]);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{out}\n{err}");
    parts.iter().for_each(|part| assert!(out.contains(part), "{part}\n{out}"));
    // A limit of one's own.
    let small = fixture("preprocess/photo.png");
    let mut predict = predict;
    predict[4] = &small;
    run.refused(&[&predict[..], &["--max-pixels", "33126"]].concat(), &["at most 33126 pixels", "157 x 211"]);
    run.ok(&[&predict[..], &["--max-pixels", "33127"]].concat());
    run.refused(&[&predict[..], &["--max-pixels", "0"]].concat(), &["--max-pixels", "1..=500000000"]);
}

#[test]
fn huge_numbers_on_the_command_line_are_refused() {
    let run = Run::new();
    let photos = datasets("photos");
    for line in [
        "data synth --out out --train 1000000000",
        "data synth --out out --max-side 8192",
        "data synth --out out --first 18446744073709551615",
        "data synth --out out --noise nan",
        "data preview @ --out out --views 1000000000",
        "data preview @ --out out --count 9007199254740992",
        "data preview @ --out out --cell 2048 --views 100",
        "data check @ --max-pixels 1000000000",
        "data split @ --out out --val nan",
        "eval --checkpoint x --data @ --clicks 9007199254740992",
    ] {
        let arguments: Vec<String> = line.split(' ').map(|word| word.replace('@', &photos)).collect();
        let begun = Instant::now();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run.refused(&arguments, &[]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{line}");
    }
}
