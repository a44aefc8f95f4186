//! Decoded images.

/// Decoded image: u8 `[h, w, c]`, row by row, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Height, width, and 1 (grey) or 3 (red, green, blue) channels.
    pub size: [usize; 3],
    /// `h * w * c` bytes.
    pub pixels: Vec<u8>,
}

impl Image {
    /// Converts RGB to grey by ITU-R 601 weights in Pillow's fixed-point arithmetic, or grey to RGB.
    pub fn with_channels(self, channels: usize) -> Image {
        let [h, w, c] = self.size;
        let pixels = match (c, channels) {
            (1, 3) => self.pixels.iter().flat_map(|v| [*v; 3]).collect(),
            (3, 1) => {
                let grey = |p: &[u8]| {
                    let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
                    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
                };
                self.pixels.chunks_exact(3).map(grey).collect()
            }
            _ => return self,
        };
        Image { size: [h, w, channels], pixels }
    }
}
