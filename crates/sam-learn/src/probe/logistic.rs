//! A linear layer on frozen features: multinomial logistic regression, solved to its one minimum.
//!
//! MAE trains this layer by LARS for 90 epochs without weight decay, where data outnumber channels a thousand times. A user's
//! set may have fewer rows than the features have channels, and then any two classes can be parted by chance; so the weights
//! are held small by how much serves rows that were left aside: parts of what is learned from, never what is judged.
//!
//! Shapes: `R` rows, `C` width of the features, `K` classes.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use sam_model::weights::host_values;

use crate::probe::features::Features;
use crate::probe::lbfgs::{Limits, minimise};

/// Penalties that are tried, strongest first: half of it times the square of all weights, beside the mean loss of a row.
const PENALTIES: [f64; 6] = [10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4];

/// Parts that are left aside in turn.
const N_FOLDS: usize = 4;

/// On a mean loss: what f32 can tell from zero, and a hundredth of the weakest penalty.
const LIMITS: Limits = Limits { gradient: 1e-6, n_evaluations: 500 };

/// What was decided, and the answers.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearProbe {
    /// The penalty that served best.
    pub penalty: f64,
    /// All that were tried, each with the mean loss of rows that were left aside; 0 where there were too few images for that.
    pub tried: Vec<(f64, f64)>,
    /// The class of each row that is judged.
    pub predicted: Vec<usize>,
}

/// Fits the layer on some rows and classifies others.
///
/// # Arguments
/// - `learned`, `judged`: standardised
/// - `classes`, `images`: of each row that is learned from; rows of one image stay together when some are left aside
/// - `on_fit`: called after each of [`n_fits`] fits
///
/// # Panics
///
/// When there is not a class and an image for each row, or no row.
#[must_use]
pub fn classify_by_logistic_regression(
    learned: &Features,
    classes: &[usize],
    images: &[usize],
    judged: &Features,
    device: &Device,
    on_fit: &mut dyn FnMut(),
) -> LinearProbe {
    assert!(!classes.is_empty(), "there must be a row to learn from");
    assert_eq!([classes.len(), images.len()], [learned.n_rows(); 2], "a class and an image for each row");
    let n_classes = classes.iter().max().map_or(0, |last| last + 1);
    let tried = try_penalties(learned, classes, images, n_classes, device, on_fit);
    // The strongest of equals.
    let (penalty, _) =
        tried.iter().copied().reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap_or_default();
    let rows = Rows::new(learned, classes, n_classes, device);
    // Along the path of penalties, as the parts were: a near start and the same end.
    let mut layer = Layer::zero(n_classes, learned.width);
    for penalty in PENALTIES.into_iter().take_while(|&tried| tried >= penalty) {
        layer = rows.fit(penalty, layer);
        on_fit();
    }
    let scores = layer.scores(&rows_of(judged, device));
    let answer = |scores: &[f32]| (1..n_classes).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
    LinearProbe { penalty, tried, predicted: host_values(&scores).chunks_exact(n_classes).map(answer).collect() }
}

/// Fits of one [`classify_by_logistic_regression`], at most.
#[must_use]
pub fn n_fits() -> usize {
    PENALTIES.len() * (N_FOLDS + 1)
}

/// Each with the loss on parts that were left aside.
fn try_penalties(
    learned: &Features,
    classes: &[usize],
    images: &[usize],
    n_classes: usize,
    device: &Device,
    on_fit: &mut dyn FnMut(),
) -> Vec<(f64, f64)> {
    let mut losses = [0f64; PENALTIES.len()];
    for fold in 0..N_FOLDS {
        let is_aside = |row: &usize| images[*row] % N_FOLDS == fold;
        let (aside, kept): (Vec<usize>, Vec<usize>) = (0..classes.len()).partition(is_aside);
        if aside.is_empty() || kept.is_empty() {
            continue;
        }
        let [aside, kept] = [aside, kept].map(|rows| {
            let values = rows.iter().flat_map(|row| &learned.values[row * learned.width..][..learned.width]);
            let features = Features { width: learned.width, values: values.copied().collect() };
            let classes: Vec<usize> = rows.iter().map(|&row| classes[row]).collect();
            Rows::new(&features, &classes, n_classes, device)
        });
        let mut layer = Layer::zero(n_classes, learned.width);
        for (penalty, loss) in PENALTIES.into_iter().zip(&mut losses) {
            layer = kept.fit(penalty, layer);
            *loss += aside.loss(&layer) * aside.n_rows as f64;
            on_fit();
        }
    }
    PENALTIES.into_iter().zip(losses.map(|loss| loss / classes.len() as f64)).collect()
}

/// Weights `[K, C]`, then biases `[K]`.
#[derive(Clone, Debug, PartialEq)]
struct Layer {
    n_classes: usize,
    width: usize,
    values: Vec<f64>,
}

impl Layer {
    fn zero(n_classes: usize, width: usize) -> Self {
        Self { n_classes, width, values: vec![0.0; n_classes * (width + 1)] }
    }

    /// `[R, C]` to `[R, K]`.
    fn scores(&self, rows: &Tensor<2>) -> Tensor<2> {
        let device = rows.device();
        let values: Vec<f32> = self.values.iter().map(|&value| value as f32).collect();
        let (weights, biases) = values.split_at(self.n_classes * self.width);
        let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [self.n_classes, self.width]), &device);
        let biases = Tensor::<2>::from_data(TensorData::new(biases.to_vec(), [1, self.n_classes]), &device);
        rows.clone().matmul(weights.transpose()) + biases
    }
}

fn rows_of(features: &Features, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(features.values.clone(), [features.n_rows(), features.width]), device)
}

/// Rows with their classes on the device.
struct Rows {
    n_rows: usize,
    /// `[R, C]`
    features: Tensor<2>,
    /// `[R, K]`, 1 at the class.
    truth: Tensor<2>,
}

impl Rows {
    fn new(features: &Features, classes: &[usize], n_classes: usize, device: &Device) -> Self {
        let n_rows = classes.len();
        let mut truth = vec![0f32; n_rows * n_classes];
        classes.iter().enumerate().for_each(|(row, class)| truth[row * n_classes + class] = 1.0);
        let truth = Tensor::from_data(TensorData::new(truth, [n_rows, n_classes]), device);
        Self { n_rows, features: rows_of(features, device), truth }
    }

    fn fit(&self, penalty: f64, start: Layer) -> Layer {
        let Layer { n_classes, width, values } = start;
        let function = |values: &[f64]| self.loss_and_gradient(values, n_classes, width, penalty);
        Layer { n_classes, width, values: minimise(values, LIMITS, function) }
    }

    /// Mean cross-entropy.
    fn loss(&self, layer: &Layer) -> f64 {
        self.mean_loss(&log_softmax(layer.scores(&self.features), 1))
    }

    /// Summed on the host: in f32 the sum over many rows would be too coarse for the last steps.
    fn mean_loss(&self, log_shares: &Tensor<2>) -> f64 {
        let of_rows = (log_shares.clone() * self.truth.clone()).sum_dim(1);
        -host_values(&of_rows).into_iter().map(f64::from).sum::<f64>() / self.n_rows as f64
    }

    fn loss_and_gradient(&self, values: &[f64], n_classes: usize, width: usize, penalty: f64) -> (f64, Vec<f64>) {
        let layer = Layer { n_classes, width, values: values.to_vec() };
        let log_shares = log_softmax(layer.scores(&self.features), 1);
        let residual = (log_shares.clone().exp() - self.truth.clone()) / self.n_rows as f64; // [R, K]
        let of_weights = host_values(&residual.clone().transpose().matmul(self.features.clone())); // [K, C]
        let of_biases = host_values(&residual.sum_dim(0));
        let weights = &values[..n_classes * width];
        let size: f64 = weights.iter().map(|weight| weight * weight).sum();
        let mut gradient: Vec<f64> = of_weights.into_iter().chain(of_biases).map(f64::from).collect();
        gradient.iter_mut().zip(weights).for_each(|(gradient, weight)| *gradient += penalty * weight);
        (self.mean_loss(&log_shares) + 0.5 * penalty * size, gradient)
    }
}
