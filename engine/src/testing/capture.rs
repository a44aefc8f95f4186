//! Functions of tensors in a CUDA graph against eager runs.
use super::{CheckError, CheckResult};
use crate::cuda::CudaGraph;
use crate::dtype::dispatch_any;
use crate::{Device, Result, Tensor, no_grad};

/// Captures `f` once in a CUDA graph and replays it on the inputs and on two other arrangements of their elements. Its results must have
/// the same bits as eager runs. Inputs on the CPU are copied to the emulated device, which is loaded if necessary.
///
/// ```
/// use fornax_engine::{Tensor, testing::check_capture};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let x = Tensor::from_slice(&[0.5f32, -1.5, 2.0], [3])?;
/// check_capture(|x| Ok(vec![x[0].mul_scalar(2.0)?]), &[&x])?;
/// let error = check_capture(|x| Ok(vec![x[0].mul_scalar(x[0].sum_all()?.item()?)?]), &[&x]).unwrap_err();
/// assert!(error.to_string().contains("captured"));
/// # Ok(()) }
/// ```
///
/// Errors: the region cannot be captured, or a replay differs from an eager run; errors of `f`.
pub fn check_capture(f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>, inputs: &[&Tensor]) -> CheckResult {
    let device = match inputs.first().map(|t| t.device()) {
        None | Some(Device::Cpu) => Device::emulated(1)?,
        Some(device) => device,
    };
    let copies: Vec<Tensor> = inputs
        .iter()
        .map(|t| if t.device() == device { t.detach().copy() } else { t.detach().to_device(&device) })
        .collect::<Result<_>>()?;
    no_grad(|| {
        // Compiles kernels and plans convolutions.
        f(&copies)?;
        let mut results = vec![];
        let graph = CudaGraph::capture(&device, || {
            results = f(&copies)?;
            Ok(())
        })?;
        let whole: Vec<Vec<u8>> = copies.iter().map(bytes).collect::<Result<_>>()?;
        for (replay, distance) in [0, 1, 3].into_iter().enumerate() {
            for (t, bytes) in copies.iter().zip(&whole) {
                write(t, &rotated(bytes, distance * t.dtype().size()))?;
            }
            graph.replay()?;
            let got: Vec<Vec<u8>> = results.iter().map(bytes).collect::<Result<_>>()?;
            let expected: Vec<Vec<u8>> = f(&copies)?.iter().map(bytes).collect::<Result<_>>()?;
            if let Some(i) = (0..got.len()).find(|i| got[*i] != expected[*i]) {
                let at = got[i].iter().zip(&expected[i]).position(|(a, b)| a != b).unwrap_or_default();
                let element = at / results[i].dtype().size();
                return Err(CheckError(format!(
                    "replay {replay} of the captured graph differs from an eager run in result {i}, element {element}"
                )));
            }
        }
        Ok(())
    })
}

fn bytes(t: &Tensor) -> Result<Vec<u8>> {
    dispatch_any!(t.dtype(), T => Ok(bytemuck::cast_slice::<T, u8>(&t.read::<T>()?).to_vec()))
}

/// The bytes, moved by a distance.
fn rotated(bytes: &[u8], distance: usize) -> Vec<u8> {
    let mut moved = bytes.to_vec();
    if !moved.is_empty() {
        moved.rotate_left(distance % bytes.len());
    }
    moved
}

fn write(t: &Tensor, bytes: &[u8]) -> Result<()> {
    dispatch_any!(t.dtype(), T => {
        let elements = Tensor::build(*t.shape(), |out: &mut [T]| bytemuck::cast_slice_mut(out).copy_from_slice(bytes))?;
        t.copy_from(&elements.to_device(&t.device())?)
    })
}
