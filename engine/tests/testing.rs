//! The checks of `fornax_engine::testing` find planted mistakes, and accept correct kernels.
use fornax_engine::DType::{F16, F32};
use fornax_engine::op::{Geometry, Kernel};
use fornax_engine::testing::{check_capture, check_devices, counted_bytes, gradcheck, gradgradcheck, time};
use fornax_engine::{Device, Result, Tensor, cuda_source};
use std::sync::{Mutex, MutexGuard};

/// Runs one test at a time: the mode of the emulated device is global.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

fn x(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, [values.len()]).expect("memory").variable()
}

/// x³ with a gradient of `factor` x² grad.
fn cube(x: &Tensor, factor: f64) -> Result<Tensor> {
    Tensor::with_gradient(
        &[x],
        |saved, x| {
            saved.push(x[0].clone());
            x[0].powf(3.0)
        },
        move |saved, grad| Ok(vec![Some(saved[0].square()?.mul_scalar(factor)?.mul(grad)?)]),
    )
}

#[test]
fn gradcheck_accepts_right_gradients_and_rejects_wrong_ones() -> Result<()> {
    let (a, b) = (x(&[0.5, -1.5, 2.0]), x(&[1.0, 2.0, 3.0]).detach());
    let product = |x: &[Tensor]| cube(&x[0], 3.0)?.mul(&x[1]);
    gradcheck(product, &[&a, &b]).expect("the gradient is right");
    gradgradcheck(product, &[&a, &b]).expect("the second derivative is right");
    let single = a.detach().to_dtype(F32)?.variable();
    gradcheck(product, &[&single, &b.to_dtype(F32)?]).expect("the gradient is right in f32");
    let wrong = gradcheck(|x| cube(&x[0], 2.9), &[&a]).expect_err("2.9 x²").to_string();
    assert!(wrong.contains("element 0 of input 0, shape [3]"), "{wrong}");
    let none = gradcheck(|x| x[0].square(), &[&b]).expect_err("no variable").to_string();
    assert!(none.contains("no input is a variable"), "{none}");
    let half = a.detach().to_dtype(F16)?.variable();
    assert!(gradcheck(|x| x[0].square(), &[&half]).expect_err("f16").to_string().contains("input 0 is f16"));
    assert_eq!(a.to_vec::<f64>()?, [0.5, -1.5, 2.0], "the inputs are unchanged");
    Ok(())
}

#[test]
fn gradgradcheck_rejects_a_wrong_second_derivative() {
    // The gradient 2x is right, and saved as a constant of the graph.
    let square = |x: &[Tensor]| {
        let double = x[0].detach().mul_scalar(2.0)?;
        Tensor::with_gradient(
            &[&x[0]],
            |_, x| x[0].square(),
            move |_, grad| Ok(vec![Some(double.mul(grad)?)]),
        )
    };
    let point = x(&[0.5, -1.5]);
    gradcheck(square, &[&point]).expect("the first derivative is right");
    assert!(gradgradcheck(square, &[&point]).is_err());
}

static SCALED_SUMS: Kernel = Kernel::new("scaled_sums")
    .template("T", [F32, F16])
    .input("x", "T[.., c]")
    .output("y", "T like x")
    .output("sum", "f32[c]")
    .scratch("partial", "f32[blocks, c]")
    .scratch("ticket", "u32[1] zeroed")
    .constant("FACTOR", 2)
    .geometry(Geometry::rows("x", "c").vector(8))
    .source(cuda_source!("kernel/scaled_sums.cu"));

fn rows(count: usize, c: usize) -> Tensor {
    let numbers: Vec<f32> = (0..count * c).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
    Tensor::from_vec(numbers, [count, c]).expect("memory")
}

#[test]
fn correct_kernel_passes_every_check() -> Result<()> {
    let _guard = serialize();
    let run = |x: &[Tensor]| SCALED_SUMS.run(&[&x[0]]);
    for x in [rows(300, 16), rows(7, 5), rows(40, 16).to_dtype(F16)?] {
        check_devices(run, &[&x]).expect("no mistakes");
        check_capture(run, &[&x]).expect("replays are equal");
    }
    let x = rows(64, 16);
    let (declared, counted) =
        (SCALED_SUMS.bytes(&[&x])?, counted_bytes(&SCALED_SUMS, &[&x]).expect("it runs"));
    assert_eq!(
        (counted.read, counted.written),
        (declared.read + 64 + 4, declared.written + 64 + 4),
        "with scratch memory"
    );
    let timing = time(run, &[&x], declared)?;
    assert!(timing.microseconds > 0.0 && timing.copy_fraction > 0.0, "{timing}");
    assert_eq!(timing.bytes, declared);
    Ok(())
}

fn reduce(name: &'static str, text: &'static str) -> Kernel {
    Kernel::new(name)
        .input("x", "f32[.., c]")
        .output("y", "f32 like x")
        .geometry(Geometry::reduce("x", "c"))
        .source(text)
}

#[test]
fn check_devices_finds_planted_mistakes() -> Result<()> {
    let _guard = serialize();
    let head = "extern \"C\" __global__ void planted(PARAMETERS) { const long long i = blockIdx.x * c + threadIdx.x;";
    for (body, why) in [
        ("if (threadIdx.x < c) y[i + 100000] = x[i]; }", "out-of-bounds"),
        ("if (threadIdx.x < c - 1) y[i] = x[i]; }", "result 0 is not written completely"),
        ("if (threadIdx.x < c) y[blockIdx.x * c] = x[i]; }", "race"),
        ("if (threadIdx.x < c) { if (threadIdx.x) __syncthreads(); y[i] = x[i]; } }", "barrier"),
    ] {
        // Out of bounds on the CPU would end the process, so another function gives the expected values.
        let kernel = reduce("planted", format!("{head} {body}").leak());
        let f = |x: &[Tensor]| match x[0].device() {
            Device::Cpu => Ok(vec![x[0].copy()?]),
            _ => kernel.run(&[&x[0]]),
        };
        let error = check_devices(f, &[&rows(2, 8)]).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let doubled = |x: &[Tensor]| {
        let factor = if x[0].device() == Device::Cpu { 1.0 } else { 2.0 };
        Ok(vec![x[0].mul_scalar(factor)?])
    };
    let error = check_devices(doubled, &[&rows(1, 3)]).expect_err("values differ").to_string();
    assert!(error.contains("result 0, element 0: -10 on the emulated device, -5 on the CPU"), "{error}");
    let gradient = |x: &[Tensor]| {
        let factor = if x[0].device() == Device::Cpu { 1.0 } else { 2.0 };
        let y = Tensor::with_gradient(
            &[&x[0]],
            |_, x| x[0].copy(),
            move |_, grad| Ok(vec![Some(grad.mul_scalar(factor)?)]),
        )?;
        Ok(vec![y])
    };
    let error = check_devices(gradient, &[&rows(1, 3).variable()]).expect_err("gradients differ").to_string();
    assert!(error.contains("gradient of input 0"), "{error}");
    Ok(())
}

#[test]
fn check_capture_rejects_reads_on_the_host_and_stale_results() -> Result<()> {
    let _guard = serialize();
    let host = |x: &[Tensor]| Ok(vec![x[0].mul_scalar(x[0].sum_all()?.item()?)?]);
    assert!(check_capture(host, &[&rows(2, 3)]).expect_err("a read").to_string().contains("captured"));
    // A factor that the host changes at each call is part of the captured launch.
    let calls = Mutex::new(0.0);
    let counting = |x: &[Tensor]| {
        *calls.lock().expect("no panic") += 1.0;
        Ok(vec![x[0].mul_scalar(*calls.lock().expect("no panic"))?])
    };
    let error = check_capture(counting, &[&rows(2, 3)]).expect_err("another factor").to_string();
    assert!(
        error.contains("replay 0 of the captured graph differs from an eager run in result 0, element 0"),
        "{error}"
    );
    let double = Tensor::from_slice(&[1.0f64], [1])?;
    assert!(check_capture(|x| Ok(vec![x[0].square()?]), &[&double]).is_err(), "f64 is on the CPU only");
    Ok(())
}
