//! `prepare_images` against the golden folder's mixup and CutMix batches of u8 images, bit for bit.
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Device, EraseMode, ImageChange, ImagePreparation, Tensor};
use fornax_tests::golden::{GoldenCase, Topic, folder};

/// The changes of a batch of `n` images in a case. An image with a CutMix box is not blended outside of it.
fn changes(case: &GoldenCase, n: usize) -> Result<Vec<ImageChange>, String> {
    let mode = case.text("mode")?;
    let list = |name: &str| case.param(name).as_array().cloned().ok_or(format!("{}: no {name}", case.id()));
    let (lams, cuts, boxes) = (list("lam")?, list("use_cutmix")?, list("boxes_yl_yh_xl_xh")?);
    let of = |i: usize| -> Result<ImageChange, String> {
        let entry = match mode {
            "batch" => 0,
            "elem" => i,
            "pair" | "half" => i.min(n - 1 - i),
            other => return Err(format!("{}: no mode {other}", case.id())),
        };
        let lam = lams[entry].as_f64().ok_or("lam")? as f32;
        let mut change = ImageChange { partner: n - 1 - i, lam, ..ImageChange::none(i) };
        if cuts[entry].as_bool().ok_or("use_cutmix")? && lam != 1.0 {
            let side = |k: usize| boxes[entry][k].as_u64().map(|v| v as u32).ok_or("a box");
            change = ImageChange { lam: 1.0, cutmix_box: [side(0)?, side(1)?, side(2)?, side(3)?], ..change };
        }
        Ok(change)
    };
    (0..n).map(of).collect()
}

fn check(case: &GoldenCase, device: &Device) -> Result<(), String> {
    let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
    let load = |map: &str| case.tensor(map, "x")?.to_tensor(DType::U8, &Device::Cpu).map_err(say);
    // The images of the file are NCHW.
    let x = load("inputs")?;
    let &[n, c, h, w] = x.dims() else { return Err(format!("{}: {x:?}", case.id())) };
    let last = x.permute(&[0, 2, 3, 1]).map_err(say)?;
    let how = ImagePreparation {
        white: 1,
        mean: &vec![0.0; c],
        std: &vec![1.0; c],
        rounded: true,
        erase_mode: EraseMode::Const,
        rng: RngStream::new(RngKey::new(0, ""), 0, 0),
    };
    let rows =
        ImageChange::rows(&changes(case, n)?, 0).and_then(|rows| rows.to_device(device)).map_err(say)?;
    let mixed = last
        .to_device(device)
        .and_then(|x| x.prepare_images(&rows, &how, DType::F32)?.to_device(&Device::Cpu))
        .and_then(|y| y.permute(&[0, 3, 1, 2])?.to_dtype(DType::U8));
    let expected = load("outputs")?;
    // In mode half the expected output is the first half of the batch.
    let got: Tensor = mixed.and_then(|y| y.narrow(0, 0, expected.dims()[0])).map_err(say)?;
    let (got, expected) = (got.to_vec::<u8>().map_err(say)?, expected.to_vec::<u8>().map_err(say)?);
    match got.iter().zip(&expected).position(|(a, b)| a != b) {
        None if got.len() == expected.len() && got.len() % (h * w) == 0 => Ok(()),
        at => Err(format!("{} on {device}: differs at {at:?}", case.id())),
    }
}

#[test]
fn mixed_u8_images_match_timm_exactly() {
    let topic = Topic::load(&folder(), "mixup_modes", Device::Cpu).expect("reads");
    let devices = [Device::Cpu, Device::emulated(1).expect("g++ is installed")];
    let mut checked = 0;
    for case in topic.cases().expect("cases") {
        // Float batches were mixed after normalisation; `prepare_images` takes u8 images.
        if !case.text("dtype").expect("a dtype").starts_with("uint8") {
            continue;
        }
        for device in &devices {
            check(&case, device).unwrap_or_else(|e| panic!("{e}"));
        }
        checked += 1;
    }
    assert!(checked > 0, "the golden folder has no u8 batches");
}
