//! Direct and Winograd convolutions, layer by layer, and the bound that direct convolutions set to a training step; prints Markdown.
//!
//!     conv_algorithms
//!
//! A time is the minimum of interleaved rounds of CPU time per thread. The speed-up of a layer is the time of the direct convolution over
//! the time of the algorithm that `--conv-algo auto` chooses. The bound of a step is the time that the FMAs of its convolutions take at the
//! CPU's peak if all of them are computed directly.
use fornax_benches::measure;
use fornax_benches::networks::{Network, convolution_fmas};
use fornax_engine::conv_kernels as conv2d;
use fornax_engine::conv_shape::{ConvAlgorithm, ConvShape};
use fornax_engine::cpu::simd;
use fornax_engine::random::{RngKey, RngStream};
use std::time::Instant;

/// Interleaved rounds per layer.
const ROUNDS: usize = 9;

/// Network, batch, side, input channels and output channels of 3x3 convolutions of stride 1.
const LAYERS: &[(&str, usize, [usize; 3])] = &[
    ("ResNet-18, 34 and 50", 16, [56, 64, 64]),
    ("ResNet-18, 34 and 50", 16, [28, 128, 128]),
    ("ResNet-18, 34 and 50", 16, [14, 256, 256]),
    ("ResNet-18, 34 and 50", 16, [7, 512, 512]),
    ("ResNet-50-D stem", 8, [112, 32, 32]),
    ("ResNet-50-D stem", 8, [112, 32, 64]),
    ("ResNet-18 at 32 pixels", 64, [32, 64, 64]),
    ("ResNet-18 at 32 pixels", 64, [16, 128, 128]),
    ("ResNet-18 at 32 pixels", 64, [8, 256, 256]),
    ("ResNet-18 at 32 pixels", 64, [4, 512, 512]),
    ("ResNet-20", 128, [32, 16, 16]),
    ("ResNet-20", 128, [16, 32, 32]),
    ("ResNet-20", 128, [8, 64, 64]),
    ("Wide ResNet-28-10", 64, [32, 16, 160]),
    ("Wide ResNet-28-10", 64, [32, 160, 160]),
    ("Wide ResNet-28-10", 64, [16, 160, 320]),
    ("Wide ResNet-28-10", 64, [16, 320, 320]),
    ("Wide ResNet-28-10", 64, [8, 320, 640]),
    ("Wide ResNet-28-10", 64, [8, 640, 640]),
];

fn main() {
    let peak = peak_fmas();
    let threads = rayon::current_num_threads();
    println!(
        "{threads} threads at level {:?}; the peak of a thread is {:.1} GFMA/s.\n",
        simd::level(),
        peak / 1e9
    );
    println!(
        "| network | layer | forward direct ms | auto ms | speed-up | data gradient direct ms | auto ms | speed-up | weight gradient direct ms | auto ms | speed-up |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (network, batch, layer) in LAYERS {
        print_layer(network, *batch, *layer);
    }
    println!("\n| step | direct convolutions at the peak, ms |\n|---|--:|");
    for network in Network::ALL.into_iter().filter(|network| *network != Network::Resnet50) {
        let bound = convolution_fmas(network) as f64 / peak / threads as f64 * 1e3;
        println!("| {}-b{} | {bound:.1} |", network.name(), network.input()[0]);
    }
}

/// FMAs per second of one thread while all threads compute.
fn peak_fmas() -> f64 {
    const ITERATIONS: usize = 20_000_000;
    let rates = rayon::broadcast(|_| {
        let start = Instant::now();
        simd::run_fmas(ITERATIONS) as f64 / start.elapsed().as_secs_f64()
    });
    rates.into_iter().fold(f64::INFINITY, f64::min)
}

fn print_layer(network: &str, batch: usize, [side, c_in, c_out]: [usize; 3]) {
    let shape = |algorithm| {
        let (n, kernel, unit) = (batch, [3; 2], [1; 2]);
        ConvShape {
            n,
            h: side,
            w: side,
            c_in,
            c_out,
            kernel,
            stride: unit,
            padding: unit,
            dilation: unit,
            groups: 1,
            algorithm,
        }
    };
    let shapes = [ConvAlgorithm::Direct, ConvAlgorithm::Auto].map(shape);
    let s = &shapes[0];
    let (x, weight, dy) = (values(s.input_len()), values(s.weight_len()), values(s.output_len()));
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weight.clone());
    let passes = [
        times(&shapes, |s| conv2d::forward(s, &x, &weight, None, &mut y)),
        times(&shapes, |s| conv2d::data_gradient(s, &dy, &weight, &mut dx)),
        times(&shapes, |s| conv2d::weight_gradient(s, &x, &dy, &mut dw)),
    ];
    print!("| {network} | {c_in} → {c_out} at {side}×{side}, batch {batch} |");
    for [direct, auto] in passes {
        print!(" {direct:.2} | {auto:.2} | {:.2} |", direct / auto);
    }
    println!();
}

/// Minimum milliseconds of CPU time per thread for each shape.
fn times(shapes: &[ConvShape; 2], mut call: impl FnMut(&ConvShape)) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    // The first round warms the caches up.
    for round in 0..=ROUNDS {
        for (shape, best) in shapes.iter().zip(&mut best) {
            let seconds = measure::time(|| call(shape)).cpu / rayon::current_num_threads() as f64;
            if round > 0 {
                *best = best.min(seconds * 1e3);
            }
        }
    }
    best
}

fn values(len: usize) -> Vec<f32> {
    let mut rng = RngStream::new(RngKey::new(1, "values"), 0, 0);
    (0..len).map(|_| rng.uniform() - 0.5).collect()
}
