//! The gradient of every parameter equals PyTorch's, for one loss through the whole network
//! (`fixtures/tiny_grads.safetensors`).

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_model::MaskOutput;

use crate::fixture::{Golden, check, device, norm, official_gradients, tiny, values};

/// Relative to the gradient's norm. The official package in f32 is within 1e-5 of these f64 results.
const RELATIVE: f32 = 1e-3;

#[test]
fn every_gradient_equals_the_reference() {
    let device = device().autodiff();
    let (golden, grads) = (Golden::open("tiny_golden.safetensors"), Golden::open("tiny_grads.safetensors"));
    let sam = tiny(&device);
    let images = golden.tensor::<4>("input_image", &device).require_grad();
    let embedding = sam.encode(images.clone());
    let mut loss = Tensor::<1>::zeros([1], &device);
    for (case, output) in [("everything", MaskOutput::Multi), ("point", MaskOutput::Single)] {
        let prompts = golden.prompts(case, &device);
        let decoded = sam.decode(embedding.clone(), &vec![0; prompts.objects], &prompts, output);
        let weigh = |part: &str| format!("weight/{case}/{part}");
        loss = loss + (decoded.low_res_logits * grads.tensor::<4>(&weigh("low_res"), &device)).sum();
        loss = loss + (decoded.iou_predictions * grads.tensor::<2>(&weigh("iou"), &device)).sum();
    }
    let expected = grads.values("loss")[0];
    let got = loss.clone().into_scalar::<f32>();
    assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "loss {got}, expected {expected}");

    let gradients = loss.backward();
    let input_grad = values(images.grad(&gradients).expect("the input's gradient"));
    let expected = grads.values("input_grad");
    check("input", &input_grad, &expected, RELATIVE * norm(&expected));

    let (found, missing) = official_gradients(&sam, &GradientsParams::from_grads(gradients, &sam));
    assert_eq!(missing, ["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"], "the position frequencies");
    assert_eq!(found.len(), grads.keys().filter(|key| key.starts_with("norm/")).count(), "all parameters");
    for (key, gradient) in found {
        let expected = grads.values(&format!("norm/{key}"))[0];
        let got = norm(&gradient);
        // Key biases have a gradient of zero in exact arithmetic, hence the absolute part.
        let allowed = RELATIVE * expected + 1e-4;
        assert!((got - expected).abs() <= allowed, "{key}: gradient norm {got}, expected {expected}");
        let head = grads.values(&format!("head/{key}"));
        check(&key, &gradient[..head.len()], &head, allowed);
    }
}
