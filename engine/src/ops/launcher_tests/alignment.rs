//! Views that are not aligned to 16 bytes give the same results as aligned tensors.
use super::{DeviceArray, FLOATS, gpu};
use crate::cuda::DeviceSlice;
use crate::ops::batch_norm::cuda::{self as batch_norm, BatchNormParameters, PassBefore, SAVED_ROWS};
use crate::ops::conv::cuda::depthwise;
use crate::ops::pool::cuda::{self as pool, adaptive as adaptive_pool};
use crate::ops::pool::{AdaptivePool, PoolShape};
use crate::ops::reduce::cuda::softmax;
use crate::{Activation, ConvAlgorithm, ConvShape, DType, Pool2dOptions};

/// Runs `kernel(x, y)` on x and y and on shifted copies of them, and asserts that the results are equal.
#[track_caller]
fn assert_same(what: &str, dtype: DType, len: usize, out: usize, kernel: impl Fn(DeviceSlice, DeviceSlice)) {
    let (x, y) = (DeviceArray::random(len, 1, dtype), DeviceArray::empty(out, dtype));
    let (shifted, y_shifted) = (x.shifted(), y.shifted());
    kernel(x.slice(), y.slice());
    kernel(shifted.slice(), y_shifted.slice());
    y_shifted.assert_close(&y.to_host(), what);
}

#[test]
fn unaligned_views_give_the_same_results() {
    let pool = Pool2dOptions::default();
    let s = PoolShape { n: 2, size: [6, 8], out: [3, 4], c: 8, pool };
    let adaptive = AdaptivePool { n: 2, size: [6, 8], out: [1, 1], c: 8 };
    let conv = ConvShape {
        n: 2,
        h: 6,
        w: 8,
        c_in: 8,
        c_out: 8,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 8,
        algorithm: ConvAlgorithm::Auto,
    };
    let len = 2 * 6 * 8 * 8;
    for dtype in FLOATS {
        assert_same("softmax", dtype, len, len, |x, y| {
            softmax::forward(gpu(), x, 8, false, y).expect("launches")
        });
        assert_same("average pooling", dtype, len, len / 4, |x, y| {
            pool::avg_forward(gpu(), &s, false, x, y).expect("launches")
        });
        assert_same("global pooling", dtype, len, 2 * 8, |x, y| {
            adaptive_pool::avg_forward(gpu(), &adaptive, x, y).expect("launches")
        });
        let weight = DeviceArray::random(9 * 8, 2, dtype);
        assert_same("depthwise convolution", dtype, len, len, |x, y| {
            depthwise::forward(gpu(), &conv, x, weight.slice(), None, y).expect("launches")
        });
        let saved = DeviceArray::empty(SAVED_ROWS * 8, DType::F32);
        let parameters = BatchNormParameters { weight: None, bias: None, running: None, eps: 1e-5 };
        assert_same("batch norm", dtype, len, len, |x, y| {
            batch_norm::statistics(gpu(), x, 8, &parameters, None, saved.slice()).expect("launches");
            let none = Activation::Identity;
            batch_norm::apply(gpu(), (x, PassBefore::Reduction), 8, saved.slice(), None, none, y)
                .expect("launches")
        });
    }
}
