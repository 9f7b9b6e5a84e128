//! Scalar functions that compilers turn into SIMD code, and run-time dispatch to the instruction set of the CPU.
//!
//! None of them branches or calls the system's math library, so a plain loop over them inside [`vectorised`] becomes
//! AVX-512, AVX2 or NEON code. Coefficients are minimax fits of ours; the stated errors are relative to the exact function
//! over the whole range.

/// Values that loops over rows handle together: rows are padded to a multiple of it, and sums have as many partial sums.
pub(crate) const LANES: usize = 16;

/// Runs `work` compiled for the widest vectors of this CPU. Everything it calls must be inlined into it.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The vector instructions that kernels run with on this CPU.
#[must_use]
pub fn instruction_set() -> &'static str {
    match format!("{:?}", pulp::Arch::new()).split('(').next() {
        // The levels of x86-64: 4 has AVX-512, 3 has AVX2 and FMA.
        Some("V4") => "AVX-512",
        Some("V3") => "AVX2",
        Some("Neon") => "NEON",
        _ => "none beyond the target's",
    }
}

/// The smallest argument whose exponential is a normal f32.
const EXP_MIN: f32 = -87.3;
/// The largest whose exponential is finite.
const EXP_MAX: f32 = 88.7;

/// `e^x` within 2e-7; 0 below -87.3 (minus infinity included), clamped to `e^88.7` above 88.7. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding it leaves the nearest integer in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    let clamped = x.clamp(EXP_MIN, EXP_MAX);
    let shifted = clamped.mul_add(LOG2_E, ROUNDING);
    let power = shifted - ROUNDING;
    let r = power.mul_add(-LN_2_LOW, power.mul_add(-LN_2_HIGH, clamped));
    let series = 0.001_381_453_f32
        .mul_add(r, 0.008_368_738)
        .mul_add(r, 0.041_668_39)
        .mul_add(r, 0.166_665_2)
        .mul_add(r, 0.499_999_93)
        .mul_add(r, 1.0)
        .mul_add(r, 1.0);
    let scaled = f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < EXP_MIN {
        0.0
    } else if x.is_nan() {
        x
    } else {
        scaled
    }
}

/// `log(1 + e)` for `e` from 0 to 1, within 1e-7.
#[inline(always)]
fn log1p_unit(e: f32) -> f32 {
    let series = 0.005_232_737_6_f32
        .mul_add(e, -0.029_505_576)
        .mul_add(e, 0.078_226_81)
        .mul_add(e, -0.136_633_52)
        .mul_add(e, 0.191_060_77)
        .mul_add(e, -0.248_430_08)
        .mul_add(e, 0.333_191)
        .mul_add(e, -0.499_994_94)
        .mul_add(e, 0.999_999_97);
    series * e
}

/// `1 / (1 + e^-x)`, `1 / (1 + e^x)` and `log(1 + e^-|x|)`, the common term of their logarithms.
#[inline(always)]
pub(crate) fn logistic(x: f32) -> (f32, f32, f32) {
    let e = exp(-x.abs());
    let larger = 1.0 / (1.0 + e);
    let smaller = e * larger;
    let log = log1p_unit(e);
    if x < 0.0 { (smaller, larger, log) } else { (larger, smaller, log) }
}

/// Steepness of the logistic function that stands for the normal distribution in QuickGELU.
pub const QUICK_GELU_STEEPNESS: f32 = 1.702;

/// The standard normal distribution function and its density, within 2e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
    const INV_SQRT_2_PI: f32 = 0.398_942_3;
    let u = x.abs() * INV_SQRT_2;
    let e = exp(-u * u);
    // erfc(u) = e^(-u^2) times a polynomial of t = 1 / (1 + 0.38 u).
    let t = 1.0 / 0.38_f32.mul_add(u, 1.0);
    let series = 0.058_420_64_f32
        .mul_add(t, -0.259_855_1)
        .mul_add(t, 0.359_328_5)
        .mul_add(t, -0.156_827_92)
        .mul_add(t, 0.227_211_56)
        .mul_add(t, 0.139_683_35)
        .mul_add(t, 0.203_684_57)
        .mul_add(t, 0.213_944_54)
        .mul_add(t, 0.214_409_83);
    let tail = 0.5 * e * series * t;
    (if x >= 0.0 { 1.0 - tail } else { tail }, INV_SQRT_2_PI * e)
}

/// Exact GELU (by erf, Hendrycks 2016, arXiv 1606.08415).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// Derivative of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    let (below, density) = normal(x);
    x.mul_add(density, below)
}

/// QuickGELU, `x sigma(1.702 x)` (`openai/CLIP`, `clip/model.py`).
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x * logistic(QUICK_GELU_STEEPNESS * x).0
}

/// Derivative of [`quick_gelu`].
#[inline(always)]
pub(crate) fn quick_gelu_slope(x: f32) -> f32 {
    let (above, below, _) = logistic(QUICK_GELU_STEEPNESS * x);
    above * (QUICK_GELU_STEEPNESS * x).mul_add(below, 1.0)
}

/// The larger of two; `a` where either is NaN.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The sum of all values, in lanes that are added in a fixed order, so that it is the same on every CPU.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    sum_of_lanes(lanes) + rest.iter().sum::<f32>()
}

/// The sum of squared distances from `centre`, in the order of [`sum`].
#[inline(always)]
pub(crate) fn sum_of_squares_around(values: &[f32], centre: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let distance = chunk[lane] - centre;
            lanes[lane] = distance.mul_add(distance, lanes[lane]);
        }
    }
    sum_of_lanes(lanes) + rest.iter().map(|value| (value - centre) * (value - centre)).sum::<f32>()
}

/// The sum of the lanes, by halving.
#[inline(always)]
pub(crate) fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    let mut sums = lanes;
    let mut n = LANES / 2;
    while n > 0 {
        for lane in 0..n {
            sums[lane] += sums[lane + n];
        }
        n /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn grid(from: f64, to: f64, n: usize) -> impl Iterator<Item = f32> {
        (0..=n).map(move |i| (from + (to - from) * i as f64 / n as f64) as f32)
    }

    /// Without a feature of pulp for each, the loops would run one value at a time.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_and_avx512_code_exists() {
        use pulp::x86::{Arch, V3, V4};
        let archs = [V4::try_new().map(Arch::V4), V3::try_new().map(Arch::V3)];
        for arch in archs.into_iter().flatten() {
            let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.01).collect();
            let exponentials = arch.dispatch(
                #[inline(always)]
                || values.iter().map(|&x| exp(x)).collect::<Vec<f32>>(),
            );
            let plain: Vec<f32> = values.iter().map(|&x| exp(x)).collect();
            assert_eq!(exponentials, plain);
        }
    }

    #[test]
    fn exponentials_are_within_two_units_of_the_last_place() {
        for x in grid(-87.0, 88.6, 200_000) {
            let exact = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - exact) / exact).abs() < 2e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_its_derivative_are_exact_to_rounding() {
        for x in grid(-12.0, 12.0, 100_000) {
            let exact = f64::from(x);
            let error = (f64::from(gelu(x)) - testing::gelu(exact)).abs();
            assert!(error < 3e-7 * exact.abs().max(1e-30), "gelu of {x}: {error}");
            assert!((f64::from(gelu_slope(x)) - testing::gelu_slope(exact)).abs() < 4e-7, "slope at {x}");
        }
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn quick_gelu_and_its_derivative_are_exact_to_rounding() {
        for x in grid(-30.0, 30.0, 100_000) {
            let exact = f64::from(x);
            let error = (f64::from(quick_gelu(x)) - testing::quick_gelu(exact)).abs();
            // The argument of the exponential, up to 51, is rounded.
            assert!(error < 6e-6 * testing::quick_gelu(exact).abs().max(1e-30), "quick GELU of {x}: {error}");
            let error = (f64::from(quick_gelu_slope(x)) - testing::quick_gelu_slope(exact)).abs();
            assert!(error < 1e-6, "slope at {x}: {error}");
        }
        assert!(quick_gelu(f32::NAN).is_nan());
    }

    #[test]
    fn the_logistic_function_is_accurate_on_both_sides() {
        for x in grid(-80.0, 80.0, 100_000) {
            let (p, q, log) = logistic(x);
            let exact = f64::from(x);
            for (got, x) in [(p, exact), (q, -exact)] {
                let exact = 1.0 / (1.0 + (-x).exp());
                assert!((f64::from(got) / exact - 1.0).abs() < 6e-7, "{x}");
            }
            assert!((f64::from(log) - (-exact.abs()).exp().ln_1p()).abs() < 2e-7, "{x}");
        }
        assert_eq!(logistic(f32::INFINITY), (1.0, 0.0, 0.0));
        assert!(logistic(f32::NAN).0.is_nan());
    }

    #[test]
    fn sums_have_a_fixed_order() {
        let values: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        assert_eq!(vectorised(|| sum(&values)), sum(&values));
    }
}
