//! L-BFGS (Nocedal and Wright, "Numerical optimization", 2006, algorithm 7.5) with backtracking, for convex functions whose
//! value and gradient are computed together.
//!
//! By hand though burn-optim has an L-BFGS: that one holds variables and gradients in the tensors of a module, f32 here, and
//! the minimum under the weakest penalty is so flat that the last steps need variables in f64.

/// Number of stored pairs of steps and gradient changes.
const MEMORY: usize = 10;

/// Sufficient decrease (Armijo).
const DECREASE: f64 = 1e-4;

/// A step that is halved more often is lost in rounding.
const MAX_HALVINGS: usize = 30;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest absolute element of the gradient.
    pub(super) gradient: f64,
    /// Number of evaluations of the function.
    pub(super) n_evaluations: usize,
}

/// The point with the lowest value found from `start` on.
pub(super) fn minimise(
    start: Vec<f64>,
    limits: Limits,
    mut function: impl FnMut(&[f64]) -> (f64, Vec<f64>),
) -> Vec<f64> {
    let mut point = start;
    let (mut value, mut gradient) = function(&point);
    let mut n_evaluations = 1;
    let mut memory: Vec<Pair> = Vec::new();
    while n_evaluations < limits.n_evaluations && largest(&gradient) > limits.gradient {
        let mut direction = direction(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding has spoilt the stored pairs.
            memory.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = dot(&direction, &gradient);
        }
        let mut length = if memory.is_empty() { (1.0 / largest(&gradient)).min(1.0) } else { 1.0 };
        let mut found = None;
        for _ in 0..MAX_HALVINGS {
            let tried: Vec<f64> = point.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (tried_value, tried_gradient) = function(&tried);
            n_evaluations += 1;
            if tried_value <= value + DECREASE * length * slope {
                found = Some((tried, tried_value, tried_gradient));
                break;
            }
            length /= 2.0;
        }
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f64> = next.iter().zip(&point).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&step, &change);
        if curvature > 1e-12 * dot(&change, &change) {
            memory.push(Pair { step, change, curvature });
            if memory.len() > MEMORY {
                memory.remove(0);
            }
        }
        (point, value, gradient) = (next, next_value, next_gradient);
    }
    point
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Their scalar product.
    curvature: f64,
}

/// The descent direction, scaled by the estimated curvature.
fn direction(gradient: &[f64], memory: &[Pair]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let factor = dot(&pair.step, &direction) / pair.curvature;
        add(&mut direction, -factor, &pair.change);
        factors.push(factor);
    }
    if let Some(last) = memory.last() {
        let scale = last.curvature / dot(&last.change, &last.change);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, factor) in memory.iter().zip(factors.into_iter().rev()) {
        let correction = factor - dot(&pair.change, &direction) / pair.curvature;
        add(&mut direction, correction, &pair.step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * value);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stiff_quadratic_is_solved_in_a_few_steps() {
        // sum of s_i (x_i - i)^2 / 2 with scales from 1 to 10,000: plain descent takes tens of thousands of steps.
        let scales = [1.0, 10.0, 100.0, 1000.0, 10_000.0];
        let mut n_evaluations = 0;
        let function = |x: &[f64]| {
            n_evaluations += 1;
            let off: Vec<f64> = x.iter().enumerate().map(|(at, x)| x - at as f64).collect();
            let value = off.iter().zip(scales).map(|(off, scale)| scale * off * off / 2.0).sum();
            (value, off.iter().zip(scales).map(|(off, scale)| scale * off).collect())
        };
        let limits = Limits { gradient: 1e-8, n_evaluations: 1000 };
        let found = minimise(vec![5.0; 5], limits, function);
        for (at, found) in found.iter().enumerate() {
            assert!((found - at as f64).abs() < 1e-7, "{found}");
        }
        assert!(n_evaluations < 120, "{n_evaluations}");
    }
}
