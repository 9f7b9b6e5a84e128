//! Outlines of the synthetic shapes, and the pixels they cover.
//!
//! Only sums, products, quotients and square roots decide about pixels: these are exact on every machine by IEEE 754,
//! unlike the C library's sine, and a committed data set must be reproducible everywhere.

use sam_image::Mask;

use crate::random::RandomStream;

/// The kinds of shapes, which are the classes of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShapeKind {
    /// An ellipse of any orientation.
    Ellipse,
    /// A polygon with 3 to 7 corners, not always convex.
    Polygon,
    /// A star with 4 to 7 rays.
    Star,
    /// A smooth irregular outline.
    Blob,
    /// An ellipse with a transparent hole.
    Ring,
    /// A thin curved line.
    Stroke,
}

impl ShapeKind {
    /// All kinds, in the order of their class indices.
    pub const ALL: [Self; 6] = [Self::Ellipse, Self::Polygon, Self::Star, Self::Blob, Self::Ring, Self::Stroke];

    /// The name of the class.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ellipse => "ellipse",
            Self::Polygon => "polygon",
            Self::Star => "star",
            Self::Blob => "blob",
            Self::Ring => "ring",
            Self::Stroke => "stroke",
        }
    }

    /// The index of the class.
    #[must_use]
    pub fn class(self) -> usize {
        self as usize
    }
}

/// An outline in continuous pixels `[x, y]`.
#[derive(Debug, Clone)]
pub(crate) enum Outline {
    Ellipse(Ellipse),
    Ring { outer: Ellipse, hole: Ellipse },
    Polygon(Vec<[f64; 2]>),
    Stroke { path: Vec<[f64; 2]>, half_width_px: f64 },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ellipse {
    centre: [f64; 2],
    /// Unit vector of the first axis.
    axis: [f64; 2],
    radii_px: [f64; 2],
}

impl Ellipse {
    fn covers(&self, [x, y]: [f64; 2]) -> bool {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let along = (dx * self.axis[0] + dy * self.axis[1]) / self.radii_px[0];
        let across = (dy * self.axis[0] - dx * self.axis[1]) / self.radii_px[1];
        along * along + across * across <= 1.0
    }
}

impl Outline {
    /// Samples an outline of a kind around a centre, reaching about `radius_px`.
    pub(crate) fn draw(kind: ShapeKind, centre: [f64; 2], radius_px: f64, stream: &mut RandomStream) -> Self {
        match kind {
            ShapeKind::Ellipse => Self::Ellipse(draw_ellipse(centre, radius_px, 0.55, stream)),
            ShapeKind::Ring => {
                let outer = draw_ellipse(centre, radius_px, 0.75, stream);
                let share = stream.uniform(0.45, 0.7);
                let radii_px = outer.radii_px.map(|radius| radius * share);
                Self::Ring { hole: Ellipse { radii_px, ..outer }, outer }
            }
            ShapeKind::Polygon => {
                let n_corners = 3 + stream.index(5);
                Self::Polygon(draw_corners(centre, radius_px, n_corners, 0.6, stream))
            }
            ShapeKind::Star => {
                let n_rays = 4 + stream.index(4);
                let waist = stream.uniform(0.4, 0.6);
                let turn = stream.unit();
                let n_corners = 2 * n_rays;
                let corner = |i: usize| {
                    let radius = radius_px * if i.is_multiple_of(2) { 1.0 } else { waist };
                    around(centre, turn + i as f64 / n_corners as f64, radius)
                };
                Self::Polygon((0..n_corners).map(corner).collect())
            }
            ShapeKind::Blob => {
                let n_corners = 6 + stream.index(5);
                let corners = draw_corners(centre, radius_px * 1.1, n_corners, 0.5, stream);
                Self::Polygon(cut_corners(&cut_corners(&cut_corners(&corners, true), true), true))
            }
            ShapeKind::Stroke => Self::draw_stroke(centre, radius_px, radius_px / 24.0, stream),
        }
    }

    /// Samples a bent line through about `centre`, `radius_px` to each side.
    pub(crate) fn draw_stroke(centre: [f64; 2], radius_px: f64, half_width_px: f64, stream: &mut RandomStream) -> Self {
        let turn = stream.unit();
        let n_points = 3 + stream.index(3);
        let across = around([0.0; 2], turn + 0.25, 1.0);
        let path: Vec<[f64; 2]> = (0..n_points)
            .map(|i| {
                let along = radius_px * (2.0 * i as f64 / (n_points - 1) as f64 - 1.0);
                let bend = stream.uniform(-0.35, 0.35) * radius_px;
                let [x, y] = around(centre, turn, along);
                [x + across[0] * bend, y + across[1] * bend]
            })
            .collect();
        Self::Stroke { path: cut_corners(&cut_corners(&path, false), false), half_width_px }
    }

    /// Rasterises the outline: the pixels whose centres are inside.
    pub(crate) fn cover(&self, size_hw: [usize; 2]) -> Mask {
        let [x0, y0, x1, y1] = self.bounds_px();
        let clip = |value: f64, size: usize| value.clamp(0.0, size as f64) as usize;
        let columns = clip(x0.floor(), size_hw[1])..clip(x1.ceil(), size_hw[1]);
        let rows = clip(y0.floor(), size_hw[0])..clip(y1.ceil(), size_hw[0]);
        let mut mask = Mask::empty(size_hw);
        for row in rows {
            for column in columns.clone() {
                let centre = [column as f64 + 0.5, row as f64 + 0.5];
                mask.pixels_mut()[row * size_hw[1] + column] = self.covers(centre);
            }
        }
        mask
    }

    fn covers(&self, point: [f64; 2]) -> bool {
        match self {
            Self::Ellipse(ellipse) => ellipse.covers(point),
            Self::Ring { outer, hole } => outer.covers(point) && !hole.covers(point),
            Self::Polygon(corners) => is_inside(corners, point),
            Self::Stroke { path, half_width_px } => {
                path.windows(2).any(|ends| distance_squared(point, ends[0], ends[1]) <= half_width_px * half_width_px)
            }
        }
    }

    fn bounds_px(&self) -> [f64; 4] {
        let (points, margin): (&[[f64; 2]], f64) = match self {
            Self::Ellipse(ellipse) | Self::Ring { outer: ellipse, .. } => {
                (std::slice::from_ref(&ellipse.centre), ellipse.radii_px[0].max(ellipse.radii_px[1]))
            }
            Self::Polygon(corners) => (corners, 0.0),
            Self::Stroke { path, half_width_px } => (path, *half_width_px),
        };
        let start = [f64::MAX, f64::MAX, f64::MIN, f64::MIN];
        points.iter().fold(start, |[x0, y0, x1, y1], &[x, y]| {
            [x0.min(x - margin), y0.min(y - margin), x1.max(x + margin), y1.max(y + margin)]
        })
    }
}

fn draw_ellipse(centre: [f64; 2], radius_px: f64, flatness_min: f64, stream: &mut RandomStream) -> Ellipse {
    Ellipse {
        centre,
        axis: around([0.0; 2], stream.unit(), 1.0),
        radii_px: [radius_px, radius_px * stream.uniform(flatness_min, 1.0)],
    }
}

/// Samples corners around a centre, evenly spaced with jitter, each at `share_min` to 1 of the radius.
fn draw_corners(
    centre: [f64; 2],
    radius_px: f64,
    n_corners: usize,
    share_min: f64,
    stream: &mut RandomStream,
) -> Vec<[f64; 2]> {
    let turn = stream.unit();
    (0..n_corners)
        .map(|i| {
            let play = stream.uniform(-0.3, 0.3);
            let radius = radius_px * stream.uniform(share_min, 1.0);
            around(centre, turn + (i as f64 + play) / n_corners as f64, radius)
        })
        .collect()
}

/// The point at this fraction of a full turn and this distance; sine and cosine by their series, see the module's
/// documentation.
pub(crate) fn around(centre: [f64; 2], turn: f64, radius_px: f64) -> [f64; 2] {
    let quarters = (turn - turn.floor()) * 4.0;
    let angle = (quarters - quarters.floor()) * std::f64::consts::FRAC_PI_2;
    let square = angle * angle;
    let sine = angle * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0 * (1.0 - square / 72.0))));
    let cosine = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0 * (1.0 - square / 56.0)));
    let [x, y] = match quarters as usize {
        0 => [cosine, sine],
        1 => [-sine, cosine],
        2 => [-cosine, -sine],
        _ => [sine, -cosine],
    };
    [centre[0] + x * radius_px, centre[1] + y * radius_px]
}

/// One round of Chaikin's corner cutting: each edge is reduced to its middle half.
fn cut_corners(path: &[[f64; 2]], is_closed: bool) -> Vec<[f64; 2]> {
    let n_edges = if is_closed { path.len() } else { path.len() - 1 };
    let between = |a: [f64; 2], b: [f64; 2], share: f64| [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share];
    let mut smooth = Vec::with_capacity(2 * n_edges + 2);
    if !is_closed {
        smooth.push(path[0]);
    }
    for i in 0..n_edges {
        let (a, b) = (path[i], path[(i + 1) % path.len()]);
        smooth.extend([between(a, b, 0.25), between(a, b, 0.75)]);
    }
    if !is_closed {
        smooth.push(path[path.len() - 1]);
    }
    smooth
}

/// Even-odd rule.
fn is_inside(corners: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let mut inside = false;
    for (i, &[xa, ya]) in corners.iter().enumerate() {
        let [xb, yb] = corners[(i + 1) % corners.len()];
        if (ya > y) != (yb > y) && x < xa + (xb - xa) * (y - ya) / (yb - ya) {
            inside = !inside;
        }
    }
    inside
}

fn distance_squared([x, y]: [f64; 2], [xa, ya]: [f64; 2], [xb, yb]: [f64; 2]) -> f64 {
    let (dx, dy) = (xb - xa, yb - ya);
    let length_squared = (dx * dx + dy * dy).max(1e-12);
    let along = (((x - xa) * dx + (y - ya) * dy) / length_squared).clamp(0.0, 1.0);
    let (ex, ey) = (x - xa - along * dx, y - ya - along * dy);
    ex * ex + ey * ey
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn the_series_are_sine_and_cosine() {
        for i in -50..150 {
            let turn = i as f64 / 97.0;
            let (sine, cosine) = (turn * std::f64::consts::TAU).sin_cos();
            let [x, y] = around([0.0; 2], turn, 1.0);
            assert!((x - cosine).abs() < 1e-3 && (y - sine).abs() < 1e-3);
        }
    }

    #[test]
    fn covers_have_the_areas_of_their_outlines() {
        let disc = Outline::Ellipse(Ellipse { centre: [50.0, 50.0], axis: [0.6, 0.8], radii_px: [40.0, 20.0] });
        let area = disc.cover([100, 100]).area_px() as f64;
        assert!((area - std::f64::consts::PI * 800.0).abs() < 15.0, "{area}");
        let square = Outline::Polygon(vec![[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]]);
        assert_eq!(square.cover([40, 40]).area_px(), 400);
        let line = Outline::Stroke { path: vec![[10.0, 20.5], [30.0, 20.5]], half_width_px: 1.2 };
        let area = line.cover([40, 40]).area_px();
        assert!((60..=72).contains(&area), "{area}");
    }

    #[test]
    fn every_kind_reaches_about_its_radius() {
        for (seed, kind) in (0..20).flat_map(|seed| ShapeKind::ALL.map(|kind| (seed, kind))) {
            let mut stream = RandomStream::new(seed, Purpose::Scene, &[]);
            let mask = Outline::draw(kind, [64.0, 64.0], 40.0, &mut stream).cover([128, 128]);
            let disc = std::f64::consts::PI * 1600.0;
            let share = mask.area_px() as f64 / disc;
            let least = if kind == ShapeKind::Stroke { 0.02 } else { 0.15 };
            assert!(share > least && share < 1.1, "{kind:?} {share}");
            let is_hollow = kind == ShapeKind::Ring;
            assert!(!(is_hollow && mask.get(64, 64)), "a ring must have a hole");
        }
    }
}
