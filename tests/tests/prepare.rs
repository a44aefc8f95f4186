//! `prepare_images` against the golden folder's mixup and CutMix batches of u8 images, bit for bit, on the CPU and on a
//! CUDA device (`FORNAX_TEST_DEVICES`, default the emulated one).
use fornax_engine::{DType, Device};
use fornax_tests::golden::mixup_modes::{mix_images, mix_of};
use fornax_tests::golden::{GoldenCase, Topic, folder};
use fornax_tests::test_devices;

fn check(case: &GoldenCase, device: &Device) -> Result<(), String> {
    let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
    let load = |map: &str| case.tensor(map, "x")?.to_tensor(DType::U8, &Device::Cpu).map_err(say);
    // The images of the file are NCHW.
    let x = load("inputs")?.permute(&[0, 2, 3, 1]).and_then(|x| x.to_device(device)).map_err(say)?;
    let mixed = mix_images(&x, &mix_of(case)?.0.changes, true, DType::F32).map_err(say)?;
    let mixed = mixed.to_device(&Device::Cpu).and_then(|y| y.permute(&[0, 3, 1, 2])).map_err(say)?;
    let (got, expected) = (mixed.to_vec::<f32>().map_err(say)?, &case.tensor("outputs", "x")?.data);
    match got.iter().zip(expected).position(|(a, b)| f64::from(*a) != *b) {
        None if got.len() == expected.len() => Ok(()),
        at => Err(format!("{} on {device}: differs at {at:?}", case.id())),
    }
}

#[test]
fn mixed_u8_images_match_timm_exactly() {
    let topic = Topic::load(&folder(), "mixup_modes", Device::Cpu).expect("reads");
    let devices = [Device::Cpu, test_devices::device(false)];
    let mut checked = 0;
    for case in topic.cases().expect("cases") {
        // The float batches have a tolerance; the golden topic checks them.
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
