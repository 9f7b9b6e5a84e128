//! Label images: depths, smoothing, colours, ids.

use image::{Rgba, RgbaImage};
use sam_data::{ConvertTo, LabelKind, convert};

use super::*;

/// A disc with a soft edge of this many pixels.
fn soft_disc(x: u32, y: u32, centre_x: f64, edge_px: f64) -> f64 {
    let distance = (f64::from(x) - centre_x).hypot(f64::from(y) - 24.0);
    ((14.0 - distance) / edge_px).clamp(0.0, 1.0)
}

#[test]
fn smoothed_masks_are_recognised_at_every_depth() {
    let soft = |x: u32, y: u32| soft_disc(x, y, 20.0, 3.0);
    let make = |save_mask: &dyn Fn(&Path)| {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        std::fs::create_dir_all(folder.path().join("masks")).expect("made");
        save_mask(&folder.path().join("masks/a.png"));
        folder
    };
    let smooth = make(&|path| save_labels(path, |x, y| (soft(x, y) * 255.0) as u8));
    let deep = make(&|path| {
        image::ImageBuffer::from_fn(64, 48, |x, y| Luma([(soft(x, y) * 65535.0) as u16])).save(path).expect("saved");
    });
    let ids = make(&|path| {
        save_labels(path, |x, y| (soft(x, y) * 40.0 + soft_disc(x, y, 45.0, 3.0) * 80.0) as u8);
    });
    let strokes = make(&|path| {
        let stray = |x: u32| [12, 130, 77, 200][x as usize - 5];
        save_labels(
            path,
            |x, y| if y == 2 && (5..9).contains(&x) { stray(x) } else { u8::from(soft(x, y) > 0.5) * 255 },
        );
    });
    for folder in [&smooth, &deep, &ids, &strokes] {
        contains_all(&error(folder.path()), &["as resizing with smoothing leaves", "labels = \"binary\""]);
        assert_eq!(problem(folder.path(), ProblemKind::LabelSmoothed).0, 1);
    }
    let binary = SourceOptions { labels: LabelKind::Binary, ..SourceOptions::default() };
    let source = Source::open(smooth.path(), &binary).expect("opens");
    let half = (0..48 * 64).filter(|at| (soft(at % 64, at / 64) * 255.0) as u8 >= 128).count();
    assert_eq!(areas(&source, 0), [half]);
    // Specks and thin objects apart are no smoothing.
    let specks = make(&|path| save_labels(path, |x, y| if x % 9 == 0 && y == 20 { (x / 9) as u8 } else { 0 }));
    assert_eq!(areas(&open(specks.path()), 0).len(), 7);
}

#[test]
fn colours_and_alpha_of_masks_are_named() {
    let make = |save_mask: &dyn Fn(&Path)| {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        std::fs::create_dir_all(folder.path().join("masks")).expect("made");
        save_mask(&folder.path().join("masks/a.png"));
        folder
    };
    let colours = make(&|path| {
        let colour = |x: u32| if x > 30 { Rgb([220, 20, 60]) } else { Rgb([0, 0, 0]) };
        RgbImage::from_fn(64, 48, |x, _| colour(x)).save(path).expect("saved");
    });
    contains_all(&error(colours.path()), &["colours, such as [220, 20, 60]"]);
    let alpha = make(&|path| {
        RgbaImage::from_fn(64, 48, |x, _| Rgba([255, 255, 255, if x > 30 { 255 } else { 0 }]))
            .save(path)
            .expect("saved");
    });
    contains_all(&error(alpha.path()), &["the shapes in the alpha channel"]);
}

/// A palette PNG of two objects.
fn save_palette(path: &Path, colours: &[[u8; 3]]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let mut encoder = png::Encoder::new(std::fs::File::create(path).expect("a file"), 64, 48);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(colours.concat());
    let ids: Vec<u8> = (0..48 * 64).map(|at| if at % 64 < 20 { 1 } else { 2 * u8::from(at % 64 > 40) }).collect();
    encoder.write_header().expect("written").write_image_data(&ids).expect("written");
}

#[test]
fn classes_of_cvat_are_those_of_its_labelmap() {
    let make = |labelmap: Option<&str>| {
        let folder = folder();
        save(folder.path().join("JPEGImages/a.png"), 1);
        for masks in ["SegmentationClass", "SegmentationObject"] {
            let colours = [[0, 0, 0], [48, 112, 32], [176, 112, 32]];
            save_palette(&folder.path().join(masks).join("a.png"), &colours);
        }
        write(folder.path().join("ImageSets/Segmentation/default.txt"), "a\n");
        if let Some(labelmap) = labelmap {
            write(folder.path().join("labelmap.txt"), labelmap);
        }
        folder
    };
    let class_names = |folder: tempfile::TempDir| {
        let source = open(folder.path());
        let objects = source.objects(0).expect("objects").objects;
        objects.iter().map(|object| source.classes()[object.class.expect("a class")].clone()).collect::<Vec<_>>()
    };
    let head = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n";
    let in_order = format!("{head}Bolt:48,112,32::\nNut:176,112,32::\n");
    let by_colour = format!("{head}Nut:176,112,32::\nBolt:48,112,32::\n");
    assert_eq!(class_names(make(Some(&in_order))), ["Bolt", "Nut"]);
    assert_eq!(class_names(make(Some(&by_colour))), ["Bolt", "Nut"]);
    // Without VOC's palette, VOC's names would be invented.
    assert_eq!(class_names(make(None)), ["id 1", "id 2"]);
}

#[test]
fn a_set_without_objects_is_an_error() {
    let none = folder();
    for at in 0..2 {
        save(none.path().join(format!("images/{at}.png")), at);
        save_labels(none.path().join(format!("masks/{at}.png")), |_, _| 0);
    }
    let (count, examples) = problem(none.path(), ProblemKind::NoObjects);
    assert_eq!(count, 1);
    contains_all(&examples, &["none of its 2 images has an object"]);
}

/// Saves values from a function as a TIFF of this type.
fn save_tiff<C>(path: &Path, value: impl Fn(u32, u32) -> C::Inner)
where
    C: tiff::encoder::colortype::ColorType,
    [C::Inner]: tiff::encoder::TiffValue,
{
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let values: Vec<C::Inner> = (0..48 * 64).map(|at| value(at % 64, at / 64)).collect();
    let mut encoder = tiff::encoder::TiffEncoder::new(std::fs::File::create(path).expect("a file")).expect("a TIFF");
    encoder.write_image::<C>(64, 48, &values).expect("written");
}

/// Ids that are equal modulo 65536, and -1 as the background.
#[test]
fn ids_beyond_16_bits_stay_apart() {
    use tiff::encoder::colortype::{Gray32, Gray32Float, GrayI32};
    let id = |x: u32, _: u32| [0, 70_000, 4464, 135_536][(x / 16) as usize];
    type Save = fn(&Path, &dyn Fn(u32, u32) -> i32);
    let kinds: [Save; 3] = [
        |path, id| save_tiff::<GrayI32>(path, id),
        |path, id| save_tiff::<Gray32>(path, |x, y| id(x, y) as u32),
        |path, id| save_tiff::<Gray32Float>(path, |x, y| id(x, y) as f32),
    ];
    for save_ids in kinds {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        save_ids(&folder.path().join("masks/a.tif"), &id);
        let source = open(folder.path());
        let objects = source.objects(0).expect("objects").objects;
        let ids: Vec<u64> = objects.iter().map(|object| object.id).collect();
        assert_eq!((ids, areas(&source, 0)), (vec![4464, 70_000, 135_536], vec![16 * 48; 3]));
        // Label images of 16 bits cannot hold the ids, but all objects.
        let out = folder.path().join("out");
        let report = convert(&source, &out, crate::conversion(ConvertTo::Labels), &crate::go_on).expect("converted");
        assert_eq!((report.objects, areas(&open(&out), 0)), (3, vec![16 * 48; 3]));
    }
    let folder = folder();
    save(folder.path().join("images/a.png"), 1);
    save_tiff::<GrayI32>(&folder.path().join("masks/a.tif"), |x, y| if id(x, y) == 0 { -1 } else { id(x, y) });
    contains_all(&error(folder.path()), &["negative numbers"]);
}

/// A mask that was resized with smoothing and saved as float.
#[test]
fn smoothed_float_masks_are_recognised() {
    use tiff::encoder::colortype::Gray32Float;
    let soft = |x: u32, y: u32| soft_disc(x, y, 20.0, 3.0) as f32;
    for scale in [1.0, 255.0] {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        save_tiff::<Gray32Float>(&folder.path().join("masks/a.tif"), |x, y| soft(x, y) * scale);
        contains_all(&error(folder.path()), &["as resizing with smoothing leaves", "labels = \"binary\""]);
        let binary = SourceOptions { labels: LabelKind::Binary, ..SourceOptions::default() };
        let source = Source::open(folder.path(), &binary).expect("opens");
        let half = (0..48 * 64).filter(|at| soft(at % 64, at / 64) >= 0.5).count();
        let [area] = areas(&source, 0)[..] else { panic!("one object") };
        assert!(area.abs_diff(half) <= 2, "{area} px, {half} px by definition");
    }
    // Fractions that are no edges are no masks, whatever the rule.
    let folder = folder();
    save(folder.path().join("images/a.png"), 1);
    save_tiff::<Gray32Float>(&folder.path().join("masks/a.tif"), |x, _| if x > 30 { 0.5 } else { 0.0 });
    contains_all(&error(folder.path()), &["the float 0.5"]);
}
