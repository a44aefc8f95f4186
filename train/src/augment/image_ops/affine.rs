//! Affine transforms about the upper left corner, and rotation about the centre, as Pillow's `Image.transform` and `Image.rotate`.
use crate::data::Image;
use crate::data::resize::ResizeFilter;

/// Matrix `[a, b, c, d, e, f]`: the result at (x, y) is the image at (a x + b y + c, d x + e y + f).
pub type AffineMatrix = [f64; 6];

/// Matrix of a rotation by an angle in degrees, counter-clockwise, about the centre.
pub fn rotation(degrees: f64, [h, w]: [usize; 2]) -> AffineMatrix {
    let angle = -degrees.to_radians();
    // Pillow rounds to 15 decimals, so that right angles are exact.
    let rounded = |v: f64| format!("{v:.15}").parse::<f64>().unwrap_or(v);
    let [a, b, d, e] = [angle.cos(), angle.sin(), -angle.sin(), angle.cos()].map(rounded);
    let (x, y) = (w as f64 / 2.0, h as f64 / 2.0);
    [a, b, a * -x + b * -y + x, d, e, d * -x + e * -y + y]
}

/// Transforms an image by a matrix, with the size kept; pixels from outside of the image have the colour `fill`.
pub fn transform(image: &Image, matrix: &AffineMatrix, filter: ResizeFilter, fill: &[u8]) -> Image {
    let [h, w, c] = image.size;
    let [a, b, tx, d, e, ty] = *matrix;
    let mut out = Image { size: image.size, pixels: Vec::with_capacity(image.pixels.len()) };
    for y in 0..h {
        for x in 0..w {
            let (px, py) = (x as f64 + 0.5, y as f64 + 0.5);
            let (u, v) = match filter {
                ResizeFilter::Nearest if b != 0.0 || d != 0.0 => fixed_point(matrix, x, y),
                _ => (a * px + b * py + tx, d * px + e * py + ty),
            };
            let inside = (0.0..w as f64).contains(&u) && (0.0..h as f64).contains(&v);
            for channel in 0..c {
                out.pixels.push(match filter {
                    _ if !inside => fill.get(channel).or(fill.first()).copied().unwrap_or(0),
                    ResizeFilter::Nearest => image.pixels[(v as usize * w + u as usize) * c + channel],
                    ResizeFilter::Bicubic => bicubic(image, u - 0.5, v - 0.5, channel),
                    _ => bilinear(image, u - 0.5, v - 0.5, channel),
                });
            }
        }
    }
    out
}

/// Position of the result's pixel (x, y) in the image, in Pillow's fixed point with 16 fractional bits for the nearest pixel.
fn fixed_point(&[a, b, tx, d, e, ty]: &AffineMatrix, x: usize, y: usize) -> (f64, f64) {
    let fixed = |value: f64| (value * 65536.0 + 0.5).floor();
    let at = |a: f64, b: f64, t: f64| {
        (fixed(t + a * 0.5 + b * 0.5) + x as f64 * fixed(a) + y as f64 * fixed(b)) / 65536.0
    };
    (at(a, b, tx), at(d, e, ty))
}

/// Values of one channel at the four columns around `u`, in row `y`; the end pixels are repeated.
fn neighbours(image: &Image, y: usize, x: isize, channel: usize) -> [f64; 4] {
    let [_, w, c] = image.size;
    std::array::from_fn(|i| {
        let column = (x - 1 + i as isize).clamp(0, w as isize - 1) as usize;
        f64::from(image.pixels[(y * w + column) * c + channel])
    })
}

fn bilinear(image: &Image, u: f64, v: f64, channel: usize) -> u8 {
    let (x, y) = (u.floor(), v.floor());
    let (dx, dy) = (u - x, v - y);
    let h = image.size[0] as isize;
    let row = |y: isize| {
        let [_, left, right, _] = neighbours(image, y as usize, x as isize, channel);
        left + (right - left) * dx
    };
    let upper = row((y as isize).clamp(0, h - 1));
    let lower = if y as isize + 1 < h { row(y as isize + 1) } else { upper };
    (upper + (lower - upper) * dy) as u8
}

fn bicubic(image: &Image, u: f64, v: f64, channel: usize) -> u8 {
    let (x, y) = (u.floor(), v.floor());
    let (dx, dy) = (u - x, v - y);
    let h = image.size[0] as isize;
    let mut rows = [0.0; 4];
    for i in 0..4 {
        let y = y as isize - 1 + i as isize;
        // Above the image the first row is repeated, below it the last.
        rows[i] = match i {
            0 => cubic(neighbours(image, y.clamp(0, h - 1) as usize, x as isize, channel), dx),
            _ if (0..h).contains(&y) => cubic(neighbours(image, y as usize, x as isize, channel), dx),
            _ => rows[i - 1],
        };
    }
    cubic(rows, dy) as u8
}

/// Keys' cubic convolution (1981) with a = -1 between the second and the third of four values.
fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image { size: [4, 5, 1], pixels: (0..20).map(|i| i * 7).collect() }
    }

    #[test]
    fn translation_by_whole_pixels_moves_them_and_fills_the_rest() {
        for filter in [ResizeFilter::Nearest, ResizeFilter::Bilinear, ResizeFilter::Bicubic] {
            let moved = transform(&image(), &[1.0, 0.0, 2.0, 0.0, 1.0, -1.0], filter, &[99]);
            let row = |first: u8| [first, first + 7, first + 14, 99, 99];
            assert_eq!(moved.pixels, [[99; 5], row(14), row(49), row(84)].concat(), "{filter:?}");
        }
    }

    #[test]
    fn half_a_turn_reverses_the_pixels() {
        let turned = transform(&image(), &rotation(180.0, [4, 5]), ResizeFilter::Bicubic, &[99]);
        let reversed: Vec<u8> = image().pixels.into_iter().rev().collect();
        assert_eq!(turned.pixels, reversed);
    }
}
