//! timm's command line: every option is known, its defaults load, documented command lines run, and the table in the docs is current.
mod common;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use fornax::config::Config;
use fornax::settings::{DEFINITIONS, DefaultSet, SettingDefinition, Settings, TIMM_OPTIONS, TimmAnswer};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Options of timm's script with their defaults.
fn timm_options() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/timm_options.json");
    let table: Value = serde_json::from_str(&fs::read_to_string(path).expect("reads")).expect("JSON");
    table["options"].as_array().expect("a list").clone()
}

/// Options of timm's script with their defaults, by version.
fn timm_versions() -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/timm_versions.json");
    let table: Value = serde_json::from_str(&fs::read_to_string(path).expect("reads")).expect("JSON");
    table["versions"].as_object().expect("a map").clone()
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
fn args_yaml_of_every_version_of_timm_loads_at_its_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let versions = timm_versions();
    assert_eq!(versions.len(), 8);
    for (version, options) in versions {
        let options = options.as_object().expect("a map");
        let yaml: String = options.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        fs::write(folder.path().join("args.yaml"), yaml).expect("writes");
        // A machine without a GPU has no cuda, which is timm's default.
        for sched in ["", "--sched step", "--sched multistep"] {
            let line = format!("train digits -c args.yaml --device cpu --model resnet8 --dry-run {sched}");
            let output = run(folder.path(), &line);
            assert!(output.status.success(), "{version} {sched}: {}", stderr(&output));
            assert_eq!(stderr(&output), "", "{version} {sched}: defaults are accepted in silence");
        }
    }
}

/// Options whose default is another one than timm's; docs/timm-options.md lists both.
const OTHER_DEFAULTS: &[&str] = &[
    "dataset",
    "val_split",
    "num_classes",
    "img_size",
    "mean",
    "std",
    "batch_size",
    "opt_eps",
    "opt_betas",
    "momentum",
    "weight_decay",
    "epochs",
    "epoch_repeats",
    "decay_epochs",
    "warmup_epochs",
    "decay_rate",
    "scale",
    "ratio",
    "hflip",
    "color_jitter",
    "smoothing",
    "workers",
    "model",
    "input_img_mode",
    "input_key",
    "target_key",
    "in_chans",
    "validation_batch_size",
    "model_dtype",
    "sched_on_updates",
    "lr_base",
    "lr_base_scale",
    "decay_milestones",
    "train_crop_mode",
];

#[test]
fn defaults_that_differ_from_those_of_timm_are_listed() {
    let differs = |option: &Value| {
        let timm = option.get("default")?;
        let name = option["name"].as_str()?;
        let definition = DEFINITIONS.iter().find(|definition| definition.name == name)?;
        (own_default(definition, timm) != SAME).then(|| name.to_string())
    };
    let options = timm_options();
    let found: Vec<String> = options.iter().filter_map(differs).collect();
    assert_eq!(found, OTHER_DEFAULTS);
}

/// True if a resolved value is timm's default: null, false and empty values stand for "not given".
fn is_timm_default(value: &Value, timm: &Value) -> bool {
    match (value, timm) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_timm_default(a, b))
        }
        // One factor for brightness, contrast and saturation.
        (Value::Array(a), Value::Number(_)) => a.iter().all(|a| is_timm_default(a, timm)),
        _ => value == timm,
    }
}

#[test]
fn set_of_timm_defaults_resolves_to_those_of_timm() {
    let own = Config::resolve(&Settings { defaults: Some(DefaultSet::Timm), ..Settings::default() });
    let own = own.expect("valid").settings.given();
    let mut compared = 0;
    for option in timm_options() {
        let (Some(name), Some(timm)) = (option["name"].as_str(), option.get("default")) else { continue };
        let is_unset = timm.is_null() || *timm == "" || *timm == json!({});
        let Some(value) = own.get(name).filter(|_| !is_unset) else { continue };
        // 0 stands for one pass.
        let is_same = is_timm_default(value, timm) || (name == "epoch_repeats" && *value == json!(1.0));
        assert!(is_same, "{name} is {value}, with timm {timm}");
        compared += 1;
    }
    assert!(compared > 30, "{compared} options were compared");
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
const ALIASES: [(&str, &str); 4] =
    [("data", "DIR"), ("jsd", "--jsd-loss"), ("apex_amp", "--amp"), ("native_amp", "--amp")];

/// Fornax's default where it is timm's.
const SAME: &str = "same";

/// Fornax's default of an option of timm, and its answer to the option; `None` if the option is unknown.
fn answer(help: &str, option: &Value) -> Option<[String; 2]> {
    let name = option["name"].as_str().expect("a name");
    let timm = option.get("default").or(option.get("old_default")).expect("a default");
    if let Some(own) = TIMM_OPTIONS.iter().find(|own| own.name == name) {
        let answer = match own.answer {
            TimmAnswer::Ignored(why) => format!("ignored: {why}"),
            TimmAnswer::Rejected(why, remedy) => format!("rejected: {why}; {remedy}"),
        };
        return Some([SAME.into(), answer]);
    }
    if let Some(definition) = DEFINITIONS.iter().find(|definition| definition.name == name) {
        let answer = match name {
            "val_split" => "yes; an empty name is rejected: validation selects the best checkpoint",
            "drop_connect" => {
                "acts as `--drop-path`; timm's script ignores it, and so does `--defaults timm`"
            }
            "sched_on_updates" => "yes; timm's script then trains its first epoch at `--warmup-lr`",
            _ => "yes",
        };
        return Some([own_default(definition, timm), answer.into()]);
    }
    if let Some((_, of)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some([SAME.into(), format!("as `{of}`")]);
    }
    let flag = format!("--{}", name.replace('_', "-"));
    let shown = help.lines().any(|line| line.split([' ', ',', '[']).any(|word| word == flag));
    let default = match name {
        "device" => "auto: the first CUDA device, else the CPU",
        "output" => "output/train",
        _ => SAME,
    };
    shown.then(|| [default.into(), "yes".into()])
}

/// Fornax's default of a setting, or [`SAME`] if it is timm's.
fn own_default(definition: &SettingDefinition, timm: &Value) -> String {
    let is_unset = timm.is_null() || timm == "" || *timm == json!({}) || *timm == false;
    match definition.default {
        None if is_unset => SAME.into(),
        Some("none" | "all" | "0" | "1" | "no clipping" | "the model's" | "the model's own") if is_unset => {
            SAME.into()
        }
        Some(_) if definition.is_own_default(timm) => SAME.into(),
        Some(default) => default.into(),
        None => "same for image files; else of the [dataset's recipe](training.md#data)".into(),
    }
}

const TITLE: &str = "\
# Options of timm's train.py

`fornax train` knows every option of timm's `train.py`, of version 1.0.29 and of older versions. An `args.yaml` of timm from version 0.4 on loads
as it is. Options without effect are ignored; one warning lists them with the reasons, unless they are at their defaults. Options whose result
Fornax cannot give are rejected. Where the third column has another default than timm's, `--defaults timm` takes timm's.
`scripts/timm-options` writes this table, with the path of a `train.py` from its defaults.

| option | default of timm | default of Fornax | in Fornax |
|---|---|---|---|
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
        let [own, answer] = answer(&help, &option).unwrap_or_else(|| panic!("--{flag} is unknown"));
        format!("| `--{flag}` | `{default}`{removed} | {own} | {answer} |\n")
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
