//! Configurations of residual networks.
use super::{ResNetConfig, ResNetStem};
use crate::models::registry::{Family, ModelInfo, PretrainedCfg};

const BASIC: ResNetConfig<'static> = ResNetConfig::BASIC;
const R34: ResNetConfig<'static> = ResNetConfig { depths: &[3, 4, 6, 3], ..BASIC };
const R50: ResNetConfig<'static> = ResNetConfig { bottleneck: true, ..R34 };
const R101: ResNetConfig<'static> = ResNetConfig { depths: &[3, 4, 23, 3], ..R50 };
const R152: ResNetConfig<'static> = ResNetConfig { depths: &[3, 8, 36, 3], ..R50 };
const SMALL: ResNetConfig<'static> =
    ResNetConfig { stem: ResNetStem::Small, widths: &[16, 32, 64], depths: &[1, 1, 1], ..BASIC };

const fn d(config: ResNetConfig<'static>) -> ResNetConfig<'static> {
    ResNetConfig { stem: ResNetStem::Deep, average_down: true, ..config }
}

const fn model(
    name: &'static str,
    about: &'static str,
    config: &'static ResNetConfig<'static>,
    data: PretrainedCfg,
) -> ModelInfo {
    ModelInfo { name, description: about, family: Family::ResNet(config), pretrained_cfg: data }
}

/// Recipes of "ResNet strikes back" (2021), evaluated at 288 pixels.
const A1: PretrainedCfg = PretrainedCfg {
    test_input_size: Some([288, 288]),
    crop_pct: 0.95,
    test_crop_pct: Some(1.0),
    ..PretrainedCfg::IMAGENET
};
const D: PretrainedCfg = PretrainedCfg {
    test_input_size: Some([288, 288]),
    test_crop_pct: Some(0.95),
    first_conv: "conv1.0",
    ..PretrainedCfg::IMAGENET
};
const LARGE_D: PretrainedCfg = PretrainedCfg {
    input_size: [256, 256],
    test_input_size: Some([320, 320]),
    crop_pct: 0.95,
    test_crop_pct: Some(1.0),
    pool_size: Some([8, 8]),
    ..D
};
const CIFAR: PretrainedCfg = PretrainedCfg {
    input_size: [32, 32],
    pool_size: None,
    crop_pct: 1.0,
    num_classes: 10,
    ..PretrainedCfg::IMAGENET
};

const fn tag(data: PretrainedCfg, tag: &'static str) -> PretrainedCfg {
    PretrainedCfg { tag: Some(tag), ..data }
}

/// All residual networks.
pub(crate) const MODELS: &[ModelInfo] = &[
    model("resnet18", "ResNet-18", &BASIC, tag(A1, "a1_in1k")),
    model("resnet34", "ResNet-34", &R34, tag(A1, "a1_in1k")),
    model("resnet50", "ResNet-50, stride in the 3x3 convolution", &R50, tag(A1, "a1_in1k")),
    model("resnet101", "ResNet-101", &R101, tag(A1, "a1h_in1k")),
    model("resnet152", "ResNet-152", &R152, tag(A1, "a1h_in1k")),
    model("resnet18d", "ResNet-18-D: deep stem, averaging shortcuts", &d(BASIC), tag(D, "ra2_in1k")),
    model("resnet34d", "ResNet-34-D", &d(R34), tag(D, "ra2_in1k")),
    model("resnet50d", "ResNet-50-D", &d(R50), tag(D, "ra2_in1k")),
    model("resnet101d", "ResNet-101-D", &d(R101), tag(LARGE_D, "ra2_in1k")),
    model("resnet152d", "ResNet-152-D", &d(R152), tag(LARGE_D, "ra2_in1k")),
    model(
        "resnext50_32x4d",
        "ResNeXt-50: 32 groups of 4 channels",
        &ResNetConfig { groups: 32, group_width: 4, ..R50 },
        tag(A1, "a1h_in1k"),
    ),
    model(
        "seresnet50",
        "ResNet-50 with squeeze and excitation",
        &ResNetConfig { squeeze_excite: true, ..R50 },
        tag(A1, "a1_in1k"),
    ),
    model(
        "wide_resnet50_2",
        "ResNet-50 with twice the channels within blocks",
        &ResNetConfig { group_width: 128, ..R50 },
        tag(PretrainedCfg { first_conv: "conv1", ..D }, "racm_in1k"),
    ),
    model("resnet8", "6n+2 layers, n = 1, widths 16-32-64: for 8 to 32 pixels", &SMALL, CIFAR),
    model(
        "wide_resnet8_2",
        "resnet8 with twice the channels",
        &ResNetConfig { widths: &[32, 64, 128], ..SMALL },
        CIFAR,
    ),
    model(
        "resnet20",
        "6n+2 layers, n = 3, widths 16-32-64: for 32 pixels",
        &ResNetConfig { depths: &[3, 3, 3], ..SMALL },
        CIFAR,
    ),
    model(
        "cifar_resnet18",
        "ResNet-18 with a 3x3 stem and no max pool: for 32 pixels",
        &ResNetConfig { stem: ResNetStem::Small, ..BASIC },
        CIFAR,
    ),
];
