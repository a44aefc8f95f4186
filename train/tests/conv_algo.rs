//! `--conv-algo` in the files of a run, in resumed runs and evaluations, and on devices that ignore it.
#[path = "common/checkpoint_state.rs"]
mod checkpoint_state;
mod common;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use checkpoint_state::{state, with_state};
use common::{run, stderr, succeed};
use fornax::checkpoint;
use fornax::engine::Tensor;
use fornax::nn::state_dict::to_safetensors;
use fornax::settings::ConvAlgo;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::path::Path;

/// Trains for two epochs on few images, in the folder `out/NAME`, and returns the hash of the state.
fn train(root: &Path, name: &str, options: &str) -> String {
    write_small_dataset(root);
    let run = "train --device cpu --model resnet8 --epochs 2 --warmup-epochs 0 --progress none --print-hash --output out";
    last_line(&succeed(root, &format!("{run} {SMALL_DATASET} --experiment {name} {options}")))
}

fn last_line(text: &str) -> String {
    text.lines().last().expect("a line").into()
}

fn args(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join("out").join(name).join("args.yaml")).expect("reads")
}

#[test]
fn algorithm_is_stored_with_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, options, expected, text) in [
        ("a", "", ConvAlgo::Auto, "auto"),
        ("b", "--conv-algo auto", ConvAlgo::Auto, "auto"),
        ("c", "--conv-algo direct", ConvAlgo::Direct, "direct"),
    ] {
        train(folder.path(), name, options);
        let last = folder.path().join("out").join(name).join("checkpoints/last.safetensors");
        let stored = checkpoint::read(&last).expect("reads").header.settings.conv_algo;
        assert_eq!(stored, Some(expected), "{options}");
        assert!(args(folder.path(), name).contains(&format!("conv_algo: \"{text}\"\n")), "{options}");
    }
}

#[test]
fn checkpoint_of_an_earlier_version_is_resumed_with_direct_convolutions() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let expected = train(root, "a", "--conv-algo direct");
    let path = root.join("out/a/checkpoints/checkpoint-0.safetensors");
    let file = fs::read(&path).expect("reads");
    let mut stored = state(&file);
    assert!(stored["settings"].as_object_mut().expect("settings").remove("conv_algo").is_some());
    fs::write(&path, with_state(&file, &stored.to_string())).expect("writes");
    let resume = |options: &str| {
        let line = "train --device cpu --progress plain --print-hash --resume out/a/checkpoints/checkpoint-0.safetensors";
        let output = run(root, &format!("{line} {options}"));
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    let output = resume("");
    assert!(!stderr(&output).contains("changed since"), "{}", stderr(&output));
    assert_eq!(last_line(&String::from_utf8_lossy(&output.stdout)), expected);
    assert!(args(root, "a").contains("conv_algo: \"direct\"\n"));
    let output = resume("--conv-algo auto");
    let change = "changed since the checkpoint: --conv-algo direct → auto\n";
    assert!(stderr(&output).contains(change), "{}", stderr(&output));
    assert!(args(root, "a").contains("conv_algo: \"auto\"\n"));
}

#[test]
fn algorithm_is_without_effect_on_a_cuda_device_and_reported_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write_small_dataset(root);
    succeed(root, "models save resnet8 w.safetensors --num-classes 4 --in-chans 1");
    let input = Tensor::from_vec(vec![0.5f32; 64], [1, 1, 8, 8]).expect("memory");
    let bytes = to_safetensors(&[("input".to_string(), input)], None).expect("writes");
    fs::write(root.join("x.safetensors"), bytes).expect("writes");
    let few = "--dataset idx --data-dir small --model resnet8 --batch-size 4 --train-num-samples 8 --val-num-samples 4";
    let warning = "--conv-algo (on a CUDA device cuDNN computes the convolutions)";
    for command in [
        format!("train {few} --dry-run"),
        format!("lr-find {few} --num-updates 10"),
        "val --dataset idx --data-dir small --checkpoint w.safetensors --val-num-samples 4".into(),
        "predict --tensor x.safetensors --model resnet8 --weights w.safetensors --logits y.safetensors"
            .into(),
    ] {
        for (options, warnings) in [
            ("--device emulated --conv-algo direct", 1),
            ("--device emulated --conv-algo auto", 0),
            ("--device cpu --conv-algo direct", 0),
        ] {
            let output = run(root, &format!("{command} {options}"));
            let text = stderr(&output);
            assert!(output.status.success(), "{command} {options}: {text}");
            assert_eq!(text.matches(warning).count(), warnings, "{command} {options}: {text}");
            assert_eq!(text.matches("--conv-algo").count(), warnings, "{command} {options}: {text}");
        }
    }
}
