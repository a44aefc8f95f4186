//! Decoding, resizing and the evaluation transform against Pillow and timm: the cases of the golden folder.
use fornax::data::decode::Picture;
use fornax::data::eval_transform::{CropMode, EvalTransform};
use fornax::data::resize::{Filter, resize};
use fornax::engine::Tensor;
use fornax::nn::state_dict::from_safetensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The cases of an operation, and all tensors.
fn cases(op: &str) -> (Vec<Value>, BTreeMap<String, Tensor>) {
    let text = fs::read_to_string(golden().join("images.json")).expect("the golden folder");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let all = document["cases"].as_array().expect("cases");
    let cases: Vec<Value> = all.iter().filter(|case| case["op"] == op).cloned().collect();
    assert!(!cases.is_empty(), "no case of {op}");
    let bytes = fs::read(golden().join("images.safetensors")).expect("the golden folder");
    (cases, from_safetensors(&bytes).expect("safetensors").0)
}

fn picture(tensor: &Tensor) -> Picture {
    let &[h, w, c] = tensor.dims() else { panic!("not an image") };
    Picture { size: [h, w, c], pixels: tensor.to_vec::<u8>().expect("bytes") }
}

/// Checks against a case's tolerance of single values and of their mean.
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

fn filter(name: &Value) -> Filter {
    clap::ValueEnum::from_str(name.as_str().expect("a name"), false).expect("a filter")
}

#[test]
fn files_are_decoded_as_pillow_does() {
    let (cases, tensors) = cases("decode");
    for case in cases {
        let bytes = fs::read(golden().join(case["file"].as_str().expect("a path"))).expect("reads");
        let expected = picture(&tensors[case["rgb"].as_str().expect("a name")]);
        let got = Picture::decode(&bytes, 3).expect("decodes");
        assert_eq!(got.size, expected.size, "{}", case["id"]);
        assert_close(&case, &floats(&got.pixels), &floats(&expected.pixels));
    }
}

#[test]
fn sizes_change_as_pillow_changes_them() {
    let (cases, tensors) = cases("resize");
    for case in cases {
        let (input, output) = (&case["input"], &case["output"]);
        let side = |i: usize| case["params"]["size_wh"][i].as_u64().expect("a size") as usize;
        let input = picture(&tensors[input.as_str().expect("a name")]);
        let expected = picture(&tensors[output.as_str().expect("a name")]);
        let got = resize(&input, [side(1), side(0)], filter(&case["params"]["interpolation"]));
        assert_eq!(got.size, expected.size);
        assert!(got.pixels == expected.pixels, "{}: to the last bit", case["id"]);
    }
}

#[test]
fn models_see_what_timm_shows_them() {
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
        let input = picture(&tensors[case["input"].as_str().expect("a name")]);
        let expected = &tensors[case["output"].as_str().expect("a name")];
        let got = transform.batch(&[transform.fit(&input)]).expect("computes").to_nchw().expect("permutes");
        assert_eq!(&got.dims()[1..], expected.dims());
        assert_close(&case, &got.to_vec::<f32>().expect("f32"), &expected.to_vec::<f32>().expect("f32"));
    }
}

/// A 1x1 picture of each format, made by Pillow, and what is refused.
#[test]
fn what_is_no_picture_is_refused() {
    let whole = |name: &str| fs::read(golden().join("images").join(name)).expect("reads");
    for name in ["rgb.png", "photo_q90.jpg", "progressive.jpg", "palette.png"] {
        let good = whole(name);
        for part in [1, 2, 3, 10] {
            let cut = &good[..good.len() * part / 11];
            assert!(Picture::decode(cut, 3).is_err(), "{name}: {part}/11 of it");
        }
        // Whatever is changed, there is a picture or an error.
        let mut state = 7u64;
        for _ in 0..400 {
            let mut bad = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bad.len();
                bad[at] = (state >> 20) as u8;
            }
            if let Ok(picture) = Picture::decode(&bad, 3) {
                assert_eq!(picture.pixels.len(), picture.size.iter().product::<usize>());
            }
        }
    }
    // A header that promises more than anybody has memory for.
    let mut bomb = whole("rgb.png");
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert!(Picture::decode(&bomb, 3).is_err());
    assert_eq!(Picture::decode(b"", 3), Err("it is empty".into()));
    assert!(Picture::decode(b"GIF89a", 3).expect_err("GIF").contains("neither"));
}
