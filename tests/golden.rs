//! Every output of the tiny model equals the official package's (`fixtures/tiny_golden.safetensors`, computed in f64 from
//! the same f32 weights).

use burn::tensor::Tensor;
use sam_image::{RgbImage, decode_rgb, resize_longest_side};
use sam_infer::{Predictor, Prompt};
use sam_model::ops::relative_position;
use sam_model::weights::Checkpoint;
use sam_model::{MaskOutput, ObjectPrompt, Prompts, Sam};

use crate::fixture::{Golden, LOGITS, MODULE, check, device, path, tiny, values, vit};

const CASES: [(&str, &str); 11] = [
    ("point", ""),
    ("points", ""),
    ("box", ""),
    ("box_point", ""),
    ("mask", ""),
    ("mask_points", ""),
    ("mask_box", ""),
    ("everything", ""),
    ("batch", ""),
    ("point_b", "_b"),
    ("box_point_b", "_b"),
];

fn golden() -> Golden {
    Golden::open("tiny_golden.safetensors")
}

#[test]
fn the_encoder_agrees_block_by_block() {
    let (golden, sam) = (golden(), tiny(&device()));
    let images = golden.tensor::<4>("input_image", &device());
    let mut x = vit(&sam).embed_patches(images);
    check("patch embedding and positions", &values(x.clone()), &golden.values("patch_embed_pos"), MODULE);
    x = vit(&sam).blocks[0].forward(x);
    check("a windowed block", &values(x.clone()), &golden.values("block0_out"), MODULE);
    x = vit(&sam).blocks[1].forward(x);
    check("a global block", &values(x), &golden.values("block1_out"), MODULE);
}

#[test]
fn the_embedding_agrees_for_several_images_at_once() {
    let (golden, sam) = (golden(), tiny(&device()));
    let both = Tensor::cat(
        vec![golden.tensor::<4>("input_image", &device()), golden.tensor::<4>("input_image_b", &device())],
        0,
    );
    let expected = [golden.values("image_embedding"), golden.values("image_embedding_b")].concat();
    // Four blocks and a neck over values up to ten.
    check("embedding", &values(sam.encode(both)), &expected, 3.0 * MODULE);
}

#[test]
fn attention_resizes_its_tables_like_the_reference() {
    let (golden, sam) = (golden(), tiny(&device()));
    for (name, block) in [("equal", 0), ("tables_longer", 1), ("tables_shorter", 0)] {
        let x = golden.tensor::<4>(&format!("attention/{name}/in"), &device());
        let got = vit(&sam).blocks[block].attn.forward(x, 0);
        check(name, &values(got), &golden.values(&format!("attention/{name}/out")), MODULE);
    }
    for name in ["equal", "longer", "shorter"] {
        let table = golden.tensor::<2>(&format!("rel_pos/{name}/table"), &device());
        let size = golden.shape(&format!("rel_pos/{name}/out"))[0];
        let got = relative_position(table, size);
        check(name, &values(got), &golden.values(&format!("rel_pos/{name}/out")), MODULE);
    }
}

#[test]
fn prompt_embeddings_agree() {
    let (golden, sam) = (golden(), tiny(&device()));
    let positions = sam.prompt_encoder.dense_positions().permute([0, 3, 1, 2]);
    check("dense positions", &values(positions), &golden.values("dense_pe"), MODULE);
    for (case, _) in CASES {
        let embedded = sam.prompt_encoder.forward(&golden.prompts(case, &device()));
        match embedded.sparse {
            Some(sparse) => {
                check(case, &values(sparse), &golden.values(&format!("case/{case}/sparse")), MODULE);
            }
            None => assert!(!golden.has(&format!("case/{case}/sparse")), "{case} must have sparse embeddings"),
        }
        let dense = format!("case/{case}/dense");
        if golden.has(&dense) {
            let got = embedded.dense.whole_bhwc().permute([0, 3, 1, 2]).expand([1, 32, 8, 8]);
            check(case, &values(got), &golden.values(&dense), MODULE);
        }
    }
}

#[test]
fn masks_agree_for_every_combination_of_prompts() {
    let (golden, sam) = (golden(), tiny(&device()));
    for (case, image) in CASES {
        let embedding = golden.tensor::<4>(&format!("image_embedding{image}"), &device());
        let prompts = golden.prompts(case, &device());
        for (output, name) in [(MaskOutput::Multi, "multi"), (MaskOutput::Single, "single")] {
            let decoded = sam.decode(embedding.clone(), &vec![0; prompts.objects], &prompts, output);
            let expect = |what: &str| golden.values(&format!("case/{case}/{what}_{name}"));
            check(case, &values(decoded.low_res_logits), &expect("low_res"), LOGITS);
            check(case, &values(decoded.iou_predictions), &expect("iou"), MODULE);
        }
        let all = sam.decode(embedding, &vec![0; prompts.objects], &prompts, MaskOutput::All);
        let single = all.low_res_logits.narrow(1, 0, 1);
        check(case, &values(single), &golden.values(&format!("case/{case}/low_res_single")), LOGITS);
    }
}

/// Prompts of all kinds and lengths, on two images, in one call: each object has the result it has alone.
#[test]
fn ragged_objects_of_several_images_equal_one_at_a_time() {
    let (golden, sam) = (golden(), tiny(&device()));
    let embeddings = Tensor::cat(
        vec![golden.tensor::<4>("image_embedding", &device()), golden.tensor::<4>("image_embedding_b", &device())],
        0,
    );
    let mut objects = Vec::new();
    let mut expected: Vec<(String, usize)> = Vec::new();
    let mut image_of_object = Vec::new();
    for (case, image) in CASES {
        for (number, object) in host_prompts(&golden, case).into_iter().enumerate() {
            objects.push(object);
            expected.push((case.to_owned(), number));
            image_of_object.push(usize::from(image == "_b"));
        }
    }
    let prompts = Prompts::from_objects(&objects, 32, &device());
    assert!(prompts.sparse.as_ref().is_some_and(|sparse| sparse.absent.is_some()), "lengths differ");
    assert!(prompts.masks.as_ref().is_some_and(|masks| masks.present.is_some()), "some have no mask");
    let count = image_of_object.len();
    let decoded = sam.decode(embeddings, &image_of_object, &prompts, MaskOutput::Multi);
    let (masks, qualities) = (values(decoded.low_res_logits), values(decoded.iou_predictions));
    let mask_len = masks.len() / count;
    for (at, (case, number)) in expected.iter().enumerate() {
        let low_res = golden.values(&format!("case/{case}/low_res_multi"));
        check(case, &masks[at * mask_len..][..mask_len], &low_res[number * mask_len..][..mask_len], LOGITS);
        let iou = golden.values(&format!("case/{case}/iou_multi"));
        check(case, &qualities[at * 3..][..3], &iou[number * 3..][..3], MODULE);
    }
}

/// The same prompts as given by a host program.
fn host_prompts(golden: &Golden, case: &str) -> Vec<ObjectPrompt> {
    let optional = |part: &str| {
        let key = format!("case/{case}/{part}");
        golden.has(&key).then(|| golden.values(&key))
    };
    let (coords, labels) = (optional("point_coords"), optional("point_labels"));
    let (boxes, masks) = (optional("boxes"), optional("mask_inputs"));
    let objects = golden.shape(&format!("case/{case}/low_res_multi"))[0];
    (0..objects)
        .map(|object| ObjectPrompt {
            points_xy_px: match (&coords, &labels) {
                (Some(coords), Some(labels)) => {
                    let points = labels.len() / objects;
                    (object * points..(object + 1) * points)
                        .map(|at| ([coords[2 * at], coords[2 * at + 1]], labels[at] > 0.5))
                        .collect()
                }
                _ => Vec::new(),
            },
            box_xyxy_px: boxes.as_ref().map(|all| [0, 1, 2, 3].map(|corner| all[object * 4 + corner])),
            mask_logits: masks.as_ref().map(|all| {
                let length = all.len() / objects;
                all[object * length..][..length].to_vec()
            }),
            text: None,
        })
        .collect()
}

/// From pixels to full-size logits through the predictor, with coordinates of the original image.
#[test]
fn the_predictor_agrees_from_pixels_to_full_size() {
    let golden = golden();
    let predictor = Predictor::new(&tiny(&device()));
    for (case, image, original_hw) in
        [("point", "", [61, 81]), ("point_b", "_b", [48, 30]), ("box_point_b", "_b", [48, 30])]
    {
        // The fixture's image is already resized: its original size is set on the embedding afterwards.
        let shape = golden.shape(&format!("image_u8{image}"));
        let pixels = golden.bytes(&format!("image_u8{image}"));
        let picture = RgbImage::from_raw(shape[1] as u32, shape[0] as u32, pixels).expect("RGB");
        let mut embedding = predictor.embed(&picture);
        let expected = golden.values(&format!("image_embedding{image}"));
        check(case, &values(embedding.tensor.clone()), &expected, 3.0 * MODULE);
        let frame = sam_image::ModelFrame::new(original_hw, 64);
        assert_eq!(frame.resized_hw, [shape[0], shape[1]], "the reference's size");
        embedding.frame = frame;

        let object = host_prompts(&golden, case).remove(0);
        let prompt = Prompt {
            points_xy_px: object
                .points_xy_px
                .iter()
                .map(|&(xy, positive)| (frame.point_to_original(xy), positive))
                .collect(),
            box_xyxy_px: object.box_xyxy_px.map(|corners| frame.box_to_original(corners)),
            ..Prompt::default()
        };
        let prediction = predictor.predict(&embedding, &prompt, MaskOutput::Multi).expect("a good prompt");
        let expected = golden.values(&format!("case/{case}/full_size_multi"));
        let logits = values(prediction.full_size_logits());
        check(case, &logits, &expected, LOGITS);
        for (mask, logits) in prediction.masks().iter().zip(logits.chunks(original_hw[0] * original_hw[1])) {
            assert_eq!(mask.size_hw(), original_hw);
            assert!(mask.pixels().iter().zip(logits).all(|(&on, &logit)| on == (logit > 0.0)));
        }
    }
}

#[test]
fn normalisation_and_padding_agree() {
    let golden = golden();
    for image in ["", "_b"] {
        let shape = golden.shape(&format!("image_u8{image}"));
        let pixels = golden.bytes(&format!("image_u8{image}"));
        let input = Sam::preprocess(&pixels, [shape[0], shape[1]], 64, &device());
        // One division: half a unit in the last place of a value below three.
        check("input", &values(input), &golden.values(&format!("input_image{image}")), 5e-7);
    }
}

/// Pillow's antialiased bilinear resize, up and down, within one grey level.
#[test]
fn resizing_agrees_with_pillow() {
    let photo = decode_rgb(&path("preprocess/photo.png")).expect("a committed fixture");
    for side in [64, 256] {
        let expected = decode_rgb(&path(&format!("preprocess/photo_longest_{side}.png"))).expect("a committed fixture");
        let (got, _) = resize_longest_side(&photo, side);
        assert_eq!(got.dimensions(), expected.dimensions());
        let worst = got.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "off by {worst:?} grey levels at {side} px");
    }
}

#[test]
fn hugging_face_weights_have_the_results_of_transformers() {
    let golden = Golden::open("tiny_hf_golden.safetensors");
    let checkpoint = Checkpoint::open(&path("tiny_hf")).expect("a committed fixture");
    let (sam, report) = checkpoint.load(&device()).expect("it fits");
    assert!(report.fresh.is_empty() && report.dropped.is_empty(), "{report:?}");
    let (official, golden_official) = (tiny(&device()), self::golden());
    let images = golden_official.tensor::<4>("input_image", &device());
    let embedding = sam.encode(images.clone());
    check("embedding", &values(embedding.clone()), &values(official.encode(images)), 1e-6);
    for case in ["points", "box"] {
        let prompts = golden_official.prompts(case, &device());
        let decoded = sam.decode(embedding.clone(), &vec![0; prompts.objects], &prompts, MaskOutput::Multi);
        check(case, &values(decoded.low_res_logits), &golden.values(&format!("case/{case}/pred_masks")), LOGITS);
        check(case, &values(decoded.iou_predictions), &golden.values(&format!("case/{case}/iou_scores")), MODULE);
    }
}
