//! An elementwise operation by a kernel body of one line, with a gradient composed of operations.
use fornax_engine::DType::{BF16, F16, F32};
use fornax_engine::op::{CustomOp, Kernel, SavedTensors};
use fornax_engine::testing::{CheckError, check_op};
use fornax_engine::{Result, Tensor};

static KERNEL: Kernel = Kernel::new("squared_relu")
    .template("T", [F32, F16, BF16])
    .input("x", "T[..]")
    .output("y", "T like x")
    .body("const float r = x > 0 ? x : 0; y = r * r;");

struct SquaredRelu;

impl CustomOp for SquaredRelu {
    const NAME: &'static str = "squared_relu";
    const SAVED_OPERANDS: &'static [usize] = &[0];

    fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        KERNEL.run(&[&x[0]])
    }

    fn backward(&self, saved: &SavedTensors, dy: &Tensor, _: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(dy.mul(&saved.operand(0).relu()?)?.mul_scalar(2.0)?)])
    }
}

fn main() -> std::result::Result<(), CheckError> {
    let x = Tensor::from_slice(&[-1.5f32, 0.25, 2.0], [3])?.variable();
    check_op(|| SquaredRelu, &[&x])?;
    println!("squared_relu passes every check");
    Ok(())
}
