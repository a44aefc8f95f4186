//! A scene as SVG.
use super::scene::{Anchor, CHARACTER, Colour, Scene, Shape};
use std::fmt::Write;

/// The SVG document of a scene.
pub fn render(scene: &Scene) -> String {
    let (w, h) = (scene.width, scene.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"13\">\n\
         <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
    );
    scene.shapes.iter().for_each(|shape| write_shape(&mut out, shape).expect("writing to a string succeeds"));
    out.push_str("</svg>\n");
    out
}

fn write_shape(out: &mut String, shape: &Shape) -> std::fmt::Result {
    match shape {
        Shape::Rectangle { x, y, width, height, colour } => writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{}\"/>",
            hex(*colour)
        ),
        Shape::Line { points, width, colour } => {
            write!(out, "<polyline fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\" ")?;
            write!(out, "stroke=\"{}\" stroke-width=\"{width}\" points=\"", hex(*colour))?;
            for (i, (x, y)) in points.iter().enumerate() {
                write!(out, "{}{x:.2},{y:.2}", if i > 0 { " " } else { "" })?;
            }
            writeln!(out, "\"/>")
        }
        Shape::Disc { x, y, radius, colour } => {
            writeln!(out, "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{}\"/>", hex(*colour))
        }
        Shape::Text { x, y, anchor, colour, text } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            // The length keeps the layout whatever font is found.
            writeln!(
                out,
                "<text x=\"{x:.2}\" y=\"{:.2}\" text-anchor=\"{anchor}\" fill=\"{}\" textLength=\"{}\">{}</text>",
                y + 4.5,
                hex(*colour),
                CHARACTER * text.chars().count() as f64,
                escape(text)
            )
        }
    }
}

fn hex(Colour(r, g, b): Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_drawn_and_text_is_escaped() {
        let mut scene = Scene::new(10, 20);
        scene.rectangle(1.0, 2.0, 3.0, 4.0, Colour::BLUE);
        scene.line(vec![(0.0, 0.0), (1.5, 2.0)], 2.0, Colour::INK);
        scene.disc((1.0, 2.0), 3.0, Colour::ORANGE);
        scene.text(5.0, 6.0, Anchor::End, Colour::INK, "a<b & c");
        let svg = render(&scene);
        for part in
            ["fill=\"#1f6fcb\"", "points=\"0.00,0.00 1.50,2.00\"", "<circle", "a&lt;b &amp; c", "\"end\""]
        {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }
}
