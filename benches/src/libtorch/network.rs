//! Training steps of the networks, and optimizer updates of their parameters.
use super::{FLOAT, Layout, weighted_sum};
use crate::cases::Optimizer;
use crate::measure::{Work, time};
use crate::networks::{Activation, LEARNING_RATE, Layer, Network};
use tch::nn::{self, OptimizerConfig, VarStore};
use tch::{Kind, Reduction, Tensor};

/// A network with its optimizer and one batch of random images.
pub struct TrainingStep {
    layout: Layout,
    layers: Vec<Built>,
    /// In the order of the layers, which is Fornax's.
    parameters: Vec<Tensor>,
    optimizer: nn::Optimizer,
    images: Tensor,
    target: Tensor,
}

impl TrainingStep {
    /// Builds the network in libtorch.
    pub fn new(network: Network, layout: Layout) -> Self {
        let mut builder = Builder { layout, variables: VarStore::new(FLOAT.1), parameters: vec![] };
        let layers = builder.layers(&network.layers());
        let sgd = nn::sgd(0.9, 0.0, 0.0, false);
        let optimizer = sgd.build(&builder.variables, LEARNING_RATE).expect("SGD takes these variables");
        let images = layout.arrange(&Tensor::randn(network.input().map(|extent| extent as i64), FLOAT));
        let target =
            Tensor::randint(network.classes() as i64, [network.input()[0] as i64], (Kind::Int64, FLOAT.1));
        TrainingStep { layout, layers, parameters: builder.parameters, optimizer, images, target }
    }

    /// Takes over parameters in the order of the layers, images and class indices, all as Fornax holds them: channels-last.
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

    /// The elements of each parameter, in the order of the layers, as Fornax holds them.
    pub fn parameters(&self) -> Vec<Vec<f32>> {
        let elements = |t: &Tensor| {
            Vec::<f32>::try_from(self.as_fornax(t).contiguous().view(-1)).expect("parameters are f32")
        };
        self.parameters.iter().map(elements).collect()
    }

    /// A view of a parameter with Fornax's order of axes.
    fn as_fornax(&self, parameter: &Tensor) -> Tensor {
        let values = parameter.detach();
        match self.layout {
            Layout::ChannelsFirst if values.dim() == 4 => values.permute([0, 2, 3, 1]),
            _ => values,
        }
    }

    /// Forward, cross entropy, backward, update; returns the loss.
    pub fn run(&mut self) -> f64 {
        let logits = forward(&self.layers, self.layout, self.images.shallow_clone());
        let loss = logits.cross_entropy_loss::<&Tensor>(&self.target, None, Reduction::Mean, -100, 0.0);
        self.optimizer.zero_grad();
        loss.backward();
        self.optimizer.step();
        loss.double_value(&[])
    }
}

/// The row of one optimizer update, from gradients that stay.
pub(super) fn update(optimizer: Optimizer, network: Network) -> Work {
    let mut builder =
        Builder { layout: Layout::ChannelsLast, variables: VarStore::new(FLOAT.1), parameters: vec![] };
    builder.layers(&network.layers());
    let mut optimizer = match optimizer {
        Optimizer::Sgd => nn::sgd(0.9, 0.0, 0.0, false).build(&builder.variables, LEARNING_RATE),
        Optimizer::AdamW => nn::adamw(0.9, 0.999, 0.01).build(&builder.variables, LEARNING_RATE),
    }
    .expect("the optimizer takes these variables");
    for variable in builder.variables.trainable_variables() {
        weighted_sum(&variable, &variable.randn_like()).backward();
    }
    Box::new(move || time(|| optimizer.step()))
}

/// A layer with its parameters.
enum Built {
    Conv { weight: Tensor, stride: i64, padding: i64, groups: i64 },
    BatchNorm(BatchNorm, Activation),
    Residual { body: Vec<Built>, last: BatchNorm, shortcut: Vec<Built>, activation: Activation },
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
    fn layers(&mut self, layers: &[Layer]) -> Vec<Built> {
        layers.iter().map(|layer| self.layer(layer)).collect()
    }

    fn layer(&mut self, layer: &Layer) -> Built {
        match layer {
            &Layer::Conv { c_in, c_out, kernel, stride, groups } => {
                let weight = self.conv_weight(c_out as i64, kernel as i64, (c_in / groups) as i64);
                Built::Conv {
                    weight,
                    stride: stride as i64,
                    padding: kernel as i64 / 2,
                    groups: groups as i64,
                }
            }
            &Layer::BatchNorm(channels, activation) => {
                Built::BatchNorm(self.batch_norm(channels), activation)
            }
            Layer::Residual { body, channels, shortcut, activation } => Built::Residual {
                body: self.layers(body),
                last: self.batch_norm(*channels),
                shortcut: self.layers(shortcut),
                activation: *activation,
            },
            Layer::MaxPool => Built::MaxPool,
            Layer::AvgPool => Built::AvgPool,
            Layer::GlobalPool => Built::GlobalPool,
            &Layer::Linear(inputs, outputs) => {
                let scale = (inputs as f64).powf(-0.5);
                let weight = Tensor::randn([outputs as i64, inputs as i64], FLOAT) * scale;
                Built::Linear {
                    weight: self.variable(weight),
                    bias: self.variable(Tensor::zeros([outputs as i64], FLOAT)),
                }
            }
        }
    }

    /// A variable that is contiguous in the chosen order, so that gradients, which arrive in it, need no copy.
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

fn forward(layers: &[Built], layout: Layout, x: Tensor) -> Tensor {
    layers.iter().fold(x, |x, layer| match layer {
        Built::Conv { weight, stride, padding, groups } => {
            let weight = match layout {
                Layout::ChannelsLast => &weight.permute([0, 3, 1, 2]),
                Layout::ChannelsFirst => weight,
            };
            let [stride, padding] = [[*stride; 2], [*padding; 2]];
            x.conv2d(weight, None::<&Tensor>, stride, padding, [1, 1], *groups)
        }
        Built::BatchNorm(norm, activation) => activate(norm.forward(&x), *activation),
        Built::Residual { body, last, shortcut, activation } => {
            let shortcut = forward(shortcut, layout, x.shallow_clone());
            let mut y = last.forward(&forward(body, layout, x));
            activate(y.g_add_(&shortcut), *activation)
        }
        Built::MaxPool => x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
        Built::AvgPool => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None),
        Built::GlobalPool => x.adaptive_avg_pool2d([1, 1]).flatten(1, -1),
        Built::Linear { weight, bias } => x.linear(weight, Some(bias)),
    })
}

/// In place, as timm's models have it.
fn activate(mut x: Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.relu_(),
        Activation::Relu6 => x.relu6_(),
    }
}
