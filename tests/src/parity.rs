//! Comparison of cases on a device with the CPU in f64: outputs and gradients.
use crate::cases::Case;
use fornax_engine::testing::{tolerance, worst};
use fornax_engine::{DType, Device, Result, Tensor, cuda};
use fornax_kernels::{kernel_units, unit_image};

/// Batch size of large cases.
const BATCH: usize = 1;

/// Compiles the kernel units for the loaded devices on another thread, last unit first: g++ is single-threaded, and a test needs the units
/// one after the other.
pub fn compile_modules_in_background() {
    std::thread::spawn(|| {
        for device in cuda::devices().expect("the emulated driver is loaded") {
            // A unit that does not compile is an error of the operation that launches its kernels.
            kernel_units().iter().rev().for_each(|unit| drop(unit_image(unit, device.capability)));
        }
    });
}

/// Output and gradients of a case with inputs rounded to `dtype`, computed in dtype `computed` on a device; as f64.
pub fn outcome(case: &Case, dtype: DType, computed: DType, device: &Device) -> Result<Vec<Vec<f64>>> {
    let inputs = case.tensors_of_batch(BATCH, dtype)?;
    let moved = |t: &Tensor| -> Result<Tensor> {
        let t = t.detach();
        let t = if t.dtype() == dtype { t.to_dtype(computed)? } else { t };
        t.to_device(device)
    };
    let mut tensors = vec![];
    for (t, input) in inputs.iter().zip(&case.inputs) {
        let t = moved(t)?;
        tensors.push(if input.differentiable { t.variable() } else { t });
    }
    let y = (case.run)(&tensors)?;
    if y.requires_grad() {
        y.backward_from(&moved(&case.upstream(&y, dtype)?)?)?;
    }
    let values = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>();
    let mut out = vec![values(&y)?];
    for (t, _) in tensors.iter().zip(&case.inputs).filter(|(_, input)| input.differentiable) {
        out.push(values(&t.grad().expect("a gradient for each differentiable input"))?);
    }
    Ok(out)
}

/// Runs cases on a device, each in its dtypes, and in f64 on the CPU; the number of comparisons, and a description of each difference.
pub fn differences<'a>(
    cases: impl IntoIterator<Item = (&'a Case, &'static [DType])>,
    device: &Device,
) -> (usize, Vec<String>) {
    let (mut compared, mut failures) = (0, vec![]);
    for (case, dtypes) in cases {
        for dtype in dtypes {
            let name = format!("{} in {dtype}", case.name());
            let expected = outcome(case, *dtype, DType::F64, &Device::Cpu)
                .unwrap_or_else(|e| panic!("{name}, on the CPU: {e}"));
            match outcome(case, *dtype, *dtype, device) {
                Err(e) => failures.push(format!("{name}: {e}")),
                Ok(got) => {
                    for (part, (got, expected)) in got.iter().zip(&expected).enumerate() {
                        if let Some(at) = worst(got, expected, tolerance(*dtype)) {
                            let (got, expected) = (got[at], expected[at]);
                            failures.push(format!("{name}, part {part}, element {at}: {got} for {expected}"));
                        }
                    }
                }
            }
            compared += 1;
        }
    }
    (compared, failures)
}

/// Panics with all differences, or when fewer than `min_compared` cases were compared.
pub fn report((compared, failures): (usize, Vec<String>), min_compared: usize) {
    assert!(failures.is_empty(), "{} of {compared}:\n{}", failures.len(), failures.join("\n"));
    assert!(compared >= min_compared, "only {compared} cases were compared");
}
