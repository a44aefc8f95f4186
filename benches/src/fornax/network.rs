//! Training steps of the networks, and optimizer updates of their parameters, in Fornax.
use super::unwrap;
use crate::measure::{TimedRun, time};
use crate::networks::{self, LEARNING_RATE, LayerSpec};
use crate::rows;
use fornax::optim::{Optimizer, OptimizerOptions, Parameter, create_optimizer, parameters};
use fornax_engine::{Activation, DType, Device, GlobalPool, GradientRule, Pool2dOptions, Result, Tensor};
use fornax_nn::layers::{AvgPool2d, BatchNorm2d, BatchNormOptions, Conv2d, Linear, MaxPool2d};
use fornax_nn::precision::Operation;
use fornax_nn::{
    Context, Module, OptLevel, Precision, StateKind, Visitor, init, named_parameters, state_entries,
};

/// Network with optimizer and one batch of random images.
pub struct TrainingStep {
    network: Sequential,
    parameters: Vec<Tensor>,
    optimizer: Optimizer,
    images: Tensor,
    target: Tensor,
    precision: Precision,
}

impl TrainingStep {
    /// Builds the network, for steps in f32, or at optimization level O1 with a half-precision dtype.
    pub fn new(network: networks::Network, dtype: DType) -> Self {
        let built = Sequential::new(&network.layers());
        let images = unwrap(Tensor::zeros(network.input(), DType::F32, &Device::Cpu));
        unwrap(init::normal(&images, 1.0, &mut init::rng(0, "images")));
        let classes = network.classes();
        let target: Vec<i64> = (0..network.input()[0]).map(|i| (i * 7919 % classes) as i64).collect();
        TrainingStep {
            optimizer: optimizer("momentum", parameters(&built, 0.0)),
            parameters: named_parameters(&built).into_iter().map(|(_, tensor)| tensor).collect(),
            network: built,
            target: unwrap(Tensor::from_vec(target, [images.dims()[0]])),
            images,
            precision: match dtype {
                DType::F32 => Precision::default(),
                half => Precision::new(OptLevel::O1, half),
            },
        }
    }

    /// Parameters, in the order of the layers.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Images `[n, h, w, c]` and class indices `[n]` of the batch.
    pub fn batch(&self) -> (&Tensor, &Tensor) {
        (&self.images, &self.target)
    }

    /// Runs forward pass, cross entropy, backward pass and update; returns the loss.
    pub fn run(&mut self) -> f64 {
        let mut cx = Context::train().with_precision(self.precision);
        let logits = unwrap(self.network.forward(&self.images, &mut cx));
        let loss = unwrap(unwrap(cx.autocast(Operation::Loss, &logits)).cross_entropy(&self.target, 0.0));
        self.parameters.iter().for_each(Tensor::zero_grad);
        unwrap(loss.backward());
        unwrap(self.optimizer.update(LEARNING_RATE));
        unwrap(loss.item())
    }
}

/// Prepares the row of an optimizer update, with constant gradients.
pub(super) fn update_run(which: rows::Optimizer, network: networks::Network) -> TimedRun {
    let network = Sequential::new(&network.layers());
    for (name, parameter) in named_parameters(&network) {
        let gradient = unwrap(parameter.detach().copy());
        unwrap(init::normal(&gradient, 1.0, &mut init::rng(1, &name)));
        parameter.set_grad(Some(gradient));
    }
    let (name, weight_decay) = match which {
        rows::Optimizer::Sgd => ("momentum", 0.0),
        rows::Optimizer::AdamW => ("adamw", 0.01),
    };
    let optimizer = optimizer(name, parameters(&network, weight_decay));
    Box::new(move || time(|| unwrap(optimizer.update(LEARNING_RATE))))
}

fn optimizer(name: &str, parameters: Vec<Parameter>) -> Optimizer {
    unwrap(create_optimizer(name, parameters, &OptimizerOptions::default(), GradientRule::default()))
}

/// Layers in sequence, named by their positions.
pub struct Sequential(Vec<Layer>);

/// Layer with its parameters.
enum Layer {
    Conv(Conv2d),
    BatchNorm(BatchNorm2d, Activation),
    Residual { body: Sequential, last: BatchNorm2d, shortcut: Sequential, activation: Activation },
    MaxPool(MaxPool2d),
    AvgPool(AvgPool2d),
    GlobalPool,
    Linear(Linear),
}

impl Sequential {
    /// Builds the layers with timm's initialisation.
    pub fn new(layers: &[LayerSpec]) -> Sequential {
        let network = unwrap(Sequential::zeros(layers));
        for entry in state_entries(&network).iter().filter(|entry| entry.kind == StateKind::Parameter) {
            let rng = &mut init::rng(0, &entry.name);
            unwrap(match entry.tensor.rank() {
                4 => init::kaiming_normal_fan_out(&entry.tensor, rng),
                2 => init::linear_default(&entry.tensor, entry.tensor.dims()[1], rng),
                _ if entry.name.ends_with("weight") => init::constant(&entry.tensor, 1.0),
                _ => init::constant(&entry.tensor, 0.0),
            });
        }
        network
    }

    fn zeros(layers: &[LayerSpec]) -> Result<Sequential> {
        layers.iter().map(Layer::zeros).collect::<Result<_>>().map(Sequential)
    }
}

impl Layer {
    fn zeros(layer: &LayerSpec) -> Result<Layer> {
        let pool = |kernel, padding| Pool2dOptions {
            kernel: [kernel; 2],
            stride: [2; 2],
            padding: [padding; 2],
            ..Pool2dOptions::default()
        };
        Ok(match layer {
            &LayerSpec::Conv { c_in, c_out, kernel, stride, groups } => {
                Layer::Conv(Conv2d::grouped(c_in, c_out, kernel, stride, groups)?)
            }
            &LayerSpec::BatchNorm(channels, activation) => Layer::BatchNorm(
                BatchNorm2d::new(channels, BatchNormOptions::default())?,
                to_engine(activation),
            ),
            LayerSpec::Residual { body, channels, shortcut, activation } => Layer::Residual {
                body: Sequential::zeros(body)?,
                last: BatchNorm2d::new(*channels, BatchNormOptions::default())?,
                shortcut: Sequential::zeros(shortcut)?,
                activation: to_engine(*activation),
            },
            LayerSpec::MaxPool => Layer::MaxPool(MaxPool2d::new(pool(3, 1))),
            LayerSpec::AvgPool => Layer::AvgPool(AvgPool2d::new(pool(2, 0))),
            LayerSpec::GlobalPool => Layer::GlobalPool,
            &LayerSpec::Linear(inputs, outputs) => Layer::Linear(Linear::new(inputs, outputs)?),
        })
    }
}

fn to_engine(activation: networks::Activation) -> Activation {
    match activation {
        networks::Activation::Identity => Activation::Identity,
        networks::Activation::Relu => Activation::Relu,
        networks::Activation::Relu6 => Activation::Relu6,
    }
}

impl Module for Sequential {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        run(&self.0, x, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (i, layer) in self.0.iter().enumerate() {
            visitor.child(&i.to_string(), layer);
        }
    }
}

/// Runs layers in sequence; a convolution and a batch norm after it are fused.
fn run(layers: &[Layer], x: &Tensor, cx: &mut Context) -> Result<Tensor> {
    let (mut x, mut layers) = (x.clone(), layers.iter().peekable());
    while let Some(layer) = layers.next() {
        x = match (layer, layers.peek()) {
            (Layer::Conv(conv), Some(Layer::BatchNorm(norm, activation))) => {
                layers.next();
                conv.forward_norm_act(&x, norm, *activation, None, cx)?
            }
            _ => layer.forward(&x, cx)?,
        };
    }
    Ok(x)
}

impl Module for Layer {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        match self {
            Layer::Conv(conv) => conv.forward(x, cx),
            Layer::BatchNorm(norm, activation) => norm.forward_act(x, *activation, None, cx),
            Layer::Residual { body, last, shortcut, activation } => {
                let Some((Layer::Conv(conv), before)) = body.0.split_last() else {
                    let y = body.forward(x, cx)?;
                    return last.forward_act(&y, *activation, Some(&shortcut.forward(x, cx)?), cx);
                };
                let y = run(before, x, cx)?;
                conv.forward_norm_act(&y, last, *activation, Some(&shortcut.forward(x, cx)?), cx)
            }
            Layer::MaxPool(pool) => pool.forward(x, cx),
            Layer::AvgPool(pool) => pool.forward(x, cx),
            Layer::GlobalPool => x.global_pool(GlobalPool::Avg),
            Layer::Linear(linear) => linear.forward(x, cx),
        }
    }

    fn visit(&self, visitor: &mut Visitor) {
        match self {
            Layer::Conv(conv) => conv.visit(visitor),
            Layer::BatchNorm(norm, _) => norm.visit(visitor),
            Layer::Residual { body, last, shortcut, .. } => {
                visitor.child("body", body);
                visitor.child("last", last);
                visitor.child("shortcut", shortcut);
            }
            Layer::Linear(linear) => linear.visit(visitor),
            Layer::MaxPool(_) | Layer::AvgPool(_) | Layer::GlobalPool => {}
        }
    }
}
