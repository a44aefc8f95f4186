//! Training steps of the networks, and optimizer updates of their parameters.
use super::done;
use crate::cases;
use crate::measure::{Work, time};
use crate::networks::{self, LEARNING_RATE, Layer};
use fornax::optim::{Optimizer, OptimizerOptions, Parameter, create_optimizer, parameters};
use fornax_engine::{Activation, DType, Device, GlobalPool, GradientRule, Pool2dOptions, Result, Tensor};
use fornax_nn::layers::{AvgPool2d, BatchNorm2d, BatchNormOptions, Conv2d, Linear, MaxPool2d};
use fornax_nn::{Context, Module, StateKind, Visitor, init, named_parameters, state_entries};

/// A network with its optimizer and one batch of random images.
pub struct TrainingStep {
    network: Network,
    parameters: Vec<Tensor>,
    optimizer: Optimizer,
    images: Tensor,
    target: Tensor,
}

impl TrainingStep {
    /// Builds the network in Fornax.
    pub fn new(network: networks::Network) -> Self {
        let built = Network::new(&network.layers());
        let images = done(Tensor::zeros(network.input(), DType::F32, &Device::Cpu));
        done(init::normal(&images, 1.0, &mut init::rng(0, "images")));
        let classes = network.classes();
        let target: Vec<i64> = (0..network.input()[0]).map(|i| (i * 7919 % classes) as i64).collect();
        TrainingStep {
            optimizer: optimizer("momentum", parameters(&built, 0.0)),
            parameters: named_parameters(&built).into_iter().map(|(_, tensor)| tensor).collect(),
            network: built,
            target: done(Tensor::from_vec(target, [images.dims()[0]])),
            images,
        }
    }

    /// The parameters, in the order of the layers.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// The batch: images `[n, h, w, c]` and class indices `[n]`.
    pub fn batch(&self) -> (&Tensor, &Tensor) {
        (&self.images, &self.target)
    }

    /// Forward, cross entropy, backward, update; returns the loss.
    pub fn run(&mut self) -> f64 {
        let logits = done(self.network.forward(&self.images, &mut Context::train()));
        let loss = done(logits.cross_entropy(&self.target, 0.0));
        self.parameters.iter().for_each(Tensor::zero_grad);
        done(loss.backward());
        done(self.optimizer.update(LEARNING_RATE));
        done(loss.item())
    }
}

/// The row of one optimizer update, from gradients that stay.
pub(super) fn update(which: cases::Optimizer, network: networks::Network) -> Work {
    let network = Network::new(&network.layers());
    for (name, parameter) in named_parameters(&network) {
        let gradient = done(parameter.detach().copy());
        done(init::normal(&gradient, 1.0, &mut init::rng(1, &name)));
        parameter.set_grad(Some(gradient));
    }
    let (name, weight_decay) = match which {
        cases::Optimizer::Sgd => ("momentum", 0.0),
        cases::Optimizer::AdamW => ("adamw", 0.01),
    };
    let optimizer = optimizer(name, parameters(&network, weight_decay));
    Box::new(move || time(|| done(optimizer.update(LEARNING_RATE))))
}

fn optimizer(name: &str, parameters: Vec<Parameter>) -> Optimizer {
    done(create_optimizer(name, parameters, &OptimizerOptions::default(), GradientRule::default()))
}

/// Layers one after the other, under the names of their positions.
pub struct Network(Vec<Built>);

/// A layer with its parameters.
enum Built {
    Conv(Conv2d),
    BatchNorm(BatchNorm2d, Activation),
    Residual { body: Network, last: BatchNorm2d, shortcut: Network, activation: Activation },
    MaxPool(MaxPool2d),
    AvgPool(AvgPool2d),
    GlobalPool,
    Linear(Linear),
}

impl Network {
    /// The network with timm's initial values.
    pub fn new(layers: &[Layer]) -> Network {
        let network = done(Network::zeros(layers));
        for entry in state_entries(&network).iter().filter(|entry| entry.kind == StateKind::Parameter) {
            let draws = &mut init::rng(0, &entry.name);
            done(match entry.tensor.rank() {
                4 => init::kaiming_normal_fan_out(&entry.tensor, draws),
                2 => init::linear_default(&entry.tensor, entry.tensor.dims()[1], draws),
                _ if entry.name.ends_with("weight") => init::constant(&entry.tensor, 1.0),
                _ => init::constant(&entry.tensor, 0.0),
            });
        }
        network
    }

    fn zeros(layers: &[Layer]) -> Result<Network> {
        layers.iter().map(Built::zeros).collect::<Result<_>>().map(Network)
    }
}

impl Built {
    fn zeros(layer: &Layer) -> Result<Built> {
        let pool = |kernel, padding| Pool2dOptions {
            kernel: [kernel; 2],
            stride: [2; 2],
            padding: [padding; 2],
            ..Pool2dOptions::default()
        };
        Ok(match layer {
            &Layer::Conv { c_in, c_out, kernel, stride, groups } => {
                Built::Conv(Conv2d::grouped(c_in, c_out, kernel, stride, groups)?)
            }
            &Layer::BatchNorm(channels, activation) => {
                Built::BatchNorm(BatchNorm2d::new(channels, BatchNormOptions::default())?, engine(activation))
            }
            Layer::Residual { body, channels, shortcut, activation } => Built::Residual {
                body: Network::zeros(body)?,
                last: BatchNorm2d::new(*channels, BatchNormOptions::default())?,
                shortcut: Network::zeros(shortcut)?,
                activation: engine(*activation),
            },
            Layer::MaxPool => Built::MaxPool(MaxPool2d::new(pool(3, 1))),
            Layer::AvgPool => Built::AvgPool(AvgPool2d::new(pool(2, 0))),
            Layer::GlobalPool => Built::GlobalPool,
            &Layer::Linear(inputs, outputs) => Built::Linear(Linear::new(inputs, outputs)?),
        })
    }
}

fn engine(activation: networks::Activation) -> Activation {
    match activation {
        networks::Activation::Identity => Activation::Identity,
        networks::Activation::Relu => Activation::Relu,
        networks::Activation::Relu6 => Activation::Relu6,
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        run(&self.0, x, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (i, layer) in self.0.iter().enumerate() {
            visitor.child(&i.to_string(), layer);
        }
    }
}

/// Layers one after the other; a convolution and the batch norm behind it are one operation.
fn run(layers: &[Built], x: &Tensor, cx: &mut Context) -> Result<Tensor> {
    let (mut x, mut layers) = (x.clone(), layers.iter().peekable());
    while let Some(layer) = layers.next() {
        x = match (layer, layers.peek()) {
            (Built::Conv(conv), Some(Built::BatchNorm(norm, activation))) => {
                layers.next();
                conv.forward_norm_act(&x, norm, *activation, None, cx)?
            }
            _ => layer.forward(&x, cx)?,
        };
    }
    Ok(x)
}

impl Module for Built {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        match self {
            Built::Conv(conv) => conv.forward(x, cx),
            Built::BatchNorm(norm, activation) => norm.forward_act(x, *activation, None, cx),
            Built::Residual { body, last, shortcut, activation } => {
                let Some((Built::Conv(conv), before)) = body.0.split_last() else {
                    let y = body.forward(x, cx)?;
                    return last.forward_act(&y, *activation, Some(&shortcut.forward(x, cx)?), cx);
                };
                let y = run(before, x, cx)?;
                conv.forward_norm_act(&y, last, *activation, Some(&shortcut.forward(x, cx)?), cx)
            }
            Built::MaxPool(pool) => pool.forward(x, cx),
            Built::AvgPool(pool) => pool.forward(x, cx),
            Built::GlobalPool => x.global_pool(GlobalPool::Avg),
            Built::Linear(linear) => linear.forward(x, cx),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        match self {
            Built::Conv(conv) => conv.visit(visitor),
            Built::BatchNorm(norm, _) => norm.visit(visitor),
            Built::Residual { body, last, shortcut, .. } => {
                visitor.child("body", body);
                visitor.child("last", last);
                visitor.child("shortcut", shortcut);
            }
            Built::Linear(linear) => linear.visit(visitor),
            Built::MaxPool(_) | Built::AvgPool(_) | Built::GlobalPool => {}
        }
    }
}
