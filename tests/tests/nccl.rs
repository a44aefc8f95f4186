//! Process groups over NCCL: threads and processes as ranks on emulated devices, failures of peers, CUDA graphs.
//!
//! Tests named `one_rank_…` run on the devices in `FORNAX_TEST_DEVICES`, real ones too; the others need several devices, and use emulated ones.
//! Every test has a deadline, so that a hang is a failure.
#[path = "nccl/failures.rs"]
mod failures;
#[path = "nccl/processes.rs"]
mod processes;
#[path = "nccl/support.rs"]
mod support;
#[path = "nccl/sync_batch_norm.rs"]
mod sync_batch_norm;
#[path = "nccl/training.rs"]
mod training;

use fornax_engine::cuda::nccl::{NcclCollective, UniqueId};
use fornax_engine::cuda::{CudaGraph, DeviceInterval, KernelProfile, StreamKind};
use fornax_engine::{Collective, DType, Device, Reduction, Result, Tensor};
use fornax_kernels::emulator;
use fornax_tests::test_devices::devices;
use std::env;
use std::sync::{Arc, Barrier};
use std::time::Instant;
use support::{PATIENT, SHORT, failure, full, run_ranks, serialize, train, update, values, within_deadline};

#[test]
fn all_reduce_adds_in_rank_order_in_every_dtype() {
    let _guard = serialize();
    let results = run_ranks(3, PATIENT, |group, device| {
        let reduced = |dtype, reduction| -> Result<Vec<f32>> {
            let x = Tensor::from_slice(&values(group.rank()), [1000])?.to_dtype(dtype)?.to_device(&device)?;
            group.all_reduce(&x, reduction)?;
            x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec()
        };
        let all = [Reduction::Sum, Reduction::Mean, Reduction::Max].map(|reduction| {
            [DType::F32, DType::F16, DType::BF16]
                .map(|dtype| reduced(dtype, reduction).expect("an all-reduce"))
        });
        (all, reduced(DType::I64, Reduction::Sum).expect("an all-reduce"))
    });
    let inputs: Vec<Vec<f32>> = (0..3).map(values).collect();
    let sum: Vec<f32> = (0..1000).map(|i| inputs[0][i] + inputs[1][i] + inputs[2][i]).collect();
    let third = 1.0 / 3.0f32;
    let mean: Vec<f32> =
        (0..1000).map(|i| inputs[0][i] * third + inputs[1][i] * third + inputs[2][i] * third).collect();
    let max: Vec<f32> = (0..1000).map(|i| inputs.iter().fold(f32::MIN, |m, input| m.max(input[i]))).collect();
    for (all, integers) in &results {
        for (expected, [f32s, f16s, bf16s]) in [&sum, &mean, &max].into_iter().zip(all) {
            assert_eq!(f32s, expected);
            let near = |got: &[f32], tolerance: f32| {
                got.iter().zip(expected).all(|(g, e)| (g - e).abs() <= tolerance * (e.abs() + 10.0))
            };
            assert!(near(f16s, 4e-3) && near(bf16s, 3e-2), "{f16s:?}, {bf16s:?}");
        }
        let truncated = |i: usize| inputs.iter().map(|input| input[i].trunc()).sum::<f32>();
        assert!(integers.iter().enumerate().all(|(i, &sum)| sum == truncated(i)));
        assert_eq!(all, &results[0].0, "every rank has the same bits");
    }
}

#[test]
fn broadcast_all_gather_and_barrier_follow_the_ranks() {
    let _guard = serialize();
    let before = Arc::new(Barrier::new(4));
    let results = run_ranks(4, PATIENT, move |group, device| {
        let rank = group.rank();
        let x = full(rank as f64, &device);
        group.broadcast(&x, 2).expect("a broadcast");
        let own =
            Tensor::from_slice(&[rank as f32, 10.0 * rank as f32], [1, 2]).and_then(|t| t.to_device(&device));
        let gathered = group.all_gather(&own.expect("a tensor")).expect("an all-gather");
        before.wait();
        group.barrier().expect("a barrier");
        (x.to_vec::<f32>().expect("f32"), gathered.dims().to_vec(), gathered.to_vec::<f32>().expect("f32"))
    });
    for (broadcast, dims, gathered) in results {
        assert_eq!(broadcast, vec![2.0; 1000]);
        assert_eq!((dims, gathered), (vec![4, 1, 2], vec![0.0, 0.0, 1.0, 10.0, 2.0, 20.0, 3.0, 30.0]));
    }
}

#[test]
fn invalid_calls_are_errors_that_name_the_rank() {
    let _guard = serialize();
    let messages = run_ranks(2, PATIENT, |group, device| {
        let on_cpu = group.all_reduce(&full(1.0, &Device::Cpu), Reduction::Sum);
        let no_root = group.broadcast(&full(1.0, &device), 2);
        let bytes = Tensor::zeros([4], DType::U8, &device).expect("a tensor");
        let mean = group.all_reduce(&bytes, Reduction::Mean).expect_err("bytes have no mean").to_string();
        [on_cpu.expect_err("the wrong device").to_string(), no_root.expect_err("no rank 2").to_string(), mean]
    });
    let [on_cpu, no_root, mean] = &messages[1];
    assert_eq!(on_cpu, "all_reduce on rank 1 of 2: the tensor is on cpu, and the rank on cuda:1");
    assert_eq!(no_root, "broadcast on rank 1 of 2: there is no rank 2 to broadcast from");
    assert!(mean.contains("all_reduce") && mean.contains("floats"), "{mean}");
    let cpu =
        NcclCollective::new(&Device::Cpu, &UniqueId::from_bytes([0; 128]), 0, 1, SHORT).expect_err("no GPU");
    assert!(cpu.to_string().contains("NCCL needs a CUDA device"), "{cpu}");
}

#[test]
fn results_are_bitwise_equal_for_every_stream_order() {
    let _guard = serialize();
    let with_order = |order: u64| {
        Device::emulated(4).expect("the emulated device");
        emulator::set_order(order).expect("the emulated device");
        run_ranks(2, PATIENT, |group, device| train(&group, &device, 3).expect("updates"))
    };
    let [late, early, random] = [0, 1, 7].map(with_order);
    emulator::set_order(0).expect("the emulated device");
    assert_eq!((&late, &late), (&early, &random));
    assert_eq!(late[0].1, late[1].1, "the ranks agree");
}

#[test]
fn captured_updates_match_eager_ones_bitwise() {
    let _guard = serialize();
    let results = run_ranks(3, PATIENT, |group, device| {
        let eager = train(&group, &device, 4).expect("updates");
        let own = Tensor::from_slice(&values(group.rank()), [1000]).and_then(|t| t.to_device(&device));
        let (own, weights) = (own.expect("a tensor"), full(0.5, &device));
        update(&group, &own, &weights).expect("an update");
        let graph = CudaGraph::capture(&device, || update(&group, &own, &weights)).expect("a capture");
        for _ in 0..3 {
            graph.replay().expect("a replay");
        }
        let captured = (own.to_vec().expect("f32"), weights.to_vec().expect("f32"));
        (eager, captured)
    });
    for (eager, captured) in &results {
        assert_eq!(eager, captured);
    }
    assert_eq!(results[0].0.1, results[2].0.1, "the ranks agree");
    assert_ne!(results[0].0.0, results[2].0.0, "the ranks have data of their own");
}

#[test]
fn all_reduce_overlaps_with_later_work_of_the_compute_stream() {
    let _guard = serialize();
    let (late, done) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let results = run_ranks(2, PATIENT, move |group, device| {
        let x = full(1.0 + group.rank() as f64, &device);
        if group.rank() == 1 {
            late.wait();
            group.all_reduce(&x, Reduction::Sum).expect("an all-reduce");
            let sum = x.to_vec::<f32>().expect("f32");
            // Rank 0 has queued later kernels, which have not run: it does not synchronize before this.
            done.wait();
            return sum;
        }
        let pending = group.start_all_reduce(&x, Reduction::Sum).expect("an all-reduce");
        // Later work runs before the all-reduce is done, which rank 1 has not joined.
        let later = full(4.0, &device).mul_scalar(0.5).expect("a tensor");
        assert_eq!(later.to_vec::<f32>().expect("f32")[0], 2.0);
        let queued = later.mul_scalar(3.0).expect("a tensor");
        late.wait();
        // The all-reduce runs although nothing on this rank waits for it.
        done.wait();
        pending.wait().expect("it is done");
        assert_eq!(queued.to_vec::<f32>().expect("f32")[0], 6.0);
        x.to_vec::<f32>().expect("f32")
    });
    assert_eq!(results, vec![vec![3.0; 1000]; 2]);
}

#[test]
fn timeline_shows_the_overlap_of_an_all_reduce() {
    let _guard = serialize();
    let overlaps = run_ranks(2, PATIENT, |group, device| {
        let (own, weights) = (full(1.0, &device), full(0.5, &device));
        update(&group, &own, &weights).expect("an update");
        let profile = KernelProfile::start(&device).expect("a profile");
        update(&group, &own, &weights).expect("an update");
        let timeline = profile.finish_timeline().expect("a timeline");
        let of = |stream| timeline.iter().filter(move |interval| interval.stream == stream);
        let operations: Vec<_> = of(StreamKind::Communication).collect();
        let names: Vec<&str> = operations.iter().map(|interval| interval.name.as_str()).collect();
        assert_eq!(names, ["all_reduce"]);
        let [all_reduce] = operations[..] else { unreachable!("one operation") };
        let overlaps = |of: &DeviceInterval| {
            of.start < all_reduce.start + all_reduce.seconds && all_reduce.start < of.start + of.seconds
        };
        (
            of(StreamKind::Compute).count(),
            of(StreamKind::Compute).filter(|interval| overlaps(interval)).count(),
        )
    });
    for (kernels, overlapping) in overlaps {
        assert!(overlapping > 0 && overlapping < kernels, "{overlapping} of {kernels}");
    }
}

#[test]
fn memory_in_use_by_an_operation_is_not_reused() {
    let _guard = serialize();
    let late = Arc::new(Barrier::new(2));
    let results = run_ranks(2, PATIENT, move |group, device| {
        let x = full(5.0 + group.rank() as f64, &device);
        if group.rank() == 1 {
            late.wait();
            group.all_reduce(&x, Reduction::Sum).expect("an all-reduce");
            return x.to_vec::<f32>().expect("f32");
        }
        let pending = group.start_all_reduce(&x, Reduction::Sum).expect("an all-reduce");
        drop(x);
        let others: Vec<Tensor> = (0..4).map(|_| full(-1.0, &device)).collect();
        let values = others.iter().map(|t| t.to_vec::<f32>().expect("f32")[0]).collect();
        late.wait();
        pending.wait().expect("it is queued");
        device.synchronize().expect("no error of the device");
        values
    });
    assert_eq!(results, [vec![-1.0; 4], vec![11.0; 1000]]);
}

#[test]
fn dropped_group_ends_its_queued_operations() {
    let _guard = serialize();
    let start = Instant::now();
    let results = run_ranks(2, PATIENT, |group, device| {
        let tensors: Vec<Tensor> = (0..3).map(|i| full((i + group.rank()) as f64, &device)).collect();
        for x in &tensors {
            group.start_all_reduce(x, Reduction::Sum).and_then(|p| p.wait()).expect("it is queued");
        }
        // Nothing has waited for them yet.
        drop(group);
        tensors.iter().map(|x| x.to_vec::<f32>().expect("f32")[0]).collect::<Vec<_>>()
    });
    assert_eq!(results, [[1.0, 3.0, 5.0]; 2]);
    assert!(start.elapsed() < PATIENT / 2, "{:?}", start.elapsed());
}

/// The devices of `FORNAX_TEST_DEVICES`; the emulated ones are four, as for the other tests.
fn one_rank_devices() -> Vec<Device> {
    match env::var("FORNAX_TEST_DEVICES") {
        Ok(names) if !names.contains("emulated") => devices(),
        _ => vec![Device::emulated(4).expect("the emulated device")],
    }
}

#[test]
fn one_rank_runs_every_operation_eagerly_and_captured() {
    let _guard = serialize();
    for device in one_rank_devices() {
        within_deadline(move || {
            let id = UniqueId::new().expect("an id");
            let group = NcclCollective::new(&device, &id, 0, 1, PATIENT).expect("one rank joins");
            assert_eq!((group.rank(), group.world_size()), (0, 1));
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::I64] {
                let input =
                    Tensor::from_slice(&values(0), [1000]).and_then(|t| t.to_dtype(dtype)).expect("a tensor");
                let expected = input.to_dtype(DType::F64).and_then(|t| t.to_vec::<f64>()).expect("f64");
                for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
                    if reduction == Reduction::Mean && !dtype.is_float() {
                        continue;
                    }
                    let x = input.to_device(&device).expect("a tensor");
                    group.all_reduce(&x, reduction).expect("an all-reduce");
                    let got = x.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F64)?.to_vec::<f64>());
                    assert_eq!(got.expect("f64"), expected, "{reduction:?} of {dtype}");
                }
            }
            let x = full(3.0, &device);
            group.broadcast(&x, 0).expect("a broadcast");
            let gathered = group.all_gather(&x).expect("an all-gather");
            assert_eq!(
                (gathered.dims(), gathered.to_vec::<f32>().expect("f32")),
                (&[1, 1000][..], vec![3.0; 1000])
            );
            group.barrier().expect("a barrier");

            let eager = train(&group, &device, 4).expect("updates");
            let own =
                Tensor::from_slice(&values(0), [1000]).and_then(|t| t.to_device(&device)).expect("a tensor");
            let weights = full(0.5, &device);
            update(&group, &own, &weights).expect("an update");
            let graph = CudaGraph::capture(&device, || update(&group, &own, &weights)).expect("a capture");
            for _ in 0..3 {
                graph.replay().expect("a replay");
            }
            let captured = (own.to_vec::<f32>().expect("f32"), weights.to_vec::<f32>().expect("f32"));
            assert_eq!(eager, captured);
            group.barrier().expect("a barrier");
        });
    }
}

#[test]
fn one_rank_aborts_and_joins_again() {
    let _guard = serialize();
    for device in one_rank_devices() {
        within_deadline(move || {
            for _ in 0..2 {
                let id = UniqueId::new().expect("an id");
                let group = NcclCollective::new(&device, &id, 0, 1, PATIENT).expect("one rank joins");
                let x = full(3.0, &device);
                group.all_reduce(&x, Reduction::Sum).expect("an all-reduce");
                assert_eq!(x.to_vec::<f32>().expect("f32"), vec![3.0; 1000]);
                group.abort();
                assert_eq!(failure(group.all_reduce(&x, Reduction::Sum)).0, "the process group was aborted");
            }
        });
    }
}
