//! The random draws of one step on the host.
//!
//! Every object has its own random stream, keyed by (seed, draw of its image, its id), so its draws do not depend on the
//! other objects or on how images are put into batches. Which passes get no click is drawn from the step's own stream.

use sam_data::random::{Purpose, RandomStream};
use sam_data::transforms::View;
use sam_data::{BatchImage, BatchObject};
use sam_model::TextVector;

use crate::options::{BoxNoise, NoiseDistribution, PromptOptions};

/// The prompts of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassKind {
    /// A text, a point or a box, no mask.
    First,
    /// One more click, and the mask of the pass before.
    Click,
    /// The same points and boxes as the pass before, with its mask.
    MaskOnly,
}

/// The random decisions about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnObject {
    /// The vector of CLIP that is the first prompt; `None`: it is a point or a box.
    pub text: Option<TextVector>,
    /// The noisy box of the first prompt, in the model's frame; `None`: the first prompt is a text or a point.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// For the first point and then for every click, uniform in 0..1: which pixel of the region, and where in the cell
    /// of the mask's grid along x and y.
    pub places: Vec<[f32; 3]>,
    /// For the same clicks: whether the region is the object instead of the error.
    pub from_object: Vec<bool>,
}

/// The random decisions of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptDraws {
    /// The kind of each pass.
    pub passes: Vec<PassKind>,
    /// Draws for each object of the batch.
    pub objects: Vec<DrawnObject>,
}

impl PromptDraws {
    /// Draws for a batch. `step` is the optimiser's: batches whose gradients are summed share it.
    pub(crate) fn new(
        options: &PromptOptions,
        seed: u64,
        step: u64,
        images: &[BatchImage],
        objects: &[BatchObject],
    ) -> Self {
        let mut stream = RandomStream::new(seed, Purpose::Passes, &[step]);
        let passes = draw_passes(options, &mut stream);
        let objects = objects
            .iter()
            .map(|object| {
                let image = &images[object.image_index];
                let mut stream = RandomStream::new(seed, Purpose::Prompt, &[image.draw, object.id]);
                draw_object(options, object.visible_box_xyxy_px, &image.view, &mut stream)
            })
            .collect();
        Self { passes, objects }
    }
}

impl PromptDraws {
    /// Gives objects a text as their first prompt, instead of the point or box that was drawn; `[O]`.
    pub(crate) fn set_texts(&mut self, texts: impl IntoIterator<Item = Option<TextVector>>) {
        for (object, text) in self.objects.iter_mut().zip(texts) {
            if text.is_some() {
                object.box_xyxy_px = None;
                object.text = text;
            }
        }
    }
}

/// The first prompt, the clicks, and the passes without click: the last pass of the step, the others at random places after
/// the first.
fn draw_passes(options: &PromptOptions, stream: &mut RandomStream) -> Vec<PassKind> {
    let mut passes = vec![PassKind::First];
    passes.extend(std::iter::repeat_n(PassKind::Click, options.correction_clicks));
    for _ in 1..options.mask_only_passes {
        passes.insert(1 + stream.index(passes.len()), PassKind::MaskOnly);
    }
    if options.mask_only_passes > 0 {
        passes.push(PassKind::MaskOnly);
    }
    passes
}

/// Takes the same number of values from the stream, in the same order, whatever the options.
fn draw_object(options: &PromptOptions, box_xyxy_px: [f32; 4], view: &View, stream: &mut RandomStream) -> DrawnObject {
    let is_box = stream.chance(options.box_chance);
    let moves: [f64; 4] = std::array::from_fn(|_| match options.box_noise.distribution {
        NoiseDistribution::Gaussian => stream.normal(),
        NoiseDistribution::Uniform => stream.uniform(-1.0, 1.0),
    });
    let tight = view.box_to_model(box_xyxy_px);
    let box_xyxy_px = is_box.then(|| noisy_box(tight, moves, &options.box_noise, view.side_px));
    let (mut places, mut from_object) = (Vec::new(), Vec::new());
    for _ in 0..=options.correction_clicks {
        places.push(std::array::from_fn(|_| stream.unit() as f32));
        from_object.push(stream.chance(options.click_from_object_chance));
    }
    DrawnObject { text: None, box_xyxy_px, places, from_object }
}

/// Moves each coordinate by a fraction of the box's side length, at most by the cap, and clamps the box to the model's
/// square.
fn noisy_box(tight_xyxy_px: [f32; 4], moves: [f64; 4], noise: &BoxNoise, side_px: usize) -> [f32; 4] {
    let [x0, y0, x1, y1] = tight_xyxy_px.map(f64::from);
    let sides = [x1 - x0, y1 - y0, x1 - x0, y1 - y0];
    let moved: [f64; 4] = std::array::from_fn(|at| {
        let shift = (moves[at] * noise.side_share * sides[at]).clamp(-noise.cap_px, noise.cap_px);
        ([x0, y0, x1, y1][at] + shift).clamp(0.0, side_px as f64)
    });
    // The noise may swap the edges of a thin box.
    let [x0, y0, x1, y1] = moved;
    [x0.min(x1), y0.min(y1), x0.max(x1), y0.max(y1)].map(|edge| edge as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::PromptPreset;
    use sam_image::{Mask, Rle};

    const SIDE: usize = 64;

    fn image(draw: u64) -> BatchImage {
        BatchImage { name: String::new(), sample_index: 0, draw, view: View::whole([SIDE, SIDE], SIDE), content: 0 }
    }

    fn object(id: u64, [x0, y0, x1, y1]: [usize; 4]) -> BatchObject {
        let mask = Mask::from_fn([SIDE, SIDE], |row, column| (y0..y1).contains(&row) && (x0..x1).contains(&column));
        let visible_box_xyxy_px = [x0, y0, x1, y1].map(|edge| edge as f32);
        BatchObject {
            image_index: 0,
            id,
            class: None,
            captions: Vec::new(),
            mask: Rle::from_mask(&mask),
            visible_box_xyxy_px,
        }
    }

    fn draws(options: &PromptOptions, draw: u64, n: u64) -> Vec<DrawnObject> {
        let objects: Vec<_> = (0..n).map(|id| object(id, [10, 20, 30, 60])).collect();
        PromptDraws::new(options, 7, 0, &[image(draw)], &objects).objects
    }

    #[test]
    fn passes_have_the_order_of_the_paper() {
        let options = PromptOptions::preset(PromptPreset::Sam);
        let mut places = [0usize; 11];
        for step in 0..2000 {
            let passes = PromptDraws::new(&options, 1, step, &[], &[]).passes;
            assert_eq!(passes.len(), 11);
            assert_eq!((passes[0], passes[10]), (PassKind::First, PassKind::MaskOnly));
            assert_eq!(passes.iter().filter(|&&pass| pass == PassKind::Click).count(), 8);
            let place = passes[1..10].iter().position(|&pass| pass == PassKind::MaskOnly).expect("one of two");
            places[place + 1] += 1;
        }
        // Uniform over the nine places behind the first pass: 8 degrees of freedom, above 26.1 once in a thousand.
        let expected = 2000.0 / 9.0;
        let chi_square: f64 = places[1..10].iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
        assert!(chi_square < 26.1, "{places:?}");
        let sam2 = PromptDraws::new(&PromptOptions::preset(PromptPreset::Sam2), 1, 0, &[], &[]).passes;
        assert_eq!(sam2[0], PassKind::First);
        assert_eq!(sam2[1..], [PassKind::Click; 7]);
    }

    #[test]
    fn half_of_the_first_prompts_are_boxes() {
        let options = PromptOptions::preset(PromptPreset::Sam);
        let boxes: usize =
            (0..40).map(|d| draws(&options, d, 50).iter().filter(|o| o.box_xyxy_px.is_some()).count()).sum();
        // Four standard deviations of a binomial with 2000 trials.
        assert!((boxes as f64 - 1000.0).abs() < 4.0 * 500f64.sqrt(), "{boxes}");
        assert!(draws(&PromptOptions::preset(PromptPreset::Box), 0, 50).iter().all(|o| o.box_xyxy_px.is_some()));
        assert!(draws(&PromptOptions::preset(PromptPreset::Points), 0, 50).iter().all(|o| o.box_xyxy_px.is_none()));
    }

    #[test]
    fn box_noise_has_its_standard_deviation_and_is_capped() {
        let cap_px = 4.0;
        let mut options = PromptOptions::preset(PromptPreset::Box);
        options.box_noise.cap_px = cap_px;
        let tight = [10.0, 20.0, 30.0, 60.0f32];
        let (mut squares_x, mut n, mut capped) = (0.0, 0.0, 0);
        for object in (0..100).flat_map(|d| draws(&options, d, 20)) {
            let got = object.box_xyxy_px.expect("boxes only");
            for at in 0..4 {
                let shift = f64::from(got[at] - tight[at]);
                assert!(shift.abs() <= cap_px + 1e-4, "{got:?}");
                capped += usize::from((shift.abs() - cap_px).abs() < 1e-4);
                if at % 2 == 0 {
                    squares_x += shift * shift;
                    n += 1.0;
                }
            }
        }
        // A tenth of a side of 20 px is 2; cutting at two deviations leaves a variance of 0.92 of that.
        let deviation = f64::sqrt(squares_x / n);
        assert!((deviation / 2.0 - 0.92f64.sqrt()).abs() < 0.05, "{deviation}");
        assert!(capped > 0, "the tall side's noise has a deviation of 4");
    }

    #[test]
    fn draws_of_an_object_do_not_depend_on_the_rest_of_the_batch() {
        let options = PromptOptions::preset(PromptPreset::Sam);
        let box_xyxy = [3, 4, 9, 12];
        let alone = PromptDraws::new(&options, 5, 9, &[image(31)], &[object(8, box_xyxy)]);
        let mut second = object(8, box_xyxy);
        second.image_index = 1;
        let both = PromptDraws::new(&options, 5, 9, &[image(30), image(31)], &[object(2, [0, 0, 5, 5]), second]);
        assert_eq!(alone.objects[0], both.objects[1]);
        assert_eq!(alone.passes, both.passes);
        assert_ne!(alone.objects[0], PromptDraws::new(&options, 6, 9, &[image(31)], &[object(8, box_xyxy)]).objects[0]);
    }
}
