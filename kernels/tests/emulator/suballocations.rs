//! Suballocations of device memory are checked like allocations of the driver.

use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, PushKernelArg, result,
};
use fornax_kernels::emulator;

use super::support::{PLANTED, emulated, grid, module};

const ILLEGAL: Result<(), DriverError> = Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));

/// Allocation of the driver that the test divides.
struct Segment {
    stream: Arc<CudaStream>,
    memory: CudaSlice<u8>,
    start: u64,
}

fn segment(context: &Arc<CudaContext>) -> Segment {
    let stream = context.new_stream().unwrap();
    // SAFETY: it is written before it is read, except where a test reports that.
    let memory = unsafe { stream.alloc::<u8>(1 << 16) }.unwrap();
    let start = memory.device_ptr(&stream).0;
    Segment { stream, memory, start }
}

impl Segment {
    fn add(&self, offset: u64, bytes: usize) -> u64 {
        let address = self.start + offset;
        emulator::add_suballocation(address, bytes, bytes.next_multiple_of(512), self.stream.cu_stream())
            .unwrap();
        address
    }

    fn remove(&self, address: u64) {
        emulator::remove_suballocation(address, self.stream.cu_stream());
    }

    fn upload(&self, values: &[f32], to: u64) -> Result<(), DriverError> {
        // SAFETY: the driver checks the range, and copies pageable memory at the call.
        unsafe { result::memcpy_htod_async(to, values, self.stream.cu_stream()) }
    }

    fn download(&self, from: u64, len: usize) -> Result<Vec<f32>, DriverError> {
        let mut values = vec![0.0f32; len];
        // SAFETY: the driver checks the range, and a copy to pageable memory is done when it returns.
        unsafe { result::memcpy_dtoh_async(&mut values, from, self.stream.cu_stream()) }.map(|()| values)
    }
}

fn planted(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    module(context, "kernels/tests/emulator/planted.cu", PLANTED).load_function(name).unwrap()
}

#[test]
fn access_between_suballocations_is_reported() {
    for order in [0, 1, 5] {
        let _emulated = emulated(order, true);
        let context = CudaContext::new(0).unwrap();
        let segment = segment(&context);
        let (x, y, _next) = (segment.add(0, 4), segment.add(512, 40), segment.add(1024, 40));
        segment.upload(&[1.0], x).unwrap();
        let kernel = planted(&context, "out_of_bounds");
        // SAFETY: the launch is invalid on purpose.
        unsafe { segment.stream.launch_builder(&kernel).arg(&x).arg(&y).arg(&10i32).launch(grid(1, 64)) }
            .unwrap();
        assert_eq!(segment.stream.synchronize(), ILLEGAL);
        let message = emulator::take_error().unwrap();
        assert!(
            message.contains("out-of-bounds write: 4 bytes at byte 40 of a buffer of 40 bytes"),
            "order {order}: {message}"
        );
    }
}

#[test]
fn reused_memory_is_uninitialised() {
    let _emulated = emulated(0, true);
    let context = CudaContext::new(0).unwrap();
    let segment = segment(&context);
    let x = segment.add(0, 128);
    segment.upload(&[1.0; 32], x).unwrap();
    segment.remove(x);
    let (x, y) = (segment.add(0, 128), segment.add(512, 128));
    let kernel = planted(&context, "uninitialised");
    // SAFETY: the launch is invalid on purpose.
    unsafe { segment.stream.launch_builder(&kernel).arg(&x).arg(&y).launch(grid(1, 32)) }.unwrap();
    assert_eq!(segment.stream.synchronize(), ILLEGAL);
    let message = emulator::take_error().unwrap();
    assert!(message.contains("read of uninitialised global memory"), "{message}");
}

#[test]
fn unchecked_mode_finds_writes_to_the_padding_and_poisons_memory() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let segment = segment(&context);
    let x = segment.add(0, 40);
    segment.upload(&[1.0; 10], x).unwrap();
    segment.remove(x);
    let x = segment.add(0, 40);
    assert!(
        segment.download(x, 10).unwrap().iter().all(|value| value.is_nan()),
        "content of an earlier tensor"
    );
    let far = planted(&context, "far_out_of_bounds");
    // SAFETY: the launch is invalid on purpose.
    unsafe { segment.stream.launch_builder(&far).arg(&x).arg(&20i64).launch(grid(1, 1)) }.unwrap();
    segment.remove(x);
    assert_eq!(segment.stream.synchronize(), ILLEGAL);
    let message = emulator::take_error().unwrap();
    assert!(message.contains("out-of-bounds write past the end of device buffer number"), "{message}");
    assert!(message.contains("of 40 bytes"), "{message}");
}

#[test]
fn removed_suballocation_cannot_be_used() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let segment = segment(&context);
    let x = segment.add(512, 40);
    segment.upload(&[1.0; 10], x).unwrap();
    assert_eq!(segment.download(x, 10).unwrap(), [1.0; 10]);
    segment.remove(x);
    let invalid = Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(segment.upload(&[1.0; 10], x), invalid, "after the removal");
    assert_eq!(segment.upload(&[1.0], segment.start), invalid, "beside all suballocations");
}

#[test]
fn overlapping_suballocations_are_rejected() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let segment = segment(&context);
    segment.add(512, 600);
    let add = |address, bytes| emulator::add_suballocation(address, bytes, bytes, segment.stream.cu_stream());
    for offset in [0, 512, 1024] {
        let message = add(segment.start + offset, 1024).unwrap_err();
        assert!(message.contains("1024 bytes overlaps device buffer number"), "{message}");
    }
    let message = add(segment.start + (1 << 16) - 512, 1024).unwrap_err();
    assert!(message.contains("is in no device buffer"), "{message}");
    add(segment.start, 512).unwrap();
}

#[test]
fn leaks_list_suballocations() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let before = emulator::live_bytes();
    let segment = segment(&context);
    assert_eq!(emulator::live_bytes(), before + (1 << 16));
    let x = segment.add(0, 100);
    assert_eq!(emulator::live_bytes(), before + 100);
    assert!(emulator::leaks().unwrap().contains("(100 bytes)"));
    segment.remove(x);
    assert_eq!(emulator::live_bytes(), before);
    drop(segment.memory);
    assert_eq!(emulator::live_bytes(), before);
}

#[test]
fn each_replay_begins_suballocations_again() {
    let _emulated = emulated(0, true);
    let context = CudaContext::new(0).unwrap();
    let segment = segment(&context);
    let stream = &segment.stream;
    let y = segment.add(0, 256);
    segment.upload(&[0.0; 64], y).unwrap();
    stream.synchronize().unwrap();
    let nodes = emulator::memory_calls().graph_nodes;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let x = segment.add(512, 256);
    // SAFETY: the ranges are allocated.
    unsafe {
        result::memset_d8_async(x, 0, 128, stream.cu_stream()).unwrap();
        result::memcpy_dtod_async(y, x, 256, stream.cu_stream()).unwrap();
    }
    segment.remove(x);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    assert_eq!(emulator::memory_calls().graph_nodes, nodes);
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(segment.download(y, 32).unwrap(), [0.0; 32]);
    }
    // The copy has passed on that the second half is uninitialised.
    assert_eq!(segment.download(y, 64), Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
    let message = emulator::take_error().unwrap();
    assert!(message.contains("uninitialised global memory, byte 128"), "{message}");
}
