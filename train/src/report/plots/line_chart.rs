//! Line charts.
use super::figure::{Drawing, DrawingError, FAINT, GRID, INK, Scale};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::ops::Range;

/// A line chart over whole numbers (epochs, updates).
pub struct LineChart<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub series: Vec<Series>,
}

/// One line of a chart.
pub struct Series {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (720, 420);
const TITLE_SIZE: f64 = 17.0;
const LABEL_SIZE: f64 = 13.0;
/// Distance of text from the upper and right edges.
const MARGIN: f64 = 24.0;

impl Series {
    /// A line through `(x, y)` points.
    pub fn new(name: impl Into<String>, colour: RGBColor, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), colour, points }
    }
}

impl Drawing for LineChart<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>> {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let x = range(points().map(|p| p.0), 0.0);
        let y = range(points().map(|p| p.1), 0.05);
        let decimals = decimals(&y);
        let mut chart = ChartBuilder::on(root)
            .margin_right(scale.px(MARGIN))
            .margin_left(scale.px(8.0))
            .margin_bottom(scale.px(8.0))
            .margin_top(scale.px(if self.series.len() > 1 { 64.0 } else { 44.0 }))
            .x_label_area_size(scale.px(44.0))
            .y_label_area_size(scale.px(64.0))
            .build_cartesian_2d(x.start as i64..x.end as i64, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(scale.stroke(1)))
            .axis_style(FAINT.stroke_width(scale.stroke(1)))
            .set_all_tick_mark_size(scale.px(4.0))
            .x_labels(10)
            .y_labels(7)
            .x_label_style(scale.text(LABEL_SIZE, FAINT, HPos::Center, VPos::Top))
            .y_label_style(scale.text(LABEL_SIZE, FAINT, HPos::Right, VPos::Center))
            .axis_desc_style(scale.text(LABEL_SIZE, INK, HPos::Center, VPos::Top))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .y_label_formatter(&|value| match decimals > 4 {
                true => format!("{value:.0e}"),
                false => format!("{value:.decimals$}"),
            })
            .draw()?;
        for series in &self.series {
            let points = || series.points.iter().map(|(x, y)| (*x as i64, *y));
            chart.draw_series(LineSeries::new(points(), series.colour.stroke_width(scale.stroke(2))))?;
            let last =
                points().next_back().map(|point| Circle::new(point, scale.px(3.5), series.colour.filled()));
            chart.draw_series(last)?;
        }
        self.draw_heading(root, scale)
    }
}

impl LineChart<'_> {
    /// The title, and below it the legend where there are several lines.
    fn draw_heading<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>> {
        let title = scale.text(TITLE_SIZE, INK, HPos::Left, VPos::Center);
        root.draw_text(self.title, &title, (scale.px(MARGIN), scale.px(22.0)))?;
        if self.series.len() < 2 {
            return Ok(());
        }
        let style = scale.text(LABEL_SIZE, INK, HPos::Left, VPos::Center);
        let (mut x, y) = (scale.px(MARGIN), scale.px(46.0));
        for series in self.series.iter().rev() {
            let line = vec![(x, y), (x + scale.px(20.0), y)];
            root.draw(&PathElement::new(line, series.colour.stroke_width(scale.stroke(3))))?;
            x += scale.px(28.0);
            root.draw_text(&series.name, &style, (x, y))?;
            x += root.estimate_text_size(&series.name, &style)?.0 as i32 + scale.px(28.0);
        }
        Ok(())
    }
}

/// The range of finite values, widened at both ends by a fraction of it; never empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match high - low {
        extent if extent > 0.0 => low - margin * extent..high + margin * extent,
        0.0 => low - 1.0..high + 1.0,
        // No values at all.
        _ => 0.0..1.0,
    }
}

/// Digits after the decimal point that tell ticks of a range apart.
fn decimals(range: &Range<f64>) -> usize {
    let step = (range.end - range.start) / 7.0;
    (-step.log10().floor()).max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::super::figure::Figure;
    use super::*;

    fn svg(points: Vec<(f64, f64)>) -> String {
        let series = vec![Series::new("a", RED, points)];
        Figure::render(&LineChart { title: "t", x_label: "x", y_label: "y", series }).svg
    }

    #[test]
    fn epochs_are_labelled_with_whole_numbers() {
        let svg = svg(vec![(1.0, 0.25), (2.0, 0.5), (3.0, 0.75)]);
        assert!(svg.contains("\n2\n") && !svg.contains("1.5"), "{svg}");
    }

    #[test]
    fn one_point_none_and_infinite_values_still_render() {
        for points in [vec![(1.0, 3.0)], vec![], vec![(1.0, f64::NAN), (2.0, 1.0), (3.0, f64::INFINITY)]] {
            assert!(svg(points.clone()).ends_with("</svg>\n"), "{points:?}");
        }
    }

    #[test]
    fn ticks_have_as_many_decimals_as_their_distance_needs() {
        assert_eq!([0.0..7.0, 0.0..1.0, 97.0..99.8, 0.0..0.01].map(|r| decimals(&r)), [0, 1, 1, 3]);
    }
}
