//! `gradients`: its results, retaining and freeing of the graph, errors, and higher-order derivatives.
use fornax_engine::{Activation, Error, Result, Tensor, checkpoint, gradients};

fn variable(data: &[f64]) -> Tensor {
    Tensor::from_slice(data, [data.len()]).expect("fits").variable()
}

fn ones(like: &Tensor) -> Tensor {
    Tensor::ones(*like.shape(), like.dtype(), &like.device()).expect("memory")
}

fn gradient(y: &Tensor, x: &Tensor, create_graph: bool) -> Result<Tensor> {
    Ok(gradients(&[(y, &ones(y))], &[x], create_graph)?.remove(0).expect("y depends on x"))
}

#[test]
fn gradients_are_returned_and_not_accumulated() -> Result<()> {
    let (a, b, c) = (variable(&[1.0, 2.0]), variable(&[3.0, 4.0]), variable(&[5.0]));
    let middle = a.mul(&b)?;
    let y = middle.square()?.sum_all()?;
    let one = ones(&y);
    let grads = gradients(&[(&y, &one), (&y, &one)], &[&a, &middle, &c], false)?;
    let values: Vec<Option<Vec<f64>>> =
        grads.iter().map(|g| g.as_ref().map(|g| g.to_vec().expect("f64"))).collect();
    // Two outputs add up; an intermediate result has a gradient like a variable; nothing depends on c.
    assert_eq!(values, [Some(vec![36.0, 128.0]), Some(vec![12.0, 32.0]), None]);
    assert!(a.grad().is_none() && b.grad().is_none());
    Ok(())
}

#[test]
fn polynomial_has_derivatives_of_every_order() -> Result<()> {
    let x = variable(&[2.0, -1.0]);
    let mut y = x.powf(4.0)?;
    for expected in [[32.0, -4.0], [48.0, 12.0], [48.0, -24.0], [24.0, 24.0], [0.0, 0.0]] {
        y = gradient(&y, &x, true)?;
        let got = y.to_vec::<f64>()?;
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-9), "{got:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn create_graph_retains_the_graph() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = x.square()?.sum_all()?;
    let first = gradient(&y, &x, true)?;
    assert!(first.requires_grad());
    assert!(!gradient(&y, &x, false)?.requires_grad());
    let error = gradient(&y, &x, true).expect_err("freed").to_string();
    assert!(error.contains("already differentiated"), "{error}");
    assert_eq!(gradient(&first, &x, false)?.to_vec::<f64>()?, [2.0, 2.0], "the gradient has its own graph");
    Ok(())
}

#[test]
fn gradients_that_do_not_exist_are_errors() -> Result<()> {
    let (x, constant) = (variable(&[1.0, 2.0]), variable(&[3.0]).detach());
    let y = x.prod(0)?;
    let error = gradient(&y, &constant, false).expect_err("not differentiable");
    assert!(matches!(error, Error::Autograd { .. }) && error.to_string().contains("input 0"), "{error}");
    assert!(matches!(gradients(&[(&y, &x)], &[&x], false), Err(Error::Shape { .. })));
    assert_eq!(gradient(&y, &x, false)?.to_vec::<f64>()?, [2.0, 1.0]);
    Ok(())
}

#[test]
fn checkpoint_has_the_derivatives_of_its_function() -> Result<()> {
    let (x, w) = (variable(&[0.3, -0.7, 1.1]), variable(&[1.5, -0.4, 0.8]));
    let f = |x: &Tensor, w: &Tensor| x.mul(w)?.tanh()?.mul(w);
    let second = |y: Tensor| -> Result<Vec<Vec<f64>>> {
        let y = y.square()?.sum_all()?;
        let first = gradients(&[(&y, &ones(&y))], &[&x, &w], true)?;
        let first: Vec<Tensor> = first.into_iter().map(|g| g.expect("matters")).collect();
        let outputs: Vec<(&Tensor, &Tensor)> = first.iter().zip([&w, &x]).collect();
        let second = gradients(&outputs, &[&x, &w], false)?;
        first.iter().chain(second.iter().flatten()).map(Tensor::to_vec).collect()
    };
    let inner = w.clone();
    let plain = f(&x.mul_scalar(2.0)?, &w)?;
    let checkpointed = checkpoint(&x.mul_scalar(2.0)?, std::slice::from_ref(&w), move |x, _| f(x, &inner))?;
    let (plain, checkpointed) = (second(plain)?.concat(), second(checkpointed)?.concat());
    assert_eq!((plain.len(), checkpointed.len()), (12, 12));
    // Sums add up in another order.
    assert!(
        plain.iter().zip(&checkpointed).all(|(a, b)| (a - b).abs() < 1e-12),
        "{checkpointed:?}, not {plain:?}"
    );
    Ok(())
}

/// The third derivative of every activation against finite differences of the second.
#[test]
fn third_derivatives_of_activations_match_finite_differences() -> Result<()> {
    use Activation::*;
    const STEP: f64 = 1e-5;
    for f in [Silu, Gelu, GeluTanh, QuickGelu, HardSwish, Sigmoid, Mish, Tanh, Elu(0.7), Softplus, Selu, Exp]
    {
        let second = |at: &Tensor| gradient(&gradient(&at.activate(f)?, at, true)?, at, true);
        let x = [-2.2, -0.6, 0.3, 1.7];
        let point = variable(&x);
        let third = gradient(&second(&point)?, &point, false)?.to_vec::<f64>()?;
        let at = |by: f64| second(&variable(&x.map(|x| x + by)))?.to_vec::<f64>();
        for (i, (above, below)) in at(STEP)?.iter().zip(at(-STEP)?).enumerate() {
            let expected = (above - below) / (2.0 * STEP);
            assert!((third[i] - expected).abs() < 1e-6, "{f:?} at {}: {}, not {expected}", x[i], third[i]);
        }
    }
    Ok(())
}

#[test]
fn deep_graph_is_dropped_without_stack_overflow() -> Result<()> {
    let mut y = variable(&[1.0]);
    for _ in 0..100_000 {
        y = y.mul(&y)?.sqrt()?;
    }
    drop(y);
    Ok(())
}
