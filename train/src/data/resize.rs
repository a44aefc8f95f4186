//! Image resizing, bit-identical with Pillow: filters that widen when downscaling (antialiasing), fixed-point weights with 22 fractional
//! bits, and u8 values between the horizontal and the vertical pass.
use super::image::Image;
use clap::ValueEnum;
use fornax_engine::ImageBox;
use fornax_engine::cpu::image::resize::{FilterTaps, WEIGHT_BITS, resize_width, weighted_rows};
use std::f64::consts::PI;
use std::ops::Range;

/// Resampling filter, by Pillow's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFilter {
    /// The nearest pixel
    Nearest,
    /// Triangle filter
    Bilinear,
    /// Keys' cubic filter with a = -0.5
    Bicubic,
    /// Sinc windowed by a wider sinc
    Lanczos,
    /// Mean over the covered area
    Box,
    /// Sinc in a Hamming window
    Hamming,
}

/// Resizes an image to another height and width, neither of them 0.
pub fn resize(image: &Image, size: [usize; 2], filter: ResizeFilter) -> Image {
    Resize::new(image.size, size, filter).apply(image)
}

/// Resizing of a part of an image to a part of the result. Only the pixels that are needed are read and computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// Part of the image that is resized; pixels outside do not contribute.
    pub crop: ImageBox,
    /// Height and width to which that part is resized.
    pub size: [usize; 2],
    /// Part of the resized image that is returned.
    pub window: ImageBox,
    /// Resampling filter.
    pub filter: ResizeFilter,
    /// Reverse the rows, and the columns, of the result.
    pub reversed: [bool; 2],
}

impl Resize {
    /// Resizing of a whole image.
    pub fn new([h, w, _]: [usize; 3], size: [usize; 2], filter: ResizeFilter) -> Resize {
        let whole = |[h, w]: [usize; 2]| ImageBox { top: 0, bottom: h as u32, left: 0, right: w as u32 };
        Resize { crop: whole([h, w]), size, window: whole(size), filter, reversed: [false; 2] }
    }

    /// Resizes an image.
    pub fn apply(&self, image: &Image) -> Image {
        let (crop, size) = ([self.crop.height(), self.crop.width()], self.size);
        let [down, across] = [0, 1].map(|axis| {
            let (offset, first, last) = match axis {
                0 => (self.crop.top, self.window.top, self.window.bottom),
                _ => (self.crop.left, self.window.left, self.window.right),
            };
            let outputs = first as usize..last as usize;
            let mut taps = filter_taps([crop[axis], size[axis]], outputs, self.filter);
            taps.starts.iter_mut().for_each(|start| *start += offset as usize);
            if self.reversed[axis] { reversed(taps) } else { taps }
        });
        // The order matters, as values are rounded to u8 in between. Pillow 13 begins with the height if it shrinks by more than twice as
        // many pixels as the width.
        if crop[0].saturating_sub(size[0]) > 2 * crop[1].saturating_sub(size[1]) {
            let columns = inputs(&across);
            let resized = resize_rows(image, &down, columns.clone());
            let rows = 0..resized.size[0];
            resize_columns(&resized, shifted(across, columns.start), rows)
        } else {
            let rows = inputs(&down);
            let resized = resize_columns(image, across, rows.clone());
            let columns = 0..resized.size[1];
            resize_rows(&resized, &shifted(down, rows.start), columns)
        }
    }
}

/// The filter taps of a range of `outputs` pixels that `inputs` pixels are resized to.
fn filter_taps([inputs, outputs]: [usize; 2], range: Range<usize>, filter: ResizeFilter) -> FilterTaps {
    let scale = inputs as f64 / outputs as f64;
    let single = |starts: Vec<usize>| {
        let count = starts.len();
        FilterTaps { starts, counts: vec![1; count], weights: vec![1 << WEIGHT_BITS; count], stride: 1 }
    };
    if inputs == outputs {
        return single(range.collect());
    }
    let (radius, value): (f64, fn(f64) -> f64) = match filter {
        ResizeFilter::Nearest => {
            // Pillow adds up the positions, with their rounding.
            let positions = std::iter::successors(Some(scale * 0.5), |position| Some(position + scale));
            let nearest = positions.map(|position| (position as usize).min(inputs - 1));
            return single(nearest.take(range.end).skip(range.start).collect());
        }
        ResizeFilter::Box => (0.5, |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }),
        ResizeFilter::Bilinear => (1.0, |x| (1.0 - x.abs()).max(0.0)),
        ResizeFilter::Hamming => (1.0, |x| {
            // Pillow's constants are f32.
            let window = || f64::from(0.54f32) + f64::from(0.46f32) * (PI * x).cos();
            if x.abs() < 1.0 { sinc(x) * window() } else { 0.0 }
        }),
        ResizeFilter::Bicubic => (2.0, |x| cubic(x.abs())),
        ResizeFilter::Lanczos => {
            (3.0, |x| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 })
        }
    };
    let widen = scale.max(1.0);
    let (support, narrow) = (radius * widen, 1.0 / widen);
    let stride = 2 * support.ceil() as usize + 1;
    let mut taps =
        FilterTaps { starts: vec![], counts: vec![], weights: vec![0; range.len() * stride], stride };
    let mut values = vec![];
    for (i, weights) in range.zip(taps.weights.chunks_exact_mut(stride)) {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(inputs);
        values.clear();
        values.extend((start..end).map(|j| value((j as f64 - centre + 0.5) * narrow)));
        let total: f64 = values.iter().sum();
        for (weight, value) in weights.iter_mut().zip(&values) {
            *weight = (value / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
        }
        taps.starts.push(start);
        taps.counts.push(end - start);
    }
    taps
}

/// Range of the input pixels of taps.
fn inputs(taps: &FilterTaps) -> Range<usize> {
    let ends = taps.starts.iter().zip(&taps.counts).map(|(start, count)| start + count);
    taps.starts.iter().copied().min().unwrap_or(0)..ends.max().unwrap_or(0)
}

/// The taps for an input without its first pixels.
fn shifted(mut taps: FilterTaps, first: usize) -> FilterTaps {
    taps.starts.iter_mut().for_each(|start| *start -= first);
    taps
}

/// The taps of the output in reverse order.
fn reversed(mut taps: FilterTaps) -> FilterTaps {
    taps.starts.reverse();
    taps.counts.reverse();
    taps.weights = taps.weights.rchunks_exact(taps.stride).flatten().copied().collect();
    taps
}

/// Resizes the width of a range of rows.
fn resize_columns(image: &Image, taps: FilterTaps, rows: Range<usize>) -> Image {
    let [_, w, c] = image.size;
    let size = [rows.len(), taps.starts.len(), c];
    let mut pixels = vec![0; size.iter().product()];
    let columns = inputs(&taps);
    let from = &image.pixels[(rows.start * w + columns.start) * c..];
    resize_width(from, w * c, c, &shifted(taps, columns.start), &mut pixels);
    Image { size, pixels }
}

/// Resizes the height of a range of columns.
fn resize_rows(image: &Image, taps: &FilterTaps, columns: Range<usize>) -> Image {
    let [_, w, c] = image.size;
    let size = [taps.starts.len(), columns.len(), c];
    let mut pixels = vec![0; size.iter().product()];
    for (y, row) in pixels.chunks_exact_mut(columns.len() * c).enumerate() {
        let (start, weights) = taps.get(y);
        weighted_rows(&image.pixels[(start * w + columns.start) * c..], w * c, weights, row);
    }
    Image { size, pixels }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// Keys' cubic convolution kernel (1981) with a = -0.5 at distance `x`.
fn cubic(x: f64) -> f64 {
    match x {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}
