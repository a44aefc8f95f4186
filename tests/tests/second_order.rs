//! Gradients of gradients: Hessian-vector products of every case of the table against finite differences of its gradients.
use fornax_engine::random::{Key, Stream};
use fornax_engine::{DType, Result, Tensor, gradients};
use fornax_tests::cases::{Case, all};

/// Operations that are differentiated once only; each says so in its error.
const ONCE: [&str; 1] = ["prod"];

/// What a case gives, flattened: for random vectors v and an upstream gradient u, by `create_graph`.
struct Twice {
    /// The gradients of `sum(y u)`.
    slope: Vec<f64>,
    /// The gradients of `sum(slope v)`: the Hessian of `sum(y u)` times v.
    product: Vec<f64>,
    /// The gradient of `sum(slope v)` with respect to u: what y changes by along v.
    along: Vec<f64>,
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_vec().expect("f64")
}

fn twice(case: &Case, x: &[Tensor], v: &[Tensor], u: &Tensor) -> Result<Twice> {
    let variables = variables(case, x);
    let slopes = gradients(&[(&(case.run)(x)?, u)], &variables, true)?;
    let slopes: Vec<Tensor> = slopes.into_iter().map(|g| g.expect("every input matters")).collect();
    let slope = slopes.iter().flat_map(values).collect();
    // A slope that depends on nothing has no gradient.
    let outputs: Vec<(&Tensor, &Tensor)> = slopes.iter().zip(v).filter(|(g, _)| g.requires_grad()).collect();
    let inputs: Vec<&Tensor> = variables.iter().copied().chain([u]).collect();
    let products = gradients(&outputs, &inputs, false)?;
    let flat = |(t, g): (&&Tensor, &Option<Tensor>)| g.as_ref().map_or(vec![0.0; t.numel()], values);
    let of = inputs.iter().zip(&products);
    let product = of.clone().take(variables.len()).flat_map(flat).collect();
    Ok(Twice { slope, product, along: of.skip(variables.len()).flat_map(flat).collect() })
}

/// The output, and by kernels the gradients of `sum(y u)`, flattened.
fn once(case: &Case, x: &[Tensor], u: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let y = (case.run)(x)?;
    let slopes = gradients(&[(&y, u)], &variables(case, x), false)?;
    Ok((values(&y), slopes.iter().flatten().flat_map(values).collect()))
}

fn variables<'a>(case: &Case, x: &'a [Tensor]) -> Vec<&'a Tensor> {
    x.iter().zip(&case.inputs).filter_map(|(t, input)| input.differentiable.then_some(t)).collect()
}

/// A random vector for a tensor.
fn vector(like: &Tensor, name: &str) -> Tensor {
    let mut draws = Stream::new(Key::new(7, name), 0, 0);
    let data: Vec<f64> = (0..like.numel()).map(|_| f64::from(draws.normal())).collect();
    Tensor::from_vec(data, *like.shape()).expect("fits")
}

fn expect_close(name: &str, what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: {what}");
    let scale = expected.iter().fold(1.0f64, |m, e| m.max(e.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= tolerance * scale;
        assert!(near, "{name}: {what}, element {i}: {got}, not {expected}");
    }
}

#[test]
fn hessian_vector_products_match_finite_differences() {
    const STEP: f64 = 1e-5;
    let (mut checked, mut bent) = (0, 0);
    for case in all().iter().filter(|c| !c.large && !ONCE.contains(&c.op)) {
        let name = case.name();
        let x = case.tensors(DType::F64).expect("makes its tensors");
        let y = (case.run)(&x).unwrap_or_else(|e| panic!("{name}: {e}"));
        let u = case.upstream(&y, DType::F64).expect("fits").variable();
        let v: Vec<Tensor> = variables(case, &x).iter().map(|t| vector(t, &name)).collect();
        let got = twice(case, &x, &v, &u).unwrap_or_else(|e| panic!("{name}: {e}"));

        let at = |by: f64| {
            for (t, v) in variables(case, &x).iter().zip(&v) {
                let moved = t.detach().add(&v.scale(by).expect("f64")).expect("one shape");
                t.copy_from(&moved).expect("one shape");
            }
            once(case, &x, &u).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (_, slope) = at(0.0);
        let (above, below) = (at(STEP), at(-2.0 * STEP));
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| (a - b) / (2.0 * STEP)).collect()
        };
        expect_close(&name, "a gradient that leaves a graph", &got.slope, &slope, 1e-12);
        let product = difference(&above.1, &below.1);
        expect_close(&name, "the Hessian times a vector", &got.product, &product, 1e-6);
        expect_close(&name, "the output along a vector", &got.along, &difference(&above.0, &below.0), 1e-6);
        checked += 1;
        bent += usize::from(product.iter().any(|p| p.abs() > 1e-3));
    }
    assert!(checked > 300 && bent > 150, "only {checked} cases were checked, {bent} of them not linear");
}
