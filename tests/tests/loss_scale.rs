//! Loss scales in a device's memory, which the golden topics are not run on by default.
use fornax_engine::Device;
use fornax_tests::golden::{Topic, folder, loss_scale};

#[test]
fn scales_follow_those_of_pytorch() {
    for device in [Device::Cpu, Device::emulated(1).expect("g++ is installed")] {
        let topic = Topic::load(&folder(), "schedulers", device).expect("reads");
        let cases = topic.cases().expect("cases").into_iter().filter(|case| case.op() == "grad_scaler");
        let cases: Vec<_> = cases.collect();
        let failed: Vec<String> = cases.iter().filter_map(|case| loss_scale::check(case).err()).collect();
        assert!(!cases.is_empty(), "the golden folder has no sequence of loss scales");
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}
