//! Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) and AdaMuon (Si et al., 2025): the momentum of a
//! weight matrix is orthogonalised by a Newton-Schulz iteration. Other parameters (biases, norms, embeddings, depthwise convolutions) use
//! AdamW, with Nesterov momentum NAdamW.
//!
//! An update has two passes. The update rule computes the moments of all parameters and the weights of the parameters of AdamW; then
//! [`Orthogonalization::step`] moves the weight matrices. Both read learning rate, loss scale and overflow from device memory, so that an
//! update can be captured.
use super::Parameter;
use super::arguments::Arguments;
use super::terms::{RuleBuilder, WeightDecay, bias_correction, lerp};
use fornax_engine::fuse::NextState;
use fornax_engine::{DType, Device, Result, Tensor, UpdateState};

/// Coefficients `(a, b, c)` of the iterations, timm's preset `quintic`; further iterations repeat the last.
const COEFFICIENTS: [[f64; 3]; 5] = [
    [4.0848, -6.8946, 2.9270],
    [3.9505, -6.3029, 2.6377],
    [3.7418, -5.5913, 2.3037],
    [2.8769, -3.1427, 1.2046],
    [2.8366, -3.0525, 1.2012],
];

/// Shortest side of a weight matrix that is orthogonalised.
const MIN_SIDE: usize = 4;

/// Largest ratio of the sides of a weight matrix that is orthogonalised.
const MAX_ASPECT_RATIO: usize = 128;

/// Second pass of an update by Muon: orthogonalises the momentum of the weight matrices and moves the weights by it.
#[derive(Clone, Copy, Debug)]
pub struct Orthogonalization {
    steps: usize,
    eps: f64,
    safety_factor: f64,
    scale_eps: bool,
    /// AdaMuon's decay rate of the second moment of the orthogonalised momentum; `None` for Muon.
    adaptive: Option<f64>,
}

pub(super) fn muon(arguments: &mut Arguments) -> RuleBuilder {
    let (momentum, nesterov) = (arguments.number("momentum", 0.9), arguments.flag("nesterov", false));
    let ([beta1, beta2], eps) = (arguments.betas([0.9, 0.95]), arguments.number("eps", 1e-7));
    let is_adaptive = arguments.flag("adaptive", false);
    let fallback_lr_scale = arguments.number("fallback_lr_scale", 1.0);
    let orthogonalization = Orthogonalization {
        steps: arguments.number("ns_steps", 5.0) as usize,
        eps,
        safety_factor: arguments.number("safety_factor", 1.0),
        scale_eps: arguments.flag("scale_eps", false),
        adaptive: is_adaptive.then_some(beta2),
    };
    // Muon keeps the direction in place of the second moment, which only AdamW has; AdaMuon has both.
    let names = ["exp_avg", "exp_avg_sq", "direction"];
    let mut builder = RuleBuilder::new("muon", &names[..if is_adaptive { 3 } else { 2 }], move |f| {
        let (g, is_matrix) = (f.gradient(), f.param_scalar());
        let m = is_matrix.select(lerp(f.moment(0), g, momentum), lerp(f.moment(0), g, beta1));
        let v = lerp(f.moment(1), g * g, beta2);
        let direction = if nesterov { lerp(g, m, 1.0 - momentum) } else { m };
        let ahead = if nesterov { lerp(m, g, beta1) } else { m };
        let denominator = v.sqrt() / bias_correction(f, beta2).sqrt() + eps;
        let lr = fallback_lr_scale * f.lr();
        let fallback =
            f.weight() * (1.0 - lr * f.weight_decay()) - lr / bias_correction(f, beta1) * ahead / denominator;
        let decayed = WeightDecay::Decoupled.decayed_weight(f);
        let moments = match is_adaptive {
            false => vec![m, is_matrix.select(direction, v)],
            true => vec![m, is_matrix.select(f.moment(1), v), is_matrix.select(direction, 0.0)],
        };
        NextState {
            weight: is_matrix.select(decayed, fallback),
            moments,
            shared_scalars: vec![],
            param_scalar: Some(is_matrix),
        }
    });
    builder.state_spec.param_scalar = Some("use_muon");
    builder.orthogonalization = Some(orthogonalization);
    builder
}

/// True for a weight matrix that is orthogonalised, as in timm: linear and convolution weights with at least two input channels and
/// sides that are neither short nor very different. `dims` are those of a channels-last tensor.
pub fn is_orthogonalised(dims: &[usize]) -> bool {
    let (first, second) = match *dims {
        [out, _, _, channels] => (out, channels),
        [first, second, ..] => (first, second),
        _ => return false,
    };
    let [rows, columns] = matrix_shape(dims);
    let (short, long) = (rows.min(columns), rows.max(columns));
    first > 1 && second > 1 && short >= MIN_SIDE && long <= MAX_ASPECT_RATIO * short
}

/// The slices of the first axis as rows.
fn matrix_shape(dims: &[usize]) -> [usize; 2] {
    [dims[0], dims[1..].iter().product()]
}

impl Orthogonalization {
    /// Moves the weights of a parameter by its orthogonalised direction, unless the update was skipped. `moments` are the rule's.
    pub(super) fn step(
        &self,
        parameter: &Parameter,
        moments: &[&Tensor],
        state: &UpdateState,
        round_to: Option<DType>,
    ) -> Result<()> {
        let weight = parameter.tensor.detach();
        let [rows, columns] = matrix_shape(weight.dims());
        let direction = moments[moments.len() - 1].reshape([rows, columns])?;
        let mut update = self.orthogonalised(&direction)?.reshape(*weight.shape())?;
        let mut scale = 0.2 * (rows.max(columns) as f64).sqrt();
        if let Some(beta2) = self.adaptive {
            let squares = moments[1];
            let next = squares.mul_scalar(beta2)?.add(&update.square()?.mul_scalar(1.0 - beta2)?)?;
            update = update.div(&next.sqrt()?.affine(1.0, self.eps)?)?;
            update = update.div(&update.square()?.sum_all()?.sqrt()?.affine(1.0, self.eps)?)?;
            scale = 0.2 * (weight.numel() as f64).sqrt();
            squares.copy_from(&squares.add(&next.sub(squares)?.mul(&state.applied()?)?)?)?;
        }
        let lr = state.lr().mul(&state.applied()?)?.mul_scalar(parameter.lr_scale * scale)?;
        let moved = weight.sub(&update.mul(&lr)?)?;
        weight.copy_from(&match round_to {
            Some(dtype) => moved.to_dtype(dtype)?.to_dtype(DType::F32)?,
            None => moved,
        })
    }

    /// The nearest matrix with singular values near 1, by the Newton-Schulz iteration on bf16 matrices with f32 sums:
    /// `X = a X + (b A + c A A) X` with `A = X Xᵀ`.
    pub fn orthogonalised(&self, direction: &Tensor) -> Result<Tensor> {
        let is_tall = direction.dims()[0] > direction.dims()[1];
        let x = if is_tall { direction.transpose()? } else { direction.clone() };
        let (rows, columns) = (direction.dims()[0] as f64, direction.dims()[1] as f64);
        let x = rounded(&x)?;
        let norm = rounded(&rounded(&x.square()?.sum_all()?.sqrt()?)?.mul_scalar(self.safety_factor)?)?;
        let norm = match self.scale_eps {
            true => rounded(&norm.affine(1.0, self.eps * (columns / rows).sqrt())?)?,
            false => norm.clamp(self.eps, f64::INFINITY)?,
        };
        let mut x = rounded(&x.div(&norm)?)?;
        for step in 0..self.steps {
            let [a, b, c] = COEFFICIENTS[step.min(COEFFICIENTS.len() - 1)];
            let squared = rounded(&matmul(&x, &x, true)?)?;
            let polynomial =
                squared.mul_scalar(b)?.add(&matmul(&squared, &squared, false)?.mul_scalar(c)?)?;
            x = rounded(&x.mul_scalar(a)?.add(&matmul(&rounded(&polynomial)?, &x, false)?)?)?;
        }
        if is_tall { x.transpose() } else { Ok(x) }
    }
}

/// Rounds to bf16; the result is f32.
fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

/// Matmul of matrices that are exact in bf16, as f32. On a GPU in bf16, for its tensor cores.
fn matmul(a: &Tensor, b: &Tensor, transpose_b: bool) -> Result<Tensor> {
    match a.device() {
        Device::Cpu => a.matmul_transposed(b, false, transpose_b),
        _ => {
            let (a, b) = (a.to_dtype(DType::BF16)?, b.to_dtype(DType::BF16)?);
            a.matmul_transposed(&b, false, transpose_b)?.to_dtype(DType::F32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_linear_layers_and_convolutions_are_orthogonalised() {
        for dims in [&[64, 128][..], &[96, 4, 4, 3], &[32, 3, 3, 16], &[7, 1, 1, 5]] {
            assert!(is_orthogonalised(dims), "{dims:?}");
        }
        // Vectors, depthwise convolutions, position embeddings, short sides, extreme aspect ratios.
        for dims in [&[64][..], &[32, 3, 3, 1], &[1, 196, 768], &[3, 128], &[4, 2048]] {
            assert!(!is_orthogonalised(dims), "{dims:?}");
        }
    }

    #[test]
    fn singular_values_of_the_orthogonalised_matrix_are_near_1() -> Result<()> {
        let all =
            Orthogonalization { steps: 5, eps: 1e-7, safety_factor: 1.0, scale_eps: false, adaptive: None };
        for (rows, columns) in [(6, 9), (9, 6)] {
            let values: Vec<f32> =
                (0..rows * columns).map(|i| ((i * 7919 + 17) % 10_007) as f32 / 5003.5 - 1.0).collect();
            let x = all.orthogonalised(&Tensor::from_vec(values, [rows, columns])?)?;
            let gram = x.matmul_transposed(&x, rows > columns, rows <= columns)?.to_vec::<f32>()?;
            let side = rows.min(columns);
            for (i, value) in gram.iter().enumerate() {
                let expected = if i / side == i % side { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 0.35, "{rows}x{columns}: {value} at {i}");
            }
        }
        Ok(())
    }
}
