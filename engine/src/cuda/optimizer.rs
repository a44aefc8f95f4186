//! Updates of many parameters in one launch (`kernels/cu/optimizer.cu`).
use super::{Arg, Gpu, Grid, Result, Slice, args};
use crate::DType;
use crate::ops::{GradientRule, NUMBERS, UpdateRule};

/// One parameter's elements, gradient and moments (the second is the first again where there is one), all f32 and of one length.
pub(crate) struct Parameter<'a> {
    pub(crate) weights: Slice<'a>,
    pub(crate) gradient: Slice<'a>,
    pub(crate) moments: [Slice<'a>; 2],
    /// Averaged weights, f32.
    pub(crate) ema: Option<Slice<'a>>,
    /// The weights in f16 or bf16.
    pub(crate) copy: Option<Slice<'a>>,
    pub(crate) decay: f32,
    /// What the weights are rounded to.
    pub(crate) round: Option<DType>,
}

/// What an update reads and writes beside parameters: f32 `[NUMBERS]` and an i64 scalar.
pub(crate) struct State<'a> {
    pub(crate) numbers: Slice<'a>,
    pub(crate) updates: Slice<'a>,
}

/// Looks at the gradients where that is asked for, decides, and updates.
pub(crate) fn update(
    gpu: &std::sync::Arc<Gpu>,
    rule: &UpdateRule,
    parameters: &[Parameter],
    gradients: &GradientRule,
    state: &State,
) -> Result<()> {
    assert_eq!(state.numbers.len, NUMBERS);
    let launches: Vec<_> = tables(parameters).collect();
    let all: usize = launches.iter().map(|(_, chunks)| chunks).sum();
    let partial = gpu.allocate(if gradients.looks() { 8 * all } else { 0 })?;
    let partial = partial.whole(DType::F64);
    let mut first = 0;
    if gradients.looks() {
        for (table, chunks) in &launches {
            let arguments = args![Arg::of(&**table), state.numbers, partial, first];
            gpu.launch(FAMILY, "gradients_look_f32", Grid::line(*chunks, THREADS), arguments)?;
            first += *chunks as i32;
        }
    }
    let decision = Decision::new(rule, gradients);
    let arguments = args![partial, first, state.numbers, state.updates, Arg::of(&decision)];
    gpu.launch(FAMILY, "update_decide", Grid::line(1, THREADS), arguments)?;
    for (table, chunks) in &launches {
        let (table, grid) = (Arg::of(&**table), Grid::line(*chunks, THREADS));
        match *rule {
            UpdateRule::Sgd { momentum, nesterov } => {
                let arguments = args![table, state.numbers, momentum, i32::from(nesterov)];
                gpu.launch(FAMILY, "sgd_f32", grid, arguments)?;
            }
            UpdateRule::AdamW { betas, eps } => {
                let ([beta1, beta2], [rest1, rest2]) =
                    (betas.map(|b| b as f32), betas.map(|b| (1.0 - b) as f32));
                let arguments = args![table, state.numbers, eps, beta1, beta2, rest1, rest2];
                gpu.launch(FAMILY, "adamw_f32", grid, arguments)?;
            }
        }
    }
    Ok(())
}

const FAMILY: &str = "optimizer";
const THREADS: usize = 256;

/// Elements that one block updates.
const CHUNK: usize = 1 << 14;

/// Parameters of one launch: what fits into a kernel's arguments, and more than most networks have.
const PARAMETERS: usize = 320;

/// The twin of `struct Parameter` in the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    weights: u64,
    gradient: u64,
    moments: [u64; 2],
    ema: u64,
    copy: u64,
    n: i64,
    chunk: i32,
    decay: f32,
    copy_format: i32,
    round_format: i32,
}

/// The twin of `struct Parameters`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Table {
    count: i32,
    chunk: i32,
    of: [Entry; PARAMETERS],
}
// SAFETY: numbers only, the small ones in pairs: no padding.
unsafe impl bytemuck::NoUninit for Table {}

/// The twin of `struct Decision`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Decision {
    betas: [f64; 2],
    growth: f32,
    backoff: f32,
    floor: f32,
    clip_norm: f32,
    interval: i32,
    looks: i32,
    scales: i32,
    corrects: i32,
}

impl Decision {
    fn new(rule: &UpdateRule, gradients: &GradientRule) -> Decision {
        let scaling = gradients.scaling.unwrap_or_default();
        let betas = if let UpdateRule::AdamW { betas, .. } = rule { *betas } else { [0.0; 2] };
        Decision {
            betas,
            growth: scaling.growth,
            backoff: scaling.backoff,
            floor: scaling.floor,
            clip_norm: gradients.clip_norm.unwrap_or(0.0),
            interval: scaling.interval as i32,
            looks: i32::from(gradients.looks()),
            scales: i32::from(gradients.scaling.is_some()),
            corrects: i32::from(matches!(rule, UpdateRule::AdamW { .. })),
        }
    }
}

/// The tables to launch with, each with its number of chunks.
fn tables<'a>(parameters: &'a [Parameter]) -> impl Iterator<Item = (Box<Table>, usize)> + 'a {
    parameters.chunks(PARAMETERS).filter_map(|group| {
        let mut table = Box::new(Table { count: 0, chunk: CHUNK as i32, of: [Entry::NONE; PARAMETERS] });
        let mut chunks = 0;
        for parameter in group.iter().filter(|parameter| parameter.weights.len > 0) {
            table.of[table.count as usize] = Entry {
                weights: parameter.weights.pointer,
                gradient: parameter.gradient.pointer,
                moments: parameter.moments.map(|moment| moment.pointer),
                ema: parameter.ema.map_or(0, |ema| ema.pointer),
                copy: parameter.copy.map_or(0, |copy| copy.pointer),
                n: parameter.weights.len as i64,
                chunk: chunks as i32,
                decay: parameter.decay,
                copy_format: format(parameter.copy.map(|copy| copy.dtype)),
                round_format: format(parameter.round),
            };
            table.count += 1;
            chunks += parameter.weights.len.div_ceil(CHUNK);
        }
        (chunks > 0).then_some((table, chunks))
    })
}

impl Entry {
    const NONE: Entry = Entry {
        weights: 0,
        gradient: 0,
        moments: [0; 2],
        ema: 0,
        copy: 0,
        n: 0,
        chunk: 0,
        decay: 0.0,
        copy_format: 0,
        round_format: 0,
    };
}

fn format(dtype: Option<DType>) -> i32 {
    match dtype {
        Some(DType::F16) => 1,
        Some(DType::BF16) => 2,
        _ => 0,
    }
}
