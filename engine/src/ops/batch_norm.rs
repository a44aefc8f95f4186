//! Batch normalisation (Ioffe and Szegedy, 2015), fused with an activation and a residual sum.
use crate::cpu;
use crate::cpu::batch_norm::{self as kernel, Slope};
use crate::{Activation, Element, Error, Result, Tensor};

/// Options and parameters of a batch normalisation over the last axis. Tensors are `[c]`, of the input's dtype.
#[derive(Clone, Copy, Default)]
pub struct BatchNorm<'a> {
    /// Scale; ones when absent.
    pub weight: Option<&'a Tensor>,
    /// Offset; zeros when absent.
    pub bias: Option<&'a Tensor>,
    /// Running mean and variance: updated in training, used in evaluation.
    pub running: Option<(&'a Tensor, &'a Tensor)>,
    /// Normalise by the batch's own statistics and update the running ones.
    pub training: bool,
    /// Share of the batch in the running statistics: `running = (1 - momentum) * running + momentum * batch`.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
}

impl Tensor {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` over all axes but the last. In training, and in evaluation without
    /// running statistics, mean and biased variance are the batch's; running variance takes the unbiased one. f32, f64.
    pub fn batch_norm(&self, norm: &BatchNorm) -> Result<Tensor> {
        self.batch_norm_act(norm, Activation::Identity, None)
    }

    /// `activation(batch_norm(x) + residual)` as one operation of two passes forward and two backward.
    pub fn batch_norm_act(
        &self,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        const OP: &str = "batch_norm";
        if !cpu::activation::is_fused(activation) {
            let y = self.batch_norm_act(norm, Activation::Identity, residual)?;
            return y.activate(activation);
        }
        let c = check(self, norm, residual)?;
        let rows = self.numel() / c;
        let batch = norm.training || norm.running.is_none();
        dispatch_real!(OP, [("x", self)], T => {
            let x = self.read::<T>()?;
            let channel = |t: Option<&Tensor>, default: f64| match t {
                Some(t) => t.to_vec::<T>(),
                None => Ok(vec![<T as Element>::from_f64(default); c]),
            };
            let (mean, var) = match norm.running {
                Some((mean, var)) if !batch => {
                    let wide = |t: &Tensor| Ok::<_, Error>(t.read::<T>()?.iter().map(|v| v.to_f64()).collect::<Vec<f64>>());
                    (wide(mean)?, wide(var)?)
                }
                _ => kernel::statistics(&x, c),
            };
            if let (true, Some((running_mean, running_var))) = (norm.training, norm.running) {
                let unbiased = rows as f64 / (rows - 1) as f64;
                let update = |running: &Tensor, batch: &[f64], factor: f64| -> Result<()> {
                    for (r, b) in running.write::<T>()?.iter_mut().zip(batch) {
                        *r = <T as Element>::from_f64((1.0 - norm.momentum) * r.to_f64() + norm.momentum * b * factor);
                    }
                    Ok(())
                };
                update(running_mean, &mean, 1.0)?;
                update(running_var, &var, unbiased)?;
            }
            let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + norm.eps).sqrt()).collect();
            let (weight, bias) = (channel(norm.weight, 1.0)?, channel(norm.bias, 0.0)?);
            let narrow = |f: &dyn Fn(usize) -> f64| -> Vec<T> { (0..c).map(|j| <T as Element>::from_f64(f(j))).collect() };
            let scale = narrow(&|j| weight[j].to_f64() * inv_std[j]);
            let shift = narrow(&|j| bias[j].to_f64() - mean[j] * weight[j].to_f64() * inv_std[j]);
            let y = {
                let r = residual.map(|r| r.read::<T>()).transpose()?;
                Tensor::build(*self.shape(), |y: &mut [T]| kernel::apply(&x, &scale, &shift, r.as_deref(), activation, y))?
            };
            let mut inputs = vec![self];
            inputs.extend(norm.weight);
            inputs.extend(norm.bias);
            inputs.extend(residual);
            let (has_weight, has_bias) = (norm.weight.is_some(), norm.bias.is_some());
            Ok(y.clone().recorded(OP, &inputs, || {
                let x = self.detach();
                let residual = residual.map(Tensor::detach);
                // The output tells the slope of these, and is kept by the next operation anyway.
                let by_output = residual.is_some() && matches!(activation, Activation::Identity | Activation::Relu | Activation::Relu6);
                let kept = if by_output { Some(y) } else { residual.clone() };
                let has_residual = residual.is_some();
                move |grad: Tensor, needs: &[bool]| {
                    let (x_data, dy) = (x.read::<T>()?, grad.read::<T>()?);
                    let kept_data = kept.as_ref().map(|t| t.read::<T>()).transpose()?;
                    let slope = match &kept_data {
                        None => Slope::Input,
                        Some(y) if by_output => Slope::Output(&y[..]),
                        Some(r) => Slope::Residual(&r[..]),
                    };
                    let pass = kernel::Backward { x: &x_data, dy: &dy, scale: &scale, shift: &shift, activation, slope };
                    let narrow = |f: &dyn Fn(usize) -> f64| -> Vec<T> { (0..c).map(|j| <T as Element>::from_f64(f(j))).collect() };
                    let (sums, products) = pass.sums(&narrow(&|j| mean[j]));
                    // products: sum of d * (x - mean); with the batch's own statistics both sums flow back into dx.
                    let n = rows as f64;
                    let g = |j: usize| weight[j].to_f64() * inv_std[j];
                    let slope_x = |j: usize| if batch { -g(j) * inv_std[j] * inv_std[j] * products[j] / n } else { 0.0 };
                    let k1 = narrow(&g);
                    let k2 = narrow(&slope_x);
                    let k3 = narrow(&|j| if batch { -g(j) * sums[j] / n - slope_x(j) * mean[j] } else { 0.0 });
                    let mut needs = needs.iter().copied();
                    let mut need = |present: bool| present && needs.next().unwrap_or(false);
                    let (want_x, want_weight, want_bias, want_residual) = (need(true), need(has_weight), need(has_bias), need(has_residual));
                    let empty = |wanted: bool| wanted.then(|| Tensor::build(*x.shape(), |_: &mut [T]| ())).transpose();
                    let (dx, dr) = (empty(want_x)?, empty(want_residual)?);
                    {
                        let mut dx = dx.as_ref().map(|t| t.write::<T>()).transpose()?;
                        let mut dr = dr.as_ref().map(|t| t.write::<T>()).transpose()?;
                        pass.apply(&k1, &k2, &k3, dx.as_deref_mut(), dr.as_deref_mut());
                    }
                    let vector = |wanted: bool, f: &dyn Fn(usize) -> f64| wanted.then(|| Tensor::from_vec(narrow(f), [c])).transpose();
                    let mut grads = vec![dx];
                    if has_weight {
                        grads.push(vector(want_weight, &|j| products[j] * inv_std[j])?);
                    }
                    if has_bias {
                        grads.push(vector(want_bias, &|j| sums[j])?);
                    }
                    if has_residual {
                        grads.push(dr);
                    }
                    Ok(grads)
                }
            }))
        })
    }
}

/// Checks the operands; the number of channels.
fn check(x: &Tensor, norm: &BatchNorm, residual: Option<&Tensor>) -> Result<usize> {
    let mut operands = vec![("x", x)];
    operands.extend(norm.weight.map(|t| ("weight", t)));
    operands.extend(norm.bias.map(|t| ("bias", t)));
    operands.extend(norm.running.iter().flat_map(|(m, v)| [("running_mean", *m), ("running_var", *v)]));
    operands.extend(residual.map(|t| ("residual", t)));
    super::same_dtype("batch_norm", &operands)?;
    let c = x.dims().last().copied().unwrap_or_default();
    if x.rank() < 2 || c == 0 || x.numel() == 0 {
        return Err(Error::shape("batch_norm", &operands, "x must be [..., c] with at least one row"));
    }
    let vectors = operands.iter().filter(|(name, _)| !matches!(*name, "x" | "residual"));
    if vectors.into_iter().any(|(_, t)| t.dims() != [c]) || residual.is_some_and(|r| r.shape() != x.shape()) {
        return Err(Error::shape(
            "batch_norm",
            &operands,
            format!("parameters and buffers must be [{c}], the residual of x's shape"),
        ));
    }
    if norm.training && x.numel() == c {
        return Err(Error::shape(
            "batch_norm",
            &operands,
            "training needs more than one value a channel; use a larger batch",
        ));
    }
    Ok(c)
}
