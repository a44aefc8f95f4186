//! Checks of the first bytes of image files: format and size, without decoding.
use super::{EXTENSIONS, bmp, decoded_size};

/// First bytes of formats without a check of their size, and their extension.
const OTHER_FORMATS: [(&[u8], &str); 3] = [(b"II*\0", "tif"), (b"MM\0*", "tif"), (b"qoif", "qoi")];

/// Result of a check of the first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderVerdict {
    /// The header is that of an image that can be decoded.
    Valid,
    /// The header is longer than the bytes.
    Incomplete,
    /// The format is not known by its first bytes; decoding decides.
    Unknown,
}

/// Checks the first bytes of an image file of `file_size` bytes. The error describes the defect of the file.
pub fn check_header(bytes: &[u8], file_size: u64) -> Result<HeaderVerdict, String> {
    let is_whole = bytes.len() as u64 >= file_size;
    let verdict = match bytes {
        [] if is_whole => return Err("the file is empty".into()),
        [0x89, b'P', b'N', b'G', ..] => png(bytes)?.map(|()| "PNG"),
        [0xff, 0xd8, ..] => jpeg(bytes)?.map(|()| "JPEG"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            webp(bytes, file_size)?.map(|()| "WebP")
        }
        [b'G', b'I', b'F', b'8', ..] => bytes.get(12).map(|_| "GIF"),
        [b'B', b'M', ..] => return bmp::check_header(bytes).map(|()| HeaderVerdict::Valid),
        _ if OTHER_FORMATS
            .iter()
            .any(|(magic, extension)| bytes.starts_with(magic) && EXTENSIONS.contains(extension)) =>
        {
            return Ok(HeaderVerdict::Valid);
        }
        _ => return Ok(HeaderVerdict::Unknown),
    };
    match (verdict, bytes) {
        (Some(_), _) => Ok(HeaderVerdict::Valid),
        (None, _) if !is_whole => Ok(HeaderVerdict::Incomplete),
        (None, [0x89, ..]) => Err("the PNG is truncated".into()),
        (None, [0xff, ..]) => Err("the JPEG is truncated".into()),
        (None, [b'G', ..]) => Err("the GIF is truncated".into()),
        (None, _) => Err("the WebP is truncated".into()),
    }
}

/// `None` if the header is incomplete, as of the other formats.
fn png(bytes: &[u8]) -> Result<Option<()>, String> {
    let Some(header) = bytes.get(12..26) else { return Ok(None) };
    if &header[..4] != b"IHDR" {
        return Err("the PNG is damaged: it has no IHDR chunk".into());
    }
    let size = |at: usize| header[at..at + 4].iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
    let channels = match header[13] {
        0 => 1,
        4 => 2,
        6 => 4,
        _ => 3,
    };
    decoded_size(size(4), size(8), channels).map(|_| Some(()))
}

fn jpeg(bytes: &[u8]) -> Result<Option<()>, String> {
    let no_frame = || "the JPEG is damaged: it has no frame header".to_string();
    let mut rest = &bytes[2..];
    loop {
        // Decoders pass over bytes between segments.
        let Some(start) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))
        else {
            return Ok(None);
        };
        let (marker, segment) = (rest[start + 1], &rest[start + 2..]);
        match marker {
            0xd9 | 0xda => return Err(no_frame()),
            // Without a length.
            0x01 | 0xd0..=0xd8 => rest = segment,
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let Some(frame) = segment.get(2..8) else { return Ok(None) };
                let size = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
                // A height of 0 is given after the first scan.
                return decoded_size(size(3), size(1).max(1), usize::from(frame[5]).clamp(1, 4))
                    .map(|_| Some(()));
            }
            _ => {
                let Some(length) = segment.first_chunk::<2>() else { return Ok(None) };
                let length = usize::from(u16::from_be_bytes(*length));
                match segment.get(length.max(2)..) {
                    Some(after) => rest = after,
                    None => return Ok(None),
                }
            }
        }
    }
}

fn webp(bytes: &[u8], file_size: u64) -> Result<Option<()>, String> {
    let Some(kind) = bytes.get(12..16) else { return Ok(None) };
    let declared = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    // Some writers count a byte of padding that they do not write.
    if u64::from(declared) + 8 > file_size + 1 {
        return Err("the WebP is truncated".into());
    }
    match kind {
        b"VP8 " | b"VP8L" | b"VP8X" => Ok(Some(())),
        _ => Err("the WebP is damaged: its first chunk is of no known kind".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([8, 2, 0, 0, 0]);
        bytes
    }

    fn jpeg(height: u16, width: u16, application_data: usize) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
        bytes.extend((application_data as u16 + 2).to_be_bytes());
        bytes.extend(vec![0; application_data]);
        bytes.extend([0xff, 0xc2, 0, 17, 8]);
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.push(3);
        bytes
    }

    #[test]
    fn defects_of_headers_are_found() {
        let whole = |bytes: &[u8]| check_header(bytes, bytes.len() as u64);
        for good in [png(3, 4), jpeg(5, 6, 10), jpeg(0, 6, 10), b"GIF89a\x01\0\x01\0\0\0\0".to_vec()] {
            assert_eq!(whole(&good), Ok(HeaderVerdict::Valid));
            for length in 8..good.len() - 5 {
                let (cut, size) = (&good[..length], length as u64);
                let text = check_header(cut, size).expect_err("cut");
                assert!(text.contains("truncated"), "{text}");
                assert_eq!(check_header(cut, size + 100), Ok(HeaderVerdict::Incomplete));
            }
        }
        let errors = [
            (png(0, 4), "no pixels"),
            (png(1 << 20, 1 << 20), "at most"),
            (jpeg(5, 0, 3), "no pixels"),
            (vec![0xff, 0xd8, 0xff, 0xd9], "no frame header"),
            (vec![], "empty"),
            (b"RIFF\xff\0\0\0WEBPVP8 ".to_vec(), "the WebP is truncated"),
            (b"RIFF\x08\0\0\0WEBPXXXX".to_vec(), "of no known kind"),
            (b"BM".to_vec(), "the BMP is truncated"),
        ];
        for (bytes, part) in errors {
            let text = whole(&bytes).expect_err(part);
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(whole(b"<html>"), Ok(HeaderVerdict::Unknown));
    }
}
