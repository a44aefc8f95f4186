//! Networks of the step rows, as data: each side builds its layers from the same description.

/// Learning rate of the step and update rows; small, so that parameters and activations keep realistic values.
pub const LEARNING_RATE: f64 = 1e-3;

/// Layer or residual block.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerSpec {
    /// Convolution without bias, with a square kernel and padding `kernel / 2`.
    Conv {
        /// Input channels.
        c_in: usize,
        /// Output channels.
        c_out: usize,
        /// Kernel height and width.
        kernel: usize,
        /// Stride.
        stride: usize,
        /// Channel groups; `c_in` for depthwise.
        groups: usize,
    },
    /// Batch normalisation of the given channels, then the activation.
    BatchNorm(usize, Activation),
    /// `activation(batch_norm(body(x)) + shortcut(x))`; an empty shortcut is the identity.
    Residual {
        /// Layers before the last batch norm.
        body: Vec<LayerSpec>,
        /// Channels of the last batch norm, which adds the shortcut.
        channels: usize,
        /// Layers of the shortcut.
        shortcut: Vec<LayerSpec>,
        /// Activation after the addition.
        activation: Activation,
    },
    /// Max pooling, 3×3 windows, stride 2, padding 1.
    MaxPool,
    /// Average pooling, 2×2 windows, stride 2.
    AvgPool,
    /// Mean over height and width: `[n, h, w, c]` to `[n, c]`.
    GlobalPool,
    /// Fully connected layer with bias: input and output features.
    Linear(usize, usize),
}

/// Activation after a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// No activation.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

/// Network with the image size and batch size of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Three 3×3 convolutions on 28×28×1, batch 256.
    SmallCnn,
    /// ResNet-18 with a 3×3 stem on 32×32×3, batch 64.
    Resnet18Cifar,
    /// timm's `resnet18` at 224, batch 16.
    Resnet18,
    /// timm's `resnet50d` at 224, batch 8.
    Resnet50d,
    /// timm's `resnet50` at 224, batch 256; GPU rows only.
    Resnet50,
    /// timm's `mobilenetv2_100` at 224, batch 16.
    MobileNetV2,
}

impl Network {
    /// Networks of the CPU rows, in the order of the tables.
    pub const ALL: [Network; 5] = [
        Network::SmallCnn,
        Network::Resnet18Cifar,
        Network::Resnet18,
        Network::Resnet50d,
        Network::MobileNetV2,
    ];

    /// Name in row names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Network::SmallCnn => "small-cnn",
            Network::Resnet18Cifar => "resnet18-cifar",
            Network::Resnet18 => "resnet18",
            Network::Resnet50d => "resnet50d",
            Network::Resnet50 => "resnet50",
            Network::MobileNetV2 => "mobilenetv2_100",
        }
    }

    /// Shape of the batch, `[n, h, w, c]`.
    pub fn input(self) -> [usize; 4] {
        match self {
            Network::SmallCnn => [256, 28, 28, 1],
            Network::Resnet18Cifar => [64, 32, 32, 3],
            Network::Resnet18 | Network::MobileNetV2 => [16, 224, 224, 3],
            Network::Resnet50d => [8, 224, 224, 3],
            Network::Resnet50 => [256, 224, 224, 3],
        }
    }

    /// Number of classes.
    pub fn classes(self) -> usize {
        match self {
            Network::SmallCnn | Network::Resnet18Cifar => 10,
            _ => 1000,
        }
    }

    /// Layers, from input to output.
    pub fn layers(self) -> Vec<LayerSpec> {
        match self {
            Network::SmallCnn => small_cnn(),
            Network::Resnet18Cifar => resnet18(conv_bn(3, 64, 3, 1), self.classes()),
            Network::Resnet18 => {
                let mut stem = conv_bn(3, 64, 7, 2);
                stem.push(LayerSpec::MaxPool);
                resnet18(stem, self.classes())
            }
            Network::Resnet50d => resnet50d(),
            Network::Resnet50 => resnet50(),
            Network::MobileNetV2 => mobilenet_v2(),
        }
    }
}

/// Number of trainable parameters.
pub fn parameter_count(layers: &[LayerSpec]) -> usize {
    layers
        .iter()
        .map(|layer| match layer {
            LayerSpec::Conv { c_in, c_out, kernel, groups, .. } => c_out * kernel * kernel * (c_in / groups),
            LayerSpec::BatchNorm(channels, _) => 2 * channels,
            LayerSpec::Residual { body, channels, shortcut, .. } => {
                parameter_count(body) + 2 * channels + parameter_count(shortcut)
            }
            LayerSpec::Linear(inputs, outputs) => (inputs + 1) * outputs,
            LayerSpec::MaxPool | LayerSpec::AvgPool | LayerSpec::GlobalPool => 0,
        })
        .sum()
}

/// Convolution of a network with the height (and width) of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSite {
    /// Height and width of the input.
    pub size: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Channel groups.
    pub groups: usize,
}

/// Distinct convolutions of a network, in the order of their first use.
pub fn distinct_convolutions(network: Network) -> Vec<ConvSite> {
    let mut found: Vec<ConvSite> = vec![];
    visit_convolutions(&network.layers(), network.input()[1], &mut |site| {
        if !found.contains(&site) {
            found.push(site);
        }
    });
    found
}

/// FMAs of a training step's convolutions, computed directly: the forward pass and both gradients. The first convolution has no data
/// gradient.
pub fn convolution_fmas(network: Network) -> u64 {
    let [batch, height, ..] = network.input();
    let (mut fmas, mut passes) = (0, 2);
    visit_convolutions(&network.layers(), height, &mut |site| {
        let output = batch * site.size.div_ceil(site.stride).pow(2) * site.c_out;
        fmas += passes * (output * site.kernel.pow(2) * site.c_in / site.groups) as u64;
        passes = 3;
    });
    fmas
}

/// Calls `visit` for each convolution of layers whose input has this height; returns the height of the output.
fn visit_convolutions(layers: &[LayerSpec], size: usize, visit: &mut dyn FnMut(ConvSite)) -> usize {
    layers.iter().fold(size, |size, layer| match *layer {
        LayerSpec::Conv { c_in, c_out, kernel, stride, groups } => {
            visit(ConvSite { size, c_in, c_out, kernel, stride, groups });
            size.div_ceil(stride)
        }
        LayerSpec::Residual { ref body, ref shortcut, .. } => {
            visit_convolutions(shortcut, size, visit);
            visit_convolutions(body, size, visit)
        }
        LayerSpec::MaxPool => size.div_ceil(2),
        LayerSpec::AvgPool => size / 2,
        LayerSpec::GlobalPool => 1,
        LayerSpec::BatchNorm(..) | LayerSpec::Linear(..) => size,
    })
}

fn small_cnn() -> Vec<LayerSpec> {
    let mut layers = conv_bn(1, 32, 3, 1);
    layers.extend(conv_bn(32, 64, 3, 2));
    layers.extend(conv_bn(64, 128, 3, 2));
    layers.extend([LayerSpec::GlobalPool, LayerSpec::Linear(128, 10)]);
    layers
}

fn resnet18(stem: Vec<LayerSpec>, classes: usize) -> Vec<LayerSpec> {
    let mut layers = stem;
    let mut c_in = 64;
    for (stage, c_out) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut body = conv_bn(c_in, c_out, 3, stride);
            body.push(conv(c_out, c_out, 3, 1));
            let shortcut = if c_in == c_out {
                vec![]
            } else {
                vec![conv(c_in, c_out, 1, stride), LayerSpec::BatchNorm(c_out, Activation::Identity)]
            };
            layers.push(LayerSpec::Residual {
                body,
                channels: c_out,
                shortcut,
                activation: Activation::Relu,
            });
            c_in = c_out;
        }
    }
    layers.extend([LayerSpec::GlobalPool, LayerSpec::Linear(512, classes)]);
    layers
}

/// timm's `resnet50d`: a stem of three 3×3 convolutions, and 2×2 average pooling before a strided shortcut's 1×1 convolution.
fn resnet50d() -> Vec<LayerSpec> {
    let mut stem = conv_bn(3, 32, 3, 2);
    stem.extend(conv_bn(32, 32, 3, 1));
    stem.extend(conv_bn(32, 64, 3, 1));
    bottlenecks(stem, true)
}

/// timm's `resnet50`.
fn resnet50() -> Vec<LayerSpec> {
    bottlenecks(conv_bn(3, 64, 7, 2), false)
}

/// Stages of ResNet-50 after a stem. With `avg_down`, a strided shortcut is 2×2 average pooling and a 1×1 convolution, otherwise a strided
/// 1×1 convolution.
fn bottlenecks(stem: Vec<LayerSpec>, avg_down: bool) -> Vec<LayerSpec> {
    let mut layers = stem;
    layers.push(LayerSpec::MaxPool);
    let mut c_in = 64;
    for (stage, (width, blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
        let c_out = 4 * width;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut body = conv_bn(c_in, width, 1, 1);
            body.extend(conv_bn(width, width, 3, stride));
            body.push(conv(width, c_out, 1, 1));
            let mut shortcut = vec![];
            if stride == 2 && avg_down {
                shortcut.push(LayerSpec::AvgPool);
            }
            if block == 0 {
                shortcut.push(conv(c_in, c_out, 1, if avg_down { 1 } else { stride }));
                shortcut.push(LayerSpec::BatchNorm(c_out, Activation::Identity));
            }
            layers.push(LayerSpec::Residual {
                body,
                channels: c_out,
                shortcut,
                activation: Activation::Relu,
            });
            c_in = c_out;
        }
    }
    layers.extend([LayerSpec::GlobalPool, LayerSpec::Linear(2048, 1000)]);
    layers
}

/// timm's `mobilenetv2_100`: inverted residuals, no activation after the projection.
fn mobilenet_v2() -> Vec<LayerSpec> {
    let bn6 = |channels| LayerSpec::BatchNorm(channels, Activation::Relu6);
    let mut layers = vec![conv(3, 32, 3, 2), bn6(32)];
    let mut c_in = 32;
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expansion, c_out, blocks, first_stride) in stages {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let width = expansion * c_in;
            let mut body = if expansion > 1 { vec![conv(c_in, width, 1, 1), bn6(width)] } else { vec![] };
            body.push(LayerSpec::Conv { c_in: width, c_out: width, kernel: 3, stride, groups: width });
            body.extend([bn6(width), conv(width, c_out, 1, 1)]);
            if stride == 1 && c_in == c_out {
                let activation = Activation::Identity;
                layers.push(LayerSpec::Residual { body, channels: c_out, shortcut: vec![], activation });
            } else {
                layers.extend(body);
                layers.push(LayerSpec::BatchNorm(c_out, Activation::Identity));
            }
            c_in = c_out;
        }
    }
    layers.extend([conv(320, 1280, 1, 1), bn6(1280), LayerSpec::GlobalPool, LayerSpec::Linear(1280, 1000)]);
    layers
}

fn conv(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> LayerSpec {
    LayerSpec::Conv { c_in, c_out, kernel, stride, groups: 1 }
}

fn conv_bn(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Vec<LayerSpec> {
    vec![conv(c_in, c_out, kernel, stride), LayerSpec::BatchNorm(c_out, Activation::Relu)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_match_reference_models() {
        let counts = Network::ALL.map(|network| parameter_count(&network.layers()));
        assert_eq!(counts, [94_186, 11_173_962, 11_689_512, 25_576_264, 3_504_872]);
        assert_eq!(parameter_count(&Network::Resnet50.layers()), 25_557_032);
    }

    #[test]
    fn every_convolution_has_three_passes_but_the_first_two() {
        let [first, second, third] = [28 * 28 * 32 * 9, 14 * 14 * 64 * 9 * 32, 7 * 7 * 128 * 9 * 64];
        assert_eq!(convolution_fmas(Network::SmallCnn), 256 * (2 * first + 3 * (second + third)));
    }

    #[test]
    fn resnet50_has_23_distinct_convolutions() {
        let found = distinct_convolutions(Network::Resnet50);
        assert_eq!(found.len(), 23);
        let stem = ConvSite { size: 224, c_in: 3, c_out: 64, kernel: 7, stride: 2, groups: 1 };
        let last = ConvSite { size: 7, c_in: 512, c_out: 512, kernel: 3, stride: 1, groups: 1 };
        assert!(found[0] == stem && found.contains(&last), "{found:?}");
    }
}
