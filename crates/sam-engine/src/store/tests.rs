//! Operations on a real folder: conflicts, repeats, kills in between, and what other readers see.

use std::path::Path;

use sam_data::{Source, SourceOptions};
use sam_image::{Mask, RgbImage, save_rgb_png};
use serde_json::json;

use super::*;
use crate::operation::Identifier;
use crate::project::Settings;

const SEEN: SeenImage = SeenImage { size_hw: [4, 6], fingerprint: 7 };

/// A folder of two images and a project of them.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("photos/day")).expect("made");
        for name in ["a.png", "day/b.png"] {
            save_rgb_png(&RgbImage::new(6, 4), &folder.path().join("photos").join(name)).expect("written");
        }
        let settings =
            Settings::new(folder.path().join("photos"), "model.pth".into(), vec!["cat".into(), "<b>".into()]);
        Project::create(&folder.path().join("project"), &settings).expect("made");
        Self { folder }
    }

    fn project(&self) -> std::path::PathBuf {
        self.folder.path().join("project")
    }

    fn open(&self) -> Store {
        Project::open(&self.project()).and_then(Store::open).expect("opens")
    }
}

fn id(text: &str) -> Identifier {
    Identifier::try_from(format!("{text}-0000000")).expect("an id")
}

fn mask(uuid: &str, n_columns: usize) -> NewMask {
    let pixels = Mask::from_fn([4, 6], |_, column| column < n_columns);
    serde_json::from_value(json!({
        "uuid": id(uuid), "segmentation": Segmentation::of(&Rle::from_mask(&pixels)), "source": "assisted",
        "class": "cat", "prompts": {"points": [[1.5, 2.0, 1]]}, "seconds": 2.5, "predicted_iou": 0.875,
    }))
    .expect("a mask")
}

fn operation(op: &str, base: u64, change: Change) -> Operation {
    Operation { op: id(op), image: ImageId::of("day/b.png"), base, change }
}

fn revision(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Applied(applied) => applied.revision,
        Outcome::Conflict { .. } => panic!("{outcome:?}"),
    }
}

#[test]
fn adds_commute_and_stale_changes_are_conflicts() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let mut apply = |op: &str, base, change| store.apply(&operation(op, base, change), SEEN).expect("valid");
    // Two tabs that have both seen revision 0.
    assert_eq!(revision(&apply("o1", 0, Change::Add { mask: mask("m1", 2) })), 1);
    assert_eq!(revision(&apply("o2", 0, Change::Add { mask: mask("m2", 3) })), 2);
    // m1 was last changed in revision 1, which this tab has seen.
    assert_eq!(revision(&apply("o3", 1, Change::Replace { mask: mask("m1", 4) })), 3);
    let Outcome::Conflict { revision: 3, current: Some(current) } = apply("o4", 2, Change::Delete { uuid: id("m1") })
    else {
        panic!("the other tab has not seen it")
    };
    assert_eq!((current.revision, current.area, current.uuid), (3, 16, id("m1")));
    assert_eq!(revision(&apply("o5", 3, Change::Delete { uuid: id("m1") })), 4);
    let gone = Outcome::Conflict { revision: 4, current: None };
    assert_eq!(apply("o6", 9, Change::Replace { mask: mask("m1", 1) }), gone);
    // Undo of the removal: the same mask again.
    assert_eq!(revision(&apply("o7", 4, Change::Add { mask: mask("m1", 4) })), 5);
    assert!(matches!(apply("o8", 5, Change::Add { mask: mask("m1", 4) }), Outcome::Conflict { current: Some(_), .. }));
    assert_eq!(revision(&apply("o9", 5, Change::State { state: ImageState::Done })), 6);
    let expected = Summary { revision: 6, state: ImageState::Done, n_masks: 2, n_human: 2 };
    assert_eq!(store.summary(1), expected);
    drop(store);
    assert_eq!(fixture.open().summary(1), expected, "the index is made again of the files");
}

#[test]
fn a_repeated_operation_is_answered_as_before_even_after_a_restart() {
    let fixture = Fixture::new();
    let add = operation("o1", 0, Change::Add { mask: mask("m1", 2) });
    let mut store = fixture.open();
    let first = store.apply(&add, SEEN).expect("valid");
    store.apply(&operation("o2", 1, Change::Delete { uuid: id("m1") }), SEEN).expect("valid");
    assert_eq!(store.apply(&add, SEEN).expect("valid"), first);
    drop(store);
    let mut store = fixture.open();
    assert_eq!(store.apply(&add, SEEN).expect("valid"), first);
    assert_eq!(
        store.summary(1),
        Summary { revision: 2, state: ImageState::Open, n_masks: 0, n_human: 0 },
        "it is not done twice"
    );
}

/// A process that is killed at any of the moments of an operation.
#[test]
fn what_a_kill_leaves_is_mended() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.apply(&operation("o1", 0, Change::Add { mask: mask("m1", 2) }), SEEN).expect("valid");
    drop(store);
    let at = |name: &str| fixture.project().join(name);
    let file = std::fs::read(at("annotations/day/b.json")).expect("there");
    // After the link and before the file; half of a temporary file of a process that is gone; half of a line.
    std::fs::create_dir_all(at("images")).expect("there");
    make_link(&fixture.folder.path().join("photos/a.png"), &at("images/a.png")).expect("linked");
    std::fs::create_dir(at("annotations/day/.writing-99999999-x")).expect("made");
    std::fs::write(at("annotations/day/.writing-99999999-x/b.json"), &file[..file.len() / 2]).expect("written");
    let journal = std::fs::read_to_string(at("journal.jsonl")).expect("there");
    assert_eq!(journal.lines().count(), 1);
    std::fs::write(at("journal.jsonl"), format!("{journal}{{\"time\": 17")).expect("written");

    let mut store = fixture.open();
    assert!(at("images/a.png").symlink_metadata().is_err() && at("images/day/b.png").exists());
    if cfg!(target_os = "linux") {
        assert!(!at("annotations/day/.writing-99999999-x").exists());
    }
    store.apply(&operation("o2", 1, Change::Add { mask: mask("m2", 1) }), SEEN).expect("valid");
    let journal = std::fs::read_to_string(at("journal.jsonl")).expect("there");
    let lines: Vec<serde_json::Value> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(journal.lines().count(), 3, "{journal}");
    assert_eq!((lines.len(), &lines[0]["clicks"], &lines[1]["uuid"]), (2, &json!(1), &json!("m2-0000000")));
}

#[test]
fn what_is_invalid_changes_nothing() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    let changed = |edit: &dyn Fn(&mut NewMask)| {
        let mut mask = mask("m1", 2);
        edit(&mut mask);
        operation("o1", 0, Change::Add { mask })
    };
    let of_size = |height, width| Segmentation::of(&Rle::from_mask(&Mask::from_fn([height, width], |_, _| true)));
    for (bad, part) in [
        (changed(&|mask| mask.class = Some("dog".into())), "`class`"),
        (changed(&|mask| mask.segmentation = of_size(6, 4)), "[4, 6]"),
        (changed(&|mask| mask.segmentation.counts = "~~".into()), "`segmentation`"),
        (changed(&|mask| mask.segmentation = Segmentation::of(&Rle::empty([4, 6]).expect("small"))), "one pixel"),
        (changed(&|mask| mask.seconds = f64::NAN), "finite"),
        (changed(&|mask| mask.model = Some("../x".into())), "`model`"),
        (Operation { image: ImageId::of("c.png"), ..changed(&|_| {}) }, "no image"),
    ] {
        let error = store.apply(&bad, SEEN).expect_err("invalid").to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(store.summary(1), Summary::default());
    assert!(std::fs::read_dir(fixture.project().join("annotations")).expect("there").next().is_none());
    store.apply(&changed(&|mask| mask.class = Some("<b>".into())), SEEN).expect("markup is only text");
    let other = SeenImage { fingerprint: 8, ..SEEN };
    let error =
        store.apply(&operation("o2", 1, Change::State { state: ImageState::Done }), other).expect_err("another image");
    let text = error.to_string();
    assert!(text.contains("day/b.png") && text.contains("fingerprint 0000000000000007, now"), "{text}");
}

/// Others read the folder as it is, with the masks that are there and the images that have been looked at.
#[test]
fn the_folder_is_a_data_set() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.apply(&operation("o1", 0, Change::Add { mask: mask("m1", 2) }), SEEN).expect("valid");
    store.apply(&operation("o2", 0, Change::Add { mask: mask("m2", 5) }), SEEN).expect("valid");
    let check = |project: &Path, names: &[&str], n_objects: usize| {
        let source = Source::open(project, &SourceOptions::default()).expect("a data set");
        let samples: Vec<_> = (0..source.len()).map(|index| source.sample(index).expect("sound")).collect();
        assert_eq!(samples.iter().map(|sample| sample.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(samples.iter().map(|sample| sample.objects.len()).sum::<usize>(), n_objects);
        let report = sam_data::check(project, &SourceOptions::default(), &|_, _| {}).expect("checked");
        assert!(!report.has_errors(), "{report:?}");
    };
    check(&fixture.project(), &["day/b.png"], 2);
    let done =
        Operation { image: ImageId::of("a.png"), ..operation("o3", 0, Change::State { state: ImageState::Done }) };
    store.apply(&done, SEEN).expect("an image without objects may be done");
    check(&fixture.project(), &["a.png", "day/b.png"], 2);
}

#[test]
fn keys_of_others_are_kept_and_a_damaged_file_is_named() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    store.apply(&operation("o1", 0, Change::Add { mask: mask("m1", 2) }), SEEN).expect("valid");
    let path = fixture.project().join("annotations/day/b.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
    file["licence"] = json!("CC0");
    file["annotations"][0]["review"] = json!({"by": 3});
    std::fs::write(&path, file.to_string()).expect("written");
    store.apply(&operation("o2", 1, Change::Replace { mask: mask("m1", 3) }), SEEN).expect("valid");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
    assert_eq!((&file["licence"], &file["annotations"][0]["review"]["by"]), (&json!("CC0"), &json!(3)));
    assert_eq!((&file["annotations"][0]["area"], &file["image"]["revision"]), (&json!(12), &json!(2)));
    std::fs::write(&path, "{").expect("written");
    let error =
        store.apply(&operation("o3", 2, Change::Delete { uuid: id("m1") }), SEEN).expect_err("damaged").to_string();
    assert!(error.contains("b.json"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "{", "it is left as it is");
}

#[test]
fn a_project_is_made_once_opened_once_and_never_in_the_images() {
    let fixture = Fixture::new();
    let photos = fixture.folder.path().join("photos");
    let settings = Settings::new(photos.clone(), "model.pth".into(), Vec::new());
    let error = |folder: &Path| Project::create(folder, &settings).expect_err("refused").to_string();
    assert!(error(&fixture.project()).contains("not empty"));
    assert!(error(&photos.join("project")).contains("folder of its images"));
    assert!(!photos.join("project").exists());
    let store = fixture.open();
    let error = Project::open(&fixture.project()).expect_err("in use").to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(store);
    assert_eq!(fixture.open().project().settings().classes, ["cat", "<b>"]);
    let twice = Settings { classes: vec!["a".into(), "a".into()], ..settings.clone() };
    assert!(Project::create(&fixture.folder.path().join("p2"), &twice).is_err());
    assert!(Project::open(&photos).expect_err("no project").to_string().contains("engine.toml"));
}
