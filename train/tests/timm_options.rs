//! timm's command line: every option is known, its defaults load, documented command lines run, and the table in the docs is current.
mod common;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use fornax::settings::{DEFINITIONS, SettingDefinition, TIMM_OPTIONS, TimmAnswer};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Options of timm's script with their defaults.
fn timm_options() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/timm_options.json");
    let table: Value = serde_json::from_str(&fs::read_to_string(path).expect("reads")).expect("JSON");
    table["options"].as_array().expect("a list").clone()
}

/// A timm `args.yaml` with every option at its default.
fn args_yaml(column: &str) -> String {
    let options = timm_options();
    // timm's first parser reads --config; its args.yaml lacks it.
    let options = options.iter().filter(|option| option["name"] != "config");
    let given = options.filter_map(|option| Some((option["name"].as_str()?, option.get(column)?)));
    given.map(|(name, value)| format!("{name}: {value}\n")).collect()
}

#[test]
fn every_option_of_timm_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let (options, help) = (timm_options(), succeed(folder.path(), "train --help-all"));
    assert_eq!(options.len(), 178);
    let unknown: Vec<&Value> = options
        .iter()
        .filter(|option| answer(&help, option).is_none())
        .map(|option| &option["name"])
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn args_yaml_of_timm_loads_with_every_option_at_its_default() {
    let folder = tempfile::tempdir().expect("a folder");
    for column in ["default", "old_default"] {
        fs::write(folder.path().join("args.yaml"), args_yaml(column)).expect("writes");
        // A machine without a GPU has no cuda, which is timm's default.
        let output = run(folder.path(), "train digits -c args.yaml --device cpu --dry-run");
        assert!(output.status.success(), "{column}: {}", stderr(&output));
        let notes = stderr(&output);
        assert_eq!(notes.matches("note: ").count(), 1, "one line: {notes}");
        assert!(
            notes.contains("clip_mode") && notes.contains("decay_rate") == (column == "default"),
            "{notes}"
        );
    }
}

/// Command lines of timm's documentation (`training_script.mdx`, `changes`) and of timmdocs (`01b_training.ipynb`), with another dataset.
const COMMAND_LINES: [&str; 15] = [
    "--data-dir DATA --model efficientnet_b2 -b 128 --sched step --epochs 450 --decay-epochs 2.4 --decay-rate .97 --opt rmsproptf --opt-eps .001 -j 8 --warmup-lr 1e-6 --weight-decay 1e-5 --drop 0.3 --drop-path 0.2 --model-ema --model-ema-decay 0.9999 --aa rand-m9-mstd0.5 --remode pixel --reprob 0.2 --amp --lr .016",
    "--data-dir DATA --model efficientnet_b0 -b 384 --sched step --epochs 450 --decay-epochs 2.4 --decay-rate .97 --opt rmsproptf --opt-eps .001 -j 8 --warmup-lr 1e-6 --weight-decay 1e-5 --drop 0.2 --drop-path 0.2 --model-ema --model-ema-decay 0.9999 --aa rand-m9-mstd0.5 --remode pixel --reprob 0.2 --amp --lr .048",
    "--data-dir DATA -b 64 --model resnet50 --sched cosine --epochs 200 --lr 0.05 --amp --remode pixel --reprob 0.6 --aug-splits 3 --aa rand-m9-mstd0.5-inc1 --resplit --split-bn --jsd --dist-bn reduce",
    "--data-dir DATA --model mobilenetv3_large_100 -b 512 --sched step --epochs 600 --decay-epochs 2.4 --decay-rate .973 --opt rmsproptf --opt-eps .001 -j 7 --warmup-lr 1e-6 --weight-decay 1e-5 --drop 0.2 --drop-path 0.2 --model-ema --model-ema-decay 0.9999 --aa rand-m9-mstd0.5 --remode pixel --reprob 0.2 --amp --lr .064 --lr-noise 0.42 0.9",
    "--data-dir DATA --model resnext50_32x4d --lr 0.6 --warmup-epochs 5 --epochs 240 --weight-decay 1e-4 --sched cosine --reprob 0.4 --recount 3 --remode pixel --aa rand-m7-mstd0.5-inc1 -b 192 -j 6 --amp --dist-bn reduce",
    "DATA --model efficientnet_b2 -b 128 --sched step --epochs 450 --decay-epochs 2.4 --decay-rate .97 --opt rmsproptf --opt-eps .001 -j 8 --warmup-lr 1e-6 --weight-decay 1e-5 --drop 0.3 --drop-connect 0.2 --model-ema --model-ema-decay 0.9999 --aa rand-m9-mstd0.5 --remode pixel --reprob 0.2 --amp --lr .016",
    "DATA",
    "DATA --aa v0",
    "DATA --aug-splits 3 --jsd",
    "DATA --aug-splits 3 --jsd --aa rand-m9-mstd0.5-inc1",
    "DATA --aug-splits 3 --jsd --amp",
    "DATA --aug-splits 3 --aa rand-m9-mstd0.5-inc1 --split-bn",
    "DATA --mixup 0.5",
    "DATA --cutmix 0.5",
    "DATA --mixup 0.5 --cutmix 0.5 --mixup-switch-prob 0.3",
];

#[test]
fn documented_command_lines_of_timm_run_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(folder.path(), "datasets export --dataset digits --format folder --output data");
    // Each of them builds a large model: by default every third.
    for line in COMMAND_LINES.iter().step_by(if sweep::is_full_sweep() { 1 } else { 3 }) {
        let plan = succeed(folder.path(), &format!("train {} --dry-run", line.replace("DATA", "data")));
        assert!(plan.contains("epochs of"), "{line}: {plan}");
    }
}

/// Names of timm that are aliases in Fornax.
const ALIASES: [(&str, &str); 5] = [
    ("data", "DIR"),
    ("jsd", "--jsd-loss"),
    ("apex_amp", "--amp"),
    ("native_amp", "--amp"),
    ("drop_connect", "--drop-path"),
];

/// Fornax's answer to an option of timm; `None` if the option is unknown.
fn answer(help: &str, option: &Value) -> Option<String> {
    let name = option["name"].as_str().expect("a name");
    let timm = option.get("default").or(option.get("old_default")).expect("a default");
    if let Some(own) = TIMM_OPTIONS.iter().find(|own| own.name == name) {
        return Some(match own.answer {
            TimmAnswer::AlwaysSo(why) => format!("accepted: {why}"),
            TimmAnswer::Refused(why, remedy) => format!("refused unless at its default: {why}; {remedy}"),
        });
    }
    if let Some(definition) = DEFINITIONS.iter().find(|definition| definition.name == name) {
        return Some(setting_answer(definition, timm));
    }
    if let Some((_, of)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(format!("same as `{of}`"));
    }
    let flag = format!("--{}", name.replace('_', "-"));
    let shown = help.lines().any(|line| line.split([' ', ',', '[']).any(|word| word == flag));
    shown.then(|| match name {
        "device" => "same; default: auto, the first CUDA device, else the CPU".into(),
        "output" => "same; default: output/train".into(),
        _ => "same".into(),
    })
}

fn setting_answer(definition: &SettingDefinition, timm: &Value) -> String {
    let answer = same_or_default(definition, timm);
    match definition.name {
        "val_split" => format!("{answer}; an empty name is refused: validation selects the best checkpoint"),
        _ => answer,
    }
}

fn same_or_default(definition: &SettingDefinition, timm: &Value) -> String {
    let is_unset = timm.is_null() || timm == "" || *timm == serde_json::json!({}) || *timm == false;
    match definition.default {
        None if is_unset => "same".into(),
        Some("none" | "all" | "0" | "1" | "no clipping" | "the model's" | "the model's own") if is_unset => {
            "same".into()
        }
        Some(_) if definition.is_own_default(timm) => "same".into(),
        Some(default) => format!("same; default: {default}"),
        None => "same; default: that of the [dataset's recipe](training.md#data)".into(),
    }
}

const TITLE: &str = "\
# Options of timm's train.py

`fornax train` knows every option of timm's `train.py`, those of version 1.0.29 and the older ones of version 0.4. An option at timm's default is
accepted everywhere, so that an `args.yaml` of timm loads as it is; options that are ignored are listed in one line on stderr. \
`scripts/timm-options` writes this table.

| option | default of timm | in Fornax |
|---|---|---|
";

/// `scripts/timm-options` sets FORNAX_RECORD to write the table.
#[test]
fn table_of_options_is_current() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = succeed(folder.path(), "train --help-all");
    let rows = timm_options().into_iter().map(|option| {
        let flag = option["name"].as_str().expect("a name").replace('_', "-");
        let default = option.get("default").or(option.get("old_default")).expect("a default");
        let removed = if option.get("default").is_none() { " (older versions)" } else { "" };
        let answer = answer(&help, &option).unwrap_or_else(|| panic!("--{flag} is unknown"));
        format!("| `--{flag}` | `{default}`{removed} | {answer} |\n")
    });
    let table = format!("{TITLE}{}", rows.collect::<String>());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/timm-options.md");
    if std::env::var_os("FORNAX_RECORD").is_some() {
        fs::write(&path, &table).expect("writes");
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == table,
        "run scripts/timm-options to write docs/timm-options.md"
    );
}
