//! Times the forward pass and both gradients of the convolutions of common image models:
//!
//! ```text
//! cargo run --release -p fornax-engine --example conv_speed [PATTERN [LEVEL]]
//! ```
//!
//! prints milliseconds and GFLOP/s of the rows whose name contains PATTERN, limited to the given SIMD level, and the speedup over
//! PyTorch 2.11 (oneDNN, two Zen 4 cores, two threads) where it was measured. Times are process CPU time divided by the number of
//! threads, the median of several calls, which is robust against other load on the machine.
use fornax_engine::conv_kernels as conv2d;
use fornax_engine::conv_shape::{ConvAlgorithm, ConvShape};
use fornax_engine::cpu::scratch;
use fornax_engine::cpu::simd::{self, Level};

/// PyTorch's milliseconds for the forward pass, data gradient and weight gradient; 0 where not measured.
type PytorchTimes = [f64; 3];

const UNKNOWN: PytorchTimes = [0.0; 3];

/// Batch, side of the square input, input and output channels, kernel, stride, groups.
const SHAPES: &[(&str, [usize; 7], PytorchTimes)] = &[
    ("resnet18 3x3 64->64 @56", [16, 56, 64, 64, 3, 1, 1], [16.2, 16.2, 18.6]),
    ("resnet18 3x3 128->128 @28", [16, 28, 128, 128, 3, 1, 1], [15.7, 15.8, 17.1]),
    ("resnet18 3x3 256->256 @14", [16, 14, 256, 256, 3, 1, 1], [15.1, 15.1, 16.4]),
    ("resnet18 3x3 512->512 @7", [16, 7, 512, 512, 3, 1, 1], [14.5, 14.9, 17.4]),
    ("resnet18 3x3 s2 64->128 @56", [16, 56, 64, 128, 3, 2, 1], [8.5, 8.9, 10.7]),
    ("resnet18 3x3 s2 256->512 @14", [16, 14, 256, 512, 3, 2, 1], UNKNOWN),
    ("resnet18 1x1 s2 64->128 @56", [16, 56, 64, 128, 1, 2, 1], UNKNOWN),
    ("resnet50 1x1 256->64 @56", [16, 56, 256, 64, 1, 1, 1], [8.7, 25.0, 9.1]),
    ("resnet50 1x1 64->256 @56", [16, 56, 64, 256, 1, 1, 1], [19.2, 9.2, 11.6]),
    ("resnet50 1x1 1024->256 @14", [8, 14, 1024, 256, 1, 1, 1], UNKNOWN),
    ("resnet50 1x1 2048->512 @7", [8, 7, 2048, 512, 1, 1, 1], UNKNOWN),
    ("resnet50 1x1 512->2048 @7", [8, 7, 512, 2048, 1, 1, 1], UNKNOWN),
    ("resnet50 stem 7x7 s2 3->64 @224", [16, 224, 3, 64, 7, 2, 1], [29.9, 90.0, 21.4]),
    ("resnet50d stem 3x3 s2 3->32 @224", [8, 224, 3, 32, 3, 2, 1], UNKNOWN),
    ("resnet50d stem 3x3 32->32 @112", [8, 112, 32, 32, 3, 1, 1], UNKNOWN),
    ("cnn 3x3 1->32 @28", [256, 28, 1, 32, 3, 1, 1], [1.22, 0.0, 0.99]),
    ("cnn 3x3 32->64 @28", [256, 28, 32, 64, 3, 1, 1], [45.7, 34.2, 37.4]),
    ("cnn 3x3 s2 32->64 @28", [256, 28, 32, 64, 3, 2, 1], [9.3, 17.0, 11.4]),
    ("cnn 3x3 s2 64->128 @14", [256, 14, 64, 128, 3, 2, 1], [8.4, 9.4, 10.4]),
    ("cifar 3x3 3->64 @32", [64, 32, 3, 64, 3, 1, 1], UNKNOWN),
    ("cifar 3x3 64->64 @32", [64, 32, 64, 64, 3, 1, 1], [20.9, 21.0, 23.8]),
    ("cifar 3x3 128->128 @16", [64, 16, 128, 128, 3, 1, 1], [20.0, 20.1, 21.8]),
    ("cifar 3x3 256->256 @8", [64, 8, 256, 256, 3, 1, 1], [18.4, 18.6, 20.2]),
    ("cifar 3x3 512->512 @4", [64, 4, 512, 512, 3, 1, 1], [16.5, 16.5, 22.9]),
    ("cifar 3x3 s2 256->512 @8", [64, 8, 256, 512, 3, 2, 1], UNKNOWN),
    ("mobilenet 1x1 32->16 @112", [16, 112, 32, 16, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 16->96 @112", [16, 112, 16, 96, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 96->24 @56", [16, 56, 96, 24, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 24->144 @56", [16, 56, 24, 144, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 144->24 @56", [16, 56, 144, 24, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 144->32 @28", [16, 28, 144, 32, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 32->192 @28", [16, 28, 32, 192, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 64->384 @14", [16, 14, 64, 384, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 384->96 @14", [16, 14, 384, 96, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 576->160 @7", [16, 7, 576, 160, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 160->960 @7", [16, 7, 160, 960, 1, 1, 1], UNKNOWN),
    ("mobilenet 1x1 320->1280 @7", [16, 7, 320, 1280, 1, 1, 1], UNKNOWN),
    ("depthwise 3x3 32 @112", [16, 112, 32, 32, 3, 1, 32], UNKNOWN),
    ("depthwise 3x3 s2 96 @112", [16, 112, 96, 96, 3, 2, 96], UNKNOWN),
    ("depthwise 3x3 96 @56", [16, 56, 96, 96, 3, 1, 96], [2.0, 2.0, 2.3]),
    ("depthwise 3x3 144 @56", [16, 56, 144, 144, 3, 1, 144], UNKNOWN),
    ("depthwise 3x3 384 @14", [16, 14, 384, 384, 3, 1, 384], UNKNOWN),
    ("depthwise 3x3 960 @7", [16, 7, 960, 960, 3, 1, 960], UNKNOWN),
    ("depthwise 5x5 s2 240 @28", [16, 28, 240, 240, 5, 2, 240], UNKNOWN),
    ("depthwise 7x7 96 @56", [16, 56, 96, 96, 7, 1, 96], UNKNOWN),
    ("depthwise 7x7 768 @7", [16, 7, 768, 768, 7, 1, 768], UNKNOWN),
    ("resnext 3x3 32x4 @56", [16, 56, 128, 128, 3, 1, 32], UNKNOWN),
    ("resnext 3x3 32x8 @28", [16, 28, 256, 256, 3, 1, 32], UNKNOWN),
    ("resnext 3x3 32x16 @14", [16, 14, 512, 512, 3, 1, 32], UNKNOWN),
    ("regnet 3x3 24 @28", [16, 28, 216, 216, 3, 1, 9], UNKNOWN),
    ("vit patch 16x16 s16 3->384 @224", [16, 224, 3, 384, 16, 16, 1], UNKNOWN),
];

fn main() {
    let mut args = std::env::args().skip(1);
    let pattern = args.next().unwrap_or_default();
    if let Some(name) = args.next() {
        let named = |level: &&Level| format!("{level:?}").eq_ignore_ascii_case(&name);
        match Level::supported().iter().find(named) {
            Some(level) => simd::set_max_level(*level),
            None => return eprintln!("unknown SIMD level {name}; this CPU has {:?}", Level::supported()),
        }
    }
    for (name, row, pytorch) in SHAPES.iter().filter(|(name, ..)| name.contains(&pattern)) {
        let s = shape(*row);
        println!("{name:32} {}", measure(&s, pytorch));
    }
}

fn shape([n, side, c_in, c_out, kernel, stride, groups]: [usize; 7]) -> ConvShape {
    // Patch embeddings have no padding; other convolutions keep the size.
    let padding = if kernel == stride { 0 } else { kernel / 2 };
    let algorithm = ConvAlgorithm::Auto;
    let [kernel, stride, padding, dilation] = [kernel, stride, padding, 1].map(|v| [v; 2]);
    ConvShape { n, h: side, w: side, c_in, c_out, kernel, stride, padding, dilation, groups, algorithm }
}

fn measure(s: &ConvShape, pytorch: &PytorchTimes) -> String {
    let lens = [s.input_len(), s.weight_len(), s.output_len(), s.input_len(), s.weight_len(), s.output_len()];
    scratch::with(lens.iter().map(|l| l.next_multiple_of(16)).sum(), |all: &mut [f32]| {
        let mut seed = 1u64;
        for v in all.iter_mut() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *v = (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        let mut rest = all;
        let mut next = |len: usize| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(16));
            rest = tail;
            &mut head[..len]
        };
        let [x, weight, dy, dx, dw, y] = lens.map(&mut next);
        let times = [
            time(|| conv2d::forward(s, x, weight, None, y)),
            time(|| conv2d::data_gradient(s, dy, weight, dx)),
            time(|| conv2d::weight_gradient(s, x, dy, dw)),
        ];
        let flops = 2.0 * s.macs() as f64;
        let cell = |(ms, pytorch): (&f64, &f64)| {
            let ratio = if *pytorch > 0.0 { format!("{:.2}x", pytorch / ms) } else { String::new() };
            format!("| {ms:7.3} ms {:4.0} {ratio:6}", flops / ms / 1e6)
        };
        times.iter().zip(pytorch).map(cell).collect::<Vec<_>>().join(" ")
    })
}

/// Milliseconds of one call: CPU time over threads, the median of eleven after a warm-up.
fn time(mut call: impl FnMut()) -> f64 {
    for _ in 0..3 {
        call();
    }
    let mut times = [0.0; 11];
    for t in &mut times {
        let start = cpu_seconds();
        call();
        *t = (cpu_seconds() - start) / rayon::current_num_threads() as f64 * 1e3;
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the struct that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}
