//! Confusion matrices.
use super::super::{ConfusionTable, thousands};
use super::figure::{Drawing, DrawingError, FAINT, INK, Scale};
use super::{BLUE, ORANGE};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

/// A confusion matrix: a row for each true class, a column for each predicted one, shaded by the fraction of the row.
pub struct ConfusionMatrix<'a> {
    pub title: String,
    pub table: &'a ConfusionTable,
}

/// Classes that are drawn; of more classes, the most confused ones.
pub const MAX_CLASSES: usize = 40;
/// Cells are smaller for more classes than this.
const MAX_LARGE: usize = 20;
/// Characters of a class name that are shown.
const MAX_NAME: usize = 24;
/// Width of a character of a label, on average.
const CHARACTER: f64 = 7.0;
const TITLE_SIZE: f64 = 17.0;
const LABEL_SIZE: f64 = 13.0;
const MARGIN: f64 = 24.0;

/// Positions of the cells, in units of length.
struct CellLayout {
    cell: f64,
    left: f64,
    top: f64,
    /// Column names are too long to stand beside each other.
    vertical_names: bool,
}

impl ConfusionMatrix<'_> {
    fn layout(&self) -> CellLayout {
        let ConfusionTable { names, .. } = self.table;
        let cell = if names.len() <= MAX_LARGE { 46.0 } else { 34.0 };
        let longest = names.iter().map(|name| shorten(name).chars().count()).max().unwrap_or(0);
        let width = CHARACTER * longest as f64;
        let vertical_names = width > cell - 4.0;
        CellLayout {
            cell,
            left: 60.0 + width,
            top: if vertical_names { 92.0 + width } else { 108.0 },
            vertical_names,
        }
    }
}

impl Drawing for ConfusionMatrix<'_> {
    fn size(&self) -> (u32, u32) {
        let layout = self.layout();
        let extent = layout.cell * self.table.names.len() as f64;
        ((layout.left + extent + MARGIN).max(620.0) as u32, (layout.top + extent + MARGIN) as u32)
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>> {
        let CellLayout { cell, left, top, vertical_names } = self.layout();
        let ConfusionTable { names, counts } = self.table;
        let middle = |i: usize| (i as f64 + 0.5) * cell;
        let at = |x: f64, y: f64| (scale.px(x), scale.px(y));
        let title = scale.text(TITLE_SIZE, INK, HPos::Left, VPos::Center);
        root.draw_text(&self.title, &title, at(MARGIN, 24.0))?;
        let extent = cell * names.len() as f64;
        let axis = scale.text(LABEL_SIZE, FAINT, HPos::Center, VPos::Center);
        root.draw_text("predicted class", &axis, at(left + extent / 2.0, 56.0))?;
        let vertical = axis.transform(FontTransform::Rotate270);
        root.draw_text("true class", &vertical, at(MARGIN, top + extent / 2.0))?;

        let number = |colour: RGBColor| scale.text(LABEL_SIZE, colour, HPos::Center, VPos::Center);
        for (row, counts) in counts.iter().enumerate() {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let y = top + row as f64 * cell;
            for (column, &count) in counts.iter().enumerate() {
                let x = left + column as f64 * cell;
                let fraction = count as f64 / total;
                let corners = [at(x, y), at(x + cell - 1.0, y + cell - 1.0)];
                root.draw(&Rectangle::new(corners, shade(row == column, count, fraction).filled()))?;
                if count > 0 {
                    let colour = if fraction > 0.3 { WHITE } else { INK };
                    let text = short_count(count, cell);
                    root.draw_text(&text, &number(colour), at(left + middle(column), y + cell / 2.0))?;
                }
            }
        }
        let row_name = scale.text(LABEL_SIZE, INK, HPos::Right, VPos::Center);
        let column_name = match vertical_names {
            true => scale.text(LABEL_SIZE, INK, HPos::Left, VPos::Center).transform(FontTransform::Rotate270),
            false => scale.text(LABEL_SIZE, INK, HPos::Center, VPos::Bottom),
        };
        for (i, name) in names.iter().enumerate() {
            root.draw_text(&shorten(name), &row_name, at(left - 8.0, top + middle(i)))?;
            root.draw_text(&shorten(name), &column_name, at(left + middle(i), top - 8.0))?;
        }
        Ok(())
    }
}

/// A count, in thousands if it is wider than its cell.
fn short_count(count: u64, cell: f64) -> String {
    let text = count.to_string();
    if text.len() as f64 * CHARACTER < cell { text } else { thousands(count / 1000) + "k" }
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

    #[test]
    fn every_cell_is_drawn_and_zeros_have_no_number() {
        let table = ConfusionTable {
            names: ["first", "second"].map(String::from).into(),
            counts: vec![vec![5, 0], vec![1, 7]],
        };
        let svg = Figure::render(&ConfusionMatrix { title: "t".into(), table: &table }).svg;
        // The background and four cells.
        assert_eq!(svg.matches("<rect").count(), 5, "{svg}");
        for text in ["\n5\n", "\n1\n", "\n7\n", "\nfirst\n", "\nsecond\n"] {
            assert!(svg.contains(text), "{text:?} in {svg}");
        }
        assert!(!svg.contains("\n0\n"), "{svg}");
    }

    #[test]
    fn most_classes_have_names_and_numbers() {
        let names: Vec<String> = (0..MAX_CLASSES).map(|class| format!("class number {class}")).collect();
        let counts = vec![vec![3; MAX_CLASSES]; MAX_CLASSES];
        let table = ConfusionTable { names, counts };
        let matrix = ConfusionMatrix { title: "t".into(), table: &table };
        let (width, height) = matrix.size();
        assert!(width < 1700 && height < 1700, "{width}x{height}");
        let svg = Figure::render(&matrix).svg;
        assert_eq!(svg.matches("\nclass number 39\n").count(), 2);
        assert_eq!(svg.matches("\n3\n").count(), MAX_CLASSES * MAX_CLASSES);
    }

    #[test]
    fn counts_wider_than_their_cell_are_in_thousands() {
        assert_eq!(
            [(999, 34.0), (12_345, 34.0), (12_345, 46.0)].map(|(n, cell)| short_count(n, cell)),
            ["999", "12k", "12345"]
        );
    }

    #[test]
    fn long_names_are_shortened() {
        assert_eq!(shorten("ab"), "ab");
        assert_eq!(shorten(&"é".repeat(40)), "é".repeat(23) + "…");
    }
}
