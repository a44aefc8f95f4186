//! Devices, memory, modules and launches through the driver API.

use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use fornax_kernels::emulator::{self, EmulatorError, EmulatorOptions};
use fornax_kernels::{cache, library};

use super::support::{CORRECT, emulated, grid, kernel, module};

#[test]
fn devices_are_of_one_model_and_distinct() {
    let _emulated = emulated(0, false);
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let context = CudaContext::new(1).unwrap();
    assert_eq!(context.name().unwrap(), "Emulated CUDA device");
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert_ne!(context.uuid().unwrap().bytes, CudaContext::new(0).unwrap().uuid().unwrap().bytes);
    let optin = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(context.attribute(optin).unwrap(), 227 << 10);
    let error = CudaContext::new(2).unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_INVALID_DEVICE));
    assert!(error.to_string().contains("invalid device ordinal"), "{error}");
    let again = emulator::load(&EmulatorOptions { devices: 3, order: 0, checked: false });
    assert!(matches!(again, Err(EmulatorError::DeviceCount { loaded: 2, requested: 3 })), "{again:?}");
}

#[test]
fn allocation_beyond_memory_fails() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free <= total);
    let stream = context.default_stream();
    // SAFETY: it is not read.
    let error = unsafe { stream.alloc::<u8>(total + 1) }.unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    assert!(emulator::take_error().unwrap().contains("out of memory on device 0"));

    emulator::set_device_memory(total - free + (1 << 20)).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 1 << 20);
    // SAFETY: as above.
    let error = unsafe { stream.alloc::<u8>((1 << 20) + 1) }.unwrap_err();
    emulator::set_device_memory(total).unwrap();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    assert!(emulator::take_error().unwrap().contains("1048577 bytes requested"));
}

#[test]
fn leaks_are_reported() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let before = emulator::live_bytes();
    let buffer = stream.alloc_zeros::<f32>(25).unwrap();
    assert_eq!(emulator::live_bytes(), before + 100);
    assert!(emulator::leaks().unwrap().contains("(100 bytes)"));
    drop(buffer);
    assert_eq!(emulator::live_bytes(), before);
}

#[test]
fn invalid_launches_are_rejected() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let (x, mut sums) = (stream.alloc_zeros::<f32>(64).unwrap(), stream.alloc_zeros::<f32>(64).unwrap());
    let kernel = kernel(&context, "block_sums_f32");
    let mut rejected = |config: LaunchConfig| {
        // SAFETY: the launch is rejected.
        let result =
            unsafe { stream.launch_builder(&kernel).arg(&x).arg(&mut sums).arg(&64i32).launch(config) };
        (result.unwrap_err().0, emulator::take_error().unwrap())
    };
    let (code, message) = rejected(grid(1, 512));
    assert_eq!(code, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert!(message.contains("its launch bound is 256"), "{message}");
    assert_eq!(rejected(grid(0, 32)).0, CUresult::CUDA_ERROR_INVALID_VALUE);
    let (code, message) = rejected(LaunchConfig { shared_mem_bytes: 49 << 10, ..grid(1, 32) });
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(message.contains("bytes of dynamic shared memory"), "{message}");
    let (code, message) = rejected(LaunchConfig { block_dim: (32, 33, 1), ..grid(1, 1) });
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(message.contains("invalid block of (32, 33, 1) threads; a block has at most 1024"), "{message}");
}

#[test]
fn occupancy_follows_registers_and_shared_memory() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let blocks = |module: &str, name: &str, shared| {
        let source = fornax_kernels::kernel_module(module).unwrap();
        let image = fornax_kernels::compile(source, (9, 0)).unwrap();
        let kernel = context.load_module(Ptx::from_binary(image)).unwrap().load_function(name).unwrap();
        let registers = kernel.get_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS).unwrap();
        (registers, kernel.occupancy_max_active_blocks_per_multiprocessor(256, shared, None).unwrap())
    };
    // By registers: 4 register files of 16,384, from which a warp of 32 takes multiples of 256.
    let masked = ("batch_norm", "batch_norm_masked_sums_bwd_f32");
    for (module, name) in [masked, ("unary", "sqrt_f32"), ("pool", "max_pool_fwd_f32")] {
        let (registers, resident) = blocks(module, name, 0);
        let of_warp = (registers * 32).cast_unsigned().next_multiple_of(256);
        assert_eq!(resident, (4 * (16_384 / of_warp) / 8).min(8), "{name}, {registers} registers");
    }
    assert!(blocks(masked.0, masked.1, 0).1 < 8, "fewer than the registers of 2048 threads");
    // By shared memory: 228 KiB, and 1 KiB more per block.
    assert_eq!(blocks("unary", "sqrt_f32", 40 << 10).1, 5);
}

#[test]
fn static_shared_memory_reduces_the_limits_of_dynamic_shared_memory() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let mut x = stream.alloc_zeros::<f32>(64).unwrap();
    let text = "extern \"C\" __global__ void planted_static_shared(float* x) {\n\
                  __shared__ float values[256];\n\
                  values[threadIdx.x] = x[threadIdx.x];\n\
                  __syncthreads();\n\
                  x[threadIdx.x] = values[63 - threadIdx.x] + 1;\n}\n";
    let kernel = module(&context, "planted.cu", text).load_function("planted_static_shared").unwrap();
    let mut launch = |shared_mem_bytes| {
        let config = LaunchConfig { shared_mem_bytes, ..grid(1, 64) };
        // SAFETY: the arguments match the kernel.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).launch(config) }.map(|_| ())
    };
    launch(47 << 10).unwrap();
    let invalid = Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(48 << 10), invalid);
    let message = emulator::take_error().unwrap();
    assert!(message.contains("49152 bytes of dynamic shared memory, but its limit is 48128"), "{message}");
    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(kernel.set_attribute(limit, 227 << 10), invalid);
    kernel.set_attribute(limit, 226 << 10).unwrap();
}

#[test]
fn functions_that_an_old_driver_lacks_are_errors() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let timed = || stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let (start, end) = (timed(), timed());
    end.synchronize().unwrap();
    emulator::set_cuda_versions(12_040, 13_000).unwrap();
    let elapsed = start.elapsed_ms(&end);
    emulator::set_cuda_versions(13_000, 13_000).unwrap();
    assert_eq!(elapsed, Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)));
    let message = emulator::take_error().unwrap();
    assert!(message.contains("cuEventElapsedTime_v2 does not exist in a driver for CUDA 12.4"), "{message}");
    assert!(start.elapsed_ms(&end).is_ok());
}

#[test]
fn shared_memory_beyond_the_opt_in_is_rejected() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let mut x = stream.alloc_zeros::<f32>(64).unwrap();
    let kernel = kernel(&context, "add_to_f32");
    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let invalid = Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(kernel.set_attribute(limit, (227 << 10) + 1), invalid);
    let message = emulator::take_error().unwrap();
    assert!(
        message.contains("232449 bytes of dynamic shared memory, but a block has at most 232448"),
        "{message}"
    );
    kernel.set_attribute(limit, 100 << 10).unwrap();
    let mut launch = |shared_mem_bytes| {
        let config = LaunchConfig { shared_mem_bytes, ..grid(1, 64) };
        // SAFETY: the arguments match the kernel.
        unsafe { stream.launch_builder(&kernel).arg(&mut x).arg(&1.0f32).arg(&64i32).launch(config) }
            .map(|_| ())
    };
    launch(100 << 10).unwrap();
    assert_eq!(launch((100 << 10) + 4), invalid);
    let message = emulator::take_error().unwrap();
    assert!(message.contains("102404 bytes of dynamic shared memory, but its limit is 102400"), "{message}");
}

#[test]
fn kernel_parameters_beyond_the_limit_are_rejected() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let load = |ints: usize| {
        let text = format!(
            "struct Table {{ int values[{ints}]; }};\nextern \"C\" __global__ void last(const Table table) {{}}\n"
        );
        context.load_module(compile_ptx_with_opts(text, CompileOptions::default()).unwrap()).map(|_| ())
    };
    load(8191).unwrap();
    assert_eq!(load(8192), Err(DriverError(CUresult::CUDA_ERROR_INVALID_PTX)));
    let message = emulator::take_error().unwrap();
    assert!(
        message.contains("kernel last has 32768 bytes of parameters, but at most 32764 are possible"),
        "{message}"
    );
}

#[test]
fn launch_on_a_destroyed_stream_is_rejected() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the test uses one stream.
    unsafe { context.disable_event_tracking() };
    let kernel = kernel(&context, "add_to_f32");
    let destroyed = context.new_stream().unwrap();
    let mut x = context.default_stream().alloc_zeros::<f32>(64).unwrap();
    // SAFETY: the stream is destroyed twice on purpose; the second time is rejected.
    unsafe { result::stream::destroy(destroyed.cu_stream()) }.unwrap();
    let _new = context.new_stream().unwrap();
    // SAFETY: the launch is rejected.
    let launched =
        unsafe { destroyed.launch_builder(&kernel).arg(&mut x).arg(&1.0f32).arg(&64i32).launch(grid(1, 64)) };
    let message = emulator::take_error().unwrap();
    assert_eq!(launched.map(|_| ()), Err(DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE)));
    assert!(message.contains("add_to_f32: not a stream"), "{message}");
}

#[test]
fn capture_frees_only_its_own_memory() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let before = emulator::memory_calls();
    // SAFETY: each block is freed once, except where that is rejected.
    unsafe {
        let outside = result::malloc_async(stream.cu_stream(), 100).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let inside = result::malloc_async(stream.cu_stream(), 100).unwrap();
        result::free_async(inside, stream.cu_stream()).unwrap();
        let freed = result::free_async(outside, stream.cu_stream());
        assert_eq!(freed, Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
        let message = emulator::take_error().unwrap();
        assert!(message.contains("was not allocated in the capture"), "{message}");
        let ended = stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ());
        assert_eq!(ended, Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)));
        result::free_async(outside, stream.cu_stream()).unwrap();
    }
    let calls = emulator::memory_calls();
    assert_eq!(calls.allocations - before.allocations, 2);
    assert_eq!(calls.frees - before.frees, 3);
    assert_eq!(calls.graph_nodes - before.graph_nodes, 2);
}

#[test]
fn allocation_during_capture_needs_the_relaxed_mode() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let capture = || stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let exchange = |mut mode| {
        // SAFETY: the pointer is to a local.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result().unwrap();
        mode
    };
    capture();
    // SAFETY: the call is rejected.
    let rejected = unsafe { result::malloc_sync(100) };
    assert_eq!(rejected, Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)));
    assert!(
        emulator::take_error().unwrap().contains("cuMemAlloc: not allowed while a stream is being captured")
    );
    assert!(stream.end_capture(CUgraphInstantiate_flags(0)).is_err());

    capture();
    let mode = exchange(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
    assert_eq!(mode, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    // SAFETY: the block is freed once and not used.
    unsafe { result::malloc_sync(100).and_then(|block| result::free_sync(block)) }.unwrap();
    assert_eq!(exchange(mode), CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
}

#[test]
fn argument_sizes_are_reported() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let module = module(&context, "correct.cu", CORRECT);
    let name = c"scale_f32";
    let (mut function, mut raw) = (std::ptr::null_mut(), std::ptr::null_mut());
    let image = std::ffi::CString::new(image_of(CORRECT)).unwrap();
    // SAFETY: plain driver calls; the pointers are to locals, and the argument buffer has the given size.
    unsafe {
        assert_eq!(sys::cuModuleLoadData(&mut raw, image.as_ptr().cast()), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuModuleGetFunction(&mut function, raw, name.as_ptr()), CUresult::CUDA_SUCCESS);
        for (index, expected) in
            [(0, 0, 8), (1, 8, 8), (2, 16, 4), (3, 24, 8)].iter().map(|&(i, o, s)| (i, (o, s)))
        {
            let (mut offset, mut size) = (0, 0);
            assert_eq!(
                sys::cuFuncGetParamInfo(function, index, &mut offset, &mut size),
                CUresult::CUDA_SUCCESS
            );
            assert_eq!((offset, size), expected);
        }
        let (mut offset, mut size) = (0, 0);
        assert_eq!(
            sys::cuFuncGetParamInfo(function, 4, &mut offset, &mut size),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        // The size of an argument buffer is checked.
        let (mut buffer, mut size) = ([0u64; 3], 24usize);
        let mut extra = [
            std::ptr::without_provenance_mut(1),
            buffer.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            std::ptr::null_mut(),
        ];
        let (none, stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        let result = sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, none, extra.as_mut_ptr());
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let message = emulator::take_error().unwrap();
    assert!(message.contains("24 bytes of arguments, but its parameters take 32"), "{message}");
    drop(module);
}

fn image_of(text: &str) -> Vec<u8> {
    let options = CompileOptions { name: Some("correct.cu".to_string()), ..Default::default() };
    let image = compile_ptx_with_opts(text, options).unwrap();
    let bytes: Vec<u8> = image.as_bytes().unwrap().to_vec();
    bytes.into_iter().take_while(|byte| *byte != 0).collect()
}

#[test]
fn invalid_module_and_missing_kernel_are_errors() {
    let _emulated = emulated(0, false);
    let context = CudaContext::new(0).unwrap();
    let error = context.load_module(Ptx::from_src("\u{7f}ELF of a real GPU")).unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_INVALID_IMAGE));
    let module = module(&context, "correct.cu", CORRECT);
    assert_eq!(
        module.load_function("no_such_kernel").unwrap_err(),
        DriverError(CUresult::CUDA_ERROR_NOT_FOUND)
    );
}

#[test]
fn compile_error_has_its_line() {
    let _emulated = emulated(0, false);
    let options = || CompileOptions { name: Some("kernels/cu/wrong.cu".to_string()), ..Default::default() };
    let text = "extern \"C\" __global__ void wrong(float* x) {\n  x[0] = missing;\n}\n";
    let Err(CompileError::CompileError { log, .. }) = compile_ptx_with_opts(text, options()) else {
        panic!("invalid source compiled");
    };
    assert!(log.to_str().unwrap().contains("kernels/cu/wrong.cu:2"), "{log:?}");
    let odd = CompileOptions { options: vec!["--no-such-option".to_string()], ..options() };
    let Err(CompileError::CompileError { log, .. }) = compile_ptx_with_opts(CORRECT, odd) else {
        panic!("an unknown option was accepted");
    };
    assert!(log.to_str().unwrap().contains("unrecognized option --no-such-option"), "{log:?}");
}

#[test]
fn atomics_on_floats_do_not_compile() {
    let _emulated = emulated(0, false);
    let text = "extern \"C\" __global__ void sum(float* x) { atomicAdd(x, 1.0f); }\n";
    assert!(matches!(
        compile_ptx_with_opts(text, CompileOptions::default()),
        Err(CompileError::CompileError { .. })
    ));
}

#[test]
fn two_devices_run_kernels() {
    for order in [0, 1, 9] {
        let _emulated = emulated(order, false);
        let results: Vec<f32> = (0..2)
            .map(|ordinal| {
                let context = CudaContext::new(ordinal).unwrap();
                let stream = context.new_stream().unwrap();
                let x = stream.clone_htod(&vec![1.0f32 + ordinal as f32; 100]).unwrap();
                let mut y = stream.alloc_zeros::<f32>(100).unwrap();
                let kernel = kernel(&context, "scale_f32");
                // SAFETY: the arguments match the kernel.
                unsafe {
                    stream
                        .launch_builder(&kernel)
                        .arg(&x)
                        .arg(&mut y)
                        .arg(&3.0f32)
                        .arg(&100i64)
                        .launch(grid(1, 128))
                }
                .unwrap();
                stream.clone_dtoh(&y).unwrap()[99]
            })
            .collect();
        assert_eq!(results, [3.0, 6.0]);
    }
}

#[test]
fn emulated_library_is_the_first_candidate() {
    let _emulated = emulated(0, false);
    let candidates = library::candidate_paths(&["libcudnn.so.9", "libcudnn.so"]);
    assert!(candidates[0].is_file() && candidates[0].starts_with(cache::folder()), "{candidates:?}");
    let (_, path) = library::open(&["libcudnn.so.9"]).expect("the emulated cuDNN");
    assert_eq!(path, candidates[0]);
    assert_eq!(library::candidate_paths(&["libc.so.6"])[0].as_os_str(), "libc.so.6");
}
