//! Components, clean-ups, boundaries and distances compared with OpenCV; `shapes.txt` describes the kinds of records.

use sam_image::{
    Border, Components, Connectivity, DistanceMap, Mask, Rle, boundary_iou, boundary_thickness_px, fill_small_holes,
    mask_boundary, remove_small_islands,
};

use super::fixture;

#[test]
fn shapes_equal_opencv() {
    let text = std::fs::read_to_string(fixture("shapes.txt")).expect("fixture");
    let mut n_records = 0;
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let size_hw = [number(fields[1]), number(fields[2])];
        let mask = mask(size_hw, fields[3]);
        match (fields[0], &fields[4..]) {
            ("components", [fnv8, fnv4]) => {
                for (connectivity, fnv) in [(Connectivity::Eight, fnv8), (Connectivity::Four, fnv4)] {
                    let labels = Components::new(&mask, connectivity).labels();
                    assert_eq!(fnv_of(labels.into_iter()), number::<u32>(fnv), "{connectivity:?} {mask:?}");
                }
            }
            ("regions", [mode, area_min_px, changed, expected]) => {
                let (mut got, area_min_px) = (mask.clone(), number(area_min_px));
                let got_changed = match *mode {
                    "holes" => fill_small_holes(&mut got, area_min_px),
                    _ => remove_small_islands(&mut got, area_min_px),
                };
                assert_eq!(got, self::mask(size_hw, expected), "{mode} below {area_min_px} px of {mask:?}");
                assert_eq!(got_changed, *changed == "1", "{mode} below {area_min_px} px of {mask:?}");
            }
            ("boundary", [ratio, expected]) => {
                let thickness_px = boundary_thickness_px(size_hw, number(ratio));
                let got = mask_boundary(&mask, thickness_px);
                assert_eq!(got, self::mask(size_hw, expected), "{thickness_px} px of {mask:?}");
            }
            ("biou", [other, ratio, expected]) => {
                let got = boundary_iou(&mask, &self::mask(size_hw, other), number(ratio)).expect("one size");
                assert_eq!(got, number::<f64>(expected), "{mask:?}");
            }
            ("distance", [expected]) => {
                let map = DistanceMap::new(&mask, Border::Background);
                let squares = map.distances_px().iter().map(|&px| (px * px).round() as u32);
                assert_eq!(fnv_of(squares), number::<u32>(expected), "{mask:?}");
            }
            _ => panic!("unknown record {line}"),
        }
        n_records += 1;
    }
    assert_eq!(n_records, 900);
}

fn mask(size_hw: [usize; 2], text: &str) -> Mask {
    Rle::from_coco_string(size_hw, text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}")).to_mask()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn fnv_of(values: impl Iterator<Item = u32>) -> u32 {
    values
        .flat_map(u32::to_le_bytes)
        .fold(0x811C_9DC5_u32, |value, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
