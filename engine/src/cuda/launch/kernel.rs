//! Kernels by name, their arguments and launch configurations.
use crate::DType;
use crate::cuda::{CudaError, DeviceSlice, Result};
use fornax_kernels::ByValue;
use std::fmt;

/// Threads per block for which occupancy is queried: those of all kernels with a grid-stride loop.
pub(crate) const OCCUPANCY_THREADS: u32 = 256;

/// Kernel of a module, as its name without formatting: up to three joined parts, and the dtypes that end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub(in crate::cuda) module: &'static str,
    parts: [&'static str; 3],
    dtypes: [Option<DType>; 2],
}

impl Kernel {
    /// Kernel of that name in a module.
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Kernel {
        Kernel::joined(module, [name, "", ""])
    }

    /// Kernel whose name consists of the parts.
    pub(crate) const fn joined(module: &'static str, parts: [&'static str; 3]) -> Kernel {
        Kernel { module, parts, dtypes: [None; 2] }
    }

    /// The kernel for a dtype, whose name is appended; at most two.
    pub(crate) fn of(mut self, dtype: DType) -> Kernel {
        let free = self.dtypes.iter_mut().find(|d| d.is_none());
        *free.expect("a kernel has at most two dtypes") = Some(dtype);
        self
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| f.write_str(part))?;
        self.dtypes.iter().flatten().try_for_each(|dtype| write!(f, "_{dtype}"))
    }
}

/// Launch configuration: grid, block, and bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchConfig {
    pub(crate) grid_dim: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) shared_mem_bytes: u32,
    /// True for a grid-stride loop: a launch takes no more blocks than are resident on the device at once.
    pub(crate) is_grid_stride: bool,
}

impl LaunchConfig {
    /// Blocks of 256 threads for a grid-stride loop over `items`.
    pub(crate) fn grid_stride(items: usize) -> LaunchConfig {
        let blocks = items.div_ceil(256).clamp(1, i32::MAX as usize);
        LaunchConfig { is_grid_stride: true, ..LaunchConfig::linear(blocks, 256) }
    }

    /// One-dimensional grid and block. More blocks than a grid can have are an error at the launch.
    pub(crate) fn linear(blocks: usize, threads: usize) -> LaunchConfig {
        LaunchConfig {
            grid_dim: [grid_extent(blocks), 1, 1],
            block_dim: [threads as u32, 1, 1],
            shared_mem_bytes: 0,
            is_grid_stride: false,
        }
    }
}

/// Number of blocks along an axis of a grid. A number that does not fit becomes one that every device rejects at the launch.
pub(crate) fn grid_extent(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

/// Kernel argument, as the bytes that are passed.
#[derive(Clone, Copy)]
pub(crate) struct KernelArg<'a>(ArgBytes<'a>);

#[derive(Clone, Copy)]
enum ArgBytes<'a> {
    Four([u8; 4]),
    Eight([u8; 8]),
    Struct(&'a [u8]),
    /// Value that exceeds its 32-bit parameter: the launch returns an error that names it.
    TooLarge(i128),
}

/// Extent as a 32-bit field of a struct; an argument that is an extent itself is [`int`].
pub(crate) fn to_i32(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        CudaError::new(format!("an extent of {value} is too large for CUDA kernels: the maximum is 2^31 - 1"))
    })
}

/// Extents as 32-bit fields of a struct.
pub(crate) fn to_i32s<const N: usize>(values: [usize; N]) -> Result<[i32; N]> {
    let mut checked = [0; N];
    for (to, value) in checked.iter_mut().zip(values) {
        *to = to_i32(value)?;
    }
    Ok(checked)
}

/// Extent that a kernel takes as a 32-bit `int`. The launch returns an error if it does not fit.
pub(crate) fn int(extent: usize) -> KernelArg<'static> {
    i32::try_from(extent).map_or(KernelArg(ArgBytes::TooLarge(extent as i128)), KernelArg::from)
}

impl<'a> KernelArg<'a> {
    /// Struct of [`fornax_kernels::arguments`], or another value of the parameter's type.
    pub(crate) fn by_value<T: ByValue>(value: &'a T) -> KernelArg<'a> {
        KernelArg(ArgBytes::Struct(value.bytes()))
    }

    /// Pointer, null for `None`.
    pub(crate) fn optional(slice: Option<DeviceSlice>) -> KernelArg<'static> {
        KernelArg(ArgBytes::Eight(slice.map_or(0, |s| s.pointer).to_ne_bytes()))
    }

    /// The value that exceeds its parameter.
    pub(in crate::cuda) fn too_large(&self) -> Option<i128> {
        if let ArgBytes::TooLarge(value) = self.0 { Some(value) } else { None }
    }

    /// The bytes that are passed.
    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        match &self.0 {
            ArgBytes::Four(b) => b,
            ArgBytes::Eight(b) => b,
            ArgBytes::Struct(b) => b,
            ArgBytes::TooLarge(_) => &[],
        }
    }
}

impl<'a, T: ByValue> From<&'a T> for KernelArg<'a> {
    fn from(value: &'a T) -> Self {
        KernelArg::by_value(value)
    }
}

impl From<DeviceSlice<'_>> for KernelArg<'static> {
    fn from(slice: DeviceSlice) -> Self {
        KernelArg(ArgBytes::Eight(slice.pointer.to_ne_bytes()))
    }
}
impl From<&DeviceSlice<'_>> for KernelArg<'static> {
    fn from(slice: &DeviceSlice) -> Self {
        KernelArg::from(*slice)
    }
}
impl From<i32> for KernelArg<'static> {
    fn from(value: i32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
impl From<u32> for KernelArg<'static> {
    fn from(value: u32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
impl From<f32> for KernelArg<'static> {
    fn from(value: f32) -> Self {
        KernelArg(ArgBytes::Four(value.to_ne_bytes()))
    }
}
impl From<i64> for KernelArg<'static> {
    fn from(value: i64) -> Self {
        KernelArg(ArgBytes::Eight(value.to_ne_bytes()))
    }
}
/// Number of elements, `long long` in a kernel.
impl From<usize> for KernelArg<'static> {
    fn from(value: usize) -> Self {
        KernelArg(ArgBytes::Eight((value as i64).to_ne_bytes()))
    }
}

/// Arguments of a launch, in the kernel's order: slices, numbers (`usize` becomes `long long`, [`int`]`(usize)` a checked 32-bit `int`),
/// references to structs, [`KernelArg`]s.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::cuda::KernelArg::from($value)),*]
    };
}
pub(crate) use args;
