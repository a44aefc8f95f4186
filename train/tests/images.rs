//! Image decoding, resizing and the evaluation transform against Pillow and timm: cases of the golden folder.
use fornax::data::Image;
use fornax::data::eval_transform::{CropMode, EvalTransform};
use fornax::data::resize::{ResizeFilter, resize};
use fornax::engine::Tensor;
use fornax::nn::state_dict::from_safetensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The golden cases of an operation, and all tensors.
fn cases(op: &str) -> (Vec<Value>, BTreeMap<String, Tensor>) {
    let text = fs::read_to_string(golden().join("images.json")).expect("the golden folder");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let all = document["cases"].as_array().expect("cases");
    let cases: Vec<Value> = all.iter().filter(|case| case["op"] == op).cloned().collect();
    assert!(!cases.is_empty(), "no case of {op}");
    let bytes = fs::read(golden().join("images.safetensors")).expect("the golden folder");
    (cases, from_safetensors(&bytes).expect("safetensors").0)
}

fn image(tensor: &Tensor) -> Image {
    let &[h, w, c] = tensor.dims() else { panic!("not an image") };
    Image { size: [h, w, c], pixels: tensor.to_vec::<u8>().expect("bytes") }
}

/// Checks against a case's tolerances: largest and mean absolute difference.
#[track_caller]
fn assert_close(case: &Value, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{}", case["id"]);
    let gaps: Vec<f64> = got.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).collect();
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let tolerance = |key: &str| case["tol"][key].as_f64();
    let (atol, mean_tol) = (tolerance("atol").expect("a tolerance"), tolerance("mean_abs_tol"));
    println!("{}: worst {worst:.4} of {atol}, mean {mean:.5} of {mean_tol:?}", case["id"]);
    assert!(
        worst <= atol && mean <= mean_tol.unwrap_or(f64::MAX),
        "{}: worst {worst}, mean {mean}",
        case["id"]
    );
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|b| f32::from(*b)).collect()
}

fn filter(name: &Value) -> ResizeFilter {
    clap::ValueEnum::from_str(name.as_str().expect("a name"), false).expect("a filter")
}

#[test]
fn decoded_files_match_pillow() {
    let (cases, tensors) = cases("decode");
    for case in cases {
        let bytes = fs::read(golden().join(case["file"].as_str().expect("a path"))).expect("reads");
        let expected = image(&tensors[case["rgb"].as_str().expect("a name")]);
        let got = Image::decode(&bytes, 3).expect("decodes");
        assert_eq!(got.size, expected.size, "{}", case["id"]);
        assert_close(&case, &floats(&got.pixels), &floats(&expected.pixels));
    }
}

#[test]
fn resized_images_match_pillow_bit_for_bit() {
    let (cases, tensors) = cases("resize");
    for case in cases {
        let (input, output) = (&case["input"], &case["output"]);
        let side = |i: usize| case["params"]["size_wh"][i].as_u64().expect("a size") as usize;
        let input = image(&tensors[input.as_str().expect("a name")]);
        let expected = image(&tensors[output.as_str().expect("a name")]);
        let got = resize(&input, [side(1), side(0)], filter(&case["params"]["interpolation"]));
        assert_eq!(got.size, expected.size);
        assert!(got.pixels == expected.pixels, "{}: to the last bit", case["id"]);
    }
}

#[test]
fn eval_transform_matches_timm() {
    let (cases, tensors) = cases("eval_transform");
    for case in cases {
        let params = &case["params"];
        let numbers = |key: &str| -> Vec<f64> {
            params[key].as_array().expect(key).iter().map(|v| v.as_f64().expect("a number")).collect()
        };
        let floats = |key: &str| numbers(key).iter().map(|v| *v as f32).collect();
        let size = numbers("input_size");
        let transform = EvalTransform {
            size: [size[1] as usize, size[2] as usize],
            crop_pct: params["crop_pct"].as_f64().expect("a number"),
            crop_mode: <CropMode as clap::ValueEnum>::from_str(
                params["crop_mode"].as_str().expect("a mode"),
                false,
            )
            .expect("a mode"),
            filter: filter(&params["interpolation"]),
            mean: floats("mean"),
            std: floats("std"),
        };
        let input = image(&tensors[case["input"].as_str().expect("a name")]);
        let expected = &tensors[case["output"].as_str().expect("a name")];
        let got = transform
            .batch(&[transform.resize_and_crop(&input).expect("fits")])
            .expect("computes")
            .to_nchw()
            .expect("permutes");
        assert_eq!(&got.dims()[1..], expected.dims());
        assert_close(&case, &got.to_vec::<f32>().expect("f32"), &expected.to_vec::<f32>().expect("f32"));
    }
}

/// An image of one row would be resized to a huge image before the crop.
#[test]
fn image_of_extreme_aspect_ratio_is_rejected() {
    let transform = EvalTransform {
        size: [224, 224],
        crop_pct: 1.0,
        crop_mode: CropMode::Center,
        filter: ResizeFilter::Bilinear,
        mean: vec![0.5],
        std: vec![0.5],
    };
    let line = |length: usize| Image { size: [1, length, 1], pixels: vec![9; length] };
    assert_eq!(transform.resize_and_crop(&line(100)).expect("fits").pixels, vec![9; 224 * 224]);
    let error = transform.resize_and_crop(&line(50_000_000)).expect_err("too wide");
    assert!(error.contains("1x50000000 pixels would be resized to 224x11200000000"), "{error}");
}

/// A 5x3 image that Pillow wrote as WebP: lossless, with an alpha channel, as the first of two frames, and lossy.
#[test]
fn decoded_webp_matches_pillow() {
    const RGB: &str = "524946464c000000574542505650384c400000002f048000007740a46dc3878727e2feeddd8390804cc9b24c4840c6ba2c5b67\
        fe73bc833021ce84e840511b29d07b77b93461052d684114c622fa1f35e8b3fd00";
    const RGBA: &str = "524946464c000000574542505650384c400000002f048000107740a46dc3878727e2feeddd8390804cc9b24c4840c6ba2c5b67\
        0073bc833021ce84e840511b29d07b77b93461052d684114c622fa1f35e8b3fd00";
    const TWO_FRAMES: &str = "52494646e800000057454250565038580a00000002000000040000020000414e494d06000000000000000000414e4d4658\
        000000000000000000040000020000000000025650384c400000002f048000007740a46dc3878727e2feeddd8390804cc9b24c4840\
        c6ba2c5b67fe73bc833021ce84e840511b29d07b77b93461052d684114c622fa1f35e8b3fd00414e4d465c00000000000000000004\
        0000020000000000005650384c440000002f0480000077a0a48d2408ed7778f1fa377a1e840464accbb21b8404449765ffff3834ff\
        89bf72a0eac0ab3ab00205916c50ef4302a16491451599e48ae87ffce6b5a600";
    const LOSSY: &str = "5249464660000000574542505650382054000000f001009d012a0500030001402625b002740136977b79ee0000e27fe2a2d0e1\
        c721ab3860aa29e7ff915ffe0d53ffd3fdbbfd229a5cbbfff7521e87fe0e4c547ffa1ffe1ea5f5dffe0cefbd2ac5b0f2b2ee108000";
    let bytes = |hex: &str| -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| Some(c.to_digit(16)? as u8)).collect();
        digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect()
    };
    let pixels: Vec<u8> = (0..45).map(|i| (i / 15 * 40 + i / 3 % 5 * 30 + i % 3 * 50) as u8).collect();
    for hex in [RGB, RGBA, TWO_FRAMES] {
        let image = Image::decode(&bytes(hex), 3).expect("decodes");
        assert_eq!(image, Image { size: [3, 5, 3], pixels: pixels.clone() });
        for cut in [10, 20, 40, 70] {
            assert!(Image::decode(&bytes(hex)[..cut], 3).is_err(), "{cut} bytes of it");
        }
    }
    let expected = [
        0, 59, 116, 21, 80, 137, 67, 109, 170, 103, 140, 164, 138, 179, 126, 28, 92, 148, 63, 121, 170, 112,
        159, 191, 146, 187, 176, 149, 192, 109, 73, 135, 187, 104, 164, 189, 140, 194, 167, 157, 207, 124,
        192, 242, 98,
    ];
    let lossy = Image::decode(&bytes(LOSSY), 3).expect("decodes");
    for (got, expected) in lossy.pixels.iter().zip(expected) {
        assert!((i32::from(*got) - expected).abs() <= 2, "{:?}", lossy.pixels);
    }
}

/// RGB to grey, and grey to RGB.
#[test]
fn channel_conversion_matches_pillow() {
    let bytes = fs::read(golden().join("images/rgb.png")).expect("reads");
    let (rgb, grey) =
        (Image::decode(&bytes, 3).expect("decodes"), Image::decode(&bytes, 1).expect("decodes"));
    assert_eq!(grey.size, [rgb.size[0], rgb.size[1], 1]);
    for (colour, grey) in rgb.pixels.chunks_exact(3).zip(&grey.pixels) {
        let [r, g, b] = [colour[0], colour[1], colour[2]].map(f64::from);
        // Bound of the error of 16-bit ITU-R 601 weights.
        assert!((0.299 * r + 0.587 * g + 0.114 * b - f64::from(*grey)).abs() <= 0.51);
    }
    let bytes = fs::read(golden().join("images/gray.png")).expect("reads");
    let (rgb, grey) =
        (Image::decode(&bytes, 3).expect("decodes"), Image::decode(&bytes, 1).expect("decodes"));
    assert!(rgb.pixels.chunks_exact(3).zip(&grey.pixels).all(|(colour, grey)| colour == [*grey; 3]));
}

#[test]
fn truncated_and_corrupted_images_are_rejected() {
    let whole = |name: &str| fs::read(golden().join("images").join(name)).expect("reads");
    for name in ["rgb.png", "photo_q90.jpg", "progressive.jpg", "palette.png"] {
        let good = whole(name);
        for part in [1, 2, 3, 10] {
            let cut = &good[..good.len() * part / 11];
            assert!(Image::decode(cut, 3).is_err(), "{name}: {part}/11 of it");
        }
        // Any change gives an image or an error, never a panic.
        let mut state = 7u64;
        for _ in 0..400 {
            let mut bad = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bad.len();
                bad[at] = (state >> 20) as u8;
            }
            if let Ok(image) = Image::decode(&bad, 3) {
                assert_eq!(image.pixels.len(), image.size.iter().product::<usize>());
            }
        }
    }
    // A decompression bomb: the header announces 65536x65536 pixels.
    let mut bomb = whole("rgb.png");
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert!(Image::decode(&bomb, 3).is_err());
    assert_eq!(Image::decode(b"", 3), Err("the file is empty".into()));
    assert!(Image::decode(b"%PDF-1.7", 3).expect_err("no image").contains("it is not a PNG"));
}
