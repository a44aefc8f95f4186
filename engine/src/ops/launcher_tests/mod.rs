//! Launchers on the emulated device, in each dtype, compared with the CPU kernels in f64.
use crate::cuda::{DeviceBuffer, DeviceSlice, Gpu};
use crate::{DType, Element};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

mod alignment;
mod convolutions;
mod copies;
mod elementwise;
mod launches;
mod losses;
mod norms;
mod pools;
mod reductions;

/// Dtypes of kernels that compute.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The emulated device.
fn gpu() -> &'static Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| {
        fornax_kernels::emulator::load(&Default::default()).expect("g++ is installed");
        Gpu::get(0).expect("an emulated device")
    })
}

/// Array on the device, and its values after rounding to its dtype, in f64.
struct DeviceArray {
    buffer: DeviceBuffer,
    start: usize,
    dtype: DType,
    values: Vec<f64>,
}

impl DeviceArray {
    fn new(values: impl IntoIterator<Item = f64>, dtype: DType) -> DeviceArray {
        fn bytes<T: Element>(values: &[f64]) -> (Vec<u8>, Vec<f64>) {
            let rounded: Vec<T> = values.iter().map(|v| T::from_f64(*v)).collect();
            (bytemuck::cast_slice(&rounded).to_vec(), rounded.iter().map(|v| v.to_f64()).collect())
        }
        let values: Vec<f64> = values.into_iter().collect();
        let (bytes, values) = match dtype {
            DType::F16 => bytes::<f16>(&values),
            DType::BF16 => bytes::<bf16>(&values),
            DType::I64 => bytes::<i64>(&values),
            DType::U8 => bytes::<u8>(&values),
            _ => bytes::<f32>(&values),
        };
        let buffer = gpu().empty(values.len(), dtype).expect("memory");
        gpu().upload(&bytes, buffer.slice(0, values.len(), dtype)).expect("a copy");
        DeviceArray { buffer, start: 0, dtype, values }
    }

    /// Pseudo-random numbers in -2..2 for a seed.
    fn random(len: usize, seed: u64, dtype: DType) -> DeviceArray {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 22) as f64 - 2.0
        };
        DeviceArray::new((0..len).map(next), dtype)
    }

    /// Copy of the values at an offset of one element, so that it is not aligned to 16 bytes.
    fn shifted(&self) -> DeviceArray {
        let buffer = gpu().empty(self.values.len() + 1, self.dtype).expect("memory");
        gpu().copy(self.slice(), buffer.slice(1, self.values.len(), self.dtype)).expect("a copy");
        DeviceArray { buffer, start: 1, values: self.values.clone(), ..*self }
    }

    /// Array for results, filled with NaN.
    fn empty(len: usize, dtype: DType) -> DeviceArray {
        DeviceArray::new(vec![f64::NAN; len], dtype)
    }

    fn slice(&self) -> DeviceSlice<'_> {
        self.buffer.slice(self.start, self.values.len(), self.dtype)
    }

    /// Current values on the device.
    fn to_host(&self) -> Vec<f64> {
        fn wide<T: Element>(bytes: &[u8]) -> Vec<f64> {
            bytes
                .chunks_exact(size_of::<T>())
                .map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f64())
                .collect()
        }
        let mut bytes = vec![0; self.values.len() * self.dtype.size()];
        gpu().download(self.slice(), &mut bytes).expect("a copy");
        match self.dtype {
            DType::F16 => wide::<f16>(&bytes),
            DType::BF16 => wide::<bf16>(&bytes),
            DType::I64 => wide::<i64>(&bytes),
            DType::U8 => wide::<u8>(&bytes),
            _ => wide::<f32>(&bytes),
        }
    }

    /// Asserts that the values are `expected`, within a few roundings of the dtype at the magnitude of the largest element.
    #[track_caller]
    fn assert_close(&self, expected: &[f64], what: &str) {
        let largest = expected.iter().filter(|v| v.is_finite()).fold(1e-3f64, |m, v| m.max(v.abs()));
        let tolerance = largest
            * match self.dtype {
                DType::F16 => 2e-3,
                DType::BF16 => 1.6e-2,
                _ => 2e-5,
            };
        let actual = self.to_host();
        assert_eq!(actual.len(), expected.len(), "{what}");
        for (i, (got, want)) in actual.iter().zip(expected).enumerate() {
            let same = got == want || (got.is_nan() && want.is_nan());
            assert!(
                same || (got - want).abs() <= tolerance,
                "{what} {}: element {i} is {got}, not {want}",
                self.dtype
            );
        }
    }
}
