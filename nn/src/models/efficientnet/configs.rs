//! Configurations of EfficientNet, MobileNetV2 and MobileNetV3.
use super::{BlockGroup, BlockType, EfficientNetConfig};
use crate::models::registry::{Family, ModelInfo, PretrainedCfg};
use fornax_engine::Activation;

/// Depthwise separable blocks: timm's `ds`.
const fn ds(repeats: usize, kernel: usize, stride: usize, channels: usize) -> BlockGroup {
    BlockGroup { kind: BlockType::DepthwiseSeparable, ..ir(repeats, kernel, stride, 1.0, channels) }
}

/// Inverted residual blocks: timm's `ir`.
const fn ir(repeats: usize, kernel: usize, stride: usize, expand: f64, channels: usize) -> BlockGroup {
    let kind = BlockType::InvertedResidual;
    BlockGroup { kind, repeats, kernel, stride, expand, channels, squeeze_excite: false, relu: false }
}

/// 1×1 convolution: timm's `cn`.
const fn cn(channels: usize) -> BlockGroup {
    BlockGroup { kind: BlockType::ConvBnAct, ..ir(1, 1, 1, 1.0, channels) }
}

impl BlockGroup {
    const fn se(self) -> BlockGroup {
        BlockGroup { squeeze_excite: true, ..self }
    }

    const fn re(self) -> BlockGroup {
        BlockGroup { relu: true, ..self }
    }
}

const MOBILENET_V2: EfficientNetConfig = EfficientNetConfig {
    stages: &[
        &[ds(1, 3, 1, 16)],
        &[ir(2, 3, 2, 6.0, 24)],
        &[ir(3, 3, 2, 6.0, 32)],
        &[ir(4, 3, 2, 6.0, 64)],
        &[ir(3, 3, 1, 6.0, 96)],
        &[ir(3, 3, 2, 6.0, 160)],
        &[ir(1, 3, 1, 6.0, 320)],
    ],
    stem: 32,
    features: 1280,
    pools_first: false,
    width: 1.0,
    depth: 1.0,
    activation: Activation::Relu6,
};

const MOBILENET_V3_LARGE: EfficientNetConfig = EfficientNetConfig {
    stages: &[
        &[ds(1, 3, 1, 16).re()],
        &[ir(1, 3, 2, 4.0, 24).re(), ir(1, 3, 1, 3.0, 24).re()],
        &[ir(3, 5, 2, 3.0, 40).se().re()],
        &[ir(1, 3, 2, 6.0, 80), ir(1, 3, 1, 2.5, 80), ir(2, 3, 1, 2.3, 80)],
        &[ir(2, 3, 1, 6.0, 112).se()],
        &[ir(3, 5, 2, 6.0, 160).se()],
        &[cn(960)],
    ],
    stem: 16,
    pools_first: true,
    activation: Activation::HardSwish,
    ..MOBILENET_V2
};

const MOBILENET_V3_SMALL: EfficientNetConfig = EfficientNetConfig {
    stages: &[
        &[ds(1, 3, 2, 16).se().re()],
        &[ir(1, 3, 2, 4.5, 24).re(), ir(1, 3, 1, 3.67, 24).re()],
        &[ir(1, 5, 2, 4.0, 40).se(), ir(2, 5, 1, 6.0, 40).se()],
        &[ir(2, 5, 1, 3.0, 48).se()],
        &[ir(3, 5, 2, 6.0, 96).se()],
        &[cn(576)],
    ],
    features: 1024,
    ..MOBILENET_V3_LARGE
};

const B0: EfficientNetConfig = EfficientNetConfig {
    stages: &[
        &[ds(1, 3, 1, 16).se()],
        &[ir(2, 3, 2, 6.0, 24).se()],
        &[ir(2, 5, 2, 6.0, 40).se()],
        &[ir(3, 3, 2, 6.0, 80).se()],
        &[ir(3, 5, 1, 6.0, 112).se()],
        &[ir(4, 5, 2, 6.0, 192).se()],
        &[ir(1, 3, 1, 6.0, 320).se()],
    ],
    activation: Activation::Silu,
    ..MOBILENET_V2
};

const fn scaled(width: f64, depth: f64) -> EfficientNetConfig {
    EfficientNetConfig { width, depth, ..B0 }
}

const DATA: PretrainedCfg =
    PretrainedCfg { first_conv: "conv_stem", classifier: "classifier", ..PretrainedCfg::IMAGENET };

const fn tag(tag: &'static str, data: PretrainedCfg) -> PretrainedCfg {
    PretrainedCfg { tag: Some(tag), ..data }
}

/// Trained at one size, evaluated at another one on the whole image.
const fn sizes(train: usize, test: usize, pool: usize) -> PretrainedCfg {
    PretrainedCfg {
        input_size: [train, train],
        test_input_size: Some([test, test]),
        test_crop_pct: Some(1.0),
        pool_size: Some([pool, pool]),
        ..DATA
    }
}

const fn model(
    name: &'static str,
    about: &'static str,
    config: &'static EfficientNetConfig,
    data: PretrainedCfg,
) -> ModelInfo {
    ModelInfo { name, description: about, family: Family::EfficientNet(config), pretrained_cfg: data }
}

/// All EfficientNet, MobileNetV2 and MobileNetV3 models.
pub(crate) const MODELS: &[ModelInfo] = &[
    model("mobilenetv2_100", "MobileNetV2", &MOBILENET_V2, tag("ra_in1k", DATA)),
    model("mobilenetv3_large_100", "MobileNetV3 large", &MOBILENET_V3_LARGE, tag("ra_in1k", DATA)),
    model("mobilenetv3_small_100", "MobileNetV3 small", &MOBILENET_V3_SMALL, tag("lamb_in1k", DATA)),
    model("efficientnet_b0", "EfficientNet-B0", &B0, tag("ra_in1k", DATA)),
    model(
        "efficientnet_b1",
        "EfficientNet-B1",
        &scaled(1.0, 1.1),
        tag(
            "ra4_e3600_r240_in1k",
            PretrainedCfg { crop_pct: 0.9, mean: [0.5; 3], std: [0.5; 3], ..sizes(240, 288, 8) },
        ),
    ),
    model("efficientnet_b2", "EfficientNet-B2", &scaled(1.1, 1.2), tag("ra_in1k", sizes(256, 288, 8))),
    model("efficientnet_b3", "EfficientNet-B3", &scaled(1.2, 1.4), tag("ra2_in1k", sizes(288, 320, 9))),
    model("efficientnet_b4", "EfficientNet-B4", &scaled(1.4, 1.8), tag("ra2_in1k", sizes(320, 384, 10))),
];
