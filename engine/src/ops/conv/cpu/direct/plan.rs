//! Common form of the forward pass and the data gradient: every pixel of a grid sums taps of a source image.
use crate::conv_shape::ConvShape;
use crate::ops::conv::cpu::direct::tile::Tap;
use crate::ops::conv::cpu::groups::Groups;

/// Convolution that gathers. Grid pixel `(gy, gx)` of a phase reads source pixels `(gy * step + dy - pad, ...)` and writes target
/// pixel `(gy * spread + origin, ...)`. The forward pass has one phase. The data gradient of a strided convolution has one phase per
/// residue of the target pixel, with the taps that reach it, so that nothing is scattered.
#[derive(Debug)]
pub(in crate::ops::conv::cpu) struct ConvPlan {
    pub(in crate::ops::conv::cpu) n: usize,
    /// Height, width, channels of the source image.
    pub(in crate::ops::conv::cpu) source: [usize; 3],
    /// Height, width, channels of the target image.
    pub(in crate::ops::conv::cpu) target: [usize; 3],
    /// Input channels reduced per group.
    pub(in crate::ops::conv::cpu) depth: usize,
    pub(in crate::ops::conv::cpu) step: [usize; 2],
    /// Rows and columns of padding before the source.
    pub(in crate::ops::conv::cpu) pad: [usize; 2],
    /// Source rows and columns covered by the taps of a grid pixel.
    pub(in crate::ops::conv::cpu) span: [usize; 2],
    pub(in crate::ops::conv::cpu) grid: [usize; 2],
    pub(in crate::ops::conv::cpu) spread: [usize; 2],
    pub(in crate::ops::conv::cpu) phases: Vec<Phase>,
}

/// Target pixels with the same taps.
#[derive(Debug)]
pub(in crate::ops::conv::cpu) struct Phase {
    pub(in crate::ops::conv::cpu) origin: [usize; 2],
    pub(in crate::ops::conv::cpu) taps: Vec<TapPosition>,
}

/// One tap: its position in the padded source, and its first row in the weight panel.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct TapPosition {
    pub(in crate::ops::conv::cpu) dy: usize,
    pub(in crate::ops::conv::cpu) dx: usize,
    pub(in crate::ops::conv::cpu) row: usize,
}

impl ConvPlan {
    /// Plan that computes `y` from `x`.
    pub(in crate::ops::conv::cpu) fn forward(s: &ConvShape, g: &Groups) -> ConvPlan {
        let extent = |a: usize| s.dilation[a] * (s.kernel[a] - 1) + 1;
        let taps = pairs(s.kernel).map(|[ky, kx]| TapPosition {
            dy: ky * s.dilation[0],
            dx: kx * s.dilation[1],
            row: (ky * s.kernel[1] + kx) * g.inputs,
        });
        ConvPlan {
            n: s.n,
            source: [s.h, s.w, s.c_in],
            target: [s.out_h(), s.out_w(), s.c_out],
            depth: g.inputs,
            step: s.stride,
            pad: s.padding,
            span: [extent(0), extent(1)],
            grid: [s.out_h(), s.out_w()],
            spread: [1, 1],
            phases: vec![Phase { origin: [0, 0], taps: taps.collect() }],
        }
        .flattened()
    }

    /// Plan that computes `dx` from `dy`: input pixel `i` receives output pixel `(i + p - k*d) / s` where that is an integer.
    pub(in crate::ops::conv::cpu) fn data_gradient(s: &ConvShape, g: &Groups) -> ConvPlan {
        // Source offset of tap `k` for target residue `r`, if the tap reaches it.
        let reach = |a: usize, r: usize, k: usize| {
            let t = (r + s.padding[a]) as isize - (k * s.dilation[a]) as isize;
            let stride = s.stride[a] as isize;
            (t.rem_euclid(stride) == 0).then(|| t.div_euclid(stride))
        };
        // Residues of existing pixels: a stride may be much larger than the input.
        let residues = [s.stride[0].min(s.h), s.stride[1].min(s.w)];
        let bounds = [0, 1].map(|a| {
            pairs([residues[a], s.kernel[a]])
                .filter_map(|[r, k]| reach(a, r, k))
                .fold((0, 0), |(lo, hi), t| (lo.min(t), hi.max(t)))
        });
        let mut phases = Vec::new();
        for origin in pairs(residues) {
            let taps = pairs(s.kernel).filter_map(|[ky, kx]| {
                let (ty, tx) = (reach(0, origin[0], ky)?, reach(1, origin[1], kx)?);
                Some(TapPosition {
                    dy: (ty - bounds[0].0) as usize,
                    dx: (tx - bounds[1].0) as usize,
                    row: (ky * s.kernel[1] + kx) * g.outputs,
                })
            });
            phases.push(Phase { origin, taps: taps.collect() });
        }
        ConvPlan {
            n: s.n,
            source: [s.out_h(), s.out_w(), s.c_out],
            target: [s.h, s.w, s.c_in],
            depth: g.outputs,
            step: [1, 1],
            pad: bounds.map(|(lo, _)| -lo as usize),
            span: bounds.map(|(lo, hi)| (hi - lo + 1) as usize),
            grid: [s.h.div_ceil(s.stride[0]), s.w.div_ceil(s.stride[1])],
            spread: s.stride,
            phases,
        }
        .flattened()
    }

    /// True if no tap lies outside the source, so that it can be read in place.
    pub(in crate::ops::conv::cpu) fn in_place(&self) -> bool {
        (0..2).all(|a| self.pad[a] == 0 && self.padded(a, self.grid[a]) <= self.source[a])
    }

    /// Source rows (or columns) covered by `pixels` neighbouring grid pixels.
    pub(in crate::ops::conv::cpu) fn padded(&self, axis: usize, pixels: usize) -> usize {
        (pixels - 1) * self.step[axis] + self.span[axis]
    }

    /// Grid rows and columns of a phase.
    pub(in crate::ops::conv::cpu) fn extent(&self, phase: &Phase) -> [usize; 2] {
        [0, 1].map(|a| self.target[a].saturating_sub(phase.origin[a]).div_ceil(self.spread[a]))
    }

    /// Largest number of multiply-adds of a grid pixel, per column.
    pub(in crate::ops::conv::cpu) fn reduction(&self) -> usize {
        self.phases.iter().map(|p| p.taps.len()).max().unwrap_or(0) * self.depth
    }

    /// Treats the batch as one tall image where images need no padding between them, so that bands can cross images.
    fn flattened(mut self) -> ConvPlan {
        if self.span == [1, 1] && self.step == [1, 1] && self.spread == [1, 1] && self.in_place() {
            self.source[0] *= self.n;
            self.target[0] *= self.n;
            self.grid[0] *= self.n;
            self.n = 1;
        }
        self
    }
}

/// Appends a run to `taps`, merging it with the last run if it continues it.
pub(in crate::ops::conv::cpu) fn append(taps: &mut Vec<Tap>, tap: Tap) {
    match taps.last_mut() {
        Some(last) if last.offset + last.len == tap.offset && last.row + last.len == tap.row => {
            last.len += tap.len;
        }
        _ => taps.push(tap),
    }
}

/// All `[i, j]` below `limits`, in row-major order.
fn pairs(limits: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..limits[0]).flat_map(move |i| (0..limits[1]).map(move |j| [i, j]))
}
