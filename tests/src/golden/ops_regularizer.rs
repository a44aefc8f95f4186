//! Drop path, DropBlock, mixup and CutMix, with the random choices given in the file.
use super::run::{check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax::augment::mixing::{PixelBox, cutmix_batch, cutmix_box, mixup_batch};
use fornax_engine::Tensor;
use serde_json::Value;

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
                Ok(vec![("y", mixup_batch(&Tensor::from_nchw(t.get("x"))?, lam)?.to_nchw()?)])
            })
        }
        "cutmix_batch" => {
            case.allow_params(&["box_yl_yh_xl_xh", "formula"])?;
            let cut = pixel_box(case, case.param("box_yl_yh_xl_xh"))?;
            check_operation(case, dtype, |t| {
                Ok(vec![("y", cutmix_batch(&Tensor::from_nchw(t.get("x"))?, &cut)?.to_nchw()?)])
            })
        }
        "cutmix_box" => {
            case.allow_params(&["formula"])?;
            boxes(case)
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn boxes(case: &GoldenCase) -> Result<(), String> {
    let list = case.json["boxes"].as_array().filter(|l| !l.is_empty());
    for entry in list.ok_or_else(|| format!("{}: no boxes", case.id()))? {
        let number = |key: &str| entry[key].as_u64().map(|n| n as usize);
        let numbers = (number("h"), number("w"), number("cy"), number("cx"));
        let (Some(h), Some(w), Some(cy), Some(cx)) = numbers else {
            return Err(format!("{}: box without h, w, cy, cx: {entry}", case.id()));
        };
        let lam = entry["lam"].as_f64().ok_or_else(|| format!("{}: box without lam", case.id()))?;
        let (cut, corrected) = cutmix_box(h, w, lam, cy, cx);
        let expected = pixel_box(case, &entry["box_yl_yh_xl_xh"])?;
        let expected_lam = entry["lam_corrected"].as_f64().unwrap_or(f64::NAN);
        if cut != expected || (corrected - expected_lam).abs() > 1e-12 {
            return Err(format!("{}: got {cut:?} and {corrected}, expected {entry}", case.id()));
        }
    }
    Ok(())
}

fn pixel_box(case: &GoldenCase, value: &Value) -> Result<PixelBox, String> {
    let list: Vec<usize> =
        value.as_array().into_iter().flatten().filter_map(|v| v.as_u64()).map(|v| v as usize).collect();
    match list[..] {
        [top, bottom, left, right] => Ok(PixelBox { top, bottom, left, right }),
        _ => Err(format!("{}: a box of four numbers is needed: {value}", case.id())),
    }
}
