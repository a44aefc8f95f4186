//! Training steps of several ranks over NCCL: overlap of communication and backward pass, and captured steps.
#[allow(dead_code)]
#[path = "../../../train/tests/common/ranks.rs"]
pub mod ranks;

use super::support::{serialize, within_deadline};
use fornax::distributed::{DataParallel, DistributedRun, ProcessGroup};
use fornax::ema::{Ema, EmaOptions};
use fornax::loader::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::cuda::{KernelProfile, StreamKind};
use fornax_engine::{DType, Device, GradClip, GradientRule, LossScaling, Tensor};
use fornax_nn::layers::{BatchNorm2d, BatchNormOptions, Conv2d, Linear};
use fornax_nn::{
    Context, Module, OptLevel, Precision, Visitor, init, move_to, named_parameters, state_entries,
};
use ranks::on_ranks;
use std::sync::Arc;

/// A convolution, batch norm and two linear layers. The last one has 1.2 MB, so that it is the first bucket.
struct Network {
    conv: Conv2d,
    norm: BatchNorm2d,
    hidden: Linear,
    head: Linear,
}

impl Network {
    fn new(momentum: Option<f64>, device: &Device) -> Network {
        let network = Network {
            conv: Conv2d::same(3, 8, 3, 1).expect("memory"),
            norm: BatchNorm2d::new(8, BatchNormOptions { momentum, ..BatchNormOptions::default() })
                .expect("memory"),
            hidden: Linear::new(8 * 36, 1024).expect("memory"),
            head: Linear::new(1024, 300).expect("memory"),
        };
        for (name, parameter) in named_parameters(&network) {
            init::normal(&parameter, 0.05, &mut init::rng(1, &name)).expect("f32");
        }
        move_to(&network, device).expect("memory");
        network
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let x = self.norm.forward(&self.conv.forward(x, cx)?, cx)?.relu()?;
        let hidden = self.hidden.forward(&x.flatten(1)?, cx)?.relu()?;
        self.head.forward(&hidden, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv", &self.conv);
        visitor.child("norm", &self.norm);
        visitor.child("hidden", &self.hidden);
        visitor.child("head", &self.head);
    }
}

/// Images of a rank, which differ from rank to rank and from update to update.
fn batch(rank: usize, update: usize, device: &Device) -> Batch {
    let pixel = |i: usize| ((i * 31 + rank * 977 + update * 613) % 257) as f32 / 128.0 - 1.0;
    let images = Tensor::from_vec((0..4 * 108).map(pixel).collect(), [4, 6, 6, 3]);
    let target = Tensor::from_vec((0..4).map(|i| ((i * 7 + rank + update) % 300) as i64).collect(), [4]);
    let on_device = |t: fornax_engine::Result<Tensor>| t.and_then(|t| t.to_device(device)).expect("memory");
    Batch::new(on_device(images), on_device(target))
}

/// A rank's model, optimizer and training step on the emulated device of its number.
struct Rank {
    group: Arc<ProcessGroup>,
    device: Device,
    network: Network,
    optimizer: Optimizer,
    step: TrainStep,
}

impl Rank {
    fn new(group: Arc<ProcessGroup>, momentum: Option<f64>, options: TrainStepOptions) -> Rank {
        let device = Device::Cuda(group.rank());
        let run = DistributedRun::new(group.clone(), device).expect("NCCL");
        let network = Network::new(momentum, &device);
        let scaling = LossScaling { init_scale: 256.0, growth_interval: 2, ..LossScaling::default() };
        let rule = GradientRule { scaling: Some(scaling), clip: Some(GradClip::Norm(0.5)) };
        let optimizer =
            create_optimizer("adamw", parameters(&network, 1e-2), &OptimizerOptions::default(), rule)
                .expect("memory");
        let named = optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        let data_parallel =
            DataParallel::new(group.clone(), run.collective.clone(), named, None).expect("memory");
        let ema = EmaOptions { decay: 0.9, ..EmaOptions::default() };
        let ema =
            Ema::new(&network, Box::new(Network::new(momentum, &Device::Cpu)), ema, device).expect("memory");
        let options = TrainStepOptions { sync_bn: Some(run.collective), ..options };
        let step =
            TrainStep::new(options, None, device).with_ema(Some(ema)).with_data_parallel(Some(data_parallel));
        Rank { group, device, network, optimizer, step }
    }

    /// Runs an update over two batches.
    fn update(&mut self, number: usize) -> f64 {
        let batches = [0, 1].map(|i| batch(self.group.rank(), 2 * number + i, &self.device));
        self.step.run(&self.network, &self.optimizer, &batches, 0.01).expect("an update")
    }

    /// Bits of the parameters, the buffers, the optimizer's state and the EMA.
    fn state(&self) -> Vec<(String, Vec<u64>)> {
        let of =
            |module: &dyn Module| state_entries(module).into_iter().map(|e| (e.name, e.tensor)).collect();
        let mut all: Vec<(String, Tensor)> = of(&self.network);
        all.extend(self.optimizer.state_dict());
        all.extend(self.step.ema().map_or(vec![], |ema| of(ema.model())));
        let bits = |t: Tensor| match t.dtype() {
            DType::I64 => t.to_vec::<i64>().expect("i64").into_iter().map(|v| v as u64).collect(),
            _ => t.to_vec::<f32>().expect("f32").into_iter().map(|v| u64::from(v.to_bits())).collect(),
        };
        all.into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
    }
}

fn options(cuda_graph: CudaGraphMode) -> TrainStepOptions {
    TrainStepOptions {
        precision: Precision::new(OptLevel::O1, DType::F16),
        cuda_graph,
        ..TrainStepOptions::default()
    }
}

/// Runs ranks as threads, each on an emulated device.
fn on_devices<R: Send + 'static>(
    world: usize,
    run: impl Fn(Arc<ProcessGroup>) -> R + Send + Sync + 'static,
) -> Vec<R> {
    Device::emulated(4).expect("the emulated device");
    within_deadline(move || {
        on_ranks(world, |group| {
            let result = run(group.clone());
            group.finish().expect("every rank is done");
            result
        })
    })
}

#[test]
fn captured_step_of_several_ranks_matches_the_eager_one_bitwise() {
    let _guard = serialize();
    for momentum in [Some(0.1), None] {
        let results = on_devices(3, move |group| {
            let train = |mode| {
                let mut rank = Rank::new(group.clone(), momentum, options(mode));
                let losses: Vec<u64> = (0..5).map(|number| rank.update(number).to_bits()).collect();
                assert_eq!(rank.step.capture_error(), None);
                (losses, rank.state())
            };
            [CudaGraphMode::Never, CudaGraphMode::Always].map(train)
        });
        for [eager, captured] in &results {
            assert_eq!(eager.0, captured.0, "losses");
            for (eager, captured) in eager.1.iter().zip(&captured.1) {
                assert_eq!(eager, captured, "momentum {momentum:?}");
            }
        }
        assert_eq!(results[0], results[2], "the ranks agree");
    }
}

#[test]
fn first_bucket_is_reduced_before_the_gradients_of_the_first_layer_are_queued() {
    let _guard = serialize();
    let timelines = on_devices(2, |group| {
        let mut rank = Rank::new(group, Some(0.1), options(CudaGraphMode::Never));
        // The second update has the final order of the buckets.
        for number in 0..2 {
            rank.update(number);
        }
        let profile = KernelProfile::start(&rank.device).expect("a profile");
        rank.update(2);
        profile.finish_timeline().expect("a timeline")
    });
    for timeline in timelines {
        // In the order of the calls. Synchronised batch norm, the layer after the convolution, has an all-reduce of its own in the backward pass.
        let reductions: Vec<usize> =
            (0..timeline.len()).filter(|i| timeline[*i].name == "all_reduce").collect();
        let last_gradient =
            timeline.iter().rposition(|interval| interval.name == "cudnn convolution weight gradient");
        let names: Vec<&str> = timeline.iter().map(|interval| interval.name.as_str()).collect();
        let last_gradient = last_gradient.unwrap_or_else(|| panic!("no weight gradient in {names:?}"));
        let before = reductions.iter().filter(|i| **i < last_gradient).count();
        // Batch norm's in both batches, and the bucket of the last layer; then the other bucket and the loss.
        assert_eq!((before, reductions.len()), (3, 5), "{names:?}");
        let first = &timeline[reductions[1]];
        assert_eq!(first.stream, StreamKind::Communication);
        assert!(first.start + first.seconds < timeline[last_gradient].start, "{timeline:?}");
    }
}
