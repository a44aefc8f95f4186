//! Second-order gradients: Hessian-vector products of every case of the table, and of a network, against finite differences of
//! gradients; and on devices against the CPU, one test per operation and device.
//!
//! `FORNAX_TEST_DEVICES`, a list of `cpu`, `emulated` and `cuda:N`, selects the devices; the default is the emulated one.
use fornax_engine::{
    Activation, BatchNorm, Conv2dOptions, DType, Device, GlobalPool, Result, Tensor, gradients,
};
use fornax_tests::cases::{Case, all, operations};
use fornax_tests::second_order::{Derivatives, EvaluationPoint, vector};
use fornax_tests::sweep;
use fornax_tests::test_devices::devices;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let args = Arguments::from_args();
    let mut trials = vec![
        Trial::test("hessian_vector_products_match_finite_differences", || {
            hessian_vector_products_match_finite_differences();
            Ok(())
        }),
        Trial::test("network_hessian_vector_product_matches_finite_differences", || {
            Ok(network_hessian_vector_product_matches_finite_differences()?)
        }),
    ];
    let differentiable: Vec<Case> = cases().collect();
    for device in devices().into_iter().chain([Device::Cpu]) {
        // On the CPU every operation; elsewhere most of the time goes into compiling kernels.
        let all = operations(&differentiable);
        for op in if device == Device::Cpu { all } else { sweep::operations(all) } {
            trials.push(Trial::test(format!("{op}@{device}"), move || matches_f64(op, &device)));
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

/// Step of the finite differences.
const STEP: f64 = 1e-5;

fn cases() -> impl Iterator<Item = Case> {
    all().into_iter().filter(|case| !case.large)
}

fn expect_close(name: &str, what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: {what}");
    let scale = expected.iter().fold(1.0f64, |m, e| m.max(e.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance * scale;
        assert!(near, "{name}: {what}, element {i}: {got}, not {expected}");
    }
}

/// `(above - below) / 2 STEP`
fn difference(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(a, b)| (a - b) / (2.0 * STEP)).collect()
}

fn hessian_vector_products_match_finite_differences() {
    let (mut checked, mut nonlinear) = (0, 0);
    for case in cases() {
        let name = case.name();
        let run = || -> Result<bool> {
            let point = EvaluationPoint::new(&case)?;
            let got = point.second_order(&case)?;
            let (_, gradient) = point.first_order(&case)?;
            point.step(&case, STEP)?;
            let above = point.first_order(&case)?;
            point.step(&case, -2.0 * STEP)?;
            let below = point.first_order(&case)?;
            let (jvp, hvp) = (difference(&above.0, &below.0), difference(&above.1, &below.1));
            expect_close(&name, "the gradient with create_graph", &got.gradient, &gradient, 1e-12);
            expect_close(&name, "the Hessian-vector product", &got.hvp, &hvp, 1e-6);
            expect_close(&name, "the Jacobian-vector product", &got.jvp, &jvp, 1e-6);
            Ok(hvp.iter().any(|p| p.abs() > 1e-3))
        };
        checked += 1;
        nonlinear += usize::from(run().unwrap_or_else(|e| panic!("{name}: {e}")));
    }
    assert!(
        checked > 300 && nonlinear > 150,
        "only {checked} cases were checked, {nonlinear} of them not linear"
    );
}

/// An operation in f32, f16 and bf16 on a device, or in these dtypes on the CPU, against the CPU in f64. Tolerances of f16 and bf16 are wide,
/// as second gradients are computed from rounded first ones.
fn matches_f64(op: &str, device: &Device) -> std::result::Result<(), Failed> {
    let mut failures = vec![];
    for (position, case) in cases().enumerate().filter(|(_, case)| case.op == op) {
        for &dtype in sweep::dtypes(position) {
            let tolerance = match dtype {
                DType::F32 => 1e-4,
                DType::F16 => 2e-2,
                _ => 1e-1,
            };
            if let Err(why) = compare(&case, dtype, device, tolerance) {
                failures.push(format!("{} in {dtype}: {why}", case.name()));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

fn compare(case: &Case, dtype: DType, device: &Device, tolerance: f64) -> std::result::Result<(), String> {
    let run = || -> Result<(Derivatives, Derivatives)> {
        let point = EvaluationPoint::new(case)?.to(device, dtype)?;
        Ok((point.second_order(case)?, point.to(&Device::Cpu, DType::F64)?.second_order(case)?))
    };
    let (got, expected) = run().map_err(|e| e.to_string())?;
    let parts = [
        ("gradient", &got.gradient, &expected.gradient),
        ("hvp", &got.hvp, &expected.hvp),
        ("jvp", &got.jvp, &expected.jvp),
    ];
    for (part, got, expected) in parts {
        let scale = expected.iter().fold(1.0f64, |m, e| m.max(e.abs()));
        let off = got.iter().zip(expected).map(|(g, e)| (g - e).abs() / scale).fold(0.0, f64::max);
        if got.iter().any(|g| g.is_nan()) || off > tolerance {
            return Err(format!("{part} is off by {off:.1e} of {scale:.1e}"));
        }
    }
    Ok(())
}

/// Two stages with batch norm in training, a shortcut and a strided, grouped convolution; the loss has label smoothing.
struct Network {
    images: Tensor,
    target: Tensor,
    parameters: Vec<Tensor>,
}

impl Network {
    fn new() -> Result<Network> {
        let shapes: [&[usize]; 13] = [
            &[6, 3, 3, 2],
            &[6],
            &[6],
            &[6, 3, 3, 6],
            &[6],
            &[6],
            &[8, 3, 3, 3],
            &[8],
            &[8],
            &[8, 1, 1, 6],
            &[8],
            &[5, 8],
            &[5],
        ];
        let parameter = |(i, shape): (usize, &&[usize])| {
            let zeros = Tensor::zeros(*shape, DType::F64, &Device::Cpu)?;
            let offset = if shape.len() == 1 && i % 3 == 1 { 1.0 } else { 0.0 };
            Ok(vector(&zeros, &format!("parameter {i}"))?.affine(0.3, offset)?.variable())
        };
        let parameters = shapes.iter().enumerate().map(parameter).collect::<Result<_>>()?;
        let images = Tensor::zeros([3, 7, 5, 2], DType::F64, &Device::Cpu)?;
        let target = Tensor::from_slice(&[4i64, 0, 3], [3])?;
        Ok(Network { images: vector(&images, "images")?, target, parameters })
    }

    fn loss(&self) -> Result<Tensor> {
        let p = &self.parameters;
        let norm = |weight, bias| BatchNorm {
            weight: Some(weight),
            bias,
            training: true,
            eps: 1e-5,
            ..BatchNorm::default()
        };
        let same = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
        let relu = Activation::Relu;
        let x = self.images.conv2d_batch_norm_act(&p[0], &same, &norm(&p[1], Some(&p[2])), relu, None)?;
        let x = x.conv2d_batch_norm_act(&p[3], &same, &norm(&p[4], Some(&p[5])), relu, Some(&x))?;
        let halved = Conv2dOptions { stride: [2, 2], ..same };
        let shortcut =
            x.conv2d(&p[9], None, &Conv2dOptions { stride: [2, 2], ..Conv2dOptions::default() })?;
        let shortcut = shortcut.batch_norm(&norm(&p[10], None))?;
        let grouped = Conv2dOptions { groups: 2, ..halved };
        let x = x.conv2d_batch_norm_act(
            &p[6],
            &grouped,
            &norm(&p[7], Some(&p[8])),
            Activation::Silu,
            Some(&shortcut),
        )?;
        x.global_pool(GlobalPool::Avg)?.linear(&p[11], Some(&p[12]))?.cross_entropy(&self.target, 0.1)
    }

    fn gradients(&self, create_graph: bool) -> Result<Vec<Tensor>> {
        let one = Tensor::scalar(1.0f64)?;
        let wanted: Vec<&Tensor> = self.parameters.iter().collect();
        let grads = gradients(&[(&self.loss()?, &one)], &wanted, create_graph)?;
        Ok(grads.into_iter().map(|g| g.expect("the loss depends on every parameter")).collect())
    }
}

fn network_hessian_vector_product_matches_finite_differences() -> Result<()> {
    let network = Network::new()?;
    let v: Vec<Tensor> = network.parameters.iter().map(|p| vector(p, "v")).collect::<Result<_>>()?;
    let grads = network.gradients(true)?;
    let outputs: Vec<(&Tensor, &Tensor)> = grads.iter().zip(&v).collect();
    let wanted: Vec<&Tensor> = network.parameters.iter().collect();
    let hvps = gradients(&outputs, &wanted, false)?;
    let at = |by: f64| -> Result<Vec<Tensor>> {
        for (p, v) in network.parameters.iter().zip(&v) {
            p.copy_from(&p.detach().add(&v.mul_scalar(by)?)?)?;
        }
        network.gradients(false)
    };
    let (above, below) = (at(STEP)?, at(-2.0 * STEP)?);
    for (i, hvp) in hvps.into_iter().enumerate() {
        let got = hvp.expect("the loss depends on every parameter").to_vec::<f64>()?;
        let expected = difference(&above[i].to_vec()?, &below[i].to_vec()?);
        assert!(expected.iter().any(|e| e.abs() > 1e-4), "the gradient depends on parameter {i}");
        expect_close(&format!("parameter {i}"), "the Hessian-vector product", &got, &expected, 1e-6);
    }
    Ok(())
}
