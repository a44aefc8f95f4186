//! Hue rotation in Pillow's 8-bit HSV.
use crate::data::Image;

/// Rotates the hue of an RGB image by `factor` turns, from -0.5 to 0.5; a grey image has none.
pub fn hue(image: &mut Image, factor: f64) {
    if image.size[2] != 3 {
        return;
    }
    let shift = (factor * 255.0) as i32 as u8;
    for pixel in image.pixels.chunks_exact_mut(3) {
        let [hue, saturation, value] = hsv_of([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&rgb_of([hue.wrapping_add(shift), saturation, value]));
    }
}

/// Hue, saturation and value of a colour, in Pillow's mix of f32 and f64.
fn hsv_of([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (largest, smallest) = (r.max(g).max(b), r.min(g).min(b));
    if largest == smallest {
        return [0, 0, largest];
    }
    let range = f32::from(largest - smallest);
    let saturation = range / f32::from(largest);
    let [rc, gc, bc] = [r, g, b].map(|value| f32::from(largest - value) / range);
    let sixth = match largest {
        v if v == r => bc - gc,
        v if v == g => (2.0 + f64::from(rc) - f64::from(bc)) as f32,
        _ => (4.0 + f64::from(gc) - f64::from(rc)) as f32,
    };
    let hue = ((f64::from(sixth) / 6.0 + 1.0) % 1.0) as f32;
    let byte = |value: f32| (f64::from(value) * 255.0) as u8;
    [byte(hue), byte(saturation), largest]
}

fn rgb_of([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixth = f64::from(hue) * 6.0 / 255.0;
    let sector = sixth.floor();
    let f = (sixth - sector) as f32;
    let s = (f64::from(saturation) / 255.0) as f32;
    let scaled = |factor: f64| (f64::from(value) * factor).round() as u8;
    let p = scaled(1.0 - f64::from(s));
    let q = scaled(1.0 - f64::from(s * f));
    let t = scaled(1.0 - f64::from(s) * (1.0 - f64::from(f)));
    match sector as u8 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}
