//! bf16 convolution on CPUs with AMX, which multiplies tiles of 16 rows by 32 bf16 and accumulates in f32.
//!
//! `gather` copies a band of the source to the order in which tiles read it (with `prologue`, batch norm and activation of the input),
//! `panel` packs the weights, `tiles` has the matmul of a block of pixels and columns. `weight_gradient` reduces over pixels instead.
//! Bands and blocks depend on the shape alone.
use super::{ConvInput, SharedPtr};
use crate::conv_shape::ConvShape;
use crate::cpu::parallel::for_each_task;
use crate::cpu::scratch;
use crate::dtype::bf16;
use gather::{BandSplit, Gather, NO_TARGET, Planes};
use panel::Panel;
use std::arch::x86_64::*;
use tiles::{BLOCK, Step};

mod gather;
mod panel;
mod prologue;
mod tiles;
mod weight_gradient;
mod words;

pub(super) use weight_gradient::weight_gradient;

/// Grid pixels of a band: enough that the rows above and below are few.
const BAND_PIXELS: usize = 1024;
/// Most bytes of a band's planes, which stay in the L2 cache with the panel of a block.
const BAND_BYTES: usize = 640 << 10;
/// Target number of tasks.
const TASKS: usize = 16;

/// True if the CPU has tiles, and the SIMD level allows them.
pub(super) fn is_available() -> bool {
    super::has_bf16() && tiles::available()
}

/// True if the functions of this module support the shape on this CPU.
pub(super) fn supports(s: &ConvShape) -> bool {
    is_available() && s.groups == 1
}

/// [`super::forward`] in bf16, with a bias in f32 and a prologue.
pub(super) fn forward(
    s: &ConvShape,
    x: ConvInput<bf16>,
    weight: &[bf16],
    bias: Option<&[f32]>,
    y: &mut [bf16],
) {
    let gather = Gather::forward(s);
    let panel = Panel::of(&gather, s.c_out, s.kernel[0] * s.kernel[1] * s.c_in);
    scratch::with(panel.len(), |packed: &mut [u32]| {
        panel.pack_forward(weight, packed);
        run(&gather, &panel, packed, bias, x, y);
    });
}

/// [`super::data_gradient`] in bf16.
pub(super) fn data_gradient(s: &ConvShape, dy: &[bf16], weight: &[bf16], dx: &mut [bf16]) {
    let gather = Gather::data_gradient(s);
    let panel = Panel::of(&gather, s.c_in, s.kernel[0] * s.kernel[1] * s.c_out);
    scratch::with(panel.len(), |packed: &mut [u32]| {
        panel.pack_data_gradient(weight, packed);
        run(&gather, &panel, packed, None, ConvInput::plain(dy), dx);
    });
}

fn run(
    gather: &Gather,
    panel: &Panel,
    packed: &[u32],
    bias: Option<&[f32]>,
    source: ConvInput<bf16>,
    target: &mut [bf16],
) {
    if target.is_empty() {
        return;
    }
    let plan = &gather.plan;
    assert!(
        target.len() < NO_TARGET as usize,
        "a target of {} elements is too large for one call",
        target.len()
    );
    let depth = gather.padded_depth();
    let strides = plan.step[0] * plan.step[1];
    let pixels = (BAND_BYTES / (2 * depth * strides)).clamp(4 * BLOCK, BAND_PIXELS);
    let split = BandSplit::of(plan, pixels);
    let planes = Planes::new(plan, &split);
    let steps: Vec<Vec<Step>> = plan.phases.iter().map(|phase| gather.steps(&planes, phase)).collect();
    // Few bands are divided by columns, too.
    let parts = TASKS.div_ceil(split.bands).min(panel.blocks);
    let out = SharedPtr(target.as_mut_ptr());
    for_each_task(split.bands * parts, |task| {
        let (number, part) = (task / parts, task % parts);
        let band = split.band(plan, number);
        let blocks = part * panel.blocks / parts..(part + 1) * panel.blocks / parts;
        let pixels = planes.pixels(&band).next_multiple_of(BLOCK);
        scratch::with(planes.count() * planes.len * depth, |copy: &mut [bf16]| {
            gather.copy(&planes, &band, source, 0..plan.depth, copy);
            scratch::with(pixels, |targets: &mut [u32]| {
                scratch::with(BLOCK * BLOCK, |sums: &mut [f32]| {
                    for (phase, steps) in plan.phases.iter().zip(&steps) {
                        gather.targets(&planes, &band, phase, targets);
                        let store = BlockStore { targets, sums, bias, target: out };
                        multiply_band(panel, packed, blocks.clone(), copy, depth, steps, store);
                    }
                });
            });
        });
    });
}

/// Results of a band.
struct BlockStore<'a> {
    targets: &'a [u32],
    /// One block of sums.
    sums: &'a mut [f32],
    bias: Option<&'a [f32]>,
    target: SharedPtr<bf16>,
}

/// Computes the column blocks `blocks` of a phase of a band.
fn multiply_band(
    panel: &Panel,
    packed: &[u32],
    blocks: std::ops::Range<usize>,
    copy: &[bf16],
    depth: usize,
    steps: &[Step],
    store: BlockStore,
) {
    let pitch = depth * size_of::<bf16>();
    tiles::with_tiles(|| {
        for block in blocks {
            let column = block * BLOCK;
            let columns = BLOCK.min(panel.columns - column);
            let weights = packed[panel.start(block)..].as_ptr().cast();
            let bias = store.bias.map(|bias| &bias[column..column + columns]);
            for (i, targets) in store.targets.chunks_exact(BLOCK).enumerate() {
                if targets.iter().all(|target| *target == NO_TARGET) {
                    continue;
                }
                let rows: *const u8 = copy[i * BLOCK * depth..].as_ptr().cast();
                // SAFETY: a plane has whole blocks of pixels and the farthest tap after them; the panel has the steps of every tap.
                // Tasks write their own pixels and columns.
                unsafe {
                    let sums = store.sums.as_mut_ptr();
                    tiles::multiply(
                        [rows, rows.wrapping_add(BLOCK / 2 * pitch)],
                        pitch,
                        weights,
                        steps,
                        false,
                        sums,
                    );
                    store_block(store.sums, targets, bias, columns, store.target.at(column));
                }
            }
        }
    });
}

/// Rounds the rows of a block and stores them at their targets.
///
/// # Safety
/// The targets must be writable for `columns` elements, on a CPU with AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn store_block(sums: &[f32], targets: &[u32], bias: Option<&[f32]>, columns: usize, to: *mut bf16) {
    let mask = u32::MAX >> (BLOCK - columns);
    let halves = [mask as __mmask16, (mask >> 16) as __mmask16];
    let mut offsets = [_mm512_setzero_ps(); 2];
    if let Some(bias) = bias {
        for k in 0..2 {
            // SAFETY: the mask ends at the last column.
            offsets[k] = unsafe { _mm512_maskz_loadu_ps(halves[k], bias.as_ptr().wrapping_add(16 * k)) };
        }
    }
    for (row, target) in sums.chunks_exact(BLOCK).zip(targets) {
        if *target == NO_TARGET {
            continue;
        }
        // SAFETY: a row has two registers; the caller's obligation.
        unsafe {
            let mut sum = [_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16))];
            if bias.is_some() {
                sum = [_mm512_add_ps(sum[0], offsets[0]), _mm512_add_ps(sum[1], offsets[1])];
            }
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(sum[1], sum[0]));
            _mm512_mask_storeu_epi16(to.add(*target as usize).cast(), mask, rounded);
        }
    }
}
