//! Memory traffic of kernels on the emulated device in counted mode, against the minimum that their operations need.
//!
//! A separate process, since kernels are compiled with or without counting when they are first used.
#[path = "traffic/step.rs"]
mod step;

use fornax::optim::{OptimizerOptions, rule};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{
    Activation, BatchNorm, DType, Device, EraseMode, GradClip, GradientRule, ImageChange, ImagePreparation,
    LossScaling, Result, Tensor, UpdateOperands, UpdateState, update,
};
use fornax_kernels::emulator::{self, EmulatorOptions};
use std::sync::{Mutex, MutexGuard};

const GPU: Device = Device::Cuda(0);

/// Serializes the tests: traffic counts are global.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    emulator::load(&EmulatorOptions::default()).expect("the emulated device");
    emulator::set_counted(true).expect("the emulated device");
    guard
}

/// Bytes that a kernel has moved.
fn moved(kernel: &str) -> u64 {
    emulator::work_counts().get(kernel).map_or(0, |count| count.loads + count.stores)
}

/// A kernel, and the minimum number of bytes it moves.
struct KernelTraffic {
    kernel: String,
    minimum: usize,
}

impl KernelTraffic {
    fn new(kernel: &str, dtype: DType, minimum: usize) -> KernelTraffic {
        KernelTraffic { kernel: format!("{kernel}_{dtype}"), minimum }
    }
}

/// Runs `f` and asserts that the kernels move at most 1.1 times the minimum.
fn check(passes: &[KernelTraffic], f: impl FnOnce() -> Result<()>) {
    let before: Vec<u64> = passes.iter().map(|pass| moved(&pass.kernel)).collect();
    f().and_then(|()| GPU.synchronize()).expect("runs");
    for (KernelTraffic { kernel, minimum }, before) in passes.iter().zip(before) {
        let bytes = moved(kernel) - before;
        assert!(bytes as usize >= *minimum, "{kernel} moved {bytes} bytes, fewer than {minimum}");
        assert!(bytes as f64 <= 1.1 * *minimum as f64, "{kernel} moved {bytes} bytes for {minimum}");
    }
}

fn full(shape: &[usize], dtype: DType) -> Tensor {
    let value = |i: usize| (i * 7919 % 1013) as f32 / 253.0 - 2.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    let t = Tensor::from_vec(values, shape).and_then(|t| t.to_dtype(dtype)?.to_device(&GPU));
    t.expect("memory")
}

#[test]
fn batch_norm_reads_and_writes_each_element_once_per_pass() {
    let _guard = serialize();
    let shape = [8, 28, 28, 64];
    let n: usize = shape.iter().product();
    for dtype in [DType::F32, DType::F16] {
        let (tensor, bits) = (n * dtype.size(), n / 8);
        let pass = |kernel: &str, tensors: usize, extra: usize| {
            KernelTraffic::new(&format!("batch_norm_{kernel}"), dtype, tensors * tensor + extra)
        };
        let run = |f: Activation, residual: bool| -> Result<()> {
            let [x, r] = [full(&shape, dtype).variable(), full(&shape, dtype).variable()];
            let [weight, bias] = [full(&[64], DType::F32).variable(), full(&[64], DType::F32).variable()];
            let norm = BatchNorm {
                weight: Some(&weight),
                bias: Some(&bias),
                training: true,
                ..BatchNorm::default()
            };
            let y = x.batch_norm_act(&norm, f, residual.then_some(&r))?;
            y.backward_from(&full(&shape, dtype))
        };
        // x and y; x and dy; x, dy and dx. The derivative follows from x.
        let passes = [pass("fwd", 2, 0), pass("sums_bwd", 2, 0), pass("bwd", 3, 0)];
        check(&passes, || run(Activation::Relu, false));
        // x, residual, y and the mask; x, dy, d and the mask; x, d and dx.
        let passes = [pass("masked_fwd", 3, bits), pass("masked_sums_bwd", 3, bits), pass("bwd", 3, 0)];
        check(&passes, || run(Activation::Relu, true));
        check(&passes, || run(Activation::Relu6, true));
        // The derivative of SiLU is not binary: the residual is read again.
        let passes = [pass("fwd", 3, 0), pass("sums_bwd", 4, 0), pass("bwd", 3, 0)];
        check(&passes, || run(Activation::Silu, true));
    }
}

#[test]
fn losses_read_the_logits_once() {
    let _guard = serialize();
    let (rows, classes) = (64, 2048);
    for dtype in [DType::F32, DType::F16] {
        let tensor = rows * classes * dtype.size();
        let logits = full(&[rows, classes], dtype).variable();
        // Logits; logits and their gradient. The class and sums of a row are negligible.
        let passes = [
            KernelTraffic::new("cross_entropy_fwd", dtype, tensor),
            KernelTraffic::new("cross_entropy_bwd", dtype, 2 * tensor),
        ];
        check(&passes, || {
            let target: Vec<i64> = (0..rows as i64).collect();
            let target = Tensor::from_vec(target, [rows])?.to_device(&GPU)?;
            logits.cross_entropy_counted(&target, 0.1, 5)?.0.backward()
        });
        // In addition the targets.
        let passes = [
            KernelTraffic::new("soft_cross_entropy_fwd", dtype, 2 * tensor),
            KernelTraffic::new("soft_cross_entropy_bwd", dtype, 3 * tensor),
        ];
        check(&passes, || logits.soft_target_cross_entropy(&full(&[rows, classes], dtype))?.backward());
    }
}

#[test]
fn elementwise_kernels_move_only_their_operands() {
    let _guard = serialize();
    let n = 1 << 18;
    for dtype in [DType::F32, DType::F16] {
        let tensor = n * dtype.size();
        let passes = [
            KernelTraffic::new("silu_fwd", dtype, 2 * tensor),
            KernelTraffic::new("silu_bwd", dtype, 3 * tensor),
        ];
        check(&passes, || {
            let y = full(&[n], dtype).variable().activate(Activation::Silu)?;
            y.backward_from(&full(&[n], dtype))
        });
        // Mean and standard deviation are launch arguments.
        let bytes = Tensor::full([n / 4, 4], 77.0, DType::U8, &GPU).expect("memory");
        check(&[KernelTraffic::new("normalize", dtype, n + tensor)], || {
            bytes.normalize_bytes(255, &[0.5; 4], &[0.2; 4], dtype).map(|_| ())
        });
    }
}

#[test]
fn optimizer_update_is_one_pass() {
    let _guard = serialize();
    let n = 1 << 18;
    let gradients = GradientRule { scaling: Some(LossScaling::default()), clip: Some(GradClip::Norm(1.0)) };
    for name in ["sgd", "adamw"] {
        let rule = rule(name, &OptimizerOptions::default()).expect("an optimizer").update;
        let moments: Vec<Tensor> = (0..rule.state_spec().moments.len())
            .map(|_| Tensor::zeros([n], DType::F32, &GPU).expect("memory"))
            .collect();
        let [weights, gradient, ema] = [0; 3].map(|_| full(&[n], DType::F32));
        let weights = weights.variable();
        weights.cached_cast(DType::F16).expect("a copy");
        // The norm pass reads the gradient. The update reads it, reads and writes weights, moments and EMA, and writes the low-precision copy.
        let minimum = (1 + 2 * (2 + moments.len())) * n * 4 + 2 * n;
        let norm_pass = KernelTraffic::new("gradient_norm", DType::F32, n * 4);
        let kernel = rule.kernels()[0].to_string();
        check(&[norm_pass, KernelTraffic { kernel, minimum }], || {
            let state = UpdateState::new(gradients, &rule, &GPU)?;
            state.set_lr(0.1, 0.9)?;
            let parameter = UpdateOperands {
                moments: moments.iter().collect(),
                ema: Some(&ema),
                weight_decay: 0.1,
                ..UpdateOperands::new(&weights, &gradient)
            };
            update(&rule, &[parameter], &state)
        });
    }
}

#[test]
fn prepare_images_is_one_pass() {
    let _guard = serialize();
    let [n, h, w, c] = [4, 32, 32, 3];
    let bytes: Vec<u8> = (0..n * h * w * c).map(|i| (i % 251) as u8).collect();
    let x = Tensor::from_vec(bytes, [n, h, w, c]).and_then(|x| x.to_device(&GPU)).expect("memory");
    let mixed = |i: usize| ImageChange { partner: n - 1 - i, lam: 0.3, ..ImageChange::none(i) };
    let plain: Vec<ImageChange> = (0..n).map(ImageChange::none).collect();
    let rng = RngStream::new(RngKey::new(1, "erase"), 0, 0);
    let how = ImagePreparation {
        white: 255,
        mean: &[0.5; 3],
        std: &[0.2; 3],
        rounded: false,
        erase_mode: EraseMode::Const,
        rng,
    };
    // The bytes of a partner are those of another image.
    for changes in [plain, (0..n).map(mixed).collect()] {
        let rows = ImageChange::rows(&changes, n, 1).and_then(|rows| rows.to_device(&GPU)).expect("memory");
        for dtype in [DType::F32, DType::F16] {
            let minimum = x.numel() * (1 + dtype.size());
            check(&[KernelTraffic::new("prepare_u8", dtype, minimum)], || {
                x.prepare_images(&rows, &how, dtype).map(drop)
            });
        }
    }
}
