//! 16-bit grey images, as in medical and depth data.
use crate::message::count;
use crate::report::thousands;
use clap::ValueEnum;

/// Conversion of 16-bit grey values to 8 bits.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gray16 {
    /// The high byte, as for 16-bit RGB
    #[default]
    Scale,
    /// Values above 255 become white, as in Pillow and timm
    Saturate,
}

impl Gray16 {
    /// The 8-bit value.
    pub fn convert(self, value: u16) -> u8 {
        match self {
            Gray16::Scale => (value >> 8) as u8,
            Gray16::Saturate => value.min(255) as u8,
        }
    }
}

/// True for a PNG or TIFF file of 16-bit grey values. Only the header is read.
pub fn is_gray16(bytes: &[u8]) -> bool {
    match bytes {
        // The header chunk comes first: depth and colour type follow the width and the height.
        [0x89, b'P', b'N', b'G', ..] => bytes.get(24..26) == Some(&[16, 0]),
        [b'I', b'I', ..] | [b'M', b'M', ..] => super::tiff::is_gray16(bytes).unwrap_or(false),
        _ => false,
    }
}

/// Note about 16-bit grey images of a split, if there are any.
pub fn gray16_note(images: usize, total: usize) -> Option<String> {
    let (images, total) = (thousands(images as u64), count(total as u64, "image"));
    (images != "0").then(|| {
        format!(
            "{images} of {total} are 16-bit grey: scaled to 8 bits, or cut off at 255 with --gray16 saturate"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_scaled_or_saturated() {
        let all = [0, 1, 255, 256, 0x1234, 65535];
        assert_eq!(all.map(|value| Gray16::Scale.convert(value)), [0, 0, 0, 1, 0x12, 255]);
        assert_eq!(all.map(|value| Gray16::Saturate.convert(value)), [0, 1, 255, 255, 255, 255]);
    }
}
