//! The table of cases on the emulated device with other thread orders (`cases` compares it with the CPU, `devices_checked` runs it in checked
//! mode). Casts and CUDA graphs on every device.
//!
//! `FORNAX_TEST_DEVICES`, a list of `cpu`, `emulated` and `cuda:N`, selects the devices; the default is the emulated one.
use fornax_engine::cuda::CudaGraph;
use fornax_engine::{DType, Device, Tensor};
use fornax_kernels::emulator;
use fornax_tests::parity::{compile_modules_in_background, outcome};
use fornax_tests::sweep;
use fornax_tests::test_devices::devices;
use std::sync::{Mutex, MutexGuard};

/// Serializes the tests: the driver is loaded once per process, and its settings are global.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

#[test]
fn results_are_bitwise_equal_for_every_thread_order() {
    let _guard = serialize();
    drop(devices());
    compile_modules_in_background();
    let orders: &[u64] = if sweep::is_full() { &[1, 7] } else { &[7] };
    for device in devices().into_iter().filter(|_| emulator::is_loaded()) {
        for (position, case) in sweep::cases().iter().enumerate() {
            for &dtype in sweep::dtypes(position) {
                let with_order = |order: u64| {
                    emulator::set_order(order).expect("the emulated device");
                    outcome(case, dtype, dtype, &device)
                        .unwrap_or_else(|e| panic!("{} in {dtype}, order {order}: {e}", case.name()))
                };
                let ascending = with_order(0);
                for &order in orders {
                    assert_eq!(ascending, with_order(order), "{} in {dtype}, order {order}", case.name());
                }
            }
        }
        emulator::set_order(0).expect("the emulated device");
    }
}

#[test]
fn casts_match_the_cpu_bitwise() {
    let _guard = serialize();
    let values = [0.0, -0.0, 1.0, -1.5, 2.5, 254.6, 255.0, 300.0, -7.0, 65504.0, 65520.0, 1e-7, -3e38, 1e30];
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::I64, DType::U8];
    let all: Vec<f32> = values.into_iter().chain(special).collect();
    for device in devices() {
        for from in dtypes {
            let x = Tensor::from_slice(&all, [all.len()]).and_then(|x| x.to_dtype(from)).expect("a cast");
            for to in dtypes {
                let expected = x.to_dtype(to).and_then(|y| y.to_dtype(DType::F64)).expect("a cast");
                let got = x.to_device(&device).and_then(|x| x.to_dtype(to)?.to_device(&Device::Cpu));
                let got = got.and_then(|y| y.to_dtype(DType::F64)).expect("a cast");
                let bits = |t: &Tensor| -> Vec<u64> {
                    let values = t.to_vec::<f64>().expect("f64");
                    values.iter().map(|v| if v.is_nan() { u64::MAX } else { v.to_bits() }).collect()
                };
                assert_eq!(bits(&got), bits(&expected), "{from} to {to} on {device}");
            }
        }
    }
}

#[test]
fn cuda_graph_replays_the_captured_work() {
    let _guard = serialize();
    for device in devices() {
        let on = |values: &[f32]| {
            Tensor::from_slice(values, [values.len()]).and_then(|t| t.to_device(&device)).expect("a tensor")
        };
        let (state, factor) = (on(&[1.0, -2.0, 3.0]), on(&[0.5, 2.0, -1.0]));
        let step = || state.copy_from(&state.mul(&factor)?.add(&factor)?);
        let values = || state.to_vec::<f32>().expect("f32");
        step().expect("runs");
        let after_one = [1.0, -2.0, -4.0];
        assert_eq!(values(), after_one);
        let graph = CudaGraph::capture(&device, step).expect("captures");
        assert_eq!(values(), after_one, "capturing runs nothing");
        (0..3).for_each(|_| graph.replay().expect("replays"));
        assert_eq!(values(), [1.0, -2.0, 3.0]);
        factor.copy_from(&on(&[0.0, 0.0, 7.0])).expect("a copy");
        graph.replay().expect("replays");
        assert_eq!(values(), [0.0, 0.0, 28.0], "a replay reads the current values");

        let error = CudaGraph::capture(&device, || state.read::<f32>().map(|_| ())).err().expect("an error");
        assert!(error.to_string().contains("between host and device"), "{error}");
        step().expect("the device still works");
        assert_eq!(values(), [0.0, 0.0, 203.0]);
    }
    assert!(CudaGraph::capture(&Device::Cpu, || Ok(())).is_err());
}
