//! Sums, and operations along an axis.
use super::{DeviceArray, FLOATS, gpu};
use crate::DType;
use crate::ops::reduce::Lines;
use crate::ops::reduce::cpu::{lines as on_cpu, sum as sum_on_cpu};
use crate::ops::reduce::cuda::lines::{self, SortOrder};
use crate::ops::reduce::cuda::sum as reduce;

#[test]
fn sums_over_any_axis_match_the_cpu() {
    for [outer, n, inner] in [
        [1, 1, 1],
        [5, 10, 1],
        [3, 2500, 1],
        [1, 100_003, 1],
        [1, 40_000, 1],
        [1, 1000, 3],
        [1, 5000, 64],
        [4, 30, 24],
        [7, 3, 300],
        [2, 0, 5],
        [0, 4, 5],
    ] {
        let what = format!("[{outer}, {n}, {inner}]");
        for dtype in FLOATS {
            let (x, y) =
                (DeviceArray::random(outer * n * inner, 1, dtype), DeviceArray::empty(outer * inner, dtype));
            reduce::sum(gpu(), x.slice(), [outer, n, inner], 0.25, y.slice()).expect("launches");
            let mut expected = vec![0.0; outer * inner];
            if outer * inner > 0 {
                sum_on_cpu::sum(&x.values, outer, n, inner, &mut expected);
            }
            expected.iter_mut().for_each(|v| *v *= 0.25);
            y.assert_close(&expected, &what);
        }
    }
}

#[test]
fn mean_of_16_bit_values_does_not_overflow() {
    for dtype in [DType::F16, DType::BF16] {
        let x = DeviceArray::new((0..4000).map(|i| 30.0 + (i % 7) as f64), dtype);
        let (wide, narrow) = (DeviceArray::empty(4, DType::F32), DeviceArray::empty(1, dtype));
        reduce::sum(gpu(), x.slice(), [4, 1000, 1], 1.0, wide.slice()).expect("launches");
        reduce::sum(gpu(), wide.slice(), [1, 4, 1], 1.0 / 4000.0, narrow.slice()).expect("launches");
        // The sum, 132,000, is beyond the range of f16; the mean, 33, is not.
        narrow.assert_close(&[x.values.iter().sum::<f64>() / 4000.0], "mean");
    }
}

/// Values with ties, and NaN in the first line.
fn tied(lines: Lines, dtype: DType, nan: bool) -> DeviceArray {
    let len = lines.count() * lines.n;
    let value = |i: usize| ((i * 7919 + i / 13) % 11) as f64 - 5.0;
    DeviceArray::new(
        (0..len).map(|i| if nan && i == lines.n / 2 * lines.inner { f64::NAN } else { value(i) }),
        dtype,
    )
}

const LINES: [Lines; 7] = [
    Lines { outer: 3, n: 10, inner: 1 },
    Lines { outer: 2, n: 1000, inner: 1 },
    Lines { outer: 300, n: 3, inner: 1 },
    Lines { outer: 2, n: 17, inner: 5 },
    Lines { outer: 1, n: 300, inner: 40 },
    Lines { outer: 2, n: 1, inner: 3 },
    Lines { outer: 0, n: 4, inner: 3 },
];

#[test]
fn max_min_and_their_indices_match_the_cpu() {
    for dtype in FLOATS {
        for lines in LINES {
            for (smallest, nan) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{lines:?} smallest {smallest} NaN {nan}");
                let x = tied(lines, dtype, nan);
                let (values, index) = (
                    DeviceArray::empty(lines.count(), dtype),
                    DeviceArray::new(vec![-1.0; lines.count()], DType::I64),
                );
                let order = SortOrder { smallest, nan_first: true };
                let outputs = (Some(values.slice()), Some(index.slice()));
                lines::top_k(gpu(), lines, x.slice(), 1, order, outputs.0, outputs.1).expect("launches");
                let (mut expected, mut arg) = (vec![0.0; lines.count()], vec![0; lines.count()]);
                on_cpu::extreme(lines, &x.values, smallest, &mut expected);
                on_cpu::arg_extreme(lines, &x.values, smallest, &mut arg);
                values.assert_close(&expected, &what);
                index.assert_close(&arg.iter().map(|i| *i as f64).collect::<Vec<_>>(), &what);
            }
        }
    }
}

#[test]
fn top_k_matches_the_cpu() {
    for dtype in FLOATS {
        for lines in LINES {
            for (smallest, nan) in [(false, false), (true, false), (false, true), (true, true)] {
                let (k, x) = (lines.n.min(5), tied(lines, dtype, nan));
                let index = DeviceArray::new(vec![-1.0; lines.count() * k], DType::I64);
                let order = SortOrder { smallest, nan_first: !smallest };
                lines::top_k(gpu(), lines, x.slice(), k, order, None, Some(index.slice())).expect("launches");
                let mut expected = vec![0; lines.count() * k];
                on_cpu::top_k(lines, &x.values, k, smallest, &mut expected);
                let expected: Vec<f64> = expected.iter().map(|i| *i as f64).collect();
                index.assert_close(&expected, &format!("{lines:?} smallest {smallest} NaN {nan}"));
            }
        }
    }
}

#[test]
fn gather_and_scatter_add_match_the_cpu() {
    for dtype in FLOATS {
        for lines in LINES {
            for k in [1, 4] {
                let (what, taken) = (format!("{lines:?} k {k}"), lines.count() * k);
                let x = DeviceArray::random(lines.count() * lines.n, 1, dtype);
                // Equal indices within a line, whose gradients add up.
                let positions: Vec<i64> = (0..taken).map(|i| ((i * 7919) % 97 % lines.n) as i64).collect();
                let index = DeviceArray::new(positions.iter().map(|i| *i as f64), DType::I64);
                let y = DeviceArray::empty(taken, dtype);
                lines::gather(gpu(), lines, x.slice(), index.slice(), k, y.slice()).expect("launches");
                let mut expected = vec![0.0; taken];
                on_cpu::gather(lines, &x.values, &positions, k, &mut expected);
                y.assert_close(&expected, &what);
                let (dy, dx) =
                    (DeviceArray::random(taken, 2, dtype), DeviceArray::empty(x.values.len(), dtype));
                lines::scatter_add(gpu(), lines, dy.slice(), index.slice(), k, dx.slice()).expect("launches");
                let mut expected = vec![0.0; x.values.len()];
                on_cpu::scatter_add(lines, &dy.values, &positions, k, &mut expected);
                dx.assert_close(&expected, &what);
            }
        }
    }
}

#[test]
fn one_hot_sets_on_and_off_values() {
    for dtype in FLOATS {
        let (index, y) = (DeviceArray::new([0.0, 4.0, 2.0], DType::I64), DeviceArray::empty(15, dtype));
        lines::one_hot(gpu(), index.slice(), 5, [0.9, 0.025], y.slice()).expect("launches");
        let mut expected = vec![0.025; 15];
        [0, 9, 12].into_iter().for_each(|i| expected[i] = 0.9);
        y.assert_close(&expected, "one hot");
    }
}

#[test]
fn cumsum_and_prod_match_the_cpu() {
    for dtype in FLOATS {
        for lines in LINES {
            let what = format!("{lines:?}");
            let x = DeviceArray::random(lines.count() * lines.n, 1, dtype);
            for reverse in [false, true] {
                let y = DeviceArray::empty(x.values.len(), dtype);
                lines::cumsum(gpu(), lines, x.slice(), reverse, y.slice()).expect("launches");
                let mut expected = vec![0.0; x.values.len()];
                on_cpu::cumsum(lines, &x.values, reverse, &mut expected);
                y.assert_close(&expected, &what);
            }
            // Near 1, so that long products stay in range; one zero.
            let near = |(i, v): (usize, &f64)| if i == 1 { 0.0 } else { 1.0 + v * 0.01 };
            let x = DeviceArray::new(x.values.iter().enumerate().map(near), dtype);
            let (y, dy) =
                (DeviceArray::empty(lines.count(), dtype), DeviceArray::random(lines.count(), 2, dtype));
            lines::prod(gpu(), lines, x.slice(), y.slice()).expect("launches");
            let mut expected = vec![0.0; lines.count()];
            on_cpu::prod(lines, &x.values, &mut expected);
            y.assert_close(&expected, &what);
            let dx = DeviceArray::empty(x.values.len(), dtype);
            lines::prod_backward(gpu(), lines, x.slice(), dy.slice(), dx.slice()).expect("launches");
            let mut expected = vec![0.0; x.values.len()];
            on_cpu::prod_backward(lines, &x.values, &dy.values, &mut expected);
            dx.assert_close(&expected, &what);
        }
    }
}
