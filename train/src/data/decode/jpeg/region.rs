//! Pixels of a region of a JPEG from the coefficients of its blocks, bit-identical with libjpeg-turbo's default: accurate inverse DCT, chroma
//! upsampled by the triangle filter. Only blocks of the region are transformed.
use super::block_plane::BlockPlane;
use super::header::Jpeg;
use fornax_engine::ImageBox;
use fornax_engine::cpu::image::upsample::{double_both, double_width};
use fornax_engine::cpu::image::ycbcr::ycbcr_to_rgb;
use std::ops::Range;

/// Pixels of a region, computed as rows of MCUs become complete.
pub struct RegionPixels<'a> {
    /// The MCUs with pixels of the region and their neighbours, from which chroma is interpolated.
    pub mcu_rows: Range<usize>,
    pub mcu_columns: Range<usize>,
    /// Samples of the components.
    pub planes: Vec<BlockPlane<'a>>,
    /// Vertical sampling factor of the first component.
    down: usize,
    rows: RegionRows,
    /// First row without pixels, and the end of the region's rows.
    next_row: usize,
    end: usize,
    pixels: Vec<u8>,
    /// Bytes of the rows with pixels.
    written: usize,
}

impl<'a> RegionPixels<'a> {
    /// No pixels yet of a region, with the quantization steps of each component.
    pub fn new(jpeg: &Jpeg<'_>, region: ImageBox, quantization: &[&'a [u16; 64]]) -> RegionPixels<'a> {
        let rows = region.top as usize..region.bottom as usize;
        let columns = region.left as usize..region.right as usize;
        let needed = [&rows, &columns];
        let [mcu_rows, mcu_columns] = [0, 1].map(|axis| {
            let (pixels, factor) = (needed[axis], jpeg.sampling()[axis]);
            let context = usize::from(factor > 1);
            let first = (pixels.start / factor).saturating_sub(context) / 8;
            first..(((pixels.end - 1) / factor + context) / 8 + 1).min(jpeg.mcus()[axis])
        });
        let plane = |k: usize| {
            let [down, across] = jpeg.components[k].sampling;
            BlockPlane::new(mcu_columns.len() * across, down, quantization[k])
        };
        let planes = (0..jpeg.components.len()).map(plane).collect();
        let writer = RegionRows::new(jpeg, columns, mcu_columns.start);
        let pixels = vec![0; rows.len() * writer.row_bytes()];
        let (next_row, end) = (rows.start, rows.end);
        let down = jpeg.sampling()[0];
        RegionPixels { mcu_rows, mcu_columns, planes, down, rows: writer, next_row, end, pixels, written: 0 }
    }

    /// Computes the pixels that do not depend on the MCUs below a row, all of whose blocks are in the planes.
    pub fn finish_mcu_row(&mut self, mcu_row: usize) {
        self.planes.iter_mut().for_each(BlockPlane::flush);
        // If chroma is halved, the last row of pixels needs the next row of chroma.
        let complete = (mcu_row + 1) * 8 * self.down + 1 - self.down;
        let is_last = mcu_row + 1 == self.mcu_rows.end;
        let end = if is_last { self.end } else { complete.clamp(self.next_row, self.end) };
        let row_bytes = self.rows.row_bytes();
        for (row, out) in (self.next_row..end).zip(self.pixels[self.written..].chunks_exact_mut(row_bytes)) {
            self.rows.write(&self.planes, row, out);
            self.written += row_bytes;
        }
        self.next_row = end;
    }

    /// The pixels, 1 (grey) or 3 (RGB) bytes each, after the last row of MCUs.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }
}

/// Writer of the region's rows.
struct RegionRows {
    /// Columns of the region.
    columns: Range<usize>,
    /// First column of the luma plane, and of the chroma planes.
    first: [usize; 2],
    sampling: [usize; 2],
    /// Height and width of chroma.
    chroma: [usize; 2],
    is_grey: bool,
    /// Rows of chroma with one more sample at each end: the row of a pixel, and the nearest other row.
    near: Vec<u8>,
    far: Vec<u8>,
    /// Upsampled rows of Cb and Cr.
    upsampled: [Vec<u8>; 2],
}

impl RegionRows {
    /// The columns of a region, of planes from an MCU on.
    fn new(jpeg: &Jpeg<'_>, columns: Range<usize>, mcu: usize) -> RegionRows {
        let sampling = jpeg.sampling();
        let count = columns.end.div_ceil(sampling[1]) - columns.start / sampling[1];
        RegionRows {
            first: [mcu * 8 * sampling[1], mcu * 8],
            sampling,
            chroma: [0, 1].map(|axis| jpeg.size[axis].div_ceil(sampling[axis])),
            is_grey: jpeg.components.len() == 1,
            near: vec![0; count + 2],
            far: vec![0; count + 2],
            upsampled: [0, 1].map(|_| vec![0; count * sampling[1]]),
            columns,
        }
    }

    fn row_bytes(&self) -> usize {
        self.columns.len() * if self.is_grey { 1 } else { 3 }
    }

    /// Writes a row of pixels.
    fn write(&mut self, planes: &[BlockPlane<'_>], row: usize, out: &mut [u8]) {
        let luma = &planes[0].row(row)[self.columns.start - self.first[0]..][..self.columns.len()];
        let [_, cb, cr] = planes else {
            out.copy_from_slice(luma);
            return;
        };
        let [down, across] = self.sampling;
        if across == 1 {
            let first = self.columns.start - self.first[1];
            return ycbcr_to_rgb(luma, &cb.row(row)[first..], &cr.row(row)[first..], out);
        }
        for (plane, upsampled) in [cb, cr].into_iter().zip(&mut self.upsampled) {
            let load = |row: usize, padded: &mut [u8]| {
                let (samples, first) = (plane.row(row), self.columns.start / across);
                let (count, at) = (padded.len() - 2, |column: usize| column - self.first[1]);
                padded[0] = samples[at(first.saturating_sub(1))];
                padded[1..=count].copy_from_slice(&samples[at(first)..][..count]);
                padded[count + 1] = samples[at((first + count).min(self.chroma[1] - 1))];
            };
            load(row / down, &mut self.near);
            // libjpeg does not interpolate rows of one or two samples.
            if self.chroma[1] <= 2 {
                upsampled.iter_mut().enumerate().for_each(|(x, value)| *value = self.near[1 + x / 2]);
                continue;
            }
            if down == 1 {
                double_width(&self.near, upsampled);
                continue;
            }
            let nearest = if row.is_multiple_of(2) { (row / 2).saturating_sub(1) } else { row / 2 + 1 };
            load(nearest.min(self.chroma[0] - 1), &mut self.far);
            double_both(&self.near, &self.far, upsampled);
        }
        let skipped = self.columns.start % across;
        ycbcr_to_rgb(luma, &self.upsampled[0][skipped..], &self.upsampled[1][skipped..], out);
    }
}
