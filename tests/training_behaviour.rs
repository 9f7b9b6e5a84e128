//! Drop path and dropout, which act in training only.

use burn::module::Module;
use burn::tensor::Tensor;
use sam_model::weights::Checkpoint;
use sam_model::{DropPath, MaskOutput, seed_dropout};

use crate::fixture::{Golden, MODULE, check, device, path, tiny, values};

#[test]
fn drop_path_drops_whole_samples_and_keeps_the_mean() {
    let device = device().autodiff();
    seed_dropout(11);
    let (probability, samples) = (0.4, 4000);
    let dropped = values(DropPath::new(probability).forward(Tensor::<3>::ones([samples, 2, 3], &device)));
    let kept = (1.0 / (1.0 - probability)) as f32;
    let mut survivors = 0;
    for sample in dropped.chunks(6) {
        assert!(sample.iter().all(|&value| value == sample[0]), "a sample is dropped as a whole: {sample:?}");
        assert!(sample[0] == 0.0 || (sample[0] - kept).abs() < 1e-6, "{sample:?}");
        survivors += usize::from(sample[0] != 0.0);
    }
    // Four standard deviations of a binomial with 4000 trials.
    assert!((survivors as f64 - 2400.0).abs() < 4.0 * (samples as f64 * 0.24).sqrt(), "{survivors} survive");
}

/// A model with all rates above zero equals the reference after `valid()`, and differs from it in training.
#[test]
fn rates_act_in_training_only() {
    let golden = Golden::open("tiny_golden.safetensors");
    let checkpoint = Checkpoint::open(&path("tiny_sam.safetensors")).expect("a committed fixture");
    let mut options = checkpoint.default_options();
    options.config.image_encoder.set_drop_path_rate(0.5);
    options.config.mask_decoder.dropout = 0.3;
    let plain = device();
    let device = plain.clone().autodiff();
    seed_dropout(5);
    let (sam, _) = checkpoint.load_with(&options, &device).expect("it fits");

    let images = golden.tensor::<4>("input_image", &plain);
    let expected = golden.values("image_embedding");
    check("valid", &values(sam.valid().encode(images.clone())), &expected, 3.0 * MODULE);
    let training = sam.encode(Tensor::from_inner(images));
    let differs = values(training).iter().zip(&expected).any(|(got, expected)| (got - expected).abs() > 0.01);
    assert!(differs, "drop path acts while training");

    let embedding = golden.tensor::<4>("image_embedding", &device);
    let prompts = golden.prompts("points", &device);
    let decode = || {
        values(sam.decode(embedding.clone(), &vec![0; prompts.objects], &prompts, MaskOutput::Single).low_res_logits)
    };
    assert_ne!(decode(), decode(), "dropout draws anew at every call");
    let still = tiny(&device);
    let decode = || {
        values(still.decode(embedding.clone(), &vec![0; prompts.objects], &prompts, MaskOutput::Single).low_res_logits)
    };
    assert_eq!(decode(), decode(), "without rates nothing is random");
}
