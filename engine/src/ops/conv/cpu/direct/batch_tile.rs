//! Executes a [`ConvPlan`] over small images: a tile is the same pixel of up to twelve images. Nothing is copied, and every tap on
//! padding is skipped, which saves much of the work on planes of 4x4 or 7x7 pixels.
use crate::ops::conv::cpu::direct::band::ConvJob;
use crate::ops::conv::cpu::direct::plan::{ConvPlan, Phase, append};
use crate::ops::conv::cpu::direct::tile::{self, MAX_ROWS, Tap, TileOutput, TileStore};
use rayon::prelude::*;

/// Largest side, in grid pixels, of the planes that gain from skipping padding.
const MAX_PLANE: usize = 16;
/// Smallest batch: fewer images leave the tile too empty.
const MIN_IMAGES: usize = 6;

/// True if the batch is large enough, the plane small enough, and some taps lie on padding.
pub(in crate::ops::conv::cpu) fn supports(plan: &ConvPlan) -> bool {
    plan.n >= MIN_IMAGES && plan.grid.iter().all(|g| *g <= MAX_PLANE) && !plan.in_place()
}

pub(in crate::ops::conv::cpu) fn run<T: TileOutput>(job: &ConvJob<T>) {
    let plan = job.plan;
    let tiles = plan.n.div_ceil(job.panels.tile_rows(&job.panels.blocks[0]));
    let pixels: Vec<GridPixel> = plan.phases.iter().flat_map(|phase| pixels(plan, phase)).collect();
    // Block-major order, so that neighbouring tasks share their panel.
    (0..job.panels.blocks.len() * tiles).into_par_iter().with_max_len(1).for_each(|task| {
        let block = &job.panels.blocks[task / tiles];
        let tile = task % tiles;
        let (n0, n1) = (tile * plan.n / tiles, (tile + 1) * plan.n / tiles);
        let (column, columns) = job.panels.range(block);
        let [sh, sw, sc] = plan.source;
        let [th, tw, tc] = plan.target;
        let panel = job.packed[job.panels.start(block)..].as_ptr();
        let bias = job.bias_of(block.group, column);
        let store = TileStore::outputs(columns, job.stream);
        let most = job.panels.tile_rows(block);
        for GridPixel { target, taps } in &pixels {
            for m0 in (n0..n1).step_by(most) {
                let m = most.min(n1 - m0);
                let mut from = [std::ptr::null(); MAX_ROWS];
                let mut to = [std::ptr::null_mut(); MAX_ROWS];
                for j in 0..m {
                    from[j] = job.source[(m0 + j) * sh * sw * sc + block.group * plan.depth..].as_ptr();
                    let pixel = (m0 + j) * th * tw + target;
                    to[j] = job.target.at(pixel * tc + block.group * job.panels.columns + column);
                }
                // SAFETY: the taps lie inside the image; each task owns its columns of its images.
                unsafe {
                    let (from, to) = (from.as_ptr(), to.as_ptr());
                    tile::run(job.panels.level, m, block.registers, from, taps, panel, bias, to, store);
                }
            }
        }
        if job.stream {
            // SAFETY: the CPU supports the level.
            unsafe { tile::fence(job.panels.level) };
        }
    });
}

/// Pixel of the grid of a phase.
struct GridPixel {
    /// Index of the target pixel in its image.
    target: usize,
    /// Runs of the taps that lie inside the source.
    taps: Vec<Tap>,
}

fn pixels(plan: &ConvPlan, phase: &Phase) -> Vec<GridPixel> {
    let [height, width] = plan.extent(phase);
    let pixel = |y: usize, x: usize| {
        let (oy, ox) = (y * plan.spread[0] + phase.origin[0], x * plan.spread[1] + phase.origin[1]);
        let mut taps = Vec::with_capacity(phase.taps.len());
        for tap in &phase.taps {
            let y = (y * plan.step[0] + tap.dy).wrapping_sub(plan.pad[0]);
            let x = (x * plan.step[1] + tap.dx).wrapping_sub(plan.pad[1]);
            if y < plan.source[0] && x < plan.source[1] {
                let offset = (y * plan.source[1] + x) * plan.source[2];
                append(&mut taps, Tap { offset, row: tap.row, len: plan.depth });
            }
        }
        GridPixel { target: oy * plan.target[1] + ox, taps }
    };
    (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).map(|(y, x)| pixel(y, x)).collect()
}
