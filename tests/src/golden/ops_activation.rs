//! Activations, their subgradients at kinks, softmax and log-softmax.
use super::run::{check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::{Activation, DType, Device, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "softmax" | "log_softmax" => {
            case.allow_params(&["dim"])?;
            let (dim, log) = (case.number("dim")? as isize, case.op() == "log_softmax");
            check_operation(case, dtype, |t| {
                let x = t.get("x");
                let axis = dim.rem_euclid(x.rank() as isize) as usize;
                Ok(vec![("y", if log { x.log_softmax(axis)? } else { x.softmax(axis)? })])
            })
        }
        op => {
            case.allow_params(&[])?;
            match op.strip_suffix("_kink") {
                Some(name) => kink(case, dtype, named(case, name)?),
                None => {
                    let f = named(case, op)?;
                    check_operation(case, dtype, |t| Ok(vec![("y", t.get("x").activate(f)?)]))
                }
            }
        }
    })
}

/// The activation of a name; a number after the last underscore is its parameter.
pub(super) fn named(case: &GoldenCase, name: &str) -> Result<Activation, String> {
    name.parse().map_err(|e| format!("{}: {e}", case.id()))
}

/// True if the numbers agree; never if one is NaN.
fn is_close(got: f64, expected: f64) -> bool {
    (got - expected).abs() <= 1e-6
}

/// Values and subgradients at the points where the function is not differentiable, which are inline in the JSON document.
fn kink(case: &GoldenCase, dtype: DType, f: Activation) -> Result<(), String> {
    let list = |key: &str| -> Result<Vec<f64>, String> {
        let values = case.json[key].as_array().ok_or_else(|| format!("{}: no {key}", case.id()))?;
        let number =
            |v: &serde_json::Value| v.as_f64().ok_or_else(|| format!("{}: {key} has {v}", case.id()));
        values.iter().map(number).collect()
    };
    let (points, values, gradients) = (list("x")?, list("y")?, list("dy_dx")?);
    let run = || -> fornax_engine::Result<(Vec<f64>, Vec<f64>)> {
        let x = Tensor::from_slice(&points, [points.len()])?
            .to_dtype(dtype)?
            .to_device(&case.topic.device)?
            .variable();
        let y = x.activate(f)?;
        y.sum_all()?.backward()?;
        let wide = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>();
        Ok((wide(&y)?, wide(&x.grad().expect("a variable"))?))
    };
    let (y, gradient) = run().map_err(|e| format!("{}: {e}", case.id()))?;
    for i in 0..points.len() {
        if !is_close(y[i], values[i]) || !is_close(gradient[i], gradients[i]) {
            return Err(format!(
                "{}: at {}: value {} and gradient {}, expected {} and {}",
                case.id(),
                points[i],
                y[i],
                gradient[i],
                values[i],
                gradients[i]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_not_close_to_a_number() {
        assert!(is_close(1.0, 1.0) && !is_close(1.0, 1.1));
        assert!(!is_close(f64::NAN, 1.0) && !is_close(1.0, f64::NAN));
    }
}
