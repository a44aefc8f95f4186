//! Comparison of a result with a stored tensor within the file's tolerance.
use super::{GoldenCase, StoredTensor};
use fornax_engine::{DType, Device, Tensor};
use std::fmt;

/// Element with the largest error outside the tolerance.
#[derive(Debug)]
pub struct Mismatch {
    name: String,
    index: usize,
    got: f64,
    expected: f64,
    outside: usize,
    of: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { name, index, got, expected, outside, of } = self;
        write!(
            f,
            "{name}: {outside} of {of} values are outside the tolerance; worst at {index}: got {got:e}, expected {expected:e}"
        )
    }
}

impl GoldenCase<'_> {
    /// Checks `got`, in the stored layout, against the topic's tensor `name`, within this case's tolerance.
    pub fn check_named(&self, name: &str, got: &Tensor) -> Result<(), String> {
        self.check_with_slack(name, got, 0.0)
    }

    /// As [`GoldenCase::check_named`], with `slack` times the norm of the expected tensor added to the tolerance.
    pub fn check_with_slack(&self, name: &str, got: &Tensor, slack: f64) -> Result<(), String> {
        let expected = self.topic.tensor(name)?;
        let fail = |what: String| Err(format!("{}: {what}", self.id()));
        if got.dims() != expected.shape {
            return fail(format!("{name}: shape {:?}, expected {:?}", got.dims(), expected.shape));
        }
        let tol = &self.json["tol"][name];
        let bound = |key: &str| tol[key].as_f64();
        // Integer results have no tolerance: they are exact.
        let (atol, rtol) = (bound("atol").unwrap_or(0.0), bound("rtol").unwrap_or(0.0));
        if tol.is_null() && got.dtype().is_float() {
            return fail(format!("{name}: a float result without a tolerance"));
        }
        let norm = expected.data.iter().map(|v| v * v).sum::<f64>().sqrt();
        match compare(name, got, expected, atol + slack * norm, rtol) {
            Ok(None) => Ok(()),
            Ok(Some(mismatch)) => fail(mismatch.to_string()),
            Err(e) => fail(e),
        }
    }

    /// Checks `got` against another tensor, within this case's tolerance for the topic's tensor `name`.
    pub fn check_against(&self, name: &str, got: &Tensor, expected: &Tensor) -> Result<(), String> {
        let say = |e: fornax_engine::Error| format!("{}: {name}: {e}", self.id());
        if got.dims() != expected.dims() {
            return Err(format!(
                "{}: {name}: shape {:?}, expected {:?}",
                self.id(),
                got.dims(),
                expected.dims()
            ));
        }
        let data = expected.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F64));
        let data = data.and_then(|t| t.to_vec::<f64>()).map_err(say)?;
        let expected = StoredTensor { dtype: expected.dtype(), shape: expected.dims().to_vec(), data };
        let tol = &self.json["tol"][name];
        let bound = |key: &str| tol[key].as_f64().ok_or_else(|| format!("{}: {name}: no {key}", self.id()));
        match compare(name, got, &expected, bound("atol")?, bound("rtol")?)? {
            None => Ok(()),
            Some(mismatch) => Err(format!("{}: {mismatch}", self.id())),
        }
    }

    /// Checks `got` against the tensor of `role` in `map`.
    pub fn check(&self, map: &str, role: &str, got: &Tensor) -> Result<(), String> {
        let name = self.json[map][role]
            .as_str()
            .ok_or_else(|| format!("{}: the file has no {map}.{role}", self.id()))?;
        self.check_named(name, got)
    }
}

fn compare(
    name: &str,
    got: &Tensor,
    expected: &StoredTensor,
    atol: f64,
    rtol: f64,
) -> Result<Option<Mismatch>, String> {
    let got = got
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64))
        .and_then(|t| t.to_vec::<f64>())
        .map_err(|e| e.to_string())?;
    let mut worst: Option<(f64, usize)> = None;
    let mut outside = 0;
    for (i, (g, e)) in got.iter().zip(&expected.data).enumerate() {
        let excess = (g - e).abs() - (atol + rtol * e.abs());
        // Comparisons with NaN are false, so it counts as outside.
        if g == e || excess <= 0.0 {
            continue;
        }
        outside += 1;
        let excess = if excess.is_nan() { f64::INFINITY } else { excess };
        if worst.is_none_or(|(w, _)| excess > w) {
            worst = Some((excess, i));
        }
    }
    Ok(worst.map(|(_, index)| Mismatch {
        name: name.into(),
        index,
        got: got[index],
        expected: expected.data[index],
        outside,
        of: got.len(),
    }))
}
