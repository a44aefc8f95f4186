//! Layers.
use fornax_engine::{DType, Result, Tensor};

mod activate;
mod attention;
mod batch_norm;
mod conv2d;
mod dropout;
mod head;
mod layer_norm;
mod linear;
mod mlp;
mod pool;
mod sequential;
pub mod squeeze_excite;

pub use activate::Activate;
pub use attention::Attention;
pub use batch_norm::{BatchNorm2d, BatchNormOptions};
pub use conv2d::Conv2d;
pub use dropout::{DropBlock, DropPath, Dropout};
pub use head::ClassifierHead;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use mlp::{ConvMlp, Mlp};
pub use pool::{AvgPool2d, MaxPool2d, SelectAdaptivePool2d};
pub use sequential::Sequential;
pub use squeeze_excite::SqueezeExcite;

/// Parameter in `dtype`: the cached low-precision cast for f16 and bf16, otherwise a conversion.
pub(crate) fn in_dtype(parameter: &Tensor, dtype: DType) -> Result<Tensor> {
    match dtype {
        DType::F16 | DType::BF16 => parameter.cached_cast(dtype),
        _ => parameter.to_dtype(dtype),
    }
}
