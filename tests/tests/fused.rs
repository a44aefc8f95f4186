//! Generated kernels on the emulated device in checked mode: how many bytes they move, and what their source looks like.
use fornax_engine::fuse::{self, Broadcast::*, Expression, expression, sigmoid};
use fornax_engine::{DType, Device, Tensor};
use fornax_kernels::emulator::{self, Options};
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
    let sources = [f.cuda_source(&described), f.cuda_source_of_gradients(&described)];
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
    emulator::load(&Options { checked: true, ..Options::default() }).expect("the emulated device");
    let fused: Vec<_> = all().into_iter().filter(|case| case.op == "fuse" && !case.large).collect();
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
    let back = swish.cuda_source_of_gradients(&[(DType::F16, Full), (DType::F32, Channel)]);
    assert_eq!(back.matches("sigmoid(").count(), 1, "{back}");
    assert!(back.contains("sum_over_rows(totals, tile.lanes)"), "{back}");
    let literals =
        expression(|[x]| x.greater(f64::INFINITY).select(1e-7, x * 3.0)).cuda_source(&[(DType::F32, Full)]);
    assert!(
        literals.contains("x0 > __uint_as_float(0x7f800000u)") && literals.contains("1e-7f : v"),
        "{literals}"
    );
}
