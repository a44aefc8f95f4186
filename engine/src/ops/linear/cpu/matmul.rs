//! Matrix multiplication by the kernel that is fastest for its sizes.
use crate::cpu::gemm::{Matrix, gemm};
use crate::dtype::Real;
use crate::ops::conv::cpu as conv;
use crate::{ConvAlgorithm, ConvShape, DType};

/// `c = op(a) · op(b)` for row-major operands, where `op` transposes if the flag is set. `op(a)` is `m × k`, `op(b)` is `k × n`.
///
/// Large f32 matmuls run as 1×1 convolutions, whose register tiles are faster than the `gemm` crate: `x · wᵀ` is the forward pass
/// over `m` pixels, `dy · w` the data gradient, `dyᵀ · x` the weight gradient.
pub fn matmul<T: Real>(m: usize, n: usize, k: usize, a: (&[T], bool), b: (&[T], bool), c: &mut [T]) {
    let ((a, a_transposed), (b, b_transposed)) = (a, b);
    if m * n * k >= CONV_MIN_MACS && T::DTYPE == DType::F32 {
        match (a_transposed, b_transposed) {
            (false, true) => return conv::forward(&pixels(m, k, n), a, b, None, c),
            (false, false) => return conv::data_gradient(&pixels(m, n, k), a, b, c),
            (true, false) => return conv::weight_gradient(&pixels(k, n, m), b, a, c),
            (true, true) => {}
        }
    }
    let a = if a_transposed { Matrix::transposed(a, m) } else { Matrix::row_major(a, k) };
    let b = if b_transposed { Matrix::transposed(b, k) } else { Matrix::row_major(b, n) };
    gemm(m, n, k, a, b, false, c);
}

/// Fewest multiply-adds for which packing for the convolution's tiles pays.
pub const CONV_MIN_MACS: usize = 1 << 20;

/// 1×1 convolution over one column of pixels.
fn pixels(h: usize, c_in: usize, c_out: usize) -> ConvShape {
    ConvShape {
        n: 1,
        h,
        w: 1,
        c_in,
        c_out,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0, 0],
        dilation: [1, 1],
        groups: 1,
        algorithm: ConvAlgorithm::Direct,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_f32_matmul_matches_gemm() {
        let (m, n, k) = (150, 70, 130);
        let value = |i: usize, s: usize| (((i * 37 + s) % 23) as f32) - 11.0;
        let a: Vec<f32> = (0..m * k).map(|i| value(i, 1)).collect();
        let b: Vec<f32> = (0..k * n).map(|i| value(i, 5)).collect();
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let ma = if ta { Matrix::transposed(&a, m) } else { Matrix::row_major(&a, k) };
            let mb = if tb { Matrix::transposed(&b, k) } else { Matrix::row_major(&b, n) };
            let (mut expected, mut c) = (vec![0.0; m * n], vec![f32::NAN; m * n]);
            gemm(m, n, k, ma, mb, false, &mut expected);
            matmul(m, n, k, (&a, ta), (&b, tb), &mut c);
            assert_eq!(c, expected, "integers: every order of summation gives the same result");
        }
    }

    #[test]
    fn matmul_and_gemm_match_plain_loops_for_every_layout() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (130, 17, 33), (9, 700, 300), (2, 3, 0)] {
            let value = |i: usize, s: usize| (((i * 37 + s) % 23) as f64) - 11.0;
            let a: Vec<f64> = (0..m * k).map(|i| value(i, 1)).collect();
            let b: Vec<f64> = (0..k * n).map(|i| value(i, 5)).collect();
            let expected: Vec<f64> =
                (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum()).collect();
            let flip = |x: &[f64], rows: usize, cols: usize| -> Vec<f64> {
                (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
            };
            let (at, bt) = (flip(&a, m, k), flip(&b, k, n));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let ma = if ta { Matrix::transposed(&at, m) } else { Matrix::row_major(&a, k) };
                let mb = if tb { Matrix::transposed(&bt, k) } else { Matrix::row_major(&b, n) };
                let mut c = vec![1.0; m * n];
                let (pa, pb) = (if ta { &at } else { &a }, if tb { &bt } else { &b });
                matmul(m, n, k, (pa, ta), (pb, tb), &mut c);
                assert_eq!(c, expected, "matmul {m}x{n}x{k} {ta} {tb}");
                gemm(m, n, k, ma, mb, false, &mut c);
                assert_eq!(c, expected, "{m}x{n}x{k} {ta} {tb}");
                gemm(m, n, k, ma, mb, true, &mut c);
                assert!(c.iter().zip(&expected).all(|(c, e)| *c == 2.0 * e));
            }
        }
    }
}
