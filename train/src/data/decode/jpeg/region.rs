//! Decoding of a region of a baseline JPEG, bit-identical with libjpeg-turbo's default: accurate inverse DCT, chroma upsampled by the triangle
//! filter. All entropy-coded data above the region's last row are read, but only blocks of the region are transformed.
use super::block_plane::BlockPlane;
use super::header::{BaselineJpeg, ComponentTables};
use super::huffman::BitReader;
use super::scan::ScanData;
use fornax_engine::ImageBox;
use fornax_engine::cpu::image::upsample::{double_both, double_width};
use fornax_engine::cpu::image::ycbcr::ycbcr_to_rgb;
use std::ops::Range;

/// Pixels of a region of the image, 1 (grey) or 3 (RGB) bytes each. `None` if the data are damaged or truncated.
pub fn decode(jpeg: &BaselineJpeg<'_>, region: ImageBox) -> Option<Vec<u8>> {
    let tables: Vec<ComponentTables<'_>> =
        jpeg.components.iter().map(|component| jpeg.tables(component)).collect::<Option<_>>()?;
    let rows = region.top as usize..region.bottom as usize;
    let columns = region.left as usize..region.right as usize;
    let [all_rows, all_columns] = mcus(jpeg);
    // The MCUs with pixels of the region and their neighbours, from which chroma is interpolated.
    let needed = [(&rows, all_rows), (&columns, all_columns)];
    let [mcu_rows, mcu_columns] = [0, 1].map(|axis| {
        let (pixels, all) = needed[axis];
        let factor = jpeg.sampling()[axis];
        let context = usize::from(factor > 1);
        let first = (pixels.start / factor).saturating_sub(context) / 8;
        first..(((pixels.end - 1) / factor + context) / 8 + 1).min(all)
    });
    let mut planes: Vec<BlockPlane<'_>> = jpeg
        .components
        .iter()
        .zip(&tables)
        .map(|(component, tables)| {
            let [down, across] = component.sampling;
            BlockPlane::new(mcu_columns.len() * across, down, tables.quantization)
        })
        .collect();
    let mut output = RegionRows::new(jpeg, columns, mcu_columns.start);
    let mut next_row = rows.start;
    let mut pixels = vec![0; rows.len() * output.row_bytes()];
    let mut out_rows = pixels.chunks_exact_mut(output.row_bytes());

    let data = ScanData::new(jpeg.scan);
    let mut segments = data.segments().map(BitReader::new);
    let mut reader = segments.next()?;
    let mut mcus_left = if jpeg.restart_interval > 0 { jpeg.restart_interval } else { usize::MAX };
    let mut dc = [0i32; 3];
    for mcu_row in 0..mcu_rows.end {
        for mcu_column in 0..all_columns {
            if mcus_left == 0 {
                if reader.is_past_end() {
                    return None;
                }
                reader = segments.next()?;
                (mcus_left, dc) = (jpeg.restart_interval, [0; 3]);
            }
            mcus_left -= 1;
            let is_needed = mcu_row >= mcu_rows.start && mcu_columns.contains(&mcu_column);
            for (k, (tables, plane)) in tables.iter().zip(&mut planes).enumerate() {
                let [down, across] = jpeg.components[k].sampling;
                for y in 0..down {
                    for x in 0..across {
                        dc[k] = dc[k].wrapping_add(reader.dc(tables.dc)?);
                        if is_needed {
                            let place =
                                [8 * (mcu_row * down + y), (mcu_column - mcu_columns.start) * across + x];
                            plane.read_block(place, dc[k] as i16, &mut reader, tables.ac)?;
                        } else {
                            reader.ac(tables.ac, |_, _| {})?;
                        }
                    }
                }
            }
        }
        if reader.is_past_end() {
            return None;
        }
        if mcu_row < mcu_rows.start {
            continue;
        }
        planes.iter_mut().for_each(BlockPlane::flush);
        // If chroma is halved, the last row of pixels needs the next row of chroma.
        let down = jpeg.sampling()[0];
        let complete = (mcu_row + 1) * 8 * down + 1 - down;
        let end = if mcu_row + 1 == mcu_rows.end { rows.end } else { complete.clamp(next_row, rows.end) };
        for (row, out) in (next_row..end).zip(&mut out_rows) {
            output.write(&planes, row, out);
        }
        next_row = end;
    }
    Some(pixels)
}

/// Number of MCUs along each axis.
fn mcus(jpeg: &BaselineJpeg<'_>) -> [usize; 2] {
    [0, 1].map(|axis| jpeg.size[axis].div_ceil(8 * jpeg.sampling()[axis]))
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
    fn new(jpeg: &BaselineJpeg<'_>, columns: Range<usize>, mcu: usize) -> RegionRows {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The decoder itself, without the guard that makes a panic an error of the file.
    #[test]
    fn mutated_files_do_not_panic() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders");
        let mut state = 5u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let (mut images, mut errors, mut declined) = (0, 0, 0);
        for name in ["444", "422", "420", "420_restarts", "422_optimised", "grey"] {
            let good = std::fs::read(cases.join(format!("baseline_{name}.jpg"))).expect("reads");
            for _ in 0..500 {
                let mut bad = good.clone();
                for _ in 0..=random(3) {
                    let at = random(bad.len());
                    match random(4) {
                        0 => bad[at] ^= 1 << random(8),
                        1 => bad[at] = 0xff,
                        2 => bad[at] = random(256) as u8,
                        _ => {
                            bad.remove(at);
                        }
                    }
                }
                let Some(jpeg) = BaselineJpeg::read(&bad) else {
                    declined += 1;
                    continue;
                };
                let [h, w] = jpeg.size;
                let (top, left) = (random(h.min(999)), random(w.min(999)));
                let [top, bottom, left, right] =
                    [top, top + 1 + random((h - top).min(99)), left, left + 1 + random((w - left).min(99))];
                let [t, b, l, r] = [top, bottom, left, right].map(|side| side as u32);
                match decode(&jpeg, ImageBox { top: t, bottom: b, left: l, right: r }) {
                    Some(pixels) => {
                        assert_eq!(pixels.len(), (bottom - top) * (right - left) * jpeg.components.len());
                        images += 1;
                    }
                    None => errors += 1,
                }
            }
        }
        assert!(images > 300 && errors > 100 && declined > 300, "{images}, {errors}, {declined}");
    }
}
