//! Copies of many tensors in one.
mod cuda;

use crate::op::{check_device, launch};
use crate::{DType, Device, Error, Result, Tensor};

const OP: &str = "pack";

/// Writes `scale` times each source to the elements of `to` from its offset on, rounded to the dtype of `to`. Sources and `to` are f32, f16
/// or bf16. On a GPU this is one launch. The parts must not overlap; elements of `to` outside of them keep their values.
pub fn pack(sources: &[(&Tensor, usize)], scale: f32, to: &Tensor) -> Result<()> {
    let mut operands = vec![("to", to)];
    operands.extend(sources.iter().map(|(source, _)| ("source", *source)));
    if operands.iter().any(|(_, t)| !matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16)) {
        return Err(Error::dtype(OP, &operands, "f32, f16 or bf16"));
    }
    if sources.iter().any(|(source, offset)| offset + source.numel() > to.numel()) {
        return Err(Error::shape(OP, &operands, "a source ends after the last element of `to`"));
    }
    if check_device(OP, &operands)? == Device::Cpu {
        return sources.iter().try_for_each(|(source, offset)| {
            let source = source.detach().reshape([source.numel()])?.to_dtype(DType::F32)?;
            let scaled = if scale == 1.0 { source } else { source.mul_scalar(scale.into())? };
            to.narrow(0, *offset, scaled.numel())?.copy_from(&scaled.to_dtype(to.dtype())?)
        });
    }
    to.bump_version();
    launch(OP, &operands, |gpu, of| {
        let parts: Vec<_> =
            of[1..].iter().zip(sources).map(|(slice, (_, offset))| (*slice, *offset)).collect();
        cuda::pack(gpu, &parts, scale, of[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn sources_are_cast_scaled_and_placed() {
        // Lengths and offsets with and without alignment, and more sources than a launch takes.
        let lengths = [9000usize, 8, 5, 0, 4096, 3].into_iter().chain(std::iter::repeat_n(2, 600));
        let dtypes = [DType::F32, DType::F16, DType::BF16];
        let emulated = cfg!(feature = "cuda").then(|| Device::emulated(1).expect("g++ is installed"));
        let devices: Vec<Device> = [Device::Cpu].into_iter().chain(emulated).collect();
        for (to_dtype, scale) in dtypes.into_iter().zip([1.0, 1.0 / 3.0, 0.5]) {
            let results = devices.iter().map(|device| {
                let mut sources = vec![];
                let mut offset = 0;
                for (i, n) in lengths.clone().enumerate() {
                    let values: Vec<f32> =
                        (0..n).map(|k| ((i * 31 + k * 7919) % 513) as f32 / 64.0 - 4.0).collect();
                    let source = Tensor::from_vec(values, [n]).and_then(|t| t.to_dtype(dtypes[i % 3]));
                    sources.push((source.and_then(|t| t.to_device(device)).expect("memory"), offset));
                    offset += n + i % 4;
                }
                let to = Tensor::full([offset], 7.0, to_dtype, device).expect("memory");
                let all: Vec<(&Tensor, usize)> = sources.iter().map(|(t, offset)| (t, *offset)).collect();
                pack(&all, scale, &to).expect("they fit");
                for (source, offset) in &all {
                    let part = to.narrow(0, *offset, source.numel()).and_then(|t| t.to_dtype(DType::F32));
                    let [got, from] = [part.expect("a part"), source.to_dtype(DType::F32).expect("a cast")]
                        .map(|t| t.to_vec::<f32>().expect("f32"));
                    for (got, from) in got.iter().zip(from) {
                        assert!((got - scale * from).abs() <= 8e-3 * from.abs(), "{got} from {from}");
                    }
                }
                to.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("f32")
            });
            let results: Vec<Vec<f32>> = results.collect();
            assert!(results.iter().all(|result| *result == results[0]), "{to_dtype}");
            // Between the second and the third source, and after the third.
            assert_eq!([results[0][9008], results[0][9014]], [7.0, 7.0]);
        }
    }

    #[test]
    fn sources_that_do_not_fit_are_rejected() {
        let to = Tensor::zeros([4], DType::F32, &Device::Cpu).expect("memory");
        let [long, integers] = [(3, DType::F32), (1, DType::I64)]
            .map(|(n, dtype)| Tensor::zeros([n], dtype, &Device::Cpu).expect("memory"));
        assert!(pack(&[(&long, 2)], 1.0, &to).is_err());
        assert!(pack(&[(&integers, 0)], 1.0, &to).is_err());
    }
}
