//! CMYK to RGB in Pillow's fixed-point arithmetic.

/// RGB of cyan, magenta and yellow, and of `light`, the complement of black.
pub fn cmyk_to_rgb(ink: [u8; 3], light: u8) -> [u8; 3] {
    let light = u32::from(light);
    ink.map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}
