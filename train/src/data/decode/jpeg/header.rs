//! Header of a baseline JPEG: sizes, tables and the position of its scan (annex B of ITU-T T.81).
use super::has_end_of_image;
use super::huffman::HuffmanTable;
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
const HUFFMAN_TABLES: u8 = 0xc4;
const SCAN: u8 = 0xda;
const QUANTIZATION_TABLES: u8 = 0xdb;
const RESTART_INTERVAL: u8 = 0xdd;
const ADOBE: u8 = 0xee;

/// Baseline JPEG in grey or YCbCr with one scan: nearly every photo. Chroma may be half as wide, or half as wide and high.
pub struct BaselineJpeg<'a> {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Grey, or Y, Cb and Cr.
    pub components: Vec<Component>,
    /// Number of MCUs between restart markers; 0 for none.
    pub restart_interval: usize,
    /// The file from the entropy-coded data on.
    pub scan: &'a [u8],
    quantization: [Option<Box<[u16; 64]>>; 4],
    dc: [Option<HuffmanTable>; 4],
    ac: [Option<HuffmanTable>; 4],
}

/// Colour component.
pub struct Component {
    id: u8,
    /// Vertical and horizontal sampling factor, 1 or 2: blocks per MCU.
    pub sampling: [usize; 2],
    quantization: usize,
    dc: usize,
    ac: usize,
}

/// Tables of a component.
pub struct ComponentTables<'a> {
    pub dc: &'a HuffmanTable,
    pub ac: &'a HuffmanTable,
    /// Quantization steps, row by row.
    pub quantization: &'a [u16; 64],
}

impl<'a> BaselineJpeg<'a> {
    /// Reads the header. `None` for a damaged or truncated file, and for every other kind of JPEG.
    pub fn read(bytes: &'a [u8]) -> Option<BaselineJpeg<'a>> {
        let mut rest = bytes.strip_prefix(&START_OF_IMAGE)?;
        let mut jpeg = BaselineJpeg {
            size: [0; 2],
            components: vec![],
            restart_interval: 0,
            scan: &[],
            quantization: Default::default(),
            dc: Default::default(),
            ac: Default::default(),
        };
        loop {
            let [0xff, marker, ..] = *rest else { return None };
            if marker == 0xff {
                rest = &rest[1..];
                continue;
            }
            let length = u16_at(rest, 2)?;
            let segment = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                BASELINE_FRAME | EXTENDED_FRAME => jpeg.frame(segment)?,
                HUFFMAN_TABLES => jpeg.huffman_tables(segment)?,
                QUANTIZATION_TABLES => jpeg.quantization_tables(segment)?,
                RESTART_INTERVAL => jpeg.restart_interval = u16_at(segment, 0)?,
                // Its transform 1 is YCbCr.
                ADOBE if segment.starts_with(b"Adobe") && segment.get(11) != Some(&1) => return None,
                0xe0..=0xef | 0xfe => {}
                SCAN => {
                    jpeg.scan_header(segment)?;
                    // A truncated file is an error even if its missing part is not needed.
                    if !has_end_of_image(rest) {
                        return None;
                    }
                    jpeg.scan = rest;
                    return Some(jpeg);
                }
                _ => return None,
            }
        }
    }

    /// Number of blocks of the first component in each MCU, along each axis.
    pub fn sampling(&self) -> [usize; 2] {
        self.components[0].sampling
    }

    /// Tables of a component. `None` if the file lacks one.
    pub fn tables(&self, component: &Component) -> Option<ComponentTables<'_>> {
        Some(ComponentTables {
            dc: self.dc.get(component.dc)?.as_ref()?,
            ac: self.ac.get(component.ac)?.as_ref()?,
            quantization: self.quantization.get(component.quantization)?.as_deref()?,
        })
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
                dc: 0,
                ac: 0,
            });
        }
        let supported = matches!(self.sampling(), [1, 1 | 2] | [2, 2]);
        let whole_chroma = self.components[1..].iter().all(|chroma| chroma.sampling == [1, 1]);
        let rgb = count == 3 && self.components[0].id == b'R';
        (supported && whole_chroma && !rgb).then_some(())
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

    fn scan_header(&mut self, segment: &[u8]) -> Option<()> {
        let count = self.components.len();
        if count == 0 || usize::from(*segment.first()?) != count {
            return None;
        }
        let choices = segment.get(1..1 + 2 * count)?.chunks_exact(2);
        for (component, choice) in self.components.iter_mut().zip(choices) {
            if choice[0] != component.id {
                return None;
            }
            (component.dc, component.ac) = (usize::from(choice[1] >> 4), usize::from(choice[1] & 15));
        }
        // All coefficients in full precision.
        (segment.get(1 + 2 * count..)? == [0, 63, 0]).then_some(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}
