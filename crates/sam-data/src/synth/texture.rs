//! Textures of the synthetic shapes: two colours and a pattern. Exact arithmetic only, as in `shape.rs`.

use crate::random::{RandomStream, mix64};
use crate::synth::shape::around;

/// Minimum distance of base colours in RGB, so that they differ under texture and noise.
const COLOUR_DISTANCE_MIN: f64 = 70.0;
/// Minimum distance in RGB of the two colours of a pattern that a caption names; clouds mix them, so theirs is larger.
const PATTERN_DISTANCE_MIN: f64 = 35.0;
const CLOUDS_DISTANCE_MIN: f64 = 55.0;
/// Shorter periods are blurred where a scene is.
const PATTERN_PERIOD_MIN_PX: f64 = 5.0;

/// A texture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texture {
    base: [f64; 3],
    second: [f64; 3],
    pattern: Pattern,
    /// Unit vector across the pattern.
    direction: [f64; 2],
    period_px: f64,
    key: u64,
}

#[derive(Debug, Clone, Copy)]
enum Pattern {
    Flat,
    Gradient,
    Stripes,
    Checks,
    Dots,
    Clouds,
}

impl Texture {
    /// Samples a texture that differs from the given base colours, for an image of this shorter side.
    pub(crate) fn draw(stream: &mut RandomStream, unlike: &[[f64; 3]], shorter_px: f64) -> Self {
        let pattern =
            [Pattern::Flat, Pattern::Gradient, Pattern::Stripes, Pattern::Checks, Pattern::Dots, Pattern::Clouds]
                [stream.index(6)];
        let base = draw_colour(stream, unlike);
        Self {
            base,
            second: base.map(|value| (value + stream.uniform(-55.0, 55.0)).clamp(0.0, 255.0)),
            pattern,
            direction: around([0.0; 2], stream.unit(), 1.0),
            period_px: (shorter_px * stream.uniform(0.03, 0.12)).max(3.0),
            key: stream.next_u64(),
        }
    }

    /// Samples the background: clouds or a gradient, at a large scale.
    pub(crate) fn draw_background(stream: &mut RandomStream, shorter_px: f64) -> Self {
        let pattern = if stream.chance(0.7) { Pattern::Clouds } else { Pattern::Gradient };
        Self {
            pattern,
            period_px: (shorter_px * stream.uniform(0.1, 0.5)).max(4.0),
            ..Self::draw(stream, &[], shorter_px)
        }
    }

    /// The base colour.
    pub(crate) fn base(&self) -> [f64; 3] {
        self.base
    }

    /// Length of one repetition.
    pub(crate) fn period_px(&self) -> f64 {
        self.period_px
    }

    /// The word for the pattern, if it can be seen on a surface that is wide enough. A gradient has none: it runs over the
    /// whole image, and an object shows a part of it.
    pub(crate) fn pattern_name(&self) -> Option<&'static str> {
        let (name, distance_min) = match self.pattern {
            Pattern::Flat | Pattern::Gradient => return None,
            Pattern::Stripes => ("striped", PATTERN_DISTANCE_MIN),
            Pattern::Checks => ("checked", PATTERN_DISTANCE_MIN),
            Pattern::Dots => ("dotted", PATTERN_DISTANCE_MIN),
            Pattern::Clouds => ("cloudy", CLOUDS_DISTANCE_MIN),
        };
        let squares = (0..3).map(|c| (self.base[c] - self.second[c]) * (self.base[c] - self.second[c]));
        let is_visible = squares.sum::<f64>() >= distance_min * distance_min && self.period_px >= PATTERN_PERIOD_MIN_PX;
        is_visible.then_some(name)
    }

    /// The colour at a pixel, 0 to 255. `across_px` is the length of a gradient from one colour to the other.
    pub(crate) fn colour_at(&self, [x, y]: [f64; 2], across_px: f64) -> [f64; 3] {
        let along = x * self.direction[0] + y * self.direction[1];
        let across = y * self.direction[0] - x * self.direction[1];
        let phase = |distance: f64| {
            let turns = distance / self.period_px;
            turns - turns.floor()
        };
        let share = match self.pattern {
            Pattern::Flat => 0.0,
            Pattern::Gradient => {
                // Mirrored at the ends, as a jump would look like the border of an object.
                let way = (along / across_px).abs() % 2.0;
                way.min(2.0 - way)
            }
            Pattern::Stripes => f64::from(u8::from(phase(along) < 0.5)),
            Pattern::Checks => f64::from(u8::from((phase(along) < 0.5) != (phase(across) < 0.5))),
            Pattern::Dots => {
                let (u, v) = (phase(along) - 0.5, phase(across) - 0.5);
                f64::from(u8::from(u * u + v * v < 0.09))
            }
            Pattern::Clouds => {
                let coarse = self.clouds(x / self.period_px, y / self.period_px);
                let fine = self.clouds(x / self.period_px * 3.0 + 71.0, y / self.period_px * 3.0);
                coarse * 0.7 + fine * 0.3
            }
        };
        std::array::from_fn(|c| self.base[c] + (self.second[c] - self.base[c]) * share)
    }

    /// Value noise: random values on a grid, smoothly interpolated.
    fn clouds(&self, x: f64, y: f64) -> f64 {
        let (column, row) = (x.floor(), y.floor());
        let smooth = |t: f64| t * t * (3.0 - 2.0 * t);
        let (u, v) = (smooth(x - column), smooth(y - row));
        let value = |dx: i64, dy: i64| {
            let place = (column as i64 + dx).wrapping_mul(0x1_0000_01B3) ^ (row as i64 + dy);
            (mix64(self.key ^ place as u64) >> 40) as f64 / (1u64 << 24) as f64
        };
        let top = value(0, 0) + (value(1, 0) - value(0, 0)) * u;
        let bottom = value(0, 1) + (value(1, 1) - value(0, 1)) * u;
        top + (bottom - top) * v
    }
}

fn draw_colour(stream: &mut RandomStream, unlike: &[[f64; 3]]) -> [f64; 3] {
    let mut colour = [0.0; 3];
    for _ in 0..12 {
        colour = std::array::from_fn(|_| stream.uniform(20.0, 235.0));
        let is_unlike = unlike.iter().all(|other| {
            let squares = (0..3).map(|c| (colour[c] - other[c]) * (colour[c] - other[c]));
            squares.sum::<f64>() >= COLOUR_DISTANCE_MIN * COLOUR_DISTANCE_MIN
        });
        if is_unlike {
            break;
        }
    }
    colour
}
