//! Shared by the tests of all kernels: pseudo-random values, and comparison with f64.

/// Pseudo-random values between -1 and 1.
pub(crate) fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mut x = (i + 1).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
            x ^= x >> 15;
            x = x.wrapping_mul(0x2C1B_3C6D);
            x ^= x >> 12;
            (f64::from(x) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
        })
        .collect()
}

/// Asserts that every value is within `tolerance` times the largest expected magnitude.
pub(crate) fn check(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30f64, |largest, value| largest.max(value.abs()));
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= tolerance * largest, "{what} at {place}: {got} for {expected}, largest {largest}");
    }
}

/// The standard normal distribution function, by the series (small) and the continued fraction (large) of erfc.
pub(crate) fn normal(x: f64) -> f64 {
    let u = x.abs() / std::f64::consts::SQRT_2;
    let erfc = if u < 2.0 {
        let (mut term, mut sum) = (u, u);
        for n in 1..200 {
            term *= -u * u / f64::from(n);
            sum += term / (2.0 * f64::from(n) + 1.0);
        }
        1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..200).rev().fold(u, |below, n| u + f64::from(n) / 2.0 / below);
        (-u * u).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    if x >= 0.0 { 1.0 - 0.5 * erfc } else { 0.5 * erfc }
}

pub(crate) fn gelu(x: f64) -> f64 {
    x * normal(x)
}

pub(crate) fn gelu_slope(x: f64) -> f64 {
    normal(x) + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

pub(crate) fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}

pub(crate) fn quick_gelu_slope(x: f64) -> f64 {
    let above = 1.0 / (1.0 + (-1.702 * x).exp());
    above + 1.702 * x * above * (1.0 - above)
}

/// A matrix of f64 with the operations that definitions are written in.
pub(crate) struct Wide {
    pub(crate) values: Vec<f64>,
    columns: usize,
}

impl Wide {
    pub(crate) fn new(values: &[f32], columns: usize) -> Self {
        Self { values: values.iter().map(|&x| f64::from(x)).collect(), columns }
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    pub(crate) fn transposed(&self) -> Self {
        let (rows, columns) = (self.rows(), self.columns);
        let values = (0..rows * columns).map(|at| self.values[at % rows * columns + at / rows]).collect();
        Self { values, columns: rows }
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        let inner = self.columns;
        assert_eq!(inner, other.rows());
        let at = |i: usize, j: usize| {
            (0..inner).map(|l| self.values[i * inner + l] * other.values[l * other.columns + j]).sum()
        };
        let values = (0..self.rows() * other.columns).map(|p| at(p / other.columns, p % other.columns)).collect();
        Self { values, columns: other.columns }
    }

    pub(crate) fn plus(mut self, bias: &[f32]) -> Self {
        let columns = self.columns;
        self.values.iter_mut().enumerate().for_each(|(at, value)| *value += f64::from(bias[at % columns]));
        self
    }

    pub(crate) fn map(&self, function: impl Fn(f64) -> f64) -> Self {
        Self { values: self.values.iter().map(|&x| function(x)).collect(), columns: self.columns }
    }

    pub(crate) fn zip(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a * b).collect();
        Self { values, columns: self.columns }
    }

    pub(crate) fn sums(&self) -> Vec<f64> {
        (0..self.columns).map(|c| self.values.iter().skip(c).step_by(self.columns).sum()).collect()
    }
}
