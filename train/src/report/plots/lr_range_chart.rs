//! Chart of a learning-rate range test: loss over the logarithm of the learning rate.
use super::figure::{Drawing, DrawingError, FAINT, GRID, INK, Scale};
use super::{BLUE, ORANGE};
use crate::lr_finder::LrCurve;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// A learning-rate range test with its suggestion.
pub struct LrRangeChart<'a>(pub &'a LrCurve);

const SIZE: (u32, u32) = (720, 420);
const TITLE_SIZE: f64 = 17.0;
const LABEL_SIZE: f64 = 13.0;
const MARGIN: f64 = 24.0;

impl Drawing for LrRangeChart<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: Scale,
    ) -> Result<(), DrawingError<DB>> {
        let curve = self.0;
        let [first, last] = [curve.lr.first(), curve.lr.last()].map(|lr| lr.copied().unwrap_or(1.0));
        let [low, high] = curve.loss_range();
        let mut chart = ChartBuilder::on(root)
            .margin_right(scale.px(MARGIN))
            .margin_left(scale.px(8.0))
            .margin_bottom(scale.px(8.0))
            .margin_top(scale.px(64.0))
            .x_label_area_size(scale.px(44.0))
            .y_label_area_size(scale.px(64.0))
            .build_cartesian_2d(
                (first..last.max(first * 1.01)).log_scale(),
                low - 0.05 * (high - low)..high,
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(scale.stroke(1)))
            .axis_style(FAINT.stroke_width(scale.stroke(1)))
            .set_all_tick_mark_size(scale.px(4.0))
            .y_labels(7)
            .x_label_style(scale.text(LABEL_SIZE, FAINT, HPos::Center, VPos::Top))
            .y_label_style(scale.text(LABEL_SIZE, FAINT, HPos::Right, VPos::Center))
            .axis_desc_style(scale.text(LABEL_SIZE, INK, HPos::Center, VPos::Top))
            .x_desc("learning rate")
            .y_desc("training loss")
            .x_label_formatter(&|lr| format!("{lr:.0e}"))
            .y_label_formatter(&|loss| format!("{loss:.2}"))
            .draw()?;
        // Losses outside of the axis are gaps, not lines along its ends.
        let lines = |losses: &[f64]| -> Vec<Vec<(f64, f64)>> {
            let points: Vec<(f64, f64)> = curve.lr.iter().copied().zip(losses.iter().copied()).collect();
            let shown = points.split(|(_, loss)| !(low..=high).contains(loss));
            shown.filter(|line| !line.is_empty()).map(<[_]>::to_vec).collect()
        };
        for line in lines(&curve.loss) {
            chart.draw_series(LineSeries::new(line, GRID.stroke_width(scale.stroke(1))))?;
        }
        for line in lines(&curve.smoothed) {
            chart.draw_series(LineSeries::new(line, BLUE.stroke_width(scale.stroke(2))))?;
        }
        let suggestion = curve.suggestion();
        if let Some(lr) = suggestion {
            let at = curve.lr.iter().position(|other| *other == lr).unwrap_or(0);
            let point = (lr, curve.smoothed[at].clamp(low, high));
            chart.draw_series([Circle::new(point, scale.px(5.0), ORANGE.filled())])?;
        }
        let title = scale.text(TITLE_SIZE, INK, HPos::Left, VPos::Center);
        root.draw_text("Learning-rate range test", &title, (scale.px(MARGIN), scale.px(22.0)))?;
        let style = scale.text(LABEL_SIZE, FAINT, HPos::Left, VPos::Center);
        let text = match suggestion {
            Some(lr) => format!("smoothed loss; suggestion {lr:.2e}, where it falls fastest"),
            None => "smoothed loss; it never falls".into(),
        };
        root.draw_text(&text, &style, (scale.px(MARGIN), scale.px(46.0)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::figure::Figure;
    use super::*;

    #[test]
    fn suggestion_and_axis_of_powers_of_ten_are_drawn() {
        let lr: Vec<f64> = (0..50).map(|i| 1e-5 * 10f64.powf(f64::from(i) / 10.0)).collect();
        let loss: Vec<f64> = (0..50).map(|i| 2.3 - 1.5 / (1.0 + (-f64::from(i - 25) / 3.0).exp())).collect();
        let curve = LrCurve { lr, smoothed: loss.clone(), loss, diverged: false };
        let svg = Figure::render(&LrRangeChart(&curve)).svg;
        for text in ["suggestion 3.16e-3", "1e-4", "learning rate"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(Figure::render(&LrRangeChart(&LrCurve::default())).svg.contains("it never falls"));
    }
}
