//! Generated kernels: results against the CPU, memory traffic, source code, dtypes and errors.
//!
//! `FORNAX_TEST_DEVICES` selects the device; the default is the emulated one in checked mode, which alone counts memory traffic.
use fornax_engine::cuda::CudaGraph;
use fornax_engine::fuse::{self, Broadcast::*, Expression, expression, sigmoid};
use fornax_engine::{DType, Device, Tensor};
use fornax_kernels::emulator;
use fornax_tests::cases::all;
use fornax_tests::parity::{differences, report};
use fornax_tests::sweep;
use fornax_tests::test_devices;

/// The name of the kernel that a source defines.
fn kernel(source: &str) -> String {
    let (_, rest) = source.split_once("KERNEL ").expect("a kernel");
    rest.split_once('(').expect("its parameters").0.to_string()
}

fn bytes(source: &str) -> u64 {
    emulator::traffic(&kernel(source)).map_or(0, |traffic| traffic.loads + traffic.stores)
}

/// Runs the forward and backward pass of an expression of images and per-channel vectors, and asserts that each kernel moves at most 1.1
/// times the minimum number of bytes. On a real device, which counts nothing, it only runs them.
fn check_traffic(f: &Expression, broadcasts: &[fuse::Broadcast], images: [usize; 4], dtype: DType) {
    let device = gpu();
    let c = images[3];
    let tensor = |broadcast: &fuse::Broadcast| {
        let shape = if *broadcast == Full { images.to_vec() } else { vec![c] };
        let t = Tensor::full(shape, 0.5, dtype, &Device::Cpu).and_then(|t| t.to_device(&device));
        t.expect("memory").variable()
    };
    let inputs: Vec<Tensor> = broadcasts.iter().map(tensor).collect();
    let described: Vec<_> = broadcasts.iter().map(|broadcast| (dtype, *broadcast)).collect();
    let sources = [f.cuda_source(&described), f.cuda_gradient_source(&described)];
    let before = sources.each_ref().map(|source| bytes(source));
    let y = f.apply(&inputs.iter().collect::<Vec<_>>()).expect("runs");
    y.backward_from(&y.detach()).expect("runs");
    let full = broadcasts.iter().filter(|broadcast| **broadcast == Full).count() as u64;
    let array = (images.iter().product::<usize>() * dtype.size()) as u64;
    if !emulator::is_loaded() {
        return device.synchronize().expect("runs");
    }
    // Forward: inputs and the result. Backward: inputs, the upstream gradient, and a gradient for each input.
    for (which, passes) in [(0, full + 1), (1, full + 1 + full)] {
        let moved = bytes(&sources[which]) - before[which];
        let minimum = passes * array;
        assert!(
            moved >= minimum && moved as f64 <= 1.1 * minimum as f64,
            "{moved} for {minimum}:\n{}",
            sources[which]
        );
    }
}

#[test]
fn generated_kernels_move_the_minimum_number_of_bytes() {
    let device = gpu();
    let fused = all().into_iter().filter(|case| case.op.contains("fuse") && !case.large);
    let fused: Vec<_> = fused.step_by(if sweep::is_full() { 1 } else { 2 }).collect();
    let least = if sweep::is_full() { 100 } else { 16 };
    report(differences(sweep::with_dtypes(&fused), &device), least);
    for dtype in if sweep::is_full() { vec![DType::F32, DType::F16] } else { vec![DType::F16] } {
        check_traffic(&expression(|[x]| x.silu()), &[Full], [8, 28, 28, 64], dtype);
        check_traffic(&expression(|[a, b]| a * sigmoid(b)), &[Full, Full], [8, 28, 28, 64], dtype);
    }
    // With many rows, the values that a thread loads once for all its rows are negligible.
    let affine = expression(|[x, scale, shift, r]| fuse::relu(x * scale + shift + r));
    check_traffic(&affine, &[Full, Channel, Channel, Full], [48, 56, 56, 64], DType::F16);
}

#[test]
fn generated_source_is_readable() {
    let swish = expression(|[x, beta]| x * sigmoid(x * beta) * sigmoid(x * beta));
    let source = swish.cuda_source(&[(DType::F16, Full), (DType::F32, Channel)]);
    // Common subexpressions are computed once.
    let body = "  const float v2 = x0 * x1;\n  const float v3 = sigmoid(v2);\n  const float v4 = x0 * v3;\n  \
                const float v5 = v3 * v4;\n  y0 = v5;\n";
    assert!(source.contains(body), "{source}");
    assert!(
        source
            .contains("const half16* __restrict__ p0, const float* __restrict__ p1, half16* __restrict__ q0")
    );
    let back = swish.cuda_gradient_source(&[(DType::F16, Full), (DType::F32, Channel)]);
    assert_eq!(back.matches("sigmoid(").count(), 1, "{back}");
    assert!(back.contains("sum_over_rows(totals, tile.lanes)"), "{back}");
    let literals =
        expression(|[x]| x.greater(f64::INFINITY).select(1e-7, x * 3.0)).cuda_source(&[(DType::F32, Full)]);
    assert!(
        literals.contains("x0 > __uint_as_float(0x7f800000u)") && literals.contains("1e-7f : v"),
        "{literals}"
    );
}

fn gpu() -> Device {
    test_devices::device(true)
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 253.0 - 2.0).collect()
}

#[test]
fn f16_inputs_accept_f32_vectors_and_unaligned_views() {
    let f = expression(|[x, scale, y]| fuse::tanh(x * scale) + y);
    for device in [Device::Cpu, gpu()] {
        for c in [5, 8] {
            // A view without the first of nine rows, which is unaligned for c = 5.
            let x = Tensor::from_vec(values(9 * c, 1), [9, c])
                .and_then(|x| x.to_dtype(DType::F16)?.to_device(&device));
            let x = x.and_then(|x| x.narrow(0, 1, 8)).expect("a view").variable();
            let scale = Tensor::from_vec(values(c, 2), [c])
                .and_then(|t| t.to_device(&device))
                .expect("memory")
                .variable();
            let y = f.apply(&[&x, &scale, &x]).expect("runs");
            y.backward_from(&x.detach()).expect("runs");
            let grad = scale.grad().expect("a gradient");
            assert_eq!((y.dtype(), grad.dtype()), (DType::F16, DType::F32));
            let [x, y] =
                [&x, &y].map(|t| t.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("values"));
            let (scale, grad) =
                (scale.to_vec::<f32>().expect("values"), grad.to_vec::<f32>().expect("values"));
            let mut sums = vec![0.0; c];
            for (i, x) in x.iter().enumerate() {
                let t = (x * scale[i % c]).tanh();
                assert!((y[i] - (t + x)).abs() <= 4e-3, "{device}, c {c}: element {i} is {}", y[i]);
                sums[i % c] += x * x * (1.0 - t * t);
            }
            assert!(
                sums.iter().zip(&grad).all(|(a, b)| (a - b).abs() <= 1e-4),
                "{device}, c {c}: {grad:?} for {sums:?}"
            );
        }
    }
}

#[test]
fn cuda_graph_replays_a_generated_kernel() {
    let device = gpu();
    let on = |values: &[f32]| {
        Tensor::from_slice(values, [values.len()]).and_then(|t| t.to_device(&device)).expect("memory")
    };
    let (state, factor) = (on(&[1.0, -2.0, 3.0]), on(&[0.5, 2.0, -1.0]));
    let f = expression(|[state, factor]| state * factor + 1.0);
    let step = || state.copy_from(&f.apply(&[&state, &factor])?);
    step().expect("runs");
    let graph = CudaGraph::capture(&device, step).expect("captures");
    (0..2).for_each(|_| graph.replay().expect("replays"));
    assert_eq!(state.to_vec::<f32>().expect("f32"), [1.875, -9.0, -2.0]);
}

#[test]
fn errors_name_the_mismatched_input() {
    let f = expression(|[a, b]| a + b);
    let tensor = |shape: &[usize], dtype| Tensor::ones(shape, dtype, &Device::Cpu).expect("memory");
    let x = tensor(&[2, 3], DType::F32);
    let fails = |inputs: &[&Tensor]| f.apply(inputs).expect_err("an error").to_string();
    assert!(fails(&[&x]).contains("has 2 inputs, not 1"));
    assert!(
        fails(&[&x, &tensor(&[2], DType::F32)]).contains("input 1: f32[2]"),
        "{}",
        fails(&[&x, &tensor(&[2], DType::F32)])
    );
    assert!(fails(&[&x, &tensor(&[3], DType::F64)]).contains("the first one's dtype"));
    assert!(
        fails(&[&x, &tensor(&[3], DType::F32).to_device(&gpu()).expect("memory")]).contains("one device")
    );
}

#[test]
fn gradient_source_grows_linearly_and_gradients_are_finite() {
    let steps = |n: usize| {
        let f = expression(|[x]| (0..n).fold(x, |y, _| sigmoid(y) * y));
        f.cuda_gradient_source(&[(DType::F32, Full)]).matches("const float v").count()
    };
    assert_eq!(steps(40) - steps(20), 2 * (steps(20) - steps(10)), "each step adds as many values");
    // Where e^x overflows, the branch that is not selected contributes 0, not NaN.
    let elu = expression(|[x]| x.greater(0.0).select(x, x.exp_m1()));
    for device in [Device::Cpu, gpu()] {
        let x = Tensor::from_slice(&[200.0f32, -200.0], [2])
            .and_then(|x| x.to_device(&device))
            .expect("memory")
            .variable();
        elu.apply(&[&x]).and_then(|y| y.sum_all()?.backward()).expect("runs");
        assert_eq!(x.grad().expect("a gradient").to_vec::<f32>().expect("f32"), [1.0, 0.0], "on {device}");
    }
}
