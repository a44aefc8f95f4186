//! Updates of many parameters in one launch a stage (`kernels/cu/optimizer.cuh` and the kernels generated for rules).
use super::{Arg, DeviceSlice, Gpu, Grid, Result};
use crate::DType;
use crate::fuse::UpdateRule;
use crate::fuse::update::MAX_MOMENTS;
use crate::ops::{ChunkLayout, GradClip, GradientRule, UPDATE_SCALARS};
use fornax_kernels::Source;

/// One parameter's elements, gradient and moments, all f32 and of one length.
pub(crate) struct ParameterUpdate<'a> {
    pub(crate) weights: DeviceSlice<'a>,
    pub(crate) gradient: DeviceSlice<'a>,
    pub(crate) moments: Vec<DeviceSlice<'a>>,
    /// Averaged weights, f32.
    pub(crate) ema: Option<DeviceSlice<'a>>,
    /// The weights in f16 or bf16.
    pub(crate) low_precision: Option<DeviceSlice<'a>>,
    /// The number that the rule keeps for it, in two places.
    pub(crate) param_scalar: Option<DeviceSlice<'a>>,
    /// Means of the factored second moment over the last axis and over the first.
    pub(crate) factors: Option<[DeviceSlice<'a>; 2]>,
    pub(crate) weight_decay: f32,
    pub(crate) lr_scale: f32,
    /// Adaptive clipping is for it too.
    pub(crate) adaptive_clip: bool,
    /// What the weights are rounded to.
    pub(crate) round_to: Option<DType>,
    pub(crate) layout: ChunkLayout,
}

/// What an update reads and writes beside parameters: f32 `[NUMBERS]` and two i64 scalars.
pub(crate) struct OptimizerState<'a> {
    pub(crate) numbers: DeviceSlice<'a>,
    pub(crate) updates: DeviceSlice<'a>,
    pub(crate) ticket: DeviceSlice<'a>,
}

/// Looks at the gradients where that is asked for, decides, and updates.
pub(crate) fn update(
    gpu: &std::sync::Arc<Gpu>,
    rule: &UpdateRule,
    parameters: &[ParameterUpdate],
    gradients: &GradientRule,
    state: &OptimizerState,
) -> Result<()> {
    assert_eq!(state.numbers.len, UPDATE_SCALARS);
    let tables = tables(parameters);
    let chunks: usize = tables.iter().map(|(_, chunks)| chunks).sum();
    let rows: usize = parameters.iter().map(|parameter| parameter.layout.rows).sum();
    let looks = gradients.computes_grad_norm() || rule.reads_norm();
    let units = if let Some(GradClip::Agc(limit)) = gradients.clip { limit } else { 0.0 };
    // What passes from launch to launch: sums by chunk, sums by row, and factors of rows.
    let partial = gpu.allocate(8 * chunks * rule.sums().max(if looks { 2 } else { 0 }))?;
    let by_row = gpu.allocate(4 * rows * rule.row_sums())?;
    let of_rows = gpu.allocate(if units > 0.0 { 4 * rows } else { 0 })?;
    let mut to = To {
        numbers: state.numbers.pointer,
        updates: state.updates.pointer,
        ticket: state.ticket.pointer,
        partial: partial.as_slice(DType::F64).pointer,
        rows: by_row.as_slice(DType::F32).pointer,
        units: if units > 0.0 { of_rows.as_slice(DType::F32).pointer } else { 0 },
        clip_value: if let Some(GradClip::Value(limit)) = gradients.clip { limit } else { 0.0 },
        first: 0,
        chunks: chunks as i32,
        blocks: 0,
    };
    let for_each =
        |to: &mut To, counted: bool, launch: &dyn Fn(Grid, &Table, &To) -> Result<()>| -> Result<()> {
            to.first = 0;
            to.blocks = if counted { chunks as i32 } else { 0 };
            for (table, chunks) in &tables {
                launch(Grid::line(*chunks, THREADS), table, to)?;
                to.first += *chunks as i32;
            }
            Ok(())
        };
    if looks {
        let decision = Decision::new(gradients, units);
        let kernel = if units > 0.0 { "gradients_look_units_f32" } else { "gradients_look_f32" };
        for_each(&mut to, true, &|grid, table, to| {
            gpu.launch(FAMILY, kernel, grid, &[Arg::of(table), Arg::of(to), Arg::of(&decision)])
        })?;
    }
    if let Some(factoring) =
        rule.state_spec().factored.filter(|_| parameters.iter().any(|p| p.factors.is_some()))
    {
        let how = Factors { decay_rate: factoring.decay_rate, eps: factoring.eps };
        for_each(&mut to, false, &|grid, table, to| {
            gpu.launch(FAMILY, "factor_moments_f32", grid, &[Arg::of(table), Arg::of(to), Arg::of(&how)])
        })?;
    }
    for (stage, source) in rule.stages().iter().zip(rule.sources()) {
        let source = Source { name: &source.kernel, text: &source.text };
        for_each(&mut to, stage.is_last(), &|grid, table, to| {
            gpu.launch_generated(&source, grid, &[Arg::of(table), Arg::of(to)])
        })?;
    }
    Ok(())
}

const FAMILY: &str = "optimizer";
const THREADS: usize = 256;

/// Parameters of one launch: what fits into a kernel's arguments, and more than most networks have.
const PARAMETERS: usize = 240;

/// The twin of `struct Parameter` in the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    weights: u64,
    gradient: u64,
    moments: [u64; MAX_MOMENTS],
    ema: u64,
    copy: u64,
    kept: u64,
    n: i64,
    row_length: i32,
    chunk_length: i32,
    chunk: i32,
    row: i32,
    decay: f32,
    rate: f32,
    axes: i32,
    clips: i32,
    copy_format: i32,
    round_format: i32,
    inner: i32,
    padding: i32,
}

/// The twin of `struct Parameters`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Table {
    count: i64,
    of: [Entry; PARAMETERS],
}
// SAFETY: numbers only, the small ones in pairs: no padding.
unsafe impl bytemuck::NoUninit for Table {}

/// The twin of `struct Update`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct To {
    numbers: u64,
    updates: u64,
    ticket: u64,
    partial: u64,
    rows: u64,
    units: u64,
    clip_value: f32,
    first: i32,
    chunks: i32,
    blocks: i32,
}

/// The twin of `struct Decision`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Decision {
    growth: f32,
    backoff: f32,
    floor: f32,
    clip_norm: f32,
    clip_units: f32,
    interval: i32,
    scales: i32,
}

/// The twin of `struct Factors`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Factors {
    decay_rate: f64,
    eps: f64,
}

impl Decision {
    fn new(gradients: &GradientRule, clip_units: f32) -> Decision {
        let scaling = gradients.scaling.unwrap_or_default();
        Decision {
            growth: scaling.growth_factor,
            backoff: scaling.backoff_factor,
            floor: scaling.min_scale,
            clip_norm: if let Some(GradClip::Norm(limit)) = gradients.clip { limit } else { 0.0 },
            clip_units,
            interval: scaling.growth_interval as i32,
            scales: i32::from(gradients.scaling.is_some()),
        }
    }
}

/// The tables to launch with, each with its number of chunks.
fn tables(parameters: &[ParameterUpdate]) -> Vec<(Box<Table>, usize)> {
    let mut row = 0;
    let filled = |group: &[ParameterUpdate]| {
        let mut table = Box::new(Table { count: 0, of: [Entry::NONE; PARAMETERS] });
        let mut chunks = 0;
        for parameter in group {
            if parameter.weights.len > 0 {
                table.of[table.count as usize] = Entry::new(parameter, chunks, row);
                table.count += 1;
            }
            chunks += parameter.layout.chunks;
            row += parameter.layout.rows;
        }
        (table, chunks)
    };
    parameters.chunks(PARAMETERS).map(filled).filter(|(_, chunks)| *chunks > 0).collect()
}

impl Entry {
    const NONE: Entry = Entry {
        weights: 0,
        gradient: 0,
        moments: [0; MAX_MOMENTS],
        ema: 0,
        copy: 0,
        kept: 0,
        n: 0,
        row_length: 1,
        chunk_length: 1,
        chunk: 0,
        row: 0,
        decay: 0.0,
        rate: 0.0,
        axes: 0,
        clips: 0,
        copy_format: 0,
        round_format: 0,
        inner: 1,
        padding: 0,
    };

    /// A parameter that begins with that chunk of its launch, and that row of all.
    fn new(parameter: &ParameterUpdate, chunk: usize, row: usize) -> Entry {
        let mut moments = [0; MAX_MOMENTS];
        for (to, moment) in moments.iter_mut().zip(&parameter.moments) {
            *to = moment.pointer;
        }
        if let Some([rows, columns]) = parameter.factors {
            (moments[0], moments[MAX_MOMENTS - 2], moments[MAX_MOMENTS - 1]) =
                (0, rows.pointer, columns.pointer);
        }
        let layout = parameter.layout;
        Entry {
            weights: parameter.weights.pointer,
            gradient: parameter.gradient.pointer,
            moments,
            ema: parameter.ema.map_or(0, |ema| ema.pointer),
            copy: parameter.low_precision.map_or(0, |copy| copy.pointer),
            kept: parameter.param_scalar.map_or(0, |kept| kept.pointer),
            n: parameter.weights.len as i64,
            row_length: layout.row_length as i32,
            chunk_length: layout.chunk_length as i32,
            chunk: chunk as i32,
            row: row as i32,
            decay: parameter.weight_decay,
            rate: parameter.lr_scale,
            axes: layout.axes as i32,
            clips: i32::from(parameter.adaptive_clip),
            copy_format: format(parameter.low_precision.map(|copy| copy.dtype)),
            round_format: format(parameter.round_to),
            inner: layout.inner as i32,
            padding: 0,
        }
    }
}

fn format(dtype: Option<DType>) -> i32 {
    match dtype {
        Some(DType::F16) => 1,
        Some(DType::BF16) => 2,
        _ => 0,
    }
}
