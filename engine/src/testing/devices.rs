//! Functions of tensors on the emulated device against the CPU.
use super::gradcheck::random_like;
use super::{CheckError, CheckResult, tolerance, values, worst};
use crate::cuda::Gpu;
use crate::op::{Kernel, KernelBytes};
use crate::{DType, Device, Result, Tensor};
use fornax_kernels::emulator::{self, EmulatorOptions};
use std::sync::{Mutex, MutexGuard};

const ORDERS: [u64; 3] = [0, 1, 7];

/// Runs `f` on the CPU and, in three orders of its threads, on the emulated device in checked mode: a data race, a divergent barrier, an
/// access out of bounds or to uninitialised memory, and a result whose elements are not all written are errors with the line of the
/// kernel's source. Results and gradients of variables among the inputs must have the same bits in all orders, and agree with the CPU
/// within the [`tolerance`] of their dtype.
///
/// Checked mode needs Linux; elsewhere only values are compared. The emulated device replaces the CUDA driver of the process, so a process
/// that uses a GPU cannot call this. Memory that the process has allocated on the emulated device before its first check is not checked
/// for uninitialised elements.
///
/// ```
/// use fornax_engine::{Tensor, testing::check_devices};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let x = Tensor::from_slice(&[0.5f32, -1.5, 2.0], [3])?.variable();
/// check_devices(|x| Ok(vec![x[0].square()?]), &[&x])?;
/// # Ok(()) }
/// ```
///
/// Errors: an access is wrong, or a result differs; errors of `f`.
pub fn check_devices(f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>, inputs: &[&Tensor]) -> CheckResult {
    let expected = outcome(&f, inputs, &Device::Cpu)?;
    let _emulated = EmulatorMode::enter(Mode::Checked)?;
    let mut first: Option<Vec<NamedResult>> = None;
    for order in ORDERS {
        set(emulator::set_order(order))?;
        let got = outcome(&f, inputs, &Device::Cuda(0))
            .map_err(|e| CheckError(format!("on the emulated device, thread order {order}: {e}")))?;
        for (got, expected) in got.iter().zip(&expected) {
            let name = &got.name;
            if got.values.len() != expected.values.len() || got.dtype != expected.dtype {
                return Err(CheckError(format!("{name}: shape or dtype differs from the CPU's")));
            }
            if let Some(at) = worst(&got.values, &expected.values, tolerance(got.dtype)) {
                let (got, expected) = (got.values[at], expected.values[at]);
                return Err(CheckError(format!(
                    "{name}, element {at}: {got} on the emulated device, {expected} on the CPU"
                )));
            }
        }
        match &first {
            None => first = Some(got),
            Some(first) => {
                if let Some((of, _)) = got.iter().zip(first).find(|(a, b)| a.bits() != b.bits()) {
                    return Err(CheckError(format!(
                        "{}: the last bits depend on the order of threads",
                        of.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Bytes that the launches of a kernel in one run read from and write to device memory, as the emulated device counts them, each byte once
/// per launch. They include scratch memory, which [`Kernel::bytes`] does not.
///
/// ```
/// use fornax_engine::{DType::F32, Tensor, op::Kernel, testing::counted_bytes};
/// static DOUBLED: Kernel = Kernel::new("doubled").input("x", "f32[..]").output("y", "f32 like x").body("y = 2 * x;");
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let x = Tensor::zeros([100], F32, &fornax_engine::Device::Cpu)?;
/// assert_eq!(counted_bytes(&DOUBLED, &[&x])?, DOUBLED.bytes(&[&x])?);
/// # Ok(()) }
/// ```
///
/// Errors: as for [`Kernel::run`].
pub fn counted_bytes(kernel: &Kernel, inputs: &[&Tensor]) -> std::result::Result<KernelBytes, CheckError> {
    let _emulated = EmulatorMode::enter(Mode::Counted)?;
    let inputs: Vec<Tensor> =
        inputs.iter().map(|t| t.detach().to_device(&Device::Cuda(0))).collect::<Result<_>>()?;
    let count = || emulator::work_counts().get(kernel.name()).copied().unwrap_or_default();
    let before = count();
    kernel.run(&inputs.iter().collect::<Vec<_>>())?;
    let after = count();
    Ok(KernelBytes { read: after.loads - before.loads, written: after.stores - before.stores })
}

/// Result or gradient, as f64.
struct NamedResult {
    name: String,
    dtype: DType,
    values: Vec<f64>,
}

impl NamedResult {
    fn new(name: String, t: &Tensor) -> std::result::Result<NamedResult, CheckError> {
        if t.device() != Device::Cpu && t.dtype().is_float() {
            // A kernel that reads the result finds elements that were never written, which a copy to the host does not.
            t.detach().mul_scalar(1.0)?;
            t.device()
                .synchronize()
                .map_err(|e| CheckError(format!("{name} is not written completely: {e}")))?;
        }
        Ok(NamedResult { name, dtype: t.dtype(), values: values(t)? })
    }

    fn bits(&self) -> Vec<u64> {
        self.values.iter().map(|value| value.to_bits()).collect()
    }
}

/// The results of `f` and the gradients of its first float result, for inputs on a device.
fn outcome(
    f: &impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[&Tensor],
    device: &Device,
) -> std::result::Result<Vec<NamedResult>, CheckError> {
    let moved = |t: &&Tensor| -> Result<Tensor> {
        let moved = t.detach().to_device(device)?;
        Ok(if t.requires_grad() { moved.variable() } else { moved })
    };
    let x: Vec<Tensor> = inputs.iter().map(moved).collect::<Result<_>>()?;
    let y = f(&x)?;
    let mut all = vec![];
    for (i, y) in y.iter().enumerate() {
        all.push(NamedResult::new(format!("result {i}"), y)?);
    }
    if let Some(y) = y.iter().find(|y| y.requires_grad()) {
        y.backward_from(&random_like(y, "upstream")?)?;
        for (i, grad) in x.iter().enumerate().filter_map(|(i, t)| Some((i, t.grad()?))) {
            all.push(NamedResult::new(format!("gradient of input {i}"), &grad)?);
        }
    }
    Ok(all)
}

/// Kind of instrumentation of kernels on the emulated device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Checked,
    Counted,
}

/// A mode of the emulated device, until it is dropped; one at a time.
struct EmulatorMode {
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl EmulatorMode {
    fn enter(mode: Mode) -> std::result::Result<EmulatorMode, CheckError> {
        static LOCK: Mutex<()> = Mutex::new(());
        let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
        let checks = mode == Mode::Checked && cfg!(target_os = "linux");
        set(emulator::load(&EmulatorOptions { devices: 1, order: 0, checked: checks }))?;
        set(emulator::set_counted(mode == Mode::Counted))?;
        let entered = EmulatorMode { _one_at_a_time: guard };
        forget_kernels()?;
        Ok(entered)
    }
}

impl Drop for EmulatorMode {
    fn drop(&mut self) {
        // The emulated device is loaded, so none of these fails.
        let _ = emulator::set_order(0);
        let _ = emulator::set_checked(false);
        let _ = emulator::set_counted(false);
        let _ = forget_kernels();
    }
}

/// Makes the emulated device load kernels again, in its current mode.
fn forget_kernels() -> CheckResult {
    let gpu = Gpu::get(0).map_err(|e| CheckError(e.to_string()))?;
    gpu.forget_kernels();
    Ok(())
}

fn set(done: std::result::Result<(), emulator::EmulatorError>) -> CheckResult {
    done.map_err(|e| CheckError(e.to_string()))
}
