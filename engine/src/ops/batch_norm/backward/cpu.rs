//! The backward pass of a batch norm on the CPU.
use super::{Backward, DerivativeSource};
use crate::cpu::stored::Stored;
use crate::ops::batch_norm::channels::row;
use crate::ops::batch_norm::cpu::{self as kernel, DerivativeOperand};
use crate::ops::batch_norm::moments::sum_over_ranks;
use crate::{Activation, Element, Result, Tensor};

impl Backward<'_> {
    pub(super) fn on_cpu<T: Stored>(&self, grad: Tensor, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        let (x, saved) = (self.x.read::<T>()?, self.channels.saved.read::<f64>()?);
        let c = saved.len() / 4;
        let [mean, scale, shift] = [0, 2, 3].map(|k| row::<T::Compute>(&saved, k));
        let (mask, residual) = match self.derivative {
            DerivativeSource::Input => (None, None),
            DerivativeSource::Mask(mask) => (Some(mask.read::<u8>()?), None),
            DerivativeSource::Residual(residual) => (None, Some(residual.read::<T>()?)),
        };
        let derivative = match (&mask, &residual) {
            (Some(mask), _) => DerivativeOperand::Mask(&mask[..]),
            (None, Some(r)) => DerivativeOperand::Residual(&r[..]),
            (None, None) => DerivativeOperand::Input,
        };
        let activation = self.activation;
        let pass = kernel::BatchNormBackward { x: &x, scale: &scale, shift: &shift, activation, derivative };

        // d is the gradient of the activation's input, and of the residual; dy without an activation. It is not stored where it is cheap
        // to recompute from x.
        let is_identity = activation == Activation::Identity;
        let by_input = matches!(derivative, DerivativeOperand::Input);
        let recompute = is_identity || (by_input && activation != Activation::Silu);
        let (d, (own_sums, own_dot_sums)) = if recompute {
            let sums = pass.sums(&grad.read::<T>()?, &mean);
            (grad, sums)
        } else {
            in_place::<T, _>(grad, |dy, d| pass.gradient_and_sums(dy, &mean, d))?
        };

        // With the batch's statistics, dx depends on the sums of d and of d * (x - mean).
        let [sums, dot_sums] = match self.channels.group().filter(|_| wanted[0]) {
            Some(group) => sum_over_ranks(&**group, [&own_sums, &own_dot_sums])?,
            None => [own_sums.clone(), own_dot_sums.clone()],
        };
        let [mean, inv_std, g] = [0, 1, 2].map(|k| &saved[k * c..][..c]);
        let count = self.channels.count(self.x)?;
        let through = |j: usize| count.map_or(0.0, |n| -g[j] * inv_std[j].powi(2) * dot_sums[j] / n);
        let offset = |j: usize| count.map_or(0.0, |n| -g[j] * sums[j] / n - through(j) * mean[j]);
        let [k1, k2, k3] = [from_f64::<T::Compute>(c, |j| g[j]), from_f64(c, through), from_f64(c, offset)];
        let k = [&k1[..], &k2[..], &k3[..]];
        let vector = |wanted: bool, f: &dyn Fn(usize) -> f64| {
            let gradient = wanted.then(|| Tensor::from_vec(from_f64::<T::Compute>(c, f), [c])).transpose()?;
            gradient.map(|gradient| gradient.to_dtype(self.parameter_dtype)).transpose()
        };
        let weight = vector(wanted[1], &|j| own_dot_sums[j] * inv_std[j])?;
        let bias = vector(wanted[2], &|j| own_sums[j])?;
        let residual = wanted[3].then(|| d.clone());
        let dx = wanted[0].then(|| {
            let (dx, ()) = in_place::<T, _>(d, |d, dx| match d {
                _ if recompute => pass.input_gradient(d, k, dx),
                Some(d) => kernel::combine::<T>(&x, d, k, dx),
                None => kernel::combine_in_place::<T>(&x, k, dx),
            })?;
            Ok(dx)
        });
        Ok([dx.transpose()?, weight, bias, residual])
    }
}

/// Calls `f(dy, out)`: in place on `grad`, with `dy` absent, if it has no other owner, else with a new `out`. Returns out and f's result.
fn in_place<T: Element, R>(grad: Tensor, f: impl FnOnce(Option<&[T]>, &mut [T]) -> R) -> Result<(Tensor, R)> {
    if grad.is_sole_owner() {
        let result = f(None, &mut grad.write::<T>()?);
        return Ok((grad, result));
    }
    let dy = grad.read::<T>()?;
    let mut result = None;
    let out = Tensor::build(*grad.shape(), |out: &mut [T]| result = Some(f(Some(&dy), out)))?;
    Ok((out, result.expect("build fills the tensor")))
}

fn from_f64<T: Element>(c: usize, f: impl Fn(usize) -> f64) -> Vec<T> {
    (0..c).map(|j| T::from_f64(f(j))).collect()
}
