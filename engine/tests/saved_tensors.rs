//! Writing to a tensor that an operation has saved for its backward pass is an error in that pass.
use fornax_engine::{Activation, DType, Device, Result, Tensor, gradients};

fn variable(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, [values.len()]).expect("a tensor").variable()
}

/// The error of the backward pass from `f(x)`, after `write` was called between the passes.
fn error_after(f: impl Fn(&Tensor) -> Result<Tensor>, write: impl Fn(&Tensor, &Tensor)) -> Option<String> {
    let x = variable(&[0.5, 2.0]);
    let y = f(&x).expect("the forward pass");
    let loss = y.sum_all().expect("a scalar");
    write(&x, &y);
    loss.backward().err().map(|error| error.to_string())
}

fn overwrite(t: &Tensor) {
    t.write::<f32>().expect("writable")[0] = 100.0;
}

#[test]
fn writing_to_a_saved_input_is_an_error_in_the_backward_pass() {
    let other = variable(&[3.0, 4.0]);
    type Operation = Box<dyn Fn(&Tensor) -> Result<Tensor>>;
    let cases: [(&str, Operation); 6] = [
        ("square", Box::new(|x| x.square())),
        ("mul", Box::new(move |x| x.mul(&other))),
        ("log", Box::new(|x| x.log())),
        ("activate", Box::new(|x| x.activate(Activation::Gelu))),
        ("matmul", Box::new(|x| x.reshape([1, 2])?.matmul(&x.reshape([2, 1])?))),
        ("cumsum", Box::new(|x| x.cumsum(0)?.square())),
    ];
    for (op, f) in cases {
        let saves_x = op != "cumsum";
        match error_after(f, |x, _| overwrite(x)) {
            Some(error) => assert!(
                saves_x && error.contains(op) && error.contains("version 1, expected 0"),
                "{op}: {error}"
            ),
            None => assert!(!saves_x, "{op} accepts the write"),
        }
    }
}

#[test]
fn writing_to_a_saved_output_is_an_error_in_the_backward_pass() {
    for f in [
        |x: &Tensor| x.sqrt(),
        |x: &Tensor| x.softmax(0),
        |x: &Tensor| x.relu(),
        |x: &Tensor| x.amax(&[0], true),
    ] {
        let error = error_after(f, |_, y| overwrite(y)).expect("the output was saved");
        assert!(error.contains("written to"), "{error}");
    }
}

#[test]
fn writing_to_what_no_operation_has_saved_changes_nothing() {
    // Linear operations save shapes only, and ReLU its output only.
    for f in [
        |x: &Tensor| x.mul_scalar(2.0),
        |x: &Tensor| x.add(x),
        |x: &Tensor| x.reshape([2, 1]),
        |x: &Tensor| x.relu(),
    ] {
        assert_eq!(error_after(f, |x, _| overwrite(x)), None);
    }
    // The gradient of a product with a constant needs the constant only.
    let factor = Tensor::from_slice(&[3.0f32, 4.0], [2]).expect("a tensor");
    assert_eq!(error_after(|x| x.mul(&factor), |_, y| overwrite(y)), None);
    assert_eq!(error_after(|x| x.mul(&factor), |x, _| overwrite(x)), None);
}

#[test]
fn writing_to_a_target_is_an_error_in_the_backward_pass() -> Result<()> {
    let logits = Tensor::zeros([2, 3], DType::F32, &Device::Cpu)?.variable();
    let target = Tensor::from_slice(&[0i64, 2], [2])?;
    let loss = logits.cross_entropy(&target, 0.0)?;
    target.write::<i64>()?[0] = 1;
    let error = loss.backward().expect_err("the target was saved").to_string();
    assert!(error.contains("cross_entropy") && error.contains("[2]"), "{error}");
    Ok(())
}

#[test]
fn writing_through_a_view_counts_and_writing_after_the_backward_pass_does_not() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = x.square()?.sum_all()?;
    overwrite(&x.detach().narrow(0, 0, 1)?);
    assert!(y.backward().is_err(), "a view shares the elements");
    let y = x.square()?.sum_all()?;
    y.backward()?;
    overwrite(&x);
    // An update between two passes, as of an optimizer.
    x.square()?.sum_all()?.backward()?;
    Ok(())
}

#[test]
fn writing_before_a_second_derivative_is_an_error() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let one = Tensor::scalar(1.0f32)?;
    let y = x.powf(3.0)?.sum_all()?;
    overwrite(&x);
    let error = gradients(&[(&y, &one)], &[&x], true).expect_err("x was saved").to_string();
    assert!(error.contains("powf"), "{error}");
    Ok(())
}

#[test]
fn writing_to_the_saved_indices_of_gather_is_an_error_in_the_backward_pass() {
    let index = Tensor::from_slice(&[1i64, 0], [2]).expect("a tensor");
    let out_of_range = Tensor::from_slice(&[1i64 << 40, -1], [2]).expect("a tensor");
    let overwrite = |_: &Tensor, _: &Tensor| index.copy_from(&out_of_range).expect("equal shapes");
    let error = error_after(|x| x.gather(0, &index), overwrite).expect("the indices were saved");
    assert!(error.contains("gather") && error.contains("version 1, expected 0"), "{error}");
}
