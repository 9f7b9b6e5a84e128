//! Validation of a student against its teacher: the teacher's masks as if they were the truth, and the error of the embeddings.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use sam_data::loader::{SampleError, Samples};
use sam_data::transforms::View;
use sam_data::{BatchImage, ObjectMask, Sample};
use sam_eval::{Clicker, EvalSet, tight_box_xyxy_px};
use sam_image::{Mask, Rle};
use sam_infer::{MaskOutput, Predictor, Prompt, image_fingerprint};
use sam_model::Sam;

use super::{Teacher, without_gradients};
use crate::error::LearnError;
use crate::ranks::{Ranks, gather_parts};
use crate::task::{EmbeddingTarget, Embeddings};

/// Samples whose objects have the masks that a teacher gives for their box and a click in their middle. Each is predicted once;
/// an object for which the teacher predicts nothing is left out.
pub struct TeacherMasks {
    samples: Arc<dyn Samples>,
    teacher: Predictor,
    known: Mutex<HashMap<usize, Vec<Option<Rle>>>>,
}

impl TeacherMasks {
    /// The samples as the teacher sees them.
    #[must_use]
    pub fn new(samples: Arc<dyn Samples>, teacher: &Sam) -> Self {
        Self { samples, teacher: Predictor::new(&without_gradients(teacher)), known: Mutex::default() }
    }

    /// The masks of the objects of a sample, in their order.
    fn masks(&self, sample: &Sample) -> Result<Vec<Option<Rle>>, SampleError> {
        let embedding = self.teacher.embed(&sample.image);
        let ignore = sample.ignore.as_ref().map(Rle::to_mask);
        let prompt = |object: &ObjectMask| {
            let mask = object.mask.to_mask();
            let nothing = Mask::empty(mask.size_hw());
            let click = Clicker::new(mask, ignore.clone()).next_click(&nothing);
            Prompt {
                points_xy_px: vec![(click.xy_px(), click.is_positive)],
                box_xyxy_px: tight_box_xyxy_px(&object.mask),
                ..Prompt::default()
            }
        };
        let prompts: Vec<Prompt> = sample.objects.iter().map(prompt).collect();
        let prompts: Vec<(usize, &Prompt)> = prompts.iter().map(|prompt| (0, prompt)).collect();
        let predictions = self.teacher.predict_many(&[&embedding], &prompts, MaskOutput::Single)?;
        let mask = |masks: Vec<Mask>| masks.first().filter(|mask| mask.area_px() > 0).map(Rle::from_mask);
        Ok(predictions.into_iter().map(|prediction| mask(prediction.masks())).collect())
    }
}

impl Samples for TeacherMasks {
    fn n_samples(&self) -> usize {
        self.samples.n_samples()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let sample = self.samples.sample(index)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned();
        let masks = match known {
            Some(masks) => masks,
            None => {
                let masks = self.masks(&sample)?;
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(index, masks.clone());
                masks
            }
        };
        let objects = sample.objects.into_iter().zip(masks);
        let objects = objects.filter_map(|(object, mask)| Some(ObjectMask { mask: mask?, ..object })).collect();
        Ok(Sample { objects, ..sample })
    }
}

/// Means over the images of a validation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmbeddingScores {
    pub(crate) mse: f64,
    pub(crate) cosine: f64,
}

impl Teacher {
    /// Compares the embeddings of a student without autodiff with those of the teacher, for this rank's part of the images.
    ///
    /// # Arguments
    /// - `on_image`: receives the number of images done, and may stop the comparison
    pub(crate) fn compare(
        &self,
        student: &Sam,
        own_sets: &[EvalSet],
        ranks: &dyn Ranks,
        on_image: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<EmbeddingScores, LearnError> {
        let parts = gather_parts(ranks, self.compare_own(student, own_sets, on_image))?;
        let [mse, cosine, n] = parts.iter().fold([0.0; 3], |sums, part| std::array::from_fn(|at| sums[at] + part[at]));
        Ok(EmbeddingScores { mse: mse / n.max(1.0), cosine: cosine / n.max(1.0) })
    }

    /// The sums of both scores and the number of images; `None` when it was stopped.
    fn compare_own(
        &self,
        student: &Sam,
        sets: &[EvalSet],
        on_image: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<[f64; 3]>, LearnError> {
        let (mut mse, mut cosine, mut n) = (0.0, 0.0, 0);
        for (set, index) in sets.iter().flat_map(|set| set.indices.iter().map(move |&index| (set, index))) {
            let sample = set.samples.sample(index).map_err(|source| LearnError::EmbeddedImage { source })?;
            let (own, target) = self.pair(student, &sample);
            let of = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
            mse += of(target.errors(own.clone()));
            cosine += of(target.cosines(own));
            n += 1;
            if on_image(n).is_break() {
                return Ok(None);
            }
        }
        Ok(Some([mse, cosine, n as f64]))
    }

    /// The embeddings of one image: the student's, and the teacher's.
    fn pair(&self, student: &Sam, sample: &Sample) -> (Tensor<4>, EmbeddingTarget) {
        let (device, side) = (student.device().inner(), student.image_size());
        let image_hw = [sample.image.height() as usize, sample.image.width() as usize];
        let view = View::whole(image_hw, side);
        let pixels = view.render(&sample.image);
        let input = Sam::preprocess(pixels.as_raw(), view.resized_hw, side, &device);
        let content = image_fingerprint(&sample.image);
        let values = match &self.embeddings {
            Embeddings::Kept(kept) => kept.of_whole_image(content, &device),
            Embeddings::EachStep | Embeddings::StandIn(_) => None,
        };
        let values = values.unwrap_or_else(|| self.sam.encode(input.clone()));
        let [.., grid, _] = values.dims();
        let image = BatchImage { name: String::new(), sample_index: 0, draw: 0, view, content };
        let valid = super::valid_cells(&[image], grid, &values);
        (student.encode(input), EmbeddingTarget { values, valid, weight: 1.0 })
    }
}
