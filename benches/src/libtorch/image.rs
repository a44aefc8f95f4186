//! Activations, normalisations, pooling and interpolation in libtorch. Images are `[n, c, h, w]`.
use super::operation::OperationFn;
use fornax_tests::cases::Case;
use tch::{Kind, Tensor};

/// libtorch's counterpart of a case with one of these operations; constants equal the table's.
pub(super) fn counterpart(case: &Case) -> Option<OperationFn> {
    let variant = case.variant.as_str();
    match case.op {
        "activate" => Some(Box::new(activation(variant.trim_end_matches("-large"))?)),
        "batch_norm" => {
            let residual = variant.contains("residual");
            let activate = activation_in_place(variant.split('-').next()?)?;
            Some(Box::new(move |t| batch_norm(t, residual, activate)))
        }
        "layer_norm" => {
            Some(Box::new(|t| t[0].layer_norm(t[1].size(), Some(&t[1]), Some(&t[2]), 1e-6, false)))
        }
        "rms_norm" => Some(Box::new(|t| t[0].rms_norm(t[1].size(), Some(&t[1]), 1e-6))),
        "group_norm" => Some(Box::new(|t| t[0].group_norm(32, Some(&t[1]), Some(&t[2]), 1e-5, false))),
        "softmax" => Some(Box::new(|t| t[0].softmax(-1, Kind::Float))),
        "log_softmax" => Some(Box::new(|t| t[0].log_softmax(-1, Kind::Float))),
        "max_pool2d" => {
            let (kernel, stride, padding) = window(variant);
            Some(Box::new(move |t| t[0].max_pool2d(kernel, stride, padding, [1, 1], false)))
        }
        "avg_pool2d" => {
            let (kernel, stride, padding) = window(variant);
            Some(Box::new(move |t| t[0].avg_pool2d(kernel, stride, padding, false, true, None)))
        }
        "global_pool" => Some(Box::new(global_pool(variant.trim_end_matches("-large"))?)),
        "interpolate" => Some(Box::new(interpolation(variant.trim_end_matches("-large"))?)),
        _ => None,
    }
}

fn activation(name: &str) -> Option<fn(&[Tensor]) -> Tensor> {
    Some(match name {
        "relu" => |t| t[0].relu(),
        "relu6" => |t| t[0].relu6(),
        "silu" => |t| t[0].silu(),
        "gelu" => |t| t[0].gelu("none"),
        "gelu_tanh" => |t| t[0].gelu("tanh"),
        "quick_gelu" => |t| &t[0] * (&t[0] * 1.702).sigmoid(),
        "hardswish" => |t| t[0].hardswish(),
        "hardsigmoid" => |t| t[0].hardsigmoid(),
        "sigmoid" => |t| t[0].sigmoid(),
        "mish" => |t| t[0].mish(),
        "tanh" => |t| t[0].tanh(),
        // tch's leaky_relu has no negative_slope argument.
        "leaky_relu" => |t| t[0].prelu(&Tensor::from_slice(&[0.1f32])),
        "softplus" => |t| t[0].softplus(),
        "selu" => |t| t[0].selu(),
        "hardtanh" => |t| t[0].hardtanh(),
        "exp" => |t| t[0].exp(),
        _ => return None,
    })
}

/// In-place activation, as in timm's models.
fn activation_in_place(name: &str) -> Option<fn(Tensor) -> Tensor> {
    Some(match name {
        "relu" => |mut y| y.relu_(),
        "silu" => |mut y| y.silu_(),
        _ => return None,
    })
}

fn batch_norm(t: &[Tensor], residual: bool, activate: fn(Tensor) -> Tensor) -> Tensor {
    let none = None::<&Tensor>;
    let mut y = t[0].batch_norm(Some(&t[1]), Some(&t[2]), none, none, true, 0.1, 1e-5, false);
    if residual {
        y = y.g_add_(&t[3]);
    }
    activate(y)
}

/// Kernel, stride and padding of a pooling case.
fn window(variant: &str) -> ([i64; 2], [i64; 2], [i64; 2]) {
    if variant.starts_with("3x3s2p1") { ([3; 2], [2; 2], [1; 2]) } else { ([2; 2], [2; 2], [0; 2]) }
}

fn global_pool(name: &str) -> Option<fn(&[Tensor]) -> Tensor> {
    fn avg(x: &Tensor) -> Tensor {
        x.adaptive_avg_pool2d([1, 1]).flatten(1, -1)
    }
    fn max(x: &Tensor) -> Tensor {
        x.adaptive_max_pool2d([1, 1]).0.flatten(1, -1)
    }
    fn fast_avg(x: &Tensor) -> Tensor {
        x.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
    }
    fn fast_max(x: &Tensor) -> Tensor {
        x.amax([2, 3], false)
    }
    Some(match name {
        "avg" => |t| avg(&t[0]),
        "max" => |t| max(&t[0]),
        "avgmax" => |t| (avg(&t[0]) + max(&t[0])) * 0.5,
        "catavgmax" => |t| Tensor::cat(&[avg(&t[0]), max(&t[0])], 1),
        "fastmax" => |t| fast_max(&t[0]),
        "fastavgmax" => |t| (fast_avg(&t[0]) + fast_max(&t[0])) * 0.5,
        "fastcatavgmax" => |t| Tensor::cat(&[fast_avg(&t[0]), fast_max(&t[0])], 1),
        _ => return None,
    })
}

/// Interpolation to 56×56, twice the size of the table's images.
fn interpolation(name: &str) -> Option<fn(&[Tensor]) -> Tensor> {
    const SIZE: [i64; 2] = [56, 56];
    Some(match name {
        "nearest" => |t| t[0].upsample_nearest2d(SIZE, None, None),
        "bilinear" => |t| t[0].upsample_bilinear2d(SIZE, false, None, None),
        "bilinear-corners" => |t| t[0].upsample_bilinear2d(SIZE, true, None, None),
        "bilinear-antialias" => |t| t[0].internal_upsample_bilinear2d_aa(SIZE, false, None, None),
        "bicubic" => |t| t[0].upsample_bicubic2d(SIZE, false, None, None),
        "bicubic-corners" => |t| t[0].upsample_bicubic2d(SIZE, true, None, None),
        "bicubic-antialias" => |t| t[0].internal_upsample_bicubic2d_aa(SIZE, false, None, None),
        _ => return None,
    })
}
