//! Entropy-coded data of a JPEG scan between its markers.
use super::huffman::BitReader;
use std::ops::Range;
use std::slice;

/// Entropy-coded data without stuffed bytes, in the segments between restart markers.
pub struct ScanData<'a> {
    bytes: Vec<u8>,
    segments: Vec<Range<usize>>,
    /// The file from the marker after the data on.
    pub rest: &'a [u8],
}

impl<'a> ScanData<'a> {
    /// Copies the data up to the first marker that is no restart marker.
    pub fn new(scan: &'a [u8]) -> ScanData<'a> {
        let mut data = ScanData { bytes: Vec::with_capacity(scan.len()), segments: vec![], rest: &[] };
        let (mut start, mut rest) = (0, scan);
        loop {
            let (plain, marked) = rest.split_at(plain_bytes(rest));
            data.bytes.extend_from_slice(plain);
            let marker = marked.get(1);
            match marker {
                // A stuffed byte.
                Some(0) => data.bytes.push(0xff),
                // Padding before a marker.
                Some(0xff) => {
                    rest = &marked[1..];
                    continue;
                }
                _ => {
                    data.segments.push(start..data.bytes.len());
                    start = data.bytes.len();
                    if !matches!(marker, Some(0xd0..=0xd7)) {
                        data.rest = marked;
                        return data;
                    }
                }
            }
            rest = &marked[2..];
        }
    }

    /// Reader of the data. An interval of 0 stands for no restart markers.
    pub fn reader(&self, restart_interval: usize) -> Option<ScanReader<'_>> {
        let mut segments = self.segments.iter();
        let first = segments.next()?.clone();
        Some(ScanReader {
            bits: BitReader::new(&self.bytes[first]),
            bytes: &self.bytes,
            segments,
            restart_interval,
            mcus_left: if restart_interval > 0 { restart_interval } else { usize::MAX },
        })
    }
}

/// Reader of a scan's entropy-coded data, MCU by MCU.
pub struct ScanReader<'a> {
    /// Bits of the segment with the current MCU.
    pub bits: BitReader<'a>,
    bytes: &'a [u8],
    segments: slice::Iter<'a, Range<usize>>,
    restart_interval: usize,
    mcus_left: usize,
}

impl ScanReader<'_> {
    /// Goes to the next MCU. True after a restart marker, where predictions begin anew; `None` if the previous segment was too short or the
    /// next one is missing.
    #[inline(always)]
    pub fn next_mcu(&mut self) -> Option<bool> {
        let is_restart = self.mcus_left == 0;
        if is_restart {
            if self.bits.is_past_end() {
                return None;
            }
            self.bits = BitReader::new(&self.bytes[self.segments.next()?.clone()]);
            self.mcus_left = self.restart_interval;
        }
        self.mcus_left -= 1;
        Some(is_restart)
    }
}

/// Number of bytes before the first 0xff.
fn plain_bytes(bytes: &[u8]) -> usize {
    // Without an early exit a block is one vector comparison.
    let is_plain = |block: &&[u8; 32]| !block.iter().fold(false, |found, byte| found | (*byte == 0xff));
    let whole = 32 * bytes.as_chunks().0.iter().take_while(is_plain).count();
    whole + bytes[whole..].iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len() - whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffing_is_removed_and_restart_markers_split() {
        let segments = |scan: &[u8]| -> Vec<Vec<u8>> {
            let data = ScanData::new(scan);
            data.segments.iter().map(|segment| data.bytes[segment.clone()].to_vec()).collect()
        };
        assert_eq!(ScanData::new(&[1, 0xff, 0, 0xff, 0xd0, 2, 0xff, 0xda, 4]).rest, [0xff, 0xda, 4]);
        assert_eq!(segments(&[1, 0xff, 0, 2, 0xff, 0xd9]), [[1, 0xff, 2]]);
        assert_eq!(
            segments(&[1, 0xff, 0xd0, 2, 3, 0xff, 0xff, 0xd7, 0xff, 0xda, 4]),
            [vec![1], vec![2, 3], vec![]]
        );
        let long: Vec<u8> = (0..100).collect();
        assert_eq!(segments(&[&long[..], &[0xff, 0xd9]].concat()), std::slice::from_ref(&long));
        for cut in [&[][..], &[0xff], &[0xff, 0xff]] {
            assert_eq!(segments(cut), [[0u8; 0]]);
        }
    }
}
