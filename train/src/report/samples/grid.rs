//! Grids of captioned images.
use super::super::plots::{FAINT, INK, plotted_caption, register_fonts};
use crate::data::Image;
use crate::data::resize::{ResizeFilter, resize};
use plotters::backend::BitMapBackend;
use plotters::prelude::{IntoDrawingArea, IntoFont, RGBColor};
use plotters::style::TextStyle;

/// Image with two lines of text below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionedImage {
    /// The image, grey or RGB.
    pub image: Image,
    /// First line: the label.
    pub label: String,
    /// Second line, if there is one.
    pub note: Option<CaptionNote>,
}

/// Second line of a caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionNote {
    /// The text.
    pub text: String,
    /// Colour of the text.
    pub tone: CaptionTone,
}

/// Colour of a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionTone {
    /// Grey.
    Neutral,
    /// Green, for a correct prediction.
    Correct,
    /// Red, for a wrong prediction.
    Wrong,
}

/// Longest side of a drawn image; larger ones are scaled down.
const MAX_SIDE: usize = 160;
/// Sides below this are scaled up by a whole number.
const MIN_SIDE: usize = 96;
const GAP: usize = 8;
const LINE: usize = 16;
const TEXT_SIZE: f64 = 13.0;
const GREEN: RGBColor = RGBColor(32, 122, 72);
const RED: RGBColor = RGBColor(190, 48, 48);

/// Images in rows, each with its caption.
pub struct ImageGrid {
    /// The images and captions as one RGB image.
    pub mosaic: Image,
    /// Position and size of each image in the mosaic: x, y, width, height.
    pub tiles: Vec<[usize; 4]>,
}

/// Arranges images in rows of at most `columns`, each with its caption. Large images are scaled down, small ones up. Captions name classes of
/// `classes`; a name that the font cannot show is replaced by the class's number.
pub fn image_grid(images: &[CaptionedImage], columns: usize, classes: &[String]) -> ImageGrid {
    grid(images, columns, classes, MAX_SIDE)
}

/// Arranges images like `image_grid`, none of them scaled down: an RGB image.
pub fn full_size_grid(images: &[CaptionedImage], columns: usize, classes: &[String]) -> Image {
    grid(images, columns, classes, usize::MAX).mosaic
}

fn grid(images: &[CaptionedImage], columns: usize, classes: &[String], max_side: usize) -> ImageGrid {
    register_fonts();
    let scaled: Vec<Image> = images.iter().map(|entry| scaled(&entry.image, max_side)).collect();
    let extent = |axis: usize| scaled.iter().map(|image| image.size[axis]).max().unwrap_or(0);
    let lines = if images.iter().any(|entry| entry.note.is_some()) { 2 } else { 1 };
    let (cell_h, cell_w) = (extent(0) + lines * LINE + GAP, extent(1).max(MIN_SIDE) + GAP);
    let columns = columns.clamp(1, images.len().max(1));
    let (height, width) = (images.len().div_ceil(columns) * cell_h + GAP, columns * cell_w + GAP);
    let mut pixels = vec![255; height * width * 3];
    let corner = |i: usize| (GAP + i / columns * cell_h, GAP + i % columns * cell_w);
    for (i, image) in scaled.iter().enumerate() {
        let (top, left) = corner(i);
        for (y, row) in image.pixels.chunks_exact(image.size[1] * 3).enumerate() {
            pixels[((top + y) * width + left) * 3..][..row.len()].copy_from_slice(row);
        }
    }
    let root = BitMapBackend::with_buffer(&mut pixels, (width as u32, height as u32)).into_drawing_area();
    for (i, entry) in images.iter().enumerate() {
        let (top, left) = corner(i);
        let line = |text: &str, number: usize, colour: RGBColor| {
            let style: TextStyle = ("sans-serif", TEXT_SIZE).into_font().color(&colour);
            let text = fitting(&plotted_caption(text, classes), (cell_w - GAP) as u32);
            // Text is drawn from its highest letter down; all lines have the base line of the tallest letters.
            let lower = top_of(&text) - top_of(TALLEST);
            let at = (left as i32, (top + scaled[i].size[0] + number * LINE + 3) as i32 + lower);
            root.draw_text(&text, &style, at).expect("drawing to memory succeeds");
        };
        line(&entry.label, 0, INK);
        if let Some(note) = &entry.note {
            let colour = match note.tone {
                CaptionTone::Neutral => FAINT,
                CaptionTone::Correct => GREEN,
                CaptionTone::Wrong => RED,
            };
            line(&note.text, 1, colour);
        }
    }
    root.present().expect("drawing to memory succeeds");
    drop(root);
    let tile = |(i, image): (usize, &Image)| [corner(i).1, corner(i).0, image.size[1], image.size[0]];
    let tiles = scaled.iter().enumerate().map(tile).collect();
    ImageGrid { mosaic: Image { size: [height, width, 3], pixels }, tiles }
}

/// Text with the tallest letters.
const TALLEST: &str = "ÅÉ";

/// Distance of a text's highest pixel from the top of its line.
fn top_of(text: &str) -> i32 {
    ("sans-serif", TEXT_SIZE).into_font().layout_box(text).map_or(0, |((_, top), _)| top)
}

/// The image as RGB, with sides between the limits if its aspect ratio allows.
fn scaled(image: &Image, max_side: usize) -> Image {
    let image = image.clone().with_channels(3);
    let [h, w, _] = image.size;
    let longest = h.max(w).max(1);
    if longest > max_side {
        let side = |extent: usize| (extent * max_side / longest).max(1);
        return resize(&image, [side(h), side(w)], ResizeFilter::Bilinear);
    }
    let factor = MIN_SIDE.div_ceil(longest);
    let mut pixels = Vec::with_capacity(image.pixels.len() * factor * factor);
    for row in image.pixels.chunks_exact(w * 3) {
        let wide: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
        (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
    }
    Image { size: [h * factor, w * factor, 3], pixels }
}

/// The text, shortened to a width in pixels.
fn fitting(text: &str, width: u32) -> String {
    let fits = |text: &str| {
        ("sans-serif", TEXT_SIZE).into_font().box_size(text).is_ok_and(|(needed, _)| needed <= width)
    };
    if fits(text) {
        return text.into();
    }
    let characters: Vec<char> = text.chars().collect();
    let shortened = |kept: usize| characters[..kept].iter().chain(&['…']).collect::<String>();
    (0..characters.len()).rev().map(shortened).find(|text| fits(text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(size: usize, note: Option<&str>) -> CaptionedImage {
        let note = note.map(|text| CaptionNote { text: text.into(), tone: CaptionTone::Wrong });
        CaptionedImage {
            image: Image { size: [size, size, 1], pixels: vec![9; size * size] },
            label: "label".into(),
            note,
        }
    }

    #[test]
    fn small_images_are_enlarged_and_captioned() {
        let ImageGrid { mosaic: grid, tiles } =
            image_grid(&[entry(8, Some("cat")), entry(8, None), entry(8, None)], 2, &[]);
        assert_eq!(
            tiles,
            [[GAP, GAP, 96, 96], [96 + 2 * GAP, GAP, 96, 96], [GAP, 96 + 2 * LINE + 2 * GAP, 96, 96]]
        );
        assert_eq!(grid.size, [2 * (96 + 2 * LINE + GAP) + GAP, 2 * (96 + GAP) + GAP, 3]);
        let at = |y: usize, x: usize| &grid.pixels[(y * grid.size[1] + x) * 3..][..3];
        assert_eq!(
            (at(GAP, GAP), at(GAP + 95, GAP + 95), at(0, 0)),
            (&[9; 3][..], &[9; 3][..], &[255; 3][..])
        );
        let red = (GAP + 96 + LINE..GAP + 96 + 2 * LINE)
            .flat_map(|y| (GAP..GAP + 96).map(move |x| (y, x)))
            .filter(|(y, x)| at(*y, *x)[0] > at(*y, *x)[1].saturating_add(60))
            .count();
        assert!(red > 10, "{red} red pixels of the note");
    }

    #[test]
    fn large_images_are_scaled_down() {
        let grid = image_grid(&[entry(400, None)], 8, &[]).mosaic;
        assert_eq!(grid.size, [MAX_SIDE + LINE + 2 * GAP, MAX_SIDE + 2 * GAP, 3]);
        assert_eq!(
            full_size_grid(&[entry(400, None)], 8, &[]).size,
            [400 + LINE + 2 * GAP, 400 + 2 * GAP, 3]
        );
    }

    #[test]
    fn long_captions_are_shortened_to_the_width() {
        register_fonts();
        assert_eq!(fitting("cat", 96), "cat");
        let short = fitting(&"w".repeat(100), 96);
        assert!(short.ends_with('…') && (5..20).contains(&short.chars().count()), "{short}");
    }
}
