//! Line charts.
use super::scene::{Anchor, CHARACTER, Colour, Scene};

/// A line chart.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub series: Vec<Series<'a>>,
}

/// One line of a chart.
pub struct Series<'a> {
    pub name: &'a str,
    pub colour: Colour,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: usize = 720;
const HEIGHT: usize = 420;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 56.0;

/// The scene of a chart.
pub fn draw(chart: &Chart) -> Scene {
    let points = || chart.series.iter().flat_map(|s| s.points.iter());
    let x = Axis::new(points().map(|p| p.0), LEFT, WIDTH as f64 - RIGHT, 8, true);
    let y = Axis::new(points().map(|p| p.1), HEIGHT as f64 - BOTTOM, TOP, 6, false);
    let mut scene = Scene::new(WIDTH, HEIGHT);
    scene.text(LEFT, 24.0, Anchor::Start, Colour::INK, chart.title);
    scene.text(LEFT, TOP - 20.0, Anchor::Start, Colour::FAINT, chart.y_label);
    scene.text(
        (LEFT + WIDTH as f64 - RIGHT) / 2.0,
        HEIGHT as f64 - 16.0,
        Anchor::Middle,
        Colour::FAINT,
        chart.x_label,
    );
    for tick in y.ticks() {
        let at = y.place(tick);
        scene.line(vec![(LEFT, at), (WIDTH as f64 - RIGHT, at)], 1.0, Colour::GRID);
        scene.text(LEFT - 10.0, at, Anchor::End, Colour::FAINT, y.label(tick));
    }
    let floor = HEIGHT as f64 - BOTTOM;
    scene.line(vec![(LEFT, floor), (WIDTH as f64 - RIGHT, floor)], 1.0, Colour::FAINT);
    for tick in x.ticks() {
        let at = x.place(tick);
        scene.line(vec![(at, floor), (at, floor + 5.0)], 1.0, Colour::FAINT);
        scene.text(at, floor + 17.0, Anchor::Middle, Colour::FAINT, x.label(tick));
    }
    let mut legend = WIDTH as f64 - RIGHT;
    for series in chart.series.iter().rev() {
        let points: Vec<(f64, f64)> = series.points.iter().map(|p| (x.place(p.0), y.place(p.1))).collect();
        if let Some(last) = points.last() {
            scene.disc(*last, 3.5, series.colour);
        }
        scene.line(points, 2.0, series.colour);
        if chart.series.len() == 1 {
            continue;
        }
        scene.text(legend, 24.0, Anchor::End, Colour::INK, series.name);
        legend -= CHARACTER * series.name.chars().count() as f64 + 10.0;
        scene.line(vec![(legend - 18.0, 24.0), (legend, 24.0)], 3.0, series.colour);
        legend -= 18.0 + 24.0;
    }
    scene
}

/// Round numbers over a range, and where they stand.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// For finite values, placed between `from` and `to`, with about `count` ticks. A tight axis ends with the values,
    /// another with the ticks around them.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64, count: usize, tight: bool) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match high - low {
            range if range > 0.0 => (low, high),
            0.0 => (low - 0.5, high + 0.5),
            // No values at all.
            _ => (0.0, 1.0),
        };
        let rough = (high - low) / count as f64;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * magnitude >= rough).unwrap_or(10.0) * magnitude;
        let step = if tight { step.max(1.0) } else { step };
        let (low, high) =
            if tight { (low, high) } else { ((low / step).floor() * step, (high / step).ceil() * step) };
        Axis { low, high, step, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (step, slack) = (self.step, self.step * 1e-6);
        let first = ((self.low - slack) / step).ceil() as i64;
        let last = ((self.high + slack) / step).floor() as i64;
        (first..=last).map(move |i| i as f64 * step)
    }

    fn label(&self, value: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        if decimals > 5 { format!("{value:.0e}") } else { format!("{value:.decimals$}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], tight: bool) -> Vec<String> {
        let axis = Axis::new(values.iter().copied(), 0.0, 100.0, 5, tight);
        axis.ticks().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(labels(&[0.13, 0.91], false), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[97.2, 99.6], false), ["97.0", "97.5", "98.0", "98.5", "99.0", "99.5", "100.0"]);
        assert_eq!(labels(&[1.0, 30.0], true), ["10", "20", "30"]);
        assert_eq!(labels(&[1.0, 2.0], true), ["1", "2"]);
    }

    #[test]
    fn one_value_and_none_make_an_axis_too() {
        assert!(labels(&[3.0], false).len() > 2);
        assert!(labels(&[], false).len() > 2);
    }

    #[test]
    fn everything_lies_within_the_picture() {
        let series =
            Series { name: "a", colour: Colour::BLUE, points: vec![(1.0, 5.0), (2.0, -7.0), (3.0, 1e6)] };
        let scene = draw(&Chart { title: "t", x_label: "x", y_label: "y", series: vec![series] });
        for shape in &scene.shapes {
            if let super::super::scene::Shape::Line { points, .. } = shape {
                let inside = |(x, y): &(f64, f64)| (0.0..=720.0).contains(x) && (0.0..=420.0).contains(y);
                assert!(points.iter().all(inside), "{points:?}");
            }
        }
    }
}
