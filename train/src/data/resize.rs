//! Pictures in another size, to the last bit as Pillow computes them: filters that widen when shrinking, weights of 22 fractional bits, and
//! bytes between the horizontal and the vertical pass.
use super::decode::Picture;
use clap::ValueEnum;
use std::f64::consts::PI;

/// How pixels of another size are found, under Pillow's names.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel
    Nearest,
    /// A triangle
    Bilinear,
    /// A cubic with a = -0.5
    Bicubic,
    /// A sinc windowed by a wider sinc
    Lanczos,
    /// The mean
    Box,
    /// A sinc in a Hamming window
    Hamming,
}

/// Fractional bits of weights: with 8 of a pixel and 2 for what cubic weights overshoot, they fill 32.
const BITS: u32 = 22;

/// One output pixel of an axis: its first input pixel, and the weights of that one and those that follow.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// The picture at another height and width, neither of them 0.
pub fn resize(picture: &Picture, [height, width]: [usize; 2], filter: Filter) -> Picture {
    let [h, w, _] = picture.size;
    let across = |p: &Picture| if w == width { p.clone() } else { along_width(p, &taps(w, width, filter)) };
    let down = |p: &Picture| if h == height { p.clone() } else { along_height(p, &taps(h, height, filter)) };
    // As bytes are rounded in between, the order shows. Pillow 13 begins with the height where that shrinks, and by more than twice
    // as many pixels as the width.
    match h.saturating_sub(height) > 2 * w.saturating_sub(width) {
        true => across(&down(picture)),
        false => down(&across(picture)),
    }
}

fn along_width(picture: &Picture, taps: &[Taps]) -> Picture {
    let [h, w, c] = picture.size;
    let mut pixels = Vec::with_capacity(h * taps.len() * c);
    for row in picture.pixels.chunks_exact(w * c) {
        for tap in taps {
            let inputs = &row[tap.start * c..][..tap.weights.len() * c];
            for channel in 0..c {
                let values = inputs[channel..].iter().step_by(c);
                let sum: i32 = values.zip(&tap.weights).map(|(v, weight)| i32::from(*v) * weight).sum();
                pixels.push(rounded(sum));
            }
        }
    }
    Picture { size: [h, taps.len(), c], pixels }
}

fn along_height(picture: &Picture, taps: &[Taps]) -> Picture {
    let [_, w, c] = picture.size;
    let mut pixels = Vec::with_capacity(taps.len() * w * c);
    let mut sums = vec![0i32; w * c];
    for tap in taps {
        sums.fill(0);
        for (row, weight) in picture.pixels[tap.start * w * c..].chunks_exact(w * c).zip(&tap.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += i32::from(*v) * weight);
        }
        pixels.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    Picture { size: [taps.len(), w, c], pixels }
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

fn taps(inputs: usize, outputs: usize, filter: Filter) -> Vec<Taps> {
    let scale = inputs as f64 / outputs as f64;
    let (radius, value): (f64, fn(f64) -> f64) = match filter {
        Filter::Nearest => {
            let nearest = |i: usize| ((i as f64 + 0.5) * scale) as usize;
            let whole = |i| Taps { start: nearest(i).min(inputs - 1), weights: vec![1 << BITS] };
            return (0..outputs).map(whole).collect();
        }
        Filter::Box => (0.5, |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }),
        Filter::Bilinear => (1.0, |x| (1.0 - x.abs()).max(0.0)),
        Filter::Hamming => {
            (1.0, |x| if x.abs() < 1.0 { sinc(x) * (0.54 + 0.46 * (PI * x).cos()) } else { 0.0 })
        }
        Filter::Bicubic => (2.0, |x| cubic(x.abs())),
        Filter::Lanczos => (3.0, |x| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }),
    };
    let widen = scale.max(1.0);
    let output = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - radius * widen + 0.5).max(0.0) as usize;
        let end = ((centre + radius * widen + 0.5) as usize).min(inputs);
        let weights: Vec<f64> = (start..end).map(|j| value((j as f64 - centre + 0.5) / widen)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / total * f64::from(1 << BITS)).round() as i32;
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
