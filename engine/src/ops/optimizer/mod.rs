//! Optimizer updates of all parameters in one call. On a GPU an update is one launch that computes the gradient norm (with loss scaling or
//! clipping), one for each stage of the rule that computes sums, and one that unscales, clips, updates, maintains the EMA and rounds in
//! one pass.
mod cpu;
mod cuda;
mod state;

pub use state::{PendingUpdateStats, UpdateState, UpdateStats};

use crate::cuda::{Gpu, Result as CudaResult};
use crate::fuse::{ChunkLayout, GradClip, UpdateRule};
use crate::op::{check_device, launch};
use crate::{DType, Device, Error, Result, Tensor};
use cuda::ParameterUpdate;

/// Tensors and options of one parameter in an optimizer update. All tensors are f32 and have the shape of the weights, except where
/// stated.
#[derive(Clone, Debug)]
pub struct UpdateOperands<'a> {
    /// The weights. The update changes them, and their autocast cache (see [`Tensor::cached_cast`]).
    pub weights: &'a Tensor,
    /// Gradient of the weights: f32, f16 or bf16.
    pub gradient: &'a Tensor,
    /// Moments, which the update changes; as many as the rule has.
    pub moments: Vec<&'a Tensor>,
    /// Row and column means of a factored second moment, over the last and over the first axis; `moments[0]` is then empty.
    pub factors: Option<[&'a Tensor; 2]>,
    /// Scalar state of the rule for this parameter: f32 `[2]`; the value of update t is at index t % 2.
    pub param_scalar: Option<&'a Tensor>,
    /// EMA of the weights, which the update changes: `ema = decay * ema + (1 - decay) * weights`, also if it skips the weights.
    pub ema: Option<&'a Tensor>,
    /// Weight decay.
    pub weight_decay: f32,
    /// Factor of the learning rate.
    pub lr_scale: f32,
    /// Apply adaptive gradient clipping to this parameter.
    pub adaptive_clip: bool,
    /// Round the weights to this dtype, for training in pure half precision without f32 master weights.
    pub round_to: Option<DType>,
}

/// Updates parameters by a rule, with the learning rate and EMA decay in `state`. With loss scaling the update is skipped if a gradient is
/// not finite, except for the EMA, which gets the unchanged weights.
pub fn update(rule: &UpdateRule, parameters: &[UpdateOperands], state: &UpdateState) -> Result<()> {
    let copies: Vec<Option<Tensor>> = parameters.iter().map(|p| p.weights.autocast_cache()).collect();
    let mut operands = vec![("state", state.scalars())];
    for parameter in parameters {
        check(rule, parameter)?;
        operands.extend(parameter.tensors());
        operands.extend(parameter.param_scalar.map(|t| ("param_scalar", t)));
        operands.extend(parameter.factors.into_iter().flatten().map(|t| ("factor", t)));
    }
    match check_device(rule.name(), &operands)? {
        Device::Cpu => update_on_cpu(rule, parameters, &copies, state)?,
        Device::Cuda(_) => {
            launch(rule.name(), &operands, |gpu, _| update_on_gpu(gpu, rule, parameters, &copies, state))?
        }
    }
    parameters.iter().for_each(|p| p.weights.mark_autocast_cache_current());
    Ok(())
}

impl<'a> UpdateOperands<'a> {
    /// A parameter of a rule without state, without weight decay.
    pub fn new(weights: &'a Tensor, gradient: &'a Tensor) -> UpdateOperands<'a> {
        UpdateOperands {
            weights,
            gradient,
            moments: vec![],
            factors: None,
            param_scalar: None,
            ema: None,
            weight_decay: 0.0,
            lr_scale: 1.0,
            adaptive_clip: true,
            round_to: None,
        }
    }

    fn tensors(&self) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
        let moments = self.moments.clone().into_iter().map(|t| ("moment", t));
        let ema = self.ema.map(|t| ("ema", t));
        [("weights", self.weights), ("gradient", self.gradient)].into_iter().chain(moments).chain(ema)
    }

    fn layout(&self, rule: &UpdateRule, state: &UpdateState) -> ChunkLayout {
        let factoring = rule.state_spec().factored.filter(|_| self.factors.is_some());
        let factored = factoring.and_then(|factoring| factoring.axes(self.weights.dims()));
        let by_rows =
            rule.row_sums() > 0 || matches!(state.rule().clip, Some(GradClip::Agc(_))) || factored.is_some();
        ChunkLayout::new(self.weights.shape(), by_rows, factored)
    }
}

fn check(rule: &UpdateRule, parameter: &UpdateOperands) -> Result<()> {
    let op = rule.name();
    let operands: Vec<_> = parameter.tensors().collect();
    let accepts = |i: usize, dtype: DType| match i {
        // The gradient follows the weights.
        1 => matches!(dtype, DType::F32 | DType::F16 | DType::BF16),
        _ => dtype == DType::F32,
    };
    if operands.iter().enumerate().any(|(i, (_, t))| !accepts(i, t.dtype())) {
        return Err(Error::dtype(op, &operands, "f32, and a gradient of f32, f16 or bf16"));
    }
    // Weights and gradient come first, then the moments; the first moment of a factored parameter is empty.
    let absent = |i: usize| i == 2 && parameter.factors.is_some();
    let other = |t: &Tensor| t.shape() != parameter.weights.shape();
    if operands.iter().enumerate().any(|(i, (_, t))| !absent(i) && other(t)) {
        return Err(Error::shape(
            op,
            &operands,
            "gradient, moments and EMA must have the shape of the weights",
        ));
    }
    let moments = rule.state_spec().moments.len();
    if parameter.moments.len() != moments {
        let why = format!("the rule needs {moments} moments, not {}", parameter.moments.len());
        return Err(Error::value(op, &operands, why));
    }
    let is_f32_pair = |t: &Tensor| t.dtype() == DType::F32 && t.dims() == [2];
    if parameter.param_scalar.is_some() != rule.state_spec().param_scalar.is_some()
        || !parameter.param_scalar.is_none_or(is_f32_pair)
    {
        return Err(Error::value(
            op,
            &operands,
            "param_scalar must be f32 [2] if the rule has one, else absent".to_string(),
        ));
    }
    if let Some([rows, columns]) = parameter.factors {
        let axes = rule.state_spec().factored.and_then(|factoring| factoring.axes(parameter.weights.dims()));
        let lengths = axes.map(|[a, b, c]| (a * b, b * c));
        let f32s = rows.dtype() == DType::F32 && columns.dtype() == DType::F32;
        if lengths != Some((rows.numel(), columns.numel())) || !f32s {
            let why =
                "the factors of the second moment must be f32, means over the last and over the first axis";
            return Err(Error::value(op, &operands, why));
        }
    }
    Ok(())
}

fn update_on_gpu(
    gpu: &std::sync::Arc<Gpu>,
    rule: &UpdateRule,
    parameters: &[UpdateOperands],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> CudaResult<()> {
    let views: Vec<Vec<_>> =
        parameters.iter().map(|p| p.tensors().map(|(_, t)| t.device_view()).collect()).collect();
    let copy_views: Vec<_> = copies.iter().map(|copy| copy.as_ref().map(Tensor::device_view)).collect();
    let scalar_views: Vec<_> = parameters.iter().map(|p| p.param_scalar.map(Tensor::device_view)).collect();
    let factor_views: Vec<_> =
        parameters.iter().map(|p| p.factors.map(|factors| factors.map(Tensor::device_view))).collect();
    let tables: Vec<ParameterUpdate> = parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| {
            let slice = |k: usize| views[i][k].slice();
            let moments = rule.state_spec().moments.len();
            ParameterUpdate {
                weights: slice(0),
                gradient: slice(1),
                moments: (2..2 + moments).map(slice).collect(),
                ema: parameter.ema.map(|_| slice(2 + moments)),
                low_precision: copy_views[i].as_ref().map(|copy| copy.slice()),
                param_scalar: scalar_views[i].as_ref().map(|scalar| scalar.slice()),
                factors: factor_views[i].as_ref().map(|[a, b]| [a.slice(), b.slice()]),
                weight_decay: parameter.weight_decay,
                lr_scale: parameter.lr_scale,
                adaptive_clip: parameter.adaptive_clip,
                round_to: parameter.round_to,
                layout: parameter.layout(rule, state),
            }
        })
        .collect();
    parameters.iter().flat_map(|p| p.tensors().skip(2)).for_each(|(_, t)| t.bump_version());
    parameters.iter().for_each(|p| p.weights.bump_version());
    let (scalars, updates) = (state.scalars().device_view(), state.updates().device_view());
    let ticket = state.ticket().device_view();
    let device_state =
        cuda::OptimizerState { scalars: scalars.slice(), step: updates.slice(), ticket: ticket.slice() };
    cuda::update(gpu, rule, &tables, state.rule(), &device_state)
}

fn update_on_cpu(
    rule: &UpdateRule,
    parameters: &[UpdateOperands],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> Result<()> {
    use cpu::{LowPrecisionCopy, OptimizerParameter};
    let gradients = parameters.iter().map(|p| p.gradient.to_dtype(DType::F32)).collect::<Result<Vec<_>>>()?;
    let gradients = gradients.iter().map(Tensor::read::<f32>).collect::<Result<Vec<_>>>()?;
    let mut weights = parameters.iter().map(|p| p.weights.write::<f32>()).collect::<Result<Vec<_>>>()?;
    let mut moments = vec![];
    let mut emas = vec![];
    let mut scalar = vec![];
    let mut factors = vec![];
    let (mut f16s, mut bf16s) = (vec![], vec![]);
    for (parameter, copy) in parameters.iter().zip(copies) {
        moments.push(parameter.moments.iter().map(|t| t.write::<f32>()).collect::<Result<Vec<_>>>()?);
        emas.push(parameter.ema.map(|t| t.write::<f32>()).transpose()?);
        scalar.push(parameter.param_scalar.map(|t| t.write::<f32>()).transpose()?);
        factors.push(match parameter.factors {
            Some([rows, columns]) => Some([rows.write::<f32>()?, columns.write::<f32>()?]),
            None => None,
        });
        let of = |dtype: DType| copy.as_ref().filter(|copy| copy.dtype() == dtype);
        f16s.push(of(DType::F16).map(|t| t.write::<crate::dtype::f16>()).transpose()?);
        bf16s.push(of(DType::BF16).map(|t| t.write::<crate::dtype::bf16>()).transpose()?);
    }
    let mut all: Vec<OptimizerParameter> = vec![];
    let states = weights.iter_mut().zip(&mut moments).zip(&mut emas).zip(&mut scalar).zip(&mut factors);
    let low_precision = f16s.iter_mut().zip(&mut bf16s);
    for (i, (((((weights, moments), ema), scalar), factors), (f16, bf16))) in
        states.zip(low_precision).enumerate()
    {
        let f16 = f16.as_mut().map(|copy| LowPrecisionCopy::F16(&mut copy[..]));
        let bf16 = bf16.as_mut().map(|copy| LowPrecisionCopy::BF16(&mut copy[..]));
        let parameter = &parameters[i];
        all.push(OptimizerParameter {
            weights: &mut weights[..],
            gradient: &gradients[i],
            moments: moments.iter_mut().map(|m| &mut m[..]).collect(),
            ema: ema.as_mut().map(|ema| &mut ema[..]),
            low_precision: f16.or(bf16),
            param_scalar: scalar.as_mut().map(|scalar| &mut scalar[..]),
            factors: factors.as_mut().map(|[rows, columns]| [&mut rows[..], &mut columns[..]]),
            weight_decay: parameter.weight_decay,
            lr_scale: parameter.lr_scale,
            adaptive_clip: parameter.adaptive_clip,
            round_to: parameter.round_to,
            layout: parameter.layout(rule, state),
        });
    }
    let (mut scalars, mut updates) = (state.scalars().write::<f32>()?, state.updates().write::<i64>()?);
    cpu::update(rule, &mut all, state.rule(), &mut scalars, &mut updates[0]);
    Ok(())
}
