//! Batch norm over several ranks: synchronised, split, and the distribution of running statistics. The ranks are threads that communicate
//! over TCP, as they share one device, which NCCL refuses.
use super::run::check_each_case;
use super::{GoldenCase, Outcome, Topic};
use fornax::distributed::{
    DistributedRun, Identity, Job, Launch, ProcessGroup, RendezvousToken, TcpCollective, free_port, join,
};
use fornax::settings::DistBn;
use fornax_engine::{BatchNorm, Collective, DType, Device, Tensor};
use fornax_nn::layers::{BatchNorm2d, BatchNormOptions};
use fornax_nn::{Context, Module, Visitor, move_to, named_parameters, state_entries};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

type Checked<T = ()> = std::result::Result<T, String>;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case(topic, |case| match case.op() {
        "sync_batch_norm" => sync_batch_norm(&case),
        "split_batch_norm" => split_batch_norm(&case),
        "distribute_bn" => distribute_bn(&case),
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Runs `f` on every rank of a group of threads.
fn on_ranks<R: Send>(
    world_size: usize,
    f: impl Fn(Arc<ProcessGroup>) -> Checked<R> + Sync,
) -> Checked<Vec<R>> {
    let port = free_port().map_err(text)?;
    let launch = |rank| Launch {
        rank,
        world_size,
        local_rank: rank,
        local_world_size: None,
        address: "127.0.0.1".into(),
        port,
        launcher: "golden",
        job: Job::default(),
        token: RendezvousToken::default(),
        agent_store: false,
        timeout: Duration::from_secs(60),
    };
    let identity = Identity { program: "golden".into(), settings: Default::default() };
    std::thread::scope(|scope| {
        let (f, identity) = (&f, &identity);
        let rank = |rank| {
            let launch = launch(rank);
            scope.spawn(move || {
                let group = join(&launch, identity).map_err(text)?;
                let result = f(group.clone());
                match &result {
                    Ok(_) => group.finish().map_err(text)?,
                    Err(why) => group.abort(why),
                }
                result
            })
        };
        let ranks: Vec<_> = (0..world_size).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().map_err(|_| "a rank panicked".to_string())?).collect()
    })
}

fn input(case: &GoldenCase, role: &str) -> Checked<Tensor> {
    case.tensor("inputs", role)?.to_tensor(DType::F32, &case.topic.device).map_err(text)
}

fn sync_batch_norm(case: &GoldenCase) -> Checked {
    case.allow_params(&["momentum", "eps", "replica_batch"])?;
    let (momentum, eps) = (case.number("momentum")?, case.number("eps")?);
    let replicas = case.param("replica_batch").as_array().ok_or("no replica_batch")?.len();
    let check = |group: Arc<ProcessGroup>| -> Checked {
        let rank = group.rank();
        let collective: Arc<dyn Collective> = Arc::new(TcpCollective::new(group).map_err(text)?);
        let x = input(case, &format!("x{rank}"))?.variable();
        let [weight, bias] = ["weight", "bias"].map(|role| input(case, role).map(|t| t.variable()));
        let (weight, bias) = (weight?, bias?);
        let forward = |momentum: f64| -> Checked<(Tensor, Tensor, Tensor)> {
            let (mean, var) = (input(case, "running_mean")?, input(case, "running_var")?);
            let norm = BatchNorm {
                weight: Some(&weight),
                bias: Some(&bias),
                running: Some((&mean, &var)),
                training: true,
                momentum,
                eps,
                sync_group: Some(&collective),
                ..BatchNorm::default()
            };
            let nhwc = Tensor::from_nchw(&x).map_err(text)?;
            let y = nhwc.batch_norm(&norm).map_err(text)?;
            Ok((y.to_nchw().map_err(text)?, mean, var))
        };
        // With a momentum of 1 the running statistics are the batch's, with the unbiased variance.
        let (_, mean, unbiased) = forward(1.0)?;
        case.check("outputs", "mean", &mean)?;
        let values: usize = (0..replicas)
            .map(|r| case.tensor("inputs", &format!("x{r}")).map_or(0, |t| t.data.len()))
            .sum::<usize>()
            / mean.numel();
        let biased = unbiased.mul_scalar((values - 1) as f64 / values as f64).map_err(text)?;
        case.check("outputs", "var_biased", &biased)?;
        let (y, mean, var) = forward(momentum)?;
        case.check("outputs", &format!("y{rank}"), &y)?;
        case.check("outputs", "running_mean", &mean)?;
        case.check("outputs", "running_var", &var)?;
        y.backward_from(&input(case, &format!("up{rank}"))?).map_err(text)?;
        for (role, tensor) in [("grad_x", &x), ("grad_weight_local", &weight), ("grad_bias_local", &bias)] {
            let grad = tensor.grad().ok_or_else(|| format!("{}: no {role}", case.id()))?;
            case.check("outputs", &format!("{role}{rank}"), &grad)?;
        }
        Ok(())
    };
    on_ranks(replicas, check).map(drop)
}

fn split_batch_norm(case: &GoldenCase) -> Checked {
    case.allow_params(&["num_splits", "momentum", "eps", "state_dict_keys"])?;
    let splits = case.number("num_splits")? as usize;
    let options =
        BatchNormOptions { eps: case.number("eps")?, momentum: Some(case.number("momentum")?), splits };
    let x = input(case, "x")?.variable();
    let layer = BatchNorm2d::new(x.dims()[1], options).map_err(text)?;
    move_to(&layer, &case.topic.device).map_err(text)?;
    let names: Vec<String> = state_entries(&layer).into_iter().map(|entry| entry.name).collect();
    let expected: Vec<&str> = case
        .param("state_dict_keys")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|key| key.as_str())
        .collect();
    if names != expected {
        return Err(format!("{}: the state dict is {names:?}, expected {expected:?}", case.id()));
    }
    let of_split = |split: usize, what: &str| match split {
        0 => what.to_string(),
        _ => format!("aux_bn.{}.{what}", split - 1),
    };
    let parameters = named_parameters(&layer);
    let parameter = |split: usize, what: &str| {
        let name = of_split(split, what);
        parameters
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, t)| t.clone())
            .ok_or(format!("no parameter {name}"))
    };
    for split in 0..splits {
        for what in ["weight", "bias"] {
            parameter(split, what)?.copy_from(&input(case, &format!("{what}{split}"))?).map_err(text)?;
        }
    }
    let forward = |cx: Context| -> Checked<Tensor> {
        let mut cx = cx;
        let nhwc = Tensor::from_nchw(&x).map_err(text)?;
        layer.forward(&nhwc, &mut cx).and_then(|y| y.to_nchw()).map_err(text)
    };
    let y = forward(Context::train())?;
    case.check("outputs", "y", &y)?;
    y.backward_from(&input(case, "up")?).map_err(text)?;
    case.check("outputs", "grad_x", &x.grad().ok_or("no gradient of x")?)?;
    let entries = state_entries(&layer);
    for split in 0..splits {
        for what in ["weight", "bias"] {
            let grad = parameter(split, what)?.grad().ok_or("no gradient")?;
            case.check("outputs", &format!("grad_{what}{split}"), &grad)?;
        }
        for what in ["running_mean", "running_var"] {
            let name = of_split(split, what);
            let entry = entries.iter().find(|entry| entry.name == name).ok_or("no buffer")?;
            case.check("outputs", &format!("{what}{split}"), &entry.tensor)?;
        }
    }
    case.check("outputs", "y_eval", &forward(Context::eval())?)
}

/// Model with the running statistics of one layer.
struct Statistics {
    mean: Tensor,
    var: Tensor,
}

impl Module for Statistics {
    fn forward(&self, x: &Tensor, _: &mut Context) -> fornax_engine::Result<Tensor> {
        Ok(x.clone())
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.buffer("running_mean", &self.mean);
        visitor.buffer("running_var", &self.var);
    }
}

fn distribute_bn(case: &GoldenCase) -> Checked {
    case.allow_params(&["world_size"])?;
    let device: Device = case.topic.device;
    on_ranks(case.number("world_size")? as usize, |group| {
        let rank = group.rank();
        let collective = Arc::new(TcpCollective::new(group.clone()).map_err(text)?);
        let run = DistributedRun::over(group, collective, device);
        for (mode, name) in [(DistBn::Reduce, "reduce"), (DistBn::Broadcast, "broadcast")] {
            let own = |role: &str| -> Checked<Tensor> {
                let all = input(case, role)?;
                all.narrow(0, rank, 1)
                    .and_then(|row| row.reshape([all.dims()[1]]))
                    .and_then(|row| row.copy())
                    .map_err(text)
            };
            let model = Statistics { mean: own("running_mean")?, var: own("running_var")? };
            run.distribute_statistics(&model, mode).map_err(text)?;
            case.check("outputs", &format!("{name}_mean"), &model.mean)?;
            case.check("outputs", &format!("{name}_var"), &model.var)?;
        }
        Ok(())
    })
    .map(drop)
}
