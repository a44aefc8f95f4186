//! A picture as a list of shapes, which [`super::svg`] and [`super::raster`] draw alike.

/// Red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

impl Colour {
    pub const WHITE: Colour = Colour(255, 255, 255);
    pub const INK: Colour = Colour(38, 43, 51);
    pub const FAINT: Colour = Colour(110, 118, 129);
    pub const GRID: Colour = Colour(228, 231, 235);
    pub const BLUE: Colour = Colour(31, 111, 203);
    pub const ORANGE: Colour = Colour(214, 98, 20);

    /// This colour over white, `amount` of it in `0..=1`.
    pub fn tint(self, amount: f64) -> Colour {
        let mix = |channel: u8| (255.0 + (f64::from(channel) - 255.0) * amount).round() as u8;
        Colour(mix(self.0), mix(self.1), mix(self.2))
    }
}

/// Which point of a text its position names; vertically it is always the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A shape; lengths in pixels, y downwards.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Rectangle { x: f64, y: f64, width: f64, height: f64, colour: Colour },
    Line { points: Vec<(f64, f64)>, width: f64, colour: Colour },
    Disc { x: f64, y: f64, radius: f64, colour: Colour },
    Text { x: f64, y: f64, anchor: Anchor, colour: Colour, text: String },
}

/// Width and height of a character.
pub const CHARACTER: f64 = 8.0;

/// Shapes on white, later ones over earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    pub width: usize,
    pub height: usize,
    pub shapes: Vec<Shape>,
}

impl Scene {
    pub fn new(width: usize, height: usize) -> Scene {
        Scene { width, height, shapes: vec![] }
    }

    pub fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: Colour) {
        self.shapes.push(Shape::Rectangle { x, y, width, height, colour });
    }

    pub fn line(&mut self, points: Vec<(f64, f64)>, width: f64, colour: Colour) {
        self.shapes.push(Shape::Line { points, width, colour });
    }

    pub fn disc(&mut self, (x, y): (f64, f64), radius: f64, colour: Colour) {
        self.shapes.push(Shape::Disc { x, y, radius, colour });
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, colour: Colour, text: impl Into<String>) {
        self.shapes.push(Shape::Text { x, y, anchor, colour, text: text.into() });
    }
}
