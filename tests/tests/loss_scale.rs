//! Loss scales in a device's memory, which the golden topics are not run on by default.
use fornax_engine::Device;
use fornax_tests::golden::{Topic, folder, loss_scale};

#[test]
fn scales_follow_those_of_pytorch() {
    for device in [Device::Cpu, Device::emulated(1).expect("g++ is there")] {
        let topic = Topic::load(&folder(), "schedulers", device).expect("reads");
        let cases = topic.cases().expect("cases").into_iter().filter(|case| case.op() == "grad_scaler");
        let checked = cases.map(|case| loss_scale::check(&case).expect(case.id())).count();
        assert!(checked > 0, "the golden folder has no sequence of loss scales");
    }
}
