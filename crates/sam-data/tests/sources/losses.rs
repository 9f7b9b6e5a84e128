//! What a data set loses is counted once, in every use of it as `data check` counts it.

use std::path::Path;

use image::{Rgb, RgbImage};
use sam_data::{ConvertTo, Losses, OnBad, ProblemKind, Source, SourceOptions, Survey, check, convert, survey};
use serde_json::{Value, json};

fn save(path: impl AsRef<Path>, level: u8) {
    RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8, y as u8, level])).save(path).expect("saved");
}

fn options(bad: OnBad) -> SourceOptions {
    SourceOptions { bad, ..SourceOptions::default() }
}

fn survey_all(source: &Source) -> Survey {
    survey(source, &(0..source.len()).collect::<Vec<_>>(), &|_, _| {})
}

/// A COCO set of four images, one cut off and one an HTML page, with a box, a two-point outline and an empty mask.
fn damaged(folder: &Path) -> std::path::PathBuf {
    for at in 0..3 {
        save(folder.join(format!("{at}.jpg")), at);
    }
    let whole = std::fs::read(folder.join("1.jpg")).expect("saved");
    std::fs::write(folder.join("1.jpg"), &whole[..whole.len() / 2]).expect("written");
    std::fs::write(folder.join("3.jpg"), "<!DOCTYPE html><html>403</html>").expect("written");
    let image = |id: u64| json!({"id": id, "file_name": format!("{id}.jpg"), "height": 48, "width": 64});
    let outline = json!([[10, 10, 40, 10, 40, 30]]);
    let segmentations = [
        (0, outline.clone()),
        (0, json!([[10.0, 10.0, 20.0, 20.0]])),
        (0, json!([[10, 10, 40, 10, 40, 30], [5, 5, 9, 9]])),
        (1, outline.clone()),
        (2, json!({"size": [48, 64], "counts": [3072]})),
        (2, outline.clone()),
        (3, outline),
    ];
    let annotations: Vec<Value> = segmentations
        .into_iter()
        .zip(1..)
        .map(|((image, segmentation), id)| {
            json!({"id": id, "image_id": image, "category_id": 1, "segmentation": segmentation, "iscrowd": 0})
        })
        .collect();
    let file = folder.join("annotations.json");
    let images: Vec<Value> = (0..4).map(image).collect();
    let json = json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]});
    std::fs::write(&file, json.to_string()).expect("written");
    file
}

#[test]
fn a_survey_counts_as_the_check_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = damaged(folder.path());
    let report = check(&file, &SourceOptions::default(), &|_, _| {}).expect("opens");
    for bad in [OnBad::Drop, OnBad::Refuse] {
        let source = Source::open(&file, &options(bad)).expect("opens");
        let survey = survey_all(&source);
        let Losses { images, images_read, unreadable_images, objects, problems, .. } = &survey.losses;
        assert_eq!((*images, *images_read, *unreadable_images, *objects), (4, 4, 2, report.objects));
        for problem in problems {
            assert_eq!(report.problem(problem.kind), Some(problem));
        }
        let mut kinds: Vec<ProblemKind> = problems.iter().map(|problem| problem.kind).collect();
        kinds.sort_unstable();
        let expected = [ProblemKind::ImageUnreadable, ProblemKind::NoMask, ProblemKind::MaskEmpty];
        assert!(expected.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        assert!(kinds.contains(&ProblemKind::PolygonShort), "{kinds:?}");
        let is_readable = [0, 1, 2, 3].map(|index| survey.is_readable(index));
        assert_eq!(is_readable, [true, false, true, false]);
        assert!(survey.may_have_objects(&[1, 2]) && !survey.may_have_objects(&[1, 3]));
        let refusal = survey.refusal(&source).expect("bad data").to_string();
        assert!(refusal.contains("2 problems") && refusal.contains("an HTML page"), "{refusal}");
    }
}

#[test]
fn a_conversion_drops_what_it_says_or_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = damaged(folder.path());
    let out = folder.path().join("out");
    let refused = Source::open(&file, &options(OnBad::Refuse)).expect("opens");
    let error = convert(&refused, &out, crate::conversion(ConvertTo::Coco), &crate::go_on)
        .expect_err("two broken images")
        .to_string();
    assert!(error.contains("1.jpg") && error.contains("3.jpg") && !out.exists(), "{error}");
    let source = Source::open(&file, &options(OnBad::Drop)).expect("opens");
    let report = convert(&source, &out, crate::conversion(ConvertTo::Coco), &crate::go_on).expect("converted");
    assert_eq!((report.images, report.losses.unreadable_images), (2, 2));
    assert_eq!(report.losses, survey_all(&source).losses);
    let again = Source::open(&out, &SourceOptions::default()).expect("opens");
    assert!(survey_all(&again).losses.is_empty());
    assert_eq!(again.len(), 2);
}

#[test]
fn a_part_of_a_data_set_may_be_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = damaged(folder.path());
    let source = Source::open(&file, &options(OnBad::Refuse)).expect("opens");
    let survey = survey(&source, &[0, 2], &|_, _| {});
    assert!(survey.refusal(&source).is_none());
    assert_eq!((survey.losses.images, survey.losses.images_read, survey.losses.unreadable_images), (4, 2, 0));
    assert!(survey.may_have_objects(&[3]), "it was not looked at");
}
