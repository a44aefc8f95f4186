//! Sources of the emulated device. To add a library, add an entry to [`LIBRARIES`].

/// Path in `kernels/emulator/` and text of a file.
pub(super) type SourceFile = (&'static str, &'static str);

/// Shared library, built from the `.cpp` files among its sources as one translation unit.
pub(super) struct EmulatorLibrary {
    /// Name without prefix and ending.
    pub name: &'static str,
    /// Version in the name of a second file, under which programs on Linux look for the library.
    pub version: Option<u32>,
    /// False if [`load`](super::load) does not open it.
    pub is_opened: bool,
    pub sources: &'static [SourceFile],
}

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/emulator/", $path)))),*]
    };
}

/// All libraries; the runtime is first because the others depend on it.
pub(super) const LIBRARIES: &[EmulatorLibrary] = &[
    EmulatorLibrary {
        name: "fornax_emulator",
        version: None,
        is_opened: true,
        sources: sources![
            "runtime/block.cpp",
            "runtime/block.h",
            "runtime/capture.cpp",
            "runtime/checker.cpp",
            "runtime/checker.h",
            "runtime/errors.cpp",
            "runtime/fiber.h",
            "runtime/host.cpp",
            "runtime/internal.h",
            "runtime/kernel_scan.cpp",
            "runtime/kernel_scan.h",
            "runtime/launch.cpp",
            "runtime/memory.cpp",
            "runtime/objects.cpp",
            "runtime/settings.cpp",
            "runtime/shadow.h",
            "runtime/stream.h",
            "runtime/streams.cpp",
            "runtime/symbolizer.cpp",
            "runtime/traffic.cpp",
            "runtime/traffic.h",
            "runtime/waiting.cpp",
            "runtime/warp.cpp",
            "runtime/workers.cpp",
        ],
    },
    EmulatorLibrary {
        name: "cuda",
        version: Some(1),
        is_opened: true,
        sources: sources![
            "driver/copy.cpp",
            "driver/device.cpp",
            "driver/driver.h",
            "driver/error_strings.cpp",
            "driver/kernel_resources.h",
            "driver/memory.cpp",
            "driver/module.cpp",
            "driver/proc_address.cpp",
            "driver/stream.cpp",
        ],
    },
    EmulatorLibrary {
        name: "nvrtc",
        version: Some(13),
        is_opened: true,
        sources: sources!["nvrtc/nvrtc.cpp"],
    },
    EmulatorLibrary {
        name: "nvrtc-builtins",
        version: None,
        is_opened: false,
        sources: sources!["nvrtc/builtins.cpp"],
    },
    EmulatorLibrary {
        name: "cublasLt",
        version: Some(13),
        is_opened: true,
        sources: sources!["cublaslt/cublaslt.cpp", "cublaslt/matmul.cpp", "cublaslt/matmul.h"],
    },
    EmulatorLibrary {
        name: "cudnn",
        version: Some(9),
        is_opened: true,
        sources: sources![
            "cudnn/convolution.cpp",
            "cudnn/convolution.h",
            "cudnn/cudnn.cpp",
            "cudnn/descriptor.cpp",
            "cudnn/engines.cpp",
            "cudnn/descriptor.h",
            "cudnn/plan_json.cpp",
            "cudnn/planted.cpp",
        ],
    },
    EmulatorLibrary {
        name: "nccl",
        version: Some(2),
        is_opened: true,
        sources: sources![
            "nccl/communicator.cpp",
            "nccl/communicator.h",
            "nccl/hub.cpp",
            "nccl/hub.h",
            "nccl/nccl.cpp",
            "nccl/reduce.h",
            "nccl/wire.h",
        ],
    },
];

/// Headers of all libraries and of kernels.
pub(super) const HEADERS: &[SourceFile] = sources![
    "include/device_abi.h",
    "include/emulated_atomics.h",
    "include/emulated_cuda.h",
    "include/emulated_half.h",
    "include/emulated_math.h",
    "include/emulated_vectors.h",
    "include/host_math.h",
    "include/runtime.h",
];
