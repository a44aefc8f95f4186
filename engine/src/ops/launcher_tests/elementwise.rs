//! Unary and binary elementwise functions, activations, casts, dropout and image normalization.
use super::{DeviceArray, FLOATS, gpu};
use crate::ops::dropout::cuda as dropout;
use crate::ops::elementwise::cpu::activation as on_cpu;
use crate::ops::elementwise::cpu::binary::{self, BinaryFn, BroadcastLayout};
use crate::ops::elementwise::cpu::unary::{self, UnaryFn};
use crate::ops::elementwise::cuda::{activation, binary as launch, unary as one};
use crate::ops::image::cuda::normalize;
use crate::ops::shape::cuda::cast;
use crate::random::{RngKey, RngStream};
use crate::{Activation, DType, Shape};

/// Lengths in whole packs, with a remainder, and longer than one iteration of a grid-stride loop.
const LENGTHS: [usize; 4] = [1, 37, 256, 1_100_003];

fn check_unary<F: UnaryFn>(p: f64, q: f64, positive: bool) {
    for dtype in FLOATS {
        for len in [1, 37, 256] {
            let x = DeviceArray::random(len, 1, dtype);
            let x =
                if positive { DeviceArray::new(x.values.iter().map(|v| v.abs() + 0.5), dtype) } else { x };
            let y = DeviceArray::empty(len, dtype);
            one::forward(gpu(), F::KERNEL, x.slice(), p, q, y.slice()).expect("launches");
            let mut expected = vec![0.0; len];
            unary::forward::<f64, F>(&x.values, p, q, &mut expected);
            y.assert_close(&expected, F::KERNEL);
        }
    }
}

#[test]
fn unary_functions_match_the_cpu() {
    check_unary::<unary::Affine>(1.5, -0.25, false);
    check_unary::<unary::MulScalar>(-3.0, 0.0, false);
    check_unary::<unary::Abs>(0.0, 0.0, false);
    check_unary::<unary::Sign>(0.0, 0.0, false);
    check_unary::<unary::Sqrt>(0.0, 0.0, true);
    check_unary::<unary::Ln>(0.0, 0.0, true);
    check_unary::<unary::Square>(0.0, 0.0, false);
    check_unary::<unary::PowScalar>(2.5, 0.0, true);
    check_unary::<unary::Clamp>(-0.5, 0.75, false);
    check_unary::<unary::Within>(-0.5, 0.75, false);
    check_unary::<unary::Greater>(0.25, 0.0, false);
}

#[test]
fn nan_is_handled_as_on_the_cpu() {
    let values = [f64::NAN, 1.0, -1.0, 0.0, f64::INFINITY, f64::NEG_INFINITY];
    let x = DeviceArray::new(values, DType::F32);
    for (kernel, expected) in [
        ("clamp", [f64::NAN, 0.5, -0.5, 0.0, 0.5, -0.5]),
        ("within", [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
        ("sign", [0.0, 1.0, -1.0, 0.0, 1.0, -1.0]),
    ] {
        let y = DeviceArray::empty(values.len(), DType::F32);
        one::forward(gpu(), kernel, x.slice(), -0.5, 0.5, y.slice()).expect("launches");
        y.assert_close(&expected, kernel);
    }
    let pairs = [(f64::NAN, 1.0), (1.0, f64::NAN), (2.0, 1.0), (1.0, 1.0)];
    let [a, b] =
        [DeviceArray::new(pairs.map(|p| p.0), DType::F32), DeviceArray::new(pairs.map(|p| p.1), DType::F32)];
    for (kernel, expected) in [
        ("maximum", [f64::NAN, f64::NAN, 2.0, 1.0]),
        ("minimum", [f64::NAN, f64::NAN, 1.0, 1.0]),
        ("heaviside", [0.0, 0.0, 1.0, 0.5]),
        ("equal", [0.0, 0.0, 0.0, 1.0]),
    ] {
        let y = DeviceArray::empty(pairs.len(), DType::F32);
        launch::same_shape(gpu(), kernel, a.slice(), b.slice(), y.slice()).expect("launches");
        y.assert_close(&expected, kernel);
    }
    let (mask, y) = (DeviceArray::new([0.0, 1.0, 1.0, 0.0], DType::F32), DeviceArray::empty(4, DType::F32));
    launch::same_shape(gpu(), "masked", a.slice(), mask.slice(), y.slice()).expect("launches");
    y.assert_close(&[0.0, 1.0, 2.0, 0.0], "masked");
}

#[test]
fn activations_and_their_gradients_match_the_cpu() {
    for f in Activation::ALL.iter().copied().filter(|f| *f != Activation::Identity) {
        for dtype in FLOATS {
            // The range covers every kink, and the offset keeps values off the kinks.
            let x = DeviceArray::new(
                DeviceArray::random(517, 1, DType::F32).values.iter().map(|v| v * 4.0 + 0.01),
                dtype,
            );
            let dy = DeviceArray::random(517, 2, dtype);
            let (y, dx) = (DeviceArray::empty(517, dtype), DeviceArray::empty(517, dtype));
            activation::forward(gpu(), f, x.slice(), y.slice()).expect("launches");
            let mut expected = vec![0.0; 517];
            on_cpu::forward(f, &x.values, &mut expected);
            y.assert_close(&expected, &format!("{f:?}"));
            activation::backward(gpu(), f, x.slice(), dy.slice(), dx.slice()).expect("launches");
            on_cpu::backward(f, &x.values, &dy.values, &mut expected);
            dx.assert_close(&expected, &format!("gradient of {f:?}"));
        }
    }
}

fn check_binary<F: BinaryFn>(a: &[usize], b: &[usize], positive: bool) {
    let (a_shape, b_shape) = (Shape::must_fit(a), Shape::must_fit(b));
    let shape = a_shape.broadcast(&b_shape).expect("few elements").expect("broadcastable shapes");
    let [a_steps, b_steps] = [a_shape, b_shape].map(|s| crate::ops::broadcast_steps(&s, &shape));
    for dtype in FLOATS {
        let what = format!("{} of {a_shape} and {b_shape}", F::KERNEL);
        let make = |len, seed| {
            let x = DeviceArray::random(len, seed, dtype);
            if positive { DeviceArray::new(x.values.iter().map(|v| v.abs() + 0.5), dtype) } else { x }
        };
        let (x, w) = (make(a_shape.numel(), 1), make(b_shape.numel(), 2));
        let y = DeviceArray::empty(shape.numel(), dtype);
        let operands = ((x.slice(), &a_steps[..]), (w.slice(), &b_steps[..]));
        launch::forward(gpu(), F::KERNEL, &shape, operands.0, operands.1, y.slice()).expect("launches");
        let mut expected = vec![0.0; shape.numel()];
        binary::forward::<f64, F>(
            &BroadcastLayout::new(&shape, &a_steps, &b_steps),
            &x.values,
            &w.values,
            &mut expected,
        );
        y.assert_close(&expected, &what);
    }
}

#[test]
fn binary_functions_match_the_cpu() {
    check_binary::<binary::Add>(&[37], &[37], false);
    check_binary::<binary::Sub>(&[4, 8], &[4, 8], false);
    check_binary::<binary::Mul>(&[257], &[257], false);
    check_binary::<binary::Div>(&[257], &[257], true);
    check_binary::<binary::Maximum>(&[257], &[257], false);
    check_binary::<binary::Minimum>(&[257], &[257], false);
    check_binary::<binary::Pow>(&[64], &[64], true);
    check_binary::<binary::Heaviside>(&[64], &[64], false);
    check_binary::<binary::Equal>(&[64], &[64], false);
    check_binary::<binary::Masked>(&[64], &[64], false);
}

#[test]
fn operands_broadcast_along_any_axes() {
    for (a, b) in [
        (&[2, 5, 3, 16][..], &[16][..]),
        (&[2, 5, 3, 16], &[2, 1, 1, 16]),
        (&[2, 5, 3, 16], &[2, 5, 3, 1]),
        (&[2, 5, 3, 7], &[5, 1, 7]),
        (&[4, 1, 8], &[3, 1]),
        (&[3, 1, 5, 1, 2, 1], &[1, 4, 1, 3, 1, 2]),
        (&[33], &[]),
        (&[], &[]),
        (&[0, 3], &[1, 3]),
    ] {
        check_binary::<binary::Sub>(a, b, false);
        check_binary::<binary::Sub>(b, a, false);
    }
}

#[test]
fn in_place_add_is_correct() {
    for dtype in FLOATS {
        for len in LENGTHS {
            let (a, b) = (DeviceArray::random(len, 1, dtype), DeviceArray::random(len, 2, dtype));
            launch::same_shape(gpu(), "add", a.slice(), b.slice(), a.slice()).expect("launches");
            let expected: Vec<f64> = a.values.iter().zip(&b.values).map(|(a, b)| a + b).collect();
            a.assert_close(&expected, "a += b");
        }
    }
}

#[test]
fn casts_round_truncate_and_saturate() {
    let values = [
        0.0,
        1.0,
        -1.0,
        2.5,
        -2.5,
        3.75,
        254.9,
        255.0,
        256.0,
        300.0,
        -0.5,
        1e6,
        65504.0,
        1.0009765625,
        1e20,
        -1e20,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::I64, DType::U8];
    for from in dtypes {
        for to in dtypes.into_iter().filter(|to| *to != from) {
            for len in [values.len(), 3 * values.len() + 16] {
                let x = DeviceArray::new(values.iter().cycle().take(len).copied(), from);
                let y = DeviceArray::new(vec![7.0; len], to);
                cast(gpu(), x.slice(), y.slice()).expect("launches");
                let expected = DeviceArray::new(x.values.iter().copied(), to);
                let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
                let actual = y.to_host();
                assert!(
                    actual.iter().zip(&expected.values).all(same),
                    "{from} to {to}: {actual:?}, not {:?}",
                    expected.values
                );
            }
        }
    }
}

#[test]
fn dropout_drops_the_same_elements_as_the_cpu() {
    for dtype in FLOATS {
        for len in [1, 6, 257, 40_000] {
            let (x, stream) =
                (DeviceArray::random(len, 1, dtype), RngStream::new(RngKey::new(3, "dropout"), 2, 1 << 40));
            let y = DeviceArray::empty(len, dtype);
            dropout::forward(gpu(), x.slice(), &stream, None, None, 0.7, 1.0 / 0.7, y.slice())
                .expect("launches");
            let mut expected = vec![0.0; len];
            crate::ops::dropout::cpu::forward(&x.values, &stream, None, 0.7, 1.0 / 0.7, &mut expected);
            y.assert_close(&expected, "dropout");
            assert!(len < 257 || (0.25..0.35).contains(&(count_zeros(&y) as f64 / len as f64)));
        }
    }
}

#[test]
fn dropout_mask_of_a_part_is_the_rows_of_the_whole_mask() {
    let rows = [5i64, 6, 2];
    let stream = RngStream::new(RngKey::new(3, "dropout"), 2, 1 << 40);
    for dtype in FLOATS {
        for columns in [1, 6, 8, 49, 1028] {
            let mut whole = vec![0.0; 7 * columns];
            crate::ops::dropout::cpu::forward(&vec![1.0; 7 * columns], &stream, None, 0.7, 2.0, &mut whole);
            let on_device = DeviceArray::new(rows.map(|row| row as f64), DType::I64);
            let (x, y) =
                (DeviceArray::new(vec![1.0; 3 * columns], dtype), DeviceArray::empty(3 * columns, dtype));
            dropout::forward(gpu(), x.slice(), &stream, None, Some(on_device.slice()), 0.7, 2.0, y.slice())
                .expect("launches");
            let expected: Vec<f64> =
                rows.iter().flat_map(|row| whole[*row as usize * columns..][..columns].to_vec()).collect();
            assert_eq!(y.to_host(), expected, "{columns} columns in {dtype}");
        }
    }
}

fn count_zeros(y: &DeviceArray) -> usize {
    y.to_host().iter().filter(|v| **v == 0.0).count()
}

#[test]
fn u8_images_are_normalized_by_channel() {
    for dtype in FLOATS {
        for (pixels, c) in [(1, 1), (35, 3), (64, 8), (100, 5)] {
            let x = DeviceArray::new((0..pixels * c).map(|i| (i * 37 % 256) as f64), DType::U8);
            let mean: Vec<f32> = (0..c).map(|i| 0.4 + 0.05 * i as f32).collect();
            let std: Vec<f32> = (0..c).map(|i| 0.2 + 0.01 * i as f32).collect();
            let y = DeviceArray::empty(pixels * c, dtype);
            normalize::forward(gpu(), x.slice(), 255.0, [&mean, &std], y.slice()).expect("launches");
            let expected: Vec<f64> = (0..pixels * c)
                .map(|i| (x.values[i] / 255.0 - f64::from(mean[i % c])) / f64::from(std[i % c]))
                .collect();
            y.assert_close(&expected, &format!("{pixels} pixels of {c}"));
        }
    }
}
