//! Runs cases of an operation: forward pass, backward pass with the stored upstream gradient, and all comparisons.
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;

/// The tensors of a case by role: inputs, as variables where the file has their gradient, and buffers, which are updated in place.
/// All are in the stored layout; convert with [`Tensor::from_nchw`] and [`Tensor::to_nchw`].
pub struct CaseTensors(BTreeMap<String, Tensor>);

impl CaseTensors {
    /// The input or buffer of this role.
    ///
    /// # Panics
    /// When the case has no such role.
    pub fn get(&self, role: &str) -> &Tensor {
        self.find(role).unwrap_or_else(|| panic!("the case has no tensor {role}"))
    }

    /// The input or buffer of this role, or `None`.
    pub fn find(&self, role: &str) -> Option<&Tensor> {
        self.0.get(role)
    }
}

/// Runs `one` on every case of the topic and collects all failures.
pub fn check_each_case(
    topic: &Topic,
    mut one: impl FnMut(GoldenCase) -> std::result::Result<(), String>,
) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases.iter().filter_map(|case| one(*case).err()).collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// Runs `one` on every case of the topic in f32, on the CPU in f64 too, and collects all failures.
pub fn check_each_case_and_dtype(
    topic: &Topic,
    one: impl Fn(&GoldenCase, DType) -> std::result::Result<(), String>,
) -> Outcome {
    let cases = topic.cases()?;
    // Only the CPU computes in f64.
    let on_cpu = topic.device == Device::Cpu;
    let dtypes: &[DType] = if on_cpu { &[DType::F32, DType::F64] } else { &[DType::F32] };
    let mut failures = vec![];
    for case in &cases {
        for dtype in dtypes {
            if let Err(e) = one(case, *dtype) {
                failures.push(format!("[{dtype}] {e}"));
            }
        }
    }
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

/// Checks a case of an operation in `dtype`; `forward` maps the case's tensors to its outputs by role.
pub fn check_operation(
    case: &GoldenCase,
    dtype: DType,
    forward: impl Fn(&CaseTensors) -> Result<Vec<(&'static str, Tensor)>>,
) -> std::result::Result<(), String> {
    let device = &case.topic.device;
    let say = |e: fornax_engine::Error| format!("{}: {e}", case.id());
    let mut tensors = BTreeMap::new();
    for role in case.roles("inputs") {
        let raw = case.tensor("inputs", role)?;
        let differentiable = case.has("grads", role);
        // Class indices and masks are not converted.
        let tensor =
            raw.to_tensor(if raw.dtype.is_float() { dtype } else { raw.dtype }, device).map_err(say)?;
        tensors.insert(role.to_string(), if differentiable { tensor.variable() } else { tensor });
    }
    for role in case.roles("buffers_in") {
        // Counters are on the CPU, where the forward function updates them.
        let counter = role == "num_batches_tracked";
        let (dtype, device) = if counter { (DType::I64, &Device::Cpu) } else { (dtype, device) };
        let buffer = case.tensor("buffers_in", role)?.to_tensor(dtype, device).map_err(say)?;
        tensors.insert(role.to_string(), buffer);
    }
    let tensors = CaseTensors(tensors);
    let outputs = forward(&tensors).map_err(say)?;
    let expected = case.roles("outputs");
    if let Some(role) = expected.iter().find(|r| !outputs.iter().any(|(o, _)| o == *r)) {
        return Err(format!("{}: the test computes no output {role}", case.id()));
    }
    for (role, output) in &outputs {
        case.check("outputs", role, output)?;
    }
    for role in case.roles("buffers_out") {
        case.check("buffers_out", role, tensors.get(role))?;
    }
    for (role, output) in outputs.iter().filter(|(role, _)| case.has("upstream", role)) {
        let upstream = case.tensor("upstream", role)?.to_tensor(dtype, device).map_err(say)?;
        output.backward_from(&upstream).map_err(say)?;
    }
    for role in case.roles("grads") {
        let grad =
            tensors.get(role).grad().ok_or_else(|| format!("{}: no gradient for {role}", case.id()))?;
        case.check("grads", role, &grad)?;
    }
    Ok(())
}
