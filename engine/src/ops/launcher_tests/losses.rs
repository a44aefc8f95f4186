//! Softmax and cross entropies.
use super::{DeviceArray, FLOATS, gpu};
use crate::DType;
use crate::ops::loss::cpu as on_cpu;
use crate::ops::loss::cuda::cross_entropy::TopKCounts;
use crate::ops::loss::cuda::{cross_entropy, soft_cross_entropy};
use crate::ops::reduce::cpu::softmax as softmax_on_cpu;
use crate::ops::reduce::cuda::softmax;

/// Rows and classes: with and without packs, for a warp and for a block.
const ROWS: [(usize, usize); 5] = [(3, 10), (20, 8), (1, 1), (9, 1000), (2, 4001)];

#[test]
fn softmax_and_log_softmax_match_the_cpu() {
    for dtype in FLOATS {
        for (rows, n) in ROWS {
            for log in [false, true] {
                let what = format!("{rows} x {n} log {log}");
                let (x, dy) =
                    (DeviceArray::random(rows * n, 1, dtype), DeviceArray::random(rows * n, 2, dtype));
                let (y, dx) = (DeviceArray::empty(rows * n, dtype), DeviceArray::empty(rows * n, dtype));
                softmax::forward(gpu(), x.slice(), n, log, y.slice()).expect("launches");
                let mut expected = vec![0.0; rows * n];
                softmax_on_cpu::forward(&x.values, n, log, &mut expected);
                y.assert_close(&expected, &what);
                softmax::backward(gpu(), y.slice(), dy.slice(), n, log, dx.slice()).expect("launches");
                softmax_on_cpu::backward(&y.to_host(), &dy.values, n, log, &mut expected);
                dx.assert_close(&expected, &what);
            }
        }
    }
}

#[test]
fn softmax_of_infinities_matches_the_cpu() {
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    let mut rows = vec![0.0; 4 * 100];
    rows[3] = low; // one element of probability 0
    rows[100..200].fill(low);
    rows[100 + 77] = 1.0; // one element of probability 1
    rows[200..300].fill(low); // a row of -infinity
    rows[300] = high;
    let x = DeviceArray::new(rows, DType::F32);
    for log in [false, true] {
        let y = DeviceArray::empty(400, DType::F32);
        softmax::forward(gpu(), x.slice(), 100, log, y.slice()).expect("launches");
        let mut expected = vec![0.0; 400];
        softmax_on_cpu::forward(&x.values, 100, log, &mut expected);
        y.assert_close(&expected, &format!("log {log}"));
    }
}

#[test]
fn cross_entropy_matches_the_cpu() {
    for dtype in FLOATS {
        for (rows, classes) in ROWS {
            for smoothing in [0.0, 0.1] {
                let what = format!("{rows} x {classes} smoothing {smoothing}");
                let x = DeviceArray::random(rows * classes, 1, dtype);
                let target = DeviceArray::new((0..rows).map(|i| (i * 7919 % classes) as f64), DType::I64);
                let (log_sums, loss) =
                    (DeviceArray::empty(rows, DType::F32), DeviceArray::empty(1, DType::F32));
                let counts = DeviceArray::empty(2, DType::I64);
                cross_entropy::forward(
                    gpu(),
                    x.slice(),
                    target.slice(),
                    smoothing,
                    log_sums.slice(),
                    loss.slice(),
                    Some(TopKCounts { k: 3, counts: counts.slice() }),
                )
                .expect("launches");
                let indices: Vec<i64> = target.values.iter().map(|t| *t as i64).collect();
                counts.assert_close(
                    &on_cpu::cross_entropy::top_k_counts(&x.values, &indices, 3).map(|n| n as f64),
                    &what,
                );
                let mut sums = vec![0.0; rows];
                let expected = on_cpu::cross_entropy::forward(&x.values, &indices, smoothing, &mut sums);
                loss.assert_close(&[expected], &what);
                log_sums.assert_close(&sums, &what);
                let (grad, dx) =
                    (DeviceArray::new([3.0], DType::F32), DeviceArray::empty(rows * classes, dtype));
                cross_entropy::backward(
                    gpu(),
                    x.slice(),
                    target.slice(),
                    smoothing,
                    log_sums.slice(),
                    grad.slice(),
                    dx.slice(),
                )
                .expect("launches");
                let mut expected = vec![0.0; rows * classes];
                on_cpu::cross_entropy::backward(&x.values, &indices, smoothing, &sums, 3.0, &mut expected);
                dx.assert_close(&expected, &what);
            }
        }
    }
}

#[test]
fn invalid_class_gives_nan() {
    let (x, target) =
        (DeviceArray::random(3 * 5, 1, DType::F32), DeviceArray::new([4.0, 5.0, -1.0], DType::I64));
    let (log_sums, loss) = (DeviceArray::empty(3, DType::F32), DeviceArray::new([0.0], DType::F32));
    cross_entropy::forward(gpu(), x.slice(), target.slice(), 0.0, log_sums.slice(), loss.slice(), None)
        .expect("launches");
    assert!(loss.to_host()[0].is_nan());
    let (grad, dx) = (DeviceArray::new([1.0], DType::F32), DeviceArray::new(vec![0.0; 15], DType::F32));
    let operands = [x.slice(), target.slice(), log_sums.slice(), grad.slice(), dx.slice()];
    let [x, target, log_sums, grad, dx_slice] = operands;
    cross_entropy::backward(gpu(), x, target, 0.0, log_sums, grad, dx_slice).expect("launches");
    let actual = dx.to_host();
    assert!(
        actual[..5].iter().all(|v| v.is_finite()) && actual[5..].iter().all(|v| v.is_nan()),
        "{actual:?}"
    );
}

#[test]
fn soft_target_and_binary_cross_entropy_match_the_cpu() {
    for dtype in FLOATS {
        for (rows, classes) in ROWS {
            let what = format!("{rows} x {classes}");
            let len = rows * classes;
            let x = DeviceArray::random(len, 1, dtype);
            let target = DeviceArray::new((0..len).map(|i| (i * 7919 % 100) as f64 / 100.0), dtype);
            let (saved, counts) =
                (DeviceArray::empty(2 * rows, DType::F32), DeviceArray::empty(2, DType::I64));
            let (soft_loss, soft_grad) =
                (DeviceArray::empty(1, DType::F32), DeviceArray::new([3.0], DType::F32));
            let (loss, grad, dx) = (
                DeviceArray::empty(1, dtype),
                DeviceArray::new([3.0], dtype),
                DeviceArray::empty(len, dtype),
            );
            let (mut sums, mut expected) = (vec![0.0; rows], vec![0.0; len]);
            soft_cross_entropy::soft_forward(
                gpu(),
                x.slice(),
                target.slice(),
                saved.slice(),
                soft_loss.slice(),
                Some(TopKCounts { k: 3, counts: counts.slice() }),
            )
            .expect("launches");
            let classes_of = on_cpu::soft_cross_entropy::argmax_rows(&target.values, rows);
            counts.assert_close(
                &on_cpu::cross_entropy::top_k_counts(&x.values, &classes_of, 3).map(|n| n as f64),
                &what,
            );
            let total = on_cpu::soft_cross_entropy::soft_forward(&x.values, &target.values, &mut sums);
            soft_loss.assert_close(&[total], &what);
            let operands = [x.slice(), target.slice(), grad.slice(), dx.slice()];
            let [logits, labels, grad, dx_slice] = operands;
            soft_cross_entropy::soft_backward(
                gpu(),
                logits,
                labels,
                saved.slice(),
                soft_grad.slice(),
                dx_slice,
            )
            .expect("launches");
            on_cpu::soft_cross_entropy::soft_backward(&x.values, &target.values, &sums, 3.0, &mut expected);
            dx.assert_close(&expected, &what);

            soft_cross_entropy::binary_forward(gpu(), logits, labels, 2.5, rows, loss.slice())
                .expect("launches");
            let total = on_cpu::soft_cross_entropy::binary_forward(&x.values, &target.values, 2.5);
            loss.assert_close(&[total / rows as f64], &what);
            soft_cross_entropy::binary_backward(gpu(), logits, labels, 2.5, rows, grad, dx_slice)
                .expect("launches");
            let scale = 3.0 / rows as f64;
            on_cpu::soft_cross_entropy::binary_backward(&x.values, &target.values, 2.5, scale, &mut expected);
            dx.assert_close(&expected, &what);
        }
    }
}
