//! Updates of many parameters in one launch (`kernels/cu/optimizer.cu`).
use super::{Arg, Gpu, Grid, Result, Slice, args};
use crate::ops::{AdamWRule, SgdRule};

/// One parameter's elements, gradient and moments (the second is the first again where there is one), and what its decay is to the
/// kernel. All f32 and of one length.
pub(crate) struct Parameter<'a> {
    pub(crate) weights: Slice<'a>,
    pub(crate) gradient: Slice<'a>,
    pub(crate) moments: [Slice<'a>; 2],
    pub(crate) decay: f32,
}

/// SGD with momentum.
pub(crate) fn sgd(gpu: &Gpu, parameters: &[Parameter], rule: &SgdRule) -> Result<()> {
    for (table, chunks) in tables(parameters) {
        let nesterov = i32::from(rule.nesterov);
        let arguments = args![Arg::of(&*table), rule.lr, rule.momentum, nesterov];
        gpu.launch(FAMILY, "sgd_f32", Grid::line(chunks, THREADS), arguments)?;
    }
    Ok(())
}

/// Adam with decoupled weight decay.
pub(crate) fn adamw(gpu: &Gpu, parameters: &[Parameter], rule: &AdamWRule) -> Result<()> {
    let ([beta1, beta2], [rest1, rest2]) = (rule.betas, rule.rests);
    for (table, chunks) in tables(parameters) {
        let arguments = args![Arg::of(&*table), rule.size, rule.root, rule.eps, beta1, beta2, rest1, rest2];
        gpu.launch(FAMILY, "adamw_f32", Grid::line(chunks, THREADS), arguments)?;
    }
    Ok(())
}

const FAMILY: &str = "optimizer";
const THREADS: usize = 256;

/// Elements that one block updates.
const CHUNK: usize = 1 << 14;

/// Parameters of one launch: what fits into a kernel's arguments, and more than most networks have.
const PARAMETERS: usize = 320;

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    weights: u64,
    gradient: u64,
    moments: [u64; 2],
    n: i64,
    chunk: i32,
    decay: f32,
}

/// The twin of `struct Parameters` in the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Table {
    count: i32,
    chunk: i32,
    of: [Entry; PARAMETERS],
}
// SAFETY: numbers only, the small ones in pairs: no padding.
unsafe impl bytemuck::NoUninit for Table {}

/// The tables to launch with, each with its number of chunks.
fn tables<'a>(parameters: &'a [Parameter]) -> impl Iterator<Item = (Box<Table>, usize)> + 'a {
    parameters.chunks(PARAMETERS).filter_map(|group| {
        let none = Entry { weights: 0, gradient: 0, moments: [0; 2], n: 0, chunk: 0, decay: 0.0 };
        let mut table = Box::new(Table { count: 0, chunk: CHUNK as i32, of: [none; PARAMETERS] });
        let mut chunks = 0;
        for parameter in group.iter().filter(|parameter| parameter.weights.len > 0) {
            table.of[table.count as usize] = Entry {
                weights: parameter.weights.pointer,
                gradient: parameter.gradient.pointer,
                moments: parameter.moments.map(|moment| moment.pointer),
                n: parameter.weights.len as i64,
                chunk: chunks as i32,
                decay: parameter.decay,
            };
            table.count += 1;
            chunks += parameter.weights.len.div_ceil(CHUNK);
        }
        (chunks > 0).then_some((table, chunks))
    })
}
