//! Masks compared with pycocotools, bit for bit; `masks.txt` describes the kinds of records.

use std::collections::BTreeMap;

use sam_image::{
    Rle, bbox_iou_matrix, bbox_to_rle, mask_iou, polygon_to_rle, polygons_to_rle, rle_iou, rle_iou_matrix,
};

use super::fixture;

/// The fields of one record, taken from the front.
struct Record<'a>(std::iter::Peekable<std::str::Split<'a, char>>);

impl<'a> Record<'a> {
    fn text(&mut self) -> &'a str {
        self.0.next().expect("another field")
    }

    fn number<T: std::str::FromStr>(&mut self) -> T {
        let text = self.text();
        text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
    }

    fn numbers<T: std::str::FromStr>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| self.number()).collect()
    }

    fn size_hw(&mut self) -> [usize; 2] {
        [self.number(), self.number()]
    }

    fn rles(&mut self, size_hw: [usize; 2], n: usize) -> Vec<Rle> {
        (0..n).map(|_| rle(size_hw, self.text())).collect()
    }

    fn rest(mut self) -> Vec<&'a str> {
        self.0.by_ref().collect()
    }
}

fn rle(size_hw: [usize; 2], text: &str) -> Rle {
    Rle::from_coco_string(size_hw, text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn floats(fields: &[&str]) -> Vec<f64> {
    fields.iter().map(|field| field.parse().expect("a number")).collect()
}

#[test]
fn masks_equal_pycocotools() {
    let text = std::fs::read_to_string(fixture("masks.txt")).expect("fixture");
    let mut n_records = BTreeMap::new();
    for line in text.lines() {
        let mut record = Record(line.split(' ').peekable());
        let kind = record.text();
        match kind {
            "mask" => check_mask(record),
            "poly" | "box" | "parts" => check_outline(kind, record),
            "merge" => check_merge(record),
            "iou" => check_iou(record),
            "bbiou" => check_bbox_iou(record),
            _ => panic!("unknown record {line}"),
        }
        *n_records.entry(kind).or_insert(0) += 1;
    }
    assert!(n_records["mask"] > 300 && n_records["poly"] > 450, "{n_records:?}");
    assert_eq!(n_records.len(), 7, "{n_records:?}");
}

fn check_mask(mut record: Record<'_>) {
    let size_hw = record.size_hw();
    let text = record.text();
    let rle = rle(size_hw, text);
    let mask = rle.to_mask();
    let fnv = mask
        .pixels()
        .iter()
        .fold(0x811C_9DC5_u32, |value, &pixel| (value ^ u32::from(pixel)).wrapping_mul(0x0100_0193));
    assert_eq!(fnv, record.number::<u32>(), "{size_hw:?} {text} decodes to {mask:?}");
    assert_eq!(Rle::from_mask(&mask), rle, "{mask:?}");
    assert_eq!(rle.to_coco_string(), text);
    assert_eq!(rle.area_px(), record.number::<usize>());
    assert_eq!(mask.area_px(), rle.area_px());
    assert_eq!(rle.bbox_xywh_px().to_vec(), record.numbers::<usize>(4), "{mask:?}");
}

fn check_outline(kind: &str, mut record: Record<'_>) {
    let size_hw = record.size_hw();
    let expected = rle(size_hw, record.text());
    let rest = record.rest();
    let got = match kind {
        "poly" => polygon_to_rle(size_hw, &floats(&rest)),
        "box" => bbox_to_rle(size_hw, floats(&rest).try_into().expect("four numbers")),
        _ => {
            let parts: Vec<Vec<f64>> = rest.split(|field| *field == "|").map(floats).collect();
            polygons_to_rle(size_hw, &parts)
        }
    };
    let got = got.expect("valid");
    assert_eq!(got, expected, "{kind} {rest:?}: {:?} is not {:?}", got.to_mask(), expected.to_mask());
}

fn check_merge(mut record: Record<'_>) {
    let size_hw = record.size_hw();
    let how = record.text();
    let expected = rle(size_hw, record.text());
    let masks: Vec<Rle> = record.rest().iter().map(|text| rle(size_hw, text)).collect();
    let got = if how == "union" { Rle::union(&masks) } else { Rle::intersection(&masks) };
    assert_eq!(got.expect("one size"), expected, "{how} of {masks:?}");
}

fn check_iou(mut record: Record<'_>) {
    let size_hw = record.size_hw();
    let [n_dt, n_gt]: [usize; 2] = [record.number(), record.number()];
    let detections = record.rles(size_hw, n_dt);
    let truths = record.rles(size_hw, n_gt);
    let is_crowd: Vec<bool> = record.numbers::<u8>(n_gt).iter().map(|&flag| flag == 1).collect();
    let expected: Vec<f64> = record.numbers(n_dt * n_gt);
    assert_eq!(rle_iou_matrix(&detections, &truths, &is_crowd).expect("one size"), expected);
    for (d, detection) in detections.iter().enumerate() {
        for (g, truth) in truths.iter().enumerate().filter(|&(g, _)| !is_crowd[g]) {
            let expected = expected[d * n_gt + g];
            assert_eq!(rle_iou(detection, truth).expect("one size"), expected);
            assert_eq!(mask_iou(&detection.to_mask(), &truth.to_mask()).expect("one size"), expected);
        }
    }
}

fn check_bbox_iou(mut record: Record<'_>) {
    let [n_dt, n_gt]: [usize; 2] = [record.number(), record.number()];
    let mut boxes =
        |n: usize| -> Vec<[f64; 4]> { (0..n).map(|_| record.numbers(4).try_into().expect("four numbers")).collect() };
    let (detections, truths) = (boxes(n_dt), boxes(n_gt));
    let is_crowd: Vec<bool> = record.numbers::<u8>(n_gt).iter().map(|&flag| flag == 1).collect();
    let expected: Vec<f64> = record.numbers(n_dt * n_gt);
    assert_eq!(bbox_iou_matrix(&detections, &truths, &is_crowd).expect("flags"), expected);
}
