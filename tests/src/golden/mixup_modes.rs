//! Mixup and CutMix of batches in every mode, with the random choices given in the file: pixels by `prepare_images`, and soft targets.
use super::run::check_each_case;
use super::{GoldenCase, Outcome, Topic};
use clap::ValueEnum;
use fornax::augment::mixup::{BatchMix, MixChoice, MixupMode, MixupOptions};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Device, EraseMode, ImageBox, ImageChange, ImagePreparation, Result, Tensor};
use serde_json::Value;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case(topic, |case| match case.op() {
        "mixup_mode" => mixup_mode(&case),
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn mixup_mode(case: &GoldenCase) -> std::result::Result<(), String> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", case.id());
    case.allow_params(&[
        "mode",
        "smoothing",
        "num_classes",
        "lam",
        "use_cutmix",
        "boxes_yl_yh_xl_xh",
        "dtype",
    ])?;
    let (mix, options) = mix_of(case)?;
    let dtype = match case.text("dtype")? {
        "float32" => DType::F32,
        text if text.starts_with("uint8") => DType::U8,
        other => return Err(say(&format!("no images of {other}"))),
    };
    let x = case.tensor("inputs", "x")?.to_tensor(dtype, &Device::Cpu).map_err(|e| say(&e))?;
    let last = x.permute(&[0, 2, 3, 1]).and_then(|x| x.to_device(&case.topic.device)).map_err(|e| say(&e))?;
    let mixed = mix_images(&last, &mix.changes, dtype == DType::U8, DType::F32);
    let mixed = mixed.and_then(|y| y.to_device(&Device::Cpu)?.permute(&[0, 3, 1, 2])).map_err(|e| say(&e))?;
    case.check("outputs", "x", &mixed)?;
    let labels: Vec<i64> = case.tensor("inputs", "target")?.data.iter().map(|label| *label as i64).collect();
    case.check("outputs", "target", &options.soft_targets(&labels, &mix).map_err(|e| say(&e))?)
}

/// Mixing of a case's batch by the random choices of the file, and the options of its targets.
pub fn mix_of(case: &GoldenCase) -> std::result::Result<(BatchMix, MixupOptions), String> {
    let &[n, _, h, w] = &case.tensor("inputs", "x")?.shape[..] else {
        return Err(format!("{}: images must have four axes", case.id()));
    };
    let mode = MixupMode::from_str(case.text("mode")?, false).map_err(|e| format!("{}: {e}", case.id()))?;
    let list = |name: &str| {
        let list = case.param(name).as_array().filter(|list| list.len() == mode.entries(n));
        list.ok_or_else(|| format!("{}: {name} must have {} entries", case.id(), mode.entries(n)))
    };
    let (lams, cuts, boxes) = (list("lam")?, list("use_cutmix")?, list("boxes_yl_yh_xl_xh")?);
    let choices = (0..mode.entries(n)).map(|entry| {
        let lam = lams[entry].as_f64().ok_or("a lam is not a number")?;
        let cut = cuts[entry].as_bool().ok_or("use_cutmix is not a list of booleans")?;
        let cutmix_box = if cut { Some(image_box(&boxes[entry])?) } else { None };
        Ok(MixChoice { lam, cutmix_box })
    });
    let choices: std::result::Result<Vec<MixChoice>, String> = choices.collect();
    let options = MixupOptions {
        mode,
        label_smoothing: case.number("smoothing")?,
        num_classes: case.number("num_classes")? as usize,
        ..MixupOptions::default()
    };
    Ok((BatchMix::new(mode, n, [h, w], &choices.map_err(|e| format!("{}: {e}", case.id()))?), options))
}

/// A box of the file: `[top, bottom, left, right]`.
pub fn image_box(value: &Value) -> std::result::Result<ImageBox, String> {
    let sides: Vec<u32> =
        value.as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as u32).collect();
    match sides[..] {
        [top, bottom, left, right] => Ok(ImageBox { top, bottom, left, right }),
        _ => Err(format!("a box of four numbers is needed: {value}")),
    }
}

/// Mixes images `[n, h, w, c]` without normalising them.
pub fn mix_images(x: &Tensor, changes: &[ImageChange], rounded: bool, dtype: DType) -> Result<Tensor> {
    let &[n, _, _, c] = x.dims() else { panic!("images have four axes, not {x:?}") };
    let how = ImagePreparation {
        white: 1,
        mean: &vec![0.0; c],
        std: &vec![1.0; c],
        rounded,
        erase_mode: EraseMode::Const,
        rng: RngStream::new(RngKey::new(0, "erase"), 0, 0),
    };
    let rows = ImageChange::rows(changes, n, 0)?.to_device(&x.device())?;
    x.prepare_images(&rows, &how, dtype)
}
