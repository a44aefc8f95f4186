//! Multi-tensor optimizer updates, one launch per stage (`kernels/cu/optimizer.cuh`, and the kernels generated for update rules).
use crate::DType;
use crate::cuda::launch::to_i32;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result};
use crate::fuse::update::formula::{MAX_MOMENTS, MAX_SHARED_SCALARS};
use crate::fuse::{ChunkLayout, GradClip, GradientRule, UPDATE_SCALARS, UpdateRule};
use fornax_kernels::arguments::{
    self, FactoredOptions, GradOptions, MOMENTS, PARAMETERS, Parameter, ParameterTable, UpdateArgs,
    UpdateFormat,
};
use fornax_kernels::{AddressBits, AddressMut, ByValue, KernelSource};

/// Operands of one parameter's update; weights and moments are f32, the gradient may be f16 or bf16, and all have one length.
pub(crate) struct ParameterUpdate<'a> {
    pub(crate) weights: DeviceSlice<'a>,
    pub(crate) gradient: DeviceSlice<'a>,
    pub(crate) moments: Vec<DeviceSlice<'a>>,
    /// EMA weights, f32.
    pub(crate) ema: Option<DeviceSlice<'a>>,
    /// Low-precision copy of the weights, f16 or bf16.
    pub(crate) low_precision: Option<DeviceSlice<'a>>,
    /// Scalar that the rule keeps for the parameter, double-buffered: f32 `[2]`.
    pub(crate) param_scalar: Option<DeviceSlice<'a>>,
    /// Factored second moment: its means over the last axis and over the first.
    pub(crate) factors: Option<[DeviceSlice<'a>; 2]>,
    pub(crate) weight_decay: f32,
    pub(crate) lr_scale: f32,
    /// Apply adaptive gradient clipping.
    pub(crate) adaptive_clip: bool,
    /// Dtype args round the weights args.
    pub(crate) round_to: Option<DType>,
    pub(crate) layout: ChunkLayout,
}

/// State of updates besides the parameters: f32 scalars `[UPDATE_SCALARS]`, and the step count and the block ticket, both i64.
pub(crate) struct OptimizerState<'a> {
    pub(crate) scalars: DeviceSlice<'a>,
    pub(crate) step: DeviceSlice<'a>,
    pub(crate) ticket: DeviceSlice<'a>,
}

/// Updates all parameters by a rule: computes the gradient norm if necessary, applies loss scaling and clipping, and runs the rule's stages.
pub(crate) fn update(
    gpu: &std::sync::Arc<Gpu>,
    rule: &UpdateRule,
    parameters: &[ParameterUpdate],
    gradients: &GradientRule,
    state: &OptimizerState,
) -> Result<()> {
    assert_eq!(state.scalars.len, UPDATE_SCALARS);
    let tables = parameter_tables(parameters)?;
    let chunks: usize = tables.iter().map(|(_, chunks)| chunks).sum();
    let rows: usize = parameters.iter().map(|parameter| parameter.layout.rows).sum();
    let needs_norm = gradients.computes_grad_norm() || rule.reads_norm();
    let agc_clip = if let Some(GradClip::Agc(limit)) = gradients.clip { limit } else { 0.0 };
    // Passed from launch to launch: sums by chunk, sums by row, and gradient multipliers of rows.
    let partial = gpu.allocate(8 * chunks * rule.sums().max(if needs_norm { 2 } else { 0 }))?;
    let row_sums = gpu.allocate(4 * rows * rule.row_sums())?;
    let agc_scale = gpu.allocate(if agc_clip > 0.0 { 4 * rows } else { 0 })?;
    let mut args = UpdateArgs {
        scalars: state.scalars.into(),
        step: state.step.into(),
        ticket: AddressMut::new(state.ticket.pointer),
        partial: partial.as_slice(DType::F64).into(),
        row_sums: row_sums.as_slice(DType::F32).into(),
        agc_scale: if agc_clip > 0.0 { agc_scale.as_slice(DType::F32).into() } else { AddressMut::NULL },
        clip_value: if let Some(GradClip::Value(limit)) = gradients.clip { limit } else { 0.0 },
        first_chunk: 0,
        chunks: to_i32(chunks)?,
        blocks: 0,
    };
    let launch_tables = |args: &mut UpdateArgs,
                         takes_ticket: bool,
                         launch: &dyn Fn(LaunchConfig, &ParameterTable, &UpdateArgs) -> Result<()>|
     -> Result<()> {
        args.first_chunk = 0;
        args.blocks = if takes_ticket { args.chunks } else { 0 };
        for (table, chunks) in &tables {
            launch(LaunchConfig::linear(*chunks, THREADS), table, args)?;
            args.first_chunk += to_i32(*chunks)?;
        }
        Ok(())
    };
    if needs_norm {
        let options = grad_options(gradients, agc_clip);
        let name = if agc_clip > 0.0 { "gradient_norm_agc_f32" } else { "gradient_norm_f32" };
        launch_tables(&mut args, true, &|grid, table, args| {
            gpu.launch(
                Kernel::new(MODULE, name),
                grid,
                &[KernelArg::by_value(table), KernelArg::by_value(args), KernelArg::by_value(&options)],
            )
        })?;
    }
    if let Some(factoring) =
        rule.state_spec().factored.filter(|_| parameters.iter().any(|p| p.factors.is_some()))
    {
        let options = FactoredOptions { decay_rate: factoring.decay_rate, eps: factoring.eps };
        launch_tables(&mut args, false, &|grid, table, args| {
            gpu.launch(
                Kernel::new(MODULE, "factor_moments_f32"),
                grid,
                &[KernelArg::by_value(table), KernelArg::by_value(args), KernelArg::by_value(&options)],
            )
        })?;
    }
    for (stage, source) in rule.stages().iter().zip(rule.sources()) {
        let source = KernelSource { name: &source.kernel, text: &source.text };
        launch_tables(&mut args, stage.is_last(), &|grid, table, args| {
            gpu.launch_generated(&source, grid, &[KernelArg::by_value(table), KernelArg::by_value(args)])
        })?;
    }
    Ok(())
}

const MODULE: &str = "optimizer";
const THREADS: usize = 256;

// Rules have as many moments and scalars as kernels take.
const _: () = assert!(MAX_MOMENTS == MOMENTS && MAX_SHARED_SCALARS == arguments::MAX_SHARED_SCALARS);
const _: () =
    assert!(UPDATE_SCALARS == arguments::UpdateScalar::FirstSharedScalar as usize + MAX_SHARED_SCALARS);

fn grad_options(gradients: &GradientRule, agc_clip: f32) -> GradOptions {
    let scaling = gradients.scaling.unwrap_or_default();
    GradOptions {
        growth_factor: scaling.growth_factor,
        backoff_factor: scaling.backoff_factor,
        min_scale: scaling.min_scale,
        clip_norm: if let Some(GradClip::Norm(limit)) = gradients.clip { limit } else { 0.0 },
        agc_clip,
        growth_interval: i32::try_from(scaling.growth_interval).unwrap_or(i32::MAX),
        loss_scaling: i32::from(gradients.scaling.is_some()),
    }
}

/// Parameter tables, one per launch, each with its number of chunks.
fn parameter_tables(parameters: &[ParameterUpdate]) -> Result<Vec<(Box<ParameterTable>, usize)>> {
    let mut row = 0;
    let filled = |group: &[ParameterUpdate]| {
        let mut table = Box::new(ParameterTable::zeroed());
        let mut chunks = 0;
        for parameter in group {
            if parameter.weights.len > 0 {
                table.entries[table.count as usize] = entry(parameter, chunks, row)?;
                table.count += 1;
            }
            chunks += parameter.layout.chunks;
            row += parameter.layout.rows;
        }
        Ok((table, chunks))
    };
    let tables = parameters.chunks(PARAMETERS).map(filled).collect::<Result<Vec<_>>>()?;
    Ok(tables.into_iter().filter(|(_, chunks)| *chunks > 0).collect())
}

/// Entry of a parameter whose first chunk has index `chunk` within its launch and whose first row has index `row` among all rows.
fn entry(parameter: &ParameterUpdate, chunk: usize, row: usize) -> Result<Parameter> {
    let mut moments = [AddressBits::NULL; MOMENTS];
    for (to, moment) in moments.iter_mut().zip(&parameter.moments) {
        *to = (*moment).into();
    }
    if let Some([rows, columns]) = parameter.factors {
        (moments[0], moments[MOMENTS - 2], moments[MOMENTS - 1]) =
            (AddressBits::NULL, rows.into(), columns.into());
    }
    let layout = parameter.layout;
    Ok(Parameter {
        weights: parameter.weights.into(),
        gradient: parameter.gradient.into(),
        moments,
        ema: parameter.ema.map_or(AddressBits::NULL, AddressBits::from),
        low_precision: parameter.low_precision.map_or(AddressBits::NULL, AddressBits::from),
        param_scalar: parameter.param_scalar.map_or(AddressBits::NULL, AddressBits::from),
        n: parameter.weights.len as i64,
        row_length: to_i32(layout.row_length)?,
        chunk_length: to_i32(layout.chunk_length)?,
        chunk: to_i32(chunk)?,
        row: to_i32(row)?,
        weight_decay: parameter.weight_decay,
        lr_scale: parameter.lr_scale,
        ndim: to_i32(layout.axes)?,
        adaptive_clip: i32::from(parameter.adaptive_clip),
        low_precision_format: format(parameter.low_precision.map(|copy| copy.dtype)),
        round_format: format(parameter.round_to),
        inner: to_i32(layout.inner)?,
        gradient_format: format(Some(parameter.gradient.dtype)),
    })
}

fn format(dtype: Option<DType>) -> UpdateFormat {
    match dtype {
        Some(DType::F16) => UpdateFormat::Half,
        Some(DType::BF16) => UpdateFormat::Bfloat,
        _ => UpdateFormat::NoFormat,
    }
}
