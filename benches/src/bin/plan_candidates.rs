//! Builds cuDNN's plans for the convolutions of ResNet-50's training step without a device, and stores them in Fornax's cache folder as
//! candidates for the benchmarks of a process with such a device.
//!
//! ```text
//! plan_candidates SECONDS DEVICE.json…      device properties in cuDNN's JSON format; no plan is begun after SECONDS
//! ```
use fornax_benches::networks::{ConvSite, Network, distinct_convolutions};
use fornax_engine::cuda::cudnn::{
    ConvBenchmark, ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvPlanner, ConvProblem,
    DeviceProperties, GpuKind, store_plan_candidates,
};
use fornax_engine::{ConvShape, DType};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Computation and fusion of the problems of a convolution.
const COMPUTATIONS: [(ConvKind, ConvFusion); 5] = [
    (ConvKind::Forward, ConvFusion { statistics: true, accumulate: false }),
    (ConvKind::Forward, ConvFusion { statistics: false, accumulate: false }),
    (ConvKind::DataGradient, ConvFusion { statistics: false, accumulate: false }),
    (ConvKind::DataGradient, ConvFusion { statistics: false, accumulate: true }),
    (ConvKind::WeightGradient, ConvFusion { statistics: false, accumulate: false }),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().ok_or("usage: plan_candidates SECONDS DEVICE.json…")?.parse()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    for file in words {
        let text = std::fs::read_to_string(&file)?;
        let kind = kind_of(&serde_json::from_str(&text)?).ok_or(format!("{file} describes no GPU"))?;
        let planner = ConvPlanner::deviceless(DeviceProperties::from_json(&text)?)?;
        let (mut count, mut bytes, mut unplanned) = (0, 0, 0);
        for problem in problems() {
            let ConvPlanChoice::Benchmark(benchmark) = problem.options.choice else { continue };
            let ConvBenchmark { candidates, fused_candidates, workspace, .. } = benchmark;
            let wanted = if problem.fusion.statistics { fused_candidates } else { candidates };
            let plans = match Instant::now() < end {
                true => planner.candidates(&problem, wanted, workspace).unwrap_or_default(),
                false => vec![],
            };
            unplanned += usize::from(plans.is_empty());
            if !plans.is_empty() {
                store_plan_candidates(kind, planner.version(), &problem, &plans);
            }
            count += plans.len();
            bytes += plans.iter().map(String::len).sum::<usize>();
        }
        let version = planner.version();
        println!(
            "{file}, cuDNN {version}: {count} plans, {bytes} bytes; {unplanned} problems without a plan"
        );
    }
    Ok(())
}

fn kind_of(device: &Value) -> Option<GpuKind> {
    let version = device["deviceVer"].as_u64()? as u32;
    let multiprocessors = device["multiProcessorCount"].as_u64()? as u32;
    Some(GpuKind { capability: (version / 100, version % 100 / 10), multiprocessors })
}

/// The problems in f16, then in bf16. cuDNN fuses only channels in multiples of 8; the stem has no data gradient.
fn problems() -> Vec<ConvProblem> {
    let choice = ConvPlanChoice::Benchmark(ConvBenchmark::default());
    let options = ConvEngineOptions { tf32: false, deterministic: true, choice };
    let mut problems = vec![];
    for dtype in [DType::F16, DType::BF16] {
        for site in distinct_convolutions(Network::Resnet50) {
            let is_stem = !site.c_in.is_multiple_of(8);
            for (kind, fusion) in COMPUTATIONS {
                if is_stem && (kind == ConvKind::DataGradient || fusion.statistics) {
                    continue;
                }
                problems.push(ConvProblem {
                    kind,
                    shape: shape_of(site),
                    dtype,
                    alignment: 16,
                    fusion,
                    options,
                });
            }
        }
    }
    problems
}

fn shape_of(site: ConvSite) -> ConvShape {
    let ConvSite { c_in, c_out, kernel, stride, groups, size, .. } = site;
    let n = Network::Resnet50.input()[0];
    ConvShape { groups, ..ConvShape::square(n, size, [c_in, c_out], kernel, stride) }
}
