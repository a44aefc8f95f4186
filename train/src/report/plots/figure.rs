//! Rendering a drawing as SVG and PNG.
use crate::data::Image;
use crate::data::export::fast_png_bytes;
use crate::data::resize::{ResizeFilter, resize};
use ab_glyph::{Font, FontRef};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, TextStyle, register_font};
use std::sync::{LazyLock, Once};

/// Text and axes.
pub const INK: RGBColor = RGBColor(38, 43, 51);
/// Labels of ticks and axes.
pub const FAINT: RGBColor = RGBColor(96, 104, 116);
/// Grid lines and empty cells.
pub const GRID: RGBColor = RGBColor(228, 231, 235);

/// Roboto, Apache License 2.0, with Latin, Greek and Cyrillic characters.
const FONT: &[u8] = include_bytes!("../../../assets/Roboto-Regular.ttf");
/// Backends draw at whole coordinates, this many for each unit of length.
const SCALE: u32 = 4;
/// Pixels of a PNG file for each unit of length: blocks of coordinates are averaged, which smooths lines and edges.
const PNG_SCALE: u32 = 2;

/// Error of a backend.
pub type DrawingError<DB> = DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>;

/// Something that can be drawn: shapes and text.
pub trait Drawing {
    /// Width and height in units of length.
    fn size(&self) -> (u32, u32);

    /// Draws in coordinates of `scale` for each unit of length.
    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>>;
}

/// Coordinates for each unit of length.
#[derive(Clone, Copy, Debug)]
pub struct Scale(u32);

/// A drawing in both formats.
pub struct Figure {
    /// SVG document.
    pub svg: String,
    /// PNG file, two pixels for each unit of length of the SVG document.
    pub png: Vec<u8>,
}

impl Figure {
    /// Renders a drawing.
    pub fn render(drawing: &impl Drawing) -> Figure {
        register_fonts();
        Figure { svg: svg(drawing), png: png(drawing) }
    }
}

/// Makes the embedded font available as `sans-serif`.
pub fn register_fonts() {
    static REGISTER: Once = Once::new();
    REGISTER
        .call_once(|| register_font("sans-serif", FontStyle::Normal, FONT).ok().expect("the font is valid"));
}

/// True if the embedded font has all characters of a text: it has Latin, Greek and Cyrillic, but no other scripts.
pub fn has_glyphs(text: &str) -> bool {
    static EMBEDDED: LazyLock<FontRef<'static>> =
        LazyLock::new(|| FontRef::try_from_slice(FONT).expect("the font is valid"));
    text.chars().all(|character| EMBEDDED.glyph_id(character).0 != 0)
}

/// Name of a class for a plot: its number if the name is empty, or the embedded font cannot show it.
pub fn plotted_name(name: &str, class: usize) -> String {
    match !name.is_empty() && has_glyphs(name) {
        true => name.into(),
        false => format!("class {class}"),
    }
}

/// A caption for a plot: names of classes that the embedded font cannot show are replaced by their numbers.
pub fn plotted_caption(text: &str, classes: &[String]) -> String {
    if has_glyphs(text) {
        return text.into();
    }
    let class = classes.iter().position(|name| !has_glyphs(name) && text.contains(name.as_str()));
    class
        .map_or_else(|| text.into(), |class| text.replace(classes[class].as_str(), &format!("class {class}")))
}

impl Scale {
    /// A length in coordinates.
    pub fn px(self, length: f64) -> i32 {
        (length * f64::from(self.0)).round() as i32
    }

    /// The width of a stroke in coordinates.
    pub fn stroke(self, width: u32) -> u32 {
        width * self.0
    }

    /// A text style: font size in units of length, colour, and the point of the text that its position names.
    pub fn text(self, size: f64, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
        ("sans-serif", size * f64::from(self.0))
            .into_font()
            .color(&colour)
            .pos(Pos::new(horizontal, vertical))
    }
}

/// Width and height of a drawing in coordinates.
fn coordinates(drawing: &impl Drawing) -> (u32, u32) {
    let (width, height) = drawing.size();
    (width * SCALE, height * SCALE)
}

fn svg(drawing: &impl Drawing) -> String {
    let mut text = String::new();
    let (large_width, large_height) = coordinates(drawing);
    let root = SVGBackend::with_string(&mut text, (large_width, large_height)).into_drawing_area();
    draw(drawing, &root);
    drop(root);
    // The view box stays in coordinates; the size is that of the drawing.
    let (width, height) = drawing.size();
    let size = |width, height| format!("width=\"{width}\" height=\"{height}\" viewBox");
    text.replacen(&size(large_width, large_height), &size(width, height), 1)
}

fn png(drawing: &impl Drawing) -> Vec<u8> {
    let (large_width, large_height) = coordinates(drawing);
    let mut pixels = vec![0; (large_width * large_height * 3) as usize];
    let root = BitMapBackend::with_buffer(&mut pixels, (large_width, large_height)).into_drawing_area();
    draw(drawing, &root);
    drop(root);
    let large = Image { size: [large_height as usize, large_width as usize, 3], pixels };
    let (width, height) = (drawing.size().0 * PNG_SCALE, drawing.size().1 * PNG_SCALE);
    let image = resize(&large, [height as usize, width as usize], ResizeFilter::Box);
    fast_png_bytes(&image)
}

fn draw<DB: DrawingBackend>(drawing: &impl Drawing, root: &DrawingArea<DB, Shift>) {
    let scale = Scale(SCALE);
    let drawn = root.fill(&WHITE).and_then(|()| drawing.draw(root, scale)).and_then(|()| root.present());
    drawn.unwrap_or_else(|error| unreachable!("drawing to memory failed: {error}"));
}

#[cfg(test)]
mod tests {
    use super::super::line_chart::{LineChart, Series};
    use super::*;

    #[test]
    fn names_in_scripts_without_glyphs_are_plotted_as_class_numbers() {
        for (name, plotted) in [
            ("chelsea", "chelsea"),
            ("Größe", "Größe"),
            ("кошка", "кошка"),
            ("猫 chelsea", "class 8"),
            ("犬", "class 8"),
            ("", "class 8"),
        ] {
            assert_eq!(plotted_name(name, 8), plotted, "{name}");
        }
        let classes = ["cat", "猫 chelsea"].map(String::from);
        assert_eq!(plotted_caption("67% 猫 chelsea", &classes), "67% class 1");
        assert_eq!(plotted_caption("67% cat", &classes), "67% cat");
    }

    #[test]
    fn svg_and_png_show_the_same_drawing() {
        let points = vec![(1.0, 2.0), (2.0, 2.5), (3.0, -1.0)];
        let series = ["a<b & c", "d"].map(|name| Series::new(name, RED, points.clone()));
        let chart = LineChart { title: "Title", x_label: "x", y_label: "y", series: series.into() };
        let Figure { svg, png } = Figure::render(&chart);
        assert!(svg.contains("width=\"720\" height=\"420\" viewBox=\"0 0 2880 1680\""), "{svg}");
        for text in ["Title", "a&lt;b &amp; c", "-1.0", "2.0"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("fits")];
        let info = reader.next_frame(&mut pixels).expect("an image");
        assert_eq!((info.width, info.height), (1440, 840));
        let red = pixels.chunks(3).filter(|p| p[0] > 200 && p[1] < 60).count();
        let smoothed = pixels.chunks(3).filter(|p| p[0] > 200 && (60..200).contains(&p[1])).count();
        assert!(red > 2000 && smoothed > 500, "{red} red pixels, {smoothed} between red and white");
    }
}
