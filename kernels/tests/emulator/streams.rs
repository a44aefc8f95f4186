//! Asynchronous execution: streams, events, pinned memory, graphs, and missing waits.

use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, PushKernelArg, result};
use fornax_kernels::emulator;

use super::support::{CORRECT, compile, emulated, grid, kernel, module};

const ORDERS: [u64; 5] = [0, 1, 2, 3, 4];
const MODE: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

/// A context without cudarc's event tracking.
fn context() -> Arc<CudaContext> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the tests synchronize their streams themselves, or omit it on purpose.
    unsafe { context.disable_event_tracking() };
    context
}

fn add(stream: &Arc<CudaStream>, kernel: &CudaFunction, x: &mut CudaSlice<f32>, value: f32) {
    let n = x.len() as i32;
    // SAFETY: the arguments match the kernel.
    unsafe { stream.launch_builder(kernel).arg(x).arg(&value).arg(&n).launch(grid(n as u32 / 64 + 1, 64)) }
        .unwrap();
}

/// Writes on one stream and reads on another, with or without an event between.
fn read_on_another_stream(waits: bool) -> f32 {
    let context = context();
    let (writer, reader) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut x = writer.alloc_zeros::<f32>(100).unwrap();
    writer.synchronize().unwrap();
    add(&writer, &kernel(&context, "add_to_f32"), &mut x, 1.0);
    if waits {
        reader.wait(&writer.record_event(None).unwrap()).unwrap();
    }
    let value = reader.clone_dtoh(&x).unwrap()[0];
    writer.synchronize().unwrap();
    value
}

#[test]
fn events_order_streams() {
    for order in ORDERS {
        let _emulated = emulated(order, false);
        assert_eq!(read_on_another_stream(true), 1.0, "order {order}");
    }
}

#[test]
fn missing_wait_reads_stale_memory() {
    let _emulated = emulated(0, false);
    assert_eq!(read_on_another_stream(false), 0.0);
}

#[test]
fn use_after_free_on_another_stream_is_reported() {
    let _emulated = emulated(1, false);
    let context = context();
    let (user, owner) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let x = owner.clone_htod(&[1.0f32; 100]).unwrap();
    let mut y = user.alloc_zeros::<f32>(100).unwrap();
    owner.synchronize().unwrap();
    user.memcpy_dtod(&x, &mut y).unwrap();
    drop(x); // freed on the owner's stream, which does not wait for the copy
    let result = user.clone_dtoh(&y);
    assert_eq!(result, Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
    let message = emulator::take_error().unwrap();
    assert!(message.contains("cuMemcpyDtoDAsync: out-of-bounds read"), "{message}");
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs() {
    let _emulated = emulated(0, false);
    let context = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: it is written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(4) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(1.0);
    let mut x = stream.alloc_zeros::<f32>(4).unwrap();
    stream.memcpy_htod(pinned.as_slice().unwrap(), &mut x).unwrap();
    // A bug in a real program: the copy has not run yet.
    pinned.as_mut_slice().unwrap().fill(2.0);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [2.0; 4]);
    let mut pageable = vec![1.0f32; 4];
    stream.memcpy_htod(&pageable, &mut x).unwrap();
    pageable.fill(2.0);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [1.0; 4]);
}

#[test]
fn event_completes_after_its_work() {
    let _emulated = emulated(0, false);
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    let start = stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    add(&stream, &kernel(&context, "add_to_f32"), &mut x, 1.0);
    let end = stream.record_event(Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(!end.try_is_complete().unwrap());
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert!(end.is_complete());
    let again = stream.record_event(None).unwrap();
    add(&stream, &kernel(&context, "add_to_f32"), &mut x, 1.0);
    let mut polls = 0;
    while !again.is_complete() {
        polls += 1;
    }
    assert!(polls < 10);
}

#[test]
fn default_stream_does_not_wait_for_nonblocking_streams() {
    // cudarc's streams are non-blocking: the default stream does not wait for them.
    let _emulated = emulated(0, false);
    let context = context();
    let stream = context.new_stream().unwrap();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    stream.synchronize().unwrap();
    add(&stream, &kernel(&context, "add_to_f32"), &mut x, 1.0);
    assert_eq!(context.default_stream().clone_dtoh(&x).unwrap()[0], 0.0);
    context.synchronize().unwrap();
    assert_eq!(context.default_stream().clone_dtoh(&x).unwrap()[0], 1.0);
}

#[test]
fn graph_replays_captured_work() {
    for order in ORDERS {
        let _emulated = emulated(order, false);
        let context = context();
        let (stream, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let kernel = kernel(&context, "add_to_f32");
        let (mut x, mut y) =
            (stream.alloc_zeros::<f32>(100).unwrap(), stream.alloc_zeros::<f32>(100).unwrap());
        stream.synchronize().unwrap();
        stream.begin_capture(MODE).unwrap();
        for value in [1.0f32, 2.0] {
            add(&stream, &kernel, &mut x, value); // arguments are copied at capture
        }
        side.wait(&stream.record_event(None).unwrap()).unwrap();
        side.memcpy_dtod(&x, &mut y).unwrap();
        stream.wait(&side.record_event(None).unwrap()).unwrap();
        add(&stream, &kernel, &mut x, 10.0);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert_eq!(stream.clone_dtoh(&x).unwrap()[0], 0.0, "a capture runs nothing");
        for _ in 0..3 {
            graph.launch().unwrap();
        }
        let sums = (stream.clone_dtoh(&x).unwrap()[99], stream.clone_dtoh(&y).unwrap()[99]);
        assert_eq!(sums, (39.0, 29.0), "order {order}");
    }
}

#[test]
fn synchronizing_during_capture_fails() {
    let _emulated = emulated(0, false);
    let context = context();
    let stream = context.new_stream().unwrap();
    let rejected = |code| Err::<(), _>(DriverError(code));
    stream.begin_capture(MODE).unwrap();
    assert_eq!(stream.synchronize(), rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    let ended = stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
    assert_eq!(ended, rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    stream.synchronize().unwrap();
    stream.begin_capture(MODE).unwrap();
    assert_eq!(context.synchronize(), rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    assert!(stream.end_capture(CUgraphInstantiate_flags(0)).is_err());

    let side = context.new_stream().unwrap();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    let kernel = kernel(&context, "add_to_f32");
    stream.synchronize().unwrap();
    stream.begin_capture(MODE).unwrap();
    side.wait(&stream.record_event(None).unwrap()).unwrap();
    add(&side, &kernel, &mut x, 1.0);
    let ended = stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
    assert_eq!(ended, rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    assert!(emulator::take_error().unwrap().contains("the origin stream does not wait for"));
}

#[test]
fn calls_that_may_wait_or_load_code_invalidate_a_capture_of_the_same_thread() {
    let _emulated = emulated(0, false);
    let context = context();
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let loaded = module(&context, "kernels/tests/emulator/correct.cu", CORRECT);
    let image = compile("kernels/tests/emulator/correct.cu", CORRECT);
    let event = other.record_event(None).unwrap();
    type Call<'a> = &'a dyn Fn() -> Result<(), DriverError>;
    let calls: [(&str, Call); 7] = [
        ("cuModuleLoadData", &|| context.load_module(image.clone()).map(drop)),
        ("cuModuleGetFunction", &|| loaded.load_function("add_to_f32").map(drop)),
        // SAFETY: the event is alive.
        ("cuEventQuery", &|| unsafe { result::event::query(event.cu_event()) }),
        ("cuEventSynchronize", &|| event.synchronize()),
        ("cuStreamSynchronize", &|| other.synchronize()),
        // SAFETY: the memory is not read.
        ("cuMemHostAlloc", &|| unsafe { context.alloc_pinned::<f32>(4) }.map(drop)),
        ("cuCtxSynchronize", &|| context.synchronize()),
    ];
    let rejected = |code| Err::<(), _>(DriverError(code));
    for (name, call) in calls {
        stream.begin_capture(MODE).unwrap();
        assert_eq!(call(), rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), "{name}");
        assert!(emulator::take_error().unwrap().contains(name), "{name}");
        let ended = stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
        assert_eq!(ended, rejected(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{name}");
        call().unwrap();
    }
}

#[test]
fn calls_that_may_wait_are_allowed_in_a_capture_of_another_thread() {
    let _emulated = emulated(0, false);
    let context = context();
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    stream.begin_capture(MODE).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            context.bind_to_thread().unwrap();
            other.synchronize().unwrap();
            module(&context, "kernels/tests/emulator/correct.cu", CORRECT)
                .load_function("add_to_f32")
                .unwrap();
        });
    });
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
}

#[test]
fn captured_stream_cannot_wait_for_an_outside_event() {
    let _emulated = emulated(0, false);
    let context = context();
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let event = other.record_event(None).unwrap();
    stream.begin_capture(MODE).unwrap();
    let waited = stream.wait(&event);
    assert_eq!(waited, Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION)));
    assert!(stream.end_capture(CUgraphInstantiate_flags(0)).is_err());
}

#[test]
fn cudarc_event_tracking_orders_streams() {
    for order in ORDERS {
        let _emulated = emulated(order, false);
        let context = CudaContext::new(0).unwrap();
        let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let kernel = kernel(&context, "add_to_f32");
        let mut x = a.alloc_zeros::<f32>(100).unwrap();
        for step in 0..20 {
            add(if step % 2 == 0 { &a } else { &b }, &kernel, &mut x, 1.0);
        }
        assert_eq!(b.clone_dtoh(&x).unwrap()[0], 20.0, "order {order}");
    }
}

#[test]
fn host_threads_share_the_device() {
    let _emulated = emulated(3, false);
    let sums: Vec<f32> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    let context = CudaContext::new(worker % 2).unwrap();
                    let stream = context.new_stream().unwrap();
                    let kernel = kernel(&context, "add_to_f32");
                    let mut x = stream.alloc_zeros::<f32>(5000).unwrap();
                    (0..50).for_each(|_| add(&stream, &kernel, &mut x, worker as f32));
                    stream.clone_dtoh(&x).unwrap()[4999]
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(sums, [0.0, 50.0, 100.0, 150.0]);
}
