//! Depthwise and plain convolution.
use super::{Array, FLOATS, gpu};
use crate::cuda::{convolution, depthwise};
use crate::{ConvShape, DType, cpu};

/// `[h, w]` pixels, kernel, stride, padding and dilation, each the same both ways, of `c` channels with a multiplier.
fn shape(size: [usize; 2], c: usize, multiplier: usize, [k, s, p, d]: [usize; 4]) -> ConvShape {
    ConvShape {
        n: 2,
        h: size[0],
        w: size[1],
        c_in: c,
        c_out: c * multiplier,
        kernel: [k, k],
        stride: [s, s],
        padding: [p, p],
        dilation: [d, d],
        groups: c,
    }
}

/// Forward and both gradients against the CPU's.
fn check(s: &ConvShape, dtype: DType, is_depthwise: bool) {
    let what = format!("{s:?}");
    let x = Array::random(s.input_len(), 1, dtype);
    let weight = Array::random(s.weight_len(), 2, dtype);
    let bias = Array::random(s.c_out, 3, dtype);
    let dy = Array::random(s.output_len(), 4, dtype);
    let y = Array::room(s.output_len(), dtype);
    let (dx, dw) = (Array::room(s.input_len(), dtype), Array::room(s.weight_len(), dtype));
    let (input, w, b, of_y) = (x.slice(), weight.slice(), Some(bias.slice()), dy.slice());
    if is_depthwise {
        assert!(depthwise::suits(s, dtype), "{what}");
        depthwise::forward(gpu(), s, input, w, b, y.slice()).expect("launches");
        depthwise::data_gradient(gpu(), s, of_y, w, dx.slice()).expect("launches");
        depthwise::weight_gradient(gpu(), s, input, of_y, dw.slice()).expect("launches");
    } else {
        convolution::forward(gpu(), s, input, w, b, y.slice()).expect("launches");
        convolution::data_gradient(gpu(), s, of_y, w, dx.slice()).expect("launches");
        convolution::weight_gradient(gpu(), s, input, of_y, dw.slice()).expect("launches");
    }
    let mut expected = vec![0.0; s.output_len()];
    cpu::conv2d::forward(s, &x.values, &weight.values, Some(&bias.values), &mut expected);
    y.assert_close(&expected, &what);
    let mut expected = vec![0.0; s.input_len()];
    cpu::conv2d::data_gradient(s, &dy.values, &weight.values, &mut expected);
    dx.assert_close(&expected, &what);
    let mut expected = vec![0.0; s.weight_len()];
    cpu::conv2d::weight_gradient(s, &x.values, &dy.values, &mut expected);
    dw.assert_close(&expected, &what);
}

#[test]
fn usual_depthwise_kernels() {
    for dtype in FLOATS {
        for [k, s] in [[3, 1], [3, 2], [5, 1], [5, 2], [7, 1]] {
            for (size, c, p) in
                [([9, 11], 8, k / 2), ([7, 6], 24, 0), ([8, 10], 5, k / 2), ([6, 9], 136, k - 1)]
            {
                if size[1] + 2 * p < k || size[0] + 2 * p < k {
                    continue;
                }
                check(&shape(size, c, 1, [k, s, p, 1]), dtype, true);
            }
        }
    }
}

#[test]
fn unusual_depthwise_kernels() {
    for dtype in FLOATS {
        for c in [8, 5, 72] {
            check(&shape([9, 11], c, 1, [3, 1, 2, 2]), dtype, true);
            check(&shape([9, 11], c, 2, [3, 2, 1, 1]), dtype, true);
            check(&shape([9, 7], c, 3, [2, 3, 0, 1]), dtype, true);
            check(&shape([6, 7], c, 1, [5, 3, 4, 1]), dtype, true);
        }
        let mut s = shape([9, 12], 16, 1, [3, 1, 0, 1]);
        (s.kernel, s.stride, s.padding, s.dilation) = ([1, 5], [2, 1], [0, 3], [1, 2]);
        check(&s, dtype, true);
    }
}

#[test]
fn weights_that_fit_in_no_block_are_refused() {
    let s = shape([64, 64], 8, 1, [41, 1, 20, 1]);
    assert!(depthwise::suits(&s, DType::F32) && !depthwise::suits(&s, DType::F16));
}

#[test]
fn plain_convolution_of_any_geometry() {
    let dense = |c_in, c_out, groups, size, options| {
        let s = shape(size, groups, 1, options);
        ConvShape { c_in, c_out, groups, ..s }
    };
    for dtype in FLOATS {
        check(&dense(3, 70, 1, [9, 8], [3, 2, 1, 1]), dtype, false);
        check(&dense(5, 7, 1, [40, 30], [3, 1, 1, 1]), dtype, false);
        check(&dense(12, 8, 4, [7, 6], [3, 1, 2, 2]), dtype, false);
        check(&dense(66, 66, 1, [5, 5], [1, 1, 0, 1]), dtype, false);
        check(&dense(6, 12, 6, [6, 7], [5, 3, 4, 1]), dtype, false);
    }
}
