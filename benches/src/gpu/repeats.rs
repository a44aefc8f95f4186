//! Repeats of the convolutions of ResNet-50 that cuDNN fuses with the sums of their output: the same operands must give the same bits.
use super::operations::random;
use super::{ProblemSize, StepRow};
use crate::networks::{Network, distinct_convolutions};
use fornax_engine::{Activation, BatchNorm, Conv2dOptions, DType, Device, Result, Tensor};

/// Number of runs of each convolution.
const REPEATS: usize = 20;

/// Name of each convolution in f16 and bf16, and the number of its repeats whose statistics differ from the first run's.
pub fn differing_repeats(
    device: &Device,
    size: ProblemSize,
) -> impl Iterator<Item = (String, Result<usize>)> {
    let sites =
        distinct_convolutions(Network::Resnet50).into_iter().filter(|site| site.c_in.is_multiple_of(8));
    let images = StepRow::all(size)[0].images;
    let device = *device;
    sites.take(size.pick(usize::MAX, 2)).flat_map(move |site| {
        [DType::F16, DType::BF16].map(|dtype| {
            let h = size.pick(site.size, 8);
            let shape = [images, h, h, site.c_in];
            let weight = [site.c_out, site.kernel, site.kernel, site.c_in];
            let options = Conv2dOptions {
                stride: [site.stride; 2],
                padding: [site.kernel / 2; 2],
                ..Conv2dOptions::default()
            };
            let (c_in, c_out, kernel, stride) = (site.c_in, site.c_out, site.kernel, site.stride);
            let name = format!("sums/{images}x{h}x{h}x{c_in}-{c_out}k{kernel}s{stride}/{dtype}");
            (name, count_differences(&shape, &weight, &options, dtype, &device))
        })
    })
}

fn count_differences(
    shape: &[usize],
    weight: &[usize],
    options: &Conv2dOptions,
    dtype: DType,
    device: &Device,
) -> Result<usize> {
    let (x, w) = (random(shape, dtype, device)?, random(weight, dtype, device)?.mul_scalar(0.05)?);
    let run = || -> Result<[Vec<f32>; 2]> {
        let [mean, var] = [0; 2].map(|_| Tensor::zeros([weight[0]], DType::F32, device));
        let (mean, var) = (mean?, var?);
        let norm = BatchNorm { running: Some((&mean, &var)), training: true, ..BatchNorm::default() };
        x.conv2d_batch_norm_act(&w, options, &norm, Activation::Identity, None)?;
        Ok([mean.to_vec()?, var.to_vec()?])
    };
    let bits = |values: [Vec<f32>; 2]| values.map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    let first = bits(run()?);
    let mut differing = 0;
    for _ in 1..REPEATS {
        differing += usize::from(bits(run()?) != first);
    }
    Ok(differing)
}
