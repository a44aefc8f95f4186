//! A scene as PNG, at two pixels for each of the scene's, with the 8x8 bitmap font.
use super::scene::{Anchor, CHARACTER, Colour, Scene, Shape};
use font8x8::UnicodeFonts;
use std::collections::BTreeMap;

const SCALE: f64 = 2.0;

/// The PNG file of a scene.
pub fn render(scene: &Scene) -> Vec<u8> {
    let canvas = draw(scene);
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, canvas.width as u32, canvas.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("an RGB picture of this size is valid");
    writer.write_image_data(&canvas.pixels).expect("writing to memory succeeds");
    writer.finish().expect("writing to memory succeeds");
    file
}

struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

fn draw(scene: &Scene) -> Canvas {
    let size = |extent: usize| (extent as f64 * SCALE) as usize;
    let (width, height) = (size(scene.width), size(scene.height));
    let mut canvas = Canvas { width, height, pixels: vec![255; width * height * 3] };
    for shape in &scene.shapes {
        match shape {
            Shape::Rectangle { x, y, width, height, colour } => {
                let [x, y, width, height] = [x, y, width, height].map(|v| v * SCALE);
                canvas.fill((x, y, x + width, y + height), *colour, |px, py| {
                    overlap(px, x, x + width) * overlap(py, y, y + height)
                });
            }
            Shape::Line { points, width, colour } => canvas.polyline(points, width * SCALE, *colour),
            Shape::Disc { x, y, radius, colour } => {
                let [x, y, radius] = [x, y, radius].map(|v| v * SCALE);
                canvas.fill((x - radius, y - radius, x + radius, y + radius), *colour, |px, py| {
                    radius - (px - x).hypot(py - y) + 0.5
                });
            }
            Shape::Text { x, y, anchor, colour, text } => {
                canvas.text(x * SCALE, y * SCALE, *anchor, *colour, text)
            }
        }
    }
    canvas
}

/// How much of the pixel centred at `p` lies between `low` and `high`.
fn overlap(p: f64, low: f64, high: f64) -> f64 {
    ((p + 0.5).min(high) - (p - 0.5).max(low)).max(0.0)
}

impl Canvas {
    /// Lays `colour` over the pixels within the bounds, each to the share in `0..=1` that `cover` says of its centre.
    fn fill(&mut self, bounds: (f64, f64, f64, f64), colour: Colour, cover: impl Fn(f64, f64) -> f64) {
        let clip = |v: f64, limit: usize| (v.max(0.0) as usize).min(limit);
        let (left, right) = (clip(bounds.0 - 1.0, self.width), clip(bounds.2 + 2.0, self.width));
        let (top, bottom) = (clip(bounds.1 - 1.0, self.height), clip(bounds.3 + 2.0, self.height));
        for y in top..bottom {
            for x in left..right {
                let share = cover(x as f64 + 0.5, y as f64 + 0.5).clamp(0.0, 1.0);
                self.blend(x, y, colour, share);
            }
        }
    }

    fn polyline(&mut self, points: &[(f64, f64)], width: f64, colour: Colour) {
        let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x * SCALE, y * SCALE)).collect();
        let reach = width / 2.0 + 1.0;
        // One share for each pixel, the largest over the segments, so that joints are not darker than lines.
        let mut shares = BTreeMap::<(usize, usize), f64>::new();
        for pair in points.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let clip = |v: f64, limit: usize| (v.max(0.0) as usize).min(limit);
            for y in clip(a.1.min(b.1) - reach, self.height)..clip(a.1.max(b.1) + reach + 1.0, self.height) {
                for x in clip(a.0.min(b.0) - reach, self.width)..clip(a.0.max(b.0) + reach + 1.0, self.width)
                {
                    let share = width / 2.0 - distance((x as f64 + 0.5, y as f64 + 0.5), a, b) + 0.5;
                    let entry = shares.entry((x, y)).or_insert(0.0);
                    *entry = entry.max(share.clamp(0.0, 1.0));
                }
            }
        }
        shares.into_iter().for_each(|((x, y), share)| self.blend(x, y, colour, share));
    }

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, colour: Colour, text: &str) {
        let cell = CHARACTER * SCALE;
        let length = cell * text.chars().count() as f64;
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - length / 2.0,
            Anchor::End => x - length,
        };
        // Whole pixels keep the bitmaps sharp.
        let (left, top) = (left.round(), (y - cell / 2.0).round());
        for (i, character) in text.chars().enumerate() {
            let rows = font8x8::BASIC_FONTS.get(character).or_else(|| font8x8::LATIN_FONTS.get(character));
            for (row, bits) in rows.unwrap_or([0x7e; 8]).into_iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    let x0 = left + i as f64 * cell + f64::from(column) * SCALE;
                    let y0 = top + row as f64 * SCALE;
                    self.fill((x0, y0, x0 + SCALE, y0 + SCALE), colour, |px, py| {
                        overlap(px, x0, x0 + SCALE) * overlap(py, y0, y0 + SCALE)
                    });
                }
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, Colour(r, g, b): Colour, share: f64) {
        let pixel = &mut self.pixels[(y * self.width + x) * 3..][..3];
        for (old, new) in pixel.iter_mut().zip([r, g, b]) {
            *old = (f64::from(*old) + (f64::from(new) - f64::from(*old)) * share).round() as u8;
        }
    }
}

/// From a point to a segment.
fn distance(p: (f64, f64), a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    let t = if length > 0.0 { (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (p.0 - a.0 - t * dx).hypot(p.1 - a.1 - t * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(canvas: &Canvas, x: usize, y: usize) -> [u8; 3] {
        let at = (y * canvas.width + x) * 3;
        [canvas.pixels[at], canvas.pixels[at + 1], canvas.pixels[at + 2]]
    }

    #[test]
    fn shapes_cover_their_pixels_and_no_others() {
        let mut scene = Scene::new(20, 20);
        scene.rectangle(2.0, 2.0, 3.0, 3.0, Colour(1, 2, 3));
        scene.line(vec![(10.0, 0.0), (10.0, 20.0)], 1.0, Colour(4, 5, 6));
        let canvas = draw(&scene);
        assert_eq!((canvas.width, canvas.height), (40, 40));
        assert_eq!([pixel(&canvas, 4, 4), pixel(&canvas, 9, 9)], [[1, 2, 3]; 2]);
        // Beside the rectangle, and beyond its corner.
        assert_eq!([pixel(&canvas, 3, 4), pixel(&canvas, 10, 10)], [[255; 3]; 2]);
        assert_eq!([pixel(&canvas, 19, 20), pixel(&canvas, 20, 20)], [[4, 5, 6]; 2]);
    }

    #[test]
    fn letters_are_drawn_and_the_file_decodes() {
        let mut scene = Scene::new(24, 12);
        scene.text(12.0, 6.0, Anchor::Middle, Colour::INK, "1");
        let dark = draw(&scene).pixels.chunks(3).filter(|p| p[0] < 128).count();
        assert!((40..200).contains(&dark), "{dark} dark pixels");
        let file = render(&scene);
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("fits")];
        reader.next_frame(&mut pixels).expect("a picture");
        assert_eq!(pixels, draw(&scene).pixels);
    }
}
