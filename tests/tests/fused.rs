//! Generated kernels on the emulated device in checked mode: how many bytes they move, and what their source looks like.
use fornax_engine::cuda::CudaGraph;
use fornax_engine::fuse::{self, Broadcast::*, Expression, expression, sigmoid};
use fornax_engine::{DType, Device, Tensor};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_tests::cases::all;
use fornax_tests::parity::{differences, report};

/// The name of the kernel that a source defines.
fn kernel(source: &str) -> String {
    let (_, rest) = source.split_once("KERNEL ").expect("a kernel");
    rest.split_once('(').expect("its parameters").0.to_string()
}

fn bytes(source: &str) -> u64 {
    emulator::traffic(&kernel(source)).map_or(0, |traffic| traffic.loads + traffic.stores)
}

/// Runs an expression of images and vectors by channel, forward and back, and holds the bytes that each kernel moved to what it cannot do
/// without.
fn check_traffic(f: &Expression, lie: &[fuse::Broadcast], images: [usize; 4], dtype: DType) {
    let device = Device::Cuda(0);
    let c = images[3];
    let tensor = |lies: &fuse::Broadcast| {
        let shape = if *lies == Full { images.to_vec() } else { vec![c] };
        let t = Tensor::full(shape, 0.5, dtype, &Device::Cpu).and_then(|t| t.to_device(&device));
        t.expect("memory").variable()
    };
    let inputs: Vec<Tensor> = lie.iter().map(tensor).collect();
    let described: Vec<_> = lie.iter().map(|lies| (dtype, *lies)).collect();
    let sources = [f.cuda_source(&described), f.cuda_gradient_source(&described)];
    let before = sources.each_ref().map(|source| bytes(source));
    let y = f.apply(&inputs.iter().collect::<Vec<_>>()).expect("runs");
    y.backward_from(&y.detach()).expect("runs");
    let full = lie.iter().filter(|lies| **lies == Full).count() as u64;
    let array = (images.iter().product::<usize>() * dtype.size()) as u64;
    // Inputs and the result; inputs, the upstream gradient and a gradient for each.
    for (which, passes) in [(0, full + 1), (1, full + 1 + full)] {
        let moved = bytes(&sources[which]) - before[which];
        let least = passes * array;
        assert!(
            moved >= least && moved as f64 <= 1.1 * least as f64,
            "{moved} for {least}:\n{}",
            sources[which]
        );
    }
}

#[test]
fn generated_kernels_move_no_more_bytes_than_they_must() {
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    let fused: Vec<_> = all().into_iter().filter(|case| case.op.contains("fuse") && !case.large).collect();
    report(differences(fused.iter(), &[DType::F32, DType::F16, DType::BF16], &Device::Cuda(0)), 100);
    for dtype in [DType::F32, DType::F16] {
        check_traffic(&expression(|[x]| x.silu()), &[Full], [8, 28, 28, 64], dtype);
        check_traffic(&expression(|[a, b]| a * sigmoid(b)), &[Full, Full], [8, 28, 28, 64], dtype);
    }
    // So many rows that what a thread loads once for all of its rows does not show.
    let affine = expression(|[x, scale, shift, r]| fuse::relu(x * scale + shift + r));
    check_traffic(&affine, &[Full, Channel, Channel, Full], [48, 56, 56, 64], DType::F16);
}

#[test]
fn the_source_can_be_read() {
    let swish = expression(|[x, beta]| x * sigmoid(x * beta) * sigmoid(x * beta));
    let source = swish.cuda_source(&[(DType::F16, Full), (DType::F32, Channel)]);
    // Common parts are computed once.
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

fn emulated() -> Device {
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    Device::Cuda(0)
}

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 253.0 - 2.0).collect()
}

#[test]
fn halves_take_vectors_in_f32_and_views_need_no_alignment() {
    let f = expression(|[x, scale, y]| fuse::tanh(x * scale) + y);
    for device in [Device::Cpu, emulated()] {
        for c in [5, 8] {
            // Nine rows, of which the first is left out: single elements, or packs.
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
fn a_graph_replays_a_generated_kernel() {
    let device = emulated();
    let on = |values: &[f32]| {
        Tensor::from_slice(values, [values.len()]).and_then(|t| t.to_device(&device)).expect("memory")
    };
    let (state, rate) = (on(&[1.0, -2.0, 3.0]), on(&[0.5, 2.0, -1.0]));
    let f = expression(|[state, rate]| state * rate + 1.0);
    let step = || state.copy_from(&f.apply(&[&state, &rate])?);
    step().expect("runs");
    let graph = CudaGraph::capture(&device, step).expect("records");
    (0..2).for_each(|_| graph.replay().expect("replays"));
    assert_eq!(state.to_vec::<f32>().expect("f32"), [1.875, -9.0, -2.0]);
}

#[test]
fn errors_name_what_does_not_fit() {
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
        fails(&[&x, &tensor(&[3], DType::F32).to_device(&emulated()).expect("memory")])
            .contains("one device")
    );
}

#[test]
fn gradients_stay_small_and_finite() {
    let steps = |n: usize| {
        let f = expression(|[x]| (0..n).fold(x, |y, _| sigmoid(y) * y));
        f.cuda_gradient_source(&[(DType::F32, Full)]).matches("const float v").count()
    };
    assert_eq!(steps(40) - steps(20), 2 * (steps(20) - steps(10)), "each step adds the same");
    // Where e^x overflows, the branch that is not taken gives 0 rather than NaN.
    let elu = expression(|[x]| x.greater(0.0).select(x, x.exp_m1()));
    for device in [Device::Cpu, emulated()] {
        let x = Tensor::from_slice(&[200.0f32, -200.0], [2])
            .and_then(|x| x.to_device(&device))
            .expect("memory")
            .variable();
        elu.apply(&[&x]).and_then(|y| y.sum_all()?.backward()).expect("runs");
        assert_eq!(x.grad().expect("a gradient").to_vec::<f32>().expect("f32"), [1.0, 0.0], "on {device}");
    }
}
