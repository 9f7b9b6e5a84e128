//! Clicks on the device: uniform over a region, without asking the host where.
//!
//! A click takes the pixel with index `floor(u * n)` of a region of `n` pixels, in row-major order. Counting along rows and then
//! along one row finds it: two running sums, exact in f32 up to 2^24 pixels.
//!
//! Nothing here is tracked by autodiff: masks and logits are detached between passes (the paper is silent; the memory of one
//! pass requires it).
//!
//! Shapes: `O` objects, `M` side of the target masks, `L` side of mask prompts, `N` tokens so far.

use burn::tensor::{Int, Tensor, TensorData};
use sam_model::{MaskPrompts, Prompts, SparsePrompts, TextPrompts, TokenKind};

use crate::prompts::draws::{DrawnObject, PassKind, PromptDraws};
use crate::target::Target;

/// The prompts of a step's objects, pass by pass.
pub struct ClickSimulator {
    draws: PromptDraws,
    side_px: usize,
    target: Tensor<3>,
    valid: Option<Tensor<3>>,
    places: Tensor<3>,
    from_object: Option<Tensor<2>>,
    next_click: usize,
    /// After the first prompt.
    has_clicks: bool,
    text: Option<TextPrompts>,
    coords_xy_px: Vec<Tensor<3>>,
    labels: Vec<Tensor<2, Int>>,
    mask_logits: Option<Tensor<4>>,
    region: Tensor<3>,
    /// Given points and boxes, the last pass first; then only mask prompts are simulated.
    script: Option<Vec<SparsePrompts>>,
}

impl ClickSimulator {
    /// For a model with a square input of `side_px`; clicks land on valid pixels of `target`, which is not tracked.
    ///
    /// # Panics
    ///
    /// When there are not as many draws as objects.
    #[must_use]
    pub fn new(draws: PromptDraws, target: &Target, side_px: usize) -> Self {
        let [objects, _, mask_side, _] = target.masks.dims();
        assert_eq!(draws.objects.len(), objects, "each object has its draws");
        let device = target.masks.device();
        let shape = [objects, mask_side, mask_side];
        let n_places = draws.objects.first().map_or(0, |object| object.places.len());
        let places: Vec<f32> =
            draws.objects.iter().flat_map(|object| object.places.iter().flatten().copied()).collect();
        let from_object: Vec<f32> =
            draws.objects.iter().flat_map(|o| o.from_object.iter().map(|&yes| f32::from(u8::from(yes)))).collect();
        let any_from_object = from_object.iter().any(|&yes| yes > 0.0);
        let masks = target.masks.clone().reshape(shape);
        let texts: Vec<_> = draws.objects.iter().map(|object| object.text.clone()).collect();
        Self {
            side_px,
            region: masks.clone(),
            target: masks,
            valid: target.valid.clone().map(|valid| valid.reshape(shape)),
            places: Tensor::from_data(TensorData::new(places, [objects, n_places, 3]), &device),
            from_object: any_from_object
                .then(|| Tensor::from_data(TensorData::new(from_object, [objects, n_places]), &device)),
            next_click: 0,
            has_clicks: false,
            text: TextPrompts::from_vectors(&texts, &device),
            coords_xy_px: Vec::new(),
            labels: Vec::new(),
            mask_logits: None,
            script: None,
            draws,
        }
    }

    /// Replays given points and boxes, pass by pass; the mask of each pass still prompts the next.
    #[must_use]
    pub fn scripted(passes: Vec<(PassKind, SparsePrompts)>, target: &Target, side_px: usize) -> Self {
        let [objects, ..] = target.masks.dims();
        let nothing = DrawnObject { text: None, box_xyxy_px: None, places: Vec::new(), from_object: Vec::new() };
        let (kinds, mut script): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        script.reverse();
        let draws = PromptDraws { passes: kinds, objects: vec![nothing; objects] };
        Self { script: Some(script), ..Self::new(draws, target, side_px) }
    }

    /// The kind of each pass.
    pub(crate) fn passes(&self) -> &[PassKind] {
        &self.draws.passes
    }

    /// For each object, true when its first prompt is a box, `[O]`; on the host.
    pub(crate) fn is_box(&self) -> impl Iterator<Item = bool> {
        self.draws.objects.iter().map(|object| object.box_xyxy_px.is_some())
    }

    /// The prompts of a pass, in order; each after [`ClickSimulator::observe`] of the pass before. There are as many tokens
    /// for every object, coordinates `[O, N, 2]` and labels `[O, N]`; those that an object does not have are absent.
    ///
    /// # Panics
    ///
    /// When a script has no more passes.
    pub(crate) fn prompts(&mut self, pass: PassKind) -> Prompts {
        let masks = self.mask_logits.clone().map(|logits| MaskPrompts { logits, present: None });
        let objects = self.draws.objects.len();
        if let Some(script) = &mut self.script {
            let sparse = script.pop().expect("a script has a line for every pass");
            return Prompts { sparse: Some(sparse), masks, text: None, objects };
        }
        match pass {
            PassKind::First => self.add_first(),
            PassKind::Click => {
                let (coords, labels) = self.click();
                self.coords_xy_px.push(coords);
                self.labels.push(labels);
                if !std::mem::replace(&mut self.has_clicks, true) {
                    self.pad_texts();
                }
            }
            PassKind::MaskOnly => {}
        }
        Prompts { sparse: self.sparse(), masks, text: self.text.clone(), objects }
    }

    /// Takes the selected mask of the last prompts.
    ///
    /// # Shapes
    /// - `low_res_logits`: `[O, 1, L, L]`, the mask prompt of the next pass
    /// - `logits`: `[O, 1, M, M]`, the same mask at the resolution of the target
    pub(crate) fn observe(&mut self, low_res_logits: Tensor<4>, logits: Tensor<4>) {
        let predicted = logits.greater_elem(0.0).float().reshape(self.target.shape());
        let error = (predicted - self.target.clone()).abs();
        let error = match &self.valid {
            Some(valid) => error * valid.clone(),
            None => error,
        };
        // A mask without error still gets its click: anywhere, with the label of the target there.
        let [objects, side, _] = error.dims();
        let is_perfect = error.clone().reshape([objects, side * side]).sum_dim(1).equal_elem(0.0).float();
        let anywhere = is_perfect.reshape([objects, 1, 1]).expand([objects, side, side]);
        self.region = match &self.valid {
            Some(valid) => error + anywhere * valid.clone(),
            None => error + anywhere,
        };
        self.mask_logits = Some(low_res_logits);
    }

    /// The points and boxes so far; `None` when no object has any.
    fn sparse(&self) -> Option<SparsePrompts> {
        let n_tokens = self.labels.len();
        let absent: Vec<bool> = self
            .draws
            .objects
            .iter()
            .flat_map(|object| {
                let is_text = object.text.is_some();
                let absent_first = [is_text, is_text && !self.has_clicks];
                absent_first.into_iter().chain(std::iter::repeat_n(false, n_tokens - absent_first.len()))
            })
            .collect();
        (!absent.iter().all(|&absent| absent)).then(|| SparsePrompts {
            coords_xy_px: Tensor::cat(self.coords_xy_px.clone(), 1),
            labels: Tensor::cat(self.labels.clone(), 1),
            absent: absent.contains(&true).then_some(absent),
        })
    }

    /// With its first click, an object with a text has points and no box, and so the padding token.
    fn pad_texts(&mut self) {
        let difference = TokenKind::NotAPoint as i64 - TokenKind::Absent as i64;
        let added: Vec<i64> =
            self.draws.objects.iter().map(|object| if object.text.is_some() { difference } else { 0 }).collect();
        if added.iter().any(|&added| added != 0) {
            let added = TensorData::new(added, [self.draws.objects.len(), 1]);
            let added = Tensor::<2, Int>::from_data(added, &self.target.device());
            self.labels[1] = self.labels[1].clone() + added;
        }
    }

    /// Two tokens for every object: a point and the padding token, the corners of a box, or with a text none.
    fn add_first(&mut self) {
        let (point, point_labels) = self.click(); // [O, 1, 2], [O, 1]
        let device = point.device();
        let objects = self.draws.objects.len();
        let boxes: Vec<f32> =
            self.draws.objects.iter().flat_map(|object| object.box_xyxy_px.unwrap_or_default()).collect();
        // Where the label does not come from the device.
        let label = |boxed: TokenKind, point: i64| -> Vec<i64> {
            let of_object = |object: &DrawnObject| match (&object.text, object.box_xyxy_px) {
                (Some(_), _) => TokenKind::Absent as i64,
                (None, Some(_)) => boxed as i64,
                (None, None) => point,
            };
            self.draws.objects.iter().map(of_object).collect()
        };
        // The point takes the place of the box's first corner.
        let boxes = Tensor::<3>::from_data(TensorData::new(boxes, [objects, 2, 2]), &device);
        let is_point = |object: &DrawnObject| object.text.is_none() && object.box_xyxy_px.is_none();
        let is_point: Vec<f32> =
            self.draws.objects.iter().map(|object| f32::from(u8::from(is_point(object)))).collect();
        let is_point = Tensor::<3>::from_data(TensorData::new(is_point, [objects, 1, 1]), &device);
        let first = boxes.clone().slice([0..objects, 0..1]) + point * is_point.clone();
        let second = boxes.slice([0..objects, 1..2]);
        let ints = |codes: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(codes, [objects, 1]), &device);
        let is_point = is_point.reshape([objects, 1]).int();
        // Labels of points come from the device; they are 0 for the others, whose code is added.
        let first_labels = point_labels * is_point + ints(label(TokenKind::BoxTopLeft, 0));
        let second_labels = ints(label(TokenKind::BoxBottomRight, TokenKind::NotAPoint as i64));
        self.coords_xy_px = vec![first, second];
        self.labels = vec![first_labels, second_labels];
    }

    /// One click per object in the present region: coordinates `[O, 1, 2]` and labels `[O, 1]`.
    fn click(&mut self) -> (Tensor<3>, Tensor<2, Int>) {
        let [objects, side, _] = self.target.dims();
        let at = self.next_click;
        self.next_click += 1;
        let place = self.places.clone().slice([0..objects, at..at + 1]).reshape([objects, 3]);
        let mut region = self.region.clone();
        if let Some(from_object) = &self.from_object {
            let from_object = from_object.clone().slice([0..objects, at..at + 1]).reshape([objects, 1, 1]);
            region = region * from_object.clone().neg().add_scalar(1.0) + self.target.clone() * from_object;
        }
        let fraction = place.clone().slice([0..objects, 0..1]);
        let [row, column] = pick(region, fraction);
        let label = value_at(&self.target, &row, &column).int();
        let cell_px = self.side_px as f64 / side as f64;
        let jitter = place.slice([0..objects, 1..3]);
        let cell = Tensor::cat(vec![column.float(), row.float()], 1); // [O, 2]
        // Half a pixel less: the prompt encoder adds it again.
        let coords = (cell + jitter).mul_scalar(cell_px).sub_scalar(0.5);
        (coords.reshape([objects, 1, 2]), label)
    }
}

/// Row and column, `[O, 1]` each, of the pixel with index `floor(fraction * n)` of a region of `n` pixels.
fn pick(region: Tensor<3>, fraction: Tensor<2>) -> [Tensor<2, Int>; 2] {
    let [objects, side, _] = region.dims();
    let per_row = region.clone().sum_dim(2).reshape([objects, side]);
    let up_to_row = per_row.clone().cumsum(1);
    let n_pixels = up_to_row.clone().slice([0..objects, side - 1..side]);
    let index = (fraction * n_pixels.clone()).floor().min_pair(n_pixels.sub_scalar(1.0)); // [O, 1]
    let is_before = up_to_row.lower_equal(index.clone().expand([objects, side])).float();
    let last = (side - 1) as i64;
    let row = is_before.clone().sum_dim(1).int().clamp_max(last);
    let index = index - (per_row * is_before).sum_dim(1);
    let values = region.gather(1, row.clone().reshape([objects, 1, 1]).expand([objects, 1, side]));
    let up_to_column = values.reshape([objects, side]).cumsum(1);
    let column = up_to_column.lower_equal(index.expand([objects, side])).float().sum_dim(1).int().clamp_max(last);
    [row, column]
}

/// `values[o, row[o], column[o]]`, `[O, 1]`.
fn value_at(values: &Tensor<3>, row: &Tensor<2, Int>, column: &Tensor<2, Int>) -> Tensor<2> {
    let [objects, side, _] = values.dims();
    let line = values.clone().gather(1, row.clone().reshape([objects, 1, 1]).expand([objects, 1, side]));
    line.reshape([objects, side]).gather(1, column.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use sam_model::{Modality, TextVector};

    const SIDE: usize = 8;

    fn drawn(share: f32) -> DrawnObject {
        DrawnObject { text: None, box_xyxy_px: None, places: vec![[share, 0.5, 0.5]; 4], from_object: vec![false; 4] }
    }

    fn plane(bytes: &[u8], objects: usize) -> Tensor<4> {
        let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte)).collect();
        Tensor::from_data(TensorData::new(values, [objects, 1, SIDE, SIDE]), &Device::flex())
    }

    fn simulator(objects: Vec<DrawnObject>, masks: &[u8], valid: Option<&[u8]>) -> ClickSimulator {
        let n = objects.len();
        let target = Target { masks: plane(masks, n), valid: valid.map(|valid| plane(valid, n)) };
        ClickSimulator::new(PromptDraws { passes: vec![PassKind::First], objects }, &target, 4 * SIDE)
    }

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().convert::<f32>().try_to_vec().expect("f32")
    }

    fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
        tensor.into_data().convert::<i64>().try_to_vec().expect("i64")
    }

    /// An L of five pixels.
    fn shape() -> Vec<u8> {
        let mut mask = vec![0; SIDE * SIDE];
        for at in [9, 17, 25, 26, 27] {
            mask[at] = 1;
        }
        mask
    }

    /// Against a list of the region's pixels: the click takes the one with index `floor(u n)`.
    #[test]
    fn every_fraction_finds_its_pixel() {
        let region: Vec<usize> = (0..SIDE * SIDE).filter(|&at| shape()[at] == 1).collect();
        for k in 0..100 {
            let share = k as f32 / 100.0;
            let mut simulator = simulator(vec![drawn(share)], &shape(), None);
            let sparse = simulator.prompts(PassKind::First).sparse.expect("points");
            let at = region[(share * region.len() as f32) as usize];
            let expected = [at % SIDE, at / SIDE].map(|cell| (cell as f32 + 0.5) * 4.0 - 0.5);
            assert_eq!(floats(sparse.coords_xy_px)[..2], expected, "share {share}");
            assert_eq!(ints(sparse.labels), [1, -1], "a positive point and the padding token");
        }
    }

    #[test]
    fn clicks_are_uniform_in_the_error_region_and_labelled_by_the_target() {
        let (n, target) = (400, shape());
        // The prediction has three of five pixels and two that are wrong.
        let mut prediction = vec![-1f32; SIDE * SIDE];
        for at in [9, 17, 25, 40, 41] {
            prediction[at] = 1.0;
        }
        let error = [26usize, 27, 40, 41];
        let mut counts = [0usize; 4];
        for chunk in 0..5 {
            let objects: Vec<_> = (0..n)
                .map(|o| {
                    let mut stream =
                        sam_data::random::RandomStream::new(3, sam_data::random::Purpose::Prompt, &[chunk, o]);
                    drawn(stream.unit() as f32)
                })
                .collect();
            let masks = target.repeat(n as usize);
            let mut simulator = simulator(objects, &masks, None);
            let _ = simulator.prompts(PassKind::First);
            let logits = TensorData::new(prediction.repeat(n as usize), [n as usize, 1, SIDE, SIDE]);
            let logits = Tensor::<4>::from_data(logits, &Device::flex());
            simulator.observe(logits.clone(), logits);
            let prompts = simulator.prompts(PassKind::Click);
            assert!(prompts.masks.is_some());
            let sparse = prompts.sparse.expect("points");
            let (coords, labels) = (floats(sparse.coords_xy_px), ints(sparse.labels));
            for o in 0..n as usize {
                let xy = &coords[(o * 3 + 2) * 2..][..2];
                let at = ((xy[1] + 0.5) / 4.0) as usize * SIDE + ((xy[0] + 0.5) / 4.0) as usize;
                let place = error.iter().position(|&pixel| pixel == at).expect("in the error region");
                counts[place] += 1;
                assert_eq!(
                    labels[o * 3 + 2],
                    i64::from(target[at]),
                    "positive for a false negative, negative for a false positive"
                );
            }
        }
        // 3 degrees of freedom: above 16.3 once in a thousand.
        let chi_square: f64 = counts.iter().map(|&k| (k as f64 - 500.0).powi(2) / 500.0).sum();
        assert!(chi_square < 16.3, "{counts:?}");
    }

    #[test]
    fn a_perfect_mask_gets_a_correct_click_on_a_valid_pixel() {
        let mut valid = [1u8; SIDE * SIDE];
        valid[..4 * SIDE].fill(0);
        let mut simulator = simulator(vec![drawn(0.0), drawn(0.999)], &shape().repeat(2), Some(&valid.repeat(2)));
        let _ = simulator.prompts(PassKind::First);
        let logits: Vec<f32> = shape().iter().map(|&on| f32::from(on) * 2.0 - 1.0).collect();
        let logits = Tensor::<4>::from_data(TensorData::new(logits.repeat(2), [2, 1, SIDE, SIDE]), &Device::flex());
        simulator.observe(logits.clone(), logits);
        let sparse = simulator.prompts(PassKind::Click).sparse.expect("points");
        let coords = floats(sparse.coords_xy_px);
        assert!(coords[5] >= 4.0 * 4.0 - 0.5 && coords[11] >= 4.0 * 4.0 - 0.5, "{coords:?}");
        assert_eq!(ints(sparse.labels), [1, -1, 0, 1, -1, 0]);
    }

    /// A text has no point beside it until its first click, and then the padding token that points have.
    #[test]
    fn a_text_is_alone_until_the_first_click() {
        let text = Some(TextVector { values: [0.6, 0.8].into(), modality: Modality::Image });
        let with_text = DrawnObject { text, ..drawn(0.0) };
        let boxed = DrawnObject { box_xyxy_px: Some([1.0, 2.0, 3.0, 4.0]), ..drawn(0.0) };
        let mut simulator = simulator(vec![with_text.clone(), boxed, drawn(0.0)], &shape().repeat(3), None);
        let prompts = simulator.prompts(PassKind::First);
        let sparse = prompts.sparse.expect("a box and a point");
        assert_eq!(ints(sparse.labels), [-2, -2, 2, 3, 1, -1]);
        assert_eq!(sparse.absent, Some(vec![true, true, false, false, false, false]));
        assert_eq!(prompts.text.expect("one text").modalities, [Some(Modality::Image), None, None]);
        let logits = Tensor::<4>::ones([3, 1, SIDE, SIDE], &Device::flex());
        for n_clicks in 1..3 {
            simulator.observe(logits.clone(), logits.clone());
            let prompts = simulator.prompts(PassKind::Click);
            let sparse = prompts.sparse.expect("clicks");
            let labels = ints(sparse.labels);
            assert_eq!(labels[..2], [-2, -1]);
            assert!(labels[2..2 + n_clicks].iter().all(|label| [0, 1].contains(label)), "{labels:?}");
            let absent = sparse.absent.expect("of the first object");
            assert_eq!(absent.iter().filter(|&&absent| absent).count(), 1);
            assert!(absent[0] && prompts.text.is_some());
        }

        let mut alone = super::tests::simulator(vec![with_text], &shape(), None);
        assert!(alone.prompts(PassKind::First).sparse.is_none(), "nothing but the text");
    }

    #[test]
    fn a_box_is_the_first_two_tokens_and_a_mask_only_pass_adds_none() {
        let boxed = DrawnObject { box_xyxy_px: Some([1.0, 2.0, 3.0, 4.0]), ..drawn(0.0) };
        let mut simulator = simulator(vec![boxed, drawn(0.0)], &shape().repeat(2), None);
        let sparse = simulator.prompts(PassKind::First).sparse.expect("points");
        assert_eq!(floats(sparse.coords_xy_px)[..4], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ints(sparse.labels), [2, 3, 1, -1]);
        let logits = Tensor::<4>::ones([2, 1, SIDE, SIDE], &Device::flex());
        simulator.observe(logits.clone(), logits);
        let prompts = simulator.prompts(PassKind::MaskOnly);
        assert_eq!(prompts.sparse.expect("points").labels.dims(), [2, 2]);
        assert_eq!(prompts.masks.expect("a mask").logits.dims(), [2, 1, SIDE, SIDE]);
    }
}
