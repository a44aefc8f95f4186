//! Convolutions: small ones of every kind, and those of the benchmarked networks.
use super::Case;
use super::case::{Input, Values, x};
use fornax_engine::{
    Activation, BatchNorm, Conv2dOptions, ConvAlgorithm, ConvBatchNorm, ConvShape, Pool2dOptions,
};

pub(super) fn rows(rows: &mut Vec<Case>) {
    let plain = ConvShape {
        n: 2,
        h: 5,
        w: 7,
        c_in: 4,
        c_out: 6,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
        algorithm: ConvAlgorithm::Auto,
    };
    let small = [
        ("3x3", plain),
        ("3x3s2", ConvShape { stride: [2, 2], ..plain }),
        ("1x1", ConvShape { kernel: [1, 1], padding: [0, 0], ..plain }),
        ("1x1s2", ConvShape { kernel: [1, 1], padding: [0, 0], stride: [2, 2], ..plain }),
        ("rectangular", ConvShape { kernel: [1, 3], padding: [0, 1], stride: [2, 1], ..plain }),
        ("dilated", ConvShape { dilation: [2, 2], padding: [2, 2], ..plain }),
        ("grouped", ConvShape { groups: 2, ..plain }),
        ("depthwise", ConvShape { groups: 4, c_out: 4, ..plain }),
        (
            "depthwise-5x5s2",
            ConvShape { groups: 4, c_out: 4, kernel: [5, 5], padding: [2, 2], stride: [2, 2], ..plain },
        ),
        ("multiplier", ConvShape { groups: 4, c_out: 8, ..plain }),
        ("patches", ConvShape { h: 8, w: 8, kernel: [4, 4], padding: [0, 0], stride: [4, 4], ..plain }),
    ];
    for (variant, shape) in small {
        rows.push(conv(variant.into(), shape, true));
        rows.push(conv(format!("{variant}-no-bias"), shape, false));
    }
    // Channels in multiples of 8, for which cuDNN computes the statistics, and others.
    for (variant, c_in, c_out, residual) in
        [("relu", 8, 16, false), ("residual", 8, 8, true), ("odd-channels", 4, 6, false)]
    {
        rows.push(conv_norm(variant, ConvShape { c_in, c_out, ..plain }, residual));
    }
    for (variant, c_in, c_out) in [("packs", 8, 16), ("odd-channels", 4, 6)] {
        rows.push(conv_norm_pair(variant, ConvShape { c_in, c_out, ..plain }));
    }
    for (variant, channels) in [("packs", 16), ("odd-channels", 6)] {
        rows.push(conv_norm_pool(variant, channels));
    }
    rows.push(residual_block_end());
    for shape in large() {
        rows.push(conv(shape_name(&shape), shape, false).large());
    }
}

/// The convolutions of the benchmarked networks.
fn large() -> Vec<ConvShape> {
    let square = |kernel: usize, c_in: usize, c_out: usize, plane: usize, n: usize| ConvShape {
        n,
        h: plane,
        w: plane,
        c_in,
        c_out,
        kernel: [kernel; 2],
        stride: [1; 2],
        padding: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
        algorithm: ConvAlgorithm::Auto,
    };
    let strided = |shape| ConvShape { stride: [2; 2], ..shape };
    let grouped = |shape, groups| ConvShape { groups, ..shape };
    vec![
        strided(square(7, 3, 64, 224, 16)),
        square(3, 64, 64, 56, 16),
        square(3, 128, 128, 28, 16),
        square(3, 256, 256, 14, 16),
        square(3, 512, 512, 7, 16),
        strided(square(3, 64, 128, 56, 16)),
        square(1, 256, 64, 56, 16),
        square(1, 64, 256, 56, 16),
        strided(square(1, 64, 128, 56, 16)),
        square(3, 1, 32, 28, 256),
        strided(square(3, 32, 64, 28, 256)),
        strided(square(3, 64, 128, 14, 256)),
        square(3, 64, 64, 32, 64),
        square(3, 128, 128, 16, 64),
        square(3, 256, 256, 8, 64),
        square(3, 512, 512, 4, 64),
        square(1, 24, 144, 56, 16),
        square(1, 960, 160, 7, 16),
        grouped(square(3, 32, 32, 112, 16), 32),
        strided(grouped(square(3, 96, 96, 112, 16), 96)),
        grouped(square(3, 144, 144, 56, 16), 144),
        grouped(square(3, 960, 960, 7, 16), 960),
        grouped(square(3, 128, 128, 28, 16), 4),
    ]
}

fn conv(variant: String, s: ConvShape, bias: bool) -> Case {
    let mut inputs = vec![x(&[s.n, s.h, s.w, s.c_in]), x(&[s.c_out, s.kernel[0], s.kernel[1], s.group_in()])];
    if bias {
        inputs.push(x(&[s.c_out]));
    }
    let ConvShape { stride, padding, dilation, groups, algorithm, .. } = s;
    let options = Conv2dOptions { stride, padding, dilation, groups, algorithm };
    Case::new("conv2d", variant, inputs, move |t| t[0].conv2d(&t[1], t.get(2), &options))
        .with_option("stride", s.stride[0] as f64)
        .with_option("padding", s.padding[0] as f64)
        .with_option("groups", s.groups as f64)
}

/// Convolution, batch norm in training, residual and activation as one operation.
fn conv_norm(variant: &str, s: ConvShape, residual: bool) -> Case {
    let weight = x(&[s.c_out, s.kernel[0], s.kernel[1], s.group_in()]);
    let mut inputs = vec![x(&[s.n, s.h, s.w, s.c_in]), weight, x(&[s.c_out]), x(&[s.c_out])];
    if residual {
        inputs.push(x(&[s.n, s.out_h(), s.out_w(), s.c_out]));
    }
    let ConvShape { stride, padding, dilation, groups, algorithm, .. } = s;
    let options = Conv2dOptions { stride, padding, dilation, groups, algorithm };
    Case::new("conv2d-batch-norm", variant, inputs, move |t| {
        let norm = BatchNorm {
            weight: Some(&t[2]),
            bias: Some(&t[3]),
            training: true,
            eps: 1e-3,
            ..BatchNorm::default()
        };
        // SiLU is smooth: with a kink, a rounding of the convolution could change a gradient by a jump.
        t[0].conv2d_batch_norm_act(&t[1], &options, &norm, Activation::Silu, t.get(4))
    })
}

/// ReLU of the sum of two convolutions with batch norm in training, the second with a 1x1 kernel.
fn conv_norm_pair(variant: &str, s: ConvShape) -> Case {
    let image = x(&[s.n, s.h, s.w, s.c_in]);
    let (weight, shortcut) = (x(&[s.c_out, s.kernel[0], s.kernel[1], s.c_in]), x(&[s.c_out, 1, 1, s.c_in]));
    let vector = || x(&[s.c_out]);
    // Far from the kinks: a rounding of a convolution could change a gradient by a jump.
    let offset = || Input { values: Values::Positive, ..x(&[s.c_out]) };
    let inputs = vec![image, weight, vector(), offset(), shortcut, vector(), offset()];
    let options = Conv2dOptions { stride: s.stride, padding: s.padding, ..Conv2dOptions::default() };
    let of_shortcut = Conv2dOptions { padding: [0, 0], ..options };
    Case::new("conv2d-batch-norm-pair", variant, inputs, move |t| {
        let norm = |weight, bias| BatchNorm {
            weight: Some(weight),
            bias: Some(bias),
            training: true,
            eps: 1e-3,
            ..BatchNorm::default()
        };
        let scaled = [t[2].mul_scalar(0.0625)?, t[5].mul_scalar(0.0625)?];
        let shortcut =
            ConvBatchNorm { x: &t[0], weight: &t[4], options: of_shortcut, norm: norm(&scaled[1], &t[6]) };
        ConvBatchNorm { x: &t[0], weight: &t[1], options, norm: norm(&scaled[0], &t[3]) }.add_relu(&shortcut)
    })
}

/// Convolution, batch norm in training and max pooling as one operation. Pixels that are distinct must stay so when they are rounded, since
/// a tie would change gradients by a jump: hence a 1x1 kernel, positive weights and a small bias. With a small eps the norm would not depend
/// on the scale of a channel, and the gradient of its weight would be a small difference of large sums.
fn conv_norm_pool(variant: &str, channels: usize) -> Case {
    let positive = |shape: &[usize]| Input { values: Values::Positive, ..x(shape) };
    let image = Input { values: Values::Distinct, ..x(&[2, 7, 5, 1]) };
    let pool = Pool2dOptions { kernel: [3, 3], padding: [1, 1], ..Pool2dOptions::default() };
    let inputs = vec![image, positive(&[channels, 1, 1, 1]), positive(&[channels]), x(&[channels])];
    Case::new("conv2d-batch-norm-max-pool", variant, inputs, move |t| {
        let bias = t[3].mul_scalar(0.125)?;
        let norm = BatchNorm {
            weight: Some(&t[2]),
            bias: Some(&bias),
            training: true,
            eps: 1.0,
            ..BatchNorm::default()
        };
        let options = Conv2dOptions::default();
        ConvBatchNorm { x: &t[0], weight: &t[1], options, norm }.act_max_pool(Activation::Identity, &pool)
    })
}

/// The end of a residual block, and the 1x1 convolution and the skip connection that read its output.
fn residual_block_end() -> Case {
    let image = || x(&[2, 5, 7, 16]);
    let positive = |shape: &[usize]| Input { values: Values::Positive, ..x(shape) };
    // Far from the kinks, as in `conv_norm_pair`.
    let inputs = vec![image(), positive(&[2, 5, 7, 16]), x(&[16]), positive(&[16]), x(&[16, 1, 1, 16])];
    Case::new("residual-block-end", "packs", inputs, move |t| {
        let weight = t[2].mul_scalar(0.0625)?;
        let norm = BatchNorm {
            weight: Some(&weight),
            bias: Some(&t[3]),
            training: true,
            eps: 1e-3,
            ..BatchNorm::default()
        };
        let y = t[0].batch_norm_act(&norm, Activation::Relu, Some(&t[1]))?;
        y.conv2d(&t[4], None, &Conv2dOptions::default())?.add(&y)
    })
}

fn shape_name(s: &ConvShape) -> String {
    let stride = if s.stride == [1, 1] { String::new() } else { format!("s{}", s.stride[0]) };
    let groups = match s.groups {
        1 => String::new(),
        _ if s.is_depthwise() => "-depthwise".into(),
        g => format!("-g{g}"),
    };
    format!(
        "{}x{}{stride}{groups}-{}to{}-{}x{}-b{}",
        s.kernel[0], s.kernel[1], s.c_in, s.c_out, s.h, s.w, s.n
    )
}
