//! Device memory on the emulated device: reuse, memory of CUDA graphs, memory that other streams use, and out of memory.
//!
//! Tensors of `LEN` bytes have segments of the driver of their own.
use cudarc::driver::{CudaContext, result};
use fornax_engine::cpu::memory::MemoryStats;
use fornax_engine::cuda::{self, CudaGraph, device_pointer, pinned_tensor, record_stream, upload};
use fornax_engine::{DType, Device, Error, Result, Tensor};
use fornax_kernels::emulator;
use std::sync::{Mutex, MutexGuard};

const GPU: Device = Device::Cuda(0);
const LEN: usize = 12 << 20;

/// Runs one test at a time, on an emulated device without errors.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    Device::emulated(1).expect("g++ is installed");
    emulator::take_error();
    guard
}

fn filled(value: u8, len: usize) -> Tensor {
    Tensor::from_vec(vec![value; len], [len]).and_then(|x| x.to_device(&GPU)).expect("memory")
}

#[track_caller]
fn assert_filled(x: &Tensor, value: u8) {
    assert!(x.to_vec::<u8>().expect("u8").iter().all(|v| *v == value));
}

fn address(x: &Tensor) -> u64 {
    device_pointer(x).expect("on the device")
}

fn stats() -> MemoryStats {
    cuda::memory_stats(GPU).expect("the device was used")
}

#[test]
fn dropped_memory_is_reused_without_driver_calls() {
    let _guard = serialize();
    let x = filled(1, LEN);
    let at = address(&filled(2, LEN));
    let (warm, calls) = (stats(), emulator::memory_calls());
    for value in 3..10 {
        assert_eq!(address(&filled(value, LEN)), at);
    }
    // Uploads of other tests may have returned their memory meanwhile.
    let now = stats();
    assert!(now.allocated <= warm.allocated, "{now:?}, {warm:?} before");
    assert_eq!(
        (now.reserved, now.segments, now.peak_allocated),
        (warm.reserved, warm.segments, warm.peak_allocated)
    );
    assert_eq!(emulator::memory_calls(), calls);
    assert_filled(&x, 1);
    assert_eq!(device_pointer(&Tensor::from_vec(vec![0u8], [1]).expect("memory")), None);
}

#[test]
fn eager_work_does_not_overwrite_graph_memory() -> Result<()> {
    let _guard = serialize();
    let (x, y) = (filled(3, LEN), filled(0, LEN));
    let step = || y.copy_from(&x.copy()?.copy()?);
    step()?;
    let warm = stats();
    let graph = CudaGraph::capture(&GPU, step)?;
    assert_eq!(stats(), warm, "the graph takes over the memory of the earlier run");
    let eager: Vec<Tensor> = (10..14).map(|value| filled(value, LEN)).collect();
    y.copy_from(&eager[0])?;
    (0..2).try_for_each(|_| graph.replay())?;
    assert_filled(&y, 3);
    (10..14).zip(&eager).for_each(|(value, x)| assert_filled(x, value));
    drop((eager, graph));
    let dropped = stats();
    assert_eq!(dropped.allocated, warm.allocated);
    let again: Vec<Tensor> = (0..6).map(|value| filled(value, LEN)).collect();
    assert_eq!(stats().reserved, dropped.reserved, "the graph has returned its memory");
    drop(again);
    Ok(())
}

#[test]
fn tensor_dropped_in_a_capture_keeps_its_content_for_replays() -> Result<()> {
    let _guard = serialize();
    let [x, z, y, w] = [5, 6, 0, 0].map(|value| filled(value, LEN));
    let (before, mut dropped) = (stats(), Some(x));
    let graph = CudaGraph::capture(&GPU, || {
        let x = dropped.take().expect("the region runs once");
        y.copy_from(&x)?;
        drop(x);
        w.copy_from(&z.copy()?)
    })?;
    let eager: Vec<Tensor> = (10..13).map(|value| filled(value, LEN)).collect();
    for _ in 0..2 {
        y.copy_from(&eager[0])?;
        graph.replay()?;
        assert_filled(&y, 5);
        assert_filled(&w, 6);
    }
    drop((eager, graph));
    assert_eq!(stats().allocated, before.allocated - LEN);
    Ok(())
}

#[test]
fn tensor_allocated_in_a_capture_holds_the_result_of_replays() -> Result<()> {
    let _guard = serialize();
    let (x, before, calls) = (filled(7, 3 * LEN), stats(), emulator::memory_calls());
    let mut result = None;
    let graph = CudaGraph::capture(&GPU, || {
        result = Some(x.copy()?);
        Ok(())
    })?;
    let captured = emulator::memory_calls();
    assert!(captured.allocations <= calls.allocations + 1, "at most one new segment");
    assert_eq!(captured.graph_nodes, 0);
    let y = result.expect("the region ran");
    let eager = filled(1, 3 * LEN);
    graph.replay()?;
    assert_filled(&y, 7);
    x.copy_from(&eager)?;
    graph.replay()?;
    assert_filled(&y, 1);
    // It outlives the graph, and then returns to the general memory.
    drop(graph);
    assert_filled(&y, 1);
    let at = address(&y);
    drop((y, eager));
    assert_eq!(stats().allocated, before.allocated);
    let reused: Vec<Tensor> = (0..2).map(|value| filled(value, 3 * LEN)).collect();
    assert!(reused.iter().any(|x| address(x) == at));
    Ok(())
}

#[test]
fn failed_capture_returns_its_memory() -> Result<()> {
    let _guard = serialize();
    let [x, y] = [2, 0].map(|value| filled(value, LEN));
    let (before, mut dropped) = (stats(), Some(x));
    let captured = CudaGraph::capture(&GPU, || {
        y.copy_from(&dropped.take().expect("the region runs once"))?;
        y.copy()?.to_vec::<u8>().map(drop)
    });
    let message = captured.err().expect("an error").to_string();
    assert!(message.contains("between host and device"), "{message}");
    assert_eq!(stats().allocated, before.allocated - LEN);
    assert_filled(&y, 0);
    Ok(())
}

#[test]
fn memory_used_by_another_stream_is_reused_after_its_event() {
    for order in [0, 1, 3] {
        let _guard = serialize();
        emulator::set_order(order).expect("the emulated device");
        let context = CudaContext::new(0).expect("a context");
        let stream = context.new_stream().expect("a stream");
        let (x, y) = (filled(1, LEN), filled(0, LEN));
        let at = address(&x);
        GPU.synchronize().expect("no error");
        // SAFETY: both tensors have `LEN` bytes, and the stream outlives them.
        unsafe {
            result::memcpy_dtod_async(address(&y), at, LEN, stream.cu_stream()).expect("a copy");
            record_stream(&x, stream.cu_stream());
        }
        drop(x);
        let eager = filled(9, LEN);
        assert_ne!(address(&eager), at, "order {order}");
        GPU.synchronize().expect("no error");
        stream.synchronize().expect("no error");
        assert_filled(&y, 1);
        let reused: Vec<Tensor> = (0..2).map(|value| filled(value, LEN)).collect();
        assert!(reused.iter().any(|x| address(x) == at), "order {order}");
        emulator::set_order(0).expect("the emulated device");
    }
}

/// An upload is ordered after earlier work on the memory that it writes, and before later work that reads it.
#[test]
fn uploads_on_the_copy_stream_are_ordered_with_computation() {
    for order in [0, 1, 3] {
        let _guard = serialize();
        emulator::set_order(order).expect("the emulated device");
        let mut sums = vec![];
        for round in 0..8u8 {
            let source = pinned_tensor([LEN], DType::U8, &GPU).expect("pinned memory");
            source.write::<u8>().expect("on the CPU").fill(round);
            // Still computing with memory that the upload may get.
            let earlier = filled(100 + round, LEN).copy().expect("memory");
            let kept = earlier.copy().expect("memory");
            drop(earlier);
            let pending = upload(&source, &GPU).expect("uploads");
            drop(source);
            let x = pending.into_tensor().expect("waits");
            sums.push((x.copy().expect("memory"), kept));
        }
        for (round, (x, kept)) in sums.iter().enumerate() {
            assert_filled(x, round as u8);
            assert_filled(kept, 100 + round as u8);
        }
        emulator::set_order(0).expect("the emulated device");
    }
}

#[test]
fn dropped_upload_keeps_its_memory_until_it_is_done() {
    for order in [0, 1, 3] {
        let _guard = serialize();
        emulator::set_order(order).expect("the emulated device");
        let source = Tensor::from_vec(vec![7u8; LEN], [LEN]).expect("memory");
        drop(upload(&source, &GPU).expect("uploads"));
        let later: Vec<Tensor> = (0..3).map(|value| filled(value, LEN)).collect();
        GPU.synchronize().expect("no error");
        later.iter().enumerate().for_each(|(value, x)| assert_filled(x, value as u8));
        emulator::set_order(0).expect("the emulated device");
    }
}

#[test]
fn elements_read_later_are_those_of_the_call() {
    let _guard = serialize();
    let x = Tensor::from_vec(vec![1.0f32, 2.0], [2]).expect("memory").to_device(&GPU).expect("memory");
    let pending = x.read_later::<f32>().expect("queues");
    x.copy_from(&Tensor::from_vec(vec![3.0f32, 4.0], [2]).expect("memory")).expect("copies");
    let second = x.read_later::<f32>().expect("queues");
    assert_eq!(second.wait().expect("copied"), [3.0, 4.0]);
    assert_eq!(pending.wait().expect("copied"), [1.0, 2.0]);
    assert!(x.read_later::<i64>().is_err(), "another dtype");
    let on_cpu = Tensor::from_vec(vec![5i64], [1]).expect("memory");
    assert_eq!(on_cpu.read_later::<i64>().expect("reads").wait().expect("reads"), [5]);
    let calls = emulator::memory_calls();
    for _ in 0..10 {
        assert_eq!(x.read_later::<f32>().expect("queues").wait().expect("copied"), [3.0, 4.0]);
    }
    assert_eq!(emulator::memory_calls(), calls, "pinned blocks are reused");
}

#[test]
fn out_of_memory_releases_cached_segments_and_names_the_sizes() {
    let _guard = serialize();
    let total = CudaContext::new(0).and_then(|context| context.mem_get_info()).expect("a context").1;
    drop(filled(1, LEN));
    let warm = stats();
    assert!(warm.reserved - warm.allocated >= LEN, "cached segments");
    // The new tensor fits only without the cached ones.
    emulator::set_device_memory(warm.reserved + LEN).expect("the emulated device");
    let limit = warm.reserved + LEN;
    let x = filled(2, 2 * LEN);
    assert!(stats().reserved < warm.reserved + 2 * LEN);
    assert_filled(&x, 2);

    let error = Tensor::from_vec(vec![0u8; 8 * LEN], [8 * LEN])
        .and_then(|x| x.to_device(&GPU)?.copy()?.copy()?.copy())
        .expect_err("more than the device has");
    let after = stats();
    emulator::set_device_memory(total).expect("the emulated device");
    let Error::OutOfMemory { device, requested, allocated, reserved, total } = error.clone() else {
        panic!("{error}");
    };
    assert_eq!((device, requested, total), (GPU, 8 * LEN, Some(limit)));
    assert!(allocated >= after.allocated && reserved >= allocated && reserved <= limit, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("out of memory on cuda:0: {} bytes requested", 8 * LEN)), "{text}");
    assert!(text.contains("gradient checkpointing or mixed precision"), "{text}");
    assert_filled(&x, 2);
}
