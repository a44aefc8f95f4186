//! Profiles of a device. A process of its own, since a profile includes the kernels of all threads.
use fornax_engine::cuda::KernelProfile;
use fornax_engine::{Conv2dOptions, DType, Device, Tensor};

#[test]
fn profile_counts_kernels_and_library_calls() {
    let device = Device::emulated(1).expect("g++ is installed");
    let on = |shape: &[usize]| Tensor::full(shape, 0.5, DType::F32, &device).expect("memory");
    let (x, weight) = (on(&[2, 5, 5, 3]), on(&[4, 3, 3, 3]));
    let step = || {
        x.conv2d(&weight, None, &Conv2dOptions::default())
            .expect("convolves")
            .exp()
            .expect("runs")
            .exp()
            .expect("runs")
    };
    step();
    let profile = KernelProfile::start(&device).expect("no other profile");
    assert!(KernelProfile::start(&device).is_err(), "one profile at a time");
    step();
    let times = profile.finish().expect("times");
    let launches = |name: &str| times.iter().find(|time| time.name == name).map(|time| time.launches);
    assert_eq!(launches("exp_fwd_f32"), Some(2), "{times:?}");
    assert_eq!(launches("cudnn convolution forward"), Some(1), "{times:?}");
    assert!(times.iter().all(|time| time.seconds > 0.0), "{times:?}");
    step();
    let empty = KernelProfile::start(&device).expect("the first has ended").finish().expect("times");
    assert!(empty.is_empty(), "{empty:?}");
    assert!(KernelProfile::start(&Device::Cpu).is_err());
}
