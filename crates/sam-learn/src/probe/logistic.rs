//! A linear layer on frozen features: multinomial logistic regression, solved to its unique minimum.
//!
//! MAE trains this layer with LARS for 90 epochs without weight decay, on a thousand times more rows than features. A user's
//! set may have fewer rows than features, and then any two classes can be separated by chance; so the weights have an L2
//! penalty, which is chosen by cross-validation within the training rows.
//!
//! Shapes: `R` rows, `C` number of features, `K` classes.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use sam_model::weights::host_values;

use super::features::{Features, LabelledFeatures};
use super::lbfgs::{Limits, minimise};

/// Candidate penalties, strongest first: half of it times the sum of squared weights is added to the mean loss of a row.
const PENALTIES: [f64; 6] = [10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4];

/// Folds of the cross-validation.
const N_FOLDS: usize = 4;

/// For a mean loss: what f32 can distinguish from zero, and a hundredth of the weakest penalty.
const LIMITS: Limits = Limits { gradient: 1e-6, n_evaluations: 500 };

/// The chosen penalty, and the predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearProbe {
    /// The penalty with the lowest validation loss.
    pub penalty: f64,
    /// All candidates, each with its mean validation loss; 0 where there are too few images for cross-validation.
    pub tried: Vec<(f64, f64)>,
    /// The class of each test row.
    pub predicted: Vec<usize>,
}

/// Fits the layer to the training rows and classifies the test rows. Rows of one image are in the same fold.
///
/// # Arguments
/// - `test`: standardised as the training rows
/// - `on_fit`: called after each of [`n_logistic_fits`] fits
///
/// # Panics
///
/// When there is not a class and an image for each row, or no row.
#[must_use]
pub fn classify_by_logistic_regression(
    train: LabelledFeatures<'_>,
    test: &Features,
    device: &Device,
    on_fit: &mut dyn FnMut(),
) -> LinearProbe {
    let n_classes = train.n_classes();
    let tried = cross_validate(train, n_classes, device, on_fit);
    // The strongest penalty among equal losses.
    let (penalty, _) =
        tried.iter().copied().reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap_or_default();
    let rows = Rows::new(train.features, train.classes, n_classes, device);
    // Along the path of penalties, as in the folds, so that each fit starts near its minimum.
    let mut layer = Layer::zero(n_classes, test.width);
    for penalty in PENALTIES.into_iter().take_while(|&tried| tried >= penalty) {
        layer = rows.fit(penalty, layer);
        on_fit();
    }
    let scores = layer.scores(&rows_of(test, device));
    let class = |scores: &[f32]| (1..n_classes).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
    LinearProbe { penalty, tried, predicted: host_values(&scores).chunks_exact(n_classes).map(class).collect() }
}

/// Largest number of fits of one [`classify_by_logistic_regression`].
#[must_use]
pub fn n_logistic_fits() -> usize {
    PENALTIES.len() * (N_FOLDS + 1)
}

/// All penalties, each with its mean validation loss.
fn cross_validate(
    train: LabelledFeatures<'_>,
    n_classes: usize,
    device: &Device,
    on_fit: &mut dyn FnMut(),
) -> Vec<(f64, f64)> {
    let LabelledFeatures { features, classes, images } = train;
    let mut losses = [0f64; PENALTIES.len()];
    for fold in 0..N_FOLDS {
        let is_held_out = |row: &usize| images[*row] % N_FOLDS == fold;
        let (held_out, rest): (Vec<usize>, Vec<usize>) = (0..classes.len()).partition(is_held_out);
        if held_out.is_empty() || rest.is_empty() {
            continue;
        }
        let [held_out, rest] = [held_out, rest].map(|rows| {
            let values = rows.iter().flat_map(|row| &features.values[row * features.width..][..features.width]);
            let features = Features { width: features.width, values: values.copied().collect() };
            let classes: Vec<usize> = rows.iter().map(|&row| classes[row]).collect();
            Rows::new(&features, &classes, n_classes, device)
        });
        let mut layer = Layer::zero(n_classes, features.width);
        for (penalty, loss) in PENALTIES.into_iter().zip(&mut losses) {
            layer = rest.fit(penalty, layer);
            *loss += held_out.loss(&layer) * held_out.n_rows as f64;
            on_fit();
        }
    }
    PENALTIES.into_iter().zip(losses.map(|loss| loss / classes.len() as f64)).collect()
}

/// The layer: weights `[K, C]`, then biases `[K]`.
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

    /// Scores of rows: `[R, C]` to `[R, K]`.
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
    /// `[R, C]`.
    features: Tensor<2>,
    /// One-hot classes, `[R, K]`.
    targets: Tensor<2>,
}

impl Rows {
    fn new(features: &Features, classes: &[usize], n_classes: usize, device: &Device) -> Self {
        let n_rows = classes.len();
        let mut targets = vec![0f32; n_rows * n_classes];
        classes.iter().enumerate().for_each(|(row, class)| targets[row * n_classes + class] = 1.0);
        let targets = Tensor::from_data(TensorData::new(targets, [n_rows, n_classes]), device);
        Self { n_rows, features: rows_of(features, device), targets }
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

    /// Summed on the host in f64: in f32 the sum over many rows would be too coarse for the last steps.
    fn mean_loss(&self, log_probabilities: &Tensor<2>) -> f64 {
        let of_rows = (log_probabilities.clone() * self.targets.clone()).sum_dim(1);
        -host_values(&of_rows).into_iter().map(f64::from).sum::<f64>() / self.n_rows as f64
    }

    fn loss_and_gradient(&self, values: &[f64], n_classes: usize, width: usize, penalty: f64) -> (f64, Vec<f64>) {
        let layer = Layer { n_classes, width, values: values.to_vec() };
        let log_probabilities = log_softmax(layer.scores(&self.features), 1);
        let residual = (log_probabilities.clone().exp() - self.targets.clone()) / self.n_rows as f64; // [R, K]
        let of_weights = host_values(&residual.clone().transpose().matmul(self.features.clone())); // [K, C]
        let of_biases = host_values(&residual.sum_dim(0));
        let weights = &values[..n_classes * width];
        let size: f64 = weights.iter().map(|weight| weight * weight).sum();
        let mut gradient: Vec<f64> = of_weights.into_iter().chain(of_biases).map(f64::from).collect();
        gradient.iter_mut().zip(weights).for_each(|(gradient, weight)| *gradient += penalty * weight);
        (self.mean_loss(&log_probabilities) + 0.5 * penalty * size, gradient)
    }
}
