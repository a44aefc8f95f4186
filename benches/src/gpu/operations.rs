//! Operations, fused and as compositions of single operations.
use super::{GpuRow, ProblemSize, Variant};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{
    Activation, BatchNorm, Conv2dOptions, ConvBatchNorm, DType, Device, EraseMode, ImageBox, ImageChange,
    ImagePreparation, Pool2dOptions, Result, Tensor, fuse,
};

/// All rows, forward alone and forward with backward.
pub fn rows(size: ProblemSize) -> Vec<GpuRow> {
    let mut rows = vec![copy(size)];
    for dtype in [DType::F16, DType::BF16] {
        rows.push(prepare(size.pick(256, 2), size.pick(224, 6), dtype));
        for [h, c] in [[56, 64], [28, 512], [14, 1024], [7, 2048]] {
            for residual in [false, true] {
                for backward in [false, true] {
                    let shape = [size.pick(256, 2), size.pick(h, 3), size.pick(h, 3), c];
                    rows.push(batch_norm(shape, dtype, residual, backward));
                }
            }
        }
        for backward in [false, true] {
            rows.push(pooled_stem(size.pick(256, 2), size.pick(224, 8), dtype, backward));
            rows.push(cross_entropy(size.pick(1024, 4), dtype, backward));
            rows.push(activation(size.pick(256, 1), dtype, backward));
            rows.push(expression(size.pick(256, 1), dtype, backward));
            rows.push(mlp(size.pick(256 * 196, 4), dtype, backward));
        }
    }
    rows
}

/// Copy within device memory, the maximum bandwidth.
fn copy(size: ProblemSize) -> GpuRow {
    let n = size.pick(256 << 20, 1 << 10);
    GpuRow {
        name: "copy/1GiB".into(),
        bytes: 8 * n,
        prepare: Box::new(move |device| {
            let [from, to] =
                [Tensor::zeros([n], DType::F32, device)?, Tensor::zeros([n], DType::F32, device)?];
            let variant: Variant = Box::new(move || to.copy_from(&from));
            Ok(vec![("fused", variant)])
        }),
    }
}

fn batch_norm(shape: [usize; 4], dtype: DType, residual: bool, backward: bool) -> GpuRow {
    let [n, h, w, c] = shape;
    let size = n * h * w * c * dtype.size();
    // Forward: x twice, the residual, y. Backward: x and dy twice, dx, and the residual's gradient, which the second pass reads in place of
    // dy. Masks, a sixteenth of x, are not counted.
    let forward = 3 + usize::from(residual);
    let passes = forward + if backward { 5 + usize::from(residual) } else { 0 };
    let add = if residual { "_add" } else { "" };
    let name = format!("batch_norm{add}_relu/{n}x{h}x{h}x{c}/{dtype}/{}", direction(backward));
    let prepare = move |device: &Device| {
        let x = random(&shape, dtype, device)?.variable();
        let r = residual.then(|| random(&shape, dtype, device).map(|t| t.variable())).transpose()?;
        let dy = random(&shape, dtype, device)?;
        let vector = |value| Tensor::full([c], value, DType::F32, device);
        let (weight, bias) = (vector(1.0)?.variable(), vector(0.5)?.variable());
        let (mean, var) = (vector(0.0)?, vector(1.0)?);
        let variant = |fused: bool| -> Variant {
            let (x, r, dy) = (x.clone(), r.clone(), dy.clone());
            let (weight, bias, mean, var) = (weight.clone(), bias.clone(), mean.clone(), var.clone());
            Box::new(move || {
                let norm = BatchNorm {
                    weight: Some(&weight),
                    bias: Some(&bias),
                    running: Some((&mean, &var)),
                    training: true,
                    momentum: 0.1,
                    eps: 1e-5,
                    ..BatchNorm::default()
                };
                let y = match (fused, &r) {
                    (true, r) => x.batch_norm_act(&norm, Activation::Relu, r.as_ref())?,
                    (false, Some(r)) => x.batch_norm(&norm)?.add(r)?.relu()?,
                    (false, None) => x.batch_norm(&norm)?.relu()?,
                };
                if backward {
                    y.backward_from(&dy)?;
                    [Some(&x), r.as_ref(), Some(&weight), Some(&bias)]
                        .into_iter()
                        .flatten()
                        .for_each(Tensor::zero_grad);
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    GpuRow { name, bytes: passes * size, prepare: Box::new(prepare) }
}

/// Stem of ResNet: convolution, batch norm, ReLU and max pooling.
fn pooled_stem(n: usize, size: usize, dtype: DType, backward: bool) -> GpuRow {
    const C: usize = 64;
    let (images, conv, pooled) = (n * size * size * 3, n * (size / 2).pow(2) * C, n * (size / 4).pow(2) * C);
    // Forward: images, the convolution's output three times, the maxima and their indices. Backward: both passes read the convolution's
    // output and the maxima's gradients and indices, the second writes the gradient, which the weight gradient reads with the images.
    let forward = (images + 3 * conv + pooled) * dtype.size() + pooled;
    let of_backward = (images + 4 * conv + 2 * pooled) * dtype.size() + 2 * pooled;
    let name = format!("pooled_stem/{n}x{size}x{size}x3/{dtype}/{}", direction(backward));
    let prepare = move |device: &Device| {
        let x = random(&[n, size, size, 3], dtype, device)?;
        let weight = random(&[C, 7, 7, 3], dtype, device)?.variable();
        let dy = random(&[n, size / 4, size / 4, C], dtype, device)?;
        let vector = |value| Tensor::full([C], value, DType::F32, device);
        let (scale, bias) = (vector(1.0)?.variable(), vector(0.5)?.variable());
        let (mean, var) = (vector(0.0)?, vector(1.0)?);
        let variant = |fused: bool| -> Variant {
            let (x, weight, dy) = (x.clone(), weight.clone(), dy.clone());
            let (scale, bias, mean, var) = (scale.clone(), bias.clone(), mean.clone(), var.clone());
            Box::new(move || {
                let norm = BatchNorm {
                    weight: Some(&scale),
                    bias: Some(&bias),
                    running: Some((&mean, &var)),
                    training: true,
                    momentum: 0.1,
                    eps: 1e-5,
                    ..BatchNorm::default()
                };
                let options = Conv2dOptions { stride: [2, 2], padding: [3, 3], ..Conv2dOptions::default() };
                let pool = Pool2dOptions { kernel: [3, 3], padding: [1, 1], ..Pool2dOptions::default() };
                let y = if fused {
                    let conv = ConvBatchNorm { x: &x, weight: &weight, options, norm };
                    conv.act_max_pool(Activation::Relu, &pool)?
                } else {
                    x.conv2d(&weight, None, &options)?.batch_norm(&norm)?.relu()?.max_pool2d(&pool)?
                };
                if backward {
                    y.backward_from(&dy)?;
                    [&weight, &scale, &bias].into_iter().for_each(Tensor::zero_grad);
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    GpuRow { name, bytes: forward + if backward { of_backward } else { 0 }, prepare: Box::new(prepare) }
}

/// Image preparation from bytes: mixup, normalisation and random erasing of a box.
fn prepare(n: usize, size: usize, dtype: DType) -> GpuRow {
    let shape = [n, size, size, 3];
    let elements: usize = shape.iter().product();
    let prepare = move |device: &Device| {
        let bytes: Vec<u8> = (0..elements).map(|i| (i * 7919 % 251) as u8).collect();
        let x = Tensor::from_vec(bytes, shape)?.to_device(device)?;
        let side = (size / 4) as u32;
        let change = |i: usize| ImageChange {
            partner: n - 1 - i,
            lam: 0.7,
            erase_boxes: vec![ImageBox { top: 0, bottom: side, left: 0, right: side }],
            ..ImageChange::none(i)
        };
        let rows = ImageChange::rows(&(0..n).map(change).collect::<Vec<_>>(), n, 1)?.to_device(device)?;
        let variant: Variant = Box::new(move || {
            let rng = RngStream::new(RngKey::new(0, "erase"), 0, 0);
            let (mean, std) = (&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]);
            let how =
                ImagePreparation { white: 255, mean, std, rounded: false, erase_mode: EraseMode::Const, rng };
            x.prepare_images(&rows, &how, dtype).map(drop)
        });
        Ok(vec![("fused", variant)])
    };
    let name = format!("prepare/{n}x{size}x{size}x3/{dtype}/forward");
    GpuRow { name, bytes: elements * (2 + dtype.size()), prepare: Box::new(prepare) }
}

fn cross_entropy(n: usize, dtype: DType, backward: bool) -> GpuRow {
    const CLASSES: usize = 1000;
    let prepare = move |device: &Device| {
        let x = random(&[n, CLASSES], dtype, device)?.variable();
        let classes: Vec<i64> = (0..n).map(|i| (i * 7919 % CLASSES) as i64).collect();
        let target = Tensor::from_vec(classes, [n])?.to_device(device)?;
        let one_hot = target.one_hot(CLASSES, 1.0, 0.0, DType::F32)?;
        let variant = |fused: bool| -> Variant {
            let (x, target, one_hot) = (x.clone(), target.clone(), one_hot.clone());
            Box::new(move || {
                let loss = if fused {
                    x.cross_entropy(&target, 0.1)?
                } else {
                    let log = x.to_dtype(DType::F32)?.log_softmax(1)?;
                    let nll = log.mul(&one_hot)?.sum_all()?.mul_scalar(-0.9 / n as f64)?;
                    nll.add(&log.sum_all()?.mul_scalar(-0.1 / (n * CLASSES) as f64)?)?
                };
                if backward {
                    // The upstream gradient's value does not matter.
                    loss.backward_from(&loss.detach())?;
                    x.zero_grad();
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    let passes = if backward { 3 } else { 1 };
    let name = format!("cross_entropy/{n}x{CLASSES}/{dtype}/{}", direction(backward));
    GpuRow { name, bytes: passes * n * CLASSES * dtype.size(), prepare: Box::new(prepare) }
}

fn activation(n: usize, dtype: DType, backward: bool) -> GpuRow {
    let shape = [n, 28, 28, 256];
    let bytes = shape.iter().product::<usize>() * dtype.size() * if backward { 5 } else { 2 };
    let prepare = move |device: &Device| {
        let (x, dy) = (random(&shape, dtype, device)?.variable(), random(&shape, dtype, device)?);
        let variant = |fused: bool| -> Variant {
            let (x, dy) = (x.clone(), dy.clone());
            Box::new(move || {
                let y = if fused { x.silu()? } else { x.mul(&x.sigmoid()?)? };
                if backward {
                    y.backward_from(&dy)?;
                    x.zero_grad();
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    let name = format!("silu/{n}x28x28x256/{dtype}/{}", direction(backward));
    GpuRow { name, bytes, prepare: Box::new(prepare) }
}

/// Fused expression `silu(x * scale + shift) + r`, with scale and shift by channel, as one generated kernel.
fn expression(n: usize, dtype: DType, backward: bool) -> GpuRow {
    let shape = [n, 28, 28, 256];
    // Forward: x, r, y. Backward: x, dy, dx; the gradient of r is dy itself, without a copy.
    let bytes = shape.iter().product::<usize>() * dtype.size() * if backward { 6 } else { 3 };
    let prepare = move |device: &Device| {
        let tensor = |shape: &[usize]| random(shape, dtype, device).map(|t| t.variable());
        let (x, r, dy) = (tensor(&shape)?, tensor(&shape)?, random(&shape, dtype, device)?);
        let (scale, shift) = (tensor(&[256])?, tensor(&[256])?);
        let fused = fuse::expression(|[x, scale, shift, r]| {
            let z = x * scale + shift;
            z * fuse::sigmoid(z) + r
        });
        let variant = |is_fused: bool| -> Variant {
            let (x, r, dy, scale, shift) = (x.clone(), r.clone(), dy.clone(), scale.clone(), shift.clone());
            let fused = fused.clone();
            Box::new(move || {
                let y = match is_fused {
                    true => fused.apply(&[&x, &scale, &shift, &r])?,
                    false => x.mul(&scale)?.add(&shift)?.silu()?.add(&r)?,
                };
                if backward {
                    y.backward_from(&dy)?;
                    [&x, &scale, &shift, &r].into_iter().for_each(Tensor::zero_grad);
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    let name = format!("expression/{n}x28x28x256/{dtype}/{}", direction(backward));
    GpuRow { name, bytes, prepare: Box::new(prepare) }
}

/// MLP of a vision transformer block: two linear layers with tanh-approximated GELU between them.
fn mlp(rows: usize, dtype: DType, backward: bool) -> GpuRow {
    const WIDTH: usize = 384;
    let prepare = move |device: &Device| {
        let tensor = |shape: &[usize]| random(shape, dtype, device)?.mul_scalar(0.05).map(|t| t.variable());
        let (x, dy) = (tensor(&[rows, WIDTH])?, random(&[rows, WIDTH], dtype, device)?);
        let parameters = [
            tensor(&[4 * WIDTH, WIDTH])?,
            tensor(&[4 * WIDTH])?,
            tensor(&[WIDTH, 4 * WIDTH])?,
            tensor(&[WIDTH])?,
        ];
        let variant = |fused: bool| -> Variant {
            let (x, dy, [w1, b1, w2, b2]) = (x.clone(), dy.clone(), parameters.clone());
            Box::new(move || {
                let gelu = Activation::GeluTanh;
                let y = match fused {
                    true => x.mlp((&w1, &b1), gelu, (&w2, &b2))?,
                    false => x.linear(&w1, Some(&b1))?.activate(gelu)?.linear(&w2, Some(&b2))?,
                };
                if backward {
                    y.backward_from(&dy)?;
                    [&x, &w1, &b1, &w2, &b2].into_iter().for_each(Tensor::zero_grad);
                }
                Ok(())
            })
        };
        Ok(vec![("fused", variant(true)), ("unfused", variant(false))])
    };
    let name = format!("mlp/{rows}x{WIDTH}/{dtype}/{}", direction(backward));
    GpuRow { name, bytes: 0, prepare: Box::new(prepare) }
}

fn direction(backward: bool) -> &'static str {
    if backward { "forward+backward" } else { "forward" }
}

pub(super) fn random(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    // The device repeats a sequence of random numbers.
    let mut rng = RngStream::new(RngKey::new(0, "rows"), 0, 0);
    let period: Vec<f32> = (0..n.min(65_521)).map(|_| rng.normal()).collect();
    let (len, repeats) = (period.len(), n.div_ceil(period.len()));
    let period = Tensor::from_vec(period, [1, len])?.to_device(device)?.to_dtype(dtype)?;
    period.expand([repeats, len])?.reshape([repeats * len])?.narrow(0, 0, n)?.reshape(shape)
}
