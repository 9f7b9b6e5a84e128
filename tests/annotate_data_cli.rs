//! `sam-train annotate export` and `import` through the real program: what leaves a project, what comes in, and never twice.

use std::collections::BTreeMap;
use std::path::Path;

use sam_data::{Source, SourceOptions};
use sam_engine::{
    AnnotationFile, Change, Identifier, ImageId, ImageState, MaskSource, NewMask, Operation, Outcome, Project,
    PromptRecord, SeenImage, Segmentation, Store,
};
use sam_image::{Mask, Rle};

use crate::annotate_cli::{content, project};
use crate::cli::{Run, fixture};
use crate::data_cli::datasets;

fn id(text: &str) -> Identifier {
    Identifier::try_from(format!("{text}-0000000")).expect("an id")
}

/// A ring with a hole and an island.
fn ring(size_hw: [usize; 2], left: usize) -> Rle {
    let is_in = |from: usize, to: usize, row: usize, column: usize| {
        (20 + from..20 + to).contains(&row) && (left + from..left + to).contains(&column)
    };
    Rle::from_mask(&Mask::from_fn(size_hw, |row, column| {
        is_in(0, 30, row, column) && !is_in(5, 25, row, column) || is_in(10, 15, row, column)
    }))
}

struct Made {
    store: Store,
    n_operations: u32,
}

impl Made {
    fn open(run: &Run) -> Self {
        let store = Project::open(&run.path("project")).and_then(Store::open).expect("opens");
        Self { store, n_operations: 0 }
    }

    fn apply(&mut self, run: &Run, image: &str, change: Change) {
        self.n_operations += 1;
        let path = run.path("photos").join(image);
        let pixels = sam_data::read_image_file(&path, &SourceOptions::default()).expect("a photograph");
        let size_hw = [pixels.height() as usize, pixels.width() as usize];
        let seen = SeenImage { size_hw, fingerprint: sam_infer::image_fingerprint(&pixels) };
        let op = id(&format!("op{}", self.n_operations));
        let operation = Operation { op, image: ImageId::of(image), base: 99, change };
        let outcome = self.store.apply(&operation, seen).expect("valid");
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    fn add(&mut self, run: &Run, image: &str, left: usize, class: Option<&str>, source: MaskSource) {
        let mask = NewMask {
            uuid: id(&format!("mask{left}")),
            segmentation: Segmentation::of(&ring([157, 211], left)),
            source,
            class: class.map(str::to_owned),
            prompts: PromptRecord::default(),
            seconds: 1.0,
            predicted_iou: None,
            model: None,
        };
        self.apply(run, image, Change::Add { mask });
    }
}

/// Three masks in two images: `a.png` is done.
fn annotated() -> Run {
    let run = project("cat,a dog");
    let mut made = Made::open(&run);
    made.add(&run, "a.png", 10, Some("cat"), MaskSource::Assisted);
    made.add(&run, "a.png", 60, Some("a dog"), MaskSource::Automatic);
    made.apply(&run, "a.png", Change::State { state: ImageState::Done });
    made.add(&run, "day 1/b.png", 120, None, MaskSource::Manual);
    run
}

/// Class and run lengths of every mask of a data set, by the image's stem; no class is "object".
fn masks(path: &Path) -> BTreeMap<String, Vec<(String, String)>> {
    let source = Source::open(path, &SourceOptions::default()).expect("a sound data set");
    let of = |index: usize| {
        let name = source.name(index);
        let stem = Path::new(&name).file_stem().expect("a name").to_string_lossy().into_owned();
        let class = |class: Option<usize>| class.map_or("object", |class| &source.classes()[class]).to_owned();
        let objects = source.objects(index).expect("sound").objects;
        let mut masks: Vec<_> =
            objects.iter().map(|object| (class(object.class), object.mask.to_coco_string())).collect();
        masks.sort();
        (stem, masks)
    };
    (0..source.len()).map(of).collect()
}

#[test]
fn a_project_is_exported_to_every_format() {
    let run = annotated();
    let before = content(&run.path("project"));
    // A server may be open in the project.
    let _open = Made::open(&run);
    let expected = masks(&run.path("project"));
    assert_eq!(expected["a"].len() + expected["b"].len(), 3);
    for format in ["coco", "yolo", "labels", "sa1b", "cvat", "label-studio", "labelme"] {
        let out = run.ok(&["annotate", "export", "project", "--to", format, "--out", format]);
        assert!(out.contains("2 images with 3 objects in") && !out.contains("left out"), "{format}: {out}");
        if !["yolo", "labels", "label-studio"].contains(&format) {
            assert_eq!(masks(&run.path(format)), expected, "{format}");
        }
    }
    let after = content(&run.path("project"));
    let without_lock = |files: Vec<(std::path::PathBuf, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|(path, _)| !path.ends_with("lock")).collect()
    };
    assert_eq!(without_lock(after), without_lock(before), "a project is only read");
    let yaml = std::fs::read_to_string(run.path("yolo/data.yaml")).expect("written");
    assert!(yaml.contains("0: \"cat\"\n  1: \"a dog\"\n  2: \"object\""), "the project's order: {yaml}");
    run.refused(&["annotate", "export", "project", "--to", "coco", "--out", "coco"], &["coco", "new or empty"]);
    run.refused(&["annotate", "export", "photos", "--to", "coco", "--out", "x"], &["engine.toml"]);
}

#[test]
fn an_export_holds_the_chosen_states_and_sources_and_counts_the_rest() {
    let run = annotated();
    let export = ["annotate", "export", "project", "--to", "sa1b", "--out"];
    let out = run.ok(&[&export[..], &["done", "--state", "done", "--source", "assisted,manual"]].concat());
    for line in ["left out: 1 images that are open", "left out: 1 masks that are automatic", "1 images with 1 objects"]
    {
        assert!(out.contains(line), "{line}: {out}");
    }
    let found = masks(&run.path("done"));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(found["a"], [("cat".to_owned(), ring([157, 211], 10).to_coco_string())]);
    // An image whose masks all stay would look like one without objects.
    let out = run.ok(&[&export[..], &["manual", "--source", "manual"]].concat());
    assert!(
        out.contains("left out: 1 images whose masks are all left out") && out.contains("1 images with 1"),
        "{out}"
    );
    run.refused(
        &[&export[..], &["none", "--state", "skipped"]].concat(),
        &["no image is left", "1 images that are done"],
    );
    run.refused(&[&export[..], &["none", "--state", "finished"]].concat(), &["finished", "skipped"]);
    let fresh = project("");
    fresh.refused(&[&export[..], &["x"]].concat(), &["annotated image"]);
}

/// The masks of the project's images, with their sources.
fn imported(run: &Run, image: &str) -> Vec<(Option<String>, MaskSource, String)> {
    let path = run.path("project/annotations").join(image).with_extension("json");
    let file = AnnotationFile::read(&path).expect("whole").expect("there");
    file.annotations.into_iter().map(|mask| (mask.class, mask.source, mask.segmentation.counts)).collect()
}

#[test]
fn masks_are_imported_once_from_whatever_format() {
    let run = annotated();
    run.ok(&["annotate", "export", "project", "--to", "coco", "--out", "coco"]);
    run.ok(&["annotate", "export", "project", "--to", "labelme", "--out", "labelme"]);
    std::fs::remove_dir_all(run.path("project")).expect("removed");
    let checkpoint = fixture("tiny_sam.safetensors");
    let init = ["annotate", "init", "--images", "photos", "--checkpoint", &checkpoint, "--out", "project"];
    run.ok(&[&init[..], &["--classes", "cat"]].concat());

    let import = ["annotate", "import", "project", "--data"];
    let out = run.ok(&[&import[..], &["coco"]].concat());
    // New classes are in the order of the images.
    for line in ["3 masks in 2 images imported", "new classes: a dog, object"] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let settings = std::fs::read_to_string(run.path("project/engine.toml")).expect("there");
    assert!(settings.contains("classes = [\"cat\", \"a dog\", \"object\"]"), "{settings}");
    let of_b = imported(&run, "day 1/b.png");
    let expected = (Some("object".to_owned()), MaskSource::Imported, ring([157, 211], 120).to_coco_string());
    assert_eq!(of_b, [expected]);

    let before = content(&run.path("project/annotations"));
    let out = run.ok(&[&import[..], &["labelme", "--as", "automatic"]].concat());
    assert!(out.contains("0 masks in 0 images imported") && out.contains("3 masks are there already"), "{out}");
    assert_eq!(content(&run.path("project/annotations")), before, "nothing is written");

    // Annotations that were exported without images are enough.
    run.ok(&["annotate", "export", "project", "--to", "cvat", "--out", "cvat"]);
    std::fs::remove_dir_all(run.path("cvat/images")).expect("removed");
    std::fs::copy(run.path("coco/annotations/instances_default.json"), run.path("alone.json")).expect("copied");
    for alone in ["alone.json", "cvat/annotations.xml"] {
        let out = run.ok(&[&import[..], &[alone]].concat());
        assert!(out.contains("3 masks are there already") && !out.contains("not imported"), "{alone}: {out}");
    }

    // What somebody removes stays removed, even after the image has forgotten the operation.
    let mut made = Made::open(&run);
    let path = run.path("project/annotations/day 1/b.json");
    let uuid = AnnotationFile::read(&path).expect("whole").expect("there").annotations[0].uuid.clone();
    made.apply(&run, "day 1/b.png", Change::Delete { uuid });
    (0..201).for_each(|_| made.apply(&run, "day 1/b.png", Change::State { state: ImageState::Open }));
    drop(made);
    let out = run.ok(&[&import[..], &["coco"]].concat());
    assert!(out.contains("0 masks in 0") && out.contains("1 masks were imported before and removed"), "{out}");
    assert!(imported(&run, "day 1/b.png").is_empty());
}

#[test]
fn a_data_set_becomes_masks_of_a_project_of_its_own_folder() {
    let run = Run::new();
    copy_tree(Path::new(&datasets("photos")), &run.path("photos"));
    let checkpoint = fixture("tiny_sam.safetensors");
    run.ok(&["annotate", "init", "--images", "photos", "--checkpoint", &checkpoint, "--out", "project"]);
    let out = run.ok(&["annotate", "import", "project", "--data", "photos", "--as", "accepted"]);
    assert!(out.contains("29 masks in 7 images imported"), "{out}");
    assert_eq!(masks(&run.path("project")), masks(&run.path("photos")));
    run.refused(
        &["annotate", "import", "project", "--data", &datasets("synth")],
        &["its images must be those of the project", "none of its 36"],
    );
    // One of another size, and one that the project does not have.
    run.ok(&["data", "convert", "photos", "--to", "labelme", "--out", "other"]);
    let (small, other) = (run.path("other/val/camera.jpg"), run.path("other/val/chelsea.jpg"));
    let json = std::fs::read_to_string(small.with_extension("json")).expect("there");
    std::fs::write(other.with_file_name("new.json"), json.replace("camera.jpg", "new.jpg")).expect("written");
    std::fs::copy(&small, other.with_file_name("new.jpg")).expect("copied");
    let out = run.ok(&["annotate", "import", "project", "--data", "other"]);
    for line in ["29 masks are there already", "not imported: 1 images", "val/new.jpg: no image of this name"] {
        assert!(out.contains(line), "{line}: {out}");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => std::fs::copy(entry.path(), target).map(drop).expect("copied"),
        }
    }
}
