//! Images against Pillow, torchvision and timm: decoding, resizing, the evaluation transform, boxes of random crops and random erasing,
//! operations of policies, colour jitter, AugMix, policies, and configuration strings.
use super::run::check_each_case;
use super::{GoldenCase, Outcome, StoredTensor, Topic, folder};
use clap::ValueEnum;
use fornax::augment::policies::{
    AUGMIX_OPS, AutoAugmentPolicy, Magnitude, Policy, PolicyContext, PolicyOp, PolicyStep, mix_chains,
};
use fornax::augment::random_resized_crop::RandomResizedCrop;
use fornax::augment::{AutoAugment, RandomErasingOptions, RandomSource, TrainInterpolation, image_ops};
use fornax::data::Image;
use fornax::data::decode::{DecodeOptions, Gray16};
use fornax::data::eval_transform::{CropMode, EvalTransform};
use fornax::data::resize::{Resize, ResizeFilter, resize};
use fornax_engine::{DType, Device, EraseMode, ImageBox, Tensor};
use serde_json::{Value, json};

/// Runs every case of the topic, and compares all policies and configuration strings.
pub fn check(topic: &Topic) -> Outcome {
    let cases = check_each_case(topic, |case| match case.op() {
        "decode" => decode(&case),
        "resize" => resized(&case),
        "resized_crop" => resized_crop(&case),
        "eval_transform" => eval_transform(&case),
        "random_resized_crop_box" => random_resized_crop(&case),
        "random_erasing_box" => random_erasing(&case),
        "adjust_brightness" => adjust(&case, |image, factor| image_ops::brightness(image, factor as f32)),
        "adjust_contrast" => adjust(&case, |image, factor| image_ops::contrast(image, factor as f32)),
        "adjust_saturation" => adjust(&case, |image, factor| image_ops::color(image, factor as f32)),
        "adjust_hue" => adjust(&case, image_ops::hue),
        "grayscale" => {
            case.allow_params(&["formula"])?;
            let mut image = input(&case)?;
            image_ops::grayscale(&mut image);
            // The file has one of the equal channels.
            check_output(&case, &image.with_channels(1))
        }
        "augmix" => augmix(&case),
        op => match op.parse() {
            Ok(op) => policy_op(&case, op),
            Err(e) => Err(format!("{}: {e}", case.id())),
        },
    });
    let lists = auto_augment_policies(topic).and_then(|policies| Ok(policies + parsed_configs(topic)?));
    match (cases, lists) {
        (Ok(cases), Ok(lists)) => Ok(cases + lists),
        (Err(a), Err(b)) => Err(format!("{a}\n{b}")),
        (Err(e), _) | (_, Err(e)) => Err(e),
    }
}

/// Random numbers of the file.
struct Draws {
    values: Vec<f64>,
    used: usize,
}

impl Draws {
    fn of(row: &Value) -> Draws {
        Draws {
            values: row["draws"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect(),
            used: 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self.used <= self.values.len() {
            true => Ok(()),
            false => {
                Err(format!("{} random numbers were used, the file has {}", self.used, self.values.len()))
            }
        }
    }
}

impl RandomSource for Draws {
    fn uniform(&mut self) -> f64 {
        self.used += 1;
        self.values.get(self.used - 1).copied().unwrap_or(0.0)
    }
}

fn image_of(tensor: &StoredTensor) -> Result<Image, String> {
    let image = |size| Image { size, pixels: tensor.data.iter().map(|v| *v as u8).collect() };
    match tensor.shape[..] {
        [h, w, c] => Ok(image([h, w, c])),
        [h, w] => Ok(image([h, w, 1])),
        _ => Err(format!("an image has two or three axes, not {:?}", tensor.shape)),
    }
}

/// The image that the case names under `key`.
fn image_at(case: &GoldenCase, key: &str) -> Result<Image, String> {
    let name = case.json[key].as_str().ok_or_else(|| format!("{}: no {key}", case.id()))?;
    image_of(case.topic.tensor(name)?).map_err(|e| format!("{}: {key}: {e}", case.id()))
}

fn input(case: &GoldenCase) -> Result<Image, String> {
    image_at(case, "input")
}

/// Largest and mean absolute difference; NaN if one is NaN.
fn differences(got: &[f64], expected: &[f64]) -> [f64; 2] {
    let gaps: Vec<f64> = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect();
    // Unlike `max`, a comparison keeps NaN: none is at most another number.
    let worst = gaps
        .iter()
        .copied()
        .fold(0.0, |worst: f64, gap| if worst.is_nan() || gap <= worst { worst } else { gap });
    [worst, gaps.iter().sum::<f64>() / gaps.len() as f64]
}

/// Checks against the case's largest and mean absolute difference.
fn check_values(case: &GoldenCase, got: &[f64], expected: &[f64]) -> Result<(), String> {
    let limit = |key: &str| case.json["tol"][key].as_f64();
    let atol = limit("atol").ok_or_else(|| format!("{}: no tolerance", case.id()))?;
    let [worst, mean] = differences(got, expected);
    let is_close = worst <= atol && mean <= limit("mean_abs_tol").unwrap_or(f64::MAX);
    if got.len() != expected.len() || !is_close {
        let (n, of) = (got.len(), expected.len());
        return Err(format!(
            "{}: {n} of {of} values; differences: worst {worst}, mean {mean}, tolerance {}",
            case.id(),
            case.json["tol"]
        ));
    }
    Ok(())
}

fn check_image(case: &GoldenCase, got: &Image, expected: &Image) -> Result<(), String> {
    if got.size != expected.size {
        return Err(format!("{}: size {:?}, expected {:?}", case.id(), got.size, expected.size));
    }
    let values = |image: &Image| image.pixels.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    check_values(case, &values(got), &values(expected))
}

fn check_output(case: &GoldenCase, got: &Image) -> Result<(), String> {
    check_image(case, got, &image_at(case, "output")?)
}

fn filter(case: &GoldenCase) -> Result<ResizeFilter, String> {
    ResizeFilter::from_str(case.text("interpolation")?, false).map_err(|e| format!("{}: {e}", case.id()))
}

fn numbers(case: &GoldenCase, key: &str) -> Result<Vec<f64>, String> {
    let list = case.param(key).as_array().ok_or_else(|| format!("{}: {key} is not a list", case.id()))?;
    Ok(list.iter().filter_map(Value::as_f64).collect())
}

fn range(case: &GoldenCase, key: &str) -> Result<[f64; 2], String> {
    let found = numbers(case, key)?;
    found.try_into().map_err(|found| format!("{}: {key} has not two numbers: {found:?}", case.id()))
}

fn decode(case: &GoldenCase) -> Result<(), String> {
    let file = case.json["file"].as_str().ok_or_else(|| format!("{}: no file", case.id()))?;
    let bytes = std::fs::read(folder().join(file)).map_err(|e| format!("{file}: {e}"))?;
    // As Pillow's convert: 16-bit grey saturates.
    let options = DecodeOptions { gray16: Gray16::Saturate, ..DecodeOptions::new(3) };
    let decoded = Image::decode_with(&bytes, &options).map_err(|e| format!("{}: {e}", case.id()))?;
    check_image(case, &decoded, &image_at(case, "rgb")?)
}

fn resized(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&["interpolation", "size_wh"])?;
    let [width, height] = case.pair("size_wh")?;
    check_output(case, &resize(&input(case)?, [height, width], filter(case)?))
}

fn resized_crop(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&["top", "left", "height", "width", "size_hw", "interpolation"])?;
    let image = input(case)?;
    let [top, left, height, width] = ["top", "left", "height", "width"].map(|key| case.number(key));
    let (top, left) = (top? as u32, left? as u32);
    let crop = ImageBox { top, bottom: top + height? as u32, left, right: left + width? as u32 };
    let resize = Resize { crop, ..Resize::new(image.size, case.pair("size_hw")?, filter(case)?) };
    check_output(case, &resize.apply(&image))
}

fn eval_transform(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&["input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"])?;
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", case.id());
    let floats =
        |key: &str| Ok::<_, String>(numbers(case, key)?.iter().map(|v| *v as f32).collect::<Vec<_>>());
    let &[_, height, width] = &numbers(case, "input_size")?[..] else { return Err(say(&"input_size")) };
    let transform = EvalTransform {
        size: [height as usize, width as usize],
        crop_pct: case.number("crop_pct")?,
        crop_mode: CropMode::from_str(case.text("crop_mode")?, false).map_err(|e| say(&e))?,
        filter: filter(case)?,
        mean: floats("mean")?,
        std: floats("std")?,
    };
    let cropped = transform.resize_and_crop(&input(case)?).map_err(|e| say(&e))?;
    let [h, w, c] = cropped.size;
    let name = case.json["output"].as_str().ok_or_else(|| say(&"no output"))?;
    let expected = case.topic.tensor(name)?;
    if expected.shape != [c, h, w] {
        return Err(say(&format!("[{c}, {h}, {w}], expected {:?}", expected.shape)));
    }
    let normalised = Tensor::from_vec(cropped.pixels, [1, h, w, c])
        .and_then(|x| x.to_device(&case.topic.device))
        .and_then(|x| x.normalize_bytes(255, &transform.mean, &transform.std, DType::F32))
        .and_then(|x| x.to_nchw()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>());
    check_values(case, &normalised.map_err(|e| say(&e))?, &expected.data)
}

/// Rows of a case of boxes, each with its height and width.
fn rows<'a>(case: &GoldenCase<'a>) -> Result<Vec<(&'a Value, [usize; 2])>, String> {
    let rows = case.json["rows"].as_array().filter(|rows| !rows.is_empty());
    let size =
        |row: &'a Value| match row["size_wh"].as_array().map(|size| (size[0].as_u64(), size[1].as_u64())) {
            Some((Some(w), Some(h))) => Ok((row, [h as usize, w as usize])),
            _ => Err(format!("{}: a row without size_wh", case.id())),
        };
    rows.ok_or_else(|| format!("{}: no rows", case.id()))?.iter().map(size).collect()
}

fn random_resized_crop(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&["scale", "ratio", "draw_rule"])?;
    let crop = RandomResizedCrop { scale: range(case, "scale")?, ratio: range(case, "ratio")? };
    for (row, size) in rows(case)? {
        let mut draws = Draws::of(row);
        // A row of the fallback has no random numbers.
        let found = match row["fallback"].as_bool() {
            Some(true) => crop.central_box(size),
            _ => crop.sample_box(size, &mut draws),
        };
        draws.check().map_err(|e| format!("{}: {e}", case.id()))?;
        let found = json!([found.top, found.left, found.height(), found.width()]);
        if found != row["top_left_h_w"] {
            return Err(format!("{}: {size:?}: {found}, expected {}", case.id(), row["top_left_h_w"]));
        }
    }
    Ok(())
}

fn random_erasing(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&[
        "probability",
        "min_count",
        "min_area",
        "max_area",
        "min_aspect",
        "max_aspect",
        "mode",
        "draw_rule",
    ])?;
    let mode = match case.text("mode")? {
        "const" => EraseMode::Const,
        "rand" => EraseMode::Rand,
        "pixel" => EraseMode::Pixel,
        other => return Err(format!("{}: no mode {other}", case.id())),
    };
    for (row, [h, w]) in rows(case)? {
        let options = RandomErasingOptions {
            prob: case.number("probability")?,
            mode,
            min_count: case.number("min_count")? as usize,
            count: row["max_count"].as_u64().ok_or_else(|| format!("{}: no max_count", case.id()))? as usize,
            num_splits: 0,
            area: [case.number("min_area")?, case.number("max_area")?],
            aspect: [case.number("min_aspect")?, case.number("max_aspect")?],
        };
        let mut draws = Draws::of(row);
        let boxes = options.sample_boxes([h, w], &mut draws);
        draws.check().map_err(|e| format!("{}: {e}", case.id()))?;
        let erased = |y: usize, x: usize| {
            let inside = |b: &ImageBox| {
                (b.top as usize..b.bottom as usize).contains(&y)
                    && (b.left as usize..b.right as usize).contains(&x)
            };
            boxes.iter().any(inside)
        };
        let sums: Vec<usize> = (0..h).map(|y| (0..w).filter(|x| erased(y, *x)).count()).collect();
        let expected = (&row["erased_pixels"], &row["erased_row_sums"]);
        if (&json!(sums.iter().sum::<usize>()), &json!(sums)) != expected {
            return Err(format!("{}: {h}x{w}: boxes {boxes:?}, expected row sums {}", case.id(), expected.1));
        }
    }
    Ok(())
}

fn adjust(case: &GoldenCase, change: impl Fn(&mut Image, f64)) -> Result<(), String> {
    case.allow_params(&["factor"])?;
    let mut image = input(case)?;
    change(&mut image, case.number("factor")?);
    check_output(case, &image)
}

/// Sign of an argument that the file chooses: negative above 0.5.
struct Sign(bool);

impl RandomSource for Sign {
    fn uniform(&mut self) -> f64 {
        if self.0 { 1.0 } else { 0.0 }
    }
}

fn policy_op(case: &GoldenCase, op: PolicyOp) -> Result<(), String> {
    case.allow_params(&[
        "magnitude",
        "negated",
        "interpolation",
        "fill",
        "translate_const",
        "translate_pct",
        "resolved_args",
    ])?;
    let context = PolicyContext {
        fill: numbers(case, "fill")?.iter().map(|v| *v as u8).collect(),
        interpolation: TrainInterpolation::Fixed(filter(case)?),
        translate_const: case.number("translate_const")?,
        translate_pct: case.number("translate_pct")?,
    };
    let argument = op.argument(case.number("magnitude")?, &context, &mut Sign(case.flag("negated")));
    let (found, expected) = (Vec::from_iter(argument), numbers(case, "resolved_args")?);
    let equal = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12;
    if found.len() != expected.len() || !found.iter().zip(&expected).all(equal) {
        return Err(format!("{}: argument {found:?}, expected {expected:?}", case.id()));
    }
    let mut image = input(case)?;
    op.apply(&mut image, argument.unwrap_or(0.0), filter(case)?, &context.fill);
    check_output(case, &image)
}

fn augmix(case: &GoldenCase) -> Result<(), String> {
    case.allow_params(&["chains", "weights", "m", "formula"])?;
    let mut image = input(case)?;
    let mut chains = vec![];
    for names in case.param("chains").as_array().into_iter().flatten() {
        let mut chain = image.clone();
        for name in names.as_array().into_iter().flatten() {
            let op: PolicyOp =
                name.as_str().unwrap_or_default().parse().map_err(|e| format!("{}: {e}", case.id()))?;
            op.apply(&mut chain, 0.0, ResizeFilter::Bicubic, &[]);
        }
        chains.push(chain);
    }
    let weights: Vec<f32> = numbers(case, "weights")?.iter().map(|w| *w as f32).collect();
    if chains.is_empty() || chains.len() != weights.len() {
        return Err(format!("{}: {} chains and {} weights", case.id(), chains.len(), weights.len()));
    }
    mix_chains(&mut image, &chains, &weights, case.number("m")? as f32);
    check_output(case, &image)
}

fn auto_augment_policies(topic: &Topic) -> Outcome {
    let policies = topic.json["auto_augment_policies"].as_object().filter(|policies| !policies.is_empty());
    let policies = policies.ok_or("images: no auto_augment_policies")?;
    for (name, expected) in policies {
        let Policy::AutoAugment(AutoAugmentPolicy { sub_policies }) = parse(name)?.policy().clone() else {
            return Err(format!("{name} is not an AutoAugment policy"));
        };
        let steps = |steps: &Vec<PolicyStep>| -> Vec<Value> {
            steps.iter().map(|step| json!([step.op.name(), step.prob, step.magnitude.level])).collect()
        };
        let found = json!(sub_policies.iter().map(steps).collect::<Vec<_>>());
        if !equal(&found, expected) {
            return Err(format!("policy {name}: {found}, expected {expected}"));
        }
    }
    Ok(policies.len())
}

fn parse(config: &str) -> Result<AutoAugment, String> {
    config.parse().map_err(|e| format!("{config}: {e}"))
}

fn parsed_configs(topic: &Topic) -> Outcome {
    let configs = topic.json["parsed_configs"].as_array().filter(|configs| !configs.is_empty());
    let configs = configs.ok_or("images: no parsed_configs")?;
    for expected in configs {
        let config = expected["config"].as_str().ok_or("a configuration without its text")?;
        let found = description(config)?;
        let (Some(found), Some(expected)) = (found.as_object(), expected.as_object()) else {
            return Err(format!("{config}: not an object: {expected}"));
        };
        for key in found.keys().chain(expected.keys()) {
            let (a, b) = (found.get(key).unwrap_or(&Value::Null), expected.get(key).unwrap_or(&Value::Null));
            if !equal(a, b) {
                return Err(format!("{config}: {key} is {a}, expected {b}"));
            }
        }
    }
    Ok(configs.len())
}

/// True for equal values; numbers are compared within rounding, whether they are integers or not.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64(), a.as_array(), b.as_array()) {
        (Some(a), Some(b), ..) => (a - b).abs() <= 1e-12,
        (.., Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b,
    }
}

/// A parsed configuration with the keys of the file.
fn description(config: &str) -> Result<Value, String> {
    let names = |ops: &[PolicyOp]| ops.iter().map(|op| op.name()).collect::<Vec<_>>();
    // JSON has no infinite numbers.
    let std = |magnitude: &Magnitude| match magnitude.std.is_infinite() {
        true => json!("inf"),
        false => json!(magnitude.std),
    };
    Ok(match parse(config)?.policy() {
        Policy::RandAugment(policy) => json!({
            "config": config,
            "num_layers": policy.num_layers,
            "magnitude": policy.magnitude.level,
            "prob": policy.prob,
            "magnitude_std": std(&policy.magnitude),
            "magnitude_max": policy.magnitude.max,
            "ops": names(&policy.ops),
            "choice_weights": policy.choice_weights,
        }),
        Policy::AugMix(policy) => json!({
            "config": config,
            "width": policy.width,
            "depth": policy.depth.map_or(-1, |depth| depth as i64),
            "alpha": policy.alpha,
            "blended": policy.blended,
            "magnitude": policy.magnitude.level,
            "magnitude_std": std(&policy.magnitude),
            "ops": names(&AUGMIX_OPS),
        }),
        Policy::AutoAugment(policy) => json!({
            "config": config,
            "sub_policies": policy.sub_policies.len(),
            "magnitude_std": policy.sub_policies.iter().flatten().next().map(|step| std(&step.magnitude)),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_nan_are_nan() {
        assert_eq!(differences(&[1.0, 4.0], &[1.5, 2.0]), [2.0, 1.25]);
        for got in [[f64::NAN, 4.0], [1.0, f64::NAN]] {
            assert!(differences(&got, &[1.5, 2.0]).iter().all(|value| value.is_nan()), "{got:?}");
        }
    }
}
