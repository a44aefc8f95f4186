//! Operations from outside of the crate.
use fornax_engine::op::{CustomOp, SavedTensors};
use fornax_engine::{Error, Result, Tensor, gradients};

/// `x w`, and its square as a second result.
struct Product {
    gradients: usize,
}

impl CustomOp for Product {
    const NAME: &'static str = "product";
    const SAVED_OPERANDS: &'static [usize] = &[0, 1];

    fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let y = x[0].mul(&x[1])?;
        Ok(vec![y.clone(), y.square()?])
    }

    fn backward(&self, saved: &SavedTensors, dy: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let of = |i: usize| needs[i].then(|| dy.mul(saved.operand(1 - i))).transpose();
        let mut gradients = vec![of(0)?, of(1)?];
        gradients.truncate(self.gradients);
        Ok(gradients)
    }
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, [values.len()]).expect("memory").variable()
}

#[test]
fn gradients_flow_to_the_first_result_and_have_derivatives() -> Result<()> {
    let (x, w) = (vector(&[1.0, 2.0]), vector(&[3.0, -4.0]));
    let results = Product { gradients: 2 }.apply(&[&x, &w])?;
    assert!(results[0].requires_grad() && !results[1].requires_grad());
    assert_eq!(results[1].to_vec::<f64>()?, [9.0, 64.0]);
    let y = results[0].square()?.sum_all()?;
    let one = Tensor::scalar(1.0f64)?;
    let first = gradients(&[(&y, &one)], &[&x, &w], true)?;
    let of_x = first[0].as_ref().expect("a gradient");
    assert_eq!(of_x.to_vec::<f64>()?, [18.0, 64.0], "2 x w²");
    let second = gradients(&[(&of_x.sum_all()?, &one)], &[&w], false)?;
    assert_eq!(second[0].as_ref().expect("a gradient").to_vec::<f64>()?, [12.0, -32.0], "4 x w");
    Ok(())
}

#[test]
fn mistakes_are_errors_that_name_the_operation() -> Result<()> {
    let (x, w) = (vector(&[1.0, 2.0]), vector(&[3.0, -4.0]));
    let missing = Product { gradients: 1 }.apply(&[&x, &w])?.remove(0).sum_all()?;
    let error = missing.backward().expect_err("one gradient is missing").to_string();
    assert!(error.contains("product") && error.contains("1 gradients for 2 operands"), "{error}");
    let written = Product { gradients: 2 }.apply(&[&x, &w])?.remove(0).sum_all()?;
    x.detach().copy_from(&Tensor::from_slice(&[5.0f64, 6.0], [2])?)?;
    let error = written.backward().expect_err("a saved operand has changed").to_string();
    assert!(error.contains("product"), "{error}");
    let none: Result<Vec<Tensor>> = Product { gradients: 2 }.apply(&[]);
    assert!(matches!(none, Err(Error::Value { .. })));
    Ok(())
}

#[cfg(feature = "cuda")]
mod capture {
    use super::*;
    use fornax_engine::Device;
    use fornax_engine::cuda::CudaGraph;

    /// The sum of x as a number, which needs the host.
    struct HostSum;

    impl CustomOp for HostSum {
        const NAME: &'static str = "host_sum";
        const CAPTURABLE: bool = false;

        fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
            Ok(vec![x[0].mul_scalar(x[0].sum_all()?.item()?)?])
        }

        fn backward(&self, _: &SavedTensors, dy: &Tensor, _: &[bool]) -> Result<Vec<Option<Tensor>>> {
            Ok(vec![Some(dy.clone())])
        }
    }

    #[test]
    fn operation_that_cannot_be_captured_ends_a_capture_with_its_name() -> Result<()> {
        let device = Device::emulated(1)?;
        let x = Tensor::from_slice(&[1.0f32, 2.0], [2])?.to_device(&device)?;
        assert_eq!(HostSum.apply(&[&x])?.remove(0).to_vec::<f32>()?, [3.0, 6.0]);
        let captured = CudaGraph::capture(&device, || HostSum.apply(&[&x]).map(drop));
        let error = captured.err().expect("it reads the host").to_string();
        assert!(error.contains("host_sum") && error.contains("captured"), "{error}");
        Ok(())
    }
}
