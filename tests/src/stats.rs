//! Pearson's chi-squared test of observed counts against expected shares.
//!
//! Small samples are the caller's business: the usual rule asks for an expected count of 5 or more in each class.

/// Outcome of [`chi_squared`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// The statistic.
    pub statistic: f64,
    /// Degrees of freedom: classes with a share, less one.
    pub freedom: usize,
    /// Probability of a statistic at least as large where the shares are right. 0 where a class without any share was
    /// observed: that cannot happen by chance.
    pub p_value: f64,
}

/// Tests counts against weights (any non-negative numbers; their sum is their whole). Both slices are equally long.
#[must_use]
pub fn chi_squared(observed: &[u64], weights: &[u64]) -> Test {
    let total = observed.iter().sum::<u64>() as f64;
    let whole = weights.iter().sum::<u64>() as f64;
    let classes = || observed.iter().zip(weights);
    let impossible = classes().any(|(count, weight)| *weight == 0 && *count > 0) || observed.len() != weights.len();
    let freedom = weights.iter().filter(|weight| **weight > 0).count().saturating_sub(1);
    if impossible {
        return Test { statistic: f64::INFINITY, freedom, p_value: 0.0 };
    }
    let statistic: f64 = classes()
        .filter(|(_, weight)| **weight > 0 && total > 0.0)
        .map(|(count, weight)| {
            let expected = total * *weight as f64 / whole;
            (*count as f64 - expected).powi(2) / expected
        })
        .sum();
    let p_value = if freedom == 0 { 1.0 } else { upper_gamma(freedom as f64 / 2.0, statistic / 2.0) };
    Test { statistic, freedom, p_value }
}

/// The regularised upper incomplete gamma function Q(a, x), a > 0, x >= 0 (DLMF 8.2.4): by the series of P below the
/// bend (DLMF 8.11.4), by the continued fraction of Q above it (DLMF 8.9.2, evaluated by Lentz's method).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 { 1.0 - scale * lower_series(a, x) } else { scale * upper_fraction(a, x) }
}

fn lower_series(a: f64, x: f64) -> f64 {
    let mut term = 1.0 / a;
    let mut sum = term;
    for n in 1..1000 {
        term *= x / (a + f64::from(n));
        sum += term;
        if term < sum * f64::EPSILON {
            break;
        }
    }
    sum
}

fn upper_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut value = d;
    for n in 1..1000 {
        let n = f64::from(n);
        let factor = -n * (n - a);
        b += 2.0;
        d = 1.0 / not_zero(factor * d + b, TINY);
        c = not_zero(b + factor / c, TINY);
        value *= d * c;
        if (d * c - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    value
}

fn not_zero(value: f64, tiny: f64) -> f64 {
    if value.abs() < tiny { tiny } else { value }
}

/// ln of the gamma function for half-integers, which is all that the test needs: by the recurrence from
/// gamma(1) = 1 and gamma(1/2) = sqrt(pi).
fn ln_gamma(a: f64) -> f64 {
    let mut at = if a.fract() == 0.0 { 1.0 } else { 0.5 };
    let mut value = if a.fract() == 0.0 { 0.0 } else { std::f64::consts::PI.ln() / 2.0 };
    while at < a {
        value += f64::ln(at);
        at += 1.0;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Critical values of the chi-squared distribution, as in the tables of any textbook.
    #[test]
    fn tail_probabilities_of_the_tables() {
        for (freedom, statistic, p) in [
            (1.0, 3.841, 0.05),
            (1.0, 6.635, 0.01),
            (1.0, 10.828, 0.001),
            (2.0, 5.991, 0.05),
            (2.0, 13.816, 0.001),
            (3.0, 7.815, 0.05),
            (5.0, 11.070, 0.05),
            (10.0, 18.307, 0.05),
            (10.0, 3.940, 0.95),
            (30.0, 43.773, 0.05),
            (100.0, 124.342, 0.05),
        ] {
            let got = upper_gamma(freedom / 2.0, statistic / 2.0);
            assert!((got - p).abs() < p * 2e-3, "freedom {freedom}, {statistic}: {got} for {p}");
        }
    }

    /// With two degrees of freedom the tail is exp(-x/2) exactly.
    #[test]
    fn two_degrees_of_freedom_are_an_exponential() {
        for x in [0.0, 0.1, 1.0, 2.0, 3.9, 4.1, 10.0, 60.0] {
            let got = upper_gamma(1.0, x / 2.0);
            assert!((got - f64::exp(-x / 2.0)).abs() < 1e-12, "{x}: {got}");
        }
    }

    #[test]
    fn right_shares_pass_and_wrong_ones_fail() {
        assert_eq!(chi_squared(&[200, 800], &[20, 80]), Test { statistic: 0.0, freedom: 1, p_value: 1.0 });
        assert!(chi_squared(&[219, 781], &[20, 80]).p_value > 0.1);
        assert!(chi_squared(&[260, 740], &[20, 80]).p_value < 0.001);
        assert!(chi_squared(&[500, 500], &[20, 80]).p_value < 1e-12);
    }

    #[test]
    fn a_destination_of_weight_zero_may_get_nothing() {
        assert_eq!(chi_squared(&[0, 1000], &[0, 100]).p_value, 1.0);
        assert_eq!(chi_squared(&[1, 999], &[0, 100]).p_value, 0.0);
        assert_eq!(chi_squared(&[0, 200, 800], &[0, 20, 80]).freedom, 1);
    }
}
