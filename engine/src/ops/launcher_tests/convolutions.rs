//! Depthwise convolution, and convolution as an implicit GEMM.
use super::{DeviceArray, FLOATS, gpu};
use crate::ops::conv::cpu as conv;
use crate::ops::conv::cuda::{depthwise, implicit_gemm};
use crate::{ConvAlgorithm, ConvShape, DType};

/// Depthwise convolution of `[h, w]` pixels and `c` channels with a multiplier; kernel, stride, padding and dilation are square.
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
        algorithm: ConvAlgorithm::Auto,
    }
}

/// Compares forward pass and both gradients with the CPU's.
fn check(s: &ConvShape, dtype: DType, is_depthwise: bool) {
    let what = format!("{s:?}");
    let x = DeviceArray::random(s.input_len(), 1, dtype);
    let weight = DeviceArray::random(s.weight_len(), 2, dtype);
    let bias = DeviceArray::random(s.c_out, 3, dtype);
    let dy = DeviceArray::random(s.output_len(), 4, dtype);
    let y = DeviceArray::empty(s.output_len(), dtype);
    let (dx, dw) = (DeviceArray::empty(s.input_len(), dtype), DeviceArray::empty(s.weight_len(), dtype));
    let (input, w, b, grad) = (x.slice(), weight.slice(), Some(bias.slice()), dy.slice());
    if is_depthwise {
        assert!(depthwise::supports(s, dtype), "{what}");
        depthwise::forward(gpu(), s, input, w, b, y.slice()).expect("launches");
        depthwise::data_gradient(gpu(), s, grad, w, dx.slice()).expect("launches");
        depthwise::weight_gradient(gpu(), s, input, grad, dw.slice()).expect("launches");
    } else {
        implicit_gemm::forward(gpu(), s, input, w, b, y.slice()).expect("launches");
        implicit_gemm::data_gradient(gpu(), s, grad, w, dx.slice()).expect("launches");
        implicit_gemm::weight_gradient(gpu(), s, input, grad, dw.slice()).expect("launches");
    }
    let mut expected = vec![0.0; s.output_len()];
    conv::forward(s, &x.values, &weight.values, Some(&bias.values), &mut expected);
    y.assert_close(&expected, &what);
    let mut expected = vec![0.0; s.input_len()];
    conv::data_gradient(s, &dy.values, &weight.values, &mut expected);
    dx.assert_close(&expected, &what);
    let mut expected = vec![0.0; s.weight_len()];
    conv::weight_gradient(s, &x.values, &dy.values, &mut expected);
    dw.assert_close(&expected, &what);
}

#[test]
fn specialized_depthwise_kernels_match_the_cpu() {
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
fn generic_depthwise_kernels_match_the_cpu() {
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
fn weights_beyond_shared_memory_are_unsupported() {
    let s = shape([64, 64], 8, 1, [41, 1, 20, 1]);
    assert!(depthwise::supports(&s, DType::F32) && !depthwise::supports(&s, DType::F16));
}

#[test]
fn implicit_gemm_of_any_geometry_matches_the_cpu() {
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
