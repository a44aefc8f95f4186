//! Batch norm with the statistics of all ranks, against batch norm of the whole batch in one process.
use super::support::{PATIENT, run_ranks, serialize, within_deadline};
use super::training::ranks::on_ranks;
use fornax::distributed::TcpCollective;
use fornax_engine::{
    Activation, BatchNorm, Collective, Conv2dOptions, ConvBatchNorm, DType, Device, Result, Tensor, cuda,
    no_grad,
};
use std::ops::Range;
use std::sync::Arc;

/// Images of all ranks: not a multiple of any number of ranks but 1.
const IMAGES: usize = 7;
const C: usize = 16;

/// Operation with batch norm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Norm(Activation),
    NormOfSum(Activation),
    ConvNorm,
    ConvNormOfSum,
    Pair,
}

const OPERATIONS: [Operation; 6] = [
    Operation::Norm(Activation::Silu),
    Operation::NormOfSum(Activation::Relu),
    Operation::NormOfSum(Activation::HardSwish),
    Operation::ConvNorm,
    Operation::ConvNormOfSum,
    Operation::Pair,
];

/// The images of a rank; the last rank has fewer or more.
fn images(rank: usize, world: usize) -> Range<usize> {
    IMAGES * rank / world..IMAGES * (rank + 1) / world
}

/// Values near -1..1, plus `offset`.
fn random(shape: &[usize], seed: usize, offset: f32) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0 + offset;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).expect("memory")
}

/// Results of a rank.
struct Results {
    /// By image: the output, and the gradients of the inputs.
    by_image: Vec<Vec<f32>>,
    /// Running statistics, the same on all ranks.
    running: Vec<Vec<f32>>,
    /// Gradients of weights and biases, which are sums over the rank's images.
    parameters: Vec<Vec<f32>>,
}

/// Two updates of the running statistics by these images; results of the second.
fn run(
    operation: Operation,
    dtype: DType,
    images: Range<usize>,
    sync_group: Option<&Arc<dyn Collective>>,
    device: &Device,
) -> Result<Results> {
    let of_images = |seed: usize| -> Result<Tensor> {
        let all = random(&[IMAGES, 5, 4, C], seed, seed as f32 / 4.0);
        all.narrow(0, images.start, images.len())?.copy()?.to_dtype(dtype)?.to_device(device)
    };
    let parameter = |seed: usize, offset: f32| -> Result<Tensor> {
        Ok(random(&[C], seed, offset).to_device(device)?.variable())
    };
    let kernel = |seed: usize| -> Result<Tensor> {
        Ok(random(&[C, 1, 1, C], seed, 0.0).to_dtype(dtype)?.to_device(device)?.variable())
    };
    let [x, other, upstream] = [of_images(1)?.variable(), of_images(2)?.variable(), of_images(3)?];
    let kernels = [kernel(4)?, kernel(5)?];
    let vectors = [parameter(6, 2.0)?, parameter(7, 0.0)?, parameter(8, 2.0)?, parameter(9, 0.0)?];
    let running = (0..4).map(|i| random(&[C], 10 + i, 3.0).to_device(device)).collect::<Result<Vec<_>>>()?;
    let norm = |i: usize| BatchNorm {
        weight: Some(&vectors[2 * i]),
        bias: Some(&vectors[2 * i + 1]),
        running: Some((&running[2 * i], &running[2 * i + 1])),
        training: true,
        momentum: 0.25,
        eps: 1e-3,
        sync_group,
        ..BatchNorm::default()
    };
    let forward = || {
        let (plain, relu) = (Conv2dOptions::default(), Activation::Relu);
        match operation {
            Operation::Norm(f) => x.batch_norm_act(&norm(0), f, None),
            Operation::NormOfSum(f) => x.batch_norm_act(&norm(0), f, Some(&other)),
            Operation::ConvNorm => x.conv2d_batch_norm_act(&kernels[0], &plain, &norm(0), relu, None),
            Operation::ConvNormOfSum => {
                x.conv2d_batch_norm_act(&kernels[0], &plain, &norm(0), relu, Some(&other))
            }
            Operation::Pair => {
                let conv =
                    |x, i: usize| ConvBatchNorm { x, weight: &kernels[i], options: plain, norm: norm(i) };
                conv(&x, 0).add_relu(&conv(&other, 1))
            }
        }
    };
    no_grad(forward)?;
    let y = forward()?;
    y.backward_from(&upstream)?;
    let floats = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec::<f32>();
    let gradients = |of: &[&Tensor]| of.iter().filter_map(|t| t.grad()).map(|t| floats(&t)).collect();
    let inputs: Result<Vec<_>> = gradients(&[&x, &other]);
    let parameters: Vec<&Tensor> = kernels.iter().chain(&vectors).collect();
    Ok(Results {
        by_image: [vec![floats(&y)?], inputs?].concat(),
        running: running.iter().map(floats).collect::<Result<_>>()?,
        parameters: gradients(&parameters)?,
    })
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}, element {i}: {a}, not {b}");
    }
}

/// Compares the ranks' results with one process's.
fn check(what: &str, ranks: &[Results], whole: &Results, tolerance: f32) {
    let by_image = |i: usize| ranks.iter().flat_map(|rank| rank.by_image[i].clone()).collect::<Vec<_>>();
    for (i, want) in whole.by_image.iter().enumerate() {
        assert_near(&format!("{what}, result {i}"), &by_image(i), want, tolerance);
    }
    for rank in ranks {
        assert_eq!(rank.running, ranks[0].running, "{what}: the ranks agree");
        for (got, want) in rank.running.iter().zip(&whole.running) {
            assert_near(&format!("{what}, running statistics"), got, want, tolerance);
        }
    }
    for (i, want) in whole.parameters.iter().enumerate() {
        let sum = |k: usize| ranks.iter().map(|rank| rank.parameters[i][k]).sum();
        let sums: Vec<f32> = (0..want.len()).map(sum).collect();
        assert_near(&format!("{what}, gradient of parameter {i}"), &sums, want, tolerance);
    }
}

#[test]
fn one_to_four_devices_match_the_whole_batch_on_one() {
    let _guard = serialize();
    for (operation, dtype) in OPERATIONS.into_iter().flat_map(|op| [DType::F32, DType::F16].map(|t| (op, t)))
    {
        let tolerance = if dtype == DType::F32 { 2e-5 } else { 1e-2 };
        Device::emulated(4).expect("the emulated device");
        let whole = run(operation, dtype, 0..IMAGES, None, &Device::Cuda(0)).expect("runs");
        for world in 1..=4 {
            let ranks = run_ranks(world, PATIENT, move |group, device| {
                let images = images(group.rank(), world);
                let group: Arc<dyn Collective> = Arc::new(group);
                run(operation, dtype, images, Some(&group), &device).expect("runs")
            });
            check(&format!("{operation:?} {dtype}, {world} ranks"), &ranks, &whole, tolerance);
        }
    }
}

#[test]
fn one_to_four_cpu_ranks_match_the_whole_batch_in_one_process() {
    let _guard = serialize();
    for operation in OPERATIONS {
        let whole = run(operation, DType::F32, 0..IMAGES, None, &Device::Cpu).expect("runs");
        for world in 1..=4 {
            let ranks = within_deadline(move || {
                on_ranks(world, move |group| {
                    let images = images(group.rank(), world);
                    let tcp: Arc<dyn Collective> =
                        Arc::new(TcpCollective::new(group.clone()).expect("joins"));
                    let results = run(operation, DType::F32, images, Some(&tcp), &Device::Cpu).expect("runs");
                    group.finish().expect("every rank is done");
                    results
                })
            });
            check(&format!("{operation:?}, {world} ranks"), &ranks, &whole, 1e-5);
        }
    }
}

#[test]
fn synchronization_adds_four_operations_to_a_layer() {
    let _guard = serialize();
    let launches = run_ranks(2, PATIENT, |group, device| {
        let rank = group.rank();
        let group: Arc<dyn Collective> = Arc::new(group);
        let count = |sync_group: Option<&Arc<dyn Collective>>| {
            let before = cuda::launch_count(device);
            run(Operation::ConvNorm, DType::F16, images(rank, 2), sync_group, &device).expect("runs");
            cuda::launch_count(device) - before
        };
        // Kernels are compiled and convolutions planned first.
        count(Some(&group));
        [count(None), count(Some(&group))]
    });
    for [local, synced] in launches {
        // Two passes forward and one backward. Collective operations are not counted as launches.
        assert_eq!(synced, local + 3, "a merge in each forward pass, and the factors in the backward pass");
    }
}
