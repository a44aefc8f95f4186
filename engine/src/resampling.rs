//! Resampling along one axis as a banded matrix: interpolation, average pooling, and their transposes.

/// Interpolation mode of [`crate::Tensor::interpolate`]; PyTorch's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Input pixel under the output pixel's upper left corner.
    Nearest,
    /// Linear interpolation between the two nearest pixels of each axis.
    Bilinear {
        /// Align the centres of the corner pixels instead of the image's edges.
        align_corners: bool,
        /// Widen the filter when downsampling, so that every input pixel contributes.
        antialias: bool,
    },
    /// Keys' cubic convolution over the four nearest pixels of each axis: a = -0.75, with `antialias` -0.5.
    Bicubic {
        /// As for `Bilinear`.
        align_corners: bool,
        /// As for `Bilinear`.
        antialias: bool,
    },
}

/// Values outside of the images of [`crate::Tensor::grid_sample`]; PyTorch's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GridPadding {
    /// Zeros.
    Zeros,
    /// Those of the nearest pixel of the border.
    Border,
}

/// Output elements as weighted sums of neighbouring input elements: a matrix `[outputs, inputs]` with one band per row.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    inputs: usize,
    rows: Vec<ResamplingBand>,
}

/// Row of a [`Resampling`]: the weights of consecutive input elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ResamplingBand {
    /// First input element.
    pub start: usize,
    /// Weights of the input elements from `start` on; empty where none contributes.
    pub weights: Vec<f64>,
}

impl Resampling {
    /// The matrix of the given rows.
    pub(crate) fn new(inputs: usize, rows: Vec<ResamplingBand>) -> Resampling {
        Resampling { inputs, rows }
    }

    /// Interpolation of `inputs` elements to `outputs`; both at least 1.
    pub fn interpolation(inputs: usize, outputs: usize, how: Interpolation) -> Resampling {
        let scale = |align_corners: bool| match (align_corners, outputs) {
            (false, _) => inputs as f64 / outputs as f64,
            (true, 1) => 0.0,
            (true, _) => (inputs - 1) as f64 / (outputs - 1) as f64,
        };
        // Position of an output's centre, in units of the input's centres.
        let source = |i: usize, align_corners: bool| match align_corners {
            true => i as f64 * scale(true),
            false => (i as f64 + 0.5) * scale(false) - 0.5,
        };
        let rows = (0..outputs).map(|i| match how {
            Interpolation::Nearest => ResamplingBand { start: i * inputs / outputs, weights: vec![1.0] },
            Interpolation::Bilinear { align_corners, antialias: true } => {
                antialiased(inputs, i, scale(align_corners), 1.0, |x| (1.0 - x).max(0.0))
            }
            Interpolation::Bicubic { align_corners, antialias: true } => {
                antialiased(inputs, i, scale(align_corners), 2.0, |x| keys(x, -0.5))
            }
            Interpolation::Bilinear { align_corners, .. } => {
                clamped(inputs, source(i, align_corners).max(0.0), 0..2, |x| 1.0 - x)
            }
            Interpolation::Bicubic { align_corners, .. } => {
                clamped(inputs, source(i, align_corners), -1..3, |x| keys(x, -0.75))
            }
        });
        Resampling { inputs, rows: rows.collect() }
    }

    /// The mean of elements `floor(i * inputs / outputs) .. ceil((i + 1) * inputs / outputs)`: adaptive average pooling.
    pub fn adaptive_mean(inputs: usize, outputs: usize) -> Resampling {
        let rows = (0..outputs).map(|i| {
            let window = adaptive_window(inputs, outputs, i);
            ResamplingBand { start: window.start, weights: vec![1.0 / window.len() as f64; window.len()] }
        });
        Resampling { inputs, rows: rows.collect() }
    }

    /// The transposed matrix, which maps gradients of the output to gradients of the input.
    pub fn transposed(&self) -> Resampling {
        let empty = || ResamplingBand { start: 0, weights: vec![] };
        let mut rows: Vec<ResamplingBand> = (0..self.inputs).map(|_| empty()).collect();
        for (i, band) in self.rows.iter().enumerate() {
            for (k, weight) in band.weights.iter().enumerate() {
                let row = &mut rows[band.start + k];
                if row.weights.is_empty() {
                    row.start = i;
                }
                // Rows in between without this element: only where its weight is exactly 0.
                row.weights.resize(i - row.start, 0.0);
                row.weights.push(*weight);
            }
        }
        Resampling { inputs: self.rows.len(), rows }
    }

    /// Number of input elements.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows of the matrix, one for each output element.
    pub fn rows(&self) -> &[ResamplingBand] {
        &self.rows
    }
}

/// The input elements of window `i` of an adaptive pooling.
pub fn adaptive_window(inputs: usize, outputs: usize, i: usize) -> std::ops::Range<usize> {
    i * inputs / outputs..((i + 1) * inputs).div_ceil(outputs)
}

/// Weights of the elements at `floor(at) + taps` by their distance from `at`; positions beyond an edge are clamped to it.
fn clamped(
    inputs: usize,
    at: f64,
    taps: std::ops::Range<isize>,
    filter: impl Fn(f64) -> f64,
) -> ResamplingBand {
    let floor = at.floor();
    let index = |tap: isize| (floor as isize + tap).clamp(0, inputs as isize - 1) as usize;
    let start = index(taps.start);
    let mut weights = vec![0.0; index(taps.end - 1) - start + 1];
    for tap in taps {
        weights[index(tap) - start] += filter((at - floor - tap as f64).abs());
    }
    ResamplingBand { start, weights }
}

/// The filter of radius `radius`, widened by `scale` when downsampling, cut off at the edges and normalised, as in PyTorch and Pillow.
fn antialiased(
    inputs: usize,
    i: usize,
    scale: f64,
    radius: f64,
    filter: impl Fn(f64) -> f64,
) -> ResamplingBand {
    let widen = scale.max(1.0);
    let centre = scale * (i as f64 + 0.5);
    let start = ((centre - radius * widen + 0.5) as usize).min(inputs - 1);
    let end = ((centre + radius * widen + 0.5) as usize).clamp(start + 1, inputs);
    let mut weights: Vec<f64> =
        (start..end).map(|j| filter(((j as f64 - centre + 0.5) / widen).abs())).collect();
    let total: f64 = weights.iter().sum();
    if total != 0.0 {
        weights.iter_mut().for_each(|w| *w /= total);
    }
    ResamplingBand { start, weights }
}

/// Keys' cubic convolution kernel (1981) at distance `x`.
fn keys(x: f64, a: f64) -> f64 {
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Interpolation> {
        let mut kinds = vec![Interpolation::Nearest];
        for (align_corners, antialias) in [(false, false), (true, false), (false, true), (true, true)] {
            kinds.push(Interpolation::Bilinear { align_corners, antialias });
            kinds.push(Interpolation::Bicubic { align_corners, antialias });
        }
        kinds
    }

    #[test]
    fn weights_of_an_output_sum_to_one_and_lie_inside_the_input() {
        for (inputs, outputs) in [(1, 1), (1, 5), (5, 1), (7, 3), (3, 7), (6, 6), (14, 24)] {
            let kinds = every_kind().into_iter().map(|k| Resampling::interpolation(inputs, outputs, k));
            for r in kinds.chain([Resampling::adaptive_mean(inputs, outputs)]) {
                assert_eq!((r.inputs(), r.rows().len()), (inputs, outputs));
                for band in r.rows() {
                    assert!((band.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{r:?}");
                    assert!(band.start + band.weights.len() <= inputs, "{r:?}");
                }
            }
        }
    }

    #[test]
    fn interpolation_to_the_same_size_is_the_identity() {
        for kind in every_kind() {
            // With align_corners the antialiasing filter's centre is half a pixel off, by PyTorch's definition.
            if let Interpolation::Bilinear { align_corners: true, antialias: true }
            | Interpolation::Bicubic { align_corners: true, antialias: true } = kind
            {
                continue;
            }
            for (i, band) in Resampling::interpolation(6, 6, kind).rows().iter().enumerate() {
                for (k, w) in band.weights.iter().enumerate() {
                    let expected = if band.start + k == i { 1.0 } else { 0.0 };
                    assert!((w - expected).abs() < 1e-12, "{kind:?} {i}: {band:?}");
                }
            }
        }
    }

    #[test]
    fn transposed_has_the_same_weights() {
        for kind in every_kind() {
            for (inputs, outputs) in [(7, 3), (3, 7), (4, 4)] {
                let forward = Resampling::interpolation(inputs, outputs, kind);
                let back = forward.transposed();
                let at = |r: &Resampling, i: usize, j: usize| {
                    let band = &r.rows()[i];
                    j.checked_sub(band.start).and_then(|k| band.weights.get(k)).copied().unwrap_or(0.0)
                };
                for i in 0..outputs {
                    for j in 0..inputs {
                        assert_eq!(at(&forward, i, j), at(&back, j, i), "{kind:?} {i} {j}");
                    }
                }
            }
        }
    }
}
