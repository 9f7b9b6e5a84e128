//! Circles and ellipses as polygons, which are rasterised like all others.

/// Corners of the polygon; at a radius of 500 px the error is below a fifth of a pixel.
const CORNERS: usize = 128;

/// A circle or ellipse, turned clockwise on the screen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ellipse {
    pub(crate) centre_xy_px: [f64; 2],
    pub(crate) radii_xy_px: [f64; 2],
    pub(crate) turned_rad: f64,
}

impl Ellipse {
    /// `[x, y, x, y, ..]`.
    pub(crate) fn corners_flat_px(self) -> Vec<f64> {
        let ([cx, cy], [rx, ry], turned) = (self.centre_xy_px, self.radii_xy_px, self.turned_rad);
        let corner = |at: usize| {
            let (down, across) = (at as f64 / CORNERS as f64 * std::f64::consts::TAU).sin_cos();
            let (x, y) = (rx * across, ry * down);
            [cx + x * turned.cos() - y * turned.sin(), cy + x * turned.sin() + y * turned.cos()]
        };
        (0..CORNERS).flat_map(corner).collect()
    }
}
