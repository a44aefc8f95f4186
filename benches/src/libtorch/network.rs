//! Training steps of the networks, and optimizer updates of their parameters, in libtorch.
use super::{FLOAT, Layout, weighted_sum};
use crate::measure::{TimedRun, time};
use crate::networks::{Activation, LEARNING_RATE, LayerSpec, Network};
use crate::rows::Optimizer;
use fornax_engine::DType;
use tch::nn::{self, OptimizerConfig, VarStore};
use tch::{Kind, Reduction, Tensor};

/// Network with optimizer and one batch of random images.
pub struct TrainingStep {
    layout: Layout,
    layers: Vec<Layer>,
    /// Parameters in the order of the layers, which is Fornax's.
    parameters: Vec<Tensor>,
    optimizer: nn::Optimizer,
    images: Tensor,
    target: Tensor,
    /// Kind in which convolutions and linear layers compute.
    matmul_kind: Kind,
}

impl TrainingStep {
    /// Builds the network. bf16 casts the operands that PyTorch's autocast casts on a CPU, those of convolutions and linear layers; tch has
    /// autocast for CUDA only.
    pub fn new(network: Network, layout: Layout, dtype: DType) -> Self {
        let matmul_kind = match dtype {
            DType::F32 => Kind::Float,
            DType::BF16 => Kind::BFloat16,
            dtype => panic!("steps are in f32 or bf16, not in {dtype}"),
        };
        let mut builder = Builder { layout, variables: VarStore::new(FLOAT.1), parameters: vec![] };
        let layers = builder.layers(&network.layers());
        let sgd = nn::sgd(0.9, 0.0, 0.0, false);
        let optimizer = sgd.build(&builder.variables, LEARNING_RATE).expect("SGD accepts these variables");
        let images = layout.arrange(&Tensor::randn(network.input().map(|extent| extent as i64), FLOAT));
        let target =
            Tensor::randint(network.classes() as i64, [network.input()[0] as i64], (Kind::Int64, FLOAT.1));
        let parameters = builder.parameters;
        TrainingStep { layout, layers, parameters, optimizer, images, target, matmul_kind }
    }

    /// Copies parameters in the order of the layers, images and class indices, all in Fornax's channels-last layout.
    pub fn copy_from(&mut self, parameters: &[Vec<f32>], images: &[f32], target: &[i64]) {
        assert_eq!(self.parameters.len(), parameters.len());
        tch::no_grad(|| {
            for (variable, values) in self.parameters.iter().zip(parameters) {
                let mut view = self.as_fornax(variable);
                view.copy_(&Tensor::from_slice(values).view_as(&view));
            }
        });
        let mut pixels = self.images.permute([0, 2, 3, 1]);
        pixels.copy_(&Tensor::from_slice(images).view_as(&pixels));
        self.target = Tensor::from_slice(target);
    }

    /// Elements of each parameter, in the order of the layers and in Fornax's layout.
    pub fn parameters(&self) -> Vec<Vec<f32>> {
        let elements = |t: &Tensor| {
            Vec::<f32>::try_from(self.as_fornax(t).contiguous().view(-1)).expect("parameters are f32")
        };
        self.parameters.iter().map(elements).collect()
    }

    /// View of a parameter with Fornax's order of axes.
    fn as_fornax(&self, parameter: &Tensor) -> Tensor {
        let values = parameter.detach();
        match self.layout {
            Layout::ChannelsFirst if values.dim() == 4 => values.permute([0, 2, 3, 1]),
            _ => values,
        }
    }

    /// Runs forward pass, cross entropy, backward pass and update; returns the loss.
    pub fn run(&mut self) -> f64 {
        let logits = forward(&self.layers, self.layout, self.matmul_kind, self.images.shallow_clone());
        let loss = logits.to_kind(Kind::Float).cross_entropy_loss::<&Tensor>(
            &self.target,
            None,
            Reduction::Mean,
            -100,
            0.0,
        );
        self.optimizer.zero_grad();
        loss.backward();
        self.optimizer.step();
        loss.double_value(&[])
    }
}

/// Prepares the row of an optimizer update, with constant gradients.
pub(super) fn update(optimizer: Optimizer, network: Network) -> TimedRun {
    let mut builder =
        Builder { layout: Layout::ChannelsLast, variables: VarStore::new(FLOAT.1), parameters: vec![] };
    builder.layers(&network.layers());
    let mut optimizer = match optimizer {
        Optimizer::Sgd => nn::sgd(0.9, 0.0, 0.0, false).build(&builder.variables, LEARNING_RATE),
        Optimizer::AdamW => nn::adamw(0.9, 0.999, 0.01).build(&builder.variables, LEARNING_RATE),
    }
    .expect("the optimizer accepts these variables");
    for variable in builder.variables.trainable_variables() {
        weighted_sum(&variable, &variable.randn_like()).backward();
    }
    Box::new(move || time(|| optimizer.step()))
}

/// Layer with its parameters.
enum Layer {
    Conv { weight: Tensor, stride: i64, padding: i64, groups: i64 },
    BatchNorm(BatchNorm, Activation),
    Residual { body: Vec<Layer>, last: BatchNorm, shortcut: Vec<Layer>, activation: Activation },
    MaxPool,
    AvgPool,
    GlobalPool,
    Linear { weight: Tensor, bias: Tensor },
}

struct BatchNorm {
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl BatchNorm {
    fn forward(&self, x: &Tensor) -> Tensor {
        let BatchNorm { scale, shift, mean, variance } = self;
        x.batch_norm(Some(scale), Some(shift), Some(mean), Some(variance), true, 0.1, 1e-5, false)
    }
}

struct Builder {
    layout: Layout,
    variables: VarStore,
    parameters: Vec<Tensor>,
}

impl Builder {
    fn layers(&mut self, layers: &[LayerSpec]) -> Vec<Layer> {
        layers.iter().map(|layer| self.layer(layer)).collect()
    }

    fn layer(&mut self, layer: &LayerSpec) -> Layer {
        match layer {
            &LayerSpec::Conv { c_in, c_out, kernel, stride, groups } => {
                let weight = self.conv_weight(c_out as i64, kernel as i64, (c_in / groups) as i64);
                Layer::Conv {
                    weight,
                    stride: stride as i64,
                    padding: kernel as i64 / 2,
                    groups: groups as i64,
                }
            }
            &LayerSpec::BatchNorm(channels, activation) => {
                Layer::BatchNorm(self.batch_norm(channels), activation)
            }
            LayerSpec::Residual { body, channels, shortcut, activation } => Layer::Residual {
                body: self.layers(body),
                last: self.batch_norm(*channels),
                shortcut: self.layers(shortcut),
                activation: *activation,
            },
            LayerSpec::MaxPool => Layer::MaxPool,
            LayerSpec::AvgPool => Layer::AvgPool,
            LayerSpec::GlobalPool => Layer::GlobalPool,
            &LayerSpec::Linear(inputs, outputs) => {
                let scale = (inputs as f64).powf(-0.5);
                let weight = Tensor::randn([outputs as i64, inputs as i64], FLOAT) * scale;
                Layer::Linear {
                    weight: self.variable(weight),
                    bias: self.variable(Tensor::zeros([outputs as i64], FLOAT)),
                }
            }
        }
    }

    /// Convolution weight that is contiguous in the chosen layout, so that its gradient has the same layout and needs no copy.
    fn conv_weight(&mut self, c_out: i64, kernel: i64, group_in: i64) -> Tensor {
        let shape = match self.layout {
            Layout::ChannelsLast => [c_out, kernel, kernel, group_in],
            Layout::ChannelsFirst => [c_out, group_in, kernel, kernel],
        };
        let scale = (2.0 / (c_out * kernel * kernel) as f64).sqrt();
        self.variable(Tensor::randn(shape, FLOAT) * scale)
    }

    fn batch_norm(&mut self, channels: usize) -> BatchNorm {
        let (zeros, ones) = (Tensor::zeros([channels as i64], FLOAT), Tensor::ones([channels as i64], FLOAT));
        BatchNorm {
            scale: self.variable(ones.copy()),
            shift: self.variable(zeros.copy()),
            mean: zeros,
            variance: ones,
        }
    }

    fn variable(&mut self, value: Tensor) -> Tensor {
        let name = format!("v{}", self.parameters.len());
        let variable = self.variables.root().var_copy(&name, &value);
        self.parameters.push(variable.shallow_clone());
        variable
    }
}

fn forward(layers: &[Layer], layout: Layout, kind: Kind, x: Tensor) -> Tensor {
    layers.iter().fold(x, |x, layer| match layer {
        Layer::Conv { weight, stride, padding, groups } => {
            let weight = weight.to_kind(kind);
            let weight = match layout {
                Layout::ChannelsLast => weight.permute([0, 3, 1, 2]),
                Layout::ChannelsFirst => weight,
            };
            let [stride, padding] = [[*stride; 2], [*padding; 2]];
            x.to_kind(kind).conv2d(&weight, None::<&Tensor>, stride, padding, [1, 1], *groups)
        }
        Layer::BatchNorm(norm, activation) => activate(norm.forward(&x), *activation),
        Layer::Residual { body, last, shortcut, activation } => {
            let shortcut = forward(shortcut, layout, kind, x.shallow_clone());
            let mut y = last.forward(&forward(body, layout, kind, x));
            activate(y.g_add_(&shortcut), *activation)
        }
        Layer::MaxPool => x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
        Layer::AvgPool => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None),
        Layer::GlobalPool => x.adaptive_avg_pool2d([1, 1]).flatten(1, -1),
        Layer::Linear { weight, bias } => {
            x.to_kind(kind).linear(&weight.to_kind(kind), Some(&bias.to_kind(kind)))
        }
    })
}

/// In-place activation, as in timm's models.
fn activate(mut x: Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.relu_(),
        Activation::Relu6 => x.relu6_(),
    }
}
