//! The gradient of every parameter equals PyTorch's, for one loss through the whole network
//! (`fixtures/tiny_grads.safetensors`).

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use sam_model::MaskOutput;
use sam_model::weights::ParameterPath;

use crate::fixture::{Golden, check, cpu, tiny, values};

/// Relative to the gradient's norm. The official package in f32 is within 1e-5 of these f64 results.
const RELATIVE: f32 = 1e-3;

#[test]
fn every_parameter_gets_the_reference_gradient() {
    let device = cpu().autodiff();
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

    let mut comparer = Comparer { path: ParameterPath::default(), gradients: &gradients, grads: &grads, compared: 0 };
    sam.visit(&mut comparer);
    let expected = grads.keys().filter(|key| key.starts_with("norm/")).count();
    assert_eq!(comparer.compared, expected, "all parameters; the position frequencies are none");
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
}

struct Comparer<'a> {
    path: ParameterPath,
    gradients: &'a Gradients,
    grads: &'a Golden,
    compared: usize,
}

impl ModuleVisitor for Comparer<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.path.official_key();
        let Some(gradient) = param.val().grad(self.gradients) else {
            assert!(key.ends_with("positional_encoding_gaussian_matrix"), "{key} has no gradient");
            return;
        };
        self.compared += 1;
        let shape = gradient.dims();
        let gradient = self.path.to_official(values(gradient), &shape);
        let expected = self.grads.values(&format!("norm/{key}"))[0];
        let got = norm(&gradient);
        // Key biases have a gradient of zero in exact arithmetic, hence the absolute part.
        let allowed = RELATIVE * expected + 1e-4;
        assert!((got - expected).abs() <= allowed, "{key}: gradient norm {got}, expected {expected}");
        let head = self.grads.values(&format!("head/{key}"));
        check(&key, &gradient[..head.len()], &head, allowed);
    }
}
