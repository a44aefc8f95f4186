//! The distinct convolutions of ResNet-50 at batch 256: forward, and with the gradient of the input or of the weight.
use super::operations::random;
use super::{GpuRow, ProblemSize, Variant};
use crate::networks::{ConvSite, Network, distinct_convolutions};
use fornax_engine::{Conv2dOptions, DType};

/// All rows in f16 and bf16.
pub fn rows(size: ProblemSize) -> Vec<GpuRow> {
    let mut rows = vec![];
    for dtype in [DType::F16, DType::BF16] {
        let sites = distinct_convolutions(Network::Resnet50);
        for site in sites.into_iter().take(size.pick(usize::MAX, 2)) {
            for pass in [ConvPass::Forward, ConvPass::WithInputGradient, ConvPass::WithWeightGradient] {
                rows.push(row(site, dtype, pass, size));
            }
        }
    }
    rows
}

/// Computation of a row. Gradients are timed together with the forward pass, as both libraries compute them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConvPass {
    Forward,
    WithInputGradient,
    WithWeightGradient,
}

fn row(site: ConvSite, dtype: DType, pass: ConvPass, size: ProblemSize) -> GpuRow {
    let ConvSite { c_in, c_out, kernel, stride, groups, .. } = site;
    let (n, h) = (size.pick(256, 1), size.pick(site.size, 8));
    let out = h.div_ceil(stride);
    let operands = n * h * h * c_in + c_out * kernel * kernel * (c_in / groups) + n * out * out * c_out;
    let (name, passes) = match pass {
        ConvPass::Forward => ("forward", 1),
        ConvPass::WithInputGradient => ("forward+input", 2),
        ConvPass::WithWeightGradient => ("forward+weight", 2),
    };
    let name = format!("conv/{n}x{h}x{h}x{c_in}-{c_out}k{kernel}s{stride}/{dtype}/{name}");
    GpuRow {
        name,
        bytes: passes * operands * dtype.size(),
        prepare: Box::new(move |device| {
            let x = random(&[n, h, h, c_in], dtype, device)?;
            let weight = random(&[c_out, kernel, kernel, c_in / groups], dtype, device)?.mul_scalar(0.05)?;
            let dy = random(&[n, out, out, c_out], dtype, device)?;
            let (x, weight) = match pass {
                ConvPass::Forward => (x, weight),
                ConvPass::WithInputGradient => (x.variable(), weight),
                ConvPass::WithWeightGradient => (x, weight.variable()),
            };
            let options = Conv2dOptions {
                stride: [stride; 2],
                padding: [kernel / 2; 2],
                groups,
                ..Conv2dOptions::default()
            };
            let variant: Variant = Box::new(move || {
                let y = x.conv2d(&weight, None, &options)?;
                if pass != ConvPass::Forward {
                    y.backward_from(&dy)?;
                    [&x, &weight].into_iter().for_each(|t| t.zero_grad());
                }
                Ok(())
            });
            Ok(vec![("fused", variant)])
        }),
    }
}
