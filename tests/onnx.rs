//! The ONNX graphs, run by rten, give the official package's numbers and ours: every output, for all mixes of prompts, image
//! sizes, operators, number types and sizes of a model.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rten::{Model, Value};
use sam_image::{ModelFrame, RgbImage, resize_longest_side};
use sam_infer::{Predictor, Prompt};
use sam_model::init::initialise;
use sam_model::weights::{fill_parameters, named_tensors, parameter_shapes, published_form};
use sam_model::{
    BatchNormStatistics, MaskDecoderConfig, MaskOutput, MaskPrompts, Prompts, Sam, SparsePrompts, TinyVitConfig,
    VitConfig,
};
use sam_onnx::{DECODER, ENCODER, ExportOptions, ImageInput, Masks, OnnxError, Opset, WeightType, export};

use crate::fixture::{Golden, LOGITS, check, cpu, max_abs_diff, tiny, values};
use crate::tiny_vit;

/// Both graphs against our own network, which computes the same sums in another order.
const GRAPHS: f32 = 1e-4;

/// Exported graphs in a folder of their own.
struct Graphs {
    folder: tempfile::TempDir,
    encoder: Model,
    decoder: Model,
}

impl Graphs {
    fn of(sam: &Sam, options: &ExportOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        export(sam, options, folder.path(), |_| {}).expect("written, run and equal");
        let open = |name: &str| Model::load_file(folder.path().join(name)).expect("a graph");
        Self { encoder: open(ENCODER), decoder: open(DECODER), folder }
    }

    fn encode(&self, name: &str, shape: &[usize], pixels: Vec<f32>) -> Vec<f32> {
        let [embedding] = run(&self.encoder, vec![(name, float(shape, pixels))], ["image_embeddings"]);
        floats(embedding)
    }

    /// `masks`, `iou_predictions`, `low_res_masks`.
    fn decode(&self, embedding: &Tensor<4>, prompt: &Raw) -> [Vec<f32>; 3] {
        let names = ["masks", "iou_predictions", "low_res_masks"];
        run(&self.decoder, prompt.inputs(embedding), names).map(floats)
    }
}

fn run<const N: usize>(model: &Model, inputs: Vec<(&str, Value)>, outputs: [&str; N]) -> [Value; N] {
    let node = |name: &str| model.node_id(name).expect("a node of that name");
    let inputs = inputs.into_iter().map(|(name, value)| (node(name), value.into())).collect();
    model.run_n(inputs, outputs.map(node), None).expect("it runs")
}

fn float(shape: &[usize], values: Vec<f32>) -> Value {
    Value::from_shape(shape, values).expect("as many values as the shape has")
}

fn floats(value: Value) -> Vec<f32> {
    value.into_tensor::<f32>().expect("f32").into_data()
}

/// A prompt as the decoder takes it.
#[derive(Clone)]
struct Raw {
    coords: Vec<f32>,
    labels: Vec<f32>,
    mask: Option<Vec<f32>>,
    has_mask: f32,
    mask_side: usize,
    original_hw: [usize; 2],
}

impl Raw {
    fn new(labels: &[f32], sam: &Sam) -> Self {
        let side = sam.image_size() as f32;
        let coords = (0..2 * labels.len()).map(|at| (side * (0.13 + 0.21 * at as f32)) % side).collect();
        let mask_side = sam.config().low_res_side();
        Self { coords, labels: labels.to_vec(), mask: None, has_mask: 0.0, mask_side, original_hw: [48, 64] }
    }

    fn with_mask(mut self) -> Self {
        let side = self.mask_side as f32;
        let blob = |at: usize| {
            let (y, x) = ((at as f32 / side).floor() / side, (at as f32 % side) / side);
            5.0 - 50.0 * ((x - 0.4).powi(2) + (y - 0.5).powi(2))
        };
        self.mask = Some((0..self.mask_side * self.mask_side).map(blob).collect());
        self.has_mask = 1.0;
        self
    }

    fn inputs(&self, embedding: &Tensor<4>) -> Vec<(&'static str, Value)> {
        let (n, side) = (self.labels.len(), self.mask_side);
        let mask = self.mask.clone().unwrap_or_else(|| vec![0.0; side * side]);
        vec![
            ("image_embeddings", float(&embedding.dims(), values(embedding.clone()))),
            ("point_coords", float(&[1, n, 2], self.coords.clone())),
            ("point_labels", float(&[1, n], self.labels.clone())),
            ("mask_input", float(&[1, 1, side, side], mask)),
            ("has_mask_input", float(&[1], vec![self.has_mask])),
            ("orig_im_size", float(&[2], self.original_hw.map(|size| size as f32).to_vec())),
        ]
    }

    /// Our network's `iou_predictions` and `low_res_masks`.
    fn ours(&self, sam: &Sam, embedding: &Tensor<4>) -> [Vec<f32>; 2] {
        let (n, side) = (self.labels.len(), self.mask_side);
        let labels: Vec<i64> = self.labels.iter().map(|&label| label as i64).collect();
        let prompts = Prompts {
            sparse: Some(SparsePrompts {
                coords_xy_px: Tensor::from_data(TensorData::new(self.coords.clone(), [1, n, 2]), &cpu()),
                labels: Tensor::from_data(TensorData::new(labels, [1, n]), &cpu()),
                absent: None,
            }),
            masks: self.mask.clone().filter(|_| self.has_mask > 0.0).map(|mask| MaskPrompts {
                logits: Tensor::from_data(TensorData::new(mask, [1, 1, side, side]), &cpu()),
                present: None,
            }),
            text: None,
            objects: 1,
        };
        let decoded = sam.decode(embedding.clone(), &[0], &prompts, MaskOutput::All);
        [values(decoded.iou_predictions), values(decoded.low_res_logits)]
    }
}

/// Prompts of all mixes, with 1, 2, 3 and 6 points, with and without a mask.
fn prompts(sam: &Sam) -> Vec<Raw> {
    const LABELS: [&[f32]; 9] = [
        &[1.0],
        &[0.0],
        &[1.0, -1.0],
        &[2.0, 3.0],
        &[2.0, 3.0, -1.0],
        &[1.0, 1.0, -1.0],
        &[1.0, 2.0, 3.0],
        &[1.0, 0.0, 1.0, 0.0, 1.0, -1.0],
        &[1.0, 0.0, 0.0, 1.0, 2.0, 3.0],
    ];
    LABELS.iter().flat_map(|labels| [Raw::new(labels, sam), Raw::new(labels, sam).with_mask()]).collect()
}

fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        let shade = if (x - 0.4).powi(2) + (y - 0.5).powi(2) < 0.06 { 200.0 } else { 60.0 };
        image::Rgb([shade + 40.0 * (31.0 * x).sin(), 255.0 * x, 200.0 * (1.0 - y)].map(|value| value as u8))
    })
}

/// The committed numbers of the official package, from its own pixels to masks in the image's size.
#[test]
fn the_official_numbers_come_out_of_both_graphs() {
    const CASES: [(&str, &str, [usize; 2]); 9] = [
        ("point", "", [61, 81]),
        ("points", "", [61, 81]),
        ("box", "", [61, 81]),
        ("box_point", "", [61, 81]),
        ("mask_points", "", [61, 81]),
        ("mask_box", "", [61, 81]),
        ("everything", "", [61, 81]),
        ("point_b", "_b", [48, 30]),
        ("box_point_b", "_b", [48, 30]),
    ];
    let (golden, sam) = (Golden::open("tiny_golden.safetensors"), tiny(&cpu()));
    let graphs = Graphs::of(&sam, &ExportOptions::default());
    for image in ["", "_b"] {
        let found = graphs.encode("x", &[1, 3, 64, 64], golden.values(&format!("input_image{image}")));
        check("embedding", &found, &golden.values(&format!("image_embedding{image}")), GRAPHS);
    }
    let mut n_full = 0;
    for (case, image, original_hw) in CASES {
        let embedding = golden.tensor::<4>(&format!("image_embedding{image}"), &cpu());
        let part = |name: &str| {
            let key = format!("case/{case}/{name}");
            if golden.has(&key) { golden.values(&key) } else { Vec::new() }
        };
        let (mut coords, mut labels) = (part("point_coords"), part("point_labels"));
        match part("boxes") {
            corners if corners.is_empty() => {
                coords.extend([0.0; 2]);
                labels.push(-1.0);
            }
            corners => {
                coords.extend(corners);
                labels.extend([2.0, 3.0]);
            }
        }
        let mask = Some(part("mask_inputs")).filter(|mask| !mask.is_empty());
        let has_mask = if mask.is_some() { 1.0 } else { 0.0 };
        let prompt = Raw { coords, labels, mask, has_mask, mask_side: 32, original_hw };
        let [full, iou, low_res] = graphs.decode(&embedding, &prompt);
        check(case, &iou, &[part("iou_single"), part("iou_multi")].concat(), GRAPHS);
        check(case, &low_res, &[part("low_res_single"), part("low_res_multi")].concat(), LOGITS);
        let expected = part("full_size_multi");
        if !expected.is_empty() {
            check(case, &full[original_hw[0] * original_hw[1]..], &expected, LOGITS);
            n_full += 1;
        }
    }
    assert!(n_full >= 3, "only {n_full} cases have masks in the image's size");
}

#[test]
fn every_mix_of_prompts_agrees_in_every_opset() {
    let sam = tiny(&cpu());
    let embedding = sam.encode(Sam::preprocess(photo(64, 48).as_raw(), [48, 64], 64, &cpu()));
    for opset in [13, 15, 17, 18, 20, 21] {
        let opset = Opset::new(opset).expect("a known one");
        let graphs = Graphs::of(&sam, &ExportOptions { opset, ..ExportOptions::default() });
        for prompt in prompts(&sam) {
            let what = format!("opset {}, labels {:?}, mask {}", opset.version(), prompt.labels, prompt.has_mask);
            let [_, iou, low_res] = graphs.decode(&embedding, &prompt);
            let [our_iou, our_low_res] = prompt.ours(&sam, &embedding);
            check(&what, &iou, &our_iou, GRAPHS);
            check(&what, &low_res, &our_low_res, GRAPHS);
        }
    }
    for wrong in [12, 22, 0, -1] {
        assert!(Opset::new(wrong).is_err(), "{wrong}");
    }
}

/// Annotators that give -1 for "no mask" get what 0 gives, and a mask is not read where there is none.
#[test]
fn a_mask_counts_where_it_is_said_to_be_there() {
    let sam = tiny(&cpu());
    let embedding = sam.encode(Sam::preprocess(photo(64, 48).as_raw(), [48, 64], 64, &cpu()));
    let graphs = Graphs::of(&sam, &ExportOptions::default());
    let with = |has_mask: f32| {
        let prompt = Raw { has_mask, ..Raw::new(&[1.0, -1.0], &sam).with_mask() };
        graphs.decode(&embedding, &prompt)
    };
    assert_eq!(with(-1.0), with(0.0));
    assert_ne!(with(1.0), with(0.0));
}

/// Masks in the sizes of images, as our own predictor gives them: enlarged, without the padding, resized.
#[test]
fn masks_have_the_size_of_the_image() {
    let sam = tiny(&cpu());
    let predictor = Predictor::new(&sam);
    let graphs = Graphs::of(&sam, &ExportOptions { input: ImageInput::Pixels, ..ExportOptions::default() });
    for (width, height) in [(200, 120), (64, 64), (37, 91), (7, 1), (1, 7), (301, 300)] {
        let image = photo(width, height);
        let embedding = predictor.embed(&image);
        // The encoder takes the resized pixels.
        let (resized, _) = resize_longest_side(&image, 64);
        let (rows, columns) = (resized.height() as usize, resized.width() as usize);
        let pixels = resized.as_raw().iter().map(|&byte| f32::from(byte)).collect();
        let found = graphs.encode("input_image", &[rows, columns, 3], pixels);
        check(&format!("pixels of {width} x {height}"), &found, &values(embedding.tensor.clone()), GRAPHS);

        let prompt = Prompt { points_xy_px: vec![([0.4, 0.6], true)], ..Prompt::default() };
        let ours = predictor.predict(&embedding, &prompt, MaskOutput::All).expect("a good prompt");
        let frame = ModelFrame::new([height as usize, width as usize], 64);
        let [x, y] = frame.point_to_model([0.4, 0.6]);
        let original_hw = [height as usize, width as usize];
        let raw = Raw { coords: vec![x, y, 0.0, 0.0], original_hw, ..Raw::new(&[1.0, -1.0], &sam) };
        let [full, iou, _] = graphs.decode(&embedding.tensor, &raw);
        check(&format!("masks of {width} x {height}"), &full, &values(ours.full_size_logits()), GRAPHS);
        check("scores", &iou, &ours.iou_predictions, GRAPHS);
    }
}

/// The official rule: the single mask from three points on, padding included, else the best of the others.
#[test]
fn one_mask_is_chosen_by_the_number_of_points() {
    let sam = tiny(&cpu());
    let embedding = sam.encode(Sam::preprocess(photo(64, 48).as_raw(), [48, 64], 64, &cpu()));
    let graphs = Graphs::of(&sam, &ExportOptions { masks: Masks::Single, ..ExportOptions::default() });
    let cropped = Graphs::of(&sam, &ExportOptions { masks: Masks::Cropped, ..ExportOptions::default() });
    for prompt in prompts(&sam) {
        let [our_iou, our_low_res] = prompt.ours(&sam, &embedding);
        let best = if prompt.labels.len() >= 3 {
            0
        } else {
            (1..4).fold(1, |a, b| if our_iou[b] > our_iou[a] { b } else { a })
        };
        let [full, iou, low_res] = graphs.decode(&embedding, &prompt);
        let what = format!("labels {:?}", prompt.labels);
        check(&what, &iou, &our_iou[best..=best], GRAPHS);
        check(&what, &low_res, &our_low_res[best * 1024..][..1024], GRAPHS);

        // The crop has exactly the pixels above zero, and its corners are the first and the last of them.
        let names = ["masks", "xtl", "ytl", "xbr", "ybr", "iou_predictions", "low_res_masks"];
        let [crop, corners @ .., crop_iou, crop_low_res] = run(&cropped.decoder, prompt.inputs(&embedding), names);
        assert_eq!((floats(crop_iou), floats(crop_low_res)), (iou, low_res));
        let crop = crop.into_tensor::<u8>().expect("bytes").into_data();
        let corners = corners.map(|corner| corner.into_tensor::<i32>().expect("integers").into_data()[0] as usize);
        assert_eq!((crop, corners), expected_crop(&full, prompt.original_hw), "{what}");
    }
}

fn expected_crop(logits: &[f32], [height, width]: [usize; 2]) -> (Vec<u8>, [usize; 4]) {
    let is_on = |y: usize, x: usize| logits[y * width + x] > 0.0;
    let columns: Vec<usize> = (0..width).filter(|&x| (0..height).any(|y| is_on(y, x))).collect();
    let rows: Vec<usize> = (0..height).filter(|&y| (0..width).any(|x| is_on(y, x))).collect();
    let ends = |line: &[usize], size: usize| [line.first().map_or(0, |&at| at), line.last().map_or(size - 1, |&at| at)];
    let ([left, right], [top, bottom]) = (ends(&columns, width), ends(&rows, height));
    let pixel = |y: usize, x: usize| 255 * u8::from(is_on(y, x));
    let crop = (top..=bottom).flat_map(|y| (left..=right).map(move |x| pixel(y, x))).collect();
    (crop, [left, top, right, bottom])
}

/// A model of other sizes, with weights that are zero in a fresh one filled.
fn model(change: impl FnOnce(&mut VitConfig, &mut MaskDecoderConfig)) -> Sam {
    let mut config = tiny(&cpu()).config().clone();
    let encoder = config.image_encoder.vit_mut().expect("a plain ViT");
    change(encoder, &mut config.mask_decoder);
    let sam = initialise(config.init(&cpu()).expect("sizes fit"), 5);
    let shapes: std::collections::BTreeMap<_, _> = parameter_shapes(&sam).into_iter().collect();
    let filled = fill_parameters(sam, FloatDType::F32, |key| {
        let count: usize = shapes[key].iter().product();
        let is_table = key.contains("rel_pos") || key.ends_with("pos_embed") || key.ends_with("bias");
        Ok(is_table.then(|| (0..count).map(|at| (at as f32 * 0.37 + key.len() as f32).sin() * 0.3).collect()))
    });
    filled.expect("nothing is read")
}

#[test]
fn models_of_all_sizes_agree() {
    let models = [
        ("windows that divide the grid", model(|encoder, _| encoder.window_size = 4)),
        ("windows larger than the grid", model(|encoder, _| encoder.window_size = 14)),
        ("no windows", model(|encoder, _| encoder.global_attn_indexes = vec![0, 1, 2, 3])),
        ("no global block", model(|encoder, _| encoder.global_attn_indexes = vec![])),
        (
            "another grid",
            model(|encoder, _| {
                (encoder.image_size, encoder.patch_size, encoder.depth, encoder.global_attn_indexes) =
                    (80, 16, 2, vec![1])
            }),
        ),
        ("one head", model(|encoder, _| (encoder.num_heads, encoder.mlp_dim) = (1, 40))),
        (
            "another decoder",
            model(|_, decoder| {
                (decoder.depth, decoder.num_multimask_outputs, decoder.num_heads) = (3, 2, 4);
                (decoder.iou_head_depth, decoder.iou_head_hidden_dim, decoder.cross_dim) = (2, 24, 32);
            }),
        ),
    ];
    for (what, sam) in models {
        let side = sam.image_size();
        let graphs = Graphs::of(&sam, &ExportOptions::default());
        let pixels = Sam::preprocess(photo(side as u32, side as u32 / 2).as_raw(), [side / 2, side], side, &cpu());
        let embedding = sam.encode(pixels.clone());
        let found = graphs.encode("x", &[1, 3, side, side], values(pixels));
        check(what, &found, &values(embedding.clone()), GRAPHS);
        let prompt = Raw::new(&[1.0, -1.0], &sam).with_mask();
        let [_, iou, low_res] = graphs.decode(&embedding, &prompt);
        let [our_iou, our_low_res] = prompt.ours(&sam, &embedding);
        check(what, &iou, &our_iou, GRAPHS);
        check(what, &low_res, &our_low_res, GRAPHS);
    }
}

/// MobileSAM's own numbers, of a network whose windows all pad and of TinyViT-5M.
#[test]
fn a_light_encoder_gives_mobile_sams_numbers() {
    let golden = tiny_vit::golden();
    let sam = tiny_vit::small(&cpu(), FloatDType::F32, BatchNormStatistics::Frozen);
    let side = tiny_vit::SMALL;
    let expected = golden.values("small/embedding");
    let pixels = values(tiny_vit::pictures(2, side, &cpu()));
    for opset in [13, 17, 20] {
        let options = ExportOptions { opset: Opset::new(opset).expect("a known one"), ..ExportOptions::default() };
        let graphs = Graphs::of(&sam, &options);
        for (image, expected) in pixels.chunks(pixels.len() / 2).zip(expected.chunks(expected.len() / 2)) {
            let found = graphs.encode("x", &[1, 3, side, side], image.to_vec());
            check(&format!("opset {opset}"), &found, expected, GRAPHS);
        }
    }
    let sam = tiny_vit::full(128, &cpu(), FloatDType::F32);
    let graphs = Graphs::of(&sam, &ExportOptions::default());
    let found = graphs.encode("x", &[1, 3, 128, 128], values(tiny_vit::pictures(1, 128, &cpu())));
    check("TinyViT-5M", &found[..64 * 64], &golden.values("full/embedding"), GRAPHS);
}

/// Windows that fit, that pad, and that are larger than their map, in images of one cell and more.
#[test]
fn light_encoders_of_all_sizes_agree() {
    let base = || tiny_vit::small(&cpu(), FloatDType::F32, BatchNormStatistics::Frozen).config().clone();
    let of = |change: &dyn Fn(&mut TinyVitConfig)| {
        let mut config = base();
        change(config.image_encoder.tiny_vit_mut().expect("a TinyViT"));
        tiny_vit::with_formula(initialise(config.init(&cpu()).expect("sizes fit"), 5), FloatDType::F32)
    };
    let mut models: Vec<(String, Sam)> =
        [16, 64, 112, 160].map(|side| (format!("{side} px"), of(&|tiny| tiny.image_size = side))).into();
    models.push((
        "other sizes".to_owned(),
        of(&|tiny| {
            (tiny.image_size, tiny.embed_dims, tiny.depths) = (144, [10, 12, 18, 20], [2, 3, 1, 2]);
            (tiny.num_heads, tiny.window_sizes) = ([3, 1, 5], [6, 9, 2]);
            (tiny.mbconv_ratio, tiny.mlp_ratio) = (3, 2);
        }),
    ));
    for (what, sam) in models {
        let side = sam.image_size();
        let image = photo(side as u32, side as u32 * 3 / 4);
        let (rows, columns) = (image.height() as usize, image.width() as usize);
        let pixels = Sam::preprocess(image.as_raw(), [rows, columns], side, &cpu());
        let embedding = sam.encode(pixels.clone());
        let graphs = Graphs::of(&sam, &ExportOptions::default());
        let found = graphs.encode("x", &[1, 3, side, side], values(pixels));
        check(&what, &found, &values(embedding.clone()), GRAPHS);
        for prompt in [Raw::new(&[1.0, -1.0], &sam), Raw::new(&[1.0, 2.0, 3.0], &sam).with_mask()] {
            let [_, iou, low_res] = graphs.decode(&embedding, &prompt);
            let [our_iou, our_low_res] = prompt.ours(&sam, &embedding);
            check(&what, &iou, &our_iou, GRAPHS);
            check(&what, &low_res, &our_low_res, GRAPHS);
        }
        let options = ExportOptions { input: ImageInput::Pixels, ..ExportOptions::default() };
        let bytes = image.as_raw().iter().map(|&byte| f32::from(byte)).collect();
        let found = Graphs::of(&sam, &options).encode("input_image", &[rows, columns, 3], bytes);
        check(&format!("pixels of {what}"), &found, &values(embedding), GRAPHS);
    }
}

/// A model for 1024 px has the tables that the other formats have.
#[test]
fn tables_are_resized_as_in_the_other_formats() {
    let small = model(|encoder, _| (encoder.image_size, encoder.patch_size) = (128, 64));
    let (large, resized) =
        published_form(&small, sam_model::weights::ImageSizePolicy::Published).expect("64 divides 1024");
    assert_eq!((large.image_size(), resized.len()), (1024, 5), "{resized:?}");
    let graphs = Graphs::of(&large, &ExportOptions::default());
    let pixels = Sam::preprocess(photo(1024, 700).as_raw(), [700, 1024], 1024, &cpu());
    let found = graphs.encode("x", &[1, 3, 1024, 1024], values(pixels.clone()));
    check("at 1024 px", &found, &values(large.encode(pixels)), GRAPHS);
}

/// A network whose layers are drawn as PyTorch's modules draw theirs, as the official classes leave them: uniform, up to one over
/// the square root of the inputs.
fn as_pytorch_draws(sam: Sam) -> Sam {
    let shapes: std::collections::BTreeMap<_, _> = parameter_shapes(&sam).into_iter().collect();
    let filled = fill_parameters(sam, FloatDType::F32, |key| {
        let shape = &shapes[key];
        let (count, fan_in) = (shape.iter().product::<usize>(), shape.iter().skip(1).product::<usize>());
        let bound = (fan_in as f32).powf(-0.5);
        let mut state = key.bytes().fold(1u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let uniform = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bound * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
        };
        let is_table = key.contains("rel_pos") || key.ends_with("pos_embed");
        let is_drawn = key.ends_with("weight") && shape.len() >= 2;
        // Position tables are zeros there, which round to zeros.
        Ok((is_drawn || is_table)
            .then(|| (0..count).map(uniform).map(|value| if is_table { 0.1 * value } else { value }).collect()))
    });
    filled.expect("nothing is read")
}

/// A TinyViT as modules are drawn, whose batch norms have the statistics of a picture, as a training leaves them: with those of
/// a fresh one every map is smaller than the one before.
fn light_with_statistics() -> Sam {
    let mut config = tiny_vit::small(&cpu(), FloatDType::F32, BatchNormStatistics::Running).config().clone();
    let encoder = config.image_encoder.tiny_vit_mut().expect("a TinyViT");
    (encoder.embed_dims, encoder.num_heads) = ([32, 48, 64, 96], [2, 4, 6]);
    let side = encoder.image_size;
    let fresh = |device: &Device| as_pytorch_draws(initialise(config.init(device).expect("sizes fit"), 5));
    let device = cpu().autodiff();
    let image = photo(side as u32, side as u32);
    let image = Sam::preprocess(image.as_raw(), [side, side], side, &device);
    let followed = (0..30).fold(fresh(&device), |sam, _| {
        sam.encode(image.clone());
        sam.following_batches()
    });
    let followed = named_tensors(&followed).into_iter().map(|tensor| (tensor.key.clone(), tensor));
    let followed: std::collections::BTreeMap<_, _> = followed.collect();
    fill_parameters(fresh(&cpu()), FloatDType::F32, |key| Ok(Some(followed[key].values()))).expect("nothing is read")
}

/// The largest and the root mean square difference.
fn differences(a: &[f32], b: &[f32]) -> [f32; 2] {
    let squares: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    [max_abs_diff(a, b), (squares / a.len() as f32).sqrt()]
}

/// The embedding has a standard deviation of about 1. What rounding costs depends on the weights: of uniform ones, as modules are
/// initialised, all are near the largest of their channel, which sets the scale of int8; of normal ones that largest is twice
/// as far away, and the fixtures' are also larger than a signal needs, and small in front of norms, which enlarge every error.
#[test]
fn smaller_weights_cost_what_they_should() {
    let drawn = model(|encoder, _| {
        (encoder.embed_dim, encoder.mlp_dim, encoder.window_size) = (32, 128, 3);
        (encoder.depth, encoder.global_attn_indexes) = (2, vec![1]);
    });
    let cases = [
        ("as PyTorch draws weights", as_pytorch_draws(drawn), [2e-3, 5e-4], [2.2e-2, 4.6e-3]),
        ("normal weights", tiny(&cpu()), [8e-3, 1.6e-3], [1.5e-1, 2.4e-2]),
        // With all its convolutions one type below, four times as much.
        ("a light encoder", light_with_statistics(), [2e-3, 5e-4], [4e-2, 1e-2]),
    ];
    for (what, sam, of_f16, of_int8) in cases {
        let side = sam.image_size();
        let image = photo(side as u32, side as u32 * 3 / 4);
        let pixels = Sam::preprocess(image.as_raw(), [side * 3 / 4, side], side, &cpu());
        let exact = values(sam.encode(pixels.clone()));
        let mut sizes = Vec::new();
        for (weights, allowed) in
            [(WeightType::F32, [GRAPHS; 2]), (WeightType::F16, of_f16), (WeightType::Int8, of_int8)]
        {
            let graphs = Graphs::of(&sam, &ExportOptions { weights, ..ExportOptions::default() });
            let found = graphs.encode("x", &[1, 3, side, side], values(pixels.clone()));
            let [largest, rms] = differences(&found, &exact);
            let is_allowed = largest <= allowed[0] && rms <= allowed[1];
            assert!(is_allowed, "{what}, {weights:?}: off by {largest:e} at most, {rms:e} root mean square");
            assert!(weights == WeightType::F32 || largest > GRAPHS / 10.0, "{what}, {weights:?} must round");
            sizes.push(std::fs::metadata(graphs.folder.path().join(ENCODER)).expect("there").len());
        }
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{what}: {sizes:?}");
    }
}

#[test]
fn weights_beyond_a_limit_are_in_a_second_file() {
    let sam = tiny(&cpu());
    let pixels = Sam::preprocess(photo(64, 48).as_raw(), [48, 64], 64, &cpu());
    let exact = values(sam.encode(pixels.clone()));
    for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
        let options = ExportOptions { external_above: 1000, weights, ..ExportOptions::default() };
        let graphs = Graphs::of(&sam, &options);
        let found = graphs.encode("x", &[1, 3, 64, 64], values(pixels.clone()));
        assert!(max_abs_diff(&found, &exact) < 0.25);
        let data = graphs.folder.path().join("encoder.onnx.data");
        let length = std::fs::metadata(&data).expect("there").len();
        assert!(length > 0 && length.is_multiple_of(4096), "{length} bytes");
        let model = std::fs::read(graphs.folder.path().join(ENCODER)).expect("there");
        let text = String::from_utf8_lossy(&model);
        assert!(text.contains("encoder.onnx.data") && !text.contains("/encoder.onnx.data"), "a relative location");
        // Without its data the graph does not open.
        std::fs::remove_file(&data).expect("removed");
        assert!(Model::load_file(graphs.folder.path().join(ENCODER)).is_err());
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let sam = tiny(&cpu());
    let options = ExportOptions { weights: WeightType::Int8, masks: Masks::Cropped, ..ExportOptions::default() };
    let bytes =
        |graphs: &Graphs| [ENCODER, DECODER].map(|name| std::fs::read(graphs.folder.path().join(name)).expect("there"));
    assert_eq!(bytes(&Graphs::of(&sam, &options)), bytes(&Graphs::of(&tiny(&cpu()), &options)));
    let text = String::from_utf8_lossy(&bytes(&Graphs::of(&sam, &options))[1]).into_owned();
    let fingerprint = format!("{:016x}", Predictor::new(&sam).weights_fingerprint());
    for part in
        [&fingerprint, "fingerprint", "image_size", "123.675,116.28,103.53", "58.395,57.12,57.375", "cropped", "int8"]
    {
        assert!(text.contains(part), "the metadata has {part}");
    }
}

/// Weights that are not finite where they are stored are named, and nothing is written.
#[test]
fn weights_must_be_finite_in_their_type() {
    let with = |key: &'static str, value: f32| {
        let shapes: std::collections::BTreeMap<_, _> = parameter_shapes(&tiny(&cpu())).into_iter().collect();
        fill_parameters(tiny(&cpu()), FloatDType::F32, |name| {
            Ok((name == key).then(|| vec![value; shapes[name].iter().product()]))
        })
        .expect("nothing is read")
    };
    const KEY: &str = "image_encoder.blocks.1.mlp.lin1.weight";
    // A norm is stored in its convolution; the file that it comes from has both.
    let light = |end: &'static str, value: f32| {
        let sam = tiny_vit::small(&cpu(), FloatDType::F32, BatchNormStatistics::Frozen);
        let key = format!("image_encoder.patch_embed.seq.0.{end}");
        fill_parameters(sam, FloatDType::F32, |name| Ok((name == key).then(|| vec![value; 4])))
            .expect("nothing is read")
    };
    const NORM: &str = "image_encoder.patch_embed.seq.0";
    let cases = [
        (with(KEY, f32::NAN), WeightType::F32, KEY),
        (with(KEY, f32::INFINITY), WeightType::Int8, KEY),
        (with(KEY, 1e6), WeightType::F16, KEY),
        (with("mask_decoder.iou_token.weight", f32::NAN), WeightType::Int8, "mask_decoder.iou_token.weight"),
        (light("bn.running_mean", f32::NAN), WeightType::F32, NORM),
        (light("bn.running_var", -1.0), WeightType::F16, NORM),
        (light("bn.weight", f32::INFINITY), WeightType::Int8, NORM),
    ];
    for (sam, weights, key) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("graphs");
        let error = export(&sam, &ExportOptions { weights, ..ExportOptions::default() }, Path::new(&out), |_| {});
        let error = error.expect_err("it cannot be written");
        assert!(matches!(error, OnnxError::NotFinite { .. }) && error.is_bad_input(), "{error}");
        assert!(error.to_string().contains(key), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
