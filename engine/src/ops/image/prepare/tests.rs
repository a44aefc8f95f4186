//! Image preparation against its definition.
use super::*;
use crate::Device;
use crate::random::{RngKey, RngStream};

const N: usize = 3;
const SIZE: [usize; 3] = [5, 7, 3];

/// The CPU, and in builds with CUDA the emulated device.
fn devices() -> Vec<Device> {
    let emulated = cfg!(feature = "cuda").then(|| Device::emulated(1).expect("g++ is installed"));
    [Device::Cpu].into_iter().chain(emulated).collect()
}

fn batch() -> Tensor {
    let bytes: Vec<u8> = (0..N * 5 * 7 * 3).map(|i| (i * 7919 % 251) as u8).collect();
    Tensor::from_vec(bytes, [N, 5, 7, 3]).expect("memory")
}

fn image_box(top: u32, bottom: u32, left: u32, right: u32) -> ImageBox {
    ImageBox { top, bottom, left, right }
}

fn changes() -> Vec<ImageChange> {
    let mixed = ImageChange { partner: 2, lam: 0.25, ..ImageChange::none(0) };
    let cut = ImageChange {
        partner: 0,
        cutmix_box: image_box(1, 3, 2, 6),
        erase_boxes: vec![image_box(0, 2, 0, 3)],
        ..ImageChange::none(1)
    };
    let erase_boxes = vec![image_box(0, 5, 6, 7), image_box(4, 5, 0, 7)];
    vec![mixed, cut, ImageChange { sample: 1 << 40, erase_boxes, ..ImageChange::none(2) }]
}

fn preparation(erase_mode: EraseMode, rounded: bool) -> ImagePreparation<'static> {
    let rng = RngStream::new(RngKey::new(5, "erase"), 3, 0);
    ImagePreparation { white: 255, mean: &[0.5, 0.4, 0.3], std: &[0.2, 0.3, 0.4], rounded, erase_mode, rng }
}

/// The result by the definition, element by element.
fn expected(erase_mode: EraseMode, rounded: bool) -> Vec<f64> {
    let x = batch().to_vec::<u8>().expect("bytes");
    let (how, [h, w, c]) = (preparation(erase_mode, rounded), SIZE);
    let inside = |b: &ImageBox, y: usize, x: usize| {
        (b.top as usize..b.bottom as usize).contains(&y) && (b.left as usize..b.right as usize).contains(&x)
    };
    let mut out = vec![];
    for (image, change) in changes().iter().enumerate() {
        for i in 0..h * w * c {
            let (channel, column, row) = (i % c, i / c % w, i / c / w);
            let pixel = |image: usize| f64::from(x[image * h * w * c + i]);
            let lam = f64::from(change.lam);
            let mut v = match inside(&change.cutmix_box, row, column) {
                true => pixel(change.partner),
                false => lam * pixel(image) + (1.0 - lam) * pixel(change.partner),
            };
            if rounded {
                v = v.round_ties_even();
            }
            v = (v / 255.0 - f64::from(how.mean[channel])) / f64::from(how.std[channel]);
            for (b, erased) in change.erase_boxes.iter().enumerate() {
                if inside(erased, row, column) {
                    let stream = RngStream::new(RngKey::new(5, "erase"), 3, change.sample);
                    let normal = |i: usize| stream.at(2 * (b * h * w * c + i) as u64).normal();
                    v = match erase_mode {
                        EraseMode::Const => 0.0,
                        EraseMode::Rand => f64::from(normal(channel)),
                        EraseMode::Pixel => f64::from(normal(i)),
                    };
                }
            }
            out.push(v);
        }
    }
    out
}

#[test]
fn images_are_mixed_normalised_and_erased() {
    let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
    for device in devices() {
        let (x, rows) =
            (batch().to_device(&device).expect("memory"), rows.to_device(&device).expect("memory"));
        for (erase_mode, rounded) in
            [(EraseMode::Const, true), (EraseMode::Rand, false), (EraseMode::Pixel, true)]
        {
            let expected = expected(erase_mode, rounded);
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3)] {
                let y = x.prepare_images(&rows, &preparation(erase_mode, rounded), dtype).expect("bytes");
                let y = y.to_device(&Device::Cpu).and_then(|y| y.to_dtype(DType::F64)).expect("floats");
                for (i, (got, want)) in y.to_vec::<f64>().expect("f64").iter().zip(&expected).enumerate() {
                    let off = (got - want).abs();
                    assert!(
                        off <= tolerance * (1.0 + want.abs()),
                        "{erase_mode:?} {dtype} {device} {i}: {got}, {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn f32_images_give_the_results_of_u8_images() {
    let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
    let how = preparation(EraseMode::Pixel, true);
    for device in devices() {
        let rows = rows.to_device(&device).expect("memory");
        let prepared = |images: &Tensor| {
            let images = images.to_device(&device).expect("memory");
            let y = images.prepare_images(&rows, &how, DType::F32).expect("images");
            y.to_device(&Device::Cpu).and_then(|y| y.to_vec::<f32>()).expect("f32")
        };
        let floats = batch().to_dtype(DType::F32).expect("memory");
        assert_eq!(prepared(&floats), prepared(&batch()), "{device}");
    }
}

#[test]
fn half_precision_results_are_casts_of_f32_results() {
    let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
    for device in devices() {
        let (x, rows) =
            (batch().to_device(&device).expect("memory"), rows.to_device(&device).expect("memory"));
        for dtype in [DType::F16, DType::BF16] {
            let how = preparation(EraseMode::Pixel, false);
            let prepared = |to: DType| x.prepare_images(&rows, &how, to).expect("bytes");
            let normalized = |to: DType| x.normalize_bytes(255, how.mean, how.std, to).expect("bytes");
            let pairs =
                [(prepared(dtype), prepared(DType::F32)), (normalized(dtype), normalized(DType::F32))];
            for (half, wide) in pairs {
                let [half, cast] = [half, wide.to_dtype(dtype).expect("a cast")]
                    .map(|t| t.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("f32"));
                assert_eq!(half, cast, "{dtype} on {device}");
            }
        }
    }
}

#[test]
fn images_without_a_row_serve_as_partners_only() {
    let how = preparation(EraseMode::Const, false);
    for device in devices() {
        let x = batch().to_device(&device).expect("memory");
        let prepared = |count: usize| {
            let rows = ImageChange::rows(&changes()[..count], N, 2).expect("they fit");
            let y =
                x.prepare_images(&rows.to_device(&device).expect("memory"), &how, DType::F32).expect("u8");
            assert_eq!(y.dims(), [count, 5, 7, 3]);
            y.to_device(&Device::Cpu).and_then(|y| y.to_vec::<f32>()).expect("f32")
        };
        // The first image is mixed with the third, which has no row.
        assert_eq!(prepared(1), prepared(3)[..5 * 7 * 3], "{device}");
    }
}

#[test]
fn invalid_changes_and_options_are_rejected() {
    let how = preparation(EraseMode::Const, false);
    assert!(ImageChange::rows(&changes(), N, 1).is_err(), "an image has two boxes");
    let partner = ImageChange { partner: 9, ..ImageChange::none(0) };
    assert!(ImageChange::rows(&[partner], N, 0).is_err(), "there is no tenth image");
    let rows = ImageChange::rows(&[0, 1, 2, 0].map(ImageChange::none), N, 0).expect("they fit");
    assert!(batch().prepare_images(&rows, &how, DType::F32).is_err(), "four rows for three images");
    let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
    assert!(batch().prepare_images(&rows, &how, DType::I64).is_err(), "numbers, not integers");
    let short = ImagePreparation { mean: &[0.0], ..how };
    assert!(batch().prepare_images(&rows, &short, DType::F32).is_err(), "a mean a channel");
}
