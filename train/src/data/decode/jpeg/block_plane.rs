//! Samples of a component in the two latest rows of MCUs.
use super::ac_code::AcCode;
use super::header::ZIGZAG;
use super::huffman::BitReader;
use fornax_engine::cpu::image::inverse_dct::{BlockCoefficients, BlockSamples, LANES, inverse_dct};

/// Samples of a component: the two latest rows of MCUs, as far as the region needs them. Blocks are transformed when there are enough of
/// them to fill the lanes.
pub struct BlockPlane<'a> {
    quantization: &'a [u16; 64],
    samples: Vec<u8>,
    /// Samples in a row.
    stride: usize,
    /// Rows.
    height: usize,
    coefficients: Box<BlockCoefficients>,
    /// Position in the samples of each pending block.
    pending: [usize; LANES],
    pending_count: usize,
}

impl<'a> BlockPlane<'a> {
    /// The samples of `columns` columns of blocks, with `rows` of blocks in an MCU.
    pub fn new(columns: usize, rows: usize, quantization: &'a [u16; 64]) -> BlockPlane<'a> {
        let (stride, height) = (8 * columns, 2 * 8 * rows);
        BlockPlane {
            quantization,
            samples: vec![0; stride * height],
            stride,
            height,
            coefficients: Box::new([0; 64 * LANES]),
            pending: [0; LANES],
            pending_count: 0,
        }
    }

    /// Reads the AC coefficients of the block at a row of samples and a column of blocks. `None` for an invalid code.
    #[inline(always)]
    pub fn read_block(
        &mut self,
        [row, column]: [usize; 2],
        dc: i16,
        reader: &mut BitReader<'_>,
        code: &AcCode,
    ) -> Option<()> {
        let at = row % self.height * self.stride + 8 * column;
        let has_values = code.read(reader, &mut self.coefficients, self.pending_count)?;
        self.add(at, dc, !has_values);
        Some(())
    }

    /// Stores the coefficients, in zigzag order, of the block at a row of samples and a column of blocks.
    pub fn store_block(&mut self, [row, column]: [usize; 2], coefficients: &[i16; 64]) {
        let at = row % self.height * self.stride + 8 * column;
        let is_flat = coefficients[1..] == [0; 63];
        if !is_flat {
            for (value, index) in coefficients.iter().zip(ZIGZAG) {
                self.coefficients[usize::from(index) * LANES + self.pending_count] = *value;
            }
        }
        self.add(at, coefficients[0], is_flat);
    }

    /// Adds the block whose AC coefficients are in the next lane, or all 0 if it is flat.
    #[inline(always)]
    fn add(&mut self, at: usize, dc: i16, is_flat: bool) {
        if is_flat {
            let scaled = i32::from(dc).wrapping_mul(i32::from(self.quantization[0]));
            let sample = ((scaled.wrapping_add(4) >> 3).saturating_add(128)).clamp(0, 255) as u8;
            self.samples[at..].chunks_mut(self.stride).take(8).for_each(|row| row[..8].fill(sample));
            return;
        }
        self.coefficients[self.pending_count] = dc;
        self.pending[self.pending_count] = at;
        self.pending_count += 1;
        if self.pending_count == LANES {
            self.flush();
        }
    }

    /// Transforms the pending blocks.
    pub fn flush(&mut self) {
        if self.pending_count == 0 {
            return;
        }
        let mut blocks: BlockSamples = [0; 64 * LANES];
        inverse_dct(&self.coefficients, self.quantization, &mut blocks);
        for (at, block) in self.pending[..self.pending_count].iter().zip(blocks.chunks_exact(64)) {
            let rows = self.samples[*at..].chunks_mut(self.stride);
            for (row, samples) in rows.zip(block.chunks_exact(8)) {
                row[..8].copy_from_slice(samples);
            }
        }
        self.coefficients.fill(0);
        self.pending_count = 0;
    }

    /// Row of samples.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.samples[row % self.height * self.stride..][..self.stride]
    }
}
