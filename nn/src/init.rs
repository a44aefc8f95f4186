//! Parameter initialisation. Every random value is a function of the seed, the parameter's name and the element's index.

use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Result, Tensor};

/// Random number generator of the parameter `name`.
pub fn rng(seed: u64, name: &str) -> RngStream {
    RngStream::new(RngKey::new(seed, &format!("init/{name}")), 0, 0)
}

/// Normal distribution with mean 0 and standard deviation `std`: PyTorch's `normal_`.
pub fn normal(t: &Tensor, std: f64, rng: &mut RngStream) -> Result<()> {
    fill(t, || rng.normal() * std as f32)
}

/// Uniform distribution in `[-bound, bound)`: PyTorch's `uniform_`.
pub fn uniform(t: &Tensor, bound: f64, rng: &mut RngStream) -> Result<()> {
    fill(t, || (2.0 * rng.uniform() - 1.0) * bound as f32)
}

/// Normal distribution with standard deviation `std`, truncated to `[-2, 2]`. As in timm's `trunc_normal_`, the bounds are absolute.
pub fn trunc_normal(t: &Tensor, std: f64, rng: &mut RngStream) -> Result<()> {
    fill(t, || {
        loop {
            let v = rng.normal() * std as f32;
            if v.abs() <= 2.0 {
                return v;
            }
        }
    })
}

/// Kaiming normal for ReLU with `mode="fan_out"`, for a convolution weight `[out, kh, kw, in / groups]`: standard deviation
/// `sqrt(2 / (out * kh * kw))` (He et al., 2015). Used by timm's ResNets.
pub fn kaiming_normal_fan_out(t: &Tensor, rng: &mut RngStream) -> Result<()> {
    kaiming_normal_fan_out_grouped(t, 1, rng)
}

/// Kaiming normal over the fan out of one channel group, `out * kh * kw / groups`, as in TensorFlow. Used by timm's EfficientNets and
/// RegNets.
pub fn kaiming_normal_fan_out_grouped(t: &Tensor, groups: usize, rng: &mut RngStream) -> Result<()> {
    let fan_out = t.dims()[..t.rank() - 1].iter().product::<usize>() / groups;
    normal(t, (2.0 / fan_out as f64).sqrt(), rng)
}

/// PyTorch's default for weight and bias of linear layers: uniform in `±1 / sqrt(fan_in)`.
pub fn linear_default(t: &Tensor, fan_in: usize, rng: &mut RngStream) -> Result<()> {
    uniform(t, 1.0 / (fan_in as f64).sqrt(), rng)
}

/// Fills the tensor with `value`.
pub fn constant(t: &Tensor, value: f32) -> Result<()> {
    fill(t, || value)
}

fn fill(t: &Tensor, mut value: impl FnMut() -> f32) -> Result<()> {
    t.write::<f32>()?.iter_mut().for_each(|v| *v = value());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::{DType, Device};

    fn moments(t: &Tensor) -> (f64, f64, f64) {
        let v = t.to_vec::<f32>().expect("f32");
        let n = v.len() as f64;
        let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let var = v.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        (mean, var.sqrt(), v.iter().fold(0.0, |m, x| f64::from(x.abs()).max(m)))
    }

    #[test]
    fn initialisers_have_expected_moments() {
        let t = Tensor::zeros([64, 3, 3, 128], DType::F32, &Device::Cpu).expect("memory");
        let n = t.numel() as f64;
        let check = |name: &str, std: f64, max: f64, f: &dyn Fn(&mut RngStream)| {
            f(&mut rng(1, name));
            let (mean, got, largest) = moments(&t);
            assert!(mean.abs() < 5.0 * std / n.sqrt(), "{name}: mean {mean}");
            assert!((got / std - 1.0).abs() < 0.02, "{name}: std {got}, expected {std}");
            assert!(largest <= max, "{name}: {largest} past {max}");
        };
        let he = (2.0 / (64.0 * 9.0f64)).sqrt();
        check("kaiming", he, 7.0 * he, &|s| kaiming_normal_fan_out(&t, s).expect("f32"));
        let bound = 1.0 / 50f64.sqrt();
        check("linear", bound / 3f64.sqrt(), bound, &|s| linear_default(&t, 50, s).expect("f32"));
        // A standard normal cut at two standard deviations has the standard deviation 0.8796.
        check("trunc", 0.8796, 2.0, &|s| trunc_normal(&t, 1.0, s).expect("f32"));
    }

    #[test]
    fn random_values_depend_on_seed_and_name() {
        let sample = |seed, name| rng(seed, name).normal();
        assert_eq!(sample(1, "conv1.weight"), sample(1, "conv1.weight"));
        assert_ne!(sample(1, "conv1.weight"), sample(2, "conv1.weight"));
        assert_ne!(sample(1, "conv1.weight"), sample(1, "conv2.weight"));
    }
}
