//! Gradients by closures of tensors, and hooks that replace gradients.
use fornax_engine::{DType, Device, Result, Tensor, gradients, no_grad};
use std::sync::{Arc, Mutex};

fn variable(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, [values.len()]).expect("memory").variable()
}

fn grad(x: &Tensor) -> Vec<f64> {
    x.grad().expect("a gradient").to_vec().expect("f64")
}

/// x³, whose gradient 3 x² grad is composed of operations on the saved input.
fn cube(x: &Tensor) -> Result<Tensor> {
    Tensor::with_gradient(
        &[x],
        |saved, x| {
            saved.push(x[0].clone());
            x[0].powf(3.0)
        },
        |saved, grad| Ok(vec![Some(saved[0].square()?.mul_scalar(3.0)?.mul(grad)?)]),
    )
}

#[test]
fn gradient_of_the_closure_replaces_the_gradient_of_the_operations() -> Result<()> {
    let (a, b) = (variable(&[1.0, 2.0]), variable(&[3.0, -1.0]));
    let y = Tensor::with_gradient(
        &[&a, &b],
        |_, x| x[0].mul(&x[1]),
        |_, grad| Ok(vec![Some(grad.mul_scalar(7.0)?), None]),
    )?;
    assert_eq!(y.to_vec::<f64>()?, [3.0, -2.0]);
    y.sum_all()?.backward()?;
    assert_eq!(grad(&a), [7.0, 7.0]);
    assert!(b.grad().is_none(), "no gradient was returned for b");
    Ok(())
}

#[test]
fn second_derivative_follows_from_saved_inputs() -> Result<()> {
    let (x, one) = (variable(&[2.0, -1.0]), Tensor::ones([2], DType::F64, &Device::Cpu)?);
    let first = gradients(&[(&cube(&x)?, &one)], &[&x], true)?.remove(0).expect("a gradient");
    assert_eq!(first.to_vec::<f64>()?, [12.0, 3.0]);
    let second = gradients(&[(&first, &one)], &[&x], false)?.remove(0).expect("a gradient");
    assert_eq!(second.to_vec::<f64>()?, [12.0, -6.0]);
    Ok(())
}

#[test]
fn second_derivative_with_a_saved_result_is_an_error() -> Result<()> {
    let x = variable(&[1.0]);
    let y = Tensor::with_gradient(
        &[&x],
        |saved, x| {
            let y = x[0].exp()?;
            saved.push(y.clone());
            Ok(y)
        },
        |saved, grad| Ok(vec![Some(saved[0].mul(grad)?)]),
    )?;
    let one = Tensor::ones([1], DType::F64, &Device::Cpu)?;
    let error = gradients(&[(&y, &one)], &[&x], true).expect_err("y is no input");
    assert!(error.to_string().contains("with_gradient has no second derivative"), "{error}");
    y.backward_from(&one)?;
    assert_eq!(grad(&x), [1f64.exp()]);
    Ok(())
}

#[test]
fn write_to_a_saved_tensor_makes_the_backward_pass_an_error() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = cube(&x)?.sum_all()?;
    x.write::<f64>()?[0] = 5.0;
    let error = y.backward().expect_err("x was written to");
    assert!(error.to_string().contains("with_gradient saved a tensor of shape [2]"), "{error}");
    Ok(())
}

#[test]
fn gradients_of_wrong_number_or_shape_are_errors() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let of = |grads: fn(&Tensor) -> Result<Vec<Option<Tensor>>>| {
        Tensor::with_gradient(&[&x], |_, x| x[0].square(), move |_, grad| grads(grad))
            .and_then(|y| y.sum_all()?.backward())
            .expect_err("a wrong gradient")
            .to_string()
    };
    let none = of(|_| Ok(vec![]));
    assert!(none.contains("0 gradients for 1 inputs"), "{none}");
    let scalar = of(|grad| Ok(vec![Some(grad.sum_all()?)]));
    assert!(scalar.contains("input 0 must be f64[2]"), "{scalar}");
    let half = of(|grad| Ok(vec![Some(grad.to_dtype(DType::F16)?)]));
    assert!(half.contains("got gradient: f16[2]"), "{half}");
    Ok(())
}

#[test]
fn result_without_gradients_is_untracked() -> Result<()> {
    let x = variable(&[1.0]);
    assert!(!no_grad(|| cube(&x))?.requires_grad());
    assert!(!cube(&x.detach())?.requires_grad());
    let identity = Tensor::with_gradient(&[&x], |_, x| Ok(x[0].clone()), |_, _| Ok(vec![None]))?;
    assert!(identity.requires_grad() && !identity.is_variable());
    Ok(())
}

#[test]
fn hooks_replace_the_gradient_of_a_result_in_order() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = x.square()?;
    let seen = Arc::new(Mutex::new(vec![]));
    for factor in [10.0, 3.0] {
        let seen = seen.clone();
        y.register_hook(Box::new(move |grad| {
            seen.lock().expect("no panic").push(grad.to_vec::<f64>()?);
            grad.mul_scalar(factor).map(Some)
        }))?;
    }
    // Two uses of y: the hooks see the sum of their gradients, once.
    y.add(&y.mul_scalar(2.0)?)?.sum_all()?.backward()?;
    assert_eq!(*seen.lock().expect("no panic"), [vec![3.0, 3.0], vec![30.0, 30.0]]);
    assert_eq!(grad(&x), [180.0, 360.0]);
    Ok(())
}

#[test]
fn hook_on_a_variable_changes_what_is_accumulated() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    x.register_hook(Box::new(|grad| grad.mul_scalar(-1.0).map(Some)))?;
    let accumulated = Arc::new(Mutex::new(vec![]));
    let copy = accumulated.clone();
    x.register_post_accumulate_grad_hook(Box::new(move |grad| {
        copy.lock().expect("no panic").push(grad.to_vec::<f64>()?);
        Ok(())
    }))?;
    for _ in 0..2 {
        x.square()?.sum_all()?.backward()?;
    }
    assert_eq!(*accumulated.lock().expect("no panic"), [vec![-2.0, -4.0], vec![-4.0, -8.0]]);
    Ok(())
}

#[test]
fn gradients_calls_hooks_of_variables_and_results_once() -> Result<()> {
    let one = Tensor::ones([1], DType::F64, &Device::Cpu)?;
    let count = Arc::new(Mutex::new(0));
    let doubling = || {
        let count = count.clone();
        Box::new(move |grad: &Tensor| {
            *count.lock().expect("no panic") += 1;
            grad.mul_scalar(2.0).map(Some)
        })
    };
    let x = variable(&[3.0]);
    let y = x.square()?;
    x.register_hook(doubling())?;
    y.register_hook(doubling())?;
    let z = y.mul_scalar(5.0)?;
    // y lies on the path to x: its hook runs when it is differentiated.
    let grads = gradients(&[(&z, &one)], &[&x, &y], true)?;
    let values: Vec<f64> = grads.iter().flatten().map(|g| g.item()).collect::<Result<_>>()?;
    assert_eq!(values, [5.0 * 2.0 * 6.0 * 2.0, 5.0 * 2.0]);
    assert_eq!(*count.lock().expect("no panic"), 2);
    // The pass ends at y.
    let alone = gradients(&[(&z, &one)], &[&y], false)?.remove(0).expect("a gradient");
    assert_eq!((alone.item()?, *count.lock().expect("no panic")), (10.0, 3));
    Ok(())
}

#[test]
fn hook_with_a_gradient_of_another_shape_is_an_error() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = x.square()?;
    y.register_hook(Box::new(|grad| grad.sum_all().map(Some)))?;
    let error = y.sum_all()?.backward().expect_err("a scalar");
    assert!(error.to_string().contains("replacement: f64[]"), "{error}");
    assert!(x.detach().register_hook(Box::new(|_| Ok(None))).is_err(), "it requires no gradient");
    Ok(())
}
