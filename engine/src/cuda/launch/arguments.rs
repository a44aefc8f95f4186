//! Fields of the structs that kernels take by value: addresses of slices, whose dtype must be the element type of the field, and formats.
use crate::DType;
use crate::cuda::DeviceSlice;
use fornax_kernels::arguments::ElementFormat;
use fornax_kernels::{Address, AddressBits, AddressMut, Any};

/// Format of parameters or of packed tensors.
pub(crate) fn element_format(dtype: DType) -> ElementFormat {
    match dtype {
        DType::F32 => ElementFormat::F32,
        DType::F16 => ElementFormat::F16,
        DType::BF16 => ElementFormat::Bf16,
        other => unreachable!("tensors of {other} are rejected"),
    }
}

/// Element type of an address.
pub(crate) trait Pointee {
    /// Its dtype; `None` if kernels find it out at run time.
    const DTYPE: Option<DType>;
}

impl Pointee for f32 {
    const DTYPE: Option<DType> = Some(DType::F32);
}
impl Pointee for f64 {
    const DTYPE: Option<DType> = Some(DType::F64);
}
impl Pointee for i64 {
    const DTYPE: Option<DType> = Some(DType::I64);
}
impl Pointee for Any {
    const DTYPE: Option<DType> = None;
}

impl<T: Pointee> From<DeviceSlice<'_>> for Address<T> {
    fn from(slice: DeviceSlice) -> Self {
        Address::new(pointer::<T>(slice))
    }
}

impl<T: Pointee> From<DeviceSlice<'_>> for AddressMut<T> {
    fn from(slice: DeviceSlice) -> Self {
        AddressMut::new(pointer::<T>(slice))
    }
}

impl<T: Pointee> From<DeviceSlice<'_>> for AddressBits<T> {
    fn from(slice: DeviceSlice) -> Self {
        AddressBits::new(pointer::<T>(slice))
    }
}

fn pointer<T: Pointee>(slice: DeviceSlice) -> u64 {
    let is_element = T::DTYPE.is_none_or(|dtype| dtype == slice.dtype);
    assert!(is_element, "a kernel takes the address of {:?}, but the slice is {}", T::DTYPE, slice.dtype);
    slice.pointer
}
