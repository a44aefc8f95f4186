//! `fornax models`, completions and manual pages.
mod common;

use common::succeed;
use fornax::engine::cpu::memory::memory_stats;
use fornax::engine::shapes_only;
use fornax::nn::ModelOptions;
use fornax::nn::models::{list_models, summary};
use std::fs;

/// Parameters and MACs of every model are counted without memory for its weights: they take more than 3 GB together.
#[test]
fn models_are_counted_without_memory_for_weights() {
    let mut parameters = 0;
    for info in list_models() {
        let options = ModelOptions::classes(info.pretrained_cfg.num_classes);
        let model = shapes_only(|| info.build(&options)).expect(info.name);
        let [h, w] = info.pretrained_cfg.input_size;
        parameters += summary(&*model, [h, w, 3]).expect(info.name).parameters;
    }
    let reserved = memory_stats().reserved;
    assert!(parameters > 500_000_000 && reserved < 256 << 20, "{reserved} bytes for {parameters} parameters");
}

#[test]
fn list_fits_a_terminal_of_100_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = succeed(folder.path(), "models");
    let widest = list.lines().max_by_key(|line| line.chars().count()).expect("a line");
    assert!(widest.chars().count() <= 100, "{widest}");
    assert!(list.contains("3x3 stem and no max pool"), "{list}");
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef fornax"), ("fish", "complete -c fornax")]
    {
        let script = succeed(folder.path(), &format!("completions {shell}"));
        for name in [part, "lr-find", "batch-size", "ckpt"] {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    let script = succeed(folder.path(), "completions bash");
    for name in ["efficientnet_b0", "rmsproptf"] {
        assert!(script.contains(name), "values of --model and --opt: {name}");
    }
    let page = succeed(folder.path(), "man");
    assert!(page.contains(".TH fornax 1") && page.contains("Train image models"), "{page}");
    succeed(folder.path(), "man --output man1");
    for (name, part) in
        [("fornax", "EXTRA"), ("fornax-train", "epochs"), ("fornax-ckpt-average", "safetensors")]
    {
        let page = fs::read_to_string(folder.path().join(format!("man1/{name}.1"))).expect(name);
        assert!(page.contains(part), "{name}: {page}");
    }
}
