//! Optimizer arguments: parsing, defaults and checks.
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Value of an optimizer argument in `--opt-kwargs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KwargValue {
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `none`, for optional arguments.
    None,
}

impl FromStr for KwargValue {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<KwargValue, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(KwargValue::Bool(true)),
            "false" => Ok(KwargValue::Bool(false)),
            "none" => Ok(KwargValue::None),
            text => match text.parse() {
                Ok(number) => Ok(KwargValue::Number(number)),
                Err(_) => Err(format!("{text:?} is not a number, true, false or none")),
            },
        }
    }
}

impl fmt::Display for KwargValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KwargValue::Number(number) => write!(f, "{number}"),
            KwargValue::Bool(flag) => write!(f, "{flag}"),
            KwargValue::None => write!(f, "none"),
        }
    }
}

/// Options of an optimizer; `None` stands for the optimizer's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerOptions {
    /// Peak learning rate of the run, needed by corrected weight decay only; each update gets its learning rate separately.
    pub lr: Option<f64>,
    /// Momentum.
    pub momentum: Option<f64>,
    /// Epsilon in the denominator.
    pub eps: Option<f64>,
    /// Betas: decay rates of the moments.
    pub betas: Option<Vec<f64>>,
    /// Further arguments by name (`--opt-kwargs`).
    pub kwargs: BTreeMap<String, KwargValue>,
}

/// Arguments of one optimizer: given by the user, else the registry's defaults, else the formula's. It records which arguments the formula
/// reads, so that an argument that nothing reads is an error.
pub(super) struct Arguments<'a> {
    name: &'a str,
    options: &'a OptimizerOptions,
    defaults: &'a [(&'a str, f64)],
    requested: Vec<(&'static str, String)>,
    resolved: OptimizerOptions,
    error: Option<Error>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(name: &'a str, options: &'a OptimizerOptions, defaults: &'a [(&'a str, f64)]) -> Self {
        Arguments { name, options, defaults, requested: vec![], resolved: options.clone(), error: None }
    }

    /// Reads a number.
    pub(super) fn number(&mut self, name: &'static str, default: f64) -> f64 {
        self.optional(name, Some(default)).unwrap_or_else(|| {
            self.reject(name, "it cannot be none".into());
            default
        })
    }

    /// Reads a number or `none`.
    pub(super) fn optional(&mut self, name: &'static str, default: Option<f64>) -> Option<f64> {
        let default = self.default(name).or(default);
        self.record_request(name, default.map_or(KwargValue::None, KwargValue::Number));
        let value = match self.given(name) {
            None => default,
            Some(KwargValue::Number(number)) => Some(number),
            Some(KwargValue::None) => None,
            Some(KwargValue::Bool(_)) => {
                self.reject(name, "it must be a number or none".into());
                default
            }
        };
        match name {
            "momentum" => self.resolved.momentum = value,
            "eps" => self.resolved.eps = value,
            _ => {}
        }
        value
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let default = self.default(name).map_or(default, |value| value != 0.0);
        self.record_request(name, KwargValue::Bool(default));
        match self.given(name) {
            None => default,
            Some(KwargValue::Bool(flag)) => flag,
            Some(_) => {
                self.reject(name, "it must be true or false".into());
                default
            }
        }
    }

    /// Reads the betas, in `[0, 1)`.
    pub(super) fn betas<const N: usize>(&mut self, default: [f64; N]) -> [f64; N] {
        self.requested.push(("betas", default.map(|b| b.to_string()).join(" ")));
        let Some(betas) = &self.options.betas else {
            self.resolved.betas = Some(default.to_vec());
            return default;
        };
        match betas[..].try_into() {
            Ok(betas) => betas,
            Err(_) => {
                self.reject("betas", format!("there are {N}, but {} are given", betas.len()));
                default
            }
        }
    }

    /// As [`Arguments::betas`], for a formula with optional betas.
    pub(super) fn optional_betas<const N: usize>(&mut self) -> Option<[f64; N]> {
        if self.options.betas.is_some() {
            return Some(self.betas([0.0; N]));
        }
        self.requested.push(("betas", "none".into()));
        None
    }

    /// The peak learning rate if weight decay is corrected: weight decay then follows the square of the learning rate, as does the effect
    /// of a gradient on normalised weights (Defazio, "Why gradients rapidly increase near the end of training", 2025).
    pub(super) fn peak_lr(&mut self) -> Option<f64> {
        if !self.flag("corrected_weight_decay", false) {
            return None;
        }
        match self.options.lr.filter(|lr| *lr > 0.0) {
            Some(lr) => Some(lr),
            None => {
                self.reject("corrected_weight_decay", "it needs the run's highest learning rate".into());
                Some(1.0)
            }
        }
    }

    /// The options with momentum, eps and betas resolved. Errors on a wrong value and on an argument that nothing reads.
    pub(super) fn finish(self) -> Result<OptimizerOptions> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let options = self.options;
        let named = [
            ("--momentum", "momentum", options.momentum.is_some()),
            ("--opt-eps", "eps", options.eps.is_some()),
            ("--opt-betas", "betas", options.betas.is_some()),
        ];
        let kwargs = options.kwargs.keys().map(|name| ("--opt-kwargs", name.as_str(), true));
        let unknown = |name: &str| self.requested.iter().all(|(requested, _)| *requested != name);
        let Some((flag, name, _)) =
            named.into_iter().chain(kwargs).find(|(_, name, given)| *given && unknown(name))
        else {
            return Ok(self.resolved);
        };
        let requested: Vec<String> =
            self.requested.iter().map(|(name, default)| format!("{name}={default}")).collect();
        Err(Error::usage(format!("{} has no {name}", self.name)).at(flag).because(
            match requested.is_empty() {
                true => "it has no arguments".into(),
                false => format!("its arguments and their defaults are {}", requested.join(", ")),
            },
        ))
    }

    fn default(&self, name: &str) -> Option<f64> {
        let default = self.defaults.iter().find(|(known, _)| *known == name)?;
        Some(default.1)
    }

    fn given(&self, name: &str) -> Option<KwargValue> {
        let named = match name {
            "momentum" => self.options.momentum,
            "eps" => self.options.eps,
            _ => None,
        };
        named.map(KwargValue::Number).or_else(|| self.options.kwargs.get(name).copied())
    }

    fn record_request(&mut self, name: &'static str, default: KwargValue) {
        self.requested.push((name, default.to_string()));
    }

    /// Records an error about an argument's value; [`Arguments::finish`] returns the first.
    pub(super) fn reject(&mut self, name: &str, why: String) {
        let flag = match name {
            "momentum" => "--momentum",
            "eps" => "--opt-eps",
            "betas" => "--opt-betas",
            _ => "--opt-kwargs",
        };
        let error = Error::usage(format!("invalid value of {name} for the optimizer {}", self.name))
            .at(flag)
            .because(why);
        self.error.get_or_insert(error);
    }
}
