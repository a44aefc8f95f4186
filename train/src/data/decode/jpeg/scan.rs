//! Entropy-coded data of a JPEG scan between its markers.
use std::ops::Range;

/// Entropy-coded data without stuffed bytes, in the segments between restart markers.
pub struct ScanData {
    bytes: Vec<u8>,
    segments: Vec<Range<usize>>,
}

impl ScanData {
    /// Copies the data up to the first marker that is no restart marker.
    pub fn new(scan: &[u8]) -> ScanData {
        let mut data = ScanData { bytes: Vec::with_capacity(scan.len()), segments: vec![] };
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
                        return data;
                    }
                }
            }
            rest = &marked[2..];
        }
    }

    /// The segments in order, at least one.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|segment| &self.bytes[segment.clone()])
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
        let segments =
            |scan: &[u8]| -> Vec<Vec<u8>> { ScanData::new(scan).segments().map(<[u8]>::to_vec).collect() };
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
