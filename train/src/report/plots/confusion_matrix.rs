//! Confusion matrices.
use super::super::thousands;
use super::figure::{Drawing, DrawingError, FAINT, INK, Scale};
use super::{BLUE, ORANGE};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

/// A confusion matrix: a row for each true class, a column for each predicted one, shaded by the fraction of the row.
pub struct ConfusionMatrix<'a> {
    pub title: String,
    pub classes: &'a [String],
    pub counts: &'a [Vec<u64>],
}

/// More classes than this get cells without numbers and names.
const MAX_LABELLED: usize = 20;
/// Characters of a class name that are shown.
const MAX_NAME: usize = 24;
/// Width of a character of a label, on average.
const CHARACTER: f64 = 7.0;
const TITLE_SIZE: f64 = 17.0;
const LABEL_SIZE: f64 = 13.0;
const MARGIN: f64 = 24.0;

/// Where the cells are, in units of length.
struct Layout {
    labelled: bool,
    cell: f64,
    left: f64,
    top: f64,
    /// Whether column names are too long to stand beside each other.
    vertical_names: bool,
}

impl ConfusionMatrix<'_> {
    fn layout(&self) -> Layout {
        let labelled = self.classes.len() <= MAX_LABELLED;
        let cell = if labelled { 46.0 } else { (920.0 / self.classes.len() as f64).max(1.0) };
        let longest = self.classes.iter().map(|name| shorten(name).chars().count()).max().unwrap_or(0);
        let names = CHARACTER * longest as f64;
        let vertical_names = names > cell - 4.0;
        let (left, top) = match (labelled, vertical_names) {
            (false, _) => (56.0, 88.0),
            (true, true) => (60.0 + names, 92.0 + names),
            (true, false) => (60.0 + names, 108.0),
        };
        Layout { labelled, cell, left, top, vertical_names }
    }
}

impl Drawing for ConfusionMatrix<'_> {
    fn size(&self) -> (u32, u32) {
        let layout = self.layout();
        let extent = layout.cell * self.classes.len() as f64;
        ((layout.left + extent + MARGIN).max(380.0) as u32, (layout.top + extent + MARGIN) as u32)
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>> {
        let Layout { labelled, cell, left, top, vertical_names } = self.layout();
        let middle = |i: usize| (i as f64 + 0.5) * cell;
        let at = |x: f64, y: f64| (scale.px(x), scale.px(y));
        let title = scale.text(TITLE_SIZE, INK, HPos::Left, VPos::Center);
        root.draw_text(&self.title, &title, at(MARGIN, 24.0))?;
        let extent = cell * self.classes.len() as f64;
        let axis = scale.text(LABEL_SIZE, FAINT, HPos::Center, VPos::Center);
        root.draw_text("predicted class", &axis, at(left + extent / 2.0, 56.0))?;
        let vertical = axis.transform(FontTransform::Rotate270);
        root.draw_text("true class", &vertical, at(MARGIN, top + extent / 2.0))?;

        let number = |colour: RGBColor| scale.text(LABEL_SIZE, colour, HPos::Center, VPos::Center);
        let gap = if labelled { 1.0 } else { 0.0 };
        for (row, counts) in self.counts.iter().enumerate() {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let y = top + row as f64 * cell;
            for (column, &count) in counts.iter().enumerate() {
                let x = left + column as f64 * cell;
                let fraction = count as f64 / total;
                let corners = [at(x, y), at(x + cell - gap, y + cell - gap)];
                root.draw(&Rectangle::new(corners, shade(row == column, count, fraction).filled()))?;
                if labelled && count > 0 {
                    let text =
                        if count < 100_000 { count.to_string() } else { thousands(count / 1000) + "k" };
                    let colour = if fraction > 0.3 { WHITE } else { INK };
                    root.draw_text(&text, &number(colour), at(left + middle(column), y + cell / 2.0))?;
                }
            }
        }
        if labelled {
            let row_name = scale.text(LABEL_SIZE, INK, HPos::Right, VPos::Center);
            let column_name = match vertical_names {
                true => {
                    scale.text(LABEL_SIZE, INK, HPos::Left, VPos::Center).transform(FontTransform::Rotate270)
                }
                false => scale.text(LABEL_SIZE, INK, HPos::Center, VPos::Bottom),
            };
            for (i, name) in self.classes.iter().enumerate() {
                root.draw_text(&shorten(name), &row_name, at(left - 8.0, top + middle(i)))?;
                root.draw_text(&shorten(name), &column_name, at(left + middle(i), top - 8.0))?;
            }
        }
        Ok(())
    }
}

/// The colour of a cell. The square root shows few errors beside many correct predictions.
fn shade(correct: bool, count: u64, fraction: f64) -> RGBColor {
    if count == 0 {
        return RGBColor(246, 247, 249);
    }
    let colour = if correct { BLUE } else { ORANGE };
    let amount = 0.12 + 0.88 * fraction.sqrt();
    let over_white = |channel: u8| (255.0 + (f64::from(channel) - 255.0) * amount).round() as u8;
    RGBColor(over_white(colour.0), over_white(colour.1), over_white(colour.2))
}

/// A class name of limited length.
fn shorten(name: &str) -> String {
    if name.chars().count() <= MAX_NAME {
        return name.into();
    }
    name.chars().take(MAX_NAME - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::Figure;
    use super::*;

    fn matrix<'a>(classes: &'a [String], counts: &'a [Vec<u64>]) -> ConfusionMatrix<'a> {
        ConfusionMatrix { title: "t".into(), classes, counts }
    }

    #[test]
    fn every_cell_is_drawn_and_zeros_have_no_number() {
        let classes = ["first", "second"].map(String::from);
        let svg = Figure::render(&matrix(&classes, &[vec![5, 0], vec![1, 7]])).svg;
        // The background and four cells.
        assert_eq!(svg.matches("<rect").count(), 5, "{svg}");
        for text in ["\n5\n", "\n1\n", "\n7\n", "\nfirst\n", "\nsecond\n"] {
            assert!(svg.contains(text), "{text:?} in {svg}");
        }
        assert!(!svg.contains("\n0\n"), "{svg}");
    }

    #[test]
    fn a_thousand_classes_fit_a_plot_of_limited_size() {
        let classes: Vec<String> = (0..1000).map(|c| format!("class {c}")).collect();
        let (width, height) = matrix(&classes, &[]).size();
        assert!(width < 1500 && height < 1500, "{width}x{height}");
    }

    #[test]
    fn long_names_are_shortened() {
        assert_eq!(shorten("ab"), "ab");
        assert_eq!(shorten(&"é".repeat(40)), "é".repeat(23) + "…");
    }
}
