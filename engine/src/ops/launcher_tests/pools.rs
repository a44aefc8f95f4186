//! Pooling, adaptive pooling and interpolation.
use super::{DeviceArray, FLOATS, gpu};

use crate::ops::image::cpu::resample;
use crate::ops::image::cuda::interpolate;
use crate::ops::pool::cpu::{self as pool_on_cpu, amax_backward};
use crate::ops::pool::cuda::{self as pool, adaptive as adaptive_pool};
use crate::ops::pool::{AdaptivePool, PoolShape, window_means};
use crate::resampling::{Interpolation, Resampling};
use crate::{DType, Pool2dOptions};

fn shapes() -> impl Iterator<Item = PoolShape> {
    let pool = |kernel, stride, padding, dilation, ceil_mode| Pool2dOptions {
        kernel: [kernel, kernel + 1],
        stride: [stride, stride],
        padding: [padding, padding],
        dilation: [dilation, dilation],
        ceil_mode,
    };
    let pools = [
        pool(2, 2, 0, 1, false),
        pool(3, 2, 1, 1, true),
        pool(3, 1, 1, 1, false),
        pool(2, 1, 1, 2, false),
        pool(2, 3, 1, 1, true),
    ];
    pools.into_iter().flat_map(|pool| {
        [3, 8, 24].map(|c| {
            let size = [6, 9];
            let out = [0, 1].map(|axis| pool.windows(axis, size[axis]).expect("fits"));
            PoolShape { n: 2, size, out, c, pool }
        })
    })
}

#[test]
fn max_pool_matches_the_cpu_with_ties_infinities_and_nan() {
    for dtype in FLOATS {
        for s in shapes() {
            let value = |i: usize| match i * 7919 % 31 {
                0 => f64::NAN,
                1..8 => f64::NEG_INFINITY,
                k => (k / 4) as f64,
            };
            let x = DeviceArray::new((0..s.n * 54 * s.c).map(value), dtype);
            let windows = s.n * s.out[0] * s.out[1] * s.c;
            let (y, index) =
                (DeviceArray::empty(windows, dtype), DeviceArray::new(vec![255.0; windows], DType::U8));
            pool::max_forward(gpu(), &s, x.slice(), y.slice(), index.slice()).expect("launches");
            let (mut expected, mut taps) = (vec![0.0; windows], vec![0; windows]);
            pool_on_cpu::max_forward(&s, &x.values, &mut expected, &mut taps);
            y.assert_close(&expected, &format!("{s:?}"));
            assert_eq!(index.to_host(), taps.iter().map(|t| f64::from(*t)).collect::<Vec<_>>(), "{s:?}");
            let (dy, dx) =
                (DeviceArray::random(windows, 1, dtype), DeviceArray::empty(x.values.len(), dtype));
            pool::max_backward(gpu(), &s, dy.slice(), index.slice(), dx.slice()).expect("launches");
            let mut expected = vec![0.0; x.values.len()];
            pool_on_cpu::max_backward(&s, &dy.values, &taps, &mut expected);
            dx.assert_close(&expected, &format!("{s:?}"));
        }
    }
}

#[test]
fn avg_pool_divisors_match_the_definition() {
    for dtype in FLOATS {
        for s in shapes().filter(|s| s.pool.dilation == [1, 1]) {
            for include_pad in [false, true] {
                let what = format!("{s:?} include pad {include_pad}");
                let [vertical, horizontal] = [0, 1].map(|axis| window_means(&s, axis, include_pad));
                let (pixels, windows) = (s.n * 54 * s.c, s.n * s.out[0] * s.out[1] * s.c);
                let (x, y) = (DeviceArray::random(pixels, 1, dtype), DeviceArray::empty(windows, dtype));
                pool::avg_forward(gpu(), &s, include_pad, x.slice(), y.slice()).expect("launches");
                let mut expected = vec![0.0; windows];
                resample(&vertical, &horizontal, s.c, &x.values, &mut expected);
                y.assert_close(&expected, &what);
                let (dy, dx) = (DeviceArray::random(windows, 2, dtype), DeviceArray::empty(pixels, dtype));
                pool::avg_backward(gpu(), &s, include_pad, dy.slice(), dx.slice()).expect("launches");
                let mut expected = vec![0.0; pixels];
                resample(&vertical.transposed(), &horizontal.transposed(), s.c, &dy.values, &mut expected);
                dx.assert_close(&expected, &what);
            }
        }
    }
}

#[test]
fn adaptive_pool_matches_the_cpu() {
    for dtype in FLOATS {
        for (out, c) in [([1, 1], 3), ([1, 1], 300), ([2, 3], 8), ([5, 9], 5), ([8, 11], 8)] {
            let s = AdaptivePool { n: 2, size: [5, 9], out, c };
            let (pixels, windows) = (2 * 45 * c, 2 * out[0] * out[1] * c);
            let (x, dy) = (DeviceArray::random(pixels, 1, dtype), DeviceArray::random(windows, 2, dtype));
            let (y, dx) = (DeviceArray::empty(windows, dtype), DeviceArray::empty(pixels, dtype));
            adaptive_pool::avg_forward(gpu(), &s, x.slice(), y.slice()).expect("launches");
            let [vertical, horizontal] = [0, 1].map(|a| Resampling::adaptive_mean(s.size[a], out[a]));
            let mut expected = vec![0.0; windows];
            resample(&vertical, &horizontal, c, &x.values, &mut expected);
            y.assert_close(&expected, &format!("mean {s:?}"));
            adaptive_pool::avg_backward(gpu(), &s, dy.slice(), dx.slice()).expect("launches");
            let mut expected_dx = vec![0.0; pixels];
            resample(&vertical.transposed(), &horizontal.transposed(), c, &dy.values, &mut expected_dx);
            dx.assert_close(&expected_dx, &format!("mean {s:?}"));

            let value = |i: usize| match i * 7919 % 61 {
                0 => f64::NAN,
                1..30 => f64::NEG_INFINITY,
                k => (k / 8) as f64,
            };
            let x = DeviceArray::new((0..pixels).map(value), dtype);
            // Pixel indices have 4 bytes, like f32.
            let chosen = DeviceArray::empty(windows, DType::F32);
            adaptive_pool::max_forward(gpu(), &s, x.slice(), y.slice(), chosen.slice()).expect("launches");
            let mut pixel = vec![0; windows];
            s.max_forward(&x.values, &mut expected, &mut pixel);
            y.assert_close(&expected, &format!("max {s:?}"));
            adaptive_pool::max_backward(gpu(), &s, dy.slice(), chosen.slice(), dx.slice()).expect("launches");
            s.max_backward(&dy.values, &pixel, &mut expected_dx);
            dx.assert_close(&expected_dx, &format!("max {s:?}"));
        }
    }
}

#[test]
fn amax_gradient_is_distributed_evenly() {
    for dtype in FLOATS {
        for c in [3, 40] {
            let x = DeviceArray::new((0..2 * 30 * c).map(|i| (i * 7919 % 5) as f64), dtype);
            let max =
                |n: usize, j: usize| (0..30).map(|p| x.values[(n * 30 + p) * c + j]).fold(0.0, f64::max);
            let y = DeviceArray::new((0..2 * c).map(|i| max(i / c, i % c)), dtype);
            let (dy, dx) = (DeviceArray::random(2 * c, 1, dtype), DeviceArray::empty(2 * 30 * c, dtype));
            adaptive_pool::amax_backward(gpu(), c, x.slice(), y.slice(), dy.slice(), dx.slice())
                .expect("launches");
            let mut expected = vec![0.0; 2 * 30 * c];
            amax_backward(&x.values, &y.values, &dy.values, c, &mut expected);
            dx.assert_close(&expected, &format!("{c} channels"));
        }
    }
}

#[test]
fn interpolation_matches_the_cpu() {
    let antialiased = Interpolation::Bicubic { align_corners: false, antialias: true };
    let bilinear = Interpolation::Bilinear { align_corners: true, antialias: false };
    for dtype in FLOATS {
        for (how, c) in [(Interpolation::Nearest, 3), (bilinear, 8), (antialiased, 24), (antialiased, 5)] {
            for (from, to) in [([5, 7], [9, 3]), ([4, 4], [4, 4]), ([3, 20], [1, 6])] {
                let [vertical, horizontal] = [0, 1].map(|a| Resampling::interpolation(from[a], to[a], how));
                let (x, y) = (
                    DeviceArray::random(2 * from[0] * from[1] * c, 1, dtype),
                    DeviceArray::empty(2 * to[0] * to[1] * c, dtype),
                );
                interpolate::resample(gpu(), &vertical, &horizontal, c, x.slice(), y.slice())
                    .expect("launches");
                let mut expected = vec![0.0; y.values.len()];
                resample(&vertical, &horizontal, c, &x.values, &mut expected);
                y.assert_close(&expected, &format!("{how:?} {from:?} to {to:?}"));
            }
        }
    }
}
