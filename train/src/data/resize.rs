//! Image resizing, bit-identical with Pillow: filters that widen when downscaling (antialiasing), fixed-point weights with 22 fractional
//! bits, and u8 values between the horizontal and the vertical pass.
use super::decode::Image;
use clap::ValueEnum;
use std::f64::consts::PI;

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

/// Fractional bits of the weights: 32 bits less 8 of a pixel and 2 for the overshoot of cubic weights.
const WEIGHT_BITS: u32 = 22;

/// Filter taps of one output pixel along an axis: the first input pixel and the weights from it on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// Resizes an image to another height and width, neither of them 0.
pub fn resize(image: &Image, [height, width]: [usize; 2], filter: ResizeFilter) -> Image {
    let [h, w, _] = image.size;
    let across = |p: &Image| if w == width { p.clone() } else { resize_width(p, &taps(w, width, filter)) };
    let down = |p: &Image| if h == height { p.clone() } else { resize_height(p, &taps(h, height, filter)) };
    // The order matters, as values are rounded to u8 in between. Pillow 13 begins with the height if it shrinks by more than twice as
    // many pixels as the width.
    match h.saturating_sub(height) > 2 * w.saturating_sub(width) {
        true => across(&down(image)),
        false => down(&across(image)),
    }
}

fn resize_width(image: &Image, taps: &[Taps]) -> Image {
    let [h, w, c] = image.size;
    let mut pixels = Vec::with_capacity(h * taps.len() * c);
    for row in image.pixels.chunks_exact(w * c) {
        for tap in taps {
            let inputs = &row[tap.start * c..][..tap.weights.len() * c];
            for channel in 0..c {
                let values = inputs[channel..].iter().step_by(c);
                let sum: i32 = values.zip(&tap.weights).map(|(v, weight)| i32::from(*v) * weight).sum();
                pixels.push(rounded(sum));
            }
        }
    }
    Image { size: [h, taps.len(), c], pixels }
}

fn resize_height(image: &Image, taps: &[Taps]) -> Image {
    let [_, w, c] = image.size;
    let mut pixels = Vec::with_capacity(taps.len() * w * c);
    let mut sums = vec![0i32; w * c];
    for tap in taps {
        sums.fill(0);
        for (row, weight) in image.pixels[tap.start * w * c..].chunks_exact(w * c).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += i32::from(*v) * weight);
        }
        pixels.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    Image { size: [taps.len(), w, c], pixels }
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
}

fn taps(inputs: usize, outputs: usize, filter: ResizeFilter) -> Vec<Taps> {
    let scale = inputs as f64 / outputs as f64;
    let (radius, value): (f64, fn(f64) -> f64) = match filter {
        ResizeFilter::Nearest => {
            let nearest = |i: usize| ((i as f64 + 0.5) * scale) as usize;
            let single = |i| Taps { start: nearest(i).min(inputs - 1), weights: vec![1 << WEIGHT_BITS] };
            return (0..outputs).map(single).collect();
        }
        ResizeFilter::Box => (0.5, |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }),
        ResizeFilter::Bilinear => (1.0, |x| (1.0 - x.abs()).max(0.0)),
        ResizeFilter::Hamming => {
            (1.0, |x| if x.abs() < 1.0 { sinc(x) * (0.54 + 0.46 * (PI * x).cos()) } else { 0.0 })
        }
        ResizeFilter::Bicubic => (2.0, |x| cubic(x.abs())),
        ResizeFilter::Lanczos => {
            (3.0, |x| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 })
        }
    };
    let widen = scale.max(1.0);
    let output = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - radius * widen + 0.5).max(0.0) as usize;
        let end = ((centre + radius * widen + 0.5) as usize).min(inputs);
        let weights: Vec<f64> = (start..end).map(|j| value((j as f64 - centre + 0.5) / widen)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Taps { start, weights: weights.iter().map(fixed).collect() }
    };
    (0..outputs).map(output).collect()
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
