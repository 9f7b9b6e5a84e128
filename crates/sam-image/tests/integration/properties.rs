//! Properties of arbitrary input: readers never panic, and conversions round-trip.

use proptest::prelude::*;
use sam_image::{
    Components, Connectivity, DEFAULT_MAX_PIXELS, Mask, ModelFrame, Rle, decode_rgb_bytes, fill_small_holes, mask_iou,
    outlines, outlines_to_rle, polygon_to_rle, remove_small_islands, rle_iou,
};

fn any_mask() -> impl Strategy<Value = Mask> {
    (0usize..40, 0usize..40, 1u32..100).prop_flat_map(|(height, width, percent)| {
        let pixel = prop::bool::weighted(f64::from(percent) / 100.0);
        prop::collection::vec(pixel, height * width)
            .prop_map(move |pixels| Mask::new([height, width], pixels).expect("the right number of pixels"))
    })
}

fn two_masks() -> impl Strategy<Value = (Mask, Mask)> {
    any_mask().prop_flat_map(|a| {
        let size_hw = a.size_hw();
        let other = prop::collection::vec(any::<bool>(), a.pixels().len())
            .prop_map(move |pixels| Mask::new(size_hw, pixels).expect("the right number of pixels"));
        (Just(a), other)
    })
}

/// Bytes of COCO's alphabet, with a few others.
fn nearly_coco_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![60 => 48u8..112, 30 => 48u8..56, 1 => any::<u8>()], 0..60)
}

/// If the text is accepted, the value is valid and round-trips.
fn check_text(size_hw: [usize; 2], text: &[u8]) {
    let Ok(rle) = Rle::from_coco_string(size_hw, text) else { return };
    let sum: u64 = rle.counts().iter().map(|&count| u64::from(count)).sum();
    assert_eq!(sum, (size_hw[0] * size_hw[1]) as u64);
    assert!(rle.counts().len() <= text.len().max(1));
    assert_eq!(Rle::from_coco_string(size_hw, rle.to_coco_string().as_bytes()).expect("own text"), rle);
    if sum < 100_000 {
        assert_eq!(Rle::from_mask(&rle.to_mask()), rle);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_rle_or_an_error(
        text in prop::collection::vec(any::<u8>(), 0..200),
        h in any::<usize>(),
        w in any::<usize>(),
    ) {
        check_text([h, w], &text);
        check_text([h % 30000, w % 30000], &text);
    }

    #[test]
    fn nearly_valid_texts_are_an_rle_or_an_error(text in nearly_coco_bytes(), h in 0usize..9, w in 0usize..9) {
        check_text([h, w], &text);
        // Few texts fit one given size, so all small ones are tried.
        for area in 0..80 {
            check_text([area, 1], &text);
        }
    }

    #[test]
    fn any_counts_are_an_rle_or_an_error(
        counts in prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 0..12),
        h in 0usize..9,
        w in 0usize..9,
    ) {
        if let Ok(rle) = Rle::new([h, w], &counts) {
            check_text([h, w], rle.to_coco_string().as_bytes());
        }
    }

    #[test]
    fn masks_round_trip_through_runs_text_and_outlines(mask in any_mask()) {
        let rle = Rle::from_mask(&mask);
        prop_assert_eq!(&rle.to_mask(), &mask);
        prop_assert_eq!(&Rle::new(mask.size_hw(), rle.counts()).expect("own counts"), &rle);
        prop_assert_eq!(&Rle::from_coco_string(mask.size_hw(), rle.to_coco_string().as_bytes()).expect("own text"), &rle);
        prop_assert_eq!(outlines_to_rle(mask.size_hw(), &outlines(&mask)).expect("own outlines"), rle.clone());
        prop_assert_eq!(rle.area_px(), mask.area_px());
        prop_assert_eq!(rle.bounds_xyxy_px(), mask.bounds_xyxy_px());
    }

    #[test]
    fn merging_equals_pixelwise_logic((a, b) in two_masks()) {
        let pixelwise = |rule: fn(bool, bool) -> bool| {
            Rle::from_mask(&Mask::from_fn(a.size_hw(), |row, column| rule(a.get(row, column), b.get(row, column))))
        };
        let rles = [Rle::from_mask(&a), Rle::from_mask(&b)];
        prop_assert_eq!(Rle::union(&rles).expect("one size"), pixelwise(|a, b| a | b));
        prop_assert_eq!(Rle::intersection(&rles).expect("one size"), pixelwise(|a, b| a & b));
        prop_assert_eq!(rle_iou(&rles[0], &rles[1]).expect("one size"), mask_iou(&a, &b).expect("one size"));
    }

    #[test]
    fn any_polygon_is_a_mask_or_an_error(
        xy in prop::collection::vec(prop_oneof![8 => -50f64..50.0, 1 => any::<f64>(), 1 => -1e9..1e9], 0..20),
        h in 0usize..40, w in 0usize..40,
    ) {
        if let Ok(rle) = polygon_to_rle([h, w], &xy) {
            check_text([h, w], rle.to_coco_string().as_bytes());
        }
    }

    #[test]
    fn clean_ups_leave_nothing_small(mask in any_mask(), area_min_px in 0usize..50) {
        let mut filled = mask.clone();
        fill_small_holes(&mut filled, area_min_px);
        prop_assert!(!fill_small_holes(&mut filled, area_min_px));
        let mut kept = mask;
        remove_small_islands(&mut kept, area_min_px);
        let islands = Components::new(&kept, Connectivity::Eight);
        prop_assert!(islands.len() <= 1 || islands.areas_px().iter().all(|&area_px| area_px >= area_min_px));
    }

    #[test]
    fn any_bytes_are_an_image_or_an_error(
        magic in prop::sample::select(vec![
            &b""[..], b"\xFF\xD8\xFF", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM", b"RIFF\0\0\0\0WEBP",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = [magic, &rest].concat();
        let _image_or_error = decode_rgb_bytes(&bytes, "any", DEFAULT_MAX_PIXELS);
    }

    #[test]
    fn points_round_trip_through_frames(h in 1usize..5000, w in 1usize..5000, side in 1usize..2000, x in 0f32..1.0, y in 0f32..1.0) {
        let frame = ModelFrame::new([h, w], side);
        prop_assert!(frame.resized_hw.iter().all(|&size| (1..=side).contains(&size)));
        prop_assert!(frame.resized_hw.contains(&side));
        let point = [x * w as f32, y * h as f32];
        let back = frame.point_to_original(frame.point_to_model(point));
        prop_assert!((point[0] - back[0]).abs() < 0.01 && (point[1] - back[1]).abs() < 0.01);
    }
}
