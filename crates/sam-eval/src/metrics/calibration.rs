//! Calibration of the predicted IoU: the curve of true over predicted IoU, and the errors.

use serde::{Deserialize, Serialize};

use crate::protocol::object_record::ObjectRecord;

/// Number of bins of equal width over 0..=1.
const N_BINS: usize = 10;

/// Predicted against true IoU, over all rounds of all records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// By predicted IoU; predictions outside 0..=1 are in the first and last bin.
    pub bins: Vec<CalibrationBin>,
    /// Mean of |predicted - true|.
    pub mean_absolute_error: f64,
    /// Mean of predicted - true; positive when the segmenter is overconfident.
    pub mean_error: f64,
    /// Mean over all answers of the distance between the two means of their bin (ECE).
    pub expected_calibration_error: f64,
    /// Number of answers.
    pub n_answers: usize,
}

/// The answers of one bin of predicted IoU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Number of answers.
    pub n_answers: usize,
    /// Mean predicted IoU; 0 when there is no answer.
    pub mean_predicted_iou: f64,
    /// Mean true IoU; 0 when there is no answer.
    pub mean_iou: f64,
}

impl Calibration {
    /// Computes the calibration over all rounds; `None` when there is none.
    #[must_use]
    pub fn of(records: &[&ObjectRecord]) -> Option<Self> {
        let mut bins = vec![CalibrationBin::default(); N_BINS];
        let (mut absolute, mut signed, mut n_answers) = (0.0, 0.0, 0);
        for round in records.iter().flat_map(|record| &record.rounds) {
            let bin = &mut bins[((round.predicted_iou * N_BINS as f64) as usize).min(N_BINS - 1)];
            bin.n_answers += 1;
            bin.mean_predicted_iou += round.predicted_iou;
            bin.mean_iou += round.iou;
            absolute += (round.predicted_iou - round.iou).abs();
            signed += round.predicted_iou - round.iou;
            n_answers += 1;
        }
        if n_answers == 0 {
            return None;
        }
        let n = n_answers as f64;
        let mut expected_calibration_error = 0.0;
        for bin in bins.iter_mut().filter(|bin| bin.n_answers > 0) {
            expected_calibration_error += (bin.mean_predicted_iou - bin.mean_iou).abs() / n;
            bin.mean_predicted_iou /= bin.n_answers as f64;
            bin.mean_iou /= bin.n_answers as f64;
        }
        Some(Self {
            bins,
            mean_absolute_error: absolute / n,
            mean_error: signed / n,
            expected_calibration_error,
            n_answers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::object_record::{Round, RoundPrompt, SizeBucket};

    #[test]
    fn bins_and_errors_by_hand() {
        let round = |predicted_iou, iou| Round {
            prompt: RoundPrompt::Box,
            iou,
            predicted_iou,
            oracle_iou: None,
            boundary_iou: None,
        };
        let record = ObjectRecord {
            data_set: String::new(),
            image: String::new(),
            object_id: 1,
            class: None,
            area_px: 1,
            size: SizeBucket::Small,
            is_selective: None,
            rounds: vec![round(0.75, 0.5), round(0.75, 1.0), round(1.25, 0.75), round(-0.5, 0.25)],
        };
        let calibration = Calibration::of(&[&record]).expect("rounds");
        assert_eq!(calibration.bins[7], CalibrationBin { n_answers: 2, mean_predicted_iou: 0.75, mean_iou: 0.75 });
        assert_eq!(calibration.bins[9], CalibrationBin { n_answers: 1, mean_predicted_iou: 1.25, mean_iou: 0.75 });
        assert_eq!(calibration.bins[0].n_answers, 1);
        // Errors 0.25, -0.25, 0.5, -0.75.
        assert_eq!(calibration.mean_absolute_error, 0.4375);
        assert_eq!(calibration.mean_error, -0.0625);
        // By bin: 0, 0.5 and 0.75, over four answers.
        assert_eq!(calibration.expected_calibration_error, 0.3125);
        assert_eq!(Calibration::of(&[]), None);
    }
}
