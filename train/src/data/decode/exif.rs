//! Orientation in EXIF data.
use crate::data::Image;

/// Tag of the orientation.
const ORIENTATION: u16 = 0x0112;
/// Type of 16-bit values.
const SHORT: u16 = 3;

/// The orientation, 1 to 8; 1 (upright) if the data have none or are damaged.
pub fn orientation(exif: &[u8]) -> u8 {
    find(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)).filter(|value| (1..=8).contains(value)).unwrap_or(1)
        as u8
}

/// Value of the orientation in a TIFF header and its first directory.
fn find(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    let mut all = (0..entries).map(|i| directory + 2 + 12 * i);
    let entry = all.find(|entry| short(*entry) == Some(ORIENTATION) && short(entry + 2) == Some(SHORT))?;
    short(entry + 8)
}

/// The image turned upright from an orientation.
pub fn oriented(image: Image, orientation: u8) -> Image {
    let [h, w, c] = image.size;
    let (height, width) = if orientation > 4 { (w, h) } else { (h, w) };
    // Row and column in the stored image of a pixel of the upright one.
    let source = |y: usize, x: usize| match orientation {
        2 => (y, w - 1 - x),
        3 => (h - 1 - y, w - 1 - x),
        4 => (h - 1 - y, x),
        5 => (x, y),
        6 => (h - 1 - x, y),
        7 => (h - 1 - x, w - 1 - y),
        8 => (x, w - 1 - y),
        _ => (y, x),
    };
    if orientation <= 1 {
        return image;
    }
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (row, column) = source(y, x);
            pixels.extend_from_slice(&image.pixels[(row * w + column) * c..][..c]);
        }
    }
    Image { size: [height, width, c], pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_give_the_documented_corners() {
        // 0 1 2
        // 3 4 5
        let image = Image { size: [2, 3, 1], pixels: (0..6).collect() };
        let expected: [&[u8]; 8] = [
            &[0, 1, 2, 3, 4, 5],
            &[2, 1, 0, 5, 4, 3],
            &[5, 4, 3, 2, 1, 0],
            &[3, 4, 5, 0, 1, 2],
            &[0, 3, 1, 4, 2, 5],
            &[3, 0, 4, 1, 5, 2],
            &[5, 2, 4, 1, 3, 0],
            &[2, 5, 1, 4, 0, 3],
        ];
        for (i, expected) in expected.into_iter().enumerate() {
            let upright = oriented(image.clone(), i as u8 + 1);
            assert_eq!(upright.pixels, expected, "orientation {}", i + 1);
            assert_eq!(upright.size, if i < 4 { [2, 3, 1] } else { [3, 2, 1] });
        }
    }

    #[test]
    fn orientation_is_read_in_both_byte_orders_and_damage_is_ignored() {
        let little = [&b"II*\0\x08\0\0\0\x01\0"[..], b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"].concat();
        let big = [&b"Exif\0\0MM\0*\0\0\0\x08\0\x01"[..], b"\x01\x12\0\x03\0\0\0\x01\0\x03\0\0"].concat();
        assert_eq!((orientation(&little), orientation(&big)), (6, 3));
        for length in 0..little.len() - 3 {
            assert_eq!(orientation(&little[..length]), 1, "{length} bytes");
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
    }
}
