//! Dynamic loss scaling on the CPU and on a CUDA device (`FORNAX_TEST_DEVICES`, default the emulated one), against the golden sequences of
//! PyTorch.
use fornax_engine::Device;
use fornax_tests::golden::{Topic, folder, loss_scale};
use fornax_tests::test_devices;

#[test]
fn loss_scales_match_pytorch() {
    for device in [Device::Cpu, test_devices::device(false)] {
        let topic = Topic::load(&folder(), "schedulers", device).expect("reads");
        let cases = topic.cases().expect("cases").into_iter().filter(|case| case.op() == "grad_scaler");
        let cases: Vec<_> = cases.collect();
        let failed: Vec<String> = cases.iter().filter_map(|case| loss_scale::check(case).err()).collect();
        assert!(!cases.is_empty(), "the golden folder has no sequence of loss scales");
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}
