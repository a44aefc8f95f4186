//! AdaHessian (Yao et al., "ADAHESSIAN: an adaptive second order optimizer for machine learning", AAAI 2021): Adam, with the square of
//! the Hessian's diagonal in the gradient's place in the second moment.
//!
//! The diagonal is Hutchinson's estimate `z * (H z)`, where z has elements of 1 and -1 at random: its mean over z is the diagonal.
//! `H z` is exact: the gradients are differentiated in turn, in the direction of z.
use super::Parameter;
use super::arguments::Arguments;
use super::terms::{Decay, Draft, correction, lerp, next};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Result, Tensor, gradients, no_grad};

/// Seed of the vectors z: the one that timm fixes, so that they are the same on every rank.
const SEED: u64 = 2_147_483_647;

/// What the rule keeps the estimate as.
pub(super) const DIAGONAL: &str = "hessian";

/// With decoupled weight decay. `hessian_power` 1 divides by the diagonal's root mean square, 0 by 1.
pub(super) fn adahessian(arguments: &mut Arguments) -> Draft {
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.999]), arguments.number("eps", 1e-8));
    let power = arguments.number("hessian_power", 1.0);
    if !(0.0..=1.0).contains(&power) {
        arguments.complain("hessian_power", format!("{power} is not in 0..=1"));
    }
    let curvature = Hutchinson {
        samples: count(arguments, "n_samples") as u32,
        every: count(arguments, "update_each"),
        average_kernels: arguments.flag("avg_conv_kernel", false),
    };
    let formula = Draft::new("adahessian", &["exp_avg", "exp_hessian_diag_sq", DIAGONAL], move |f| {
        let h = f.moment(2);
        let m = lerp(f.moment(0), f.gradient(), beta1);
        let v = lerp(f.moment(1), h * h, beta2);
        let denominator = (v / correction(f, beta2)).pow(power / 2.0) + eps;
        let step = f.lr() / correction(f, beta1) * m / denominator;
        next(Decay::Decoupled.weight(f) - step, [m, v, h])
    });
    Draft { curvature: Some(curvature), ..formula }
}

/// A number of things, 1 unless another is given.
fn count(arguments: &mut Arguments, name: &'static str) -> u64 {
    let count = arguments.number(name, 1.0);
    if count < 1.0 || count.fract() != 0.0 || count > f64::from(u32::MAX) {
        arguments.complain(name, format!("{count} is not a whole number of at least 1"));
        return 1;
    }
    count as u64
}

/// How the diagonal is estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hutchinson {
    /// Vectors that an estimate is the mean of.
    pub samples: u32,
    /// Updates that share an estimate.
    pub every: u64,
    /// Takes the mean of the absolute diagonal over each convolution's kernel: its height and width.
    pub average_kernels: bool,
}

impl Default for Hutchinson {
    fn default() -> Hutchinson {
        Hutchinson { samples: 1, every: 1, average_kernels: false }
    }
}

impl Hutchinson {
    /// True when the update after so many has an estimate of its own.
    pub fn is_due(&self, updates: u64) -> bool {
        updates.is_multiple_of(self.every)
    }

    /// Adds the gradients of `loss * upstream` to what the parameters have collected, and the estimate of the diagonal of its Hessian,
    /// divided by the upstream gradient again, to `diagonals`. `updates` are done so far.
    pub fn backward(
        &self,
        loss: &Tensor,
        upstream: &Tensor,
        parameters: &[Parameter],
        diagonals: &[Tensor],
        updates: u64,
    ) -> Result<()> {
        let variables: Vec<&Tensor> = parameters.iter().map(|p| &p.tensor).collect();
        let slopes = gradients(&[(loss, upstream)], &variables, true)?;
        for sample in 0..self.samples {
            let draw = updates * u64::from(self.samples) + u64::from(sample);
            let z: Vec<Tensor> =
                parameters.iter().map(|p| rademacher(&p.name, draw, &p.tensor)).collect::<Result<_>>()?;
            let keeps = sample + 1 < self.samples;
            let estimates = hessian_diagonal(&slopes, &variables, &z, keeps)?;
            for (diagonal, estimate) in diagonals.iter().zip(estimates) {
                let Some(estimate) = estimate else { continue };
                let share = estimate.mul_scalar(1.0 / f64::from(self.samples))?.div(upstream)?;
                diagonal.copy_from(&diagonal.add(&share)?)?;
            }
        }
        for (parameter, slope) in variables.iter().zip(slopes) {
            let Some(slope) = slope else { continue };
            let sum = match parameter.grad() {
                Some(held) => held.add(&slope.detach())?,
                None => slope.detach(),
            };
            parameter.set_grad(Some(sum));
        }
        Ok(())
    }

    /// What an update sees of a diagonal that is complete.
    pub fn finish(&self, diagonal: &Tensor) -> Result<()> {
        if !self.average_kernels || diagonal.rank() != 4 {
            return Ok(());
        }
        let mean = diagonal.abs()?.mean(&[1, 2], true)?;
        diagonal.copy_from(&mean.expand(*diagonal.shape())?)
    }
}

/// Elements of 1 and -1, by draw and name.
pub fn rademacher(name: &str, draw: u64, like: &Tensor) -> Result<Tensor> {
    let mut stream = RngStream::new(RngKey::new(SEED, name), 0, draw);
    let mut signs = Vec::with_capacity(like.numel());
    while signs.len() < like.numel() {
        let bits = stream.next_u32();
        signs.extend(
            (0..32.min(like.numel() - signs.len())).map(|i| if bits >> i & 1 == 1 { 1.0f32 } else { -1.0 }),
        );
    }
    Tensor::from_vec(signs, *like.shape())?.to_dtype(like.dtype())?.to_device(&like.device())
}

/// `z * (H z)` for each variable, where `slopes` are gradients that can be differentiated in turn; `None` where a variable has none.
/// Frees the slopes' graph unless it `keeps` it.
pub fn hessian_diagonal(
    slopes: &[Option<Tensor>],
    variables: &[&Tensor],
    z: &[Tensor],
    keeps: bool,
) -> Result<Vec<Option<Tensor>>> {
    // A slope that depends on no variable has no part in the Hessian.
    let outputs: Vec<(&Tensor, &Tensor)> = slopes
        .iter()
        .zip(z)
        .filter_map(|(slope, z)| Some((slope.as_ref()?, z)))
        .filter(|(slope, _)| slope.requires_grad())
        .collect();
    let products = gradients(&outputs, variables, keeps)?;
    no_grad(|| {
        let estimate =
            |(product, z): (Option<Tensor>, &Tensor)| product.map(|p| p.detach().mul(z)).transpose();
        products.into_iter().zip(z).map(estimate).collect()
    })
}
