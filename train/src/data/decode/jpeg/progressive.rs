//! Coefficients of a progressive JPEG from its scans (annex G of ITU-T T.81). All scans are read, whatever the region.
use super::JpegRepair;
use super::header::{Component, Jpeg, Scan, Tables};
use super::huffman::{BitReader, HuffmanTable};
use super::region::RegionPixels;
use super::scan::ScanData;
use fornax_engine::ImageBox;

/// Maximum number of scans; encoders write about ten.
const MAX_SCANS: usize = 1000;
/// Highest value of a scan's lowest bit.
const MAX_LOW_BIT: u8 = 13;

/// Pixels of a region of the image, 1 (grey) or 3 (RGB) bytes each. As in libjpeg, the last scans may be missing. `None` if the data are
/// damaged or truncated.
pub fn decode(jpeg: &Jpeg<'_>, region: ImageBox) -> Option<(Vec<u8>, Option<JpegRepair>)> {
    let components = read_scans(jpeg)?;
    let is_complete = components.iter().all(|component| component.low_bits == [Some(0); 64]);
    let quantization: Vec<&[u16; 64]> =
        components.iter().map(|component| component.quantization.as_deref()).collect::<Option<_>>()?;
    let mut pixels = RegionPixels::new(jpeg, region, &quantization);
    for mcu_row in pixels.mcu_rows.clone() {
        for (component, plane) in components.iter().zip(&mut pixels.planes) {
            let [down, across] = component.sampling;
            let columns = pixels.mcu_columns.start * across..pixels.mcu_columns.end * across;
            for row in mcu_row * down..(mcu_row + 1) * down {
                let blocks = &component.blocks[row * component.stride..][columns.clone()];
                for (column, block) in blocks.iter().enumerate() {
                    plane.store_block([8 * row, column], block);
                }
            }
        }
        pixels.finish_mcu_row(mcu_row);
    }
    Some((pixels.into_pixels(), (!is_complete).then_some(JpegRepair::MissingScans)))
}

/// Coefficients of a component.
struct Coefficients {
    /// Blocks in whole MCUs, row by row, their coefficients in zigzag order.
    blocks: Vec<[i16; 64]>,
    /// Blocks in a row.
    stride: usize,
    /// Rows and columns of blocks with pixels: those of a scan of this component alone.
    size: [usize; 2],
    sampling: [usize; 2],
    /// Lowest bit so far of each coefficient; `None` before its first scan.
    low_bits: [Option<u8>; 64],
    /// Quantization table at the component's first scan.
    quantization: Option<Box<[u16; 64]>>,
}

impl Coefficients {
    /// Zeros for a component.
    fn new(jpeg: &Jpeg<'_>, component: &Component) -> Coefficients {
        let (mcus, sampling) = (jpeg.mcus(), component.sampling);
        let stride = mcus[1] * sampling[1];
        Coefficients {
            blocks: vec![[0; 64]; mcus[0] * sampling[0] * stride],
            stride,
            size: [0, 1]
                .map(|axis| (jpeg.size[axis] * sampling[axis]).div_ceil(jpeg.sampling()[axis]).div_ceil(8)),
            sampling,
            low_bits: [None; 64],
            quantization: None,
        }
    }
}

/// Reads the coefficients of each component. `None` unless the scans that exist are valid, and each component has DC coefficients.
fn read_scans(jpeg: &Jpeg<'_>) -> Option<Vec<Coefficients>> {
    let mut components: Vec<Coefficients> =
        jpeg.components.iter().map(|component| Coefficients::new(jpeg, component)).collect();
    let (mut tables, mut scan) = (jpeg.tables.clone(), jpeg.scan.clone());
    for _ in 0..MAX_SCANS {
        for choice in &scan.components {
            let component = &mut components[choice.index];
            if component.quantization.is_none() {
                let table = tables.quantization.get(jpeg.components[choice.index].quantization)?;
                component.quantization.clone_from(table);
            }
        }
        let data = ScanData::new(scan.data);
        read_scan(&mut components, jpeg.mcus(), &tables, &scan, &data)?;
        match jpeg.next_scan(&mut tables, data.rest)? {
            Some(next) => scan = next,
            None => {
                let has_means = components.iter().all(|component| component.low_bits[0].is_some());
                return has_means.then_some(components);
            }
        }
    }
    None
}

/// Adds the bits of a scan to the coefficients.
fn read_scan(
    components: &mut [Coefficients],
    mcus: [usize; 2],
    tables: &Tables,
    scan: &Scan<'_>,
    data: &ScanData<'_>,
) -> Option<()> {
    let [start, end] = scan.band;
    // DC coefficients have their own scans, and AC coefficients a scan for each component.
    let is_dc = start == 0;
    let is_alone = scan.components.len() == 1;
    let band_is_valid = if is_dc { end == 0 } else { is_alone && start <= end && end < 64 };
    if !band_is_valid || scan.low > MAX_LOW_BIT {
        return None;
    }
    // A scan begins the coefficients, or adds the bit below the previous ones.
    let previous = (scan.high > 0).then_some(scan.high);
    if previous.is_some_and(|high| high != scan.low + 1) {
        return None;
    }
    for choice in &scan.components {
        let low_bits = &mut components[choice.index].low_bits[start..=end];
        if low_bits.iter().any(|low| *low != previous) {
            return None;
        }
        low_bits.fill(Some(scan.low));
    }
    let code = |destinations: &'_ [Option<HuffmanTable>; 4], at: usize| destinations.get(at)?.clone();
    let mut coders = vec![];
    for choice in &scan.components {
        coders.push(match (is_dc, previous) {
            (true, None) => BlockCoder::DcFirst { code: code(&tables.dc, choice.dc)?, prediction: 0 },
            (true, Some(_)) => BlockCoder::DcRefine,
            (false, None) => BlockCoder::AcFirst { code: code(&tables.ac, choice.ac)?, skipped: 0 },
            (false, Some(_)) => BlockCoder::AcRefine { code: code(&tables.ac, choice.ac)?, skipped: 0 },
        });
    }
    // The MCU of a component alone is one block, and there are none without pixels.
    let [rows, columns] = if is_alone { components[scan.components[0].index].size } else { mcus };
    let mut reader = data.reader(tables.restart_interval)?;
    for row in 0..rows {
        for column in 0..columns {
            if reader.next_mcu()? {
                coders.iter_mut().for_each(BlockCoder::restart);
            }
            for (choice, coder) in scan.components.iter().zip(&mut coders) {
                let component = &mut components[choice.index];
                let [down, across] = if is_alone { [1, 1] } else { component.sampling };
                for y in 0..down {
                    for x in 0..across {
                        let at = (row * down + y) * component.stride + column * across + x;
                        coder.read(&mut component.blocks[at], scan, &mut reader.bits)?;
                    }
                }
            }
        }
        if reader.bits.is_past_end() {
            return None;
        }
    }
    Some(())
}

/// Decoder of the blocks of a component in a scan.
enum BlockCoder {
    /// The DC coefficients without their low bits, as differences.
    DcFirst { code: HuffmanTable, prediction: i32 },
    /// One more bit of the DC coefficients.
    DcRefine,
    /// AC coefficients without their low bits. `skipped` is the number of next blocks in which all of them are 0.
    AcFirst { code: HuffmanTable, skipped: u32 },
    /// One more bit of AC coefficients. `skipped` is the number of next blocks in which none becomes other than 0.
    AcRefine { code: HuffmanTable, skipped: u32 },
}

impl BlockCoder {
    /// Resets the state after a restart marker.
    fn restart(&mut self) {
        match self {
            BlockCoder::DcFirst { prediction, .. } => *prediction = 0,
            BlockCoder::AcFirst { skipped, .. } | BlockCoder::AcRefine { skipped, .. } => *skipped = 0,
            BlockCoder::DcRefine => {}
        }
    }

    /// Reads a block's part of a scan. `None` for an invalid code.
    #[inline(always)]
    fn read(&mut self, block: &mut [i16; 64], scan: &Scan<'_>, bits: &mut BitReader<'_>) -> Option<()> {
        match self {
            BlockCoder::DcFirst { code, prediction } => {
                *prediction = prediction.wrapping_add(bits.dc(code)?);
                block[0] = (*prediction << scan.low) as i16;
            }
            BlockCoder::DcRefine => block[0] |= (bits.plain(1) << scan.low) as i16,
            BlockCoder::AcFirst { skipped: skipped @ 1.., .. } => *skipped -= 1,
            BlockCoder::AcFirst { code, skipped } => *skipped = ac_first(block, scan, bits, code)?,
            BlockCoder::AcRefine { skipped: skipped @ 1.., .. } => {
                *skipped -= 1;
                ac_refine_zeros(block, scan.band, usize::MAX, scan.low, bits);
            }
            BlockCoder::AcRefine { code, skipped } => *skipped = ac_refine(block, scan, bits, code)?,
        }
        Some(())
    }
}

/// Reads the high bits of AC coefficients. Returns the number of next blocks without any, or `None` for an invalid code.
fn ac_first(
    block: &mut [i16; 64],
    scan: &Scan<'_>,
    bits: &mut BitReader<'_>,
    code: &HuffmanTable,
) -> Option<u32> {
    let [mut index, end] = scan.band;
    while index <= end {
        match bits.run(code)? {
            // 16 zeros.
            (15, 0) => index += 16,
            (run, 0) => return Some(end_of_band(run, bits)),
            (zeros, value) => {
                index += zeros;
                if index > end {
                    return None;
                }
                block[index] = (value << scan.low) as i16;
                index += 1;
            }
        }
    }
    Some(0)
}

/// Reads one more bit of AC coefficients. Returns the number of next blocks in which none becomes other than 0, or `None` for an invalid
/// code.
fn ac_refine(
    block: &mut [i16; 64],
    scan: &Scan<'_>,
    bits: &mut BitReader<'_>,
    code: &HuffmanTable,
) -> Option<u32> {
    let [mut index, end] = scan.band;
    while index <= end {
        match bits.run(code)? {
            (zeros @ ..15, 0) => {
                let skipped = end_of_band(zeros, bits);
                ac_refine_zeros(block, [index, end], usize::MAX, scan.low, bits);
                return Some(skipped);
            }
            (zeros, value @ -1..=1) => {
                index = ac_refine_zeros(block, [index, end], zeros, scan.low, bits);
                if value != 0 {
                    // A coefficient past the band is an error.
                    *block[..=end].get_mut(index)? = (value << scan.low) as i16;
                }
                index += 1;
            }
            _ => return None,
        }
    }
    Some(0)
}

/// Reads one more bit of the coefficients of a band that are not 0, up to the zero after `zeros` others. Returns that one's index, or one past
/// the band.
fn ac_refine_zeros(
    block: &mut [i16; 64],
    [start, end]: [usize; 2],
    zeros: usize,
    low: u8,
    bits: &mut BitReader<'_>,
) -> usize {
    let (bit, mut zeros) = (1i16 << low, zeros);
    for (index, value) in block.iter_mut().enumerate().take(end + 1).skip(start) {
        if *value == 0 {
            if zeros == 0 {
                return index;
            }
            zeros -= 1;
        } else if bits.plain(1) == 1 && *value & bit == 0 {
            *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
        }
    }
    end + 1
}

/// Number of blocks after this one that the end of a band also ends: the run's length in powers of two, and its lower bits.
fn end_of_band(run: usize, bits: &mut BitReader<'_>) -> u32 {
    let run = run as u32;
    (1 << run) - 1 + bits.plain(run)
}
