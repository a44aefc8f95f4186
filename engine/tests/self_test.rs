//! Self-tests of emulated devices.
use fornax_engine::Device;
use fornax_engine::self_tests;
use fornax_kernels::emulator::{EngineFault, plant_engine};

#[test]
fn self_tests_pass_and_a_fusion_that_does_not_compile_is_reported() {
    Device::emulated(2).expect("g++ is installed");
    let results = |ordinal| self_tests(ordinal).into_iter().map(|test| test.result).collect::<Vec<_>>();
    let [kernel, fused] = &results(0)[..] else { panic!("two tests") };
    assert_eq!(*kernel, Ok("compiled for sm_90 and run".to_string()));
    assert!(fused.as_ref().is_ok_and(|result| result.starts_with("planned and run")), "{fused:?}");
    // Each device has plans of its own.
    plant_engine(3, 0.0, EngineFault::BuildFails).expect("loaded");
    let [kernel, fused] = &results(1)[..] else { panic!("two tests") };
    assert!(kernel.is_ok(), "{kernel:?}");
    assert!(
        fused.as_ref().is_err_and(|why| why.contains("cuDNN has no kernel with batch norm statistics")),
        "{fused:?}"
    );
    assert!(
        results(2).iter().all(|result| result.as_ref().is_err_and(|why| why.contains("there is no cuda:2")))
    );
}
