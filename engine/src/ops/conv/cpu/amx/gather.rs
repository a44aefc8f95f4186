//! Source pixels of a band in the order in which tiles read them.
//!
//! A tile reads 16 pixels at a constant distance, so a band is copied to *planes* in which the pixels that a tap reads for neighbouring
//! grid pixels are neighbours: with a stride, source pixel `(y, x)` is in the plane of its residues `(y mod stride, x mod stride)`. Rows and
//! images follow each other, so tiles cross them; results for pixels of the padding are not stored. With a stride of 1, the padding on the
//! right of a row is the padding on the left of the next row, and the padding below an image the padding above the next image.
//!
//! Where a tap has few channels, a pixel is the taps of a kernel row: the elements that they read are neighbours in the source.
use super::prologue::load_pixels;
use super::tiles::{BLOCK, STEP, STEP_WORDS, Step};
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::dtype::bf16;
use crate::ops::conv::cpu::ConvInput;
use crate::ops::conv::cpu::direct::plan::{ConvPlan, Phase, TapPosition};
use crate::ops::conv::cpu::groups::Groups;
use std::ops::Range;

/// Most channels for which the taps of a kernel row are joined.
const MAX_JOINED_CHANNELS: usize = 16;
/// Marks grid pixels of the padding in [`Gather::targets`].
pub(super) const NO_TARGET: u32 = u32::MAX;

/// Plan of a convolution over tiles.
pub(super) struct Gather {
    pub(super) plan: ConvPlan,
    /// Source rows as they are stored, if taps of kernel rows are joined.
    joined: Option<JoinedRows>,
}

/// Rows of `width` pixels of `channels` channels, whose windows start at pixel `x * stride - padding`.
struct JoinedRows {
    width: usize,
    channels: usize,
    stride: usize,
    padding: usize,
}

impl Gather {
    pub(super) fn forward(s: &ConvShape) -> Gather {
        let groups = Groups { count: 1, merged: 1, inputs: s.c_in, outputs: s.c_out };
        let mut plan = ConvPlan::forward(s, &groups);
        if s.kernel[1] == 1 || s.dilation[1] != 1 || s.c_in > MAX_JOINED_CHANNELS {
            return Gather { plan, joined: None };
        }
        let joined = JoinedRows { width: s.w, channels: s.c_in, stride: s.stride[1], padding: s.padding[1] };
        plan.depth = s.kernel[1] * s.c_in;
        plan.source = [s.h, plan.grid[1], plan.depth];
        (plan.step[1], plan.pad[1], plan.span[1]) = (1, 0, 1);
        plan.phases[0].taps.retain(|tap| tap.dx == 0);
        Gather { plan, joined: Some(joined) }
    }

    pub(super) fn data_gradient(s: &ConvShape) -> Gather {
        let groups = Groups { count: 1, merged: 1, inputs: s.c_in, outputs: s.c_out };
        Gather { plan: ConvPlan::data_gradient(s, &groups), joined: None }
    }

    /// Reduced elements of a tap, in whole steps.
    pub(super) fn padded_depth(&self) -> usize {
        self.plan.depth.next_multiple_of(STEP)
    }

    /// Copies the channels `channels` of a band to its planes, `[plane][pixel][channel]`, channels padded with zeros to whole steps.
    pub(super) fn copy(
        &self,
        planes: &Planes,
        band: &TileBand,
        source: ConvInput<bf16>,
        channels: Range<usize>,
        out: &mut [bf16],
    ) {
        let [height, width, _] = self.plan.source;
        let padded = channels.len().next_multiple_of(STEP);
        let row_len = planes.pitch * padded;
        for (residues, out) in planes.residues.iter().zip(out.chunks_exact_mut(planes.len * padded)) {
            let [first_x, last_x] = [0, width].map(|x| {
                (self.plan.pad[1] + x)
                    .saturating_sub(residues[1])
                    .div_ceil(self.plan.step[1])
                    .min(planes.pitch)
            });
            let (rows, rest) = out.split_at_mut(planes.rows(band) * row_len);
            for (r, out) in rows.chunks_exact_mut(row_len).enumerate() {
                let image = (r / planes.image_rows).min(band.images - 1);
                let y = (band.y + r - image * planes.image_rows) * self.plan.step[0] + residues[0];
                let y = y.wrapping_sub(self.plan.pad[0]);
                if y >= height || first_x >= last_x {
                    out.fill(bf16::ZERO);
                    continue;
                }
                out[..first_x * padded].fill(bf16::ZERO);
                out[last_x * padded..].fill(bf16::ZERO);
                let row = (band.n + image) * height + y;
                let pixels = &mut out[first_x * padded..last_x * padded];
                let first = first_x * self.plan.step[1] + residues[1] - self.plan.pad[1];
                self.copy_row(row, first, source, channels.clone(), pixels);
            }
            rest.fill(bf16::ZERO);
        }
    }

    /// Copies pixels of a source row from pixel `first` on.
    fn copy_row(
        &self,
        row: usize,
        first: usize,
        source: ConvInput<bf16>,
        channels: Range<usize>,
        out: &mut [bf16],
    ) {
        let padded = channels.len().next_multiple_of(STEP);
        let Some(JoinedRows { width, channels: c, stride, padding }) = self.joined else {
            let [_, width, c] = self.plan.source;
            let pixels = &source.x[(row * width + first) * c..];
            return load_pixels(pixels, self.plan.step[1] * c, source.prologue, channels, out);
        };
        let line = &source.x[row * width * c..][..width * c];
        let mut windows = |line: &[bf16]| {
            for (x, out) in out.chunks_exact_mut(padded).enumerate() {
                let start = ((first + x) * stride * c + channels.start) as isize - (padding * c) as isize;
                let at = |offset: isize| (start + offset).clamp(0, line.len() as isize);
                let elements = at(0)..at(channels.len() as isize);
                let to = (elements.start - start).min(channels.len() as isize) as usize;
                out.fill(bf16::ZERO);
                if !elements.is_empty() {
                    let elements = elements.start as usize..elements.end as usize;
                    out[to..to + elements.len()].copy_from_slice(&line[elements]);
                }
            }
        };
        match source.prologue {
            None => windows(line),
            Some(_) => {
                scratch::with(width * c.next_multiple_of(STEP) + line.len(), |buffer: &mut [bf16]| {
                    let (pixels, line) = buffer.split_at_mut(width * c.next_multiple_of(STEP));
                    load_pixels(&source.x[row * width * c..], c, source.prologue, 0..c, pixels);
                    for (to, from) in
                        line.chunks_exact_mut(c).zip(pixels.chunks_exact(c.next_multiple_of(STEP)))
                    {
                        to.copy_from_slice(&from[..c]);
                    }
                    windows(line);
                })
            }
        }
    }

    /// Writes the target of each grid pixel of a phase in a band, in elements from the start of the target, or [`NO_TARGET`].
    pub(super) fn targets(&self, planes: &Planes, band: &TileBand, phase: &Phase, out: &mut [u32]) {
        let [height, width] = self.plan.extent(phase);
        let [th, tw, tc] = self.plan.target;
        out.fill(NO_TARGET);
        for image in 0..band.images {
            for y in 0..band.rows.min(height.saturating_sub(band.y)) {
                let oy = (band.y + y) * self.plan.spread[0] + phase.origin[0];
                let row = (((band.n + image) * th + oy) * tw + phase.origin[1]) * tc;
                let out = &mut out[(image * planes.image_rows + y) * planes.pitch..][..width];
                for (x, out) in out.iter_mut().enumerate() {
                    *out = (row + x * self.plan.spread[1] * tc) as u32;
                }
            }
        }
    }

    /// Steps of a phase over planes of [`Gather::padded_depth`] channels and the panel of a block.
    pub(super) fn steps(&self, planes: &Planes, phase: &Phase) -> Vec<Step> {
        let padded = self.padded_depth();
        let mut steps = Vec::with_capacity(phase.taps.len() * padded / STEP);
        for tap in &phase.taps {
            let a = planes.tap(&self.plan, tap) * padded;
            let b = tap.row / self.plan.depth * padded / STEP;
            for k in 0..padded / STEP {
                let [a, b] = [(a + k * STEP) * size_of::<bf16>(), (b + k) * STEP_WORDS * size_of::<u32>()];
                steps.push(Step { a: a as u32, b: b as u32 });
            }
        }
        steps
    }
}

/// Partition of the grid: bands of `images` whole images, or of `rows` rows of one image.
pub(super) struct BandSplit {
    images: usize,
    rows: usize,
    /// Bands per image, or per group of images.
    image_bands: usize,
    /// Number of bands.
    pub(super) bands: usize,
}

/// Images `n..n + images`, grid rows `y..y + rows`.
pub(super) struct TileBand {
    pub(super) n: usize,
    pub(super) images: usize,
    pub(super) y: usize,
    pub(super) rows: usize,
}

impl BandSplit {
    /// Bands of about `pixels` grid pixels.
    pub(super) fn of(plan: &ConvPlan, pixels: usize) -> BandSplit {
        let plane = plan.grid[0] * plan.grid[1];
        let (images, rows) = if plane >= pixels {
            (1, plan.grid[0].div_ceil(plan.grid[0].div_ceil((pixels / plan.grid[1]).max(1))))
        } else {
            (plan.n.div_ceil(plan.n.div_ceil((pixels / plane).max(1))), plan.grid[0])
        };
        let image_bands = plan.grid[0].div_ceil(rows);
        BandSplit { images, rows, image_bands, bands: plan.n.div_ceil(images) * image_bands }
    }

    pub(super) fn band(&self, plan: &ConvPlan, number: usize) -> TileBand {
        let (n, y) = (number / self.image_bands * self.images, number % self.image_bands * self.rows);
        TileBand { n, images: self.images.min(plan.n - n), y, rows: self.rows.min(plan.grid[0] - y) }
    }
}

/// Layout of a band's planes, in pixels. Smaller bands use a prefix.
pub(super) struct Planes {
    /// Residues of the rows and columns of each plane.
    residues: Vec<[usize; 2]>,
    pitch: usize,
    image_rows: usize,
    /// Rows that the taps read below a band's last row.
    halo: usize,
    /// Pixels of a plane. Tiles read beyond the last row.
    pub(super) len: usize,
}

impl Planes {
    pub(super) fn new(plan: &ConvPlan, split: &BandSplit) -> Planes {
        let halo = [0, 1].map(|a| (plan.span[a] - 1) / plan.step[a]);
        // Rows and columns with shared padding: the extent of the source with the padding before it, or of the taps without it.
        let shared = |a: usize| {
            (plan.pad[a] + plan.source[a])
                .max((plan.grid[a] + halo[a]).saturating_sub(plan.pad[a]))
                .max(plan.grid[a])
        };
        let pitch = if plan.step[1] == 1 { shared(1) } else { plan.grid[1] + halo[1] };
        let image_rows =
            if plan.step[0] == 1 && split.rows == plan.grid[0] { shared(0) } else { split.rows + halo[0] };
        let mut residues: Vec<[usize; 2]> = plan
            .phases
            .iter()
            .flat_map(|phase| &phase.taps)
            .map(|tap| [tap.dy % plan.step[0], tap.dx % plan.step[1]])
            .collect();
        residues.sort_unstable();
        residues.dedup();
        let mut planes = Planes { residues, pitch, image_rows, halo: halo[0], len: 0 };
        let whole = TileBand { n: 0, images: split.images, y: 0, rows: split.rows };
        let farthest = halo[0] * pitch + halo[1];
        planes.len =
            (planes.rows(&whole) * pitch).max(planes.pixels(&whole).next_multiple_of(BLOCK) + farthest);
        planes
    }

    /// Number of planes.
    pub(super) fn count(&self) -> usize {
        self.residues.len()
    }

    /// Grid pixels of a band, with those of the padding between rows and images.
    pub(super) fn pixels(&self, band: &TileBand) -> usize {
        ((band.images - 1) * self.image_rows + band.rows) * self.pitch
    }

    /// Plane rows of a band.
    fn rows(&self, band: &TileBand) -> usize {
        (band.images - 1) * self.image_rows + band.rows + self.halo
    }

    /// Pixel that a tap reads for the first grid pixel, counted through all planes.
    pub(super) fn tap(&self, plan: &ConvPlan, tap: &TapPosition) -> usize {
        let residues = [tap.dy % plan.step[0], tap.dx % plan.step[1]];
        let plane = self.residues.iter().position(|r| *r == residues).expect("the residues of every tap");
        plane * self.len + tap.dy / plan.step[0] * self.pitch + tap.dx / plan.step[1]
    }
}
