//! Builds cuDNN's plans for every convolution of ResNet-50 and MobileNetV2, for devices that are described in files and need not be
//! present, and creates cuBLASLt's descriptors of matmuls. `scripts/check-cudnn` installs the libraries and runs it. Fails if a plan
//! cannot be built, or if cuDNN's status codes differ from the emulated device's.
//!
//! ```text
//! cudnn_plans DEVICE.json...
//! ```
#[path = "../tests/libraries/cudnn_errors.rs"]
mod cudnn_errors;

use fornax_engine::cuda::cublaslt::{Epilogue, Gemm, check_descriptors};
use fornax_engine::cuda::cudnn::{
    ConvEngineOptions, ConvFusion, ConvKind, ConvPlanner, ConvProblem, DeviceProperties,
};
use fornax_engine::{ConvShape, DType};
use std::error::Error;
use std::process::ExitCode;

const BATCH: usize = 32;
const IMAGE: usize = 224;

/// A network's convolutions in order, including repetitions.
struct Network {
    name: &'static str,
    layers: Vec<ConvShape>,
    size: usize,
}

/// Name, storage dtype, and whether tensor cores may round to TF32.
const PRECISIONS: [(&str, DType, bool); 4] = [
    ("f16", DType::F16, false),
    ("bf16", DType::BF16, false),
    ("f32", DType::F32, false),
    ("tf32", DType::F32, true),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut failures = 0;
    for file in std::env::args().skip(1) {
        let planner =
            ConvPlanner::deviceless(DeviceProperties::from_json(&std::fs::read_to_string(&file)?)?)?;
        println!("{file}, cuDNN {}, batch {BATCH}, {IMAGE} x {IMAGE}", planner.version());
        println!(
            "{:<12} {:<5} {:<15} {:>6} {:>8} {:>6} {:>9} {:>9} {:>14}",
            "network", "dtype", "kind", "convs", "distinct", "plans", "offered", "allowed", "workspace MiB"
        );
        for network in [resnet50(), mobilenet_v2()] {
            for (precision, dtype, tf32) in PRECISIONS {
                for kind in ConvKind::ALL {
                    let options = ConvEngineOptions { tf32, deterministic: true, ..Default::default() };
                    failures += row(&planner, &network, precision, |shape| ConvProblem {
                        kind,
                        shape,
                        dtype,
                        alignment: 16,
                        fusion: ConvFusion::default(),
                        options,
                    });
                }
            }
        }
        failures += fused_rows(&planner);
    }
    // SAFETY: the library is open already, and has no preconditions.
    let cudnn = unsafe { libloading::Library::new("libcudnn.so.9") }?;
    for difference in cudnn_errors::differences(&cudnn) {
        println!("FAILED: unlike the emulated device's cuDNN: {difference}");
        failures += 1;
    }
    failures += check_gemms();
    println!("{failures} failed");
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plans the convolutions of ResNet-50 that have channels in multiples of 8, with statistics, and their data gradients added in place; the
/// number of failures.
fn fused_rows(planner: &ConvPlanner) -> usize {
    let mut network = resnet50();
    network.layers.retain(|shape| shape.c_in.is_multiple_of(8));
    let mut failures = 0;
    for (precision, dtype) in [("f16", DType::F16), ("bf16", DType::BF16)] {
        let options = ConvEngineOptions { deterministic: true, ..Default::default() };
        let statistics = ConvFusion { statistics: true, ..ConvFusion::default() };
        let accumulate = ConvFusion { accumulate: true, ..ConvFusion::default() };
        for (name, kind, fusion) in
            [("+ statistics", ConvKind::Forward, statistics), ("dx +=", ConvKind::DataGradient, accumulate)]
        {
            let problem = |shape| ConvProblem { kind, shape, dtype, alignment: 16, fusion, options };
            let unsupported = plan_all(planner, &network, name, precision, problem);
            unsupported.iter().for_each(|why| println!("    FAILED: {why}"));
            failures += unsupported.len();
        }
    }
    failures
}

/// Creates cuBLASLt's descriptors of matmuls (it selects algorithms only on a device); the number of failures.
fn check_gemms() -> usize {
    let mut failures = 0;
    for (_, dtype, tf32) in PRECISIONS {
        let with_aux = [
            Epilogue::BiasReluAux,
            Epilogue::BiasGeluTanhAux,
            Epilogue::DreluBgrad,
            Epilogue::DgeluTanhBgrad,
        ];
        let without_aux =
            [Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu, Epilogue::BiasGeluTanh, Epilogue::BgradA];
        for epilogue in without_aux.into_iter().chain(with_aux) {
            let gemm = Gemm {
                batch: if with_aux.contains(&epilogue) { 1 } else { 3 },
                transpose_b: true,
                tf32,
                epilogue,
                ..Gemm::new(dtype, 32, 1000, 2048)
            };
            if let Err(e) = check_descriptors(&gemm) {
                println!("FAILED: {e} ({gemm})");
                failures += 1;
            }
        }
    }
    failures
}

/// Plans every distinct convolution of a network for one computation, and prints a line; the number of failures.
fn row(
    planner: &ConvPlanner,
    network: &Network,
    precision: &str,
    problem: impl Fn(ConvShape) -> ConvProblem,
) -> usize {
    let kind = problem(network.layers[0]).kind.to_string();
    let unsupported = plan_all(planner, network, &kind, precision, problem);
    unsupported.iter().for_each(|why| println!("    FAILED: {why}"));
    unsupported.len()
}

/// As [`row`]; the errors of the convolutions without a plan.
fn plan_all(
    planner: &ConvPlanner,
    network: &Network,
    what: &str,
    precision: &str,
    problem: impl Fn(ConvShape) -> ConvProblem,
) -> Vec<String> {
    let layers = &network.layers;
    let unique = layers.iter().enumerate().filter(|(i, shape)| !layers[..*i].contains(shape));
    let distinct: Vec<ConvShape> = unique.map(|(_, shape)| *shape).collect();
    let (mut offered, mut allowed, mut workspace, mut plans) = (Range::default(), Range::default(), 0, 0);
    let mut unsupported = Vec::new();
    for shape in &distinct {
        match planner.survey(&problem(*shape)) {
            Ok(survey) => {
                offered.add(survey.offered);
                allowed.add(survey.allowed);
                workspace = workspace.max(survey.workspace);
                plans += 1;
            }
            Err(e) => unsupported.push(format!("{e} ({})", problem(*shape))),
        }
    }
    println!(
        "{:<12} {precision:<5} {:<15} {:>6} {:>8} {plans:>6} {:>9} {:>9} {:>14.1}",
        network.name,
        what,
        network.layers.len(),
        distinct.len(),
        offered.to_string(),
        allowed.to_string(),
        workspace as f64 / 1048576.0
    );
    unsupported
}

/// Minimum and maximum of several counts.
#[derive(Default)]
struct Range(Option<(usize, usize)>);

impl Range {
    fn add(&mut self, value: usize) {
        let (min, max) = self.0.unwrap_or((value, value));
        self.0 = Some((min.min(value), max.max(value)));
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((min, max)) => f.pad(&format!("{min}-{max}")),
            None => f.pad("none"),
        }
    }
}

/// He et al. 2015, table 1, 50 layers, with the stride on the 3x3 convolution as in every current implementation.
fn resnet50() -> Network {
    let mut net = Network::new("resnet50");
    let mut c = net.conv(3, 64, 7, 2, 1);
    net.size = net.size.div_ceil(2); // the max pooling
    for (width, blocks, first_stride) in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)] {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            if block == 0 {
                let size = net.size;
                net.conv(c, 4 * width, 1, stride, 1); // the shortcut
                net.size = size;
            }
            net.conv(c, width, 1, 1, 1);
            net.conv(width, width, 3, stride, 1);
            c = net.conv(width, 4 * width, 1, 1, 1);
        }
    }
    net
}

/// Sandler et al. 2018, table 2: expansion, channels, blocks, first stride.
fn mobilenet_v2() -> Network {
    let mut net = Network::new("mobilenetv2");
    let mut c = net.conv(3, 32, 3, 2, 1);
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expansion, channels, blocks, first_stride) in stages {
        for block in 0..blocks {
            let hidden = expansion * c;
            if expansion > 1 {
                net.conv(c, hidden, 1, 1, 1);
            }
            net.conv(hidden, hidden, 3, if block == 0 { first_stride } else { 1 }, hidden);
            c = net.conv(hidden, channels, 1, 1, 1);
        }
    }
    net.conv(c, 1280, 1, 1, 1);
    net
}

impl Network {
    fn new(name: &'static str) -> Network {
        Network { name, layers: Vec::new(), size: IMAGE }
    }

    /// Adds a square convolution with "same" padding and returns its output channels.
    fn conv(&mut self, c_in: usize, c_out: usize, kernel: usize, stride: usize, groups: usize) -> usize {
        let shape =
            ConvShape { groups, ..ConvShape::square(BATCH, self.size, [c_in, c_out], kernel, stride) };
        self.size = shape.out_h();
        self.layers.push(shape);
        c_out
    }
}
