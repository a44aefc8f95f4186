//! Header of a JPEG: size, components, tables and the position of its first scan (annex B of ITU-T T.81).
use super::huffman::HuffmanTable;
use super::{END_OF_IMAGE, SCAN, Segments, has_end_of_image};
use crate::data::decode::MAX_PIXELS;

/// Index in a block, counted row by row, of each coefficient in zigzag order.
pub const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// JPEG markers.
const START_OF_IMAGE: [u8; 2] = [0xff, 0xd8];
const BASELINE_FRAME: u8 = 0xc0;
const EXTENDED_FRAME: u8 = 0xc1;
const PROGRESSIVE_FRAME: u8 = 0xc2;
const HUFFMAN_TABLES: u8 = 0xc4;
const QUANTIZATION_TABLES: u8 = 0xdb;
const RESTART_INTERVAL: u8 = 0xdd;
const ADOBE: u8 = 0xee;

/// JPEG in grey or YCbCr with Huffman codes, baseline with one scan or progressive: nearly every photo. Chroma may be half as wide, or half as
/// wide and high.
pub struct Jpeg<'a> {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Grey, or Y, Cb and Cr.
    pub components: Vec<Component>,
    /// Coefficients are split into several scans.
    pub is_progressive: bool,
    /// Tables of the first scan.
    pub tables: Tables,
    /// The first scan; the only one of a baseline file.
    pub scan: Scan<'a>,
}

/// Colour component.
pub struct Component {
    id: u8,
    /// Vertical and horizontal sampling factor, 1 or 2: blocks per MCU.
    pub sampling: [usize; 2],
    /// Index of the quantization table.
    pub quantization: usize,
}

/// Tables that segments between the scans redefine.
#[derive(Clone, Default)]
pub struct Tables {
    /// Quantization steps, row by row.
    pub quantization: [Option<Box<[u16; 64]>>; 4],
    pub dc: [Option<HuffmanTable>; 4],
    pub ac: [Option<HuffmanTable>; 4],
    /// Number of MCUs between restart markers; 0 for none.
    pub restart_interval: usize,
}

/// Scan: some coefficients of some components.
#[derive(Clone, Default)]
pub struct Scan<'a> {
    pub components: Vec<ScanComponent>,
    /// First and last coefficient, in zigzag order.
    pub band: [usize; 2],
    /// Lowest bit of the coefficients before this scan; 0 for none.
    pub high: u8,
    /// Lowest bit of the coefficients after this scan.
    pub low: u8,
    /// The file from the entropy-coded data on.
    pub data: &'a [u8],
}

/// Component of a scan.
#[derive(Clone, Copy)]
pub struct ScanComponent {
    /// Index of the component in the frame.
    pub index: usize,
    /// Indices of the Huffman tables.
    pub dc: usize,
    pub ac: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the header. `None` for a damaged or truncated file, and for every other kind of JPEG.
    pub fn read(bytes: &'a [u8]) -> Option<Jpeg<'a>> {
        let mut rest = bytes.strip_prefix(&START_OF_IMAGE)?;
        let mut jpeg = Jpeg {
            size: [0; 2],
            components: vec![],
            is_progressive: false,
            tables: Tables::default(),
            scan: Scan::default(),
        };
        let mut segments = Segments(rest);
        loop {
            let (marker, segment) = segments.next()?;
            match marker {
                BASELINE_FRAME | EXTENDED_FRAME | PROGRESSIVE_FRAME => {
                    jpeg.is_progressive = marker == PROGRESSIVE_FRAME;
                    jpeg.frame(segment)?;
                }
                // Its transform 1 is YCbCr.
                ADOBE if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => return None,
                SCAN => {
                    rest = segments.0;
                    jpeg.scan = Scan::read(segment, &jpeg.components, rest)?;
                    break;
                }
                _ => jpeg.tables.read(marker, segment)?,
            }
        }
        // A baseline scan has all coefficients of all components.
        let is_whole = jpeg.scan.components.len() == jpeg.components.len()
            && (jpeg.scan.band, jpeg.scan.high, jpeg.scan.low) == ([0, 63], 0, 0);
        // A truncated file is an error even if its missing part is not needed.
        ((jpeg.is_progressive || is_whole) && has_end_of_image(rest)).then_some(jpeg)
    }

    /// Number of blocks of the first component in each MCU, along each axis.
    pub fn sampling(&self) -> [usize; 2] {
        self.components[0].sampling
    }

    /// Number of MCUs along each axis.
    pub fn mcus(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.size[axis].div_ceil(8 * self.sampling()[axis]))
    }

    /// The scan after the previous one's data, whose tables are read into `tables`. `Some(None)` at the end of the image, `None` for damage.
    pub fn next_scan(&self, tables: &mut Tables, rest: &'a [u8]) -> Option<Option<Scan<'a>>> {
        let mut segments = Segments(rest);
        loop {
            segments.skip_padding();
            if segments.0.starts_with(&END_OF_IMAGE) {
                return Some(None);
            }
            match segments.next()? {
                (SCAN, segment) => return Scan::read(segment, &self.components, segments.0).map(Some),
                (marker, segment) => tables.read(marker, segment)?,
            }
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let bits = *segment.first()?;
        let (height, width, count) =
            (u16_at(segment, 1)?, u16_at(segment, 3)?, usize::from(*segment.get(5)?));
        let pixels = height * width;
        if bits != 8
            || !self.components.is_empty()
            || !matches!(count, 1 | 3)
            || !(1..=MAX_PIXELS).contains(&pixels)
        {
            return None;
        }
        self.size = [height, width];
        for component in segment.get(6..6 + 3 * count)?.chunks_exact(3) {
            // The MCU of a single component is one block.
            let factors = if count == 1 { 0x11 } else { component[1] };
            self.components.push(Component {
                id: component[0],
                sampling: [usize::from(factors & 15), usize::from(factors >> 4)],
                quantization: usize::from(component[2]),
            });
        }
        let supported = matches!(self.sampling(), [1, 1 | 2] | [2, 2]);
        let whole_chroma = self.components[1..].iter().all(|chroma| chroma.sampling == [1, 1]);
        let rgb = count == 3 && self.components[0].id == b'R';
        (supported && whole_chroma && !rgb).then_some(())
    }
}

impl Tables {
    /// Reads a segment between the frame and the scans. `None` for a damaged segment or one that is not supported.
    fn read(&mut self, marker: u8, segment: &[u8]) -> Option<()> {
        match marker {
            HUFFMAN_TABLES => self.huffman_tables(segment)?,
            QUANTIZATION_TABLES => self.quantization_tables(segment)?,
            RESTART_INTERVAL => self.restart_interval = u16_at(segment, 0)?,
            // Applications' data and comments.
            0xe0..=0xef | 0xfe => {}
            _ => return None,
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [place, tables @ ..] = segment {
            let counts: &[u8; 16] = tables.first_chunk()?;
            let end = 16 + counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let table = HuffmanTable::new(counts, tables.get(16..end)?)?;
            let destinations = if place >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *destinations.get_mut(usize::from(place & 15))? = Some(table);
            segment = &tables[end..];
        }
        Some(())
    }

    fn quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [place, tables @ ..] = segment {
            let bytes = if place >> 4 == 0 { 1 } else { 2 };
            let values = tables.get(..64 * bytes)?;
            let mut table = Box::new([0; 64]);
            for (i, value) in ZIGZAG.into_iter().zip(values.chunks_exact(bytes)) {
                table[usize::from(i)] = value.iter().fold(0, |value, byte| value << 8 | u16::from(*byte));
            }
            *self.quantization.get_mut(usize::from(place & 15))? = Some(table);
            segment = &tables[64 * bytes..];
        }
        Some(())
    }
}

impl<'a> Scan<'a> {
    /// Reads the header of a scan, whose data follow it.
    fn read(segment: &[u8], frame: &[Component], data: &'a [u8]) -> Option<Scan<'a>> {
        let count = usize::from(*segment.first()?);
        let mut components: Vec<ScanComponent> = vec![];
        for choice in segment.get(1..1 + 2 * count)?.chunks_exact(2) {
            // In the order of the frame.
            let first = components.last().map_or(0, |last| last.index + 1);
            let index = first + frame[first..].iter().position(|component| component.id == choice[0])?;
            let [dc, ac] = [choice[1] >> 4, choice[1] & 15].map(usize::from);
            components.push(ScanComponent { index, dc, ac });
        }
        let [start, end, bits] = *segment.get(1 + 2 * count..)? else { return None };
        let scan =
            Scan { components, band: [start, end].map(usize::from), high: bits >> 4, low: bits & 15, data };
        (count > 0).then_some(scan)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}
