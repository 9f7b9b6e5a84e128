//! One scene: its shapes in order, the visible part of each, and the image.

use image::RgbImage;
use sam_image::{Mask, Rle};

use crate::error::DataError;
use crate::random::{Purpose, RandomStream};
use crate::sample::{ObjectMask, Sample};
use crate::synth::SynthOptions;
use crate::synth::caption::{Seen, captions};
use crate::synth::shape::{Outline, ShapeKind, around};
use crate::synth::texture::Texture;

/// Scenes that are drawn in vain before the options are considered wrong.
const MAX_ATTEMPTS: u64 = 100;
/// Levels of nesting: part, sub-part, whole, as the three masks of SAM's decoder (paper, §3).
const N_LEVELS_MAX: usize = 3;

/// A synthetic scene: a sample, and the geometry of its objects.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The image and its masks.
    pub sample: Sample,
    /// One entry per object of the sample, from back to front.
    pub objects: Vec<SceneObject>,
}

/// Geometry of an object beyond its mask.
#[derive(Debug, Clone)]
pub struct SceneObject {
    /// The kind of shape.
    pub kind: ShapeKind,
    /// The object it is a part of, whose mask includes this one's.
    pub parent: Option<usize>,
    /// Its whole shape, including occluded pixels, clipped to its parent's.
    pub cover: Rle,
}

/// A shape before occlusion.
struct Layer {
    kind: ShapeKind,
    parent: Option<usize>,
    cover: Mask,
    texture: Texture,
}

impl Scene {
    /// Generates the scene of a seed and an index.
    ///
    /// # Errors
    ///
    /// When the options leave no object visible.
    ///
    /// # Panics
    ///
    /// When the options ask for images below 8 px, or a range is empty.
    pub fn draw(seed: u64, index: u64, options: &SynthOptions) -> Result<Self, DataError> {
        assert!(
            options.side_px_min >= 8 && options.side_px_min <= options.side_px_max,
            "sides must be a range from at least 8 px, got {}-{}",
            options.side_px_min,
            options.side_px_max
        );
        assert!(
            options.n_shapes_min >= 1 && options.n_shapes_min <= options.n_shapes_max,
            "shapes must be a range from at least 1, got {}-{}",
            options.n_shapes_min,
            options.n_shapes_max
        );
        // No default scene in a hundred thousand is without objects, but options can be extreme.
        for attempt in 0..MAX_ATTEMPTS {
            let mut stream = RandomStream::new(seed, Purpose::Scene, &[index, attempt]);
            let n_sides = options.side_px_max - options.side_px_min + 1;
            let size_hw = [(); 2].map(|()| options.side_px_min + stream.index(n_sides));
            let background = Texture::draw_background(&mut stream, shorter_px(size_hw));
            let layers = draw_layers(size_hw, &background, options, &mut stream);
            let layers = without_hidden(layers, options);
            if !layers.is_empty() {
                let name = format!("scene_{index:06}");
                return Ok(Self::finish(name, size_hw, &background, layers, options, &mut stream));
            }
        }
        let SynthOptions { visible_px_min, visible_share_min, side_px_min, side_px_max, .. } = options;
        Err(DataError::Option {
            key: "visible_px_min",
            expected: format!(
                "so small, with visible_share_min = {visible_share_min}, that a scene has a visible object"
            ),
            got: format!(
                "{visible_px_min}, and none in {MAX_ATTEMPTS} scenes of {side_px_min} to {side_px_max} px a side"
            ),
        })
    }

    fn finish(
        name: String,
        size_hw: [usize; 2],
        background: &Texture,
        layers: Vec<Layer>,
        options: &SynthOptions,
        stream: &mut RandomStream,
    ) -> Self {
        let tops = tops(size_hw, &layers);
        let colours = shaded(size_hw, background, &layers, &tops, stream);
        let seen = seen(size_hw, &layers, &tops, &colours);
        let image = photographed(size_hw, &colours, options.noise_levels, stream);
        let objects = layers.iter().zip(&seen).enumerate().map(|(at, (layer, seen))| ObjectMask {
            mask: Rle::from_mask(&visible(&layers, at)),
            class: Some(layer.kind.class()),
            id: at as u64 + 1,
            captions: captions(layer.kind, &layer.texture, seen),
        });
        let objects = objects.collect();
        Self {
            sample: Sample { name, image, objects, ignore: None },
            objects: layers
                .iter()
                .map(|layer| SceneObject {
                    kind: layer.kind,
                    parent: layer.parent,
                    cover: Rle::from_mask(&layer.cover),
                })
                .collect(),
        }
    }
}

fn shorter_px(size_hw: [usize; 2]) -> f64 {
    size_hw[0].min(size_hw[1]) as f64
}

/// Samples the layers from back to front; a part follows its parent.
fn draw_layers(
    size_hw: [usize; 2],
    background: &Texture,
    options: &SynthOptions,
    stream: &mut RandomStream,
) -> Vec<Layer> {
    let n_shapes = options.n_shapes_min + stream.index(options.n_shapes_max - options.n_shapes_min + 1);
    let shorter = shorter_px(size_hw);
    let mut layers = Vec::new();
    for _ in 0..n_shapes {
        let centre = [size_hw[1], size_hw[0]].map(|size| size as f64 * stream.uniform(0.08, 0.92));
        let (is_thin, is_tiny) = (stream.chance(options.thin_chance), stream.chance(options.tiny_chance));
        let texture = Texture::draw(stream, &[background.base()], shorter);
        if is_thin {
            let radius_px = shorter * stream.uniform(0.2, 0.45);
            let half_width_px = (shorter * stream.uniform(0.006, 0.016)).max(0.8);
            let outline = Outline::draw_stroke(centre, radius_px, half_width_px, stream);
            layers.push(Layer { kind: ShapeKind::Stroke, parent: None, cover: outline.cover(size_hw), texture });
            continue;
        }
        let kind = draw_kind(stream, 5);
        let radius_px = if is_tiny {
            (shorter * stream.uniform(0.02, 0.045)).max(2.2)
        } else {
            shorter * stream.uniform(0.12, 0.32)
        };
        layers.push(Layer {
            kind,
            parent: None,
            cover: Outline::draw(kind, centre, radius_px, stream).cover(size_hw),
            texture,
        });
        draw_parts(&mut layers, centre, radius_px, options, stream);
    }
    layers
}

/// Adds a part to the last layer, and parts to parts, if they are large enough to be seen.
fn draw_parts(
    layers: &mut Vec<Layer>,
    mut centre: [f64; 2],
    mut radius_px: f64,
    options: &SynthOptions,
    stream: &mut RandomStream,
) {
    for _ in 1..N_LEVELS_MAX {
        let parent = layers.len() - 1;
        let size_hw = layers[parent].cover.size_hw();
        let part_radius_px = radius_px * stream.uniform(0.35, 0.65);
        if layers[parent].kind == ShapeKind::Ring || part_radius_px < 2.5 || !stream.chance(options.nested_chance) {
            return;
        }
        let kind = draw_kind(stream, 5);
        // Often concentric, like food on a plate.
        let offset_px = if stream.chance(0.4) { 0.0 } else { radius_px * stream.uniform(0.0, 0.45) };
        centre = around(centre, stream.unit(), offset_px);
        let mut cover = Outline::draw(kind, centre, part_radius_px, stream).cover(size_hw);
        for (pixel, &on_parent) in cover.pixels_mut().iter_mut().zip(layers[parent].cover.pixels()) {
            *pixel &= on_parent;
        }
        let unlike = [layers[parent].texture.base()];
        let texture = Texture::draw(stream, &unlike, shorter_px(size_hw));
        layers.push(Layer { kind, parent: Some(parent), cover, texture });
        radius_px = part_radius_px;
    }
}

/// One of the first `n_kinds`; lines are sampled separately.
fn draw_kind(stream: &mut RandomStream, n_kinds: usize) -> ShapeKind {
    ShapeKind::ALL[stream.index(n_kinds)]
}

/// The visible part of a layer: its cover minus later layers, except its own parts.
fn visible(layers: &[Layer], at: usize) -> Mask {
    let mut mask = layers[at].cover.clone();
    for above in at + 1..layers.len() {
        if is_part_of(layers, above, at) {
            continue;
        }
        for (pixel, &hidden) in mask.pixels_mut().iter_mut().zip(layers[above].cover.pixels()) {
            *pixel &= !hidden;
        }
    }
    mask
}

fn is_part_of(layers: &[Layer], mut part: usize, whole: usize) -> bool {
    while let Some(parent) = layers[part].parent {
        if parent == whole {
            return true;
        }
        part = parent;
    }
    false
}

/// Removes layers that are hardly visible, with their parts, so that visible shapes and objects correspond.
fn without_hidden(mut layers: Vec<Layer>, options: &SynthOptions) -> Vec<Layer> {
    let mut at = 0;
    while at < layers.len() {
        let seen_px = visible(&layers, at).area_px();
        let cover_px = layers[at].cover.area_px();
        let is_seen =
            seen_px >= options.visible_px_min.max(1) && seen_px as f64 >= options.visible_share_min * cover_px as f64;
        if is_seen {
            at += 1;
            continue;
        }
        // Parts follow their parent directly; indices shift with the removal.
        let n_gone = 1 + (at + 1..layers.len()).take_while(|&part| is_part_of(&layers, part, at)).count();
        layers.drain(at..at + n_gone);
        for parent in layers[at..].iter_mut().filter_map(|l| l.parent.as_mut()) {
            *parent -= n_gone;
        }
    }
    layers
}

/// The layer on top of each pixel; `None` for the background.
fn tops([height, width]: [usize; 2], layers: &[Layer]) -> Vec<Option<usize>> {
    let mut tops = vec![None; height * width];
    for (at, layer) in layers.iter().enumerate() {
        for (top, &covered) in tops.iter_mut().zip(layer.cover.pixels()) {
            if covered {
                *top = Some(at);
            }
        }
    }
    tops
}

/// The colours of all pixels under a light from one side.
fn shaded(
    size_hw: [usize; 2],
    background: &Texture,
    layers: &[Layer],
    tops: &[Option<usize>],
    stream: &mut RandomStream,
) -> Vec<[f64; 3]> {
    let width = size_hw[1];
    let shorter = shorter_px(size_hw);
    let light = around([0.0; 2], stream.unit(), 1.0);
    let shade = |(at, top): (usize, &Option<usize>)| {
        let surface = top.map_or(background, |layer| &layers[layer].texture);
        let xy = [(at % width) as f64 + 0.5, (at / width) as f64 + 0.5];
        let across = (xy[0] * light[0] + xy[1] * light[1]) / shorter;
        let brightness = 1.0 + 0.12 * across.clamp(-1.0, 1.0);
        surface.colour_at(xy, shorter).map(|value| value * brightness)
    };
    tops.iter().enumerate().map(shade).collect()
}

/// What is seen of the own surface of each layer.
fn seen([height, width]: [usize; 2], layers: &[Layer], tops: &[Option<usize>], colours: &[[f64; 3]]) -> Vec<Seen> {
    // Of a cross: three quarters of a period to each side.
    let reach: Vec<usize> = layers.iter().map(|layer| (0.75 * layer.texture.period_px()).ceil() as usize).collect();
    let mut all = vec![Seen::default(); layers.len()];
    for (at, top) in tops.iter().enumerate() {
        let Some(layer) = *top else { continue };
        let (seen, reach) = (&mut all[layer], reach[layer]);
        seen.n_px += 1;
        seen.colour_sum.iter_mut().zip(colours[at]).for_each(|(sum, value)| *sum += value.min(255.0));
        let (row, column) = (at / width, at % width);
        if !seen.shows_period && row.min(column) >= reach && row + reach < height && column + reach < width {
            let ends = [at - reach, at + reach, at - reach * width, at + reach * width];
            seen.shows_period = ends.iter().all(|&end| tops[end] == *top);
        }
    }
    all
}

/// The image, with the noise of a camera; half of all scenes are blurred.
fn photographed(size_hw: [usize; 2], colours: &[[f64; 3]], noise_levels: f64, stream: &mut RandomStream) -> RgbImage {
    let blurred = stream.chance(0.5).then(|| softened(colours, size_hw));
    let mut image = RgbImage::new(size_hw[1] as u32, size_hw[0] as u32);
    for (pixel, colour) in image.pixels_mut().zip(blurred.as_deref().unwrap_or(colours)) {
        for (value, colour) in pixel.0.iter_mut().zip(colour) {
            // Three uniforms have variance 1/4 in sum, so twice the sum has deviation one.
            let noise = (stream.unit() + stream.unit() + stream.unit() - 1.5) * 2.0;
            *value = (colour + noise * noise_levels + 0.5).clamp(0.0, 255.0) as u8;
        }
    }
    image
}

/// A blur of one pixel (1 2 1), similar to a lens and a demosaic.
fn softened(colours: &[[f64; 3]], size_hw: [usize; 2]) -> Vec<[f64; 3]> {
    let [height, width] = size_hw;
    let at = |row: usize, column: usize| &colours[row * width + column];
    let mut soft = Vec::with_capacity(colours.len());
    for row in 0..height {
        let rows = [row.saturating_sub(1), row, row, (row + 1).min(height - 1)];
        for column in 0..width {
            let columns = [column.saturating_sub(1), column, column, (column + 1).min(width - 1)];
            soft.push(std::array::from_fn(|c| {
                let sum: f64 = rows.iter().flat_map(|&row| columns.map(|column| at(row, column)[c])).sum();
                sum / 16.0
            }));
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::random::fnv1a;
    use crate::synth::caption::{COLOUR_NAMES, PATTERN_NAMES, colour_name};
    use sam_image::rle_intersection_px;

    fn scenes(n: u64) -> impl Iterator<Item = Scene> {
        (0..n).map(|index| Scene::draw(3, index, &SynthOptions::default()).expect("visible"))
    }

    /// A hash of the image, the masks and the classes.
    fn fingerprint(scene: &Scene) -> u64 {
        let image = scene.sample.image.as_raw().iter().copied();
        let objects = scene.sample.objects.iter().flat_map(|object| {
            let counts = object.mask.counts().iter().flat_map(|n| n.to_le_bytes());
            counts.chain([object.class.map_or(255, |class| class as u8)])
        });
        fnv1a(image.chain(objects))
    }

    #[test]
    fn scenes_are_pinned() {
        let fingerprints: Vec<u64> = scenes(3).map(|scene| fingerprint(&scene)).collect();
        assert_eq!(
            fingerprints,
            [1_136_312_022_674_630_140, 7_192_259_286_299_853_127, 6_558_226_596_721_393_228],
            "datasets/synth and every seed in a config rely on it"
        );
    }

    #[test]
    fn parts_are_inside_and_occluders_outside() {
        let (mut n_parts, mut n_deep, mut n_occluded) = (0, 0, 0);
        for scene in scenes(120) {
            let masks: Vec<&Rle> = scene.sample.objects.iter().map(|o| &o.mask).collect();
            let is_part = |mut part: usize, whole: usize| {
                while let Some(parent) = scene.objects[part].parent {
                    if parent == whole {
                        return true;
                    }
                    part = parent;
                }
                false
            };
            for front in 0..masks.len() {
                n_parts += usize::from(scene.objects[front].parent.is_some());
                let grandparent = scene.objects[front].parent.and_then(|parent| scene.objects[parent].parent);
                n_deep += usize::from(grandparent.is_some());
                for back in 0..front {
                    let shared = rle_intersection_px(masks[front], masks[back]).unwrap_or(0);
                    if is_part(front, back) {
                        assert_eq!(shared, masks[front].area_px(), "a part is all inside");
                        assert!(masks[front].area_px() < masks[back].area_px());
                    } else {
                        assert_eq!(shared, 0, "masks do not overlap unless nested");
                        let cover = &scene.objects[back].cover;
                        let hidden = rle_intersection_px(masks[front], cover).unwrap_or(0);
                        n_occluded += usize::from(hidden > 0);
                    }
                }
            }
        }
        assert!(n_parts > 150 && n_deep > 30 && n_occluded > 100, "{n_parts} {n_deep} {n_occluded}");
    }

    #[test]
    fn objects_are_visible_and_of_every_kind() {
        let mut n_by_class = [0; 6];
        let (mut n_objects, mut n_small) = (0, 0);
        for scene in scenes(120) {
            let size_hw = [scene.sample.image.height() as usize, scene.sample.image.width() as usize];
            assert_eq!(scene.objects.len(), scene.sample.objects.len());
            for (object, known) in scene.sample.objects.iter().zip(&scene.objects) {
                assert_eq!(object.mask.size_hw(), size_hw);
                assert!(object.mask.area_px() >= 12);
                assert_eq!(object.class, Some(known.kind.class()));
                n_by_class[known.kind.class()] += 1;
                n_small += usize::from(object.mask.area_px() < size_hw[0] * size_hw[1] / 200);
            }
            n_objects += scene.objects.len();
        }
        assert!(n_by_class.iter().all(|&n| n > 30), "{n_by_class:?}");
        assert!((600..1400).contains(&n_objects), "{n_objects}");
        assert!(n_small > 60, "{n_small}");
    }

    #[test]
    fn captions_say_what_is_seen() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for scene in scenes(120) {
            for (object, known) in scene.sample.objects.iter().zip(&scene.objects) {
                let kind = known.kind.name();
                let words: Vec<Vec<&str>> =
                    object.captions.iter().map(|caption| caption.split(' ').collect()).collect();
                let colour = words[words.len() / 2][1];
                assert!(COLOUR_NAMES.contains(&colour), "{:?}", object.captions);
                match words.as_slice() {
                    [full, plain, pattern] => {
                        assert!(PATTERN_NAMES.contains(&full[1]), "{:?}", object.captions);
                        assert_eq!([&full[1..], &plain[1..]], [&[full[1], colour, kind][..], &[colour, kind]]);
                        assert_eq!(pattern[1..], [full[1], kind]);
                        assert_ne!(known.kind, ShapeKind::Stroke, "a thin line shows no pattern");
                    }
                    [plain] => assert_eq!(plain[1..], [colour, kind]),
                    _ => panic!("{:?}", object.captions),
                }
                let all: BTreeSet<&str> = words.concat().into_iter().collect();
                all.into_iter().for_each(|word| *counts.entry(word.to_owned()).or_default() += 1);
                // The colour of the own pixels, measured on the image, is near to the named one.
                let own = own_pixels(&scene, object);
                let mean = mean_colour(&scene.sample.image, &own);
                let distance = |name: &str| nearest_of(name, mean);
                assert!(distance(colour) < 40.0, "{colour} {mean:?}");
            }
        }
        let n = |word: &str| counts.get(word).copied().unwrap_or(0);
        assert!(COLOUR_NAMES[..9].iter().chain(&PATTERN_NAMES).all(|word| n(word) > 20), "{counts:?}");
    }

    /// The pixels of an object that belong to none of its parts.
    fn own_pixels(scene: &Scene, object: &ObjectMask) -> Mask {
        let mut own = object.mask.to_mask();
        for part in scene.sample.objects.iter().filter(|part| part.id > object.id) {
            own.pixels_mut().iter_mut().zip(part.mask.to_mask().pixels()).for_each(|(own, part)| *own &= !part);
        }
        own
    }

    fn mean_colour(image: &RgbImage, mask: &Mask) -> [f64; 3] {
        let pixels: Vec<_> =
            image.pixels().zip(mask.pixels()).filter(|(_, set)| **set).map(|(pixel, _)| pixel.0).collect();
        [0, 1, 2].map(|c| pixels.iter().map(|pixel| f64::from(pixel[c])).sum::<f64>() / pixels.len() as f64)
    }

    /// Distance of a colour from the nearest one of a name, on a grid of colours.
    fn nearest_of(name: &str, colour: [f64; 3]) -> f64 {
        let levels = || (0..=255).step_by(15).map(f64::from);
        let grid = levels().flat_map(|r| levels().flat_map(move |g| levels().map(move |b| [r, g, b])));
        let of_name = grid.filter(|colour| colour_name(*colour) == name);
        let distance = |other: [f64; 3]| (0..3).map(|c| (other[c] - colour[c]).powi(2)).sum::<f64>().sqrt();
        of_name.map(distance).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn any_size_and_extreme_options_work() {
        for side_px in [8, 9, 64, 300] {
            let options = SynthOptions {
                side_px_min: side_px,
                side_px_max: side_px + 3,
                nested_chance: 1.0,
                thin_chance: 0.5,
                tiny_chance: 0.5,
                ..SynthOptions::default()
            };
            let scene = Scene::draw(1, 0, &options).expect("visible");
            assert!(!scene.objects.is_empty());
        }
    }
}
