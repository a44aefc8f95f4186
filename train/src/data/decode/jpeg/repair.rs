//! Defects of JPEGs that libjpeg reads with a warning.
use super::{SCAN, Segments};

/// Repaired defect of a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JpegRepair {
    /// Bytes between the segments before the image's data, which are skipped.
    ExtraBytes,
    /// A color transform of Adobe's segment that does not exist, which is taken for YCbCr or YCCK.
    AdobeTransform,
    /// The last scans of a progressive image are missing: it lacks details.
    MissingScans,
}

impl JpegRepair {
    /// The defect in words, after a number of files.
    pub fn describe(self) -> &'static str {
        match self {
            JpegRepair::ExtraBytes => "with extra bytes between JPEG segments",
            JpegRepair::AdobeTransform => "with an invalid Adobe transform",
            JpegRepair::MissingScans => "without the last scans of a progressive JPEG",
        }
    }
}

/// Adobe's segment, and the position of its transform.
const ADOBE: u8 = 0xee;
const TRANSFORM: usize = 11;
const JFIF: u8 = 0xe0;

/// A copy of a JPEG whose segments before the first scan are as libjpeg understands them, and the defect; `None` if nothing has to change,
/// or there is no scan.
pub fn repaired_header(bytes: &[u8]) -> Option<(Vec<u8>, Option<JpegRepair>)> {
    let mut clean = bytes.get(..2)?.to_vec();
    let mut rest = &bytes[2..];
    let (mut repair, mut components, mut is_jfif) = (None, 0, false);
    // Position of Adobe's transform in the copy.
    let mut transform = None;
    loop {
        let skipped = extra_bytes(rest)?;
        if skipped > 0 {
            repair = Some(JpegRepair::ExtraBytes);
        }
        let mut segments = Segments(&rest[skipped..]);
        let (marker, segment) = segments.next()?;
        match marker {
            ADOBE if segment.len() > TRANSFORM && segment.starts_with(b"Adobe") => {
                transform = Some(clean.len() + 4 + TRANSFORM);
            }
            JFIF => is_jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
            // All frames, whose third field is the number of components.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => components = *segment.get(5)?,
            _ => {}
        }
        clean.extend([0xff, marker]);
        clean.extend((segment.len() as u16 + 2).to_be_bytes());
        clean.extend(segment);
        rest = segments.0;
        if marker == SCAN {
            break;
        }
    }
    let mut changed = repair.is_some();
    if let Some(at) = transform {
        let understood = match (components, clean[at]) {
            // A JFIF file is YCbCr, whatever Adobe's segment says.
            (3, 0) if is_jfif => 1,
            (3, 2..) => 1,
            (4, 1 | 3..) => 2,
            (_, transform) => transform,
        };
        if understood != clean[at] {
            if clean[at] != 0 {
                repair = repair.or(Some(JpegRepair::AdobeTransform));
            }
            clean[at] = understood;
            changed = true;
        }
    }
    changed.then(|| {
        clean.extend_from_slice(rest);
        (clean, repair)
    })
}

/// Number of bytes before the next marker with a segment. `None` if there is none.
fn extra_bytes(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        let marker = at + bytes[at..].iter().position(|byte| *byte != 0xff)?;
        match bytes[marker] {
            // A stuffed byte, and markers without a segment.
            0 | 1 | 0xd0..=0xd7 => at = marker + 1,
            _ => return Some(at),
        }
    }
}
