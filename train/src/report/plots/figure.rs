//! Rendering a drawing as SVG and PNG.
use crate::data::decode::Image;
use crate::data::resize::{ResizeFilter, resize};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, TextStyle, register_font};
use std::sync::Once;

/// Text and axes.
pub const INK: RGBColor = RGBColor(38, 43, 51);
/// Labels of ticks and axes.
pub const FAINT: RGBColor = RGBColor(96, 104, 116);
/// Grid lines and empty cells.
pub const GRID: RGBColor = RGBColor(228, 231, 235);

/// Roboto, Apache License 2.0, with Latin, Greek and Cyrillic characters.
const FONT: &[u8] = include_bytes!("../../../assets/Roboto-Regular.ttf");
/// PNG pixels for each unit of length.
const PNG_SCALE: usize = 2;
/// PNG is drawn this many times larger and averaged, which smooths lines and edges.
const OVERSAMPLING: usize = 2;

/// Error of a backend.
pub type DrawingError<DB> = DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>;

/// A picture made of shapes and text.
pub trait Drawing {
    /// Width and height in units of length.
    fn size(&self) -> (u32, u32);

    /// Draws with `scale` pixels for each unit of length.
    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>>;
}

/// Pixels for each unit of length.
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
        static REGISTER: Once = Once::new();
        REGISTER.call_once(|| {
            register_font("sans-serif", FontStyle::Normal, FONT).ok().expect("the font is valid")
        });
        Figure { svg: svg(drawing), png: png(drawing) }
    }
}

impl Scale {
    /// A length in pixels.
    pub fn px(self, length: f64) -> i32 {
        (length * f64::from(self.0)).round() as i32
    }

    /// The width of a stroke in pixels.
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

fn svg(drawing: &impl Drawing) -> String {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, drawing.size()).into_drawing_area();
    draw(drawing, &root, Scale(1));
    drop(root);
    text
}

fn png(drawing: &impl Drawing) -> Vec<u8> {
    let (width, height) = drawing.size();
    let (width, height) = (width as usize * PNG_SCALE, height as usize * PNG_SCALE);
    let (large_width, large_height) = (width * OVERSAMPLING, height * OVERSAMPLING);
    let mut pixels = vec![0; large_width * large_height * 3];
    let size = (large_width as u32, large_height as u32);
    let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
    draw(drawing, &root, Scale((PNG_SCALE * OVERSAMPLING) as u32));
    drop(root);
    let large = Image { size: [large_height, large_width, 3], pixels };
    let image = resize(&large, [height, width], ResizeFilter::Box);

    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("an RGB image of this size is valid");
    writer.write_image_data(&image.pixels).expect("writing to memory succeeds");
    writer.finish().expect("writing to memory succeeds");
    file
}

fn draw<DB: DrawingBackend>(drawing: &impl Drawing, root: &DrawingArea<DB, Shift>, scale: Scale) {
    let drawn = root.fill(&WHITE).and_then(|()| drawing.draw(root, scale)).and_then(|()| root.present());
    drawn.unwrap_or_else(|error| unreachable!("drawing to memory failed: {error}"));
}
