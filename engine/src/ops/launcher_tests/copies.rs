//! Fill and strided copies of every dtype.
use super::{DeviceArray, gpu};
use crate::cuda::memory::copy;
use crate::ops::elementwise::cpu::binary::BroadcastLayout;
use crate::ops::shape::cpu as on_cpu;
use crate::{DType, Shape};

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::I64, DType::U8];

/// Small integers, which every dtype represents exactly.
fn integers(len: usize, dtype: DType) -> DeviceArray {
    DeviceArray::new((0..len).map(|i| (i * 31 % 251) as f64), dtype)
}

fn zeros(len: usize, dtype: DType) -> DeviceArray {
    DeviceArray::new(vec![0.0; len], dtype)
}

#[test]
fn fill_sets_every_element() {
    for dtype in DTYPES {
        for len in [0, 1, 7, 64, 1001] {
            let y = zeros(len, dtype);
            copy::fill(gpu(), y.slice(), 3.0).expect("launches");
            assert_eq!(y.to_host(), vec![3.0; len]);
            let shifted = y.shifted();
            copy::fill(gpu(), shifted.slice(), 5.0).expect("launches");
            assert_eq!(shifted.to_host(), vec![5.0; len]);
        }
    }
}

#[test]
fn permute_matches_the_cpu() {
    for dtype in DTYPES {
        for (dims, axes) in [
            (&[3, 40, 33][..], &[0, 2, 1][..]),
            (&[2, 3, 9, 11], &[0, 2, 3, 1]),
            (&[2, 9, 11, 16], &[0, 3, 1, 2]),
            (&[5, 4, 16], &[1, 0, 2]),
            (&[64, 65], &[1, 0]),
            (&[2, 3, 4, 2, 3, 2], &[5, 3, 1, 0, 2, 4]),
            (&[2, 3, 4], &[0, 1, 2]),
            (&[0, 9, 9], &[0, 2, 1]),
            (&[], &[]),
        ] {
            let from = Shape::must_fit(dims);
            let (x, y) = (integers(from.numel(), dtype), zeros(from.numel(), dtype));
            copy::permute(gpu(), x.slice(), &from, axes, y.slice()).expect("launches");
            let mut expected = vec![0.0; from.numel()];
            on_cpu::permute::permute(&x.values, &from, axes, &mut expected);
            assert_eq!(y.to_host(), expected, "{dims:?} by {axes:?}, {dtype}");
        }
    }
}

#[test]
fn expand_matches_the_cpu() {
    for dtype in DTYPES {
        for (from, to) in
            [(&[16][..], &[3, 5, 16][..]), (&[3, 1], &[3, 32]), (&[2, 1, 5], &[4, 2, 3, 5]), (&[], &[2, 3])]
        {
            let (from, to) = (Shape::must_fit(from), Shape::must_fit(to));
            let steps = crate::ops::broadcast_steps(&from, &to);
            let (x, y) = (integers(from.numel(), dtype), zeros(to.numel(), dtype));
            copy::expand(gpu(), x.slice(), &steps, &to, y.slice()).expect("launches");
            let mut expected = vec![0.0; to.numel()];
            on_cpu::expand::forward(&BroadcastLayout::new(&to, &steps, &steps), &x.values, &mut expected);
            assert_eq!(y.to_host(), expected, "{from} to {to}, {dtype}");
        }
    }
}

#[test]
fn copied_blocks_match_their_source() {
    for dtype in DTYPES {
        for (x_dims, from, y_dims, to, block) in [
            ([4, 6, 16], [1, 2, 0], [3, 4, 16], [0, 0, 0], [3, 4, 16]),
            ([2, 3, 5], [0, 0, 0], [4, 7, 9], [1, 2, 3], [2, 3, 5]),
            ([2, 3, 16], [0, 0, 8], [2, 5, 32], [0, 1, 16], [2, 3, 8]),
            ([2, 3, 5], [0, 0, 0], [4, 7, 9], [1, 2, 3], [2, 0, 5]),
        ] {
            let [x_shape, y_shape, block] = [x_dims, y_dims, block].map(|dims| Shape::must_fit(&dims));
            let (x, y) = (integers(x_shape.numel(), dtype), zeros(y_shape.numel(), dtype));
            let (source, sink) = ((x.slice(), &x_shape, &from[..]), (y.slice(), &y_shape, &to[..]));
            copy::copy_block(gpu(), source, sink, &block).expect("launches");
            let mut expected = vec![0.0; y_shape.numel()];
            for i in 0..block[0] {
                for j in 0..block[1] {
                    for k in 0..block[2] {
                        let at = |s: &Shape, o: [usize; 3]| ((o[0] + i) * s[1] + o[1] + j) * s[2] + o[2] + k;
                        expected[at(&y_shape, to)] = x.values[at(&x_shape, from)];
                    }
                }
            }
            assert_eq!(y.to_host(), expected, "{block} of {x_shape} into {y_shape}, {dtype}");
        }
    }
}

#[test]
fn flip_reverses_an_axis() {
    for dtype in DTYPES {
        for (dims, axis) in [([3, 4, 16], 0), ([3, 5, 16], 1), ([3, 4, 7], 2), ([2, 1, 3], 1)] {
            let shape = Shape::must_fit(&dims);
            let (x, y) = (integers(shape.numel(), dtype), zeros(shape.numel(), dtype));
            copy::flip(gpu(), x.slice(), &shape, axis, y.slice()).expect("launches");
            let (n, row) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
            let source = |i: usize| {
                let (line, column) = (i / row, i % row);
                (line / n * n + n - 1 - line % n) * row + column
            };
            let expected: Vec<f64> = (0..shape.numel()).map(|i| x.values[source(i)]).collect();
            assert_eq!(y.to_host(), expected, "{dims:?} along {axis}, {dtype}");
        }
    }
}
