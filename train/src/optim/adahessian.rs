//! AdaHessian (Yao et al., "ADAHESSIAN: an adaptive second order optimizer for machine learning", AAAI 2021): Adam whose second moment
//! averages the square of the Hessian's diagonal instead of the gradient's square.
//!
//! The diagonal is Hutchinson's estimate `z * (H z)` with a Rademacher vector `z` (elements 1 and -1 at random): its mean over `z` is the
//! diagonal. The Hessian-vector hvp `H z` is exact: the gradients are differentiated again, in the direction of `z`.
use super::Parameter;
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp, next_state};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Result, Tensor, gradients, no_grad};

/// Seed of the vectors `z`: timm's, so that they are equal on every rank.
const SEED: u64 = 2_147_483_647;

/// Name of the state that holds the estimate.
pub(super) const DIAGONAL: &str = "hessian";

/// AdaHessian with decoupled weight decay. `hessian_power` 1 divides by the diagonal's root mean square, 0 by 1.
pub(super) fn adahessian(arguments: &mut Arguments) -> RuleBuilder {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let power = arguments.number("hessian_power", 1.0);
    if !(0.0..=1.0).contains(&power) {
        arguments.reject("hessian_power", format!("{power} is not in 0..=1"));
    }
    let hessian = Hutchinson {
        n_samples: positive_integer(arguments, "n_samples") as u32,
        update_each: positive_integer(arguments, "update_each"),
        avg_conv_kernel: arguments.flag("avg_conv_kernel", false),
    };
    let formula = RuleBuilder::new("adahessian", &["exp_avg", "exp_hessian_diag_sq", DIAGONAL], move |f| {
        let h = f.moment(2);
        let m = lerp(f.moment(0), f.gradient(), beta1);
        let v = lerp(f.moment(1), h * h, beta2);
        let denominator = (v / bias_correction(f, beta2)).pow(power / 2.0) + eps;
        let step = f.lr() / bias_correction(f, beta1) * m / denominator;
        next_state(WeightDecay::Decoupled.decayed_weight(f) - step, [m, v, h])
    });
    RuleBuilder { hessian: Some(hessian), ..formula }
}

/// Reads a positive integer argument with default 1.
fn positive_integer(arguments: &mut Arguments, name: &'static str) -> u64 {
    let count = arguments.number(name, 1.0);
    if count < 1.0 || count.fract() != 0.0 || count > f64::from(u32::MAX) {
        arguments.reject(name, format!("{count} is not a whole number above 0"));
        return 1;
    }
    count as u64
}

/// Hutchinson's estimator of the Hessian's diagonal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hutchinson {
    /// Random vectors per estimate.
    pub n_samples: u32,
    /// Updates per estimate.
    pub update_each: u64,
    /// Averages the absolute diagonal over the height and width of each convolution kernel.
    pub avg_conv_kernel: bool,
}

impl Default for Hutchinson {
    fn default() -> Hutchinson {
        Hutchinson { n_samples: 1, update_each: 1, avg_conv_kernel: false }
    }
}

impl Hutchinson {
    /// True if the update after `updates` updates needs a new estimate.
    pub fn is_due(&self, updates: u64) -> bool {
        updates.is_multiple_of(self.update_each)
    }

    /// Adds the gradients of `loss * upstream` to the parameters' gradients, and the estimate of the diagonal of the loss's Hessian to
    /// `diagonals`. `updates` is the number of finished updates.
    pub fn backward(
        &self,
        loss: &Tensor,
        upstream: &Tensor,
        parameters: &[Parameter],
        diagonals: &[Tensor],
        updates: u64,
    ) -> Result<()> {
        let variables: Vec<&Tensor> = parameters.iter().map(|p| &p.tensor).collect();
        let grads = gradients(&[(loss, upstream)], &variables, true)?;
        for sample in 0..self.n_samples {
            let index = updates * u64::from(self.n_samples) + u64::from(sample);
            let z: Vec<Tensor> =
                parameters.iter().map(|p| rademacher(&p.name, index, &p.tensor)).collect::<Result<_>>()?;
            let retain_graph = sample + 1 < self.n_samples;
            let estimates = hessian_diagonal(&grads, &variables, &z, retain_graph)?;
            for (diagonal, estimate) in diagonals.iter().zip(estimates) {
                let Some(estimate) = estimate else { continue };
                let term = estimate.mul_scalar(1.0 / f64::from(self.n_samples))?.div(upstream)?;
                diagonal.copy_from(&diagonal.add(&term)?)?;
            }
        }
        for (parameter, grad) in variables.iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let sum = match parameter.grad() {
                Some(previous) => previous.add(&grad.detach())?,
                None => grad.detach(),
            };
            parameter.set_grad(Some(sum));
        }
        Ok(())
    }

    /// Averages a complete diagonal over convolution kernels, if enabled.
    pub fn average_over_kernels(&self, diagonal: &Tensor) -> Result<()> {
        if !self.avg_conv_kernel || diagonal.rank() != 4 {
            return Ok(());
        }
        let mean = diagonal.abs()?.mean(&[1, 2], true)?;
        diagonal.copy_from(&mean.expand(*diagonal.shape())?)
    }
}

/// Rademacher vector for parameter `name` and sample index `sample`: elements 1 and -1, in the shape, dtype and device of `like`.
pub fn rademacher(name: &str, sample: u64, like: &Tensor) -> Result<Tensor> {
    let mut stream = RngStream::new(RngKey::new(SEED, name), 0, sample);
    let mut signs = Vec::with_capacity(like.numel());
    while signs.len() < like.numel() {
        let bits = stream.next_u32();
        signs.extend(
            (0..32.min(like.numel() - signs.len())).map(|i| if bits >> i & 1 == 1 { 1.0f32 } else { -1.0 }),
        );
    }
    Tensor::from_vec(signs, *like.shape())?.to_dtype(like.dtype())?.to_device(&like.device())
}

/// `z * (H z)` for each variable, from gradients that were computed with `create_graph`; `None` for a variable without one. Frees the
/// gradients' graph unless `retain_graph`.
pub fn hessian_diagonal(
    grads: &[Option<Tensor>],
    variables: &[&Tensor],
    z: &[Tensor],
    retain_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    // A gradient that depends on no variable does not contribute to the Hessian.
    let outputs: Vec<(&Tensor, &Tensor)> = grads
        .iter()
        .zip(z)
        .filter_map(|(grad, z)| Some((grad.as_ref()?, z)))
        .filter(|(grad, _)| grad.requires_grad())
        .collect();
    let hvps = gradients(&outputs, variables, retain_graph)?;
    no_grad(|| {
        let estimate = |(hvp, z): (Option<Tensor>, &Tensor)| hvp.map(|p| p.detach().mul(z)).transpose();
        hvps.into_iter().zip(z).map(estimate).collect()
    })
}
