//! Mixed precision of a run.
use crate::settings::{AmpDtype, ModelDtype, OptLevelArg, Settings};
use crate::{Error, Result};
use fornax_engine::DType;
use fornax_nn::{OptLevel, Precision};

/// Resolves `--amp`, `--amp-dtype`, `--opt-level` and `--model-dtype`: `--amp` is level O1, half-precision weights are O3; f16 is the
/// default dtype.
pub(super) fn resolve(given: &Settings) -> Result<Precision> {
    let weights = match given.model_dtype {
        Some(ModelDtype::Float16) => Some(DType::F16),
        Some(ModelDtype::Bfloat16) => Some(DType::BF16),
        Some(ModelDtype::Float32) | None => None,
    };
    if let Some(dtype) = weights {
        let level = given.opt_level.is_some_and(|level| level != OptLevelArg::O3);
        for (flag, contradicts) in [("--amp", given.amp == Some(true)), ("--opt-level", level)] {
            if contradicts {
                return Err(Error::usage(format!("{flag} contradicts --model-dtype"))
                    .because("AMP keeps f32 weights; --model-dtype rounds them")
                    .remedy("use one of the two"));
            }
        }
        return Ok(Precision::new(OptLevel::O3, dtype));
    }
    if given.model_dtype.is_some() && given.opt_level == Some(OptLevelArg::O3) {
        return Err(Error::usage("--opt-level O3 contradicts --model-dtype float32")
            .because("O3 rounds the weights to half precision")
            .remedy("use one of the two"));
    }
    let level = match (given.amp, given.opt_level) {
        (Some(true), Some(OptLevelArg::O0)) => {
            return Err(Error::usage("--amp contradicts --opt-level O0").remedy("use one of the two"));
        }
        (Some(false), Some(level)) if level != OptLevelArg::O0 => {
            return Err(Error::usage("--no-amp contradicts --opt-level").remedy("use one of the two"));
        }
        (_, Some(level)) => level.into(),
        (Some(true), None) => OptLevel::O1,
        _ => OptLevel::O0,
    };
    let half = match given.amp_dtype {
        Some(AmpDtype::Bfloat16) => DType::BF16,
        _ => DType::F16,
    };
    Ok(Precision::new(level, half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn model_dtype_is_level_o3_in_that_dtype() {
        let of = |given: Settings| Config::resolve(&given).map(|config| config.precision);
        let half = Settings { model_dtype: Some(ModelDtype::Bfloat16), ..Settings::default() };
        assert_eq!(of(half.clone()).expect("valid"), Precision::new(OptLevel::O3, DType::BF16));
        let full = Settings { model_dtype: Some(ModelDtype::Float32), ..Settings::default() };
        assert_eq!(of(full.clone()).expect("valid").half_dtype(), None);
        for contradiction in [
            Settings { amp: Some(true), ..half.clone() },
            Settings { opt_level: Some(OptLevelArg::O2), ..half },
            Settings { opt_level: Some(OptLevelArg::O3), ..full },
        ] {
            assert!(of(contradiction).expect_err("a contradiction").to_string().contains("--model-dtype"));
        }
    }
}
