//! All checks of a custom operation.
use super::{
    CheckError, CheckResult, check_capture, check_devices, gradcheck, gradgradcheck, tolerance, values, worst,
};
use crate::op::CustomOp;
use crate::{Result, Tensor};

/// Every check of a custom operation on these operands: the first result against its composition, [`gradcheck`], with a composition
/// [`gradgradcheck`], [`check_devices`], and [`check_capture`] if it can be captured. `make` builds the operation.
///
/// Errors: the first check that fails, with its name.
pub fn check_op<O: CustomOp>(make: impl Fn() -> O, operands: &[&Tensor]) -> CheckResult {
    let named = |name: &str, result: CheckResult| {
        result.map_err(|error| CheckError(format!("{}: {name}: {error}", O::NAME)))
    };
    let first = |x: &[Tensor]| -> Result<Tensor> { Ok(all(&make, x)?.swap_remove(0)) };
    if let Some(composition) = make().composition() {
        let handles: Vec<Tensor> = operands.iter().map(|t| t.detach()).collect();
        let (y, expected) = (first(&handles)?, composition(&make(), &handles)?);
        let (got, expected) = (values(&y)?, values(&expected)?);
        if got.len() != expected.len() {
            return named("composition", Err(CheckError("it has another shape".into())));
        }
        if let Some(at) = worst(&got, &expected, tolerance(y.dtype())) {
            let why = format!("element {at} is {}, the composition's {}", got[at], expected[at]);
            return named("composition", Err(CheckError(why)));
        }
    }
    named("gradcheck", gradcheck(first, operands))?;
    if make().composition().is_some() {
        named("gradgradcheck", gradgradcheck(first, operands))?;
    }
    named("check_devices", check_devices(|x| all(&make, x), operands))?;
    match O::CAPTURABLE {
        true => named("check_capture", check_capture(|x| all(&make, x), operands)),
        false => Ok(()),
    }
}

fn all<O: CustomOp>(make: impl Fn() -> O, x: &[Tensor]) -> Result<Vec<Tensor>> {
    make().apply(&x.iter().collect::<Vec<_>>())
}
