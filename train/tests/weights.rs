//! Loading weights from safetensors files into models.
use fornax::engine::dtype::{bf16, f16};
use fornax::engine::{DType, Tensor};
use fornax::error::ErrorKind;
use fornax::nn::{ModelOptions, Module, create_model, state_dict};
use fornax::weights::{LoadOptions, LoadReport, load};
use std::path::{Path, PathBuf};

type State = Vec<(String, Tensor)>;

fn model(
    num_classes: usize,
    in_chans: usize,
    seed: u64,
) -> impl std::ops::Deref<Target = impl Module + ?Sized> {
    create_model("resnet8", &ModelOptions { num_classes, in_chans, seed, ..ModelOptions::default() })
        .expect("builds")
}

fn state(model: &(impl Module + ?Sized)) -> State {
    state_dict::state_dict(model).expect("reads")
}

fn write(folder: &Path, state: &State) -> PathBuf {
    let path = folder.join("w.safetensors");
    std::fs::write(&path, state_dict::to_safetensors(state, None).expect("writes")).expect("writes");
    path
}

fn values(state: &State, name: &str) -> Vec<f32> {
    let (_, tensor) = state.iter().find(|(n, _)| n == name).expect(name);
    tensor.to_vec::<f32>().expect("f32")
}

const PRETRAINED: LoadOptions<'static> = LoadOptions {
    classifier: "fc",
    first_conv: "conv1",
    adapt: true,
    strict: true,
    ema: false,
    img_size: None,
    reset_classifier: false,
    model: "resnet8",
};

/// Loads a file into a model with other weights; returns the report, and the state before and after.
fn loaded(
    file: &State,
    classes: usize,
    channels: usize,
    options: &LoadOptions,
) -> (LoadReport, State, State) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = model(classes, channels, 2);
    let before = state(&*target);
    let report = load(&*target, &write(folder.path(), file), options).expect("loads");
    (report, before, state(&*target))
}

/// The error message for weights that do not fit, after checking that the model is unchanged.
fn rejection(file: &State, options: &LoadOptions) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let target = model(10, 3, 2);
    let before = state(&*target);
    let error = load(&*target, &write(folder.path(), file), options).expect_err("does not fit");
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
    for ((name, a), (_, b)) in before.iter().zip(state(&*target)) {
        if a.dtype() == DType::F32 {
            assert_eq!(a.to_vec::<f32>().expect("f32"), b.to_vec::<f32>().expect("f32"), "{name} changed");
        }
    }
    let text = error.to_string();
    assert!(text.contains("w.safetensors"), "{text}");
    text
}

#[test]
fn all_tensors_of_the_same_model_are_loaded() {
    let file = state(&*model(10, 3, 1));
    let (report, _, after) = loaded(&file, 10, 3, &LoadOptions::exact());
    assert_eq!((report.loaded, report.kept.len(), report.notes.len()), (file.len(), 0, 0));
    for (name, tensor) in &file {
        if tensor.dtype() == DType::F32 {
            assert_eq!(values(&file, name), values(&after, name), "{name}");
        }
    }
}

#[test]
fn wrapper_prefixes_are_stripped_and_dtypes_converted() {
    let file = state(&*model(10, 3, 1));
    let dtypes = [DType::F16, DType::BF16, DType::F64, DType::F32];
    let wrapped: State = (file.iter().enumerate())
        .map(|(i, (name, tensor))| {
            let prefix =
                ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "", "model."][i % 6];
            let dtype = if tensor.dtype().is_float() { dtypes[i % 4] } else { tensor.dtype() };
            (format!("{prefix}{name}"), tensor.to_dtype(dtype).expect("converts"))
        })
        .collect();
    let (report, _, after) = loaded(&wrapped, 10, 3, &LoadOptions::exact());
    assert_eq!(report.loaded, file.len());
    let text = report.to_string();
    for part in ["tensors of f16 were widened to f32", "tensors of bf16 were", "tensors of f64 were rounded"]
    {
        assert!(text.contains(part), "{text}");
    }
    for (i, (name, tensor)) in file.iter().enumerate() {
        if tensor.dtype() != DType::F32 {
            continue;
        }
        let rounded = |v: f32| match dtypes[i % 4] {
            DType::F16 => f16::from_f32(v).to_f32(),
            DType::BF16 => bf16::from_f32(v).to_f32(),
            _ => v,
        };
        let expected: Vec<f32> = values(&file, name).into_iter().map(rounded).collect();
        assert_eq!(expected, values(&after, name), "{name}");
    }
}

#[test]
fn duplicate_names_of_a_tensor_are_rejected() {
    let mut file = state(&*model(10, 3, 1));
    let (name, tensor) = file[0].clone();
    file.push((format!("module.{name}"), tensor));
    let text = rejection(&file, &LoadOptions::exact());
    assert!(text.contains("are both conv1.weight"), "{text}");
}

#[test]
fn other_number_of_classes_keeps_initial_classifier() {
    let file = state(&*model(7, 3, 1));
    let (report, before, after) = loaded(&file, 10, 3, &PRETRAINED);
    assert_eq!(report.kept, ["fc.weight", "fc.bias"]);
    assert!(report.to_string().contains("fc.weight is for 7 classes, the model has 10"), "{report}");
    assert_eq!(values(&before, "fc.weight"), values(&after, "fc.weight"));
    assert_eq!(values(&file, "conv1.weight"), values(&after, "conv1.weight"));

    let text = rejection(&file, &LoadOptions::exact());
    assert!(text.contains("fc.weight is f32[7, 64], the model needs f32[10, 64]"), "{text}");

    // Another number of classes is the usual case of fine-tuning.
    let exact = LoadOptions { classifier: "fc", ..LoadOptions::exact() };
    let text = rejection(&file, &exact);
    assert!(text.contains("--reset-classifier") && text.contains("--pretrained-path"), "{text}");
    let (report, before, after) = loaded(&file, 10, 3, &LoadOptions { reset_classifier: true, ..exact });
    assert_eq!(report.kept, ["fc.weight", "fc.bias"]);
    assert_eq!(values(&before, "fc.weight"), values(&after, "fc.weight"));

    let without: State = file.into_iter().filter(|(name, _)| !name.starts_with("fc.")).collect();
    let (report, ..) = loaded(&without, 10, 3, &PRETRAINED);
    assert!(
        report.to_string().contains("fc.weight is not in the file: it keeps its initial value"),
        "{report}"
    );
}

#[test]
fn first_convolution_is_adapted_to_input_channels() {
    let file = state(&*model(10, 3, 1));
    let rgb = values(&file, "conv1.weight");
    let (report, _, after) = loaded(&file, 10, 1, &PRETRAINED);
    assert!(report.to_string().contains("conv1.weight was adapted from 3 to 1 input channels"), "{report}");
    for (i, sum) in values(&after, "conv1.weight").into_iter().enumerate() {
        let (o, at) = (i / 9, i % 9);
        assert_eq!(sum, rgb[o * 27 + at] + rgb[o * 27 + 9 + at] + rgb[o * 27 + 18 + at]);
    }
    let text = rejection(&state(&*model(10, 1, 1)), &LoadOptions::exact());
    assert!(text.contains("conv1.weight is f32[16, 1, 3, 3], the model needs f32[16, 3, 3, 3]"), "{text}");
}

#[test]
fn mismatches_are_listed_briefly_with_similar_names() {
    let file = state(&*model(10, 3, 1));
    let renamed: State = file.iter().map(|(n, t)| (n.replace("fc.bias", "fc.bais"), t.clone())).collect();
    let text = rejection(&renamed, &PRETRAINED);
    assert!(text.contains("1 not part of the model: fc.bais (the model has fc.bias)"), "{text}");

    let other: State = file.iter().map(|(n, t)| (n.replace("layer", "stage"), t.clone())).collect();
    let text = rejection(&other, &PRETRAINED);
    assert!(text.contains("missing: ") && text.contains("(the file has stage1.0."), "{text}");
    assert!(text.contains("… and ") && text.contains(" more"), "{text}");

    // Not strict: matching tensors are loaded, the rest is reported.
    let (report, before, after) = loaded(&other, 10, 3, &LoadOptions { strict: false, ..PRETRAINED });
    assert!(report.to_string().contains("not part of the model: stage1.0.bn1.bias"), "{report}");
    assert_eq!(values(&after, "conv1.weight"), values(&file, "conv1.weight"));
    assert_eq!(values(&after, "layer1.0.conv1.weight"), values(&before, "layer1.0.conv1.weight"));
}

/// Safetensors of other programs may hold integers of any width.
#[test]
fn integers_of_other_widths_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = std::fs::read(write(folder.path(), &state(&*model(10, 3, 1)))).expect("reads");
    let length = u64::from_le_bytes(good[..8].try_into().expect("8 bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&good[8..8 + length]).expect("JSON");
    // The counters come first, as the widest, and are all zero: the same bytes as twice as many i32 are not, so shrink them.
    let mut entries = header.as_object().expect("a map").clone();
    let counters = entries.values().filter(|entry| entry["dtype"] == "I64").count() as u64;
    for (i, entry) in entries.values_mut().enumerate() {
        let offsets = [0, 1].map(|k| entry["data_offsets"][k].as_u64().expect("an offset"));
        let shrunk = |offset: u64| if offset <= 8 * counters { offset / 2 } else { offset - 4 * counters };
        if entry["dtype"] == "I64" {
            entry["dtype"] = if i % 2 == 0 { "I32" } else { "U32" }.into();
        }
        entry["data_offsets"] = serde_json::json!(offsets.map(shrunk));
    }
    let header = serde_json::Value::Object(entries).to_string();
    let (counts, floats) = good[8 + length..].split_at(8 * counters as usize);
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &counts[..counts.len() / 2], floats]
        .concat();
    let path = folder.path().join("w.safetensors");
    std::fs::write(&path, file).expect("writes");
    let report = load(&*model(10, 3, 2), &path, &LoadOptions::exact()).expect("loads");
    assert!(report.kept.is_empty(), "{report}");
}

#[test]
fn missing_counter_is_accepted_and_wrong_dtype_is_rejected() {
    let file = state(&*model(10, 3, 1));
    let old: State = file.iter().filter(|(n, _)| !n.ends_with("num_batches_tracked")).cloned().collect();
    let (report, ..) = loaded(&old, 10, 3, &LoadOptions::exact());
    assert_eq!(report.loaded, old.len());

    let counted: State = file
        .iter()
        .map(|(name, tensor)| match name.as_str() {
            "fc.bias" => (name.clone(), Tensor::from_slice(&[1i64; 10], [10]).expect("memory")),
            _ => (name.clone(), tensor.clone()),
        })
        .collect();
    let text = rejection(&counted, &PRETRAINED);
    assert!(text.contains("fc.bias is i64[10], the model needs f32[10]"), "{text}");
}

#[test]
fn damaged_file_is_rejected_and_model_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = std::fs::read(write(folder.path(), &state(&*model(10, 3, 1)))).expect("reads");
    let target = model(10, 3, 2);
    let path = folder.path().join("bad.safetensors");
    for cut in [0, 1, 7, 8, 9, 500, good.len() - 1] {
        std::fs::write(&path, &good[..cut]).expect("writes");
        let error = load(&*target, &path, &LoadOptions::exact()).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        assert!(error.to_string().contains("bad.safetensors"), "{error}");
    }
    // Any change of the header gives an error or a complete set of weights.
    let header = 8 + u64::from_le_bytes(good[..8].try_into().expect("8 bytes")) as usize;
    let mut state = 3u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut bad = good.clone();
        bad[(state >> 33) as usize % header] ^= 1 << ((state >> 20) % 8);
        std::fs::write(&path, &bad).expect("writes");
        match load(&*target, &path, &LoadOptions::exact()) {
            Ok(report) => assert_eq!(report.loaded, state_dict::state_dict(&*target).expect("reads").len()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Checkpoint, "{error}"),
        }
    }
    for missing in [folder.path().to_path_buf(), folder.path().join("none")] {
        assert_eq!(
            load(&*target, &missing, &LoadOptions::exact()).expect_err("no file").kind(),
            ErrorKind::Checkpoint
        );
    }
}

/// The position embedding of a square grid is resampled to a rectangular one; the class token's is kept.
#[test]
fn pos_embed_is_resampled_to_another_image_size() {
    let vit = |size: [usize; 2], seed: u64| {
        let options = ModelOptions { num_classes: 5, img_size: Some(size), seed, ..ModelOptions::default() };
        create_model("vit_tiny_patch16_224", &options).expect("builds")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = state(&*vit([64, 64], 1));
    let path = write(folder.path(), &file);
    let target = vit([48, 80], 2);
    let options =
        LoadOptions { img_size: Some([48, 80]), ..LoadOptions::pretrained("head", "patch_embed.proj") };
    let report = load(&*target, &path, &options).expect("loads");
    assert!(report.to_string().contains("pos_embed was resampled from [4, 4] to [3, 5] patches"), "{report}");
    let (before, after) = (values(&file, "pos_embed"), values(&state(&*target), "pos_embed"));
    assert_eq!((before.len(), after.len()), (17 * 192, 16 * 192));
    assert_eq!(before[..192], after[..192], "the class token");
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    assert!((mean(&before[192..]) - mean(&after[192..])).abs() < 1e-3);

    let exact = load(&*target, &path, &LoadOptions::exact()).expect_err("another size").to_string();
    assert!(exact.contains("pos_embed is f32[1, 17, 192], the model needs f32[1, 16, 192]"), "{exact}");
}
