//! What an optimizer's update does to its parameters, all of them in one call. On a GPU that is a launch that looks at all gradients
//! (where they are scaled or clipped), one for each stage of the rule that makes sums, and one that unscales, clips, updates, averages and
//! rounds in one pass.
use super::gpu::OnGpu;
use super::update_state::{GradClip, UpdateState};
use crate::cuda::optimizer::ParameterUpdate;
use crate::fuse::UpdateRule;
use crate::{DType, Error, Result, Shape, Tensor, cpu, cuda};

/// A parameter in an update; all tensors are f32 and of one shape.
#[derive(Clone, Debug)]
pub struct UpdateOperands<'a> {
    /// The elements, which change, and with them the copy that [`Tensor::working_copy`] keeps.
    pub weights: &'a Tensor,
    /// Their gradient.
    pub gradient: &'a Tensor,
    /// The moments, which change; as many as the rule has.
    pub moments: Vec<&'a Tensor>,
    /// Means of the factored second moment over the last axis and over the first; the first moment is then empty.
    pub factors: Option<[&'a Tensor; 2]>,
    /// The number that the rule keeps for the parameter: f32 `[2]`, where that of update t stands at t % 2.
    pub param_scalar: Option<&'a Tensor>,
    /// Averaged weights, which change: `ema = decay * ema + (1 - decay) * weights`.
    pub ema: Option<&'a Tensor>,
    /// The weight decay.
    pub weight_decay: f32,
    /// What the learning rate is multiplied by.
    pub lr_scale: f32,
    /// Adaptive clipping is for this parameter too.
    pub adaptive_clip: bool,
    /// Round the weights to this dtype: they are kept in half precision, without a more precise master.
    pub round_to: Option<DType>,
}

/// Updates parameters by a rule, at the rates that `state` holds, unless a gradient is not finite and losses are scaled.
pub fn update(rule: &UpdateRule, parameters: &[UpdateOperands], state: &UpdateState) -> Result<()> {
    let copies: Vec<Option<Tensor>> = parameters.iter().map(|p| p.weights.autocast_cache()).collect();
    let mut operands = vec![("state", state.scalars())];
    for parameter in parameters {
        check(rule, parameter)?;
        operands.extend(parameter.tensors());
        operands.extend(parameter.param_scalar.map(|t| ("kept", t)));
        operands.extend(parameter.factors.into_iter().flatten().map(|t| ("factor", t)));
    }
    match OnGpu::of(rule.name(), &operands)? {
        Some(on) => on.with_op_context(update_on_gpu(&on.gpu, rule, parameters, &copies, state))?,
        None => update_on_cpu(rule, parameters, &copies, state)?,
    }
    parameters.iter().for_each(|p| p.weights.mark_autocast_cache_current());
    Ok(())
}

/// How an update cuts a parameter, by its shape alone: rows are slices of the first axis, chunks what one task works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkLayout {
    pub(crate) row_length: usize,
    pub(crate) rows: usize,
    pub(crate) chunk_length: usize,
    pub(crate) chunks: usize,
    pub(crate) axes: usize,
    /// Elements of the last axis, of a parameter whose second moment is factored.
    pub(crate) inner: usize,
}

/// Elements of a chunk, more or less where it is to hold whole rows.
const CHUNK: usize = 1 << 14;

impl ChunkLayout {
    /// Of a shape, in whole rows or not; `factored`, of that many rows and elements of the last axis.
    pub(crate) fn new(shape: &Shape, by_rows: bool, factored: Option<[usize; 3]>) -> ChunkLayout {
        let (n, axes) = (shape.numel(), shape.rank());
        let rows = match factored {
            Some([rows, ..]) => rows,
            None if axes > 1 => shape.dims()[0],
            None => 1,
        };
        let row_length = (n / rows.max(1)).max(1);
        let chunk_length = match CHUNK / row_length {
            _ if !by_rows => CHUNK,
            // A pack of floats begins each chunk.
            fit @ 4.. => fit / 4 * 4 * row_length,
            fit => fit.max(1) * row_length,
        };
        let inner = factored.map_or(1, |[_, _, inner]| inner);
        ChunkLayout { row_length, rows, chunk_length, chunks: n.div_ceil(chunk_length), axes, inner }
    }
}

impl<'a> UpdateOperands<'a> {
    /// A parameter of a rule that keeps nothing, without weight decay.
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
    if operands.iter().any(|(_, t)| t.dtype() != DType::F32) {
        return Err(Error::dtype(op, &operands, "f32"));
    }
    // Weights and gradient come first, then the moments, of which a factored parameter lacks the first.
    let absent = |i: usize| i == 2 && parameter.factors.is_some();
    let other = |t: &Tensor| t.shape() != parameter.weights.shape();
    if operands.iter().enumerate().any(|(i, (_, t))| !absent(i) && other(t)) {
        return Err(Error::shape(
            op,
            &operands,
            "gradient, moments and average must have the shape of the weights",
        ));
    }
    let moments = rule.state_spec().moments.len();
    if parameter.moments.len() != moments {
        let why = format!("the rule keeps {moments} moments, not {}", parameter.moments.len());
        return Err(Error::value(op, &operands, why));
    }
    let two = |t: &Tensor| t.dtype() == DType::F32 && t.dims() == [2];
    if parameter.param_scalar.is_some() != rule.state_spec().param_scalar.is_some()
        || !parameter.param_scalar.is_none_or(two)
    {
        return Err(Error::value(
            op,
            &operands,
            "what the rule keeps for a parameter is f32 [2]".to_string(),
        ));
    }
    if let Some([rows, columns]) = parameter.factors {
        let axes = rule.state_spec().factored.and_then(|factoring| factoring.axes(parameter.weights.dims()));
        let lengths = axes.map(|[a, b, c]| (a * b, b * c));
        let f32s = rows.dtype() == DType::F32 && columns.dtype() == DType::F32;
        if lengths != Some((rows.numel(), columns.numel())) || !f32s {
            let why = "the factors of the second moment are f32, means over the last axis and over the first";
            return Err(Error::value(op, &operands, why));
        }
    }
    Ok(())
}

fn update_on_gpu(
    gpu: &std::sync::Arc<cuda::Gpu>,
    rule: &UpdateRule,
    parameters: &[UpdateOperands],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> cuda::Result<()> {
    let held: Vec<Vec<_>> =
        parameters.iter().map(|p| p.tensors().map(|(_, t)| t.device_view()).collect()).collect();
    let held_copies: Vec<_> = copies.iter().map(|copy| copy.as_ref().map(Tensor::device_view)).collect();
    let held_kept: Vec<_> = parameters.iter().map(|p| p.param_scalar.map(Tensor::device_view)).collect();
    let held_factors: Vec<_> =
        parameters.iter().map(|p| p.factors.map(|factors| factors.map(Tensor::device_view))).collect();
    let tables: Vec<ParameterUpdate> = parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| {
            let slice = |k: usize| held[i][k].slice();
            let moments = rule.state_spec().moments.len();
            ParameterUpdate {
                weights: slice(0),
                gradient: slice(1),
                moments: (2..2 + moments).map(slice).collect(),
                ema: parameter.ema.map(|_| slice(2 + moments)),
                low_precision: held_copies[i].as_ref().map(|copy| copy.slice()),
                param_scalar: held_kept[i].as_ref().map(|kept| kept.slice()),
                factors: held_factors[i].as_ref().map(|[a, b]| [a.slice(), b.slice()]),
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
    let (numbers, updates) = (state.scalars().device_view(), state.updates().device_view());
    let ticket = state.ticket().device_view();
    let place = cuda::optimizer::OptimizerState {
        numbers: numbers.slice(),
        updates: updates.slice(),
        ticket: ticket.slice(),
    };
    cuda::optimizer::update(gpu, rule, &tables, state.rule(), &place)
}

fn update_on_cpu(
    rule: &UpdateRule,
    parameters: &[UpdateOperands],
    copies: &[Option<Tensor>],
    state: &UpdateState,
) -> Result<()> {
    use cpu::optimizer::{LowPrecisionCopy, OptimizerParameter};
    let gradients = parameters.iter().map(|p| p.gradient.read::<f32>()).collect::<Result<Vec<_>>>()?;
    let mut weights = parameters.iter().map(|p| p.weights.write::<f32>()).collect::<Result<Vec<_>>>()?;
    let mut moments = vec![];
    let mut averages = vec![];
    let mut kept = vec![];
    let mut factors = vec![];
    let (mut f16s, mut bf16s) = (vec![], vec![]);
    for (parameter, copy) in parameters.iter().zip(copies) {
        moments.push(parameter.moments.iter().map(|t| t.write::<f32>()).collect::<Result<Vec<_>>>()?);
        averages.push(parameter.ema.map(|t| t.write::<f32>()).transpose()?);
        kept.push(parameter.param_scalar.map(|t| t.write::<f32>()).transpose()?);
        factors.push(match parameter.factors {
            Some([rows, columns]) => Some([rows.write::<f32>()?, columns.write::<f32>()?]),
            None => None,
        });
        let of = |dtype: DType| copy.as_ref().filter(|copy| copy.dtype() == dtype);
        f16s.push(of(DType::F16).map(|t| t.write::<crate::dtype::f16>()).transpose()?);
        bf16s.push(of(DType::BF16).map(|t| t.write::<crate::dtype::bf16>()).transpose()?);
    }
    let mut all: Vec<OptimizerParameter> = vec![];
    let places = weights.iter_mut().zip(&mut moments).zip(&mut averages).zip(&mut kept).zip(&mut factors);
    let halves = f16s.iter_mut().zip(&mut bf16s);
    for (i, (((((weights, moments), ema), kept), factors), (half, brain))) in places.zip(halves).enumerate() {
        let half = half.as_mut().map(|copy| LowPrecisionCopy::F16(&mut copy[..]));
        let brain = brain.as_mut().map(|copy| LowPrecisionCopy::BF16(&mut copy[..]));
        let parameter = &parameters[i];
        all.push(OptimizerParameter {
            weights: &mut weights[..],
            gradient: &gradients[i],
            moments: moments.iter_mut().map(|m| &mut m[..]).collect(),
            ema: ema.as_mut().map(|ema| &mut ema[..]),
            low_precision: half.or(brain),
            param_scalar: kept.as_mut().map(|kept| &mut kept[..]),
            factors: factors.as_mut().map(|[rows, columns]| [&mut rows[..], &mut columns[..]]),
            weight_decay: parameter.weight_decay,
            lr_scale: parameter.lr_scale,
            adaptive_clip: parameter.adaptive_clip,
            round_to: parameter.round_to,
            layout: parameter.layout(rule, state),
        });
    }
    let (mut numbers, mut updates) = (state.scalars().write::<f32>()?, state.updates().write::<i64>()?);
    cpu::optimizer::update(rule, &mut all, state.rule(), &mut numbers, &mut updates[0]);
    Ok(())
}
