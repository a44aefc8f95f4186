//! Random samples from a stream of uniform numbers.
use fornax_engine::random::RngStream;
use std::f64::consts::TAU;

/// Source of random numbers: uniform numbers, and samples that are computed from them.
pub trait RandomSource {
    /// Uniform number in [0, 1).
    fn uniform(&mut self) -> f64;

    /// Uniform number between `low` and `high`: `low + (high - low) * u`.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer from `low` to `high`, both included.
    fn integer(&mut self, low: usize, high: usize) -> usize {
        let count = (high - low + 1) as f64;
        low + ((self.uniform() * count) as usize).min(high - low)
    }

    /// True with probability `p`.
    fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal sample, by the Box-Muller transform of two uniform numbers.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
    }

    /// Logarithm of a sample of the gamma distribution with scale 1, by the rejection method of Marsaglia and Tsang (2000). For a shape
    /// below 1 it is the sample for `shape + 1`, times `u^(1 / shape)`. The logarithm is finite where that power underflows.
    fn ln_gamma_sample(&mut self, shape: f64) -> f64 {
        let boosted = if shape < 1.0 { shape + 1.0 } else { shape };
        let d = boosted - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        let ln_sample = loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.uniform();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                break (d * v).ln();
            }
        };
        if shape < 1.0 { ln_sample + (1.0 - self.uniform()).ln() / shape } else { ln_sample }
    }

    /// Sample of the beta distribution with both parameters `alpha`: x / (x + y) of two gamma samples.
    fn beta(&mut self, alpha: f64) -> f64 {
        let (x, y) = (self.ln_gamma_sample(alpha), self.ln_gamma_sample(alpha));
        1.0 / (1.0 + (y - x).exp())
    }

    /// Sample of the Dirichlet distribution with `n` parameters `alpha`: gamma samples divided by their sum.
    fn dirichlet(&mut self, alpha: f64, n: usize) -> Vec<f64> {
        let ln_samples: Vec<f64> = (0..n).map(|_| self.ln_gamma_sample(alpha)).collect();
        let largest = ln_samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let samples: Vec<f64> = ln_samples.iter().map(|x| (x - largest).exp()).collect();
        let sum: f64 = samples.iter().sum();
        samples.iter().map(|x| x / sum).collect()
    }
}

impl RandomSource for RngStream {
    fn uniform(&mut self) -> f64 {
        f64::from(RngStream::uniform(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::RngKey;

    /// Mean and variance of 20,000 samples.
    fn moments(mut sample: impl FnMut(&mut RngStream) -> f64) -> [f64; 2] {
        let mut rng = RngStream::new(RngKey::new(3, "moments"), 0, 0);
        let samples: Vec<f64> = (0..20_000).map(|_| sample(&mut rng)).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        [mean, samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / samples.len() as f64]
    }

    #[test]
    fn normal_samples_have_mean_0_and_variance_1() {
        let [mean, variance] = moments(RandomSource::normal);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn beta_samples_have_the_variance_of_their_parameter() {
        for alpha in [0.01, 0.2, 0.8, 1.0, 4.0] {
            let [mean, variance] = moments(|rng| rng.beta(alpha));
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(
                (mean - 0.5).abs() < 0.02 && (variance - expected).abs() < 0.01,
                "{alpha}: {mean} {variance}"
            );
        }
    }

    #[test]
    fn dirichlet_samples_sum_to_1_and_have_equal_means() {
        for alpha in [0.1, 1.0] {
            let [mean, variance] = moments(|rng| {
                let weights = rng.dirichlet(alpha, 3);
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                weights[2]
            });
            let expected = (2.0 / 9.0) / (3.0 * alpha + 1.0);
            assert!(
                (mean - 1.0 / 3.0).abs() < 0.02 && (variance - expected).abs() < 0.01,
                "{mean} {variance}"
            );
        }
    }

    #[test]
    fn integers_cover_their_range_with_both_ends() {
        let mut rng = RngStream::new(RngKey::new(3, "integers"), 0, 0);
        let mut seen = [0; 4];
        (0..4000).for_each(|_| seen[rng.integer(2, 5) - 2] += 1);
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!(rng.integer(7, 7), 7);
    }
}
