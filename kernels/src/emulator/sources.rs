//! The sources of the emulated device. A library is added by an entry in [`LIBRARIES`].

/// A file: its path in `kernels/emulator/`, and its text.
pub(super) type Source = (&'static str, &'static str);

/// A shared library, built from the `.cpp` files among its sources as one unit.
pub(super) struct Library {
    /// Names that it is looked up by. The first is its own; the others are empty libraries that lead to it.
    pub names: &'static [&'static str],
    pub sources: &'static [Source],
}

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/emulator/", $path)))),*]
    };
}

/// The runtime comes first: the others use it.
pub(super) const LIBRARIES: &[Library] = &[
    Library {
        names: &["libfornax_emulator.so"],
        sources: sources![
            "runtime/block.cpp",
            "runtime/block.h",
            "runtime/capture.cpp",
            "runtime/checker.cpp",
            "runtime/checker.h",
            "runtime/context.h",
            "runtime/errors.cpp",
            "runtime/internal.h",
            "runtime/kernel_scan.cpp",
            "runtime/kernel_scan.h",
            "runtime/launch.cpp",
            "runtime/lines.cpp",
            "runtime/memory.cpp",
            "runtime/objects.cpp",
            "runtime/settings.cpp",
            "runtime/shadow.h",
            "runtime/stream.h",
            "runtime/streams.cpp",
            "runtime/warp.cpp",
            "runtime/workers.cpp",
        ],
    },
    Library {
        names: &["libcuda.so", "libcuda.so.1"],
        sources: sources![
            "driver/copy.cpp",
            "driver/device.cpp",
            "driver/driver.h",
            "driver/lookup.cpp",
            "driver/memory.cpp",
            "driver/module.cpp",
            "driver/names.cpp",
            "driver/stream.cpp",
        ],
    },
    Library { names: &["libnvrtc.so", "libnvrtc.so.13"], sources: sources!["nvrtc/nvrtc.cpp"] },
    Library {
        names: &["libcublasLt.so", "libcublasLt.so.13"],
        sources: sources!["blas/cublaslt.cpp", "blas/multiply.cpp", "blas/multiply.h"],
    },
    Library {
        names: &["libcudnn.so", "libcudnn.so.9"],
        sources: sources![
            "dnn/convolution.cpp",
            "dnn/convolution.h",
            "dnn/cudnn.cpp",
            "dnn/descriptor.cpp",
            "dnn/engines.cpp",
            "dnn/descriptor.h",
        ],
    },
];

/// Headers for all libraries, and for kernels.
pub(super) const HEADERS: &[Source] = sources![
    "include/device_abi.h",
    "include/emulated_atomics.h",
    "include/emulated_cuda.h",
    "include/emulated_math.h",
    "include/emulated_vectors.h",
    "include/host_math.h",
    "include/runtime.h",
];
