//! TFRecord framing of event files: length, masked CRC32C of the length, data, masked CRC32C of the data; little-endian.

/// Bytes of a record besides its data: u64 length and two u32 checksums.
const FRAME: usize = 16;

/// A record with its frame.
pub fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + FRAME);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc32c(data).to_le_bytes());
    record
}

/// The data of consecutive records with the offset of their end; ends at the first incomplete or damaged record.
pub fn records(file: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let data = first_record(&file[offset..])?;
        offset += data.len() + FRAME;
        Some((data, offset))
    })
}

fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (length_crc, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*length_crc) != masked_crc32c(length) {
        return None;
    }
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let data_crc = rest.first_chunk::<4>()?;
    (u32::from_le_bytes(*data_crc) == masked_crc32c(data)).then_some(data)
}

/// TensorFlow's masked CRC32C.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_length_and_masked_checksums() {
        let record = framed(b"abc");
        assert_eq!(record.len(), 19);
        assert_eq!(record[..8], 3u64.to_le_bytes());
        assert_eq!(record[12..15], *b"abc");
        // The mask of 0xe3069283, the check value of CRC32C: rotated by 15 bits, plus a constant.
        assert_eq!(masked_crc32c(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn records_end_at_the_first_damaged_one() {
        let mut file = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let read = |file: &[u8]| records(file).map(|(data, end)| (data.to_vec(), end)).collect::<Vec<_>>();
        assert_eq!(read(&file), [(b"one".to_vec(), 19), (vec![], 35), (b"three".to_vec(), 56)]);
        assert_eq!(read(&file[..55]).len(), 2, "truncated");
        file[13] ^= 1;
        assert!(read(&file).is_empty(), "damaged");
        assert!(read(&u64::MAX.to_le_bytes().repeat(3)).is_empty(), "absurd length");
    }
}
