//! An operation that Fornax does not have: `y = relu(scale x + bias)²` by channel, and the sums of y over each channel.
use fornax_engine::DType::{BF16, F16, F32};
use fornax_engine::op::{CustomOp, Geometry, Kernel, SavedTensors};
use fornax_engine::{Result, Tensor, cuda_source};

pub static FORWARD: Kernel = Kernel::new("scale_relu2")
    .template("T", [F32, F16, BF16])
    .input("x", "T[.., c]")
    .input("scale", "f32[c]")
    .input("bias", "f32[c]")
    .output("y", "T like x")
    .output("sum", "f32[c]")
    .scratch("partial", "f32[blocks, c]")
    .scratch("ticket", "u32[1] zeroed")
    .geometry(Geometry::rows("x", "c").vector(8))
    .source(cuda_source!("forward.cu"));

pub static BACKWARD: Kernel = Kernel::new("scale_relu2_backward")
    .template("T", [F32, F16, BF16])
    .input("x", "T[.., c]")
    .input("scale", "f32[c]")
    .input("bias", "f32[c]")
    .input("dy", "T like x")
    .output("dx", "T like x")
    .output("dscale", "f32[c]")
    .output("dbias", "f32[c]")
    .scratch("partial", "f32[blocks, 2, c]")
    .scratch("ticket", "u32[1] zeroed")
    .geometry(Geometry::rows("x", "c"))
    .source(cuda_source!("backward.cu"));

pub struct ScaleRelu2;

impl CustomOp for ScaleRelu2 {
    const NAME: &'static str = "scale_relu2";
    const SAVED_OPERANDS: &'static [usize] = &[0, 1, 2];

    fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        FORWARD.run(&[&x[0], &x[1], &x[2]])
    }

    fn backward(&self, saved: &SavedTensors, dy: &Tensor, _: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let [x, scale, bias] = [0, 1, 2].map(|i| saved.operand(i));
        Ok(BACKWARD.run(&[x, scale, bias, dy])?.into_iter().map(Some).collect())
    }

    fn composition(&self) -> Option<fn(&Self, &[Tensor]) -> Result<Tensor>> {
        Some(|_, x| x[0].mul(&x[1])?.add(&x[2])?.relu()?.square())
    }
}
