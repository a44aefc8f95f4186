//! Ranks that call different operations, abort, do not replay a graph, or do not join.
use super::support::{PATIENT, SHORT, failure, full, run_ranks, serialize, update, within_deadline};
use fornax_engine::cuda::CudaGraph;
use fornax_engine::cuda::nccl::{NcclCollective, UniqueId};
use fornax_engine::{Collective, DType, Device, Reduction, Result, Tensor};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn different_operations_end_with_an_error_of_each_rank() {
    let _guard = serialize();
    let mismatches: [fn(&NcclCollective, &Device) -> Result<()>; 3] = [
        |group, device| {
            let x = Tensor::zeros([4 + group.rank()], DType::F32, device)?;
            group.all_reduce(&x, Reduction::Sum)
        },
        |group, device| {
            let x = Tensor::zeros([4], if group.rank() == 0 { DType::F32 } else { DType::F16 }, device)?;
            group.all_reduce(&x, Reduction::Sum)
        },
        |group, device| match group.rank() {
            0 => group.all_reduce(&Tensor::zeros([4], DType::F32, device)?, Reduction::Sum),
            _ => group.broadcast(&Tensor::zeros([4], DType::F32, device)?, 0),
        },
    ];
    for mismatch in mismatches {
        let failures = run_ranks(2, SHORT, move |group, device| {
            let start = Instant::now();
            mismatch(&group, &device).expect("it is queued");
            // Blocks until the watchdog aborts.
            device.synchronize().expect("the device is usable");
            let waited = start.elapsed();
            (failure(group.all_reduce(&full(1.0, &device), Reduction::Sum)), waited)
        });
        for (rank, ((why, named), waited)) in failures.into_iter().enumerate() {
            assert_eq!(named, rank);
            // The first rank that aborts closes its connection, which the other one may see first.
            assert!(
                why.contains("the ranks call different operations")
                    || why.contains("has closed its connection"),
                "{why}"
            );
            assert!(waited >= SHORT / 2 && waited < SHORT * 20, "{waited:?}");
        }
    }
}

#[test]
fn abort_ends_an_operation_that_hangs() {
    let _guard = serialize();
    let done = Arc::new(Barrier::new(2));
    let failures = run_ranks(2, PATIENT, move |group, device| {
        if group.rank() == 1 {
            done.wait();
            // The peer's abort closes the connection.
            let start = Instant::now();
            loop {
                let result = group.barrier();
                if result.is_err() {
                    return failure(result).0;
                }
                assert!(start.elapsed() < PATIENT / 2);
            }
        }
        let group = Arc::new(group);
        group
            .start_all_reduce(&full(1.0, &device), Reduction::Sum)
            .and_then(|p| p.wait())
            .expect("it is queued");
        let aborting = group.clone();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            aborting.abort();
        });
        device.synchronize().expect("the device is usable");
        other.join().expect("no panic");
        let why = failure(group.barrier()).0;
        done.wait();
        why
    });
    assert_eq!(failures[0], "the process group was aborted");
    // Rank 1 may still receive the operation that rank 0 had begun, which is not its barrier.
    let whys = ["rank 0 has closed its connection", "the ranks call different operations"];
    assert!(whys.iter().any(|why| failures[1].contains(why)), "{failures:?}");
}

#[test]
fn replay_that_hangs_ends_with_an_error() {
    let _guard = serialize();
    let results = run_ranks(2, SHORT * 2, |group, device| {
        let (own, weights) = (full(1.0, &device), full(0.5, &device));
        update(&group, &own, &weights).expect("an update");
        let graph = CudaGraph::capture(&device, || update(&group, &own, &weights)).expect("a capture");
        device.synchronize().expect("the device is usable");
        if group.rank() == 1 {
            // Stays in the group and does not replay.
            thread::sleep(SHORT * 4);
            return String::new();
        }
        graph.replay().expect("a replay");
        group.check().expect("it has not failed yet");
        device.synchronize().expect("the device is usable");
        assert_eq!(failure(group.check()), failure(group.barrier()));
        failure(group.barrier()).0
    });
    assert!(
        results[0].starts_with("collective operation in a CUDA graph did not end within 3 s"),
        "{results:?}"
    );
}

#[test]
fn group_may_be_dropped_or_aborted_before_its_graphs() {
    let _guard = serialize();
    for aborts in [false, true] {
        let results = run_ranks(2, PATIENT, move |group, device| {
            let (own, weights) = (full(1.0, &device), full(0.5, &device));
            update(&group, &own, &weights).expect("an update");
            let graph = CudaGraph::capture(&device, || update(&group, &own, &weights)).expect("a capture");
            graph.replay().expect("a replay");
            let result = weights.to_vec::<f32>().expect("f32");
            if aborts {
                group.abort();
            }
            drop(group);
            drop(graph);
            result
        });
        assert_eq!(results[0], results[1]);
    }
}

#[test]
fn missing_rank_is_an_error_after_the_timeout() {
    let _guard = serialize();
    Device::emulated(4).expect("the emulated device");
    let (message, waited) = within_deadline(|| {
        let (id, start) = (UniqueId::new().expect("an id"), Instant::now());
        let joined = NcclCollective::new(&Device::Cuda(0), &id, 0, 2, SHORT);
        (joined.expect_err("rank 1 is missing").to_string(), start.elapsed())
    });
    let expected = "joining the process group on rank 0 of 2: no answer from the other ranks within 1.5 s";
    assert_eq!(message, expected);
    assert!(waited >= SHORT && waited < SHORT * 20, "{waited:?}");
}

#[test]
fn two_ranks_on_one_device_are_refused() {
    let _guard = serialize();
    Device::emulated(4).expect("the emulated device");
    let errors = within_deadline(|| {
        let id = UniqueId::new().expect("an id");
        let join = |rank| NcclCollective::new(&Device::Cuda(1), &id, rank, 2, PATIENT);
        thread::scope(|scope| {
            let other = scope.spawn(|| join(1));
            [join(0), other.join().expect("no panic")]
                .map(|joined| joined.expect_err("one device").to_string())
        })
    });
    for error in errors {
        assert!(error.contains("Duplicate GPU detected"), "{error}");
    }
}
