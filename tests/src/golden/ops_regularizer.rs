//! Drop path, DropBlock, mixup and CutMix, with the random choices given in the file.
use super::mixup_modes::{image_box, mix_images};
use super::run::{check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax::augment::mixup::{BatchMix, MixChoice, MixupMode, cutmix_box};
use fornax_engine::{DType, Result, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "drop_path" => {
            case.allow_params(&["drop_prob", "scale_by_keep"])?;
            let (p, scale) = (case.number("drop_prob")?, case.flag("scale_by_keep"));
            check_operation(case, dtype, |t| Ok(vec![("y", t.get("x").drop_path(t.get("keep"), p, scale)?)]))
        }
        "drop_block_2d" => {
            case.allow_params(&["drop_prob", "block_size", "gamma", "couple_channels", "scale_by_keep"])?;
            let (block, scale) = (case.number("block_size")? as usize, case.flag("scale_by_keep"));
            check_operation(case, dtype, |t| {
                let (x, seeds) = (Tensor::from_nchw(t.get("x"))?, Tensor::from_nchw(t.get("seeds"))?);
                Ok(vec![("y", x.drop_block(&seeds, block, scale)?.to_nchw()?)])
            })
        }
        "mixup_batch" => {
            case.allow_params(&["lam", "formula"])?;
            let lam = case.number("lam")?;
            check_operation(case, dtype, |t| {
                Ok(vec![("y", mix_batch(t.get("x"), MixChoice { lam, cutmix_box: None })?)])
            })
        }
        "cutmix_batch" => {
            case.allow_params(&["box_yl_yh_xl_xh", "formula"])?;
            let cut = image_box(case.param("box_yl_yh_xl_xh"))?;
            check_operation(case, dtype, |t| {
                Ok(vec![("y", mix_batch(t.get("x"), MixChoice { lam: 0.0, cutmix_box: Some(cut) })?)])
            })
        }
        "cutmix_box" => {
            case.allow_params(&["formula"])?;
            boxes(case)
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

/// Mixes a batch `[n, c, h, w]` by one choice. Images in f64 are mixed from their f32 values.
fn mix_batch(x: &Tensor, choice: MixChoice) -> Result<Tensor> {
    let images = Tensor::from_nchw(x)?.to_dtype(DType::F32)?;
    let &[n, h, w, _] = images.dims() else { panic!("images have four axes, not {x:?}") };
    let mix = BatchMix::new(MixupMode::Batch, n, [h, w], &[choice]);
    mix_images(&images, &mix.changes, false, x.dtype())?.to_nchw()
}

fn boxes(case: &GoldenCase) -> std::result::Result<(), String> {
    let list = case.json["boxes"].as_array().filter(|l| !l.is_empty());
    for entry in list.ok_or_else(|| format!("{}: no boxes", case.id()))? {
        let number = |key: &str| entry[key].as_u64().map(|n| n as usize);
        let numbers = (number("h"), number("w"), number("cy"), number("cx"));
        let (Some(h), Some(w), Some(cy), Some(cx)) = numbers else {
            return Err(format!("{}: box without h, w, cy, cx: {entry}", case.id()));
        };
        let lam = entry["lam"].as_f64().ok_or_else(|| format!("{}: box without lam", case.id()))?;
        let cut = cutmix_box([h, w], lam, [cy, cx]);
        let corrected = 1.0 - cut.area() as f64 / (h * w) as f64;
        let expected = image_box(&entry["box_yl_yh_xl_xh"])?;
        let expected_lam = entry["lam_corrected"].as_f64().unwrap_or(f64::NAN);
        if cut != expected || (corrected - expected_lam).abs() > 1e-12 {
            return Err(format!("{}: got {cut:?} and {corrected}, expected {entry}", case.id()));
        }
    }
    Ok(())
}
