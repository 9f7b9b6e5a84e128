//! What is written for labelling programs, read again by their rules; and classes in SA-1B files.

use std::collections::BTreeMap;
use std::path::Path;

use sam_data::{ConvertReport, ConvertTo, DataError, ProblemKind, Selection, Source, convert, convert_selection};
use sam_image::{Mask, Rle};
use serde_json::Value;

use crate::{conversion, fixture, go_on, open};

const SETS: [&str; 6] = ["cvat", "coco", "roboflow", "sa1b", "binary", "exif"];

fn written(name: &str, to: ConvertTo) -> (tempfile::TempDir, Source, ConvertReport) {
    let folder = tempfile::tempdir().expect("a folder");
    let source = open(&fixture(name));
    let report = convert(&source, &folder.path().join("out"), conversion(to), &go_on);
    let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
    (folder, source, report)
}

/// Class and mask of the objects of each image, by the image's stem; objects without a class have "object".
fn expected(source: &Source) -> BTreeMap<String, Vec<(String, Rle)>> {
    let of = |index: usize| {
        let objects = source.objects(index).expect("objects").objects.into_iter();
        let class = |class: Option<usize>| class.map_or("object", |class| &source.classes()[class]).to_owned();
        (stem(&source.name(index)), objects.map(|object| (class(object.class), object.mask)).collect())
    };
    (0..source.len()).map(of).collect()
}

fn stem(name: &str) -> String {
    Path::new(name).file_stem().expect("a name").to_string_lossy().into_owned()
}

/// The value of an attribute in the text of an element; what is escaped stays so.
fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split_once(&format!(" {name}=\""))?.1.split('"').next()
}

/// `<image>` elements by CVAT's rule: runs along the rows of the box, the first one unset.
fn read_cvat(xml: &str) -> BTreeMap<String, Vec<(String, Rle)>> {
    let number = |element: &str, name: &str| -> usize {
        attribute(element, name).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} in {element}"))
    };
    let image = |element: &str| {
        let size_hw = [number(element, "height"), number(element, "width")];
        let masks = element.split("<mask").skip(1).map(|element| {
            let [left, top, width, height] = ["left", "top", "width", "height"].map(|name| number(element, name));
            let runs = attribute(element, "rle").expect("runs").split(", ").map(|run| run.parse().expect("a run"));
            let inside: Vec<bool> =
                runs.enumerate().flat_map(|(at, run): (usize, usize)| vec![at % 2 == 1; run]).collect();
            assert_eq!(inside.len(), width * height, "{element}");
            let is_set = |row: usize, column: usize| {
                let is_inside = (top..top + height).contains(&row) && (left..left + width).contains(&column);
                is_inside && inside[(row - top) * width + column - left]
            };
            (attribute(element, "label").expect("a label").to_owned(), Rle::from_mask(&Mask::from_fn(size_hw, is_set)))
        });
        (stem(attribute(element, "name").expect("a name")), masks.collect())
    };
    xml.split("<image ").skip(1).map(|element| image(&format!(" {element}"))).collect()
}

#[test]
fn cvat_reads_every_mask() {
    for name in SETS {
        let (folder, source, report) = written(name, ConvertTo::Cvat);
        let out = folder.path().join("out");
        let xml = std::fs::read_to_string(out.join("annotations.xml")).expect("written");
        assert_eq!(read_cvat(&xml), expected(&source), "{name}");
        let has_parts = (0..source.len()).any(|index| source.given_split(index).is_some());
        assert_eq!(xml.contains("<subset>val</subset>"), has_parts, "{name}");
        for element in xml.split("<image ").skip(1) {
            let element = format!(" {element}");
            let below = attribute(&element, "subset").map_or(String::new(), |part| format!("{part}/"));
            let path = out.join("images").join(below).join(attribute(&element, "name").expect("a name"));
            assert!(path.is_file(), "{}", path.display());
        }
        assert_eq!(std::fs::read_dir(&out).expect("listed").count(), 2, "{name}: images and annotations.xml");
        assert_eq!(report.notes.iter().any(|note| note.contains("no ignore regions")), name == "coco");
        assert!(report.hints[0].contains("CVAT 1.1"), "{:?}", report.hints);
    }
}

/// The values of Label Studio's run lengths, as its browser side decodes them.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut at = 0;
    let mut read = |n_bits: usize| {
        let value = (at..at + n_bits).fold(0, |value, at| value << 1 | usize::from(bytes[at / 8] >> (7 - at % 8) & 1));
        at += n_bits;
        value
    };
    let (n_values, word_bits) = (read(32), read(5) + 1);
    let run_bits = [(); 4].map(|()| read(4) + 1);
    let mut values = Vec::with_capacity(n_values);
    while values.len() < n_values {
        let is_run = read(1) == 1;
        let size = run_bits[read(2)];
        let length = read(size) + 1;
        match is_run {
            true => values.extend(std::iter::repeat_n(read(word_bits) as u8, length)),
            false => (0..length).for_each(|_| values.push(read(word_bits) as u8)),
        }
    }
    values
}

#[test]
fn label_studio_reads_every_mask() {
    for name in SETS {
        let (folder, source, report) = written(name, ConvertTo::LabelStudio);
        let out = folder.path().join("out");
        let tasks: Value =
            serde_json::from_slice(&std::fs::read(out.join("tasks.json")).expect("written")).expect("JSON");
        let config = std::fs::read_to_string(out.join("label_config.xml")).expect("written");
        let mut read: BTreeMap<String, Vec<(String, Rle)>> = BTreeMap::new();
        for task in tasks.as_array().expect("a list") {
            let address = task["data"]["image"].as_str().expect("an address");
            let path = address.strip_prefix("/data/local-files/?d=").expect("of the local storage").replace("%20", " ");
            assert!(out.join(&path).is_file(), "{path}");
            let results = task["annotations"][0]["result"].as_array().expect("results");
            let masks = results.iter().map(|result| {
                let size_hw =
                    ["original_height", "original_width"].map(|side| result[side].as_u64().expect("a size") as usize);
                let bytes: Vec<u8> = serde_json::from_value(result["value"]["rle"].clone()).expect("bytes");
                let rgba = decoded(&bytes);
                assert!(
                    rgba.chunks(4).all(|pixel| pixel == [pixel[0]; 4]) && rgba.len() == 4 * size_hw[0] * size_hw[1]
                );
                let mask = Mask::from_fn(size_hw, |row, column| rgba[4 * (row * size_hw[1] + column) + 3] == 255);
                let label = result["value"]["brushlabels"][0].as_str().expect("a label").to_owned();
                assert!(config.contains(&format!("<Label value=\"{label}\"")), "{config}");
                assert_eq!((&result["from_name"], &result["to_name"]), (&"label".into(), &"image".into()));
                (label, Rle::from_mask(&mask))
            });
            read.insert(stem(&path), masks.collect());
        }
        assert_eq!(read, expected(&source), "{name}");
        assert!(report.hints[0].contains("LOCAL_FILES_DOCUMENT_ROOT"), "{:?}", report.hints);
    }
}

#[test]
fn names_with_markup_are_text() {
    let folder = crate::copy_of("cvat");
    let json = folder.path().join("annotations/instances_default.json");
    crate::replace(&json, "\"cell\"", "\"<b a='1'>&\\\"\"");
    std::fs::rename(folder.path().join("images/default/sub folder"), folder.path().join("images/default/a&b <c>"))
        .expect("renamed");
    crate::replace(&json, "sub folder", "a&b <c>");
    let source = open(folder.path());
    for (to, file, texts) in [
        (
            ConvertTo::Cvat,
            "annotations.xml",
            ["&#60;b a=&#39;1&#39;&#62;&#38;&#34;", "a&#38;b &#60;c&#62;/frame_000001.JPG"],
        ),
        (ConvertTo::LabelStudio, "label_config.xml", ["value=\"&#60;b a=&#39;1&#39;&#62;&#38;&#34;\"", "toName"]),
        (ConvertTo::LabelStudio, "tasks.json", ["images/a%26b%20%3Cc%3E/frame_000001.JPG", "<b a='1'>&\\\""]),
    ] {
        let out = tempfile::tempdir().expect("a folder");
        convert(&source, &out.path().join("out"), conversion(to), &go_on).expect("converted");
        let written = std::fs::read_to_string(out.path().join("out").join(file)).expect("written");
        assert!(texts.iter().all(|text| written.contains(text)), "{written}");
        assert!(!file.ends_with("xml") || !written.contains("<b a") && !written.contains("<c>"), "{written}");
    }
}

#[test]
fn a_selection_holds_nothing_else() {
    let source = open(&fixture("cvat"));
    let out = tempfile::tempdir().expect("a folder");
    let keeps = |index: usize, object: &sam_data::ObjectMask| index == 1 && object.class == Some(1);
    let selection = Selection { images: &[1], keeps: &keeps };
    let at = out.path().join("out");
    let report = convert_selection(&source, &at, conversion(ConvertTo::Coco), selection, &go_on).expect("converted");
    assert_eq!((report.images, report.objects), (1, 1));
    let back = open(&at);
    assert_eq!((back.len(), back.name(0).as_str()), (1, "sub folder/frame_000001.JPG"));
    assert_eq!(back.objects(0).expect("objects").objects[0].mask, source.objects(1).expect("objects").objects[0].mask);
}

/// Files of others have no such key, and none is written for them.
#[test]
fn sa1b_has_the_classes_of_projects() {
    let (folder, ..) = written("sa1b", ConvertTo::Sa1b);
    let text = std::fs::read_to_string(first_json(&folder.path().join("out"))).expect("written");
    assert!(!text.contains("class"), "{text}");

    let (folder, source, _) = written("cvat", ConvertTo::Sa1b);
    let out = folder.path().join("out");
    assert_eq!(open(&out).classes(), source.classes());
    // In a shard, too, and one of the masks has none.
    let json = out.join("frame_000000.json");
    crate::replace(&json, "\"class\":\"cell\"", "\"class\":null");
    let mut shard = tar::Builder::new(std::fs::File::create(folder.path().join("shard.tar")).expect("made"));
    shard.append_dir_all(".", &out).expect("added");
    shard.finish().expect("written");
    let shard = open(&folder.path().join("shard.tar"));
    let classes: Vec<Option<usize>> =
        (0..2).flat_map(|at| shard.objects(at).expect("objects").objects).map(|object| object.class).collect();
    assert_eq!((shard.classes(), classes), (source.classes(), vec![None, Some(0), Some(1), Some(0)]));
    // What somebody else means by the key is left alone.
    crate::replace(&json, "\"class\":null", "\"class\":7");
    assert_eq!(open(&out).objects(0).expect("objects").objects[0].class, None);
    // Names that come first, in the order that the user gives.
    let classes = vec!["tube".to_owned(), "other".to_owned()];
    let options = sam_data::SourceOptions { classes, ..sam_data::SourceOptions::default() };
    assert_eq!(Source::open(&out, &options).expect("opens").classes(), ["tube", "other", "cell"]);
}

/// Of very many files only some are looked at for classes; one that all of those lack is no silent loss.
#[test]
fn a_class_that_was_not_looked_for_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image::RgbImage::new(2, 2);
    let at = |name: String| folder.path().join(name);
    for number in 0..600 {
        image.save(at(format!("{number:03}.png"))).expect("saved");
        let class = if number == 1 { "\"rare\"" } else { "null" };
        let json = format!(
            "{{\"image\":{{\"height\":2,\"width\":2}},\"annotations\":[{{\"id\":1,\"class\":{class},\"segmentation\":{{\"size\":[2,2],\"counts\":[0,4]}}}}]}}"
        );
        std::fs::write(at(format!("{number:03}.json")), json).expect("written");
    }
    let source = open(folder.path());
    assert!(source.classes().is_empty());
    let Err(DataError::Findings { findings, .. }) = source.objects(1) else { panic!("its class is unknown") };
    assert_eq!(findings[0].kind, ProblemKind::CategoryUnknown);
    assert!(findings[0].detail.contains("\"rare\""), "{findings:?}");
    assert_eq!(source.objects(2).expect("objects").objects.len(), 1);
}

fn first_json(folder: &Path) -> std::path::PathBuf {
    let mut found: Vec<_> =
        std::fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    let file = found.iter().find(|path| path.extension().is_some_and(|end| end == "json"));
    file.cloned().unwrap_or_else(|| first_json(found.iter().find(|path| path.is_dir()).expect("a folder")))
}
