//! PyTorch files as weights: what `torch.save`, timm and Lightning write (`data/pytorch`, by torch 2.15), and hostile files.
mod common;

use common::{run, stderr, succeed};
use fornax::engine::{DType, Tensor};
use fornax::nn::state_dict::from_safetensors;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

fn fixture(name: &str) -> String {
    format!("{}/tests/data/pytorch/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    from_safetensors(&fs::read(path).expect("reads")).expect("safetensors").0
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.to_vec::<f64>()).expect("numbers")
}

/// The tensors of a fixture after `fornax ckpt convert`.
fn converted(name: &str, flags: &str) -> BTreeMap<String, Tensor> {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), &format!("ckpt convert {} -o w.safetensors {flags}", fixture(name)));
    tensors(&folder.path().join("w.safetensors"))
}

#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    let output = run(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments}: {part:?} is missing in\n{message}");
    }
}

#[test]
fn state_dicts_of_every_layout_are_read() {
    for name in [
        "plain.pth",
        "model.pth",
        "timm.pth.tar",
        "lightning.ckpt",
        "net.pt",
        "ddp.pt",
        "legacy.pth",
        // timm prefers `state_dict` to `model`.
        "both.pth",
    ] {
        let found = converted(name, "");
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["bn.num_batches_tracked", "bn.running_mean", "conv.weight", "fc.weight"],
            "{name}"
        );
        assert_eq!(found["conv.weight"].dims(), [2, 3, 2, 2], "{name}");
        assert_eq!(values(&found["conv.weight"]), (0..24).map(f64::from).collect::<Vec<_>>(), "{name}");
        assert_eq!(values(&found["bn.running_mean"]), [0.5, -1.5], "{name}");
        assert_eq!(values(&found["fc.weight"]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{name}");
        let counter = &found["bn.num_batches_tracked"];
        assert_eq!(
            (counter.dtype(), counter.dims(), values(counter)),
            (DType::I64, &[][..], vec![7.0]),
            "{name}"
        );
    }
    let ema = converted("timm.pth.tar", "--use-ema");
    assert_eq!(values(&ema["bn.running_mean"]), [1.5, -0.5]);
    let folder = tempfile::tempdir().expect("a folder");
    let text = succeed(folder.path(), &format!("ckpt info {}", fixture("timm.pth.tar")));
    for part in ["PyTorch", "resnet18", "weights  4 tensors of 33 elements", "EMA      4 tensors"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn views_are_made_dense_and_dtypes_are_kept_or_widened() {
    let views = converted("views.pth", "");
    assert_eq!(values(&views["channels_last"]), (0..24).map(f64::from).collect::<Vec<_>>());
    assert_eq!(views["transposed"].dims(), [4, 3]);
    assert_eq!(values(&views["transposed"])[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
    assert_eq!(values(&views["part"]), [5.0, 6.0, 9.0, 10.0]);
    assert_eq!(values(&views["expanded"]), [2.0; 3]);
    assert_eq!((values(&views["parameter"]), views["empty"].dims()), (vec![1.0, 2.0], &[0, 3][..]));
    let dtypes = converted("dtypes.pth", "");
    assert_eq!(dtypes.len(), 13);
    for (name, tensor) in &dtypes {
        let expected = match name.as_str() {
            "bool" => [1.0, 0.0, 1.0],
            "negative" => [-1.0, -2.0, -3.0],
            _ => [1.0, 2.0, 3.0],
        };
        assert_eq!(values(tensor), expected, "{name}");
        let dtype = match name.as_str() {
            "float64" => DType::F64,
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "uint8" | "bool" => DType::U8,
            _ => DType::I64,
        };
        assert_eq!(tensor.dtype(), dtype, "{name}");
    }
}

#[test]
fn objects_that_are_no_weights_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = format!("ckpt info {}", fixture("whole.pth"));
    assert_rejected(folder.path(), &whole, 4, &["torch.nn.modules.linear.Linear", "save its state_dict()"]);
    let output = run(folder.path(), &format!("ckpt convert {} -o w.safetensors", fixture("complex.pth")));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("b is omitted: its dtype ComplexFloatStorage is not supported"),
        "{}",
        stderr(&output)
    );
    let resume = format!("train --resume {}", fixture("plain.pth"));
    assert_rejected(folder.path(), &resume, 4, &["PyTorch file", "--initial-checkpoint"]);
    let load = format!("train --dry-run --initial-checkpoint {} --model resnet8", fixture("timm.pth.tar"));
    assert_rejected(
        folder.path(),
        &load,
        4,
        &["timm.pth.tar", "it is a resnet18 with 3 classes", "the model is resnet8"],
    );
}

/// Pickle of a state dict as torch writes it, and the elements of its storages.
fn pickled(state: &BTreeMap<String, Tensor>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let int = |value: usize| [b"J".as_slice(), &(value as i32).to_le_bytes()].concat();
    let tuple = |values: &[usize]| {
        [b"(".to_vec(), values.iter().flat_map(|value| int(*value)).collect(), b"t".to_vec()].concat()
    };
    let (mut pickle, mut storages) = (b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec(), vec![]);
    for (name, tensor) in state {
        let mut bytes = vec![];
        fornax::nn::state_dict::append_bytes(&mut bytes, tensor).expect("reads");
        let class = if tensor.dtype() == DType::I64 { "LongStorage" } else { "FloatStorage" };
        let dims = tensor.dims();
        let strides: Vec<usize> = (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect();
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        pickle.extend(
            [text(&storages.len().to_string()), text("cpu"), int(tensor.numel()), b"tQK\0".to_vec()].concat(),
        );
        pickle
            .extend([tuple(dims), tuple(&strides), b"\x89ccollections\nOrderedDict\n)RtR".to_vec()].concat());
        storages.push(bytes);
    }
    pickle.extend(b"u.");
    (pickle, storages)
}

fn write_archive(path: &Path, pickle: &[u8], storages: &[Vec<u8>]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).expect("creates"));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        archive.start_file(format!("archive/{name}"), stored).expect("starts");
        archive.write_all(bytes).expect("writes");
    };
    add("data.pkl", pickle);
    add("byteorder", b"little");
    storages.iter().enumerate().for_each(|(i, bytes)| add(&format!("data/{i}"), bytes));
    archive.finish().expect("finishes");
}

/// The same weights in a PyTorch file and in a safetensors file give the same run, predictions and evaluation.
#[test]
fn pytorch_file_serves_as_safetensors_file_does() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "models save resnet8 w.safetensors --num-classes 10 --in-chans 1 --seed 7");
    let state = tensors(&folder.path().join("w.safetensors"));
    let (pickle, storages) = pickled(&state);
    write_archive(&folder.path().join("w.pth.tar"), &pickle, &storages);
    let train = "train --epochs 1 --batch-size 256 --warmup-epochs 0 --progress none --output o --print-hash";
    for option in ["--initial-checkpoint", "--pretrained-path"] {
        let hash = |file: &str| {
            let text = succeed(folder.path(), &format!("{train} {option} {file}"));
            text.lines().last().expect("a hash").to_string()
        };
        assert_eq!(hash("w.safetensors"), hash("w.pth.tar"), "{option}");
    }
    let image = format!("{}/../tests/golden/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    let input = "--json --img-size 8 --mean 0.5 --std 0.5 --crop-pct 1";
    for command in [format!("predict {image} {input}"), format!("val digits {input}")] {
        let result = |file: &str| {
            let text = succeed(folder.path(), &format!("{command} --model resnet8 --checkpoint {file}"));
            let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            (object["topk"].clone(), object["loss"].clone(), object["top1"].clone())
        };
        assert_eq!(result("w.safetensors"), result("w.pth.tar"), "{command}");
    }
    assert_eq!(
        succeed(folder.path(), "ckpt diff w.safetensors w.pth.tar"),
        format!("all {} tensors are equal\n", state.len())
    );
    let verified = succeed(folder.path(), "ckpt verify w.pth.tar");
    assert!(verified.contains("tensors with matching checksums"), "{verified}");
    succeed(folder.path(), "ckpt convert w.pth.tar --model resnet8");
    assert_eq!(tensors(&folder.path().join("w.safetensors")).len(), state.len());
    succeed(folder.path(), "ckpt average w.pth.tar w.safetensors -o mean.safetensors");
}

#[test]
fn code_in_a_pickle_is_not_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let hostile = b"\x80\x02}X\x0a\0\0\0state_dictcposix\nsystem\nX\x0b\0\0\0touch pwned\x85Rs.";
    write_archive(&folder.path().join("w.pth"), hostile, &[]);
    let expected = ["its entry \"state_dict\" is an object of posix.system"];
    assert_rejected(folder.path(), "ckpt info w.pth", 4, &expected);
    assert!(!folder.path().join("pwned").exists());
}

/// Tensors that would need more memory than the file has, and views outside of their storage.
#[test]
fn impossible_tensors_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = BTreeMap::from([("a".to_string(), Tensor::from_slice(&[1.0f32, 2.0], [2]).expect("memory"))]);
    let (pickle, storages) = pickled(&state);
    let shape = b"(J\x02\0\0\0t(J\x01\0\0\0t";
    let at = pickle.windows(shape.len()).position(|w| w == shape).expect("shape and strides");
    for (replacement, why) in [
        (b"(J\0\0\0\x40t(J\0\0\0\0t".to_vec(), "repeats elements"),
        (b"(J\x03\0\0\0t(J\x01\0\0\0t".to_vec(), "12 are needed"),
        (b"(J\xff\xff\xff\xfft(J\x01\0\0\0t".to_vec(), "invalid"),
        (b"(J\x02\0\0\0t(t".to_vec(), "invalid"),
    ] {
        let changed = [&pickle[..at], &replacement, &pickle[at + shape.len()..]].concat();
        write_archive(&folder.path().join("w.pth"), &changed, &storages);
        assert_rejected(folder.path(), "ckpt info w.pth", 4, &["w.pth", why]);
    }
    write_archive(&folder.path().join("w.pth"), &pickle, &[]);
    assert_rejected(folder.path(), "ckpt info w.pth", 4, &["its storage 0 is missing"]);
    fs::write(folder.path().join("w.pth"), b"\x80\x02}q\0.").expect("writes");
    assert_rejected(folder.path(), "ckpt info w.pth", 4, &["Python pickle", "not of torch.save"]);
}
